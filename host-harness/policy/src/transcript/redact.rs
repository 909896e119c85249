//! Removes credentials and tokens from an exchange. The data that decisions depend on stays.

use imagewatch_abi::{Answer, HttpBatch, HttpRequest, HttpResponse, HttpResponses};
use serde_json::Value;

/// Replaces a removed value.
const REDACTED: &str = "redacted";

/// Headers that contain credentials, or may contain them. A `location` is often a signed URL.
const CREDENTIAL_HEADERS: [&str; 4] = ["authorization", "cookie", "location", "set-cookie"];

/// Returns the batch without credentials.
pub(super) fn batch(batch: &HttpBatch) -> HttpBatch {
    let mut batch = batch.clone();
    for request in &mut batch.requests {
        let headers = request.headers.iter_mut();
        headers.filter(|(name, _)| is_credential(name)).for_each(|(_, value)| REDACTED.clone_into(value));
        let fields = request.form.iter_mut();
        fields.filter(|(name, _)| is_secret(name)).for_each(|(_, value)| REDACTED.clone_into(value));
    }
    batch
}

/// Returns the responses to `batch` without tokens.
pub(super) fn responses(batch: &HttpBatch, answer: &Answer<HttpResponses>) -> Answer<HttpResponses> {
    let mut answer = answer.clone();
    if let Answer::Ok(HttpResponses { responses }) = &mut answer {
        for (index, response) in responses.iter_mut().enumerate() {
            let Some(request) = batch.requests.get(index) else { continue };
            if let Answer::Ok(response) = response {
                response.body = without_credentials(body(&request.url, response), request);
                let headers = response.headers.iter_mut();
                headers.for_each(|(name, value)| {
                    *value = if is_credential(name) {
                        REDACTED.to_owned()
                    } else {
                        without_credentials(std::mem::take(value), request)
                    };
                });
            }
        }
    }
    answer
}

/// Returns the value without the member `cache`, which contains tokens.
pub(super) fn without_cache(mut value: Value) -> Value {
    if let Some(object) = value.as_object_mut() {
        object.remove("cache");
    }
    value
}

/// The body of a response without secrets. Manifests and tag lists contain none. Any other body may come from a token
/// server.
fn body(url: &str, response: &HttpResponse) -> String {
    let path = url.split(['?', '#']).next().unwrap_or_default();
    let is_public = path.contains("/v2/") && (path.contains("/manifests/") || path.ends_with("/tags/list"));
    if (is_public && response.status == 200) || response.body.is_empty() {
        return response.body.clone();
    }
    match serde_json::from_str::<Value>(&response.body) {
        Ok(mut value) if value.is_object() => {
            hide_secrets(&mut value);
            value.to_string()
        }
        _ => REDACTED.to_owned(),
    }
}

/// Removes the credentials of `request` from a text that the registry sent, because it may repeat them.
fn without_credentials(text: String, request: &HttpRequest) -> String {
    let headers = request.headers.iter().filter(|(name, _)| is_credential(name)).map(|(_, value)| value);
    let fields = request.form.iter().filter(|(name, _)| is_secret(name)).map(|(_, value)| value);
    let secrets = headers.chain(fields).map(|value| value.split_once(' ').map_or(value.as_str(), |(_, secret)| secret));
    secrets.filter(|secret| !secret.is_empty()).fold(text, |text, secret| text.replace(secret, REDACTED))
}

fn hide_secrets(value: &mut Value) {
    match value {
        Value::Object(object) => object.iter_mut().for_each(|(name, value)| {
            if is_secret(name) { *value = Value::from(REDACTED) } else { hide_secrets(value) }
        }),
        Value::Array(list) => list.iter_mut().for_each(hide_secrets),
        _ => {}
    }
}

fn is_credential(name: &str) -> bool {
    CREDENTIAL_HEADERS.iter().any(|header| name.eq_ignore_ascii_case(header))
}

fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["token", "password", "secret"].iter().any(|word| name.contains(word))
}
