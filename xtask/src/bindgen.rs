//! The tools for tests on wasm32-unknown-unknown: Node, and the test runner of exactly the wasm-bindgen that
//! Cargo.lock has, as the two must match.

use std::{fs, path::PathBuf, process::Command};

use crate::{
    error::{Context as _, Result, failed},
    lockfile, packages,
    process::{self, capture},
    say::say,
    session::Session,
};

/// Finds Node and the runner; installs the runner when that version is not there yet.
pub(crate) fn provide(session: &Session) -> Result<PathBuf> {
    let node = packages::provide_node()?;
    let Some(node) = capture(Command::new(&node).arg("--version")) else {
        return failed(format!("{} does not say its version", node.display()));
    };
    let lock = session.workspace().join("Cargo.lock");
    let text = fs::read_to_string(&lock).context(|| format!("read {}", lock.display()))?;
    let Some(version) = lockfile::version_of(&text, "wasm-bindgen") else {
        return failed(format!("{} has no wasm-bindgen, which wasm-bindgen-test brings", lock.display()));
    };
    let root = session.target().join("tools");
    let runner = root.join("bin/wasm-bindgen-test-runner");
    if capture(Command::new(&runner).arg("--version")).is_none_or(|said| !says(&said, version)) {
        let mut install = session.cargo("install");
        // Unoptimised, it is there a minute sooner and takes a few seconds longer.
        install.args(["wasm-bindgen-cli", "--debug", "--version", version]);
        install.args(["--bin", "wasm-bindgen-test-runner", "--root"]);
        process::run(install.arg(&root))?;
    }
    say!("xtask: node {}, wasm-bindgen-test-runner {version}", node.trim());
    Ok(runner)
}

/// Whether `wasm-bindgen-test-runner 0.2.130` names this version.
fn says(line: &str, version: &str) -> bool {
    line.split_whitespace().nth(1) == Some(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runner_of_another_version_will_not_do() {
        assert!(says("wasm-bindgen-test-runner 0.2.130\n", "0.2.130"));
        assert!(!says("wasm-bindgen-test-runner 0.2.13\n", "0.2.130"));
        assert!(!says("", "0.2.130"));
    }
}
