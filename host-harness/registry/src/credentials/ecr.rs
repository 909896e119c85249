//! Tokens for AWS registries, from `GetAuthorizationToken`. A token is valid for twelve hours. `endpoint` finds the API
//! of a registry, `keys` finds the machine's AWS keys, and `sign` signs the request.

mod endpoint;
mod keys;
mod sign;
mod transport;

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use reqsign_aws_core::Credential as Keys;
use reqsign_core::Context;
use reqsign_core::time::Timestamp;
use serde_json::Value;
use tracing::debug;
use zeroize::Zeroizing;

use self::endpoint::{Endpoint, find_endpoint};
use self::keys::KeyChain;
use super::cache::{Cache, Fresh};
use super::environment::Environment;
use super::error::CredentialError;
use imagewatch_base::secret::{Credential, SecretJson};

/// The lifetime of a token if the answer does not contain it, and the maximum lifetime.
const LIFETIME: Duration = Duration::from_hours(12);
/// How long the absence of a token for the public registry is cached.
const NO_TOKEN_CACHE_TIME: Duration = Duration::from_mins(15);
const CONTENT_TYPE: &str = "application/x-amz-json-1.1";
const BODY: &str = "{}";

/// Tokens for AWS registries, one per region. All registries of a region accept the same token.
#[derive(Debug)]
pub(super) struct Ecr {
    context: Context,
    keys: KeyChain,
    /// Configured endpoints, by service.
    overrides: BTreeMap<&'static str, String>,
    tokens: Cache,
}

impl Ecr {
    /// Creates a source with the keys and endpoints from `environment`.
    pub(super) fn new(environment: &Environment) -> Self {
        Self::with_context(environment, transport::build_context(environment))
    }

    fn with_context(environment: &Environment, context: Context) -> Self {
        let overrides = [("ecr", "AWS_ENDPOINT_URL_ECR"), ("ecr-public", "AWS_ENDPOINT_URL_ECR_PUBLIC")];
        let overrides = overrides
            .into_iter()
            .filter_map(|(service, variable)| Some((service, environment.value(variable)?.to_owned())));
        Self { context, keys: KeyChain::new(), overrides: overrides.collect(), tokens: Cache::default() }
    }

    /// The token for `registry`, a result of [`parse_registry`](super::store::parse_registry). Returns `None` if
    /// `registry` does not belong to AWS, or if it is the public registry and no token can be received.
    pub(super) async fn find(&self, registry: &str) -> Result<Option<Credential>, CredentialError> {
        let Some(endpoint) = find_endpoint(registry) else { return Ok(None) };
        let url = self.overrides.get(endpoint.service).unwrap_or(&endpoint.url);
        let ask = async {
            let asked = self.ask(&endpoint, url).await;
            match asked.map_err(|reason| CredentialError::Aws { registry: registry.to_owned(), reason }) {
                Err(error) if endpoint.is_public => {
                    debug!("failed to {error}; the public registry is read without a token");
                    Ok(Fresh { credential: None, renew_after: NO_TOKEN_CACHE_TIME, lifetime: NO_TOKEN_CACHE_TIME })
                }
                asked => asked,
            }
        };
        self.tokens.find(&format!("{} {url}", endpoint.region), ask).await
    }

    /// Whether `registry` belongs to AWS.
    pub(super) fn has(registry: &str) -> bool {
        find_endpoint(registry).is_some()
    }

    /// See [`Cache::forget`].
    pub(super) fn forget(&self, credential_id: &str) -> bool {
        self.tokens.forget(credential_id)
    }

    async fn ask(&self, endpoint: &Endpoint, url: &str) -> Result<Fresh, String> {
        let keys = self.keys.find(&self.context).await?;
        let request = build_request(endpoint, url, &keys, Timestamp::now())?;
        let response = self.context.http_send(request).await.map_err(|error| error.to_string())?;
        if response.status() != http::StatusCode::OK {
            return Err(format!(
                "it answered with status {}{}",
                response.status().as_u16(),
                error_type(response.body())
            ));
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        parse_token(response.body(), now).ok_or_else(|| "its answer has no token".to_owned())
    }
}

fn build_request(endpoint: &Endpoint, url: &str, keys: &Keys, now: Timestamp) -> Result<http::Request<Bytes>, String> {
    let uri: http::Uri = url.parse().map_err(|_| invalid_endpoint(endpoint))?;
    let host = uri.authority().ok_or_else(|| invalid_endpoint(endpoint))?.as_str().to_owned();
    let mut headers = vec![
        ("content-type", CONTENT_TYPE.to_owned()),
        ("host", host),
        ("x-amz-date", now.format_iso8601()),
        ("x-amz-target", endpoint.target.to_owned()),
    ];
    if let Some(token) = &keys.session_token {
        headers.push(("x-amz-security-token", token.clone()));
    }
    let scope = sign::Scope { region: &endpoint.region, service: endpoint.service, now };
    let authorization = sign::authorization(keys, &scope, uri.path(), &mut headers, BODY);
    headers.push(("authorization", authorization));
    let mut request = http::Request::post(uri);
    for (name, value) in headers {
        let mut value = http::HeaderValue::try_from(value)
            .map_err(|_| "the AWS keys contain characters that are not allowed".to_owned())?;
        value.set_sensitive(true);
        request = request.header(name, value);
    }
    request.body(Bytes::from_static(BODY.as_bytes())).map_err(|_| invalid_endpoint(endpoint))
}

fn invalid_endpoint(endpoint: &Endpoint) -> String {
    let variable = if endpoint.is_public { "AWS_ENDPOINT_URL_ECR_PUBLIC" } else { "AWS_ENDPOINT_URL_ECR" };
    format!("{variable} is not a URL")
}

/// The name of AWS's error without its message. The messages quote the signed text, including the session token.
fn error_type(body: &[u8]) -> String {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let name = body["__type"].as_str().unwrap_or_default().rsplit('#').next().unwrap_or_default();
    let is_name = !name.is_empty() && name.len() <= 64 && name.chars().all(|c| c.is_ascii_alphanumeric());
    if is_name { format!(" {name}") } else { String::new() }
}

/// Parses the token of an answer that arrived at `now`, the time since the Unix epoch. The token is renewed after half
/// of its lifetime, so that the other half remains for retries.
fn parse_token(body: &[u8], now: Duration) -> Option<Fresh> {
    let body = SecretJson::parse(body).ok()?;
    let data = &body.expose()["authorizationData"];
    let data = data.get(0).unwrap_or(data);
    let token = Zeroizing::new(STANDARD.decode(data["authorizationToken"].as_str()?).ok()?);
    let (username, password) = std::str::from_utf8(&token).ok()?.split_once(':')?;
    if username.is_empty() || password.is_empty() {
        return None;
    }
    let ends = data["expiresAt"].as_f64().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    let lifetime = ends.map_or(LIFETIME, |ends| ends.saturating_sub(now).min(LIFETIME));
    Some(Fresh { credential: Some(Credential::basic(username, password)), renew_after: lifetime / 2, lifetime })
}

#[cfg(test)]
mod tests;
