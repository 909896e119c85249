//! What the labels of a container permit and forbid, whatever the policy ordered.

use super::*;

/// Runs an order over `ws-1` with `labels`, created with `--rm` or not, and `ws-2` without labels.
async fn ordered(labels: Value, is_rm: bool, strategy: Strategy) -> (Report, Vec<String>) {
    let engine = engine().await;
    let id = engine.inspections()["ws-1"]["Id"].as_str().unwrap().to_owned();
    engine.edit(&id, |c| {
        c["Config"]["Labels"] = labels.clone();
        c["HostConfig"]["AutoRemove"] = json!(is_rm);
    });
    let report = run_alone(&context(&engine), &Order { strategy, ..order() }).await;
    (report, engine.overview())
}

#[tokio::test]
async fn f10_a_container_that_opts_out_is_left_alone_in_whatever_words_it_says_so() {
    for value in ["false", "False", "FALSE", "0", "no", "off", "f", "False ", "n", " OFF"] {
        for strategy in [Strategy::Replace, Strategy::StartFirst, Strategy::Remove] {
            let (report, overview) = ordered(json!({ "imagewatch.enable": value }), false, strategy).await;
            assert!(overview.contains(&"ws-1 old running".to_owned()), "{value:?} {strategy:?}: {overview:?}");
            assert_eq!(
                (report.recreated, report.failed),
                (vec!["ws-2".to_owned()], Vec::new()),
                "{value:?} {strategy:?}"
            );
        }
    }
}

#[tokio::test]
async fn f10_a_label_that_cannot_be_read_or_is_unknown_refuses_the_container_and_is_named() {
    for (name, value, says) in [
        ("imagewatch.enable", "disabled", "write true or false"),
        ("imagewatch.enable", "", "write true or false"),
        ("imagewatch.allow-rm", "sure", "imagewatch.allow-rm is \"sure\""),
        ("imagewatch.carry-nothing", "nothing", "imagewatch.carry-nothing is"),
        ("imagewatch.updater", "maybe", "imagewatch.updater is"),
        ("imagewatch.shared-volumes-safe", "safe", "imagewatch.shared-volumes-safe is"),
        ("imagewatch.stratgey", "notify", "nearest known label is imagewatch.strategy"),
        ("imagewatch.enabled", "false", "nearest known label is imagewatch.enable"),
        ("imagewatch.probe", "80", "write tcp:PORT"),
    ] {
        for strategy in [Strategy::Replace, Strategy::Remove] {
            let (report, overview) = ordered(json!({ name: value }), false, strategy).await;
            assert!(overview.contains(&"ws-1 old running".to_owned()), "{name}={value:?} {strategy:?}: {overview:?}");
            let [failure] = &report.failed[..] else { panic!("{name}={value:?}: {report:?}") };
            assert_eq!((failure.container.as_str(), failure.fault), ("ws-1", Some(Fault::Refused)), "{name}={value:?}");
            assert!(failure.reason.contains(says), "{name}={value:?}: {}", failure.reason);
        }
    }
}

#[tokio::test]
async fn f10_what_a_label_permits_is_permitted_in_the_same_words() {
    for (value, is_permitted) in [
        ("true", true),
        ("True", true),
        ("1", true),
        ("YES", true),
        ("on ", true),
        ("false", false),
        ("0", false),
        ("Off", false),
    ] {
        let (report, _) = ordered(json!({ "imagewatch.allow-rm": value }), true, Strategy::Replace).await;
        assert_eq!(report.recreated.contains(&"ws-1".to_owned()), is_permitted, "{value:?}: {report:?}");
    }
}
