//! The program's exit codes. `--help` and the README show the same table; a test compares them.

use std::process::ExitCode;

use imagewatch_engine::EngineError;
use imagewatch_policy::{PluginError, RollbackError};

use crate::daemon::AppError;
use crate::store::state_dir::StateDirError;

/// How the program ended, as its exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// The command did all that was requested.
    Success = 0,
    /// Something was not done: a check found an unknown image, a refresh failed, nothing existed to clear, forget or
    /// roll back, or a replay decided differently.
    Incomplete = 1,
    /// The command line is invalid (clap uses the same code), or it names an unknown target or manifest.
    Usage = 2,
    /// A manifest, a config key, an environment variable, a file or the state folder cannot be used.
    Config = 3,
    /// A policy was refused, or its call failed.
    Policy = 4,
    /// The container engine cannot be reached.
    Engine = 5,
    /// The admin API cannot listen.
    Admin = 6,
    /// Another imagewatch uses the state folder or the engine.
    AlreadyRuns = 7,
    /// A part of this program panicked, which is a bug in imagewatch.
    Panicked = 101,
    /// A signal interrupted the command before it finished.
    Interrupted = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// The exit codes as text, for `--help`. Each line after the first holds one code and its meaning.
pub const TABLE: &str = "Exit codes:
  0    success
  1    incomplete: an unknown image, a failed refresh, nothing to clear, forget or roll back, or a replay that differs
  2    invalid command line, or unknown target or manifest name
  3    a manifest, a config key, an environment variable, a file or the state folder cannot be used
  4    a policy was refused, or its call failed
  5    the container engine cannot be reached
  6    the admin API cannot listen
  7    another imagewatch uses this state folder or engine
  101  a part of imagewatch panicked: please report this bug
  130  interrupted before it finished";

impl AppError {
    /// The exit code for this error.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Plugin(PluginError::Manifest(_)) | Self::SameName(_) | Self::Credential(_) | Self::Http(_) => {
                Exit::Config
            }
            Self::Plugin(_) | Self::NoModule { .. } | Self::Panicked(..) | Self::TooSlow(..) => Exit::Policy,
            Self::Interrupted => Exit::Interrupted,
            Self::Engine(EngineError::Address(_))
            | Self::Inspect(_)
            | Self::Rollback(RollbackError::Refused { .. }) => Exit::Config,
            Self::Engine(_) => Exit::Engine,
            Self::AdminApi(_) => Exit::Admin,
            Self::StateDir(StateDirError::Taken { .. }) | Self::OtherUpdater(_) => Exit::AlreadyRuns,
            Self::StateDir(_) | Self::Store(_) | Self::Transcript(_) => Exit::Config,
            Self::NoHistory(_) => Exit::Usage,
            Self::NotBarred { .. }
            | Self::NothingKept(_)
            | Self::SelfUpdate(_)
            | Self::Rollback(_)
            | Self::Output(_) => Exit::Incomplete,
        }
    }
}
