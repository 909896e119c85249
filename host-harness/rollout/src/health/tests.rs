#![allow(clippy::unwrap_used, clippy::panic)]

use serde_json::json;

use super::*;
use imagewatch_engine::testing::MemoryEngine;

fn gate() -> HealthGate {
    HealthGate { stable_for: Duration::from_secs(10), limit: None, probe: None, prior_health: None, is_podman: false }
}

fn started() -> Value {
    json!("2026-11-21T12:00:00Z")
}

fn container(state: &Value, check: &Value) -> Value {
    let mut whole = json!({ "Running": true, "Status": "running", "StartedAt": started(), "ExitCode": 0 });
    for (key, value) in state.as_object().into_iter().flatten() {
        whole[key] = value.clone();
    }
    json!({ "State": whole, "Config": { "Healthcheck": check }, "RestartCount": 0 })
}

#[test]
fn t21_a_container_is_judged_by_its_own_health_check_or_by_staying_up() {
    let checked = json!({ "Test": ["CMD", "true"] });
    let disabled = json!({ "Test": ["NONE"] });
    let health = |status: &str| json!({ "Health": { "Status": status, "Log": [{ "Output": "no answer\n" }] } });
    let early = Duration::from_secs(5);
    let late = Duration::from_secs(10);
    for (case, state, check, elapsed, expected) in [
        ("up, too early", json!({}), json!(null), early, Verdict::Wait("it has not been up for long enough")),
        ("up for long enough", json!({}), json!(null), late, Verdict::Pass),
        ("healthy at once", health("healthy"), checked.clone(), early, Verdict::Pass),
        ("starting", health("starting"), checked.clone(), late, Verdict::Wait("it is not healthy yet")),
        (
            "unhealthy",
            health("unhealthy"),
            checked.clone(),
            early,
            Verdict::Fail("it is unhealthy: no answer".to_owned()),
        ),
        ("health check switched off", health("unhealthy"), disabled, late, Verdict::Pass),
        (
            "unhealthy, and says what deceives",
            json!({ "Health": { "Status": "unhealthy", "Log": [{ "Output": "a\u{202e}b\u{1b}[2J\nc" }] } }),
            checked.clone(),
            early,
            Verdict::Fail("it is unhealthy: a b [2J".to_owned()),
        ),
        (
            "exited",
            json!({ "Running": false, "ExitCode": 3 }),
            json!(null),
            early,
            Verdict::Fail("it exited with code 3".to_owned()),
        ),
        (
            "exited well, which a service does not",
            json!({ "Running": false }),
            json!(null),
            early,
            Verdict::Fail("it exited with code 0".to_owned()),
        ),
        (
            "exited with a check that says healthy",
            json!({ "Running": false, "Health": { "Status": "healthy" } }),
            checked,
            early,
            Verdict::Fail("it exited with code 0".to_owned()),
        ),
        (
            "crash loop caught running",
            json!({ "Restarting": true, "ExitCode": 1 }),
            json!(null),
            late,
            Verdict::Fail("it exited with code 1 and is being restarted".to_owned()),
        ),
        (
            "restarted unseen, where nobody counts",
            json!({ "StartedAt": "later" }),
            json!(null),
            late,
            Verdict::Fail("it exited and was restarted".to_owned()),
        ),
        (
            "out of memory",
            json!({ "OOMKilled": true, "Running": false }),
            json!(null),
            early,
            Verdict::Fail("it ran out of memory".to_owned()),
        ),
    ] {
        assert_eq!(gate().judge(&container(&state, &check), &started(), elapsed), expected, "{case}");
    }
    let mut restarted = container(&json!({}), &json!(null));
    restarted["RestartCount"] = json!(1);
    assert!(matches!(gate().judge(&restarted, &started(), late), Verdict::Fail(_)), "restart count");
}

#[test]
fn a_successor_need_not_be_better_than_an_ill_predecessor_but_no_worse() {
    let late = Duration::from_secs(10);
    let check = json!({ "Test": ["CMD", "true"] });
    let state = |restarting: bool, running: bool, health: &str| {
        container(&json!({ "Restarting": restarting, "Running": running, "Health": { "Status": health } }), &check)
    };
    for (case, was, now, passes) in [
        ("as unhealthy as before", PriorHealth::Unhealthy, state(false, true, "unhealthy"), true),
        ("dead, where it was only unhealthy", PriorHealth::Unhealthy, state(false, false, "unhealthy"), false),
        ("restarting, where it was only unhealthy", PriorHealth::Unhealthy, state(true, true, "starting"), false),
        ("restarting as before", PriorHealth::Restarting, state(true, true, "starting"), true),
        ("between two starts as before", PriorHealth::Restarting, state(false, false, "starting"), true),
        ("unhealthy, where it only did not answer", PriorHealth::Silent, state(false, true, "unhealthy"), false),
        ("dead, where it only did not answer", PriorHealth::Silent, state(false, false, "healthy"), false),
        ("healthy, where it did not answer", PriorHealth::Silent, state(false, true, "healthy"), true),
    ] {
        let gate = HealthGate { prior_health: Some(was), ..gate() };
        assert_eq!(gate.judge(&now, &started(), late) == Verdict::Pass, passes, "{case}");
    }
    for (state, expected) in [
        (json!({ "Restarting": true }), Some(PriorHealth::Restarting)),
        (json!({ "Health": { "Status": "unhealthy" } }), Some(PriorHealth::Unhealthy)),
        (json!({ "Health": { "Status": "starting" } }), None),
        (json!({ "Running": true }), None),
    ] {
        assert_eq!(illness(&json!({ "State": state })), expected, "{state}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_is_never_answered_is_the_images_fault_and_an_undecided_engine_is_not() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let check = json!({ "Test": ["CMD", "true"] });
    let two_seconds = Some(Duration::from_secs(2));
    for (case, behaves, check, limit, is_failed, says) in [
        ("no health check", "runs", json!(null), None, true, "its probe does not answer"),
        ("no health check, a short wait", "runs", json!(null), two_seconds, true, "its probe does not answer"),
        ("healthy", "healthy", check.clone(), None, true, "its probe does not answer"),
        ("healthy, a short wait", "healthy", check.clone(), two_seconds, true, "its probe does not answer"),
        ("starting", "starting", check.clone(), None, false, "it is not healthy yet"),
        ("starting, a short wait", "starting", check, two_seconds, false, "after 2 s it is not healthy yet"),
    ] {
        let engine = MemoryEngine::new();
        engine.add_image("example.com/app:1", &json!({ "Id": "app", "Behaves": behaves }));
        let body = json!({ "HostConfig": { "NetworkMode": "host" }, "Healthcheck": check });
        let id = engine.add_container("web", "example.com/app:1", body, true).await;
        let gate = HealthGate { probe: Some(Probe::Tcp(closed)), limit, ..gate() };
        let (failed, reason) = match gate.wait(&engine, &id).await.expect_err(case) {
            GateError::Failed(reason) => (true, reason),
            GateError::Undecided(reason) => (false, reason),
            GateError::Engine(error) => panic!("{case}: {error}"),
        };
        assert_eq!(failed, is_failed, "{case}: {reason}");
        assert!(reason.contains(says), "{case}: {reason}");
    }
}

#[test]
fn f17_the_wait_does_not_end_before_the_engine_must_have_decided() {
    let s = 1_000_000_000_u64;
    let (test, minute) = (json!(["CMD", "true"]), 60 * s);
    for (case, check, at_least, at_most) in [
        ("the engine's defaults", json!({ "Test": test }), 180, 240),
        ("zero, which is a default too", json!({ "Test": test, "Interval": 0, "Timeout": 0, "Retries": 0 }), 180, 240),
        ("quick", json!({ "Test": test, "Interval": s, "Timeout": s, "Retries": 1 }), 60, 60),
        ("the first check after 11 minutes", json!({ "Test": test, "Interval": 11 * minute }), 3 * 690, 4 * 690),
        ("every 5 minutes", json!({ "Test": test, "Interval": 5 * minute }), 3 * 330, 4 * 330),
        ("one try", json!({ "Test": test, "Interval": 5 * minute, "Retries": 1 }), 330, 660),
        ("a long check", json!({ "Test": test, "Interval": s, "Timeout": 20 * minute, "Retries": 2 }), 2402, 3603),
        (
            "a start period",
            json!({ "Test": test, "Interval": s, "Timeout": s, "Retries": 1, "StartPeriod": 100 * s }),
            102,
            104,
        ),
        ("a start period of an hour", json!({ "Test": test, "StartPeriod": 3600 * s }), 3780, 3840),
        (
            "numbers without bounds",
            json!({ "Test": test, "Interval": u64::MAX, "Retries": u64::MAX }),
            1 << 40,
            u64::MAX,
        ),
    ] {
        let wait = gate().longest(&container(&json!({}), &check)).as_secs();
        assert!((at_least..=at_most).contains(&wait), "{case}: {wait} s, not {at_least} to {at_most} s");
    }
    let seconds = |gate: HealthGate, check: &Value| gate.longest(&container(&json!({}), check)).as_secs();
    assert_eq!(seconds(gate(), &Value::Null), 70, "without a check");
    let limited = HealthGate { limit: Some(Duration::from_secs(5)), ..gate() };
    assert_eq!(seconds(limited.clone(), &json!({ "Test": test })), 5, "a label goes before");
    assert_eq!(seconds(limited, &Value::Null), 10, "but nobody passes without having stayed up");
}

#[test]
fn t46_a_check_that_podman_never_begins_is_none() {
    let check = json!({ "Test": ["CMD", "true"], "Interval": 1_000_000_000_u64 });
    let starting = container(&json!({ "Health": { "Status": "starting", "Log": [] } }), &check);
    let podman = HealthGate { is_podman: true, ..gate() };
    assert_eq!(podman.judge(&starting, &started(), Duration::from_secs(1)), Verdict::Wait("it is not healthy yet"));
    assert_eq!(podman.judge(&starting, &started(), Duration::from_secs(10)), Verdict::Pass);
    let waits = gate().judge(&starting, &started(), Duration::from_secs(10));
    assert_eq!(waits, Verdict::Wait("it is not healthy yet"), "Docker does begin");
}
