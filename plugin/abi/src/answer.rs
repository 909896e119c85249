//! How a host function answers, and what an expected failure looks like as data.
//! A host function that returns an error of the runtime instead kills the whole guest call.

use std::fmt;

use serde::{Deserialize, Serialize};

/// `{"ok": …}` or `{"err": {"code", "message", "retryable"}}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Answer<T> {
    /// It was done.
    Ok(T),
    /// It was not, and this is why.
    Err(Failure),
}

impl<T> Answer<T> {
    /// The same as a `Result`.
    pub fn into_result(self) -> Result<T, Failure> {
        match self {
            Self::Ok(value) => Ok(value),
            Self::Err(failure) => Err(failure),
        }
    }
}

impl<T> From<Result<T, Failure>> for Answer<T> {
    fn from(result: Result<T, Failure>) -> Self {
        match result {
            Ok(value) => Self::Ok(value),
            Err(failure) => Self::Err(failure),
        }
    }
}

/// An expected failure. Never holds a secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Failure {
    /// What kind of failure, for programs.
    pub code: FailureCode,
    /// A lowercase fragment that reads after "failed to …:", names what failed and says what to do.
    pub message: String,
    /// Whether the same request may succeed later without anybody changing anything.
    #[serde(default)]
    pub retryable: bool,
    /// The config key at fault, for [`FailureCode::BadConfig`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Not before this time, milliseconds since 1970, is trying again of use; for [`FailureCode::RateLimited`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until_ms: Option<u64>,
    /// Why the image of an order could not be fetched. Absent: something else failed, or the host does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<PullCause>,
}

impl Failure {
    /// A failure that stays until somebody changes something.
    pub fn lasting(code: FailureCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), retryable: false, key: None, until_ms: None, cause: None }
    }

    /// A failure that may be gone at the next try.
    pub fn passing(code: FailureCode, message: impl Into<String>) -> Self {
        Self { retryable: true, ..Self::lasting(code, message) }
    }

    /// An image could not be fetched because of `cause`.
    pub fn pull(cause: PullCause, message: impl Into<String>) -> Self {
        Self { cause: Some(cause), ..Self::passing(FailureCode::PullFailed, message) }
    }

    /// The value of config key `key` is not usable.
    pub fn config(key: &str, message: impl Into<String>) -> Self {
        Self { key: Some(key.to_owned()), ..Self::lasting(FailureCode::BadConfig, message) }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// Kinds of [`Failure`]. A code that this version does not know reads as [`FailureCode::Other`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum FailureCode {
    /// A config value cannot be used; `key` names it.
    BadConfig,
    /// Polling is switched off by config.
    Disabled,
    /// A named target does not exist.
    UnknownTarget,
    /// The state was written by another version of the policy.
    BadState,
    /// The manifest's grants do not allow it.
    Denied,
    /// The registry wants a credential and none is configured for it.
    NoCredential,
    /// The registry refuses the credential, the token, or anonymous access.
    Unauthorized,
    /// The credential that would be attached is the one that was refused before, see
    /// [`unless_credential`](crate::HttpRequest::unless_credential).
    Rejected,
    /// The registry's credential is an identity token: its token realm is to be asked by POST.
    IdentityToken,
    /// The host keeps credentials by repository for this registry: name the repository with it.
    PerRepository,
    /// The registry has no such repository or tag.
    NotFound,
    /// The registry asks to come back later.
    RateLimited,
    /// No answer within the deadline.
    Timeout,
    /// There is no answer yet, and the host goes on waiting for it: the same request gets it in a later call. Only for
    /// [`may_defer`](crate::HttpBatch::may_defer).
    Pending,
    /// The name could not be resolved or no connection made.
    Connect,
    /// TLS could not be agreed.
    Tls,
    /// The answer was larger than allowed.
    TooLarge,
    /// The other side answered something that makes no sense here.
    BadAnswer,
    /// The container engine could not be reached.
    EngineUnavailable,
    /// The engine's containers could not be listed.
    ListFailed,
    /// The image could not be pulled, or is not the expected one; `cause` says why.
    PullFailed,
    /// The host is stopping.
    ShuttingDown,
    /// Anything else; also what a newer side may have meant.
    #[serde(other)]
    Other,
}

/// Why the image of an order could not be fetched. A cause that this version does not know reads as
/// [`PullCause::Other`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum PullCause {
    /// The registry does not have the repository, the tag, the manifest or one of its layers.
    NotFound,
    /// The image has no manifest for the wanted platform.
    NoPlatform,
    /// The registry refuses the credential, or anonymous access.
    Denied,
    /// The registry limits how many images may be pulled in some time.
    RateLimited,
    /// The engine gets another image, or other bytes, than the registry names.
    Mismatch,
    /// The engine's disk or its quota is full.
    NoSpace,
    /// No data came for longer than the host waits.
    TooSlow,
    /// The engine has no working connection to the registry, or the registry fails.
    RegistryUnreachable,
    /// The engine, or a part of it, does not answer.
    EngineUnreachable,
    /// Anything else; also what a newer side may have meant.
    #[serde(other)]
    Other,
}
