//! Raw calls to the engine: JSON in, JSON out, with a negotiated API version and a deadline.
//!
//! Bollard is the transport, but its models are not used. They drop unknown fields and fail on unknown enum values
//! (Podman's `stopped`), and bollard's paths contain no version. This module does not know the individual calls.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bollard::{BollardRequest, Docker, body_full, errors::Error};
use futures_util::future::join_all;
use serde_json::Value;
use url::Url;

use super::address::{AddressError, EngineChoice, check_address};
use crate::permission::{Needed, PERMISSIONS, Permission, without_ids};
use crate::{ApiVersion, EngineError};

/// The API versions that imagewatch supports. Up to `NEWEST`, an inspection distinguishes a configured MAC address from
/// a generated one.
const OLDEST: ApiVersion = ApiVersion { major: 1, minor: 24 };
const NEWEST: ApiVersion = ApiVersion { major: 1, minor: 51 };
/// The time limit for a call that only checks whether a filter allows it.
const CHECK_LIMIT: Duration = Duration::from_secs(10);
/// The default time limit of a call. On a slow disk, creating or removing a large container takes long.
pub(super) const CALL_LIMIT: Duration = Duration::from_mins(2);
/// The containerd store answers with this text if a pull moves a tag while the engine reads it.
const CHANGED_MEANWHILE: &str = "data changed during operation";
/// The number of retries of such a read, and the delay before each retry.
const READ_RETRIES: usize = 5;
const RETRY_DELAY: Duration = Duration::from_millis(50);
/// Bollard's own time limit until the head of the response, in seconds. It is longer than every limit in this crate,
/// because those limits cover the whole call.
pub(super) const TRANSPORT_LIMIT_S: u64 = 24 * 60 * 60;

/// The address of the engine, and what the engine reported about itself.
#[derive(Debug)]
pub(super) struct Connection {
    host: String,
    /// The version from `DOCKER_API_VERSION`. If it is set, no other version is used.
    api: Option<ApiVersion>,
    /// Queried on first use. Cleared when the engine becomes unreachable, because it may be upgraded meanwhile.
    known: Mutex<Option<Known>>,
}

/// What the engine reported about itself.
#[derive(Debug, Clone, Copy)]
pub(super) struct Known {
    /// The version for calls.
    pub(super) version: ApiVersion,
    /// The newest version, for data that older versions do not report: the configured version, or else the engine's.
    pub(super) newest: ApiVersion,
    pub(super) is_podman: bool,
    /// Whether the last check found that every call that a replacement needs is allowed.
    is_all_allowed: bool,
}

/// One raw request. `path` contains the path segments without the version.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call<'a> {
    pub(super) method: &'static str,
    pub(super) path: &'a [&'a str],
    pub(super) query: &'a [(&'a str, &'a str)],
    pub(super) body: Option<&'a Value>,
    pub(super) limit: Duration,
}

impl<'a> Call<'a> {
    pub(super) fn new(method: &'static str, path: &'a [&'a str]) -> Self {
        Self { method, path, query: &[], body: None, limit: CALL_LIMIT }
    }

    /// The call as messages show it: `METHOD /path`.
    pub(super) fn action(&self) -> String {
        format!("{} /{}", self.method, self.path.join("/"))
    }
}

impl Connection {
    pub(super) fn new(EngineChoice { host, api }: EngineChoice) -> Result<Self, EngineError> {
        check_address(&host)?;
        Ok(Self { host, api, known: Mutex::new(None) })
    }

    pub(super) fn host(&self) -> &str {
        &self.host
    }

    /// What the engine reported about itself. Queries the engine if this is not cached.
    pub(super) async fn known(&self) -> Result<Known, EngineError> {
        let cached = *self.cached();
        match cached {
            Some(known) => Ok(known),
            None => self.negotiate().await,
        }
    }

    /// Creates a client. This is cheap, because the client keeps no idle connections. A new client for each call also
    /// works if the socket appears later.
    pub(super) fn client(&self) -> Result<Docker, EngineError> {
        let connect =
            if self.host.starts_with("unix://") { Docker::connect_with_unix } else { Docker::connect_with_http };
        connect(&self.host, TRANSPORT_LIMIT_S, bollard::API_DEFAULT_VERSION)
            .map_err(|error| self.translate(error, "connect"))
    }

    fn cached(&self) -> MutexGuard<'_, Option<Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queries the engine's versions and kind, and caches them.
    async fn negotiate(&self) -> Result<Known, EngineError> {
        let call = Call::new("GET", &["version"]);
        let answer = self.send(call, None).await?;
        let version = |key: &str| answer[key].as_str().unwrap_or_default().parse::<ApiVersion>();
        let newest = version("ApiVersion").map_err(|_| EngineError::BadAnswer {
            action: call.action(),
            reason: format!("ApiVersion is {}; is this a container engine?", answer["ApiVersion"]),
        })?;
        let version = self.common_version(version("MinAPIVersion").unwrap_or(OLDEST), newest)?;
        let mut parts = answer["Components"].as_array().into_iter().flatten();
        let is_podman = parts.any(|part| part["Name"].as_str().is_some_and(|name| name.contains("Podman")));
        let newest = self.api.unwrap_or(newest);
        let known = Known { version, newest, is_podman, is_all_allowed: false };
        *self.cached() = Some(known);
        Ok(known)
    }

    /// The highest API version that imagewatch and the engine support. The engine supports `oldest` to `newest`.
    fn common_version(&self, oldest: ApiVersion, newest: ApiVersion) -> Result<ApiVersion, AddressError> {
        let (from, to) = self.api.map_or((OLDEST, NEWEST), |only| (only, only));
        let common = to.min(newest);
        if common >= from && common >= oldest {
            return Ok(common);
        }
        let (asked, advice) = match self.api {
            Some(_) => ("DOCKER_API_VERSION", "unset DOCKER_API_VERSION"),
            None if oldest > to => ("imagewatch", "update imagewatch, or lower the engine's minimum API version"),
            None => ("imagewatch", "update the engine"),
        };
        let host = self.host.clone();
        Err(AddressError::NoCommonVersion { asked, from, to, host, engine_from: oldest, engine_to: newest, advice })
    }

    /// See [`Engine::refused_calls`](crate::Engine::refused_calls).
    pub(super) async fn refused_calls(&self, again: bool) -> Result<Vec<&'static Permission>, EngineError> {
        if self.known().await?.is_all_allowed && !again {
            return Ok(Vec::new());
        }
        let needed = PERMISSIONS.iter().filter(|permission| permission.needed != Needed::Optional);
        let checked = join_all(needed.map(async |permission| (permission, self.is_refused(permission).await))).await;
        let mut refused = Vec::new();
        for (permission, is_refused) in checked {
            refused.extend(is_refused?.then_some(permission));
        }
        if let Some(known) = &mut *self.cached() {
            known.is_all_allowed = refused.is_empty();
        }
        Ok(refused)
    }

    async fn is_refused(&self, permission: &Permission) -> Result<bool, EngineError> {
        let (path, query, body) = permission.harmless_request();
        let call = Call { query, body: body.as_ref(), limit: CHECK_LIMIT, ..Call::new(permission.method, &path) };
        match self.call(call).await {
            Err(error @ (EngineError::Unavailable { .. } | EngineError::Address(_))) => Err(error),
            // If no filter refuses such a call, the engine answers that the object does not exist.
            Err(EngineError::Forbidden { .. } | EngineError::Refused { status: 401 | 403 | 407, .. }) => Ok(true),
            _ => Ok(false),
        }
    }

    /// Makes one call and returns its JSON, or null for an empty answer.
    pub(super) async fn call(&self, call: Call<'_>) -> Result<Value, EngineError> {
        let version = self.known().await?.version;
        self.send(call, Some(version)).await
    }

    /// Makes one call with the given API version.
    pub(super) async fn call_at(&self, version: ApiVersion, call: Call<'_>) -> Result<Value, EngineError> {
        self.send(call, Some(version)).await
    }

    /// Sends a call. Retries a read while the engine reports that its images changed meanwhile.
    async fn send(&self, call: Call<'_>, version: Option<ApiVersion>) -> Result<Value, EngineError> {
        for _ in 0..READ_RETRIES {
            match self.send_once(call, version).await {
                Err(EngineError::Refused { status: 500, message })
                    if call.method == "GET" && message.contains(CHANGED_MEANWHILE) =>
                {
                    tokio::time::sleep(RETRY_DELAY).await;
                }
                answer => return answer,
            }
        }
        self.send_once(call, version).await
    }

    /// Sends a raw request. Bollard has no function for this. But its request modifier can replace the whole request,
    /// and `ping` returns the body unchanged.
    async fn send_once(&self, call: Call<'_>, version: Option<ApiVersion>) -> Result<Value, EngineError> {
        let target = build_target(call.path, call.query, version);
        let body = call.body.map(Value::to_string);
        let client = self.client()?.with_request_modifier(move |request| {
            let mut request = redirect(request, &target);
            *request.method_mut() = call.method.parse().expect("methods are written in this file");
            *request.body_mut() = body_full(body.clone().unwrap_or_default().into());
            request
        });
        let answer = tokio::time::timeout(call.limit, client.ping()).await;
        let text = match answer {
            Err(_) => return Err(EngineError::Timeout { action: call.action(), limit: call.limit }),
            Ok(result) => result.map_err(|error| self.translate(error, &call.action()))?,
        };
        if text.trim().is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_str(&text)
            .map_err(|error| EngineError::BadAnswer { action: call.action(), reason: error.to_string() })
    }

    pub(super) fn translate(&self, error: Error, action: &str) -> EngineError {
        match error {
            Error::DockerResponseServerError { status_code: 404, message } => EngineError::NotFound { message },
            Error::DockerResponseServerError { status_code: 409, message } => EngineError::Conflict { message },
            Error::DockerResponseServerError { status_code: status, message } => self.refusal(status, message, action),
            Error::JsonDataError { message, .. } => {
                EngineError::BadAnswer { action: action.to_owned(), reason: message }
            }
            Error::JsonSerdeError { err } => {
                EngineError::BadAnswer { action: action.to_owned(), reason: err.to_string() }
            }
            Error::InvalidURIError { .. } | Error::URLParseError { .. } => {
                AddressError::Unsupported { host: self.host.clone(), why: "" }.into()
            }
            Error::SocketNotFoundError(_) => self.unavailable("the socket does not exist".to_owned()),
            transport => self.unavailable(innermost(&transport)),
        }
    }

    /// Decides whether the engine itself or a filter in front of it refused a call.
    fn refusal(&self, status: u16, message: String, action: &str) -> EngineError {
        let is_page = message.trim_start().starts_with('<');
        let call = without_ids(action);
        // The engine itself answers these calls with 401 or 403, because of a registry or a network.
        let is_from_engine = !is_page
            && (call == "POST /images/create" || call.starts_with("POST /networks/"))
            && !message.trim().eq_ignore_ascii_case("forbidden");
        let is_podman = self.cached().is_some_and(|known| known.is_podman);
        match status {
            400 if message.contains("HTTP request to an HTTPS server") => {
                AddressError::ExpectsTls { host: self.host.clone() }.into()
            }
            401 | 403 | 407 if !is_from_engine => self.forbidden(call, status),
            // An older Podman answers with 405 to a call that it does not support.
            405 if !is_podman => self.forbidden(call, status),
            502..=504 if is_page => self.unavailable(format!("a proxy in front of it answers with status {status}")),
            _ => EngineError::Refused { status, message },
        }
    }

    fn forbidden(&self, call: String, status: u16) -> EngineError {
        if let Some(known) = &mut *self.cached() {
            known.is_all_allowed = false;
        }
        EngineError::Forbidden { call, status }
    }

    fn unavailable(&self, reason: String) -> EngineError {
        *self.cached() = None;
        EngineError::Unavailable { host: self.host.clone(), reason }
    }
}

/// The percent-encoded path and query of a request. Only the request for the version itself has no `version`.
fn build_target(path: &[&str], query: &[(&str, &str)], version: Option<ApiVersion>) -> String {
    let mut url = Url::parse("http://engine").expect("a constant URL");
    let prefix = version.map(|version| format!("v{version}"));
    url.path_segments_mut().expect("an http URL has a path").extend(prefix.as_deref()).extend(path);
    if !query.is_empty() {
        url.query_pairs_mut().extend_pairs(query);
    }
    let query = url.query().map(|query| format!("?{query}")).unwrap_or_default();
    format!("{}{query}", url.path())
}

/// Changes the path and query of a request. The scheme and the authority remain, because they name the socket.
pub(super) fn redirect(mut request: BollardRequest, target: &str) -> BollardRequest {
    let uri = request.uri();
    let (scheme, authority) = (uri.scheme_str().unwrap_or("http"), uri.authority().map_or("", |a| a.as_str()));
    // If `target` is not a valid URI, the request stays unchanged and the engine answers with an error.
    if let Ok(uri) = format!("{scheme}://{authority}{target}").parse() {
        *request.uri_mut() = uri;
    }
    request
}

/// The innermost cause of an error: the operating system's message without the messages of the client's layers.
fn innermost(error: &Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests;
