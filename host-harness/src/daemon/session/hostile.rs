//! Hostile policies, one row each: what each tries ends within its bound, is named and counted, and changes nothing.

use std::time::{Duration, Instant};

use rstest::rstest;
use serde_json::json;
use wiremock::{Mock, ResponseTemplate};

use super::scene::{SECRET, Scene};
use super::*;
use imagewatch_policy::inline::{Inline, NOTHING_FOUND};
use imagewatch_policy::{Denied, Effects};

/// Generous: only what does not end reaches it, on however busy a machine.
const BOUND: Duration = Duration::from_mins(3);

impl Scene {
    /// One poll, and that it ended in time and touched nothing.
    async fn poll(&mut self) -> Result<(PollOutput, Vec<Order>), CallError> {
        let (start, changes) = (Instant::now(), self.engine.calls().len());
        let polled = self.session.poll(None, Vec::new(), PollMode::Watch).await;
        assert!(start.elapsed() < BOUND, "{:?}", start.elapsed());
        assert_eq!(self.engine.calls().len(), changes, "no container is touched");
        if let Ok((_, orders)) = &polled {
            assert_eq!(orders, &[], "nothing is ordered");
        }
        polled
    }
}

mod hosts;
mod said;

const FLOOD: &str = "(local.set $a «{}») (loop $l (drop (call $docker_containers (local.get $a))) (br $l))";
const RECURSION: &str = "(func $deep (param i64) (call $deep (local.get 0)) (call $deep (local.get 0)))";
const TABLE: &str = "(table $t 1 1000 funcref)";
const TWO_ORDERS: &str = r#"(drop (call $docker_refresh «{"orders": [
    {"order": "a", "target": "a", "reference": "ok.io/a", "recreate": true, "strategy": "replace"},
    {"order": "b", "target": "b", "reference": "ok.io/a", "recreate": true, "strategy": "replace"}]}»))"#;

#[rstest]
#[case::endless_loop("", "(loop $l (br $l))", &[], FaultKind::Fuel, "fuel")]
#[case::memory_bomb("", "(loop $l (drop (memory.grow (i32.const 64))) (br $l))", &[], FaultKind::Memory, "oom")]
#[case::allocation_bomb("", "(loop $l (drop (call $alloc (i64.const 1048576))) (br $l))", &[], FaultKind::Memory, "oom")]
// A table that may not grow any more stays as it is, and the loop goes on to its end.
#[case::table_bomb(TABLE, "(loop $l (drop (table.grow $t (ref.null func) (i32.const 100))) (br $l))", &[], FaultKind::Fuel, "fuel")]
#[case::recursion(RECURSION, "(call $deep (i64.const 0))", &[], FaultKind::Stack, "call stack exhausted")]
#[case::giant_output("", "(call $output (call $alloc (i64.const 3000000)))", &[("host.max_output_bytes", "2000000")], FaultKind::Output, "`host.max_output_bytes`")]
#[case::bad_utf8("", r#"(call $output «{"state": "\ff\fe"}»)"#, &[], FaultKind::InvalidOutput, "invalid output")]
#[case::bad_json("", r#"(call $output «{"state": »)"#, &[], FaultKind::InvalidOutput, "invalid output")]
#[case::no_output("", "", &[], FaultKind::InvalidOutput, "invalid output")]
#[case::wrong_shape("", "(call $output «[1, 2, 3]»)", &[], FaultKind::InvalidOutput, "invalid output")]
#[case::wrong_type("", r#"(call $output «{"state": 1, "cache": 1, "next_poll_ms": "soon", "outcomes": []}»)"#, &[], FaultKind::InvalidOutput, "soon")]
#[case::deep_json("", "(local.set $a (call $alloc (i64.const 100000))) (loop $l (call $store_u8 (i64.add (local.get $a) (i64.extend_i32_u (local.get $n))) (i32.const 91)) (local.set $n (i32.add (local.get $n) (i32.const 1))) (br_if $l (i32.lt_u (local.get $n) (i32.const 100000)))) (call $output (local.get $a))", &[], FaultKind::InvalidOutput, "recursion limit")]
#[case::host_call_flood("", FLOOD, &[("host.max_host_calls", "50")], FaultKind::HostCalls, "`host.max_host_calls`")]
#[case::endless_host_calls("", FLOOD, &[("host.max_host_calls", "4000000000"), ("host.call_timeout", "20ms")], FaultKind::Time, "`host.call_timeout`")]
#[case::host_byte_flood("", "(loop $l (drop (call $docker_containers (call $alloc (i64.const 100000)))) (br $l))", &[("host.max_host_bytes", "250000")], FaultKind::HostBytes, "`host.max_host_bytes`")]
#[case::order_flood("", TWO_ORDERS, &[("host.max_orders", "1")], FaultKind::Orders, "`host.max_orders`")]
#[case::panic("", "(call $error_set «policy panicked: index out of bounds») unreachable", &[], FaultKind::Panic, "index out of bounds")]
#[case::trap("", "unreachable", &[], FaultKind::Trap, "unreachable")]
#[case::out_of_bounds("", "(drop (i32.load (i32.const -1)))", &[], FaultKind::Trap, "out of bounds")]
#[case::order_then_trap("", &format!("{TWO_ORDERS} unreachable"), &[], FaultKind::Trap, "unreachable")]
#[tokio::test(flavor = "multi_thread")]
async fn a_call_beyond_its_bounds_is_ended_named_counted_and_has_not_happened(
    #[case] fields: &str,
    #[case] poll: &str,
    #[case] config: &[(&str, &str)],
    #[case] kind: FaultKind,
    #[case] part: &str,
) {
    let policy = Inline { fields: fields.to_owned(), poll: poll.to_owned(), ..Inline::default() };
    let mut scene = Scene::new(&policy, config).await;
    let before = json!({"seen": "before"});
    scene.session.memory.write(before.clone());
    for times in 1..=2 {
        let fault = scene.poll().await.expect_err("a fault");
        assert_eq!(fault.kind, kind, "{fault}");
        assert!(fault.to_string().contains(part) && fault.export == exports::POLL, "{fault}");
        assert_eq!(scene.session.state(), before, "state is intact");
        let recorded = scene.record.read();
        assert_eq!(recorded.faults, [(kind, times)].into());
        assert!(recorded.last_fault.expect("it is told").reason.contains(part));
    }
    // What the call had ordered before it faulted is not carried out by the next one either.
    let (output, orders) = scene.session.refresh(None, true, &[]).await.expect("another export is fine");
    assert_eq!((output.err, orders), (None, vec![]));
}

fn ask(request: &str) -> String {
    format!(r#"(drop (call $http_send «{{"requests": [{request}]}}»))"#)
}

fn order(what: &str) -> String {
    format!(
        r#"(drop (call $docker_refresh «{{"orders": [{{"order": "a", "target": "a", "recreate": true, {what}}}]}}»))"#
    )
}

const LOG_FLOOD: &str = r#"(local.set $a «{"level": "info", "message": "x"}»)
    (loop $l (call $host_log (local.get $a)) (local.set $n (i32.add (local.get $n) (i32.const 1))) (br_if $l (i32.lt_u (local.get $n) (i32.const 100))))"#;

#[rstest]
#[case::forbidden_host(&ask(r#"{"method": "GET", "url": "https://evil.io/v2/"}"#), &[], Denied::Http, 1, "evil.io is not in allowed_hosts")]
#[case::metadata_service(&ask(r#"{"method": "GET", "url": "http://169.254.169.254/"}"#), &[], Denied::Http, 1, "169.254.169.254")]
#[case::another_registrys_secret(&ask(r#"{"method": "GET", "url": "http://REGISTRY/v2/", "credential": "secret.io"}"#), &[], Denied::Http, 1, "credential of secret.io")]
#[case::basic_auth_of_its_own(&ask(r#"{"method": "GET", "url": "http://REGISTRY/v2/", "headers": [["authorization", "Basic YWxpY2U6eA=="]]}"#), &[], Denied::Http, 1, "only a bearer token")]
#[case::password_in_the_url(&ask(r#"{"method": "GET", "url": "http://a:b@REGISTRY/v2/"}"#), &[], Denied::Http, 1, "name a credential")]
#[case::forbidden_container(&order(r#""reference": "ok.io/a", "strategy": "replace", "containers": {"name": "victim"}"#), &[], Denied::Container, 1, "container victim")]
#[case::forbidden_container_looked_at(r#"(drop (call $docker_containers «{"name": "victim"}»))"#, &[], Denied::Container, 1, "container victim")]
#[case::forbidden_image(&order(r#""reference": "evil.io/miner", "strategy": "replace""#), &[], Denied::Image, 1, "image evil.io/miner")]
#[case::forbidden_strategy(&order(r#""reference": "ok.io/a", "strategy": "remove""#), &[("asks", "notify")], Denied::Strategy, 1, "strategy")]
#[case::large_batch(&ask(r#"{"method": "GET", "url": "http://REGISTRY/"}, {"method": "GET", "url": "http://REGISTRY/"}"#), &[("host.max_batch", "1")], Denied::Batch, 1, "over the limit of 1")]
#[case::log_flood(LOG_FLOOD, &[("host.max_log_lines", "10")], Denied::LogLines, 90, "`host.max_log_lines`")]
#[case::bad_utf8_to_a_function(r"(drop (call $http_send «\ff\fe»))", &[], Denied::InvalidOutput, 1, "invalid input for http_send")]
#[case::bad_json_to_the_log(r"(call $host_log «{»)", &[], Denied::InvalidOutput, 1, "invalid input for host_log")]
#[case::method_that_changes(&ask(r#"{"method": "DELETE", "url": "http://REGISTRY/v2/"}"#), &[], Denied::InvalidOutput, 1, "DELETE")]
#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_granted_is_refused_named_and_counted_and_the_call_goes_on(
    #[case] poll: &str,
    #[case] config: &[(&str, &str)],
    #[case] what: Denied,
    #[case] count: u64,
    #[case] part: &str,
) {
    let mut policy = Inline::polling(poll);
    let mut config = config.to_vec();
    if let Some(at) = config.iter().position(|(key, _)| *key == "asks") {
        // A module is held to what it asks for, though more is granted.
        let all = r#"["replace", "start-first", "remove", "pull-only", "notify"]"#;
        policy.capabilities = policy.capabilities.replace(all, &format!("[{:?}]", config.remove(at).1));
    }
    let mut scene = Scene::new(&policy, &config).await;
    let (output, _) = scene.poll().await.expect("the call goes on");
    assert_eq!(output.err, None);
    let recorded = scene.record.read();
    assert_eq!((recorded.denied, recorded.faults.len()), ([(what, count)].into(), 0));
    let said = recorded.last_denied.expect("it is told").reason;
    assert!(said.contains(part) && !said.contains(SECRET), "{said}");
    assert_eq!(scene.registry.received_requests().await.expect("they are kept").len(), 0, "nothing was sent");
}

#[rstest]
#[case::under_way_already(&["a"], "100", &["b"], "order a is under way already")]
#[case::as_many_as_there_may_be(&["x", "y"], "2", &[], "2 orders are under way")]
#[case::room_for_one(&["x"], "2", &["a"], "2 orders are under way")]
#[tokio::test(flavor = "multi_thread")]
async fn orders_are_bounded_over_all_calls_and_none_is_taken_twice(
    #[case] in_flight: &[&str],
    #[case] most: &str,
    #[case] taken: &[&str],
    #[case] part: &str,
) {
    let mut scene = Scene::new(&Inline::polling(TWO_ORDERS), &[("host.max_orders", most)]).await;
    let in_flight = in_flight.iter().map(|id| (*id).to_owned()).collect();
    let (_, orders) = scene.session.poll(None, in_flight, PollMode::Watch).await.expect("the call goes on");
    let ids: Vec<&str> = orders.iter().map(|order| order.order.as_str()).collect();
    assert_eq!(ids, taken);
    let recorded = scene.record.read();
    assert_eq!(recorded.denied, [(Denied::Orders, 2 - taken.len() as u64)].into());
    assert!(recorded.last_denied.expect("it is told").reason.contains(part));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_policy_says_is_one_line_of_bounded_length_wherever_it_is_told() {
    let long = "x".repeat(20_000);
    let method = ask(&format!(r#"{{"method": "{long}", "url": "http://REGISTRY/v2/"}}"#));
    let mut scene = Scene::new(&Inline::polling(&method), &[]).await;
    scene.poll().await.expect("the call goes on");
    let nonsense = format!(r#"(call $output «{{"verdict": "{long}", "outcomes": "{long}"}}»)"#);
    let mut faulty = Scene::new(&Inline { poll: nonsense, ..Inline::default() }, &[]).await;
    let fault = faulty.poll().await.expect_err("no output");
    let output = r#"{"state": null, "cache": null, "next_poll_ms": 1, "err": {"code": "other", "message": "a\5cnb", "retryable": false},
        "outcomes": [{"target": "t\5cr1", "verdict": "unknown", "reason": "it is\5cn2026 ERROR forged\5cu001b[2J"}]}"#;
    let forging = format!("(call $output «{}»)", output.replace("\n        ", " "));
    let mut forging = Scene::new(&Inline { poll: forging, ..Inline::default() }, &[]).await;
    let (output, _) = forging.poll().await.expect("an output");
    let (denied, fault) = (scene.record.read().last_denied.expect("it is told").reason, fault.to_string());
    let outcome = &output.outcomes[0];
    let said = [
        &denied,
        &fault,
        outcome.reason.as_ref().expect("a reason"),
        &outcome.target,
        &output.err.expect("it says so").message,
    ];
    for text in said {
        assert!(text.chars().count() < 1_200 && !text.contains(char::is_control), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_that_are_not_granted_are_not_shown_to_who_asks_for_all() {
    let scene = Scene::new(&Inline::default(), &[]).await;
    let effects = scene.effects.clone();
    let listed = tokio::task::spawn_blocking(move || effects.docker_containers(imagewatch_abi::Selector::default()));
    let listed = listed.await.expect("no panic").into_result().expect("they are listed");
    assert_eq!(listed.containers, [], "victim is not granted");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_answer_and_a_slow_batch_end_at_their_bounds() {
    let config = [("host.max_response_bytes", "10"), ("host.http_send_timeout", "300ms")];
    let scene = Scene::new(&Inline::default(), &config).await;
    let slow = ResponseTemplate::new(200).set_delay(Duration::from_secs(20));
    Mock::given(wiremock::matchers::path("/slow")).respond_with(slow).with_priority(1).mount(&scene.registry).await;
    let send = |path: &str| {
        let (effects, url) = (scene.effects.clone(), format!("{}{path}", scene.registry.uri()));
        let batch = serde_json::from_value(json!({"requests": [{"method": "GET", "url": url}]})).expect("a batch");
        tokio::task::spawn_blocking(move || effects.http_send(batch, usize::MAX))
    };
    let large = send("/large").await.expect("no panic").into_result().expect("the batch was sent");
    let failure = large.responses[0].clone().into_result().expect_err("100 bytes");
    assert_eq!(failure.code, imagewatch_abi::FailureCode::TooLarge, "{failure}");
    let start = Instant::now();
    let slow = send("/slow").await.expect("no panic").into_result().expect("the batch was sent");
    let failure = slow.responses[0].clone().into_result().expect_err("20 seconds");
    assert!(
        start.elapsed() < Duration::from_secs(10) && failure.message.contains("`host.http_send_timeout`"),
        "{failure}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_good_policy_is_not_late_beside_endless_loops() {
    let mut good = Scene::new(&Inline { poll: NOTHING_FOUND.to_owned(), ..Inline::default() }, &[]).await;
    let bad = Inline { poll: "(loop $l (br $l))".to_owned(), ..Inline::default() };
    let mut busy = Vec::new();
    for _ in 0..3 {
        let mut scene = Scene::new(&bad, &[("host.fuel", "3000000000")]).await;
        busy.push(tokio::spawn(async move { scene.poll().await.map(|_| ()) }));
    }
    let start = Instant::now();
    for _ in 0..5 {
        good.poll().await.expect("it is good");
    }
    let took = start.elapsed();
    let mut still = 0;
    for bad in busy {
        still += usize::from(!bad.is_finished());
        bad.await.expect("no panic").expect_err("it ends at its fuel");
    }
    assert!(still > 0, "the good one was done while others went on; it took {took:?}");
}
