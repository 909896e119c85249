//! The decision alone, with one container and one registry. The complete calls are in `scripts/`.

use std::collections::BTreeMap;

use imagewatch_abi::{Container, HttpResponse};

use super::*;

const FRIDAY_MS: u64 = 1_795_176_000_000;
const SATURDAY_MS: u64 = 1_795_262_400_000;

/// A host with one container on `r.io/app:1.4.2`, and a registry with these tags. It accepts every order.
struct World {
    /// The value of the container's label `imagewatch.enable`. `None` means that it has no such label.
    enable: Option<&'static str>,
    tags: &'static str,
    orders: Vec<Order>,
}

impl Host for World {
    fn config(&self, _: &str) -> Option<String> {
        None
    }

    fn http_send(&mut self, batch: HttpBatch) -> Answer<HttpResponses> {
        assert_eq!(batch.requests[0].url, "https://r.io/v2/app/tags/list?n=1000");
        let body = format!("{{\"tags\":[{}]}}", self.tags);
        let response = HttpResponse { status: 200, body, ..HttpResponse::default() };
        Answer::Ok(HttpResponses { responses: vec![Answer::Ok(response)] })
    }

    fn docker_containers(&mut self, selector: Selector) -> Answer<Containers> {
        let container = serde_json::json!({
            "id": "1", "name": "web", "image": "r.io/app:1.4.2", "image_id": "sha256:1", "state": "running",
            "labels": self.enable.map(|value| ("imagewatch.enable", value)).into_iter().collect::<BTreeMap<_, _>>(),
        });
        let container: Container = serde_json::from_value(container).expect("a container");
        let is_selected = selector
            .label
            .is_none_or(|label| label == format!("imagewatch.enable={}", self.enable.unwrap_or_default()));
        Answer::Ok(Containers { containers: if is_selected { vec![container] } else { Vec::new() } })
    }

    fn docker_refresh(&mut self, orders: Orders) -> Answer<OrdersAccepted> {
        self.orders = orders.orders;
        let accepted = self.orders.iter().map(|order| order.order.clone()).collect();
        Answer::Ok(OrdersAccepted { accepted, reports: Vec::new() })
    }

    fn log(&mut self, _: LogLine) {}
}

#[test]
fn only_a_minor_version_on_a_weekday_is_ordered() {
    for (case, now_ms, tags, verdict, ordered) in [
        ("a minor on Friday", FRIDAY_MS, r#""1.4.2","1.5.0""#, Verdict::Moved, Some("r.io/app:1.5.0")),
        ("a minor on Saturday", SATURDAY_MS, r#""1.4.2","1.5.0""#, Verdict::Held, None),
        ("a major on Friday", FRIDAY_MS, r#""1.4.2","2.0.0""#, Verdict::Unchanged, None),
        ("nothing new", FRIDAY_MS, r#""1.4.2""#, Verdict::Unchanged, None),
    ] {
        let mut world = World { enable: Some("true"), tags, orders: Vec::new() };
        let output = poll(&mut world, PollInput { now_ms, ..PollInput::default() });
        assert_eq!(output.err, None, "{case}");
        assert_eq!(output.outcomes.iter().map(|outcome| outcome.verdict).collect::<Vec<_>>(), [verdict], "{case}");
        let orders: Vec<_> = world.orders.iter().map(|order| order.reference.to_string()).collect();
        assert_eq!(orders, ordered.into_iter().collect::<Vec<_>>(), "{case}");
    }
}

#[test]
fn a_running_move_is_not_ordered_again_for_a_newer_version() {
    let mut world = World { enable: Some("true"), tags: r#""1.4.2","1.5.0","1.6.0""#, orders: Vec::new() };
    let in_flight = vec!["web@1.5.0".to_owned()];
    let output = poll(&mut world, PollInput { now_ms: FRIDAY_MS, in_flight, ..PollInput::default() });
    assert_eq!(output.outcomes[0].verdict, Verdict::Pending);
    assert_eq!(world.orders, []);
}

#[test]
fn the_label_opts_in_and_out_by_any_word_for_yes_and_no() {
    for (enable, verdicts) in [
        (Some("true"), &[Verdict::Moved][..]),
        (Some("True"), &[Verdict::Moved]),
        (Some(" yes"), &[Verdict::Moved]),
        (Some("1"), &[Verdict::Moved]),
        (Some("False"), &[]),
        (Some("off"), &[]),
        (None, &[]),
        (Some("disabled"), &[Verdict::Unknown]),
        (Some(""), &[Verdict::Unknown]),
    ] {
        let mut world = World { enable, tags: r#""1.4.2","1.5.0""#, orders: Vec::new() };
        let output = poll(&mut world, PollInput { now_ms: FRIDAY_MS, ..PollInput::default() });
        assert_eq!(output.outcomes.iter().map(|outcome| outcome.verdict).collect::<Vec<_>>(), verdicts, "{enable:?}");
        assert_eq!(world.orders.len(), usize::from(verdicts == [Verdict::Moved]), "{enable:?}");
        let reason = output.outcomes.first().and_then(|outcome| outcome.reason.clone()).unwrap_or_default();
        assert_eq!(reason.contains("write true or false"), verdicts == [Verdict::Unknown], "{enable:?}: {reason}");
    }
}
