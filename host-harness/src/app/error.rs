//! Why a command came to nothing, and the exit code that goes with it. Prints nothing.

use std::time::Duration;

use thiserror::Error;

use crate::admin::AdminError;
use crate::credentials::env::CredentialEnvError;
use crate::engine::EngineError;
use crate::exit_code::Exit;
use crate::http::client::HttpClientError;
use crate::plugin::{PluginError, RollbackError};
use crate::replace::ReplaceError;
use crate::state_dir::StateDirError;
use crate::store::StoreError;
use crate::text::Untrusted;
use crate::transcript::TranscriptError;

/// Why a command came to nothing.
#[derive(Debug, Error)]
pub enum AppError {
    /// A manifest or its policy.
    #[error(transparent)]
    Plugin(#[from] PluginError),
    /// Another updater runs on the engine.
    #[error(
        "work on this engine: the updater in container {0} does so already; stop that one, ask it instead, or take its label imagewatch.updater away"
    )]
    OtherUpdater(String),
    /// Two manifests with one name.
    #[error("load manifest {0}: another one has the same file name; rename one of them")]
    SameName(String),
    /// A manifest whose policy takes too long.
    #[error(
        "load manifest {0}: its policy was not compiled and described within {1:?}; is this machine busy? if not, use a smaller policy"
    )]
    TooSlow(String, Duration),
    /// The program was told to stop.
    #[error("load the manifests: imagewatch was interrupted")]
    Interrupted,
    /// A manifest that made this program panic.
    #[error("load manifest {0}: the host panicked ({1}); please report it")]
    Panicked(String, String),
    /// A credential variable.
    #[error(transparent)]
    Credential(#[from] CredentialEnvError),
    /// The HTTP client.
    #[error(transparent)]
    Http(#[from] HttpClientError),
    /// The engine's address, or the engine.
    #[error("use the container engine: {0}")]
    Engine(#[from] EngineError),
    /// The admin API.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// The state folder.
    #[error(transparent)]
    StateDir(#[from] StateDirError),
    /// A helper's errand.
    #[error("replace the updater: {0}")]
    Errand(#[from] ReplaceError),
    /// The store in it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A transcript.
    #[error(transparent)]
    Transcript(#[from] TranscriptError),
    /// A file to look at.
    #[error("{0}")]
    Inspect(String),
    /// A file that is no module.
    #[error("inspect {file}: {reason}")]
    NoModule {
        /// The file.
        file: String,
        /// Why. Quotes the module.
        reason: Untrusted,
    },
    /// No files of a policy to put back.
    #[error(transparent)]
    Rollback(#[from] RollbackError),
    /// No state to forget.
    #[error("forget what was seen: nothing is kept for manifest {0}; the name is its file's, without the ending")]
    NothingKept(String),
    /// A result that cannot be written.
    #[error("write the result to standard output: {0}")]
    Output(std::io::Error),
    /// Nothing happened to what was asked for.
    #[error("show the history of {0}")]
    NoHistory(String),
    /// There is nothing to clear.
    #[error("clear {target}: it is not in quarantine{under}; in quarantine: {known}")]
    NotBarred {
        /// What was asked for.
        target: String,
        /// Where it was looked for, unless everywhere.
        under: String,
        /// What could have been asked for.
        known: String,
    },
}

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
            Self::Admin(_) => Exit::Admin,
            Self::StateDir(StateDirError::Taken { .. }) | Self::OtherUpdater(_) => Exit::AlreadyRuns,
            Self::StateDir(_) | Self::Store(_) | Self::Transcript(_) => Exit::Config,
            Self::NoHistory(_) => Exit::Usage,
            Self::NotBarred { .. } | Self::NothingKept(_) | Self::Errand(_) | Self::Rollback(_) | Self::Output(_) => {
                Exit::Incomplete
            }
        }
    }
}
