//! A command in a container: started detached, since only its exit code is wanted, and watched to its end, which comes
//! by force when its time is over.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{sleep, timeout};
use tracing::warn;

use super::raw::{Call, Connection};
use crate::EngineError;

const POLL_EVERY: Duration = Duration::from_millis(100);

/// For the rest of a command that was killed to be gone.
const END_WITHIN: Duration = Duration::from_secs(5);
/// Marks a command and all that it starts: the engine tells a process by its number on the machine only, which nobody
/// in the container knows.
const MARK: &str = "IMAGEWATCH_COMMAND";
/// Kills what has the mark `$1` in its environment. A shell has all of this built in, while an image need not have
/// `kill`, `grep` or `pkill`. Over and over, for what is started meanwhile.
const END: &str = r#"
for pass in 1 2 3 4 5; do
    found=
    for dir in /proc/[0-9]*; do
        while read -r line || [ -n "$line" ]; do
            case "$line" in *"$1"*) found=1; kill -9 "${dir#/proc/}"; break ;; esac
        done < "$dir/environ"
    done 2> /dev/null
    [ -n "$found" ] || exit 0
done"#;

/// See [`Engine::exec`](crate::Engine::exec).
pub(super) async fn exec(
    connection: &Connection,
    container: &str,
    command: &[&str],
    limit: Duration,
) -> Result<i64, EngineError> {
    // No two commands of one container run at the same time, nor does one outlive the mark of another.
    let mark = format!("{MARK}={:016x}", RandomState::new().hash_one(container));
    let id = start(connection, container, command, &[&mark]).await?;
    if let Ok(ended) = timeout(limit, exit_code(connection, &id)).await {
        return ended;
    }
    // The command is not shown: it may have a password in it.
    if !has_been_ended(connection, container, &mark, &id).await {
        warn!(container, exec = id, "a command could not be ended and goes on there; end it by hand");
    }
    Err(EngineError::Timeout { action: "run a command in the container".to_owned(), limit })
}

async fn has_been_ended(connection: &Connection, container: &str, mark: &str, id: &str) -> bool {
    let ending = async {
        let end = start(connection, container, &["/bin/sh", "-c", END, "sh", mark], &[]).await?;
        exit_code(connection, &end).await?;
        exit_code(connection, id).await
    };
    matches!(timeout(END_WITHIN, ending).await, Ok(Ok(_)))
}

/// Starts a command and returns the engine's id of it.
async fn start(
    connection: &Connection,
    container: &str,
    command: &[&str],
    env: &[&str],
) -> Result<String, EngineError> {
    let body = json!({ "Cmd": command, "Env": env, "AttachStdout": false, "AttachStderr": false });
    let path = ["containers", container, "exec"];
    let call = Call { body: Some(&body), ..Call::new("POST", &path) };
    let created = connection.call(call).await?;
    let Some(id) = created["Id"].as_str() else {
        return Err(EngineError::BadAnswer { action: call.action(), reason: "it has no Id".to_owned() });
    };
    let detached = json!({ "Detach": true });
    let path = ["exec", id, "start"];
    connection.call(Call { body: Some(&detached), ..Call::new("POST", &path) }).await?;
    Ok(id.to_owned())
}

async fn exit_code(connection: &Connection, id: &str) -> Result<i64, EngineError> {
    loop {
        let inspection = connection.call(Call::new("GET", &["exec", id, "json"])).await?;
        match (&inspection["Running"], inspection["ExitCode"].as_i64()) {
            (Value::Bool(false), Some(code)) => return Ok(code),
            _ => sleep(POLL_EVERY).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use wiremock::matchers::{method, path_regex};
    use wiremock::{Mock, MockServer, ResponseTemplate};

    use super::super::EngineChoice;
    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().expect("not poisoned").write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn choice(engine: &MockServer) -> EngineChoice {
        EngineChoice { host: format!("tcp://{}", engine.address()), api: None }
    }

    /// A hook may have a password in it.
    #[tokio::test]
    async fn a_command_that_cannot_be_ended_is_told_of_and_not_shown() {
        let engine = MockServer::start().await;
        for (verb, path, answer) in [
            ("GET", "^/version$", json!({ "ApiVersion": "1.44", "Components": [] })),
            ("POST", "/containers/web/exec$", json!({ "Id": "e" })),
            ("POST", "/exec/e/start$", json!({})),
            ("GET", "/exec/e/json$", json!({ "Running": true })),
        ] {
            let answer = ResponseTemplate::new(200).set_body_json(answer);
            Mock::given(method(verb)).and(path_regex(path)).respond_with(answer).mount(&engine).await;
        }
        let (lines, connection) = (Lines::default(), Connection::new(choice(&engine)));
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).finish();
        let _guard = tracing::subscriber::set_default(subscriber);
        let command = ["/bin/sh", "-c", "login --password canary-9d1f"];
        let limit = Duration::from_millis(50);
        let error = exec(&connection.expect("an address"), "web", &command, limit).await.expect_err("it does not end");
        assert!(matches!(error, EngineError::Timeout { .. }), "{error}");
        let shown = String::from_utf8_lossy(&lines.0.lock().expect("not poisoned")).into_owned();
        assert!(shown.contains("end it by hand") && shown.contains("web"), "{shown}");
        assert!(!format!("{error} {error:?} {shown}").contains("canary"), "{error} {shown}");
    }
}
