//! The container engine that tests, demo and benches talk to: the one that answers already, or a private dockerd.
//! Says where it is and keeps it alive while the value lives; what is done with it is not its business.

mod dockerd;
mod lease;
mod modern;
mod ping;
mod release;
mod sweep;

use std::{path::Path, process::Command};

pub(crate) use self::release::Release;

use self::lease::Lease;
use crate::{error::Result, process::capture, say::say};

const DEFAULT_SOCKET: &str = "unix:///var/run/docker.sock";

/// An engine that answered. Dropping it stops a private one, unless another xtask run still uses it.
pub(crate) struct Engine {
    host: String,
    _lease: Option<Lease>,
}

impl Engine {
    /// Its address, for `DOCKER_HOST`.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }
}

/// The address of an engine that answers without our doing: `DOCKER_HOST`, or the default socket.
pub(crate) fn find_existing() -> Option<String> {
    let named = std::env::var("DOCKER_HOST").ok().filter(|host| !host.is_empty());
    for host in named.into_iter().chain([DEFAULT_SOCKET.to_owned()]) {
        match ping::ping(&host) {
            Ok(()) => return Some(host),
            Err(reason) => say!("xtask: engine: {host}: {reason}"),
        }
    }
    None
}

/// The engine to use: `existing` if there is one, else a private one of `release` with its data below `target`. Prints its
/// version and image store.
pub(crate) fn provide(existing: Option<String>, target: &Path, release: Release) -> Result<Engine> {
    let engine = if let Some(host) = existing {
        say!("xtask: engine: using {host}, which answers; it will not be stopped");
        Engine { host, _lease: None }
    } else {
        let lease = lease::take(target, release)?;
        Engine { host: lease.host(), _lease: Some(lease) }
    };
    say!("xtask: engine: {}", describe(&engine.host));
    Ok(engine)
}

/// The engine's version and image store, from Docker's own command line.
fn describe(host: &str) -> String {
    const FORMAT: &str = "Docker {{.ServerVersion}}, image store {{.Driver}} {{range .DriverStatus}}{{if eq (index . 0) \"driver-type\"}}({{index . 1}}){{end}}{{end}}";
    let answer = capture(Command::new("docker").args(["-H", host, "info", "--format", FORMAT]));
    answer.map_or_else(|| format!("{host}: version unknown, as no `docker` is on PATH"), |line| line.trim().to_owned())
}
