//! What a policy says more often than it may: log lines over many calls, and one order under one id several times.

use super::*;

const FIVE_LINES: &str = r#"(local.set $a «{"level": "warn", "message": "x"}»)
    (loop $l (call $host_log (local.get $a)) (local.set $n (i32.add (local.get $n) (i32.const 1))) (br_if $l (i32.lt_u (local.get $n) (i32.const 5))))"#;

#[rstest]
#[case::lines_of_one_minute(FIVE_LINES, 4, 10)]
#[case::all_in_the_first_call(FIVE_LINES, 2, 5)]
#[case::lines_that_are_no_lines(r#"(call $host_log «{"level": "warn", "message": "\5cn\5cn\5cn"}») (call $host_log «{"level": "warn", "message": ""}»)"#, 4, 3)]
#[tokio::test(flavor = "multi_thread")]
async fn s8_the_log_lines_of_all_calls_of_a_minute_are_bounded(
    #[case] poll: &str,
    #[case] polls: u64,
    #[case] most: u64,
) {
    let most_text = most.to_string();
    let mut scene = Scene::new(&Inline::polling(poll), &[("host.max_log_lines", most_text.as_str())]).await;
    for _ in 0..polls {
        scene.poll().await.expect("the call goes on");
    }
    let lines = polls * poll.matches("$host_log").count() as u64 * if poll == FIVE_LINES { 5 } else { 1 };
    let recorded = scene.record.read();
    assert_eq!((recorded.denied, recorded.faults.len()), ([(Denied::LogLines, lines - most)].into(), 0));
}

fn orders(ids: &[&str]) -> String {
    let order = |id: &&str| {
        format!(
            r#"{{"order": "{id}", "target": "a", "reference": "ok.io/a", "recreate": true, "strategy": "replace"}}"#
        )
    };
    let orders: Vec<String> = ids.iter().map(order).collect();
    format!(r#"(drop (call $docker_refresh «{{"orders": [{}]}}»))"#, orders.join(", "))
}

#[rstest]
#[case::in_one_list(&orders(&["same", "same", "same", "same"]), &["same"], 3)]
#[case::in_several_lists(&format!("{0} {0} {0}", orders(&["same"])), &["same"], 2)]
#[case::between_others(&orders(&["a", "same", "b", "same"]), &["a", "same", "b"], 1)]
#[case::two_of_two(&orders(&["a", "b", "b", "a"]), &["a", "b"], 2)]
#[case::ids_that_only_look_alike(&orders(&["same", "Same", "same "]), &["same", "Same", "same "], 0)]
#[tokio::test(flavor = "multi_thread")]
async fn s10_an_order_id_is_accepted_once_in_a_call(#[case] poll: &str, #[case] taken: &[&str], #[case] refused: u64) {
    let mut scene = Scene::new(&Inline::polling(poll), &[]).await;
    let (_, orders) = scene.session.poll(None, Vec::new(), PollMode::Watch).await.expect("the call goes on");
    let ids: Vec<&str> = orders.iter().map(|order| order.order.as_str()).collect();
    assert_eq!(ids, taken);
    let recorded = scene.record.read();
    let expected = (refused > 0).then_some((Denied::InvalidOutput, refused));
    assert_eq!(recorded.denied, expected.into_iter().collect());
}
