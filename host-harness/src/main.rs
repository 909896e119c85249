//! Entry point: parses the command line, starts logging, runs the command, and exits.
//!
//! Only this file prints results and ends the process.

use std::io::{ErrorKind, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anstream::ColorChoice;
use clap::CommandFactory;
use imagewatch::api;
use imagewatch::cli::arguments::{
    CheckArgs, ClearArgs, Cli, Color, Command, HistoryArgs, Listen, PluginCommand, QuarantineCommand, RefreshArgs,
    ReplayArgs, RunArgs,
};
use imagewatch::cli::exit_code::Exit;
use imagewatch::cli::{
    ManifestFailure, ReplayRequest, core_dumps, forget, inspect_module, panics, progress, render, replay,
    roll_back_policy, telemetry,
};
use imagewatch::daemon::state_folder::StateFolder;
use imagewatch::daemon::status::Control;
use imagewatch::daemon::{App, AppError, WaitFor, clear_quarantine, list_history, list_quarantine, run_self_update};
use imagewatch::store::HistoryQuery;
use imagewatch_base::clock::now_ms;
use imagewatch_base::text::sanitize;
use imagewatch_policy::transcript::Recorder;
use imagewatch_rollout::orders::no_progress;
use secrecy::SecretString;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

fn main() -> ExitCode {
    panics::note_all();
    let cli = Cli::read();
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
    if !cli.allow_core_dumps
        && let Err(error) = core_dumps::forbid()
    {
        tracing::warn!("failed to forbid core dumps: {error}; a crash may write credentials to a file");
    }
    let docker_host = cli.docker_host.as_deref().filter(|host| !host.is_empty());
    let state_dir = cli.state_dir.as_deref().filter(|path| !path.as_os_str().is_empty());
    let exit = match &cli.command {
        Command::Run(args) => on_runtime(run(args, docker_host, state_dir)),
        Command::Check(args) => on_runtime(check(args, docker_host, state_dir)),
        Command::Refresh(args) => on_runtime(refresh(args, docker_host, state_dir)),
        Command::History(args) => history(args, state_dir).unwrap_or_else(|error| report(&error)),
        Command::Forget { manifest } => forget_state(manifest, state_dir).unwrap_or_else(|error| report(&error)),
        Command::Quarantine(command) => quarantine(command, state_dir).unwrap_or_else(|error| report(&error)),
        Command::Plugin(command) => plugin(command, state_dir).unwrap_or_else(|error| report(&error)),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "imagewatch", &mut script);
            print(&String::from_utf8_lossy(&script)).map_or_else(|error| report(&error), |()| Exit::Success)
        }
    };
    panics::exit_after(exit).into()
}

/// Prints one error line to standard error. The line is sanitized, because it may quote a module, a registry or the
/// engine.
fn complain(message: &str) {
    anstream::eprintln!("imagewatch: {}", sanitize(message));
}

fn fail(error: &dyn std::fmt::Display, exit: Exit) -> ExitCode {
    complain(&format!("failed to {error}"));
    exit.into()
}

/// Prints the failure of one manifest, or of the whole command if the failure names no manifest.
fn report_manifest(failure: &ManifestFailure) {
    let manifest = failure.manifest.as_ref().map(|name| format!("manifest {name}: ")).unwrap_or_default();
    complain(&format!("{manifest}failed to {}", failure.message));
}

fn report(error: &AppError) -> Exit {
    complain(&format!("failed to {error}"));
    error.exit()
}

fn on_runtime(command: impl Future<Output = Result<Exit, AppError>>) -> Exit {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            anstream::eprintln!("imagewatch: failed to start the async runtime: {error}");
            return Exit::Incomplete;
        }
    };
    let exit = runtime.block_on(command).unwrap_or_else(|error| report(&error));
    // Do not wait for a guest call that is still running.
    runtime.shutdown_background();
    exit
}

/// Returns a token that the first SIGTERM or Ctrl-C cancels. The second signal ends the process immediately.
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
                #[expect(clippy::exit, reason = "the second signal must end the process immediately")]
                std::process::exit(i32::from(Exit::Interrupted as u8));
            }
            tracing::info!("stopping (send the signal again to stop immediately)");
            token.cancel();
        }
    });
    cancel
}

async fn run(args: &RunArgs, docker_host: Option<&str>, state_dir: Option<&Path>) -> Result<Exit, AppError> {
    let state = StateFolder::open(state_dir)?;
    let cancel = cancelled_by_signals();
    if run_self_update(docker_host, &state, &cancel).await? {
        return Ok(Exit::Success);
    }
    let recorder = args.record.as_deref().map(Recorder::open).transpose()?;
    let app = match App::load(&args.manifests, WaitFor::First, docker_host, state, cancel).await {
        // A signal stopped the program while it was still loading. That is a normal stop.
        Err(AppError::Interrupted) => return Ok(Exit::Success),
        app => app?,
    };
    let token = std::env::var("IMAGEWATCH_ADMIN_TOKEN").ok().map(SecretString::from);
    let cancel = app.cancel();
    let (_alone, listener) = app.take_over(async || open_api(args.admin_listen, token.as_ref()).await).await?;
    let mut running = app.start(args.parallel, recorder);
    if let Some(listener) = listener {
        running.add(serve_api(listener, token, running.control(), cancel));
    }
    running.until_stopped().await;
    Ok(Exit::Success)
}

/// Binds the address of the admin API, unless the API is off.
async fn open_api(listen: Listen, token: Option<&SecretString>) -> Result<Option<TcpListener>, AppError> {
    match listen {
        Listen::Off => Ok(None),
        Listen::On(address) => {
            let bound = api::bind(address, token).await;
            bound.map(Some).map_err(|error| AppError::AdminApi(error.into()))
        }
    }
}

/// Serves the admin API until `cancel` is cancelled.
async fn serve_api(
    listener: TcpListener,
    token: Option<SecretString>,
    control: Arc<dyn Control>,
    cancel: CancellationToken,
) {
    if let Ok(address) = listener.local_addr() {
        info!(%address, "admin API listens");
    }
    if let Err(error) = api::serve(listener, token, control, cancel).await {
        error!("failed to serve the admin API: {error}");
    }
}

async fn check(args: &CheckArgs, docker_host: Option<&str>, state_dir: Option<&Path>) -> Result<Exit, AppError> {
    let cancel = cancelled_by_signals();
    let state = StateFolder::open_to_look(state_dir);
    let app = App::load(&args.manifests, WaitFor::All, docker_host, state, cancel.clone()).await?;
    let checked = app.check().await;
    if args.json {
        print_json(&checked)?;
    } else {
        if !checked.images.is_empty() || checked.errors.is_empty() {
            print(&render::check_table(&checked.images))?;
        }
        if args.all {
            print(&render::unwatched_table(&checked.not_watched))?;
        }
        for explanation in &checked.explanations {
            anstream::eprintln!("imagewatch: {explanation}");
        }
        for error in &checked.errors {
            report_manifest(error);
        }
    }
    Ok(if cancel.is_cancelled() { Exit::Interrupted } else { checked.exit() })
}

async fn refresh(args: &RefreshArgs, docker_host: Option<&str>, state_dir: Option<&Path>) -> Result<Exit, AppError> {
    let cancel = cancelled_by_signals();
    let state = StateFolder::open(state_dir)?;
    let app = App::load(&args.manifests, WaitFor::All, docker_host, state, cancel.clone()).await?;
    let is_watched = std::io::stderr().is_terminal() && !args.json;
    let (screen, observer) = progress::bars();
    let observer = if is_watched { observer } else { no_progress() };
    let refreshed = app.refresh(&args.names, !args.no_recreate, args.parallel, &observer).await?;
    // A terminal that cannot clear the progress bars is not an error.
    let _ = screen.clear();
    if args.json {
        print_json(&refreshed)?;
    } else {
        if !refreshed.reports.is_empty() || !refreshed.outcomes.is_empty() || refreshed.errors.is_empty() {
            print(&render::refresh_summary(&refreshed.outcomes, &refreshed.reports))?;
        }
        for error in &refreshed.errors {
            report_manifest(error);
        }
    }
    Ok(if cancel.is_cancelled() { Exit::Interrupted } else { refreshed.exit() })
}

fn history(args: &HistoryArgs, state_dir: Option<&Path>) -> Result<Exit, AppError> {
    let store = StateFolder::open(state_dir)?.store;
    let query = HistoryQuery { manifest: args.manifest.clone(), target: args.target.clone(), limit: args.limit };
    let happened = list_history(&store, &query)?;
    if args.json {
        print_json(&happened)?;
    } else {
        print(&render::history_table(&happened.history, now_ms()))?;
    }
    Ok(Exit::Success)
}

fn forget_state(manifest: &str, state_dir: Option<&Path>) -> Result<Exit, AppError> {
    forget(&StateFolder::open_to_change(state_dir)?, manifest)?;
    print(&format!("forgot what the policy of {manifest} has seen\n"))?;
    Ok(Exit::Success)
}

fn quarantine(command: &QuarantineCommand, state_dir: Option<&Path>) -> Result<Exit, AppError> {
    match command {
        QuarantineCommand::List { json } => {
            let listed = list_quarantine(&StateFolder::open(state_dir)?.store)?;
            if *json { print_json(&listed)? } else { print(&render::quarantine_table(&listed.quarantine, now_ms()))? }
        }
        QuarantineCommand::Clear(ClearArgs { targets, manifest, all: _, json }) => {
            let store = StateFolder::open_to_change(state_dir)?.store;
            let cleared = clear_quarantine(&store, manifest.as_deref(), targets)?;
            if *json { print_json(&cleared)? } else { print(&render::cleared_lines(&cleared.quarantine))? }
        }
    }
    Ok(Exit::Success)
}

fn replay_transcript(args: &ReplayArgs) -> Result<Exit, AppError> {
    let ReplayArgs { file, plugin, manifest, config, json } = args.clone();
    let replayed = replay(&ReplayRequest { file, plugin, manifest, config })?;
    if json {
        print_json(&replayed)?;
    } else {
        print(&render::replay_table(&replayed, now_ms()))?;
    }
    let is_same = replayed.differences.is_empty() && replayed.faults.is_empty();
    Ok(if is_same { Exit::Success } else { Exit::Incomplete })
}

fn plugin(command: &PluginCommand, state_dir: Option<&Path>) -> Result<Exit, AppError> {
    match command {
        PluginCommand::Replay(args) => replay_transcript(args),
        PluginCommand::Inspect { file, manifest, json } => {
            let inspected = inspect_module(file, manifest.as_deref())?;
            if *json {
                print_json(&inspected)?;
            } else {
                print(&render::module_portrait(&inspected))?;
            }
            Ok(if inspected.refused.is_none() { Exit::Success } else { Exit::Policy })
        }
        PluginCommand::Rollback { name, json } => {
            let rolled_back = roll_back_policy(state_dir, name)?;
            if *json {
                print_json(&rolled_back)?;
            } else {
                print(&render::rolled_back_line(&rolled_back))?;
            }
            Ok(Exit::Success)
        }
    }
}

/// Prints a result to standard output. Colours are stripped if standard output does not support them.
///
/// # Errors
/// [`AppError::Output`] if the write fails. A closed pipe is not an error.
fn print(text: &str) -> Result<(), AppError> {
    let mut stdout = anstream::stdout();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(AppError::Output(error)),
        _ => Ok(()),
    }
}

fn print_json(value: &impl Serialize) -> Result<(), AppError> {
    let text = serde_json::to_string_pretty(value).map_err(|error| AppError::Output(error.into()))?;
    print(&(text + "\n"))
}
