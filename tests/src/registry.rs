//! A real docker-registry with one of three ways to authenticate. It listens on loopback, or on an address that only a
//! private engine reaches. This module starts, stops and restarts the registry; [`push`](crate::push) fills it.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tempfile::TempDir;

use crate::components;
use crate::http_client::build_client;
use crate::process::Process;
use crate::push::{PushAuth, RegistryTarget};
use crate::token_server::{ISSUER, SERVICE, TokenServer};
use crate::unique::free_port;
use crate::wait::wait_for;

const READY_TIMEOUT: Duration = Duration::from_secs(20);

/// How a registry authenticates its clients.
#[derive(Debug, Clone)]
pub enum RegistryAuth {
    /// Every client may do everything.
    None,
    /// Basic auth with one user.
    Htpasswd {
        /// The user's name.
        user: String,
        /// The user's password. It may contain `:`.
        password: String,
    },
    /// Bearer tokens from this server.
    Token {
        /// The token server. It must outlive the registry.
        token_server: Arc<TokenServer>,
    },
}

/// A running registry with its own empty storage folder. Dropping it stops the registry and removes the folder.
#[derive(Debug)]
pub struct Registry {
    auth: RegistryAuth,
    address: Ipv4Addr,
    port: u16,
    folder: TempDir,
    process: Option<Process>,
}

impl Registry {
    /// Starts a registry on loopback and waits until it answers.
    pub async fn start(auth: RegistryAuth) -> Self {
        Self::start_at(Ipv4Addr::LOCALHOST, auth).await
    }

    /// Starts a registry on another address of this machine.
    pub async fn start_at(address: Ipv4Addr, auth: RegistryAuth) -> Self {
        // In memory if possible. The registry syncs each file to disk, which is ten times slower on a busy disk.
        let folder = TempDir::new_in("/dev/shm").or_else(|_| TempDir::new()).expect("the temp folder is writable");
        let mut registry = Self { auth, address, port: 0, folder, process: None };
        let mut output = Vec::new();
        for _ in 0..5 {
            registry.port = free_port();
            registry.write_config();
            match registry.run().await {
                Ok(()) => return registry,
                // Most likely, another process has bound the port in the meantime.
                Err(lines) => output = lines,
            }
        }
        panic!("docker-registry failed to start on five ports; its output: {output:?}")
    }

    /// The version of docker-registry, such as `2.8.2+ds1`.
    pub async fn version() -> String {
        let mut command = Command::new(components::docker_registry());
        command.arg("--version").env_clear();
        let mut process = Process::start(command);
        process.wait_exit(READY_TIMEOUT).await;
        let lines = process.lines();
        let version = lines.last().and_then(|line| line.split_whitespace().last());
        version.unwrap_or_else(|| panic!("docker-registry printed no version: {lines:?}")).to_owned()
    }

    /// `ADDRESS:PORT`, as in image references.
    pub fn host(&self) -> String {
        format!("{}:{}", self.address, self.port)
    }

    /// The push target with the registry's credentials.
    pub fn target(&self) -> RegistryTarget {
        let auth = match &self.auth {
            RegistryAuth::None => PushAuth::Anonymous,
            RegistryAuth::Htpasswd { user, password } => {
                PushAuth::Basic { user: user.clone(), password: password.clone() }
            }
            RegistryAuth::Token { token_server } => PushAuth::Signer(Arc::clone(token_server.signer())),
        };
        RegistryTarget::new(&self.host(), auth)
    }

    /// Stops the registry. Connections are refused until [`restart_on_same_port`](Self::restart_on_same_port).
    pub fn stop(&mut self) {
        self.process = None;
    }

    /// Starts the stopped registry again. The images are still there.
    pub async fn restart_on_same_port(&mut self) {
        self.stop();
        self.run().await.unwrap_or_else(|output| panic!("docker-registry failed to restart; its output: {output:?}"));
    }

    /// Waits until the registry is ready. The error is the output of a process that has ended.
    async fn run(&mut self) -> Result<(), Vec<String>> {
        let mut command = Command::new(components::docker_registry());
        command.arg("serve").arg(self.folder.path().join("config.yml"));
        // The registry also reads settings from REGISTRY_* variables. The test's environment must not reach it.
        command.env_clear().current_dir(self.folder.path());
        let (client, url) = (build_client(), format!("http://{}/v2/", self.host()));
        let process = self.process.insert(Process::start(command));
        let is_up = wait_for("docker-registry to answer", READY_TIMEOUT, || {
            let has_ended = process.exit_status().is_some();
            let (request, lines) = (client.get(&url).send(), process.lines());
            async move {
                // The exit is checked first: another server on the port might answer in its place.
                if has_ended { Ok(Err(lines)) } else { request.await.map(|_| Ok(())).map_err(|_| lines) }
            }
        });
        is_up.await
    }

    fn write_config(&self) {
        let file = |name: &str| self.folder.path().join(name);
        let mut config = json!({
            "version": 0.1,
            "log": {"level": "warn", "accesslog": {"disabled": true}},
            "storage": {"filesystem": {"rootdirectory": file("data")}, "delete": {"enabled": true}},
            "http": {"addr": self.host(), "secret": "one registry, no cluster"},
        });
        match &self.auth {
            RegistryAuth::None => {}
            RegistryAuth::Htpasswd { user, password } => {
                // 4 is the lowest cost. The password protects nothing.
                let hash = bcrypt::hash(password, 4).expect("4 is a valid cost");
                write(&file("htpasswd"), &format!("{user}:{hash}\n"));
                config["auth"] = json!({"htpasswd": {"realm": "basic-realm", "path": file("htpasswd")}});
            }
            RegistryAuth::Token { token_server } => {
                write(&file("signer.crt"), token_server.signer().certificate_pem());
                config["auth"] = json!({"token": {
                    "realm": token_server.realm(), "service": SERVICE, "issuer": ISSUER,
                    "rootcertbundle": file("signer.crt"),
                }});
            }
        }
        // JSON is valid YAML.
        write(&file("config.yml"), &config.to_string());
    }
}

/// The `127.0.0.1:PORT` of a registry that does not run. This process never uses this port for anything else.
pub fn host_that_is_down() -> String {
    format!("127.0.0.1:{}", free_port())
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap_or_else(|error| panic!("failed to write {}: {error}", path.display()));
}
