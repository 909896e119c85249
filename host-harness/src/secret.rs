//! What a credential is inside the host: the one vocabulary that the adapters share.
//! Holds no credential itself and knows no source of them.

use secrecy::SecretString;

/// A user name and password for one registry. `Debug` shows neither the password nor anything derived from it.
#[derive(Debug, Clone)]
pub struct Credential {
    /// Sent in clear to the registry, and shown in logs.
    pub username: String,
    /// Redacted everywhere but on the wire.
    pub password: SecretString,
}
