//! Docker's credential helpers: programs that return the credential of a registry. This module runs them with limits on
//! time and output size, and caches their answers. It never shows the output of a helper.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use zeroize::Zeroizing;

use super::cache::{Cache, Fresh};
use super::docker_config::{HelperCall, HelperName};
use super::environment::Environment;
use super::error::CredentialError;
use imagewatch_base::secret::Credential;

/// The time limit of a helper. Some helpers query a cloud or a locked key store.
const LIMIT: Duration = Duration::from_secs(15);
const MAX_ANSWER_BYTES: u64 = 64 * 1024;
const TYPICAL_ANSWER_BYTES: usize = 8 * 1024;
/// How long an answer is cached. A change by `docker login` takes effect after this time at the latest.
const CACHE_TIME: Duration = Duration::from_mins(5);
/// The text that a helper prints when it fails because it has no credential for the registry.
const NOT_FOUND: &str = "credentials not found";

/// The credential helpers of this machine.
#[derive(Debug)]
pub(super) struct Helpers {
    /// The environment for finding and running helpers, without imagewatch's own secrets.
    environment: Environment,
    limit: Duration,
    answers: Cache,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HelperAnswer {
    #[serde(default)]
    username: String,
    #[serde(default)]
    secret: String,
}

impl Helpers {
    pub(super) fn new(environment: &Environment) -> Self {
        let is_secret =
            |name: &str| name.starts_with("IMAGEWATCH_") || name.starts_with("GHCR_") || name == "DOCKER_AUTH_CONFIG";
        let environment = environment.filtered(|name| !is_secret(name));
        Self { environment, limit: LIMIT, answers: Cache::default() }
    }

    /// Asks the helper for the credential of the registry. If the helper is not installed and the configuration does
    /// not name the registry, the result is `None`: a configuration that was copied from another machine often names a
    /// helper of that machine.
    pub(super) async fn find(&self, call: &HelperCall) -> Result<Option<Credential>, CredentialError> {
        let failed = |reason: String| CredentialError::Helper {
            helper: call.helper.to_string(),
            registry: call.server.clone(),
            reason,
        };
        let Some(program) = self.find_program(&call.helper) else {
            return if call.is_explicit { Err(failed("it is not installed on the PATH".to_owned())) } else { Ok(None) };
        };
        let ask = async {
            let credential = self.run(program, &call.server).await.map_err(failed)?;
            Ok(Fresh { credential, renew_after: CACHE_TIME, lifetime: CACHE_TIME })
        };
        self.answers.find(&format!("{} {}", call.helper, call.server), ask).await
    }

    /// See [`Cache::forget`].
    pub(super) fn forget(&self, credential_id: &str) -> bool {
        self.answers.forget(credential_id)
    }

    fn find_program(&self, helper: &HelperName) -> Option<PathBuf> {
        let programs = std::env::split_paths(self.environment.value("PATH")?).filter(|folder| folder.is_absolute());
        let mut programs = programs.map(|folder| folder.join(format!("docker-credential-{helper}")));
        programs.find(|program| {
            program.metadata().is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
        })
    }

    async fn run(&self, program: PathBuf, server: &str) -> Result<Option<Credential>, String> {
        let mut command = Command::new(program);
        command.arg("get").env_clear().envs(self.environment.with_prefix(""));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.process_group(0).spawn().map_err(|error| format!("it cannot be started: {error}"))?;
        let mut group = Group(child.id());
        let exchange = tokio::time::timeout(self.limit, exchange(&mut child, server)).await;
        let (is_success, answer) =
            exchange.map_err(|_| format!("it gave no answer within {} s", self.limit.as_secs_f32()))??;
        // After success, processes that the helper left running are not killed. They may be agents.
        group.0 = None;
        parse_answer(is_success, &answer)
    }
}

/// The process group of a helper. Dropping it kills the group, unless the process id was cleared.
struct Group(Option<u32>);

impl Drop for Group {
    fn drop(&mut self) {
        let pid = self.0.and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
        if let Some(pid) = pid {
            // The group may have exited meanwhile.
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }
}

/// Sends the server name to the helper and reads its answer. Returns whether the helper succeeded, and its output.
async fn exchange(child: &mut Child, server: &str) -> Result<(bool, Zeroizing<Vec<u8>>), String> {
    let failed = |error: std::io::Error| format!("reading its answer failed: {error}");
    if let Some(mut stdin) = child.stdin.take() {
        // A helper that does not read its input may still answer.
        let _ = stdin.write_all(server.as_bytes()).await;
    }
    // The capacity suffices for most answers. A buffer that grows leaves a copy of the secret in memory.
    let mut answer = Zeroizing::new(Vec::with_capacity(TYPICAL_ANSWER_BYTES));
    if let Some(stdout) = child.stdout.take() {
        stdout.take(MAX_ANSWER_BYTES + 1).read_to_end(&mut answer).await.map_err(failed)?;
    }
    if answer.len() as u64 > MAX_ANSWER_BYTES {
        return Err(format!("its answer has more than {MAX_ANSWER_BYTES} bytes"));
    }
    let status = child.wait().await.map_err(failed)?;
    Ok((status.success(), answer))
}

fn parse_answer(is_success: bool, answer: &[u8]) -> Result<Option<Credential>, String> {
    if !is_success {
        let is_none = String::from_utf8_lossy(answer).contains(NOT_FOUND);
        return if is_none { Ok(None) } else { Err("it failed; run it by hand to see why".to_owned()) };
    }
    let answer: HelperAnswer =
        serde_json::from_slice(answer).map_err(|_| "its answer is not the JSON of a helper".to_owned())?;
    match (answer.username.is_empty(), answer.secret.is_empty()) {
        (true, true) => Ok(None),
        (false, false) => Ok(Some(Credential::from_login(&answer.username, answer.secret.into()))),
        _ => Err("its answer has a user or a secret but not both".to_owned()),
    }
}

#[cfg(test)]
mod tests;
