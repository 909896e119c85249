//! Why a source of credentials cannot be used. Names files, variables and programs, never what is in them.

use thiserror::Error;

/// A source that may have a registry's credential cannot be read. It concerns that registry alone.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CredentialError {
    /// A file, or an entry of one.
    #[error("read {source_name}: {reason}")]
    Unreadable {
        /// The file, or the variable that names it.
        source_name: String,
        /// What is wrong with it, and what to do.
        reason: String,
    },
}
