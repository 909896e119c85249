//! A real docker-registry on a port of loopback, or of an address that only a test's own engine reaches, in one of its three ways to authenticate.
//! Starts, stops and restarts it; what is in it comes from [`push`](crate::push).

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

const READY: Duration = Duration::from_secs(20);

/// How a registry authenticates.
#[derive(Debug, Clone)]
pub enum RegistryAuth {
    /// Everybody may do everything.
    None,
    /// Basic auth with one user.
    Htpasswd {
        /// The one user's name.
        user: String,
        /// The one user's password; it may contain `:`.
        password: String,
    },
    /// Bearer tokens of this server.
    Token {
        /// Must outlive the registry's use.
        token_server: Arc<TokenServer>,
    },
}

/// A running registry with an empty storage folder of its own. Dropping it stops it and removes the folder.
#[derive(Debug)]
pub struct Registry {
    auth: RegistryAuth,
    address: Ipv4Addr,
    port: u16,
    folder: TempDir,
    process: Option<Process>,
}

impl Registry {
    /// Starts it on loopback and waits until it answers.
    pub async fn start(auth: RegistryAuth) -> Self {
        Self::start_at(Ipv4Addr::LOCALHOST, auth).await
    }

    /// The same on another address of this machine.
    pub async fn start_at(address: Ipv4Addr, auth: RegistryAuth) -> Self {
        // In memory where there is such a place: a registry syncs each file to disk, which a busy one makes ten times slower.
        let folder = TempDir::new_in("/dev/shm").or_else(|_| TempDir::new()).expect("the temp folder takes folders");
        let mut registry = Self { auth, address, port: 0, folder, process: None };
        let mut output = Vec::new();
        for _ in 0..5 {
            registry.port = free_port();
            registry.write_config();
            match registry.run().await {
                Ok(()) => return registry,
                // Most likely another process has bound the port since.
                Err(lines) => output = lines,
            }
        }
        panic!("docker-registry started on none of five ports; it said: {output:?}")
    }

    /// The version of the program, such as `2.8.2+ds1`.
    pub async fn version() -> String {
        let mut command = Command::new(components::docker_registry());
        command.arg("--version").env_clear();
        let mut process = Process::start(command);
        process.wait_exit(READY).await;
        let lines = process.lines();
        let version = lines.last().and_then(|line| line.split_whitespace().last());
        version.unwrap_or_else(|| panic!("docker-registry says no version: {lines:?}")).to_owned()
    }

    /// `ADDRESS:PORT`, as image references name it.
    pub fn host(&self) -> String {
        format!("{}:{}", self.address, self.port)
    }

    /// Where to push, with the right to.
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

    /// An outage: connections are refused until [`restart_on_same_port`](Self::restart_on_same_port).
    pub fn stop(&mut self) {
        self.process = None;
    }

    /// Ends the outage; the images are still there.
    pub async fn restart_on_same_port(&mut self) {
        self.stop();
        self.run().await.unwrap_or_else(|output| panic!("docker-registry did not come back: {output:?}"));
    }

    /// Ready, or the output of a process that has ended.
    async fn run(&mut self) -> Result<(), Vec<String>> {
        let mut command = Command::new(components::docker_registry());
        command.arg("serve").arg(self.folder.path().join("config.yml"));
        // It takes settings from REGISTRY_* variables too; the test's environment must not reach it.
        command.env_clear().current_dir(self.folder.path());
        let (client, url) = (build_client(), format!("http://{}/v2/", self.host()));
        let process = self.process.insert(Process::start(command));
        let is_up = wait_for("docker-registry to answer", READY, || {
            let has_ended = process.exit_status().is_some();
            let (request, lines) = (client.get(&url).send(), process.lines());
            async move {
                // Ended first: a stranger's server on the port might answer in its place.
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
                // 4 is the lowest cost; a test guards nothing.
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
        // JSON is YAML.
        write(&file("config.yml"), &config.to_string());
    }
}

/// The `127.0.0.1:PORT` of a registry that is down and stays so: nobody in this process is given that port.
pub fn host_that_is_down() -> String {
    format!("127.0.0.1:{}", free_port())
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap_or_else(|error| panic!("failed to write {}: {error}", path.display()));
}
