//! Parse, start logging, run, exit: the only place that prints or ends the process.

#![expect(clippy::print_stderr, reason = "this is the one place that prints")]

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;

use anstream::ColorChoice;
use clap::{CommandFactory, Parser};
use imagewatch::app::{App, AppError, StateFolder, clear_quarantine, list_quarantine, run_errand};
use imagewatch::cli::{
    CheckArgs, ClearArgs, Cli, Color, Command, PluginCommand, QuarantineCommand, RefreshArgs, RunArgs,
};
use imagewatch::clock::now_ms;
use imagewatch::exit_code::Exit;
use imagewatch::{plugin, progress, render, telemetry};
use secrecy::SecretString;
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match cli.color {
        Color::Auto => {}
        Color::Always => ColorChoice::Always.write_global(),
        Color::Never => ColorChoice::Never.write_global(),
    }
    let is_talkative = matches!(cli.command, Command::Run(_));
    let filter = cli.log.as_deref().unwrap_or(if is_talkative { "info" } else { "warn" });
    if let Err(error) = telemetry::start(filter, cli.log_format, cli.color) {
        return fail(&error, Exit::Usage);
    }
    let docker_host = cli.docker_host.as_deref().filter(|host| !host.is_empty());
    let state_dir = cli.state_dir.as_deref().filter(|path| !path.as_os_str().is_empty());
    let exit = match &cli.command {
        Command::Run(args) => on_runtime(run(args, docker_host, state_dir)),
        Command::Check(args) => on_runtime(check(args, docker_host, state_dir)),
        Command::Refresh(args) => on_runtime(refresh(args, docker_host, state_dir)),
        Command::Quarantine(command) => quarantine(command, state_dir).unwrap_or_else(|error| report(&error)),
        Command::Plugin(PluginCommand::Inspect { file, json }) => inspect(file, *json),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "imagewatch", &mut script);
            print(&String::from_utf8_lossy(&script));
            Exit::Success
        }
    };
    exit.into()
}

fn fail(error: &dyn std::fmt::Display, exit: Exit) -> ExitCode {
    anstream::eprintln!("imagewatch: failed to {error}");
    exit.into()
}

fn report(error: &AppError) -> Exit {
    anstream::eprintln!("imagewatch: failed to {error}");
    error.exit()
}

fn on_runtime(command: impl Future<Output = Result<Exit, AppError>>) -> Exit {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            anstream::eprintln!("imagewatch: failed to start its runtime: {error}");
            return Exit::Incomplete;
        }
    };
    let exit = runtime.block_on(command).unwrap_or_else(|error| report(&error));
    // A guest call that does not heed the end is left behind, not waited for.
    runtime.shutdown_background();
    exit
}

/// Cancelled by the first SIGTERM or Ctrl-C; the second one ends the process.
fn cancelled_by_signals() -> CancellationToken {
    let cancel = CancellationToken::new();
    let token = cancel.clone();
    tokio::spawn(async move {
        let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
        else {
            tracing::error!("failed to listen for signals; stop with SIGKILL");
            return;
        };
        for is_second in [false, true] {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if is_second {
                #[expect(clippy::exit, reason = "asked twice to end: now")]
                std::process::exit(i32::from(Exit::Interrupted as u8));
            }
            tracing::info!("stopping; once more to stop at once");
            token.cancel();
        }
    });
    cancel
}

async fn run(args: &RunArgs, docker_host: Option<&str>, state_dir: Option<&Path>) -> Result<Exit, AppError> {
    let state = StateFolder::open(state_dir)?;
    let cancel = cancelled_by_signals();
    if run_errand(docker_host, &state, &cancel).await? {
        return Ok(Exit::Success);
    }
    let app = App::load(&args.manifests, docker_host, state, cancel).await?;
    let token = std::env::var("IMAGEWATCH_ADMIN_TOKEN").ok().map(SecretString::from);
    app.run(args.admin_listen, token, args.parallel).await?;
    Ok(Exit::Success)
}

async fn check(args: &CheckArgs, docker_host: Option<&str>, state_dir: Option<&Path>) -> Result<Exit, AppError> {
    let cancel = cancelled_by_signals();
    let state = StateFolder::open_to_look(state_dir);
    let app = App::load(&args.manifests, docker_host, state, cancel.clone()).await?;
    let checked = app.check().await;
    if args.json {
        print_json(&checked);
    } else {
        if !checked.images.is_empty() || checked.errors.is_empty() {
            print(&render::check_table(&checked.images));
        }
        for error in &checked.errors {
            anstream::eprintln!("imagewatch: manifest {}: failed to {}", error.manifest, error.message);
        }
    }
    Ok(if cancel.is_cancelled() { Exit::Interrupted } else { checked.exit() })
}

async fn refresh(args: &RefreshArgs, docker_host: Option<&str>, state_dir: Option<&Path>) -> Result<Exit, AppError> {
    let cancel = cancelled_by_signals();
    let state = StateFolder::open(state_dir)?;
    let app = App::load(&args.manifests, docker_host, state, cancel.clone()).await?;
    let is_watched = std::io::stderr().is_terminal() && !args.json;
    let (screen, observer) = progress::bars();
    let observer = if is_watched { observer } else { progress::none() };
    let refreshed = app.refresh(&args.names, !args.no_recreate, args.parallel, &observer).await?;
    // The bars have done their work; a terminal that refuses to clear them is no failure.
    let _ = screen.clear();
    if args.json {
        print_json(&refreshed);
    } else {
        if !refreshed.reports.is_empty() || !refreshed.outcomes.is_empty() || refreshed.errors.is_empty() {
            print(&render::refresh_summary(&refreshed.outcomes, &refreshed.reports));
        }
        for error in &refreshed.errors {
            anstream::eprintln!("imagewatch: manifest {}: failed to {}", error.manifest, error.message);
        }
    }
    Ok(if cancel.is_cancelled() { Exit::Interrupted } else { refreshed.exit() })
}

fn quarantine(command: &QuarantineCommand, state_dir: Option<&Path>) -> Result<Exit, AppError> {
    let store = StateFolder::open(state_dir)?.store;
    match command {
        QuarantineCommand::List { json: true } => print_json(&list_quarantine(&store)?),
        QuarantineCommand::List { json: false } => {
            print(&render::quarantine_table(&list_quarantine(&store)?.quarantine, now_ms()));
        }
        QuarantineCommand::Clear(ClearArgs { targets, manifest, all: _, json }) => {
            let cleared = clear_quarantine(&store, manifest.as_deref(), targets)?;
            if *json { print_json(&cleared) } else { print(&render::cleared_lines(&cleared.quarantine)) }
        }
    }
    Ok(Exit::Success)
}

fn inspect(file: &Path, json: bool) -> Exit {
    let shown = file.display().to_string();
    let wasm = match std::fs::read(file) {
        Ok(wasm) => wasm,
        Err(error) => {
            anstream::eprintln!("imagewatch: failed to read {shown}: {error}; check the path");
            return Exit::Config;
        }
    };
    let info = match plugin::inspect(&wasm) {
        Ok(info) => info,
        Err(reason) => {
            anstream::eprintln!("imagewatch: failed to inspect {shown}: {reason}");
            return Exit::Policy;
        }
    };
    let description = plugin::load_module(wasm);
    if json {
        let refused = description.as_ref().err();
        let described = description.as_ref().ok();
        print_json(&serde_json::json!({"file": shown, "module": info, "refused": refused, "description": described}));
    } else {
        print(&render::module_portrait(&shown, &info, description.as_ref().map_err(String::as_str)));
    }
    if description.is_ok() { Exit::Success } else { Exit::Policy }
}

/// Prints a result, its colours only where they belong.
fn print(text: &str) {
    // A reader that went away wants no more.
    drop(anstream::stdout().write_all(text.as_bytes()));
}

fn print_json(value: &impl Serialize) {
    match serde_json::to_string_pretty(value) {
        Ok(text) => print(&(text + "\n")),
        Err(error) => eprintln!("imagewatch: failed to write JSON: {error}"),
    }
}
