//! Tests an engine behind an access filter (field report F06). Calls that the filter refuses are known before any
//! container is changed, and the reason contains the call. The filter is a TCP proxy that answers like `HAProxy`,
//! unless a case says otherwise.

use imagewatch_tests::engine::RunSpec;
use imagewatch_tests::proxy::{Filter, Proxy};
use imagewatch_tests::wait::wait_for;

use crate::stage::{LONG_TIMEOUT, SHORT_TIMEOUT, Stage, run_to_end, watch_with};

/// Runs `imagewatch check` through `proxy` and returns the output.
async fn check(stage: &Stage, proxy: &Proxy) -> String {
    let manifest = stage.folder.path().join("all.json");
    run_to_end(&proxy.host(), &["check", "--json", manifest.to_str().expect("the path is UTF-8")], &[]).await.1
}

/// A container `web` on two networks with a restart policy, and a proxy with `filter` in front of the engine.
async fn filtered(filter: Filter) -> (Stage, Proxy) {
    let stage = Stage::new().await;
    stage.push("web", "v1").await;
    let [front, back] = ["front", "back"].map(|name| stage.scope.name(name));
    for network in [&front, &back] {
        stage.scope.create_network(network).await;
    }
    let web = RunSpec {
        image: stage.image("web"),
        network: Some(front),
        more_networks: vec![back],
        restart_policy: Some("unless-stopped".to_owned()),
        ..RunSpec::default()
    };
    stage.run_as("web", web).await;
    stage.write(&stage.manifest().config("containers", "labelled"), "all");
    let proxy = Proxy::to_engine_over_tcp(stage.scope.engine().host()).await;
    proxy.set_filter(filter);
    (stage, proxy)
}

/// Refuses `GET /info` and all other calls that are not needed.
fn usual(method: &str, path: &str) -> bool {
    let is_read = matches!(method, "GET" | "HEAD");
    is_read && ["/version", "/_ping", "/events"].contains(&path)
        || ["/containers", "/images", "/networks"].iter().any(|section| path.starts_with(section))
}

#[tokio::test(flavor = "multi_thread")]
async fn f06_usual_calls_that_are_not_needed_may_be_refused() {
    let (stage, proxy) = filtered(Filter::with_page(usual)).await;
    let daemon = watch_with(&proxy.host(), &[stage.folder.path().join("all.json")], &[]);
    daemon.wait_for_line("first seen").await;
    let v2 = stage.push("web", "v2").await;
    stage.wait_until_on("web", &v2, LONG_TIMEOUT).await;
    wait_for("the old container to be removed", SHORT_TIMEOUT, || async {
        let containers = stage.containers().await;
        if containers == [stage.scope.name("web")] { Ok(()) } else { Err(containers) }
    })
    .await;
    assert_eq!(daemon.count("was refused by"), 0, "{:#?}", daemon.process.lines());
}

#[tokio::test(flavor = "multi_thread")]
async fn f06_a_refused_call_is_reported_and_nothing_is_changed() {
    let page = Filter::with_page;
    let words = |allows, body| Filter { allows, status: 403, body };
    let cases: [(&str, Filter, &str); 9] = [
        (
            "noconnect",
            page(|_, path| !(path.starts_with("/networks/") && path.ends_with("/connect"))),
            "POST /networks/*/connect",
        ),
        (
            "nodisconnect",
            page(|_, path| !(path.starts_with("/networks/") && path.ends_with("/disconnect"))),
            "POST /networks/*/disconnect",
        ),
        ("noupdate", page(|_, path| !path.ends_with("/update")), "POST /containers/*/update"),
        ("norename", page(|_, path| !path.ends_with("/rename")), "POST /containers/*/rename"),
        ("nostart", page(|_, path| !path.ends_with("/start")), "POST /containers/*/start"),
        // These rows are not in the report:
        ("nodelete", page(|method, _| method != "DELETE"), "DELETE /containers/*"),
        ("nopull", page(|_, path| path != "/images/create"), "POST /images/create"),
        (
            "nostart in JSON",
            words(|_, path| !path.ends_with("/start"), r#"{"message":"denied by plugin"}"#),
            "POST /containers/*/start",
        ),
        ("read only, in plain text", words(|method, _| method == "GET", "Forbidden\n"), "POST /containers/create"),
    ];
    for (case, filter, call) in cases {
        let (stage, proxy) = filtered(filter).await;
        let before = stage.container("web").await.expect("the container exists");
        let daemon = watch_with(&proxy.host(), &[stage.folder.path().join("all.json")], &[]);
        let warning = daemon.wait_for_line(&format!("{call} was refused by a proxy or plugin")).await;
        assert!(warning.contains("WARN"), "{case}: before any container changes: {warning}");
        daemon.wait_for_line("first seen").await;
        stage.push("web", "v2").await;
        let shown = wait_for(&format!("{case}: a check to name the call"), SHORT_TIMEOUT, || async {
            let shown = check(&stage, &proxy).await;
            if shown.contains(&format!("{call} was refused by")) { Ok(shown) } else { Err(shown) }
        })
        .await;
        assert!(shown.contains(&stage.scope.name("web")), "{case}: {shown}");
        assert_eq!(stage.container("web").await, Some(before), "{case}: the container must not change");
        assert_eq!(stage.containers().await, [stage.scope.name("web")], "{case}: no other container remains");
        for touching in ["/stop", "/containers/create", "/images/create"] {
            assert_eq!(proxy.count(touching), 0, "{case}: {touching}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn f06_check_shows_a_container_that_could_not_be_restarted() {
    let (stage, proxy) = filtered(Filter::with_page(|_, _| true)).await;
    let daemon = watch_with(&proxy.host(), &[stage.folder.path().join("all.json")], &[]);
    daemon.wait_for_line("first seen").await;
    let web = stage.scope.name("web");
    let stop = format!("/containers/{}/stop", stage.container("web").await.expect("the container exists").id);
    let hold = proxy.hold(&stop);
    stage.push("web", "v2").await;
    wait_for("the stop", SHORT_TIMEOUT, || async {
        if proxy.count(&stop) == 1 { Ok(()) } else { Err(daemon.process.lines()) }
    })
    .await;
    proxy.set_filter(Filter::with_page(|_, path| !path.ends_with("/start")));
    drop(hold);
    daemon.process.wait_for_line("could not be brought back yet", LONG_TIMEOUT).await;
    let shown = check(&stage, &proxy).await;
    assert!(shown.contains(&web) && shown.contains("imagewatch stopped it to replace it"), "{shown}");
    proxy.set_filter(Filter::with_page(|_, _| true));
    wait_for("the container to run again", LONG_TIMEOUT, || async {
        let now = stage.container("web").await;
        if now.as_ref().is_some_and(|now| now.is_running) { Ok(()) } else { Err((now, daemon.process.lines())) }
    })
    .await;
}
