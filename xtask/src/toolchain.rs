//! Which Rust builds everything but xtask: the active one, one that rustup has or fetches, or Debian's own.
//! Every step is printed; the last word names all three ways and why each failed.

mod debian;
mod version;

use std::{ffi::OsString, process::Command};

use self::version::Version;
use crate::{
    error::{Error, Result, failed},
    process::{self, capture},
    say::say,
};

/// The oldest Rust that the host builds on: extism 1.41 brings wasmtime 49.
const OLDEST: Version = Version { major: 1, minor: 96 };
/// What rustup is asked for when the active toolchain will not do.
const PINNED: &str = "1.99.1";
const COMPONENTS: [&str; 2] = ["clippy", "rustfmt"];

/// The plugin's target.
pub(crate) const WASI: &str = "wasm32-wasip1";
/// The target on which the decisions' own tests run under Node.
pub(crate) const BARE: &str = "wasm32-unknown-unknown";

/// A Rust that is new enough and can build for both wasm targets.
pub(crate) struct Toolchain {
    kind: Kind,
}

enum Kind {
    Active,
    Rustup,
    Debian(debian::Debian),
}

impl Toolchain {
    /// A cargo command of this toolchain, for the machine we are on.
    pub(crate) fn cargo(&self, subcommand: &str) -> Command {
        let mut cargo = match &self.kind {
            Kind::Active => Command::new("cargo"),
            Kind::Rustup => pinned("cargo"),
            Kind::Debian(_) => debian::Debian::cargo(),
        };
        cargo.arg(subcommand);
        forget_our_cargo(&mut cargo);
        cargo
    }

    /// A cargo command for a wasm target.
    pub(crate) fn cargo_wasm(&self, subcommand: &str, target: &str) -> Command {
        let mut cargo = self.cargo(subcommand);
        cargo.args(["--target", target]);
        if let Kind::Debian(debian) = &self.kind {
            debian.add_wasm(&mut cargo);
        }
        cargo
    }
}

type Way = (&'static str, fn() -> Result<Kind>);

/// Takes the first way that works.
pub(crate) fn choose() -> Result<Toolchain> {
    let ways: [Way; 3] = [
        ("1. the active toolchain", active),
        ("2. rustup", rustup),
        ("3. Debian's packages", || debian::provide().map(Kind::Debian)),
    ];
    let mut reasons = Vec::new();
    for (name, way) in ways {
        match way() {
            Ok(kind) => return Ok(Toolchain { kind }),
            Err(Error::Failed(reason)) => {
                say!("xtask: toolchain: {name}: {reason}");
                reasons.push(format!("{name}: {reason}"));
            }
            Err(interrupted) => return Err(interrupted),
        }
    }
    failed(format!("no Rust toolchain, {OLDEST} or newer with {WASI} and {BARE}; tried:\n  {}", reasons.join("\n  ")))
}

fn active() -> Result<Kind> {
    let version = version_of(&mut Command::new("rustc"))?;
    if version < OLDEST {
        return failed(format!("it is {version}, {OLDEST} or newer is needed"));
    }
    if let Some(target) = missing_target(|| Command::new("rustc")) {
        return failed(format!("it is {version} but has no {target} (rustup target add {target})"));
    }
    say!("xtask: toolchain: the active one, {version}");
    Ok(Kind::Active)
}

fn rustup() -> Result<Kind> {
    if process::find_program("rustup").is_none() {
        return failed("rustup is not installed (https://rustup.rs)");
    }
    if !is_pinned_complete() {
        let mut install = Command::new("rustup");
        install.args(["toolchain", "install", PINNED, "--profile", "minimal", "--no-self-update"]);
        install.args(COMPONENTS.iter().flat_map(|component| ["-c", component]));
        process::run(install.args(["-t", WASI, "-t", BARE]))?;
    }
    let version = version_of(&mut pinned("rustc"))?;
    say!("xtask: toolchain: {PINNED} from rustup, {version}");
    Ok(Kind::Rustup)
}

/// Whether nothing has to be fetched; asks no network.
fn is_pinned_complete() -> bool {
    let installed = capture(Command::new("rustup").args(["toolchain", "list"])).unwrap_or_default();
    is_listed(&installed, PINNED)
        && missing_target(|| pinned("rustc")).is_none()
        && ["clippy", "fmt"].iter().all(|tool| capture(pinned("cargo").args([tool, "--version"])).is_some())
}

/// Whether `rustup toolchain list` names this version, with whatever host triple behind it.
fn is_listed(list: &str, version: &str) -> bool {
    let names = list.lines().filter_map(|line| line.split_whitespace().next());
    names.filter_map(|name| name.strip_prefix(version)).any(|rest| rest.is_empty() || rest.starts_with('-'))
}

/// A rustup proxy for the pinned toolchain. Only the proxy on PATH knows `+`; and what the outer proxy left in the
/// environment (`RUSTUP_TOOLCHAIN`), or the user set for another compiler (RUSTC), must not win over it.
fn pinned(proxy: &str) -> Command {
    let mut command = Command::new(proxy);
    command.arg(format!("+{PINNED}")).env_remove("RUSTUP_TOOLCHAIN").env_remove("RUSTC").env_remove("RUSTDOC");
    forget_our_cargo(&mut command);
    command
}

/// Removes what the cargo that runs us left for us alone: an inherited CARGO would make an inner cargo call the
/// outer one's subcommands.
fn forget_our_cargo(command: &mut Command) {
    let ours = |name: &OsString| {
        let name = name.to_string_lossy();
        name == "CARGO" || name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")
    };
    for name in std::env::vars_os().map(|(name, _)| name).filter(ours) {
        command.env_remove(name);
    }
}

fn version_of(rustc: &mut Command) -> Result<Version> {
    let text = capture(rustc.arg("--version"));
    let Some(text) = text else { return failed("rustc does not run") };
    Version::parse(&text).map_or_else(|| failed(format!("rustc says `{}`, which is no version", text.trim())), Ok)
}

/// The first wasm target whose standard library the compiler does not have.
fn missing_target(rustc: impl Fn() -> Command) -> Option<&'static str> {
    let has = |target: &str| {
        let folder = capture(rustc().args(["--print", "target-libdir", "--target", target]));
        folder.is_some_and(|folder| std::path::Path::new(folder.trim()).is_dir())
    };
    [WASI, BARE].into_iter().find(|target| !has(target))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_installed_toolchain_is_found_in_rustups_list() {
        let list = "stable-x86_64-unknown-linux-gnu (active, default)\n1.99.1-x86_64-unknown-linux-gnu\n1.98.0\n";
        for (name, version, expected) in [
            ("with a triple", "1.99.1", true),
            ("without one", "1.98.0", true),
            ("only the beginning of a version", "1.99", false),
            ("not there", "1.97.0", false),
        ] {
            assert_eq!(is_listed(list, version), expected, "{name}");
        }
    }
}
