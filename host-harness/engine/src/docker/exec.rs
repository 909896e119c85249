//! Runs a command in a container. The command starts detached, because only its exit code is needed. imagewatch polls
//! it until it exits, and kills it when its time limit is exceeded.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{sleep, timeout};
use tracing::warn;

use super::raw::{Call, Connection};
use crate::EngineError;

const POLL_EVERY: Duration = Duration::from_millis(100);

/// The time limit for killing a command and waiting until it has exited.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);
/// The environment variable that marks a command and its child processes. The engine reports only the process id on the
/// machine, which is unknown inside the container.
const MARK: &str = "IMAGEWATCH_COMMAND";
/// Kills every process whose environment contains the mark `$1`. The script uses only shell built-ins, because an image
/// need not contain `kill`, `grep` or `pkill`. It makes up to five passes to find processes that start meanwhile.
const KILL_SCRIPT: &str = r#"
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
    // The mark is random, so that it matches only this command and its child processes.
    let mark = format!("{MARK}={:016x}", RandomState::new().hash_one(container));
    let id = start(connection, container, command, &[&mark]).await?;
    if let Ok(ended) = timeout(limit, exit_code(connection, &id)).await {
        return ended;
    }
    // The command is not logged, because it may contain a password.
    if !kill_command(connection, container, &mark, &id).await {
        warn!(container, exec = id, "a command could not be killed and still runs in the container; kill it by hand");
    }
    Err(EngineError::Timeout { action: "run a command in the container".to_owned(), limit })
}

/// Kills the command with `mark`. Returns whether it exited in time.
async fn kill_command(connection: &Connection, container: &str, mark: &str, id: &str) -> bool {
    let killing = async {
        let script = start(connection, container, &["/bin/sh", "-c", KILL_SCRIPT, "sh", mark], &[]).await?;
        exit_code(connection, &script).await?;
        exit_code(connection, id).await
    };
    matches!(timeout(KILL_TIMEOUT, killing).await, Ok(Ok(_)))
}

/// Starts a command and returns its exec id.
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

    /// A hook may contain a password.
    #[tokio::test]
    async fn a_command_that_cannot_be_killed_is_logged_without_its_text() {
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
        let error = exec(&connection.expect("an address"), "web", &command, limit).await.expect_err("it does not exit");
        assert!(matches!(error, EngineError::Timeout { .. }), "{error}");
        let shown = String::from_utf8_lossy(&lines.0.lock().expect("not poisoned")).into_owned();
        assert!(shown.contains("kill it by hand") && shown.contains("web"), "{shown}");
        assert!(!format!("{error} {error:?} {shown}").contains("canary"), "{error} {shown}");
    }
}
