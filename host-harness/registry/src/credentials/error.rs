//! Errors of credential sources. They name files, variables and programs, but never show their content.

use thiserror::Error;

/// A source that may contain a registry's credential cannot be used. The error affects only the registries that the
/// source may contain.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CredentialError {
    /// A file, a variable or an entry of one cannot be read.
    #[error("read credentials from {origin}: {reason}")]
    Unreadable {
        /// The file, or the variable that names the file or contains its text.
        origin: String,
        /// What is wrong.
        reason: String,
    },
    /// A credential helper in Docker's configuration failed.
    #[error("ask docker-credential-{helper} for {registry}: {reason}")]
    Helper {
        /// The name of the helper, without `docker-credential-`.
        helper: String,
        /// The registry of the requested credential.
        registry: String,
        /// What went wrong.
        reason: String,
    },
    /// No token was received from AWS, or the machine has no AWS keys.
    #[error("get a token for {registry} from AWS: {reason}")]
    Aws {
        /// The registry of the requested token.
        registry: String,
        /// What went wrong.
        reason: String,
    },
}
