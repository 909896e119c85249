//! Access to the admin API: a request needs the bearer token. There are no users or roles.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::Response;
use secrecy::{ExposeSecret, SecretString};
use subtle::ConstantTimeEq;

/// Passes on a request that carries the token. If no token is configured, every request is refused.
pub(super) async fn require_token(token: State<Option<Arc<SecretString>>>, request: Request, next: Next) -> Response {
    let Some(token) = token.0 else {
        return unauthorized("the admin API is closed: set IMAGEWATCH_ADMIN_TOKEN and send it as a bearer token");
    };
    match bearer(request.headers()) {
        Some(given) if bool::from(given.ct_eq(token.expose_secret().trim().as_bytes())) => next.run(request).await,
        Some(_) => unauthorized("the bearer token is not the one in IMAGEWATCH_ADMIN_TOKEN"),
        None => unauthorized("send the token of IMAGEWATCH_ADMIN_TOKEN as Authorization: Bearer <token>"),
    }
}

fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.as_bytes().split_at_checked("bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
}

fn unauthorized(why: &str) -> Response {
    let mut response = super::error(StatusCode::UNAUTHORIZED, why);
    response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    response
}
