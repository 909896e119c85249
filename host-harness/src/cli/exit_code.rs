//! What the program's exit codes mean. The same table stands in `--help` and the README.

use std::process::ExitCode;

use imagewatch_engine::EngineError;
use imagewatch_policy::{PluginError, RollbackError};

use crate::daemon::AppError;
use crate::store::state_dir::StateDirError;

/// Exit codes, and nothing else: what is printed beside them is not decided here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// All went well.
    Success = 0,
    /// Something was left undone: a target unknown in a check, failed in a refresh, not there to be cleared, forgotten or
    /// rolled back to; or a replay decided otherwise.
    Incomplete = 1,
    /// The command line makes no sense, clap's own; or names a target to refresh, or a target or manifest to look up, that nobody knows.
    Usage = 2,
    /// A manifest, a config key, an environment variable or the state folder cannot be used.
    Config = 3,
    /// A policy was refused, or faulted.
    Policy = 4,
    /// The container engine cannot be reached.
    Engine = 5,
    /// The admin API cannot listen.
    Admin = 6,
    /// Another `imagewatch run` has the state folder.
    AlreadyRuns = 7,
    /// A part of this program panicked, which is a bug of this program.
    Panicked = 101,
    /// Interrupted before it was done.
    Interrupted = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// The table for people.
pub const TABLE: &str = "Exit codes:
  0    all went well
  1    left undone: unknown in a check, failed in a refresh, not there to clear, forget or go back to, other in a replay
  2    the command line makes no sense; a target to refresh or a name to look up that nobody knows
  3    a manifest, a config key, an environment variable or the state folder cannot be used
  4    a policy was refused, or faulted
  5    the container engine cannot be reached
  6    the admin API cannot listen
  7    another imagewatch runs on this state folder or engine
  101  a part of imagewatch panicked: please report it
  130  interrupted before it was done";

impl AppError {
    /// The exit code that goes with it.
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
            Self::NotBarred { .. } | Self::NothingKept(_) | Self::Errand(_) | Self::Rollback(_) | Self::Output(_) => {
                Exit::Incomplete
            }
        }
    }
}
