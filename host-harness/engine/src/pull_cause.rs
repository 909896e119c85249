//! Why an engine did not pull an image: from the status of its answer and, as often nothing else tells, from its text.
//!
//! Docker answers most failures of a registry with status 500 or, once the pull has begun, with 200 and a text in the
//! stream. So the text counts first, and the status where the text is not known.

use imagewatch_abi::PullCause;

/// What the texts of engines contain, in lower case, and what it means. The first row that matches counts, as a text
/// quotes what caused it. Every part has a space or a colon, which the name of an image never has.
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

/// The kind of a failure that the engine answers with `status`, absent for one in the middle of the pull, and `text`.
pub(super) fn classify(status: Option<u16>, text: &str) -> PullCause {
    // A text may begin with what elsewhere follows a colon.
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
