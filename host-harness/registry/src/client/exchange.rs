//! One request and its response: builds it, attaches what is to be attached, and reads no more of
//! the answer than the limits allow. Follows nothing and decides nothing.

use std::fmt::Write as _;

use imagewatch_abi::{Digest, Failure, HttpRequest, HttpResponse, Method, ReadBody};
use reqwest::header::{
    ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION, WWW_AUTHENTICATE,
};
use secrecy::ExposeSecret;
use sha2::{Digest as _, Sha256};
use url::form_urlencoded;

use super::failure::{self, broken_exchange, failed_send};
use super::lane::{Lane, Turn};
use super::room::json_bytes;
use super::{Exchange, HttpClient, HttpLimits};
use crate::egress::Permit;
use imagewatch_base::secret::{Credential, hide_proofs};

/// What an answer came to.
pub(super) enum Answered {
    /// The answer.
    Whole(HttpResponse),
    /// The value of `location`, of a redirect that may be followed.
    Elsewhere(String),
}

/// A response's body, as asked for.
#[derive(Default)]
struct Body {
    text: String,
    digest: Option<Digest>,
}

impl HttpClient {
    /// Sends what `permit` permits of `request` over `lane`.
    pub(super) async fn exchange(
        &self,
        (lane, turn): (&Lane, &mut Turn<'_>),
        permit: &Permit,
        credential: Option<&Credential>,
        request: &HttpRequest,
        exchange: &Exchange<'_>,
    ) -> Result<Answered, Failure> {
        let (host, limits) = (&lane.shown, exchange.limits);
        let credential = credential.filter(|_| permit.credential.is_some());
        let built = build(&lane.client, permit, credential, &request.form);
        let response = built.send().await.map_err(|error| failed_send(host, &error, limits.deadline))?;
        turn.answered(response.version());
        check_head(response.headers(), host, limits)?;
        if response.status().as_u16() == 401 {
            for challenge in response.headers().get_all(WWW_AUTHENTICATE) {
                self.realms.note(&permit.host, &String::from_utf8_lossy(challenge.as_bytes()));
            }
        }
        if permit.may_redirect && matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
            let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
            if let Some(location) = location.map(str::to_owned) {
                if permit.method != Method::Head {
                    // Only so that the connection can be used again.
                    let _ = read_body(response, ReadBody::Text, host, exchange).await;
                }
                return Ok(Answered::Elsewhere(location));
            }
        }
        let status = response.status().as_u16();
        // Some registries send back what they were sent, and what was attached is not the guest's to see.
        let hidden = |text: String| match credential {
            Some(credential) => credential.hide_in(&text),
            None => text,
        };
        let headers = wanted_headers(response.headers(), &request.want, host, limits)?;
        let headers = headers.into_iter().map(|(name, value)| (name, hidden(value))).collect();
        let body = if permit.method == Method::Head {
            Body::default()
        } else {
            read_body(response, request.read, host, exchange).await?
        };
        // What is asked for with a credential is a token to pull with; some servers give one with it that never expires.
        let text = if credential.is_some() { without_refresh_token(body.text) } else { body.text };
        let text = hidden(text);
        Ok(Answered::Whole(HttpResponse {
            status,
            headers,
            // A proxy's credential comes back as well; no document of ours names a scheme with a proof after it.
            body: hide_proofs(&text),
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
    // Without this header a server may compress as it likes.
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
        // Nothing that a token is read from.
        _ => String::new(),
    }
}

/// hyper itself takes no head of more than about 400 KiB.
fn check_head(headers: &HeaderMap, host: &str, limits: &HttpLimits) -> Result<(), Failure> {
    let size: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    if size > limits.max_head_bytes {
        return Err(failure::too_large(host, "head", limits.max_head_bytes));
    }
    Ok(())
}

fn wanted_headers(
    headers: &HeaderMap,
    want: &[String],
    host: &str,
    limits: &HttpLimits,
) -> Result<Vec<(String, String)>, Failure> {
    let mut names: Vec<String> = want.iter().map(|name| name.to_ascii_lowercase()).collect();
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

/// Read to its end, so that the connection can be used again; too large a body costs the connection. What is no
/// success is read as text, whatever was asked for: it says why.
async fn read_body(
    mut response: reqwest::Response,
    read: ReadBody,
    host: &str,
    Exchange { limits, room, .. }: &Exchange<'_>,
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
            ReadBody::Text | ReadBody::Document if !room.take(chunk.len()) => return Err(failure::no_room(host)),
            ReadBody::Text | ReadBody::Document => text.extend_from_slice(&chunk),
        }
    }
    let text = String::from_utf8_lossy(&text).into_owned();
    if read != ReadBody::Digest && !room.take(json_bytes(&text).saturating_sub(size)) {
        return Err(failure::no_room(host));
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
