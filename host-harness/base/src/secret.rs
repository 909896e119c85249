//! What a credential is inside the host: the one vocabulary that the adapters share.
//! Holds no credential itself and knows no source of them.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::BuildHasher;
use std::sync::LazyLock;

use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use zeroize::{Zeroize, Zeroizing};

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

/// The shortest text that is taken for a credential where it stands among others.
const LEAST_HIDDEN: usize = 8;

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

    /// `text` without this credential, as it is or as it goes over the wire: a registry may send back what it was sent,
    /// and the engine repeats what a registry says.
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
        // Shorter ones stand in innocent words, and to take those out of an answer would break it.
        let shapes = encoded.chain([plain, percent]).filter(|shape: &Zeroizing<String>| shape.len() >= LEAST_HIDDEN);
        shapes.fold(text.to_owned(), |text, shape| text.replace(shape.as_str(), "[redacted]"))
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

/// A JSON document that holds secrets. Its texts are overwritten when it is dropped. `Debug` shows nothing of it.
pub struct SecretJson(Value);

impl SecretJson {
    /// Reads a document.
    ///
    /// # Errors
    /// It is no JSON. The message quotes the document, so it is not for showing.
    pub fn parse(bytes: &[u8]) -> serde_json::Result<Self> {
        serde_json::from_slice(bytes).map(Self)
    }

    /// The document.
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

/// Overwrites every text in `value`.
fn wipe(value: &mut Value) {
    match value {
        Value::String(text) => text.zeroize(),
        Value::Array(values) => values.iter_mut().for_each(wipe),
        Value::Object(fields) => fields.values_mut().for_each(wipe),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// `text` without what stands after `Basic` and `Bearer`: proofs that somebody else sent, the engine say, and that came
/// back in an error.
pub fn hide_proofs(text: &str) -> String {
    let mut is_after_scheme = false;
    let hide = |word: &str| {
        let is_of_proof = |c: char| c.is_ascii_alphanumeric() || "-._~+/=".contains(c);
        let (proof, rest) = word.split_at(word.find(|c| !is_of_proof(c)).unwrap_or(word.len()));
        let is_proof = is_after_scheme && proof.len() >= LEAST_HIDDEN;
        let scheme = word.trim_start_matches(|c: char| !c.is_ascii_alphabetic());
        is_after_scheme = scheme.eq_ignore_ascii_case("basic") || scheme.eq_ignore_ascii_case("bearer");
        if is_proof { format!("[redacted]{rest}") } else { word.to_owned() }
    };
    text.split(' ').map(hide).collect::<Vec<String>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_repeats_a_credential_in_any_shape_does_not_show_it() {
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
        assert_eq!(Credential::basic("a", "ok").hide_in("it is ok"), "it is ok", "no secret to speak of");
    }

    #[test]
    fn s7_every_text_of_a_document_is_overwritten() {
        let mut document =
            serde_json::json!({ "auths": { "r.io": { "auth": "czNjcjN0" } }, "list": ["s3cr3t", 1, null] });
        wipe(&mut document);
        assert_eq!(document, serde_json::json!({ "auths": { "r.io": { "auth": "" } }, "list": ["", 1, null] }));
    }

    #[test]
    fn what_stands_after_a_scheme_is_hidden_and_a_challenge_is_not() {
        for (text, shown) in [
            (
                "denied: authorization: Bearer abcdefgh.ij user-agent",
                "denied: authorization: Bearer [redacted] user-agent",
            ),
            ("\"basic YTpiYWJjZA==\"", "\"basic [redacted]\""),
            ("Bearer realm=\"https://a.io/token\"", "Bearer realm=\"https://a.io/token\""),
            ("the basic idea", "the basic idea"),
        ] {
            assert_eq!(hide_proofs(text), shown);
        }
    }

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
