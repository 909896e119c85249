//! A command in a container: started detached, since only its exit code is wanted, and watched to its end.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use super::raw::{Call, Connection};
use crate::engine::EngineError;

const POLL_EVERY: Duration = Duration::from_millis(100);

/// See [`Engine::exec`](crate::engine::Engine::exec).
pub(super) async fn exec(
    connection: &Connection,
    container: &str,
    command: &[&str],
    limit: Duration,
) -> Result<i64, EngineError> {
    let body = json!({ "Cmd": command, "AttachStdout": false, "AttachStderr": false });
    let path = ["containers", container, "exec"];
    let call = Call { body: Some(&body), ..Call::new("POST", &path) };
    let created = connection.call(call).await?;
    let Some(id) = created["Id"].as_str() else {
        return Err(EngineError::BadAnswer { action: call.action(), reason: "it has no Id".to_owned() });
    };
    let detached = json!({ "Detach": true });
    let path = ["exec", id, "start"];
    connection.call(Call { body: Some(&detached), ..Call::new("POST", &path) }).await?;
    let action = || format!("run {:?} in the container", command.join(" "));
    timeout(limit, exit_code(connection, id))
        .await
        .unwrap_or_else(|_| Err(EngineError::Timeout { action: action(), limit }))
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
