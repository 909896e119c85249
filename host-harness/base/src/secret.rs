//! The credential type that the engine and the registry crates share, and redaction of credentials in text.
//! This module stores no credentials and reads none from disk.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::BuildHasher;
use std::sync::LazyLock;

use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use zeroize::{Zeroize, Zeroizing};

/// A credential for one registry. `Debug` shows neither a secret nor anything derived from it.
#[derive(Debug, Clone)]
pub enum Credential {
    /// A user name and a password, or what a registry accepts instead of a password.
    Basic {
        /// The user name. It is not secret and appears in logs.
        username: String,
        /// The password. It is redacted everywhere except in requests.
        password: SecretString,
    },
    /// An OAuth refresh token. Only a token realm accepts it, in a POST request. Docker stores it under the user name
    /// `<token>`.
    IdentityToken(SecretString),
    /// A bearer token that the registry itself accepts.
    RegistryToken(SecretString),
}

/// The minimum length of a credential that is redacted in text, in bytes.
const MIN_REDACTED_LEN: usize = 8;

impl Credential {
    /// The user name that credential helpers return together with an identity token.
    pub const IDENTITY_TOKEN_USER: &str = "<token>";

    /// Creates a [`Basic`](Self::Basic) credential.
    pub fn basic(username: impl Into<String>, password: impl Into<SecretString>) -> Self {
        Self::Basic { username: username.into(), password: password.into() }
    }

    /// Creates a credential from a user name and a secret. The user name
    /// [`IDENTITY_TOKEN_USER`](Self::IDENTITY_TOKEN_USER) marks the secret as an identity token.
    pub fn from_login(username: &str, secret: SecretString) -> Self {
        match username {
            Self::IDENTITY_TOKEN_USER => Self::IdentityToken(secret),
            _ => Self::basic(username, secret),
        }
    }

    /// Replaces this credential in `text` by `[redacted]`, both in plain form and in the encodings used in requests. A
    /// registry may return the credential that it received, and the engine repeats the registry's answer.
    pub fn hide_in(&self, text: &str) -> String {
        let (login, secret) = match self {
            Self::Basic { username, password } => {
                let login = Zeroizing::new(format!("{username}:{}", password.expose_secret()));
                (Some(login), password.expose_secret())
            }
            Self::IdentityToken(token) | Self::RegistryToken(token) => (None, token.expose_secret()),
        };
        let encode = |login: &Zeroizing<String>| [STANDARD.encode(&**login), URL_SAFE.encode(&**login)];
        let encoded = login.iter().flat_map(encode).map(Zeroizing::new);
        let percent = Zeroizing::new(url::form_urlencoded::byte_serialize(secret.as_bytes()).collect());
        let plain = Zeroizing::new(secret.to_owned());
        // A shorter secret may occur in ordinary words. Redacting those words would garble the text.
        let shapes =
            encoded.chain([plain, percent]).filter(|shape: &Zeroizing<String>| shape.len() >= MIN_REDACTED_LEN);
        shapes.fold(text.to_owned(), |text, shape| text.replace(shape.as_str(), "[redacted]"))
    }

    /// An id that reveals nothing about the credential. Within one process, equal credentials have equal ids.
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

/// A JSON document that contains secrets. Dropping it overwrites all of its strings. `Debug` shows no content.
pub struct SecretJson(Value);

impl SecretJson {
    /// Parses a document.
    ///
    /// # Errors
    /// Returns an error if `bytes` is not JSON. The error may quote the document, so never show it.
    pub fn parse(bytes: &[u8]) -> serde_json::Result<Self> {
        serde_json::from_slice(bytes).map(Self)
    }

    /// Gives access to the document and its secrets.
    pub fn expose(&self) -> &Value {
        &self.0
    }
}

impl fmt::Debug for SecretJson {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretJson").finish_non_exhaustive()
    }
}

impl Drop for SecretJson {
    fn drop(&mut self) {
        wipe(&mut self.0);
    }
}

/// Overwrites every string in `value`.
fn wipe(value: &mut Value) {
    match value {
        Value::String(text) => text.zeroize(),
        Value::Array(values) => values.iter_mut().for_each(wipe),
        Value::Object(fields) => fields.values_mut().for_each(wipe),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Replaces the token after each `Basic` and `Bearer` in `text` by `[redacted]`. Such a token can appear in an error
/// that quotes a request of another program, for example of the engine.
pub fn redact_tokens(text: &str) -> String {
    let mut is_after_scheme = false;
    let hide = |word: &str| {
        let is_token_char = |c: char| c.is_ascii_alphanumeric() || "-._~+/=".contains(c);
        let (token, rest) = word.split_at(word.find(|c| !is_token_char(c)).unwrap_or(word.len()));
        let is_token = is_after_scheme && token.len() >= MIN_REDACTED_LEN;
        let scheme = word.trim_start_matches(|c: char| !c.is_ascii_alphabetic());
        is_after_scheme = scheme.eq_ignore_ascii_case("basic") || scheme.eq_ignore_ascii_case("bearer");
        if is_token { format!("[redacted]{rest}") } else { word.to_owned() }
    };
    text.split(' ').map(hide).collect::<Vec<String>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_is_redacted_in_every_encoding() {
        let credential = Credential::basic("me", "p~?>/+ 1");
        for (shape, text) in [
            ("plain", "sent p~?>/+ 1 back".to_owned()),
            ("a header", format!("authorization: Basic {}", STANDARD.encode("me:p~?>/+ 1"))),
            ("url alphabet", URL_SAFE.encode("me:p~?>/+ 1")),
            ("a form", "refresh_token=p%7E%3F%3E%2F%2B+1".to_owned()),
        ] {
            let shown = credential.hide_in(&text);
            assert!(
                shown.contains("[redacted]") && !shown.contains("p~") && !shown.contains("%7E%3F"),
                "{shape}: {shown}"
            );
        }
        assert_eq!(credential.hide_in("nothing of it"), "nothing of it");
        assert!(
            Credential::IdentityToken("t0k-long-enough".into()).hide_in("a t0k-long-enough").ends_with("[redacted]")
        );
        assert_eq!(Credential::basic("a", "ok").hide_in("it is ok"), "it is ok", "too short to redact");
    }

    #[test]
    fn s7_every_string_of_a_document_is_overwritten() {
        let mut document =
            serde_json::json!({ "auths": { "r.io": { "auth": "czNjcjN0" } }, "list": ["s3cr3t", 1, null] });
        wipe(&mut document);
        assert_eq!(document, serde_json::json!({ "auths": { "r.io": { "auth": "" } }, "list": ["", 1, null] }));
    }

    #[test]
    fn a_token_after_a_scheme_is_redacted_and_a_challenge_is_not() {
        for (text, shown) in [
            (
                "denied: authorization: Bearer abcdefgh.ij user-agent",
                "denied: authorization: Bearer [redacted] user-agent",
            ),
            ("\"basic YTpiYWJjZA==\"", "\"basic [redacted]\""),
            ("Bearer realm=\"https://a.io/token\"", "Bearer realm=\"https://a.io/token\""),
            ("the basic idea", "the basic idea"),
        ] {
            assert_eq!(redact_tokens(text), shown);
        }
    }

    #[test]
    fn an_id_distinguishes_credentials_and_reveals_nothing() {
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
