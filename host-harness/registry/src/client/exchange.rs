//! Sends one request and reads its response. This module builds the request, attaches the credential, and enforces the
//! size limits. It follows no redirects and makes no decisions about hosts.

use std::fmt::Write as _;

use imagewatch_abi::{Digest, Failure, HttpRequest, HttpResponse, Method, ReadBody};
use reqwest::header::{
    ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION, WWW_AUTHENTICATE,
};
use secrecy::ExposeSecret;
use sha2::{Digest as _, Sha256};
use url::form_urlencoded;

use super::byte_budget::json_bytes;
use super::failure::{self, broken_exchange, failed_send};
use super::host_pool::{HostPool, SlotPermit};
use super::{Exchange, HttpClient, HttpLimits};
use crate::egress::Permit;
use imagewatch_base::secret::{Credential, redact_tokens};

/// The answer to one request.
pub(super) enum Reply {
    /// A complete answer.
    Complete(HttpResponse),
    /// A redirect that the client may follow: the value of `location`.
    Redirect(String),
}

/// The body of a response: its text, or its digest if the request asked for that.
#[derive(Default)]
struct Body {
    text: String,
    digest: Option<Digest>,
}

impl HttpClient {
    /// Sends `request` in the form of `permit` through `pool`.
    pub(super) async fn exchange(
        &self,
        (pool, slot): (&HostPool, &mut SlotPermit<'_>),
        permit: &Permit,
        credential: Option<&Credential>,
        request: &HttpRequest,
        exchange: &Exchange<'_>,
    ) -> Result<Reply, Failure> {
        let (host, limits) = (&pool.shown, exchange.limits);
        let credential = credential.filter(|_| permit.credential.is_some());
        let built = build(&pool.client, permit, credential, &request.form);
        let response = built.send().await.map_err(|error| failed_send(host, &error, limits.deadline))?;
        slot.answered(response.version());
        check_head(response.headers(), host, limits)?;
        if response.status().as_u16() == 401 {
            for challenge in response.headers().get_all(WWW_AUTHENTICATE) {
                self.realms.learn(&permit.host, &String::from_utf8_lossy(challenge.as_bytes()));
            }
        }
        if permit.may_redirect && matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
            let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
            if let Some(location) = location.map(str::to_owned) {
                if permit.method != Method::Head {
                    // Reads the body so that the connection can be reused.
                    let _ = read_body(response, ReadBody::Text, host, exchange).await;
                }
                return Ok(Reply::Redirect(location));
            }
        }
        let status = response.status().as_u16();
        // Some registries return what they received. The guest must not see the attached credential.
        let redacted = |text: String| match credential {
            Some(credential) => credential.hide_in(&text),
            None => text,
        };
        let headers = wanted_headers(response.headers(), &request.response_headers, host, limits)?;
        let headers = headers.into_iter().map(|(name, value)| (name, redacted(value))).collect();
        let body = if permit.method == Method::Head {
            Body::default()
        } else {
            read_body(response, request.read, host, exchange).await?
        };
        // A request with a credential asks for a token to pull. Some servers also return a token that never expires.
        let text = if credential.is_some() { without_refresh_token(body.text) } else { body.text };
        let text = redacted(text);
        Ok(Reply::Complete(HttpResponse {
            status,
            headers,
            // This also redacts the credential of a proxy. No document that the guest reads contains a scheme followed
            // by a token.
            body: redact_tokens(&text),
            body_digest: body.digest,
            ..HttpResponse::default()
        }))
    }
}

fn build(
    client: &reqwest::Client,
    permit: &Permit,
    credential: Option<&Credential>,
    form: &[(String, String)],
) -> reqwest::RequestBuilder {
    let method = match permit.method {
        Method::Get => reqwest::Method::GET,
        Method::Head => reqwest::Method::HEAD,
        Method::Post => reqwest::Method::POST,
    };
    let is_post = permit.method == Method::Post;
    // Without this header, a server may compress the body.
    let mut request = client
        .request(method, permit.url.clone())
        .headers(permit.headers.clone())
        .header(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    let mut fields = form_urlencoded::Serializer::new(String::new());
    fields.extend_pairs(form);
    match credential {
        Some(Credential::Basic { username, password }) => {
            request = request.basic_auth(username, Some(password.expose_secret()));
        }
        Some(Credential::RegistryToken(token)) => request = request.bearer_auth(token.expose_secret()),
        Some(Credential::IdentityToken(token)) => {
            fields.append_pair("refresh_token", token.expose_secret());
        }
        None => {}
    }
    if is_post {
        request = request
            .header(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"))
            .body(fields.finish());
    }
    request
}

fn without_refresh_token(text: String) -> String {
    if !text.contains("refresh_token") {
        return text;
    }
    match serde_json::from_str(&text) {
        Ok(serde_json::Value::Object(mut fields)) => {
            fields.remove("refresh_token");
            serde_json::Value::Object(fields).to_string()
        }
        // No token can be read from this text.
        _ => String::new(),
    }
}

/// Checks the size of the response's head. hyper itself accepts a head of up to about 400 KiB.
fn check_head(headers: &HeaderMap, host: &str, limits: &HttpLimits) -> Result<(), Failure> {
    let size: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    if size > limits.max_head_bytes {
        return Err(failure::too_large(host, "head", limits.max_head_bytes));
    }
    Ok(())
}

fn wanted_headers(
    headers: &HeaderMap,
    response_headers: &[String],
    host: &str,
    limits: &HttpLimits,
) -> Result<Vec<(String, String)>, Failure> {
    let mut names: Vec<String> = response_headers.iter().map(|name| name.to_ascii_lowercase()).collect();
    names.sort();
    names.dedup();
    let mut found = Vec::new();
    for name in names {
        for value in headers.get_all(&name) {
            if value.len() > limits.max_header_bytes {
                return Err(failure::too_large(host, &format!("header {name}"), limits.max_header_bytes));
            }
            found.push((name.clone(), String::from_utf8_lossy(value.as_bytes()).into_owned()));
        }
    }
    Ok(found)
}

/// Reads the body to its end, so that the connection can be reused. If the body is too large, the connection is closed.
/// The body of an error status is always read as text, because it contains the reason.
async fn read_body(
    mut response: reqwest::Response,
    read: ReadBody,
    host: &str,
    Exchange { limits, budget, .. }: &Exchange<'_>,
) -> Result<Body, Failure> {
    if let Some(coding) = response.headers().get(CONTENT_ENCODING).filter(|coding| *coding != "identity") {
        return Err(failure::compressed(host, &String::from_utf8_lossy(coding.as_bytes())));
    }
    let read = if response.status().is_success() { read } else { ReadBody::Text };
    let limit_bytes = match read {
        ReadBody::Text => limits.max_text_bytes,
        ReadBody::Document | ReadBody::Digest => limits.max_document_bytes,
    };
    let too_large = || failure::too_large(host, "body", limit_bytes);
    let declared = response.content_length().unwrap_or(0);
    if usize::try_from(declared).map_or(true, |declared| declared > limit_bytes) {
        return Err(too_large());
    }
    let (mut text, mut hash, mut size) = (Vec::new(), Sha256::new(), 0);
    while let Some(chunk) = response.chunk().await.map_err(|error| broken_exchange(host, &error))? {
        size += chunk.len();
        if size > limit_bytes {
            return Err(too_large());
        }
        match read {
            ReadBody::Digest => hash.update(&chunk),
            ReadBody::Text | ReadBody::Document if !budget.take(chunk.len()) => return Err(failure::over_budget(host)),
            ReadBody::Text | ReadBody::Document => text.extend_from_slice(&chunk),
        }
    }
    let text = String::from_utf8_lossy(&text).into_owned();
    if read != ReadBody::Digest && !budget.take(json_bytes(&text).saturating_sub(size)) {
        return Err(failure::over_budget(host));
    }
    let digest = (read == ReadBody::Digest).then(|| {
        let hex = hash.finalize().iter().fold(String::new(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        });
        format!("sha256:{hex}").parse().expect("64 lower-case hex digits")
    });
    Ok(Body { text, digest })
}
