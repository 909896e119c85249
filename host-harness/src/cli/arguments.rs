//! The command line: what can be typed, and the help that teaches it. Does nothing.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::builder::Resettable;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

/// Keeps running containers on the image that their tag points to.
///
/// With no manifest named, every running container with the label imagewatch.enable=true is
/// watched on the local engine. What is decided is decided by a sandboxed WebAssembly policy;
/// a manifest names the policy and what it may touch.
#[derive(Debug, Parser)]
#[command(name = "imagewatch", version, after_help = crate::cli::exit_code::TABLE, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// How log lines are written, to standard error.
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text, env = "IMAGEWATCH_LOG_FORMAT")]
    pub log_format: LogFormat,
    /// Which log lines: error, warn, info, debug, trace, or a tracing filter [default: info; warn for commands that end].
    #[arg(long, global = true, value_name = "FILTER", env = "IMAGEWATCH_LOG")]
    pub log: Option<String>,
    /// When to colour; `auto` heeds the terminal and `NO_COLOR`.
    #[arg(long, global = true, value_enum, default_value_t = Color::Auto)]
    pub color: Color,
    /// The engine: `unix://` or `tcp://` [default: `unix:///var/run/docker.sock`].
    #[arg(long, global = true, value_name = "URL", env = "DOCKER_HOST")]
    pub docker_host: Option<String>,
    /// Where imagewatch keeps what outlives it, its quarantine above all [default: /var/lib/imagewatch
    /// for root, else imagewatch in `$XDG_STATE_HOME` or `~/.local/state`].
    #[arg(long, global = true, value_name = "DIR", env = "IMAGEWATCH_STATE_DIR")]
    pub state_dir: Option<PathBuf>,
    /// Let a crash write a core dump. It holds every credential that imagewatch has read.
    #[arg(long, global = true, env = "IMAGEWATCH_ALLOW_CORE_DUMPS")]
    pub allow_core_dumps: bool,
}

impl Cli {
    /// Reads the command line and, for what it does not set, the environment. Ends the program on an error and on
    /// `--help`.
    pub fn read() -> Self {
        // The usage line of an error lists every option that has a value. So an option that only the environment sets
        // would look required.
        if let Err(error) = without_environment(Self::command()).try_get_matches()
            && error.use_stderr()
        {
            error.exit();
        }
        Self::parse()
    }
}

fn without_environment(command: clap::Command) -> clap::Command {
    command.mut_args(|arg| arg.env(Resettable::Reset)).mut_subcommands(without_environment)
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Watch until told to stop: poll, and refresh what moved.
    ///
    /// SIGTERM and Ctrl-C let a container that is being replaced come to a safe end, for at most
    /// 25 seconds; a second one ends at once. A policy or manifest whose files change is loaded anew
    /// while it runs, and on SIGHUP.
    Run(RunArgs),
    /// Show for every image what runs and what the registry has. Changes nothing.
    Check(CheckArgs),
    /// Pull images now and replace the containers that run another one than their tag names.
    ///
    /// The present tag is pulled: no newer tag is chosen here. With the strategy `remove` every container on the image
    /// is removed, with `pull-only` and `notify` none is touched.
    Refresh(RefreshArgs),
    /// Show what happened: what was seen first, moved, committed, rolled back, held or refreshed by hand.
    History(HistoryArgs),
    /// Forget what a manifest's policy has seen, so that its next poll sees all for the first time. Not while `run` works
    /// on the state folder.
    Forget {
        /// The manifest's name: its file's, without the ending.
        manifest: String,
    },
    /// Show or clear the digests that failed and are not tried again.
    #[command(subcommand)]
    Quarantine(QuarantineCommand),
    /// Look at policies.
    #[command(subcommand)]
    Plugin(PluginCommand),
    /// Write a completion script for a shell to standard output.
    Completions {
        /// The shell.
        shell: Shell,
    },
}

/// Of `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Manifest files; none means the built-in one.
    pub manifests: Vec<PathBuf>,
    /// Where the admin API listens; `off` for nowhere. Elsewhere than on loopback it needs the
    /// token in `IMAGEWATCH_ADMIN_TOKEN`.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7676", env = "IMAGEWATCH_ADMIN_LISTEN", value_parser = parse_listen)]
    pub admin_listen: Listen,
    /// How many refreshes run side by side.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub parallel: u16,
    /// Take down every call of a policy in this file, for `plugin replay`. Credentials and tokens are left out; the
    /// manifest's config, and the names, labels and images of containers are not.
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,
}

/// Of `check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Manifest files; none means the built-in one.
    pub manifests: Vec<PathBuf>,
    /// Show the containers that are not watched as well, and why not.
    #[arg(long)]
    pub all: bool,
    /// Print JSON instead of a table; always with the containers that are not watched.
    #[arg(long)]
    pub json: bool,
}

/// Of `refresh`.
#[derive(Debug, Args)]
pub struct RefreshArgs {
    /// Targets: names, images or containers, as `check` shows them; none means all.
    #[arg(value_name = "NAME")]
    pub names: Vec<String>,
    /// Manifest files; none means the built-in one.
    #[arg(long = "manifest", value_name = "MANIFEST")]
    pub manifests: Vec<PathBuf>,
    /// Only pull; leave containers as they are.
    #[arg(long)]
    pub no_recreate: bool,
    /// How many refreshes run side by side.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub parallel: u16,
    /// Print JSON instead of a summary.
    #[arg(long)]
    pub json: bool,
}

/// Of `history`.
#[derive(Debug, Args)]
pub struct HistoryArgs {
    /// Only what happened to this target.
    pub target: Option<String>,
    /// Only what happened under the manifest of this name.
    #[arg(long, value_name = "NAME")]
    pub manifest: Option<String>,
    /// How many events, the newest.
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub limit: u32,
    /// Print JSON instead of a table.
    #[arg(long)]
    pub json: bool,
}

/// Of `quarantine`.
#[derive(Debug, Subcommand)]
pub enum QuarantineCommand {
    /// Show every digest that is held back, for which target, why, and until when.
    List {
        /// Print JSON instead of a table.
        #[arg(long)]
        json: bool,
    },
    /// Take digests out, so that the next poll tries them again.
    ///
    /// A target that is not in quarantine is an error, and nothing is taken out then.
    Clear(ClearArgs),
}

/// Of `quarantine clear`.
#[derive(Debug, Args)]
pub struct ClearArgs {
    /// Targets, as `quarantine list` shows them.
    #[arg(value_name = "TARGET", required_unless_present = "all")]
    pub targets: Vec<String>,
    /// Only what is barred under the manifest of this name.
    #[arg(long, value_name = "NAME")]
    pub manifest: Option<String>,
    /// Whatever is barred.
    #[arg(long, conflicts_with = "targets")]
    pub all: bool,
    /// Print JSON instead of lines.
    #[arg(long)]
    pub json: bool,
}

/// Of `plugin`.
#[derive(Debug, Subcommand)]
pub enum PluginCommand {
    /// Show a module's exports, imports, ABI version, size, hash and config keys, what it asks for, and whether it would be loaded.
    Inspect {
        /// The wasm file.
        file: PathBuf,
        /// Show what it asks for beside what this manifest grants, and whether it would be loaded under it.
        #[arg(long, value_name = "MANIFEST")]
        manifest: Option<PathBuf>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Put the files of the last policy of a manifest that worked back: module and manifest.
    ///
    /// That is the one at work, if the files are others by now, else the one before. A running
    /// imagewatch loads them by itself. Twice is there and back.
    Rollback {
        /// The manifest's name: its file without the ending.
        name: String,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Show what another policy would have decided on the days that `run --record` took down. Touches nothing.
    ///
    /// Ends with exit code 1 when it would have decided anything differently.
    Replay(ReplayArgs),
}

/// Of `plugin replay`.
#[derive(Debug, Clone, Args)]
pub struct ReplayArgs {
    /// The transcript.
    pub file: PathBuf,
    /// The wasm file to try.
    #[arg(long, value_name = "FILE")]
    pub plugin: PathBuf,
    /// Which manifest of the transcript; needed when there are several.
    #[arg(long, value_name = "NAME")]
    pub manifest: Option<String>,
    /// Config for the policy, before what was recorded; may be given again.
    #[arg(long = "config", value_name = "KEY=VALUE", value_parser = parse_config)]
    pub config: Vec<(String, String)>,
    /// Print JSON instead of a table.
    #[arg(long)]
    pub json: bool,
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// When to colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// On a terminal, unless `NO_COLOR` is set.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// Where the admin API listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listen {
    /// Nowhere.
    Off,
    /// There.
    On(SocketAddr),
}

fn parse_config(text: &str) -> Result<(String, String), String> {
    let (key, value) =
        text.split_once('=').ok_or_else(|| "expected a key and a value, as in interval=5m".to_owned())?;
    Ok((key.to_owned(), value.to_owned()))
}

fn parse_listen(text: &str) -> Result<Listen, String> {
    match text {
        "off" => Ok(Listen::Off),
        _ => text
            .parse()
            .map(Listen::On)
            .map_err(|_| "expected an address with a port, such as 127.0.0.1:7676, or `off`".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn clearing_says_what_is_to_be_cleared() {
        for (args, is_good) in [
            (&["clear", "web", "db", "--manifest", "apps"][..], true),
            (&["clear", "--all", "--manifest", "apps", "--json"], true),
            (&["clear"], false),
            (&["clear", "--manifest", "apps"], false),
            (&["clear", "web", "--all"], false),
        ] {
            let parsed = Cli::try_parse_from([&["imagewatch", "quarantine"], args].concat());
            assert_eq!(parsed.is_ok(), is_good, "{args:?}");
        }
    }

    #[test]
    fn every_argument_is_explained() {
        fn explained(command: &clap::Command) {
            assert!(command.get_about().is_some(), "{}", command.get_name());
            for argument in command.get_arguments() {
                assert!(argument.get_help().is_some(), "{} of {}", argument.get_id(), command.get_name());
            }
            command.get_subcommands().for_each(explained);
        }
        explained(&Cli::command());
    }
}
