//! `http_send`: a whole batch of requests to registries, answered in the same order.
//! A request never holds a secret: it names a credential, and the host attaches it.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Answer, Digest};

/// What `http_send` takes: at most [`MAX_BATCH`](crate::MAX_BATCH) requests.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct HttpBatch {
    /// Sent side by side.
    pub requests: Vec<HttpRequest>,
    /// Whether the host may answer [`FailureCode::Pending`](crate::FailureCode::Pending) for a request that takes long, so
    /// that the other answers are used at once. A host that ignores this waits for all of them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub may_defer: bool,
}

/// One request. `Debug` leaves out header values and the query: both may carry tokens.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct HttpRequest {
    /// The method; hosts allow no other.
    pub method: Method,
    /// An absolute URL.
    pub url: String,
    /// Name and value. `authorization` may carry a bearer token only.
    #[serde(default)]
    pub headers: Vec<(String, String)>,
    /// The response headers wanted back, lower case; no other is returned.
    #[serde(default)]
    pub want: Vec<String>,
    /// Whose credential is to be attached: the registry's host (`ghcr.io`, `registry.example.com:5000`), or
    /// host and repository (`ghcr.io/o/a`) where credentials may differ by repository. The host attaches it
    /// only towards that registry and realms bound to it: to a GET or HEAD as Basic auth, to a POST as the
    /// form field `refresh_token`.
    #[serde(default)]
    pub credential: Option<String>,
    /// Send the request without a credential when none is stored; else that is a failure,
    /// `no_credential`, which says where one may be configured.
    #[serde(default)]
    pub or_anonymous: bool,
    /// A [`HttpResponse::credential_id`] that was refused: when the credential to attach is still that one, nothing
    /// is sent and the failure is [`Rejected`](crate::FailureCode::Rejected). Registries lock accounts that keep trying.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unless_credential: Option<String>,
    /// The fields of a POST, sent as `application/x-www-form-urlencoded`; empty with other methods.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub form: Vec<(String, String)>,
    /// What is wanted of the response's body.
    #[serde(default, skip_serializing_if = "ReadBody::is_text")]
    pub read: ReadBody,
}

/// What of a body comes back to the guest, and how large it may be. The host's own limits go before these. The body
/// of what is no success comes as [`Text`](Self::Text) in any case: it says why. Redirects are followed for a HEAD and
/// for what is not read as text, so never for a token.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum ReadBody {
    /// Its text, up to 64 KiB: tokens and errors.
    #[default]
    Text,
    /// Its text, up to 4 MiB: manifests and pages of tag lists.
    Document,
    /// Not its text but its SHA-256, up to 4 MiB: the digest of a manifest whose registry does not say it.
    Digest,
}

impl ReadBody {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks with a reference")]
    fn is_text(&self) -> bool {
        *self == Self::Text
    }
}

/// Methods of [`HttpRequest`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "UPPERCASE")]
pub enum Method {
    /// Read a document.
    Get,
    /// Read its headers.
    Head,
    /// Ask a token realm for a token with an identity token; hosts allow it towards realms only.
    Post,
}

/// What `http_send` answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct HttpResponses {
    /// One for each request, in its order.
    pub responses: Vec<Answer<HttpResponse>>,
}

/// One response, whatever its status. `Debug` leaves out the body: a token server's holds a token.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct HttpResponse {
    /// The status code.
    pub status: u16,
    /// The wanted headers, names lower case; one that came twice is there twice.
    #[serde(default)]
    pub headers: Vec<(String, String)>,
    /// The body as text; bytes that are no UTF-8 come as U+FFFD.
    #[serde(default)]
    pub body: String,
    /// Whether the host attached the credential that the request named.
    #[serde(default)]
    pub authenticated: bool,
    /// Names the credential that was attached, for [`HttpRequest::unless_credential`]: another one has another id.
    /// Tells nothing of the credential and means nothing after the host's restart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential_id: Option<String>,
    /// The host, with its port, that sent this response, where redirects led to another host than the one that was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answered_by: Option<String>,
    /// The body's digest, for [`ReadBody::Digest`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_digest: Option<Digest>,
}

impl fmt::Debug for HttpRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.headers.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("HttpRequest")
            .field("method", &self.method)
            .field("url", &self.url.split('?').next().unwrap_or_default())
            .field("headers", &names)
            .field("credential", &self.credential)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for HttpResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpResponse")
            .field("status", &self.status)
            .field("headers", &self.headers)
            .field("authenticated", &self.authenticated)
            .field("answered_by", &self.answered_by)
            .finish_non_exhaustive()
    }
}

impl HttpResponse {
    /// The first value of header `name` (lower case).
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// All values of header `name` (lower case), in their order.
    pub fn header_values(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(key, _)| key == name).map(|(_, value)| value.as_str()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_do_not_show_in_debug() {
        let request = HttpRequest {
            method: Method::Get,
            url: "https://r.io/token?x=canary".to_owned(),
            headers: vec![("authorization".to_owned(), "Bearer canary".to_owned())],
            want: vec![],
            credential: Some("r.io".to_owned()),
            or_anonymous: false,
            unless_credential: None,
            form: vec![("refresh_token".to_owned(), "canary".to_owned())],
            read: ReadBody::Text,
        };
        let response = HttpResponse { body: "canary".to_owned(), ..HttpResponse::default() };
        let shown = format!("{request:?} {response:?}");
        assert!(!shown.contains("canary"), "{shown}");
        assert!(shown.contains("https://r.io/token") && shown.contains("authorization"), "{shown}");
    }
}
