//! `http_send`: a batch of requests to registries, with the responses in the same order. A request never contains a
//! secret. It names a credential, and the host attaches it.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Answer, Digest};

/// The input of `http_send`: at most [`MAX_BATCH`](crate::MAX_BATCH) requests.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct HttpBatch {
    /// The requests. The host sends them concurrently.
    pub requests: Vec<HttpRequest>,
    /// Whether the host may answer [`FailureCode::Pending`](crate::FailureCode::Pending) for a slow request, so that
    /// the policy can use the other answers at once. A host that ignores this flag waits for all answers.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub may_defer: bool,
}

/// One request. `Debug` omits the header values and the query, because both may contain tokens.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct HttpRequest {
    /// The request method.
    pub method: Method,
    /// An absolute URL.
    pub url: String,
    /// Names and values. `authorization` may contain a bearer token only.
    #[serde(default)]
    pub headers: Vec<(String, String)>,
    /// The names of the response headers to return, in lower case. The host returns no other headers.
    #[serde(rename = "want", default)]
    pub response_headers: Vec<String>,
    /// The credential to attach: the registry's host (`ghcr.io`, `registry.example.com:5000`), or host and repository
    /// (`ghcr.io/o/a`) if credentials may differ by repository. The host attaches it only to requests to that registry
    /// and to the realms bound to it. A GET or HEAD carries it as Basic auth, a POST as the form field `refresh_token`.
    #[serde(default)]
    pub credential: Option<String>,
    /// Send the request without a credential if none is stored. If false, a missing credential is the failure
    /// `no_credential`, which says where to configure one.
    #[serde(rename = "or_anonymous", default)]
    pub allow_anonymous: bool,
    /// A [`HttpResponse::credential_id`] that the registry rejected. If the credential to attach is still this one, the
    /// host sends nothing and answers [`Rejected`](crate::FailureCode::Rejected). Registries lock accounts that keep
    /// trying.
    #[serde(rename = "unless_credential", default, skip_serializing_if = "Option::is_none")]
    pub rejected_credential_id: Option<String>,
    /// The fields of a POST, sent as `application/x-www-form-urlencoded`. Empty for other methods.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub form: Vec<(String, String)>,
    /// Which part of the response body to return.
    #[serde(default, skip_serializing_if = "ReadBody::is_text")]
    pub read: ReadBody,
}

/// Which part of a response body the guest receives, and its maximum size. The host's own limits take precedence. The
/// body of an error response is always returned as [`Text`](Self::Text), because it explains the error. Redirects are
/// followed for a HEAD and for a body that is not read as text, so never for a token.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum ReadBody {
    /// The text, up to 64 KiB: for tokens and errors.
    #[default]
    Text,
    /// The text, up to 4 MiB: for manifests and pages of tag lists.
    Document,
    /// The SHA-256 of the body instead of its text, up to 4 MiB: for a manifest without a digest header.
    Digest,
}

impl ReadBody {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks with a reference")]
    fn is_text(&self) -> bool {
        *self == Self::Text
    }
}

/// Methods of [`HttpRequest`]. Hosts allow no other method.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "UPPERCASE")]
pub enum Method {
    /// Read a document.
    Get,
    /// Read the headers of a document.
    Head,
    /// Exchange an identity token for a token at a token realm. Hosts allow it for realms only.
    Post,
}

/// The output of `http_send`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct HttpResponses {
    /// One answer for each request, in the order of the requests.
    pub responses: Vec<Answer<HttpResponse>>,
}

/// One response with any status. `Debug` omits the body, because the body of a token server contains a token.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct HttpResponse {
    /// The HTTP status code.
    pub status: u16,
    /// The requested headers, with names in lower case. A header that the server sent twice appears twice.
    #[serde(default)]
    pub headers: Vec<(String, String)>,
    /// The body as text. U+FFFD replaces bytes that are not UTF-8.
    #[serde(default)]
    pub body: String,
    /// Whether the host attached the credential that the request named.
    #[serde(default)]
    pub authenticated: bool,
    /// An id for the attached credential, for [`HttpRequest::rejected_credential_id`]. Each credential has a different
    /// id. The id reveals nothing about the credential, and it is not valid after the host restarts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential_id: Option<String>,
    /// The host and port that sent this response. Absent unless redirects led away from the host in the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answered_by: Option<String>,
    /// The digest of the body, for [`ReadBody::Digest`].
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
    /// The first value of header `name` (in lower case).
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// All values of header `name` (in lower case), in the order of the response.
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
            response_headers: vec![],
            credential: Some("r.io".to_owned()),
            allow_anonymous: false,
            rejected_credential_id: None,
            form: vec![("refresh_token".to_owned(), "canary".to_owned())],
            read: ReadBody::Text,
        };
        let response = HttpResponse { body: "canary".to_owned(), ..HttpResponse::default() };
        let shown = format!("{request:?} {response:?}");
        assert!(!shown.contains("canary"), "{shown}");
        assert!(shown.contains("https://r.io/token") && shown.contains("authorization"), "{shown}");
    }
}
