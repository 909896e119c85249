//! The decision itself, with one container and one registry; the whole conversation is in `scripts/`.

use imagewatch_abi::{Container, HttpResponse};

use super::*;

const FRIDAY_MS: u64 = 1_795_176_000_000;
const SATURDAY_MS: u64 = 1_795_262_400_000;

/// A host whose one container runs `r.io/app:1.4.2`, and whose registry has these tags. Takes every order.
struct World {
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
        assert_eq!(selector.label.as_deref(), Some("imagewatch.enable=true"));
        let container = serde_json::json!({
            "id": "1", "name": "web", "image": "r.io/app:1.4.2", "image_id": "sha256:1", "state": "running",
        });
        let container: Container = serde_json::from_value(container).expect("a container");
        Answer::Ok(Containers { containers: vec![container] })
    }

    fn docker_refresh(&mut self, orders: Orders) -> Answer<Placed> {
        self.orders = orders.orders;
        let accepted = self.orders.iter().map(|order| order.order.clone()).collect();
        Answer::Ok(Placed { accepted, reports: Vec::new() })
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
        let mut world = World { tags, orders: Vec::new() };
        let output = poll(&mut world, PollInput { now_ms, ..PollInput::default() });
        assert_eq!(output.err, None, "{case}");
        assert_eq!(output.outcomes.iter().map(|outcome| outcome.verdict).collect::<Vec<_>>(), [verdict], "{case}");
        let orders: Vec<_> = world.orders.iter().map(|order| order.reference.to_string()).collect();
        assert_eq!(orders, ordered.into_iter().collect::<Vec<_>>(), "{case}");
    }
}

#[test]
fn a_move_that_is_under_way_is_not_ordered_again_though_a_newer_version_came() {
    let mut world = World { tags: r#""1.4.2","1.5.0","1.6.0""#, orders: Vec::new() };
    let in_flight = vec!["web@1.5.0".to_owned()];
    let output = poll(&mut world, PollInput { now_ms: FRIDAY_MS, in_flight, ..PollInput::default() });
    assert_eq!(output.outcomes[0].verdict, Verdict::Pending);
    assert_eq!(world.orders, []);
}
