//! Images of one index for more than one platform.

use super::*;

fn for_platform(id: &str, architecture: &str, digests: &[Digest]) -> Value {
    let names: Vec<String> = digests.iter().map(|digest| format!("example.com/ws/codex@{digest}")).collect();
    json!({ "Id": id, "RepoDigests": names, "Os": "linux", "Architecture": architecture })
}

#[tokio::test]
async fn f03_an_image_whose_digest_belongs_to_another_platform_is_the_wanted_one() {
    let wanted = digest('c');
    let by_digest = format!("example.com/ws/codex@{wanted}");
    for (case, first, pulled, is_wanted) in [
        ("another platform has it", Some(for_platform("first", "amd64", &[digest('c')])), &[][..], true),
        ("the same platform has it", Some(for_platform("first", "386", &[digest('c')])), &[], false),
        ("no image has it", None, &[], false),
        ("it has another digest", Some(for_platform("first", "amd64", &[digest('c')])), &[digest('d')], false),
    ] {
        let engine = engine().await;
        if let Some(first) = first {
            engine.add_image(&by_digest, &first);
        }
        engine.publish(REFERENCE, for_platform("second", "386", pulled));
        let order = Order { digest: Some(wanted.clone()), platform: Some("linux/386".to_owned()), ..order() };
        let report = run_alone(&context(&engine), &order).await;
        assert_eq!(report.pulled, is_wanted, "{case}: {report:?}");
        let cause = report.err.and_then(|failure| failure.cause);
        assert_eq!(cause, (!is_wanted).then_some(PullCause::Mismatch), "{case}");
    }
}
