//! Pulls whose login the registry refuses.

use super::*;

/// As [`context`], with one login for everything.
fn context_with_login(engine: &Arc<MemoryEngine>) -> OrderContext {
    let credentials: CredentialLookup =
        Arc::new(|_| Box::pin(async { Ok(Some(Credential::basic("robot", "revoked"))) }));
    OrderContext { credentials, ..context(engine) }
}

fn failure(reason: &str) -> EngineError {
    EngineError::pull_failed(&REFERENCE.parse().unwrap(), None, reason.to_owned())
}

fn pull_of(reference: &str) -> Order {
    Order { reference: reference.parse().unwrap(), recreate: false, digest: None, ..order() }
}

/// The engine fails the calls `pull` in the order of `reasons`, and none thereafter.
async fn refusing(reasons: &[&str]) -> Arc<MemoryEngine> {
    let engine = engine().await;
    for name in ["a", "b", "c"] {
        engine.publish(&format!("example.com/public/{name}:1"), image(name, &digest('d')));
    }
    for reason in reasons {
        engine.fail("pull", 1, failure(reason));
    }
    engine
}

#[tokio::test]
async fn a_refused_login_is_left_away_once_and_not_sent_again_until_it_changes() {
    let engine = engine().await;
    let password = Arc::new(Mutex::new("old"));
    let given = password.clone();
    let credentials: CredentialLookup = Arc::new(move |_| {
        let login = Credential::basic("robot", *given.lock().unwrap());
        Box::pin(async { Ok(Some(login)) })
    });
    let refusal = failure("unauthorized: no");
    engine.fail("pull", 1, refusal.clone());
    let context = OrderContext { credentials, ..context(&engine) };
    let order = || Order { recreate: false, digest: None, ..order() };
    let report = run_alone(&context, &order()).await;
    assert!(report.pulled && report.err.is_none(), "anybody may have it: {report:?}");
    assert!(run_alone(&context, &order()).await.pulled);
    assert_eq!((pulls(&engine), engine.credentials()), (3, vec![]), "the first was refused, and two came without");
    *password.lock().unwrap() = "new";
    assert!(run_alone(&context, &order()).await.pulled);
    assert_eq!(engine.credentials(), ["robot"]);
    *password.lock().unwrap() = "old";
    engine.fail("pull", 1, refusal.clone());
    assert!(run_alone(&context, &order()).await.pulled);
    assert_eq!(engine.credentials(), ["robot", "robot"], "it is nobody's any more but the login's");
    assert!(run_alone(&context, &order()).await.pulled);
    assert_eq!(engine.credentials().len(), 3, "and goes first again, as it came through");
    engine.fail("pull", 2, refusal);
    let message = run_alone(&context, &order()).await.err.unwrap().message;
    assert!(message.contains("unauthorized: no"), "{message}");
}

#[tokio::test]
async fn a_login_that_a_registry_does_not_know_is_sent_to_it_once_and_not_for_each_image() {
    for (reason, with_login) in [
        ("unauthorized: incorrect username or password", 0),
        ("unauthorized: authentication required", 0),
        ("denied: requested access to the resource is denied", 2),
    ] {
        let engine = refusing(&[reason]).await;
        let context = context_with_login(&engine);
        for name in ["a", "b", "c"] {
            let report = run_alone(&context, &pull_of(&format!("example.com/public/{name}:1"))).await;
            assert!(report.pulled, "{reason}: {report:?}");
        }
        // The one that was refused is not counted.
        assert_eq!(engine.credentials().len(), with_login, "{reason}");
    }
}

#[tokio::test]
async fn a_wrong_login_is_not_sent_again_for_private_images_either() {
    let wrong = "unauthorized: incorrect username or password";
    let denied = "denied: requested access to the resource is denied";
    let engine = refusing(&[wrong, denied, denied]).await;
    let context = context_with_login(&engine);
    let first = run_alone(&context, &pull_of("example.com/public/a:1")).await.err.unwrap().message;
    assert!(first.contains(wrong), "{first}");
    let second = run_alone(&context, &pull_of("example.com/public/b:1")).await.err.unwrap().message;
    assert!(second.contains(denied) && second.contains("not sent again until it changes"), "{second}");
    assert_eq!((pulls(&engine), engine.credentials()), (3, vec![]));
}

#[tokio::test]
async fn what_the_pull_without_a_login_failed_with_is_what_is_said() {
    for (second, expected) in [
        ("toomanyrequests: you have reached your pull rate limit", "toomanyrequests"),
        ("manifest unknown", "manifest unknown"),
        ("unauthorized: access to it is not authorized", "incorrect username or password"),
    ] {
        let engine = refusing(&["unauthorized: incorrect username or password", second]).await;
        let context = context_with_login(&engine);
        let message = run_alone(&context, &pull_of("example.com/public/a:1")).await.err.unwrap().message;
        assert!(message.contains(expected), "{message}");
        let report = run_alone(&context, &pull_of("example.com/public/b:1")).await;
        assert!(report.pulled, "{report:?}");
        assert_eq!(engine.credentials(), Vec::<String>::new(), "it was noted before the pull without it failed");
    }
}
