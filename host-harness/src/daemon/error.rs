//! Why a command failed. Prints nothing.

use std::error::Error;
use std::time::Duration;

use crate::store::StoreError;
use crate::store::state_dir::StateDirError;
use imagewatch_base::text::Untrusted;
use imagewatch_engine::EngineError;
use imagewatch_policy::transcript::TranscriptError;
use imagewatch_policy::{PluginError, RollbackError};
use imagewatch_registry::client::HttpClientError;
use imagewatch_registry::credentials::env::CredentialEnvError;
use imagewatch_rollout::ReplaceError;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
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
    /// The address of the admin API.
    #[error("{0}")]
    AdminApi(Box<dyn Error + Send + Sync>),
    /// The state folder.
    #[error(transparent)]
    StateDir(#[from] StateDirError),
    /// A helper's errand.
    #[error("replace the updater: {0}")]
    SelfUpdate(#[from] ReplaceError),
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
