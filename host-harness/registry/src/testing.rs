//! Requests, for the tests of this crate.

use imagewatch_abi::{HttpRequest, Method, ReadBody};

/// A request for `url` without headers, fields and credential, whose body is read as text.
pub(crate) fn request(method: Method, url: impl Into<String>) -> HttpRequest {
    HttpRequest {
        method,
        url: url.into(),
        headers: Vec::new(),
        response_headers: Vec::new(),
        credential: None,
        allow_anonymous: false,
        rejected_credential_id: None,
        form: Vec::new(),
        read: ReadBody::Text,
    }
}

/// [`request`] with GET.
pub(crate) fn get(url: impl Into<String>) -> HttpRequest {
    request(Method::Get, url)
}
