//! Why a source of credentials cannot be used. Names files, variables and programs, never what is in them.

use thiserror::Error;

/// A source that may have a registry's credential cannot be used. It concerns the registries that it may have one
/// for, and no other.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CredentialError {
    /// A file, or an entry of one.
    #[error("read credentials from {origin}: {reason}")]
    Unreadable {
        /// The file, or the variable that names it or holds its text.
        origin: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A program that Docker's configuration names.
    #[error("ask docker-credential-{helper} for {registry}: {reason}")]
    Helper {
        /// The program's name, without its prefix.
        helper: String,
        /// Whose credential was asked for.
        registry: String,
        /// What went wrong.
        reason: String,
    },
    /// AWS, or the way to keys for it.
    #[error("get a token for {registry} from AWS: {reason}")]
    Aws {
        /// Whose token was asked for.
        registry: String,
        /// What went wrong.
        reason: String,
    },
}
