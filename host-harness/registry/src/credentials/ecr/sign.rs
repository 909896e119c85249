//! AWS Signature Version 4. The time is an argument, so that tests can compare with known signatures.

use reqsign_aws_core::Credential as Keys;
use reqsign_core::hash::{hex_hmac_sha256, hex_sha256, hmac_sha256};
use reqsign_core::time::Timestamp;

/// The region, service and time of a signature.
#[derive(Debug)]
pub(super) struct Scope<'a> {
    pub(super) region: &'a str,
    pub(super) service: &'a str,
    pub(super) now: Timestamp,
}

/// Creates the `authorization` header of a POST request with `body` to `path`. The request has no query. All of
/// `headers` are signed. Their names must be in lower case. The function sorts them.
pub(super) fn authorization(
    keys: &Keys,
    scope: &Scope<'_>,
    path: &str,
    headers: &mut [(&str, String)],
    body: &str,
) -> String {
    headers.sort_unstable_by_key(|(name, _)| *name);
    let names = headers.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(";");
    let lines: Vec<String> = headers.iter().map(|(name, value)| format!("{name}:{}", value.trim())).collect();
    let (lines, body) = (lines.join("\n"), hex_sha256(body.as_bytes()));
    let canonical = format!("POST\n{path}\n\n{lines}\n\n{names}\n{body}");
    let Scope { region, service, now } = scope;
    let date = now.format_date();
    let credential_scope = format!("{date}/{region}/{service}/aws4_request");
    let text =
        format!("AWS4-HMAC-SHA256\n{}\n{credential_scope}\n{}", now.format_iso8601(), hex_sha256(canonical.as_bytes()));
    let first = hmac_sha256(format!("AWS4{}", keys.secret_access_key).as_bytes(), date.as_bytes());
    let parts = [region.as_bytes(), service.as_bytes(), b"aws4_request"];
    let key = parts.into_iter().fold(first, |key, part| hmac_sha256(&key, part));
    let signature = hex_hmac_sha256(&key, text.as_bytes());
    format!(
        "AWS4-HMAC-SHA256 Credential={}/{credential_scope}, SignedHeaders={names}, Signature={signature}",
        keys.access_key_id
    )
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    /// The signatures were computed for this project and compared with the crate aws-sigv4 1.6.4. The keys are AWS's
    /// published examples.
    const VECTORS: &str = include_str!("tests-data/sigv4_ecr_vectors.json");

    #[test]
    fn requests_are_signed_as_by_aws() {
        let vectors: Value = serde_json::from_str(VECTORS).unwrap();
        let vectors = vectors["vectors"].as_array().unwrap();
        assert_eq!(vectors.len(), 2);
        for vector in vectors {
            let text = |key: &str| vector[key].as_str().unwrap();
            let keys = Keys {
                access_key_id: text("access_key").to_owned(),
                secret_access_key: text("secret_key").to_owned(),
                session_token: vector["session_token"].as_str().map(str::to_owned),
                expires_in: None,
            };
            let mut headers: Vec<(&str, String)> = vector["headers"]
                .as_object()
                .unwrap()
                .iter()
                .rev()
                .map(|(name, value)| (name.as_str(), value.as_str().unwrap().to_owned()))
                .collect();
            let now = "2015-08-30T12:36:00Z".parse().unwrap();
            let scope = Scope { region: text("region"), service: text("service"), now };
            assert_eq!(now.format_iso8601(), text("amz_date"));
            assert_eq!(authorization(&keys, &scope, "/", &mut headers, text("body")), text("authorization"));
        }
    }
}
