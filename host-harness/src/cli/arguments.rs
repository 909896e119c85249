//! The command line's arguments. Their doc comments are the text of `--help`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::builder::Resettable;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

/// Keeps running containers on the image that their tag points to.
///
/// A sandboxed WebAssembly policy makes every decision. A manifest names the policy and the hosts,
/// images and containers that the policy may use. Without a manifest, imagewatch uses its built-in
/// manifest: it watches every running container with the label imagewatch.enable=true.
#[derive(Debug, Parser)]
#[command(name = "imagewatch", version, after_help = crate::cli::exit_code::TABLE, max_term_width = 100)]
pub struct Cli {
    /// The command to run.
    #[command(subcommand)]
    pub command: Command,
    /// Format of the log lines. They go to standard error.
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text, env = "IMAGEWATCH_LOG_FORMAT")]
    pub log_format: LogFormat,
    /// Log level (error, warn, info, debug, trace), or a filter such as `imagewatch=debug`
    /// [default: info for `run`, warn for other commands].
    #[arg(long, global = true, value_name = "FILTER", env = "IMAGEWATCH_LOG")]
    pub log: Option<String>,
    /// When to use colours.
    #[arg(long, global = true, value_enum, default_value_t = Color::Auto)]
    pub color: Color,
    /// Address of the container engine, with `unix://` or `tcp://` [default: `unix:///var/run/docker.sock`].
    #[arg(long, global = true, value_name = "URL", env = "DOCKER_HOST")]
    pub docker_host: Option<String>,
    /// Folder for data that persists across restarts: quarantine, history and policy state
    /// [default: /var/lib/imagewatch for root, else `$XDG_STATE_HOME/imagewatch` or
    /// `~/.local/state/imagewatch`].
    #[arg(long, global = true, value_name = "DIR", env = "IMAGEWATCH_STATE_DIR")]
    pub state_dir: Option<PathBuf>,
    /// Allow core dumps. A core dump contains every credential that imagewatch has read.
    #[arg(long, global = true, env = "IMAGEWATCH_ALLOW_CORE_DUMPS")]
    pub allow_core_dumps: bool,
}

impl Cli {
    /// Reads the command line, and the environment for options that the command line does not set.
    ///
    /// Ends the program on an error, and on `--help` and `--version`.
    pub fn read() -> Self {
        // The usage line of an error lists every option that has a value. An option that only the environment sets
        // would look required there, so the first attempt ignores the environment.
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
    /// Watch images continuously, and replace containers when their tag moves.
    ///
    /// SIGTERM and Ctrl-C stop imagewatch. A replacement that is in progress gets up to 25 seconds to
    /// finish safely. A second signal stops imagewatch immediately. When the files of a policy or
    /// manifest change, imagewatch reloads them. SIGHUP reloads them too.
    Run(RunArgs),
    /// Show what each image runs and what its registry has. Changes nothing.
    Check(CheckArgs),
    /// Pull images now, and replace the containers that run another image than their tag points to.
    ///
    /// Pulls the tag that a container uses now, and never chooses a newer tag. With the strategy
    /// `remove`, every container on the image is removed. With `pull-only` and `notify`, no container
    /// is changed.
    Refresh(RefreshArgs),
    /// Show past events: first seen, moved, committed, rolled back, held, or refreshed manually.
    History(HistoryArgs),
    /// Delete what the policy of a manifest has seen.
    ///
    /// At its next poll, the policy treats every image as seen for the first time. The quarantine does
    /// not change. The command fails while `imagewatch run` uses the state folder.
    Forget {
        /// Name of the manifest: its file name without the extension.
        manifest: String,
    },
    /// Show or clear the digests that failed and are not tried again.
    #[command(subcommand)]
    Quarantine(QuarantineCommand),
    /// Inspect, roll back and replay policies.
    #[command(subcommand)]
    Plugin(PluginCommand),
    /// Print a completion script for a shell.
    Completions {
        /// The shell.
        shell: Shell,
    },
}

/// Arguments of `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Manifest files [default: the built-in manifest].
    pub manifests: Vec<PathBuf>,
    /// Address and port of the admin API, or `off`. An address that is not loopback requires a token
    /// in the environment variable `IMAGEWATCH_ADMIN_TOKEN`.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7676", env = "IMAGEWATCH_ADMIN_LISTEN", value_parser = parse_listen)]
    pub admin_listen: Listen,
    /// Maximum number of refreshes that run at the same time.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub parallel: u16,
    /// Record every policy call in this file, for `plugin replay`.
    ///
    /// The file contains no credentials and no tokens. It does contain the manifest's config, and the
    /// names, labels and images of containers.
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,
}

/// Arguments of `check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Manifest files [default: the built-in manifest].
    pub manifests: Vec<PathBuf>,
    /// Also show the containers that are not watched, and the reasons.
    #[arg(long)]
    pub all: bool,
    /// Print JSON instead of a table. The JSON always includes the containers that are not watched.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `refresh`.
#[derive(Debug, Args)]
pub struct RefreshArgs {
    /// Targets to refresh: names, images or containers, as `check` shows them [default: all targets].
    #[arg(value_name = "NAME")]
    pub names: Vec<String>,
    /// Manifest file; may be repeated [default: the built-in manifest].
    #[arg(long = "manifest", value_name = "MANIFEST")]
    pub manifests: Vec<PathBuf>,
    /// Only pull. Do not replace or remove containers.
    #[arg(long)]
    pub no_recreate: bool,
    /// Maximum number of refreshes that run at the same time.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub parallel: u16,
    /// Print JSON instead of a summary.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `history`.
#[derive(Debug, Args)]
pub struct HistoryArgs {
    /// Show only events of this target.
    pub target: Option<String>,
    /// Show only events of the manifest with this name.
    #[arg(long, value_name = "NAME")]
    pub manifest: Option<String>,
    /// Number of events to show, newest first.
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub limit: u32,
    /// Print JSON instead of a table.
    #[arg(long)]
    pub json: bool,
}

/// Subcommands of `quarantine`.
#[derive(Debug, Subcommand)]
pub enum QuarantineCommand {
    /// Show every quarantined digest, with its target, the reason, and when it is tried again.
    List {
        /// Print JSON instead of a table.
        #[arg(long)]
        json: bool,
    },
    /// Remove digests from quarantine, so that the next poll tries them again.
    ///
    /// If one of the named targets is not in quarantine, the command fails and clears nothing.
    Clear(ClearArgs),
}

/// Arguments of `quarantine clear`.
#[derive(Debug, Args)]
pub struct ClearArgs {
    /// Targets, as `quarantine list` shows them.
    #[arg(value_name = "TARGET", required_unless_present = "all")]
    pub targets: Vec<String>,
    /// Clear only the entries of the manifest with this name.
    #[arg(long, value_name = "NAME")]
    pub manifest: Option<String>,
    /// Clear all targets.
    #[arg(long, conflicts_with = "targets")]
    pub all: bool,
    /// Print JSON instead of text.
    #[arg(long)]
    pub json: bool,
}

/// Subcommands of `plugin`.
#[derive(Debug, Subcommand)]
pub enum PluginCommand {
    /// Show a policy module: exports, imports, ABI version, size, hash, requested capabilities and config keys.
    ///
    /// Also shows whether imagewatch would load the module, and why not.
    Inspect {
        /// The wasm file.
        file: PathBuf,
        /// Also show what this manifest grants, and check whether the module loads with this manifest.
        #[arg(long, value_name = "MANIFEST")]
        manifest: Option<PathBuf>,
        /// Print JSON instead of text.
        #[arg(long)]
        json: bool,
    },
    /// Restore the module file and the manifest file of the last policy that worked.
    ///
    /// If the files differ from those of the policy in use, the files of the policy in use are
    /// restored. Otherwise, the files of the previous policy are restored. A running imagewatch loads
    /// the restored files automatically. A second rollback undoes the first one.
    Rollback {
        /// Name of the manifest: its file name without the extension.
        name: String,
        /// Print JSON instead of text.
        #[arg(long)]
        json: bool,
    },
    /// Show what another policy would have decided, from a recording of `run --record`. Changes nothing.
    ///
    /// Exits with code 1 if the other policy decides anything differently.
    Replay(ReplayArgs),
}

/// Arguments of `plugin replay`.
#[derive(Debug, Clone, Args)]
pub struct ReplayArgs {
    /// The file that `run --record` wrote.
    pub file: PathBuf,
    /// The wasm file of the policy to try.
    #[arg(long, value_name = "FILE")]
    pub plugin: PathBuf,
    /// Name of the recorded manifest to replay. Required if the file contains several manifests.
    #[arg(long, value_name = "NAME")]
    pub manifest: Option<String>,
    /// Config value for the policy. Takes precedence over the recorded value; may be repeated.
    #[arg(long = "config", value_name = "KEY=VALUE", value_parser = parse_config)]
    pub config: Vec<(String, String)>,
    /// Print JSON instead of a table.
    #[arg(long)]
    pub json: bool,
}

/// The format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Plain text.
    Text,
    /// One JSON object per line.
    Json,
}

/// When to use colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// Use colours on a terminal, unless `NO_COLOR` is set.
    Auto,
    /// Always use colours.
    Always,
    /// Never use colours.
    Never,
}

/// Where the admin API listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listen {
    /// The admin API is off.
    Off,
    /// The admin API listens on this address.
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
    fn clap_accepts_the_command_line_definition() {
        Cli::command().debug_assert();
    }

    #[test]
    fn quarantine_clear_requires_targets_or_all_but_not_both() {
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
    fn every_command_and_argument_has_help() {
        fn check_help(command: &clap::Command) {
            assert!(command.get_about().is_some(), "{}", command.get_name());
            for argument in command.get_arguments() {
                assert!(argument.get_help().is_some(), "{} of {}", argument.get_id(), command.get_name());
            }
            command.get_subcommands().for_each(check_help);
        }
        check_help(&Cli::command());
    }
}
