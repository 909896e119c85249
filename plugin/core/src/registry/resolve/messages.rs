//! What a refusal comes to, in words that say what to do. Texts of the other side are shown cut and without controls.

use imagewatch_abi::{Failure, FailureCode, HttpResponse, Reference};

use super::super::cache::Known;
use super::Query;

/// Host and port of a URL.
pub(super) fn host_of(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.split(['/', '?']).next().unwrap_or(rest)
}

/// The token server of `registry`, whose realm is `realm`, for people.
pub(super) fn token_server(registry: &str, realm: &str) -> String {
    match host_of(realm) {
        host if host == registry => format!("the token server of {registry}"),
        host => format!("the token server {host} of {registry}"),
    }
}

/// A status other than 200, 401 and 403.
pub(super) fn refusal(query: &Query, is_next_page: bool, response: &HttpResponse) -> Failure {
    let (reference, registry) = (query.reference(), query.registry());
    match (response.status, query) {
        (404, Query::Digest(_)) => Failure::permanent(
            FailureCode::NotFound,
            format!("{registry} has no {}:{}", reference.repository(), reference.tag_or_latest()),
        ),
        (404, Query::Tags(_)) if is_next_page => {
            bad_answer(format!("{registry} links to a next page of its tag list, and answers that with status 404"))
        }
        (404, _) => Failure::permanent(FailureCode::NotFound, format!("{registry} has no {}", reference.repository())),
        _ => by_status(registry, response),
    }
}

pub(super) fn by_status(server: &str, response: &HttpResponse) -> Failure {
    let status = response.status;
    Failure { retryable: status >= 500, ..bad_answer(format!("{server} answered with status {status}")) }
}

/// A token server that gives no token.
pub(super) fn refused_token(known: &Known, registry: &str, server: &str, response: &HttpResponse) -> Failure {
    let status = response.status;
    match status {
        401 | 403 if !known.rejected.is_empty() => rejected(registry),
        401 | 403 if response.authenticated => Failure::permanent(
            FailureCode::Unauthorized,
            format!("{server} refused the credential configured for {registry} (status {status})"),
        ),
        401 | 403 => Failure::permanent(
            FailureCode::NoCredential,
            format!("{server} gives no anonymous token (status {status}); configure a credential for {registry}"),
        ),
        _ => by_status(server, response),
    }
}

/// A registry that denies access; `is_authenticated`: although a login was sent.
pub(super) fn unauthorized(known: Option<&Known>, reference: &Reference, is_authenticated: bool) -> Failure {
    let (registry, repository) = (reference.api_host(), reference.repository());
    if known.is_some_and(|known| !known.rejected.is_empty()) {
        return rejected(registry);
    }
    let advice = if is_authenticated {
        format!("the credential configured for {registry} does not give access to it")
    } else {
        format!("if {repository} is private, configure a credential for {registry}")
    };
    Failure::permanent(FailureCode::Unauthorized, format!("{registry} denied access to {repository}; {advice}"))
}

/// A registry that redirects to `host`, which wants a proof of its own. None goes to it: it was asked for by another name.
pub(super) fn challenged_elsewhere(reference: &Reference, host: &str) -> Failure {
    let (registry, repository) = (reference.api_host(), reference.repository());
    let message = format!(
        "{registry} redirects to {host}, which wants a token or login of its own: write {host}/{repository} instead of \
         {registry}/{repository}"
    );
    Failure::permanent(FailureCode::Unauthorized, message)
}

/// A registry that redirects to `host`, which denies access.
pub(super) fn denied_elsewhere(reference: &Reference, host: &str, response: &HttpResponse) -> Failure {
    let (registry, status) = (reference.api_host(), response.status);
    let message = format!("{registry} redirects to {host}, which denied access (status {status})");
    Failure::permanent(FailureCode::Unauthorized, message)
}

fn rejected(registry: &str) -> Failure {
    let message = format!(
        "{registry} refused the credential configured for it, and denies access without; it is not tried again until it changes"
    );
    Failure::permanent(FailureCode::Unauthorized, message)
}

pub(super) fn bad_answer(message: String) -> Failure {
    Failure::retryable(FailureCode::BadAnswer, message)
}

/// `text` as it may be shown.
pub(super) fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(80).collect()
}
