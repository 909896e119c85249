//! `cargo xtask <verb>`: reads the verb, shows the help, turns the outcome into an exit code.
//! Each verb's work is in `verbs`; nothing here starts a process.
//!
//! Exit codes: 0 done, 1 a step failed, 2 the command line was not understood, 128+N ended by signal N.

mod bindgen;
mod control_planes;
mod engine;
mod error;
mod files;
mod lockfile;
mod packages;
mod plugin;
mod process;
mod say;
mod session;
mod signals;
mod stages;
mod toolchain;
mod verbs;

use std::process::ExitCode;

use crate::{error::Error, say::say};

const HELP: &str = "\
cargo xtask <verb>: everything that imagewatch needs around `cargo`, from a fresh clone on.

  setup            choose or fetch the Rust toolchain, install missing Debian packages, build the policies;
                   says what it found and what it installed. The verbs below do this by themselves.
  plugin           build the policies to target/plugin: imagewatch.wasm, which the host embeds, and the tests'
                   weekdays.wasm; shows size and sha256.
  demo [-- ARGS]   build everything, start an engine if none answers, and run the demonstration
                   (needs root for an engine of its own; Ctrl-C ends it and cleans up).
  test [--full] [--engine NAME] [FILTER..]
                   all tests: the workspace with a real engine and registry, the end-to-end tests that depend on
                   the engine once more on a modern Docker Engine with the containerd image store, xtask itself,
                   the decisions compiled to wasm under Node, and the built policies under Python and Node with
                   what tests/control-planes pins of PyPI and npm. With --full, every end-to-end test runs on
                   each engine. NAME: system (Debian's docker.io), modern (a newer Docker, graph driver) or
                   modern-containerd; then nothing else runs. With FILTERs only the
                   workspace's tests whose names contain one of them: cargo xtask test quarantine -- --nocapture
  lint             formatting, clippy and docs without a warning, who may depend on whom, file lengths,
                   and that code on pages is that of the files it comes from.
  bench [ARGS]     release build, then the measurements; ARGS go to imagewatch-bench: `--quick`, or
                   `away [--quick]`, how long a service is away while it is updated;
                   `plugin [--quick]`, what a policy costs its host;
                   `registry [--quick] [--cup PATH]`, many images near and far, beside bare requests and cup;
                   `kill [N]` to kill the program in N (100) updates and judge what is left.
  help             this text.

Environment that is read:
  DOCKER_HOST      an engine to use (unix:// or tcp://). Without it: /var/run/docker.sock, and if nothing
                   answers there, a private dockerd that is stopped and removed at the end.
  CARGO_TARGET_DIR where builds go; target/ without it.
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (verb, rest) = match arguments.split_first() {
        Some((verb, rest)) => (verb.as_str(), rest),
        None => ("", arguments.as_slice()),
    };
    signals::listen();
    let outcome = match verb {
        "setup" => verbs::setup(),
        "plugin" => verbs::plugin(),
        "demo" => verbs::demo(rest),
        "test" => verbs::test(rest),
        "lint" => verbs::lint(),
        "bench" => verbs::bench(rest),
        "help" | "--help" | "-h" => {
            say!("{}", HELP.trim_end());
            return ExitCode::SUCCESS;
        }
        unknown => {
            let problem = if unknown.is_empty() { "no verb".into() } else { format!("no such verb: {unknown}") };
            say!("xtask: {problem}\n\n{}", HELP.trim_end());
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say!("xtask: {error}");
            exit_code(&error)
        }
    }
}

fn exit_code(error: &Error) -> ExitCode {
    match error {
        Error::Failed(_) => ExitCode::FAILURE,
        Error::Interrupted(signal) => ExitCode::from(u8::try_from(128 + signal).unwrap_or(u8::MAX)),
    }
}
