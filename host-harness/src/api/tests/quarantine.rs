//! Tests of the routes that list and clear the quarantine.

use super::*;

#[tokio::test]
async fn quarantine_lists_entries_with_all_fields() {
    let (status, body) = ask(&FakeControl::with_quarantine(), "GET", QUARANTINE, Some("Bearer t0ken")).await;
    assert_eq!(status, StatusCode::OK);
    let first = value!({
        "manifest": "apps", "target": "db", "reference": "r.io/app:v1", "digest": format!("sha256:{}", "b".repeat(64)),
        "fault": "image", "reason": "db: exited with code 1", "count": 1, "first_ms": 1_000, "last_ms": 2_000
    });
    assert_eq!((&body["quarantine"][0], body["quarantine"].as_array().map(Vec::len)), (&first, Some(3)));
    let nothing = ask(&FakeControl::with_readiness(&[]), "GET", QUARANTINE, Some("Bearer t0ken")).await;
    assert_eq!(nothing, (StatusCode::OK, value!({"quarantine": []})));
}

#[rstest]
#[case::everywhere("?target=web", StatusCode::OK, "more", 1)]
#[case::under_one_manifest("?target=web&manifest=apps", StatusCode::OK, "apps", 2)]
#[case::blank_manifest("?target=db&manifest=", StatusCode::OK, "apps", 2)]
#[case::unknown_target("?target=nobody", StatusCode::NOT_FOUND, "nobody is not in quarantine", 3)]
#[case::target_of_another_manifest("?target=db&manifest=more", StatusCode::NOT_FOUND, "under manifest more", 3)]
#[case::no_target("", StatusCode::BAD_REQUEST, "target=<name>", 3)]
#[case::blank_target("?target=", StatusCode::BAD_REQUEST, "target=<name>", 3)]
#[case::twice("?target=a&target=b", StatusCode::BAD_REQUEST, "target", 3)]
#[tokio::test]
async fn delete_clears_a_target_by_name_and_manifest(
    #[case] query: &str,
    #[case] status: StatusCode,
    #[case] says: &str,
    #[case] left: usize,
) {
    let control = FakeControl::with_quarantine();
    let answer = ask(&control, "DELETE", &format!("{QUARANTINE}{query}"), Some("Bearer t0ken")).await;
    assert_eq!((answer.0, control.entries().map(|entries| entries.len())), (status, Ok(left)), "{}", answer.1);
    let says_in = if status == StatusCode::OK { &answer.1["quarantine"] } else { &answer.1["error"] };
    assert!(says_in.to_string().contains(says), "{}", answer.1);
}

#[tokio::test]
async fn a_broken_store_is_reported_with_status_500() {
    let control = FakeControl::with_a_broken_store();
    for (method, query) in [("GET", ""), ("DELETE", "?target=web")] {
        let answer = ask(&control, method, &format!("{QUARANTINE}{query}"), Some("Bearer t0ken")).await;
        assert_eq!(answer, (StatusCode::INTERNAL_SERVER_ERROR, value!({"error": "the disk is full"})), "{method}");
    }
}
