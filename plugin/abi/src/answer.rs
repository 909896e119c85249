//! The result of a host function, with expected failures as data. If a host function returns a runtime error instead,
//! the whole guest call is aborted.

use std::fmt;

use serde::{Deserialize, Serialize};

/// `{"ok": …}` or `{"err": {"code", "message", "retryable"}}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Answer<T> {
    /// The call succeeded.
    Ok(T),
    /// The call failed for this reason.
    Err(Failure),
}

impl<T> Answer<T> {
    /// Converts the answer to a `Result`.
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

/// An expected failure. It never contains a secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Failure {
    /// The kind of failure, for programs.
    pub code: FailureCode,
    /// A lowercase fragment that reads after "failed to …:". It names what failed and says what to do.
    pub message: String,
    /// Whether the same request may succeed later without any change to the configuration.
    #[serde(default)]
    pub retryable: bool,
    /// The config key that caused the failure, for [`FailureCode::BadConfig`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The earliest time for another attempt, in milliseconds since 1970, for [`FailureCode::RateLimited`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until_ms: Option<u64>,
    /// Why the image of an order could not be fetched. Absent: something else failed, or the host does not report the
    /// cause.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<PullCause>,
}

impl Failure {
    /// A failure that persists until somebody changes something.
    pub fn permanent(code: FailureCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), retryable: false, key: None, until_ms: None, cause: None }
    }

    /// A failure that may disappear at the next attempt.
    pub fn retryable(code: FailureCode, message: impl Into<String>) -> Self {
        Self { retryable: true, ..Self::permanent(code, message) }
    }

    /// The image could not be fetched because of `cause`.
    pub fn pull(cause: PullCause, message: impl Into<String>) -> Self {
        Self { cause: Some(cause), ..Self::retryable(FailureCode::PullFailed, message) }
    }

    /// The value of config key `key` is not usable.
    pub fn config(key: &str, message: impl Into<String>) -> Self {
        Self { key: Some(key.to_owned()), ..Self::permanent(FailureCode::BadConfig, message) }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// Kinds of [`Failure`]. A reader maps a code that it does not know to [`FailureCode::Other`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum FailureCode {
    /// A config value is not usable; `key` names it.
    BadConfig,
    /// The config disables polling.
    Disabled,
    /// A named target does not exist.
    UnknownTarget,
    /// Another version of the policy wrote the state.
    BadState,
    /// The manifest's grants do not allow it.
    Denied,
    /// The registry requires a credential, and none is configured for it.
    NoCredential,
    /// The registry rejects the credential, the token, or anonymous access.
    Unauthorized,
    /// The credential to attach is the one that the registry rejected before, see
    /// [`rejected_credential_id`](crate::HttpRequest::rejected_credential_id).
    Rejected,
    /// The registry's credential is an identity token: request tokens from its realm by POST.
    IdentityToken,
    /// The host stores credentials by repository for this registry: name the repository with the credential.
    PerRepository,
    /// The registry does not have the repository or the tag.
    NotFound,
    /// The registry limits requests. Try again later.
    RateLimited,
    /// No answer arrived before the deadline.
    Timeout,
    /// No answer has arrived yet, and the host keeps waiting for it. The same request receives it in a later call. Only
    /// for [`may_defer`](crate::HttpBatch::may_defer).
    Pending,
    /// The name could not be resolved, or the connection failed.
    Connect,
    /// The TLS handshake failed.
    Tls,
    /// The answer exceeded the size limit.
    TooLarge,
    /// The other side sent an invalid answer.
    BadAnswer,
    /// The container engine could not be reached.
    EngineUnavailable,
    /// The engine's containers could not be listed.
    ListFailed,
    /// The image could not be pulled, or is not the expected one; `cause` says why.
    PullFailed,
    /// The host is stopping.
    ShuttingDown,
    /// Any other failure, including codes of a newer version.
    #[serde(other)]
    Other,
}

/// Why the image of an order could not be fetched. A reader maps a cause that it does not know to [`PullCause::Other`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum PullCause {
    /// The registry does not have the repository, the tag, the manifest or one of its layers.
    NotFound,
    /// The image has no manifest for the requested platform.
    NoPlatform,
    /// The registry rejects the credential or anonymous access.
    Denied,
    /// The registry limits the number of pulls within a period.
    RateLimited,
    /// The engine receives another image, or other bytes, than the registry names.
    Mismatch,
    /// The engine's disk or its quota is full.
    NoSpace,
    /// No data arrived for longer than the host waits.
    TooSlow,
    /// The engine has no working connection to the registry, or the registry fails.
    RegistryUnreachable,
    /// The engine, or a part of it, does not respond.
    EngineUnreachable,
    /// Any other cause, including causes of a newer version.
    #[serde(other)]
    Other,
}
