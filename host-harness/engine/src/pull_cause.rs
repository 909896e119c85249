//! Classifies why an engine could not pull an image, from the status and the text of its answer.
//!
//! Docker answers most registry failures with status 500. After a pull has begun, it answers with 200 and an error text
//! in the stream. So the text is checked first, and the status is used only if the text is unknown.

use imagewatch_abi::PullCause;

/// Parts of engine error texts, in lower case, with their causes. The first row that matches decides, because an error
/// text quotes the error that caused it. Every part contains a space or a colon: no repository name can contain these.
const TEXTS: &[(&str, PullCause)] = &[
    ("no space left on device", PullCause::NoSpace),
    ("disk quota exceeded", PullCause::NoSpace),
    ("not enough space on the disk", PullCause::NoSpace),
    ("dial unix ", PullCause::EngineUnreachable),
    ("no matching manifest for ", PullCause::NoPlatform),
    ("no match for platform", PullCause::NoPlatform),
    ("for architecture ", PullCause::NoPlatform),
    ("the specified platform", PullCause::NoPlatform),
    (": toomanyrequests", PullCause::RateLimited),
    ("too many requests", PullCause::RateLimited),
    ("http 429 response", PullCause::RateLimited),
    ("layer verification failed", PullCause::Mismatch),
    ("verification failed for digest", PullCause::Mismatch),
    ("unexpected commit ", PullCause::Mismatch),
    ("failed size validation", PullCause::Mismatch),
    ("digest did not match", PullCause::Mismatch),
    (": denied", PullCause::Denied),
    ("access denied", PullCause::Denied),
    ("access to the resource is denied", PullCause::Denied),
    (": unauthorized", PullCause::Denied),
    ("401 unauthorized", PullCause::Denied),
    ("authentication required", PullCause::Denied),
    ("authorization failed", PullCause::Denied),
    ("no basic auth credentials", PullCause::Denied),
    ("403 forbidden", PullCause::Denied),
    ("403 (forbidden)", PullCause::Denied),
    ("http 401 response", PullCause::Denied),
    ("http 403 response", PullCause::Denied),
    ("manifest unknown", PullCause::NotFound),
    ("name unknown", PullCause::NotFound),
    ("unknown blob", PullCause::NotFound),
    ("blob unknown", PullCause::NotFound),
    (": not found", PullCause::NotFound),
    ("404 not found", PullCause::NotFound),
    ("404 (not found)", PullCause::NotFound),
    ("http 404 response", PullCause::NotFound),
    ("dial tcp", PullCause::RegistryUnreachable),
    ("no such host", PullCause::RegistryUnreachable),
    ("connection refused", PullCause::RegistryUnreachable),
    ("connection reset", PullCause::RegistryUnreachable),
    ("broken pipe", PullCause::RegistryUnreachable),
    ("i/o timeout", PullCause::RegistryUnreachable),
    ("handshake timeout", PullCause::RegistryUnreachable),
    ("deadline exceeded", PullCause::RegistryUnreachable),
    ("request canceled", PullCause::RegistryUnreachable),
    ("x509: ", PullCause::RegistryUnreachable),
    ("tls: ", PullCause::RegistryUnreachable),
    ("http response to https client", PullCause::RegistryUnreachable),
    (": eof", PullCause::RegistryUnreachable),
    ("unexpected eof", PullCause::RegistryUnreachable),
    ("expected http 206", PullCause::RegistryUnreachable),
    ("unexpected http status: 5", PullCause::RegistryUnreachable),
    ("500 internal server error", PullCause::RegistryUnreachable),
    ("502 bad gateway", PullCause::RegistryUnreachable),
    ("503 service unavailable", PullCause::RegistryUnreachable),
    ("504 gateway time", PullCause::RegistryUnreachable),
    ("http 5", PullCause::RegistryUnreachable),
    ("error unmarshalling content", PullCause::RegistryUnreachable),
    ("error from registry", PullCause::RegistryUnreachable),
];

/// Classifies a failed pull. `status` is `None` if the pull failed after it began.
pub(super) fn classify(status: Option<u16>, text: &str) -> PullCause {
    // Several rows begin with a colon. The prefix lets them match at the beginning of the text too.
    let text = format!(": {}", text.to_ascii_lowercase());
    let known = TEXTS.iter().find(|(part, _)| text.contains(part)).map(|(_, cause)| *cause);
    known.unwrap_or(match status {
        Some(401 | 403) => PullCause::Denied,
        Some(404) => PullCause::NotFound,
        Some(429) => PullCause::RateLimited,
        Some(507) => PullCause::NoSpace,
        Some(502..=504) => PullCause::RegistryUnreachable,
        _ => PullCause::Other,
    })
}

#[cfg(test)]
mod tests;
