//! What a credential is inside the host: the one vocabulary that the adapters share.
//! Holds no credential itself and knows no source of them.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::LazyLock;

use secrecy::{ExposeSecret, SecretString};

/// What one registry lets in. `Debug` shows no secret nor anything derived from one.
#[derive(Debug, Clone)]
pub enum Credential {
    /// A user name and a password, or whatever a registry takes in their place.
    Basic {
        /// Sent in clear to the registry, and shown in logs.
        username: String,
        /// Redacted everywhere but on the wire.
        password: SecretString,
    },
    /// An OAuth refresh token, which only a token realm takes, by POST. Docker keeps it under the user name `<token>`.
    IdentityToken(SecretString),
    /// A bearer token, ready for the registry itself.
    RegistryToken(SecretString),
}

impl Credential {
    /// The user name that credential helpers give to an identity token.
    pub const IDENTITY_TOKEN_USER: &str = "<token>";

    /// A user name and a password.
    pub fn basic(username: impl Into<String>, password: impl Into<SecretString>) -> Self {
        Self::Basic { username: username.into(), password: password.into() }
    }

    /// What a user name and a secret mean together: [`IDENTITY_TOKEN_USER`](Self::IDENTITY_TOKEN_USER) marks an
    /// identity token.
    pub fn from_login(username: &str, secret: SecretString) -> Self {
        match username {
            Self::IDENTITY_TOKEN_USER => Self::IdentityToken(secret),
            _ => Self::basic(username, secret),
        }
    }

    /// Names this credential without telling anything of it: equal ones have equal ids, until the process ends.
    pub fn id(&self) -> String {
        static KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);
        let parts = match self {
            Self::Basic { username, password } => ("basic", username.as_str(), password.expose_secret()),
            Self::IdentityToken(token) => ("identity", "", token.expose_secret()),
            Self::RegistryToken(token) => ("registry", "", token.expose_secret()),
        };
        format!("{:016x}", KEY.hash_one(parts))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_tells_credentials_apart_and_nothing_else() {
        let all = [
            Credential::basic("me", "canary-1"),
            Credential::basic("me", "canary-2"),
            Credential::basic("you", "canary-1"),
            Credential::basic("mecanary", "-1"),
            Credential::from_login("<token>", "canary-1".into()),
            Credential::RegistryToken("canary-1".into()),
        ];
        for (n, one) in all.iter().enumerate() {
            for (m, other) in all.iter().enumerate() {
                assert_eq!(one.id() == other.clone().id(), n == m, "{one:?} {other:?}");
            }
            let shown = format!("{one:?} {}", one.id());
            assert!(!shown.contains("canary-"), "{shown}");
        }
        assert!(matches!(all[4], Credential::IdentityToken(_)));
    }
}
