//! Takes out of an exchange what proves something to somebody. What is left is what decisions were taken by.

use imagewatch_abi::{Answer, HttpBatch, HttpRequest, HttpResponse, HttpResponses};
use serde_json::Value;

/// Stands for what was taken out.
const REDACTED: &str = "redacted";

/// Headers that prove something, or may: a location is often a signed one.
const PROOFS: [&str; 4] = ["authorization", "cookie", "location", "set-cookie"];

/// The batch without what proves something.
pub(super) fn batch(batch: &HttpBatch) -> HttpBatch {
    let mut batch = batch.clone();
    for request in &mut batch.requests {
        let headers = request.headers.iter_mut();
        headers.filter(|(name, _)| is_proof(name)).for_each(|(_, value)| REDACTED.clone_into(value));
        let fields = request.form.iter_mut();
        fields.filter(|(name, _)| is_secret(name)).for_each(|(_, value)| REDACTED.clone_into(value));
    }
    batch
}

/// The responses to `batch` without tokens.
pub(super) fn responses(batch: &HttpBatch, answer: &Answer<HttpResponses>) -> Answer<HttpResponses> {
    let mut answer = answer.clone();
    if let Answer::Ok(HttpResponses { responses }) = &mut answer {
        for (index, response) in responses.iter_mut().enumerate() {
            let Some(request) = batch.requests.get(index) else { continue };
            if let Answer::Ok(response) = response {
                response.body = without_proofs(body(&request.url, response), request);
                let headers = response.headers.iter_mut();
                headers.for_each(|(name, value)| {
                    *value = if is_proof(name) {
                        REDACTED.to_owned()
                    } else {
                        without_proofs(std::mem::take(value), request)
                    };
                });
            }
        }
    }
    answer
}

/// A value without the member `cache`, which holds tokens.
pub(super) fn without_cache(mut value: Value) -> Value {
    if let Some(object) = value.as_object_mut() {
        object.remove("cache");
    }
    value
}

/// Manifests and tag lists are public to who may ask for them; all else may be a token server's answer.
fn body(url: &str, response: &HttpResponse) -> String {
    let path = url.split(['?', '#']).next().unwrap_or_default();
    let is_registrys = path.contains("/v2/") && (path.contains("/manifests/") || path.ends_with("/tags/list"));
    if (is_registrys && response.status == 200) || response.body.is_empty() {
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

/// What a registry sent back of the proofs that it was sent.
fn without_proofs(body: String, request: &HttpRequest) -> String {
    let headers = request.headers.iter().filter(|(name, _)| is_proof(name)).map(|(_, value)| value);
    let fields = request.form.iter().filter(|(name, _)| is_secret(name)).map(|(_, value)| value);
    let proofs = headers.chain(fields).map(|value| value.split_once(' ').map_or(value.as_str(), |(_, proof)| proof));
    proofs.filter(|proof| !proof.is_empty()).fold(body, |body, proof| body.replace(proof, REDACTED))
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

fn is_proof(name: &str) -> bool {
    PROOFS.iter().any(|proof| name.eq_ignore_ascii_case(proof))
}

fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["token", "password", "secret"].iter().any(|word| name.contains(word))
}
