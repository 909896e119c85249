//! The purposes of a stored credential: to read manifests and tags from its registry's API, and to request a token for
//! reading from a realm that the registry named. The account itself may allow more, but a plugin may not use that.

use imagewatch_abi::{Failure, HttpRequest, Method, Reference};
use reqwest::header::{ACCEPT, HeaderMap};
use url::Url;

use super::{CredentialPermit, denied};
use crate::realms::Realms;

/// The fields that a token request may contain in its query or form, in addition to the query of the realm's URL.
const TOKEN_FIELDS: [&str; 4] = ["account", "client_id", "scope", "service"];

/// The additional field of a token request by POST.
const GRANT_TYPE: (&str, &str) = ("grant_type", "refresh_token");

/// The actions on a repository that only read. The last two belong to Azure.
const READING: [&str; 3] = ["pull", "content_read", "metadata_read"];

/// Checks whether `request` to `url` may be sent with the credential of `permit`.
pub(super) fn check(
    request: &HttpRequest,
    url: &Url,
    headers: &HeaderMap,
    permit: &CredentialPermit,
    realms: &Realms,
) -> Result<(), Failure> {
    let (registry, host) = (&permit.registry, url.host_str().unwrap_or_default());
    if let Some(name) = headers.keys().find(|name| *name != ACCEPT) {
        return denied(format!("header {name} may not be sent to {host} with the credential of {registry}"));
    }
    if !permit.is_realm && request.method != Method::Post && is_read(url.path()) {
        return Ok(());
    }
    let another_path = denied(format!(
        "the credential of {registry} may be used only to read manifests and tags there, and to request tokens from \
         the realm that {registry} names: this is another path of {host}"
    ));
    // A registry may name several realms, each with its own query.
    let named = realms.named_by(registry, url);
    named
        .iter()
        .fold(another_path, |checked, realm| checked.or_else(|_| check_token_request(request, url, registry, realm)))
}

/// Checks whether the request asks `realm` for a token that only reads.
fn check_token_request(request: &HttpRequest, url: &Url, registry: &str, realm: &Url) -> Result<(), Failure> {
    let realm_fields: Vec<(String, String)> = realm.query_pairs().into_owned().collect();
    let fields = url.query_pairs().into_owned().chain(request.form.iter().cloned());
    for (name, value) in fields.filter(|field| !realm_fields.contains(field)) {
        let is_known = TOKEN_FIELDS.contains(&name.as_str()) || (name.as_str(), value.as_str()) == GRANT_TYPE;
        if !is_known {
            return denied(format!("a token of {registry} must be requested without the field {name}"));
        }
        if name == "scope" && !value.split_whitespace().all(is_scope_to_read) {
            return denied(format!("a token of {registry} may be requested only to pull"));
        }
    }
    Ok(())
}

/// Whether `path` is `/v2/`, `/v2/<repository>/manifests/<tag or digest>` or `/v2/<repository>/tags/list`. Each part
/// must match the grammar of references exactly. Otherwise a server could decode or resolve it to another path.
fn is_read(path: &str) -> bool {
    let Some(rest) = path.strip_prefix("/v2/") else { return false };
    match rest.rsplitn(3, '/').collect::<Vec<_>>()[..] {
        [""] => true,
        ["list", "tags", repository] => names(repository, ""),
        [digest, "manifests", repository] if digest.contains(':') => names(repository, &format!("@{digest}")),
        [tag, "manifests", repository] => names(repository, &format!(":{tag}")),
        _ => false,
    }
}

/// Whether `repository` and `version` form a canonical reference. `version` is a tag or a digest with its separator.
fn names(repository: &str, version: &str) -> bool {
    // With a host, so that no part of the repository is parsed as the host.
    let text = format!("registry.invalid/{repository}{version}");
    text.parse::<Reference>()
        .is_ok_and(|reference| reference.repository() == repository && reference.to_string() == text)
}

/// Whether a scope only reads. A registry-specific scope (`aws`) has no actions.
fn is_scope_to_read(scope: &str) -> bool {
    match scope.rsplit_once(':') {
        None => true,
        Some((resource, actions)) => {
            resource.starts_with("repository") && actions.split(',').all(|action| READING.contains(&action))
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const DIGEST: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000000";

    #[rstest]
    #[case::version_check("/v2/", true)]
    #[case::manifest("/v2/org/app/manifests/v1.2", true)]
    #[case::manifest_by_digest(&format!("/v2/app/manifests/{DIGEST}"), true)]
    #[case::tags("/v2/org/app/tags/list", true)]
    #[case::repository_named_manifests("/v2/manifests/manifests/manifests", true)]
    #[case::encoded_parent_folders("/v2/x%2f..%2f..%2fadmin/manifests/x", false)]
    #[case::encoded_letter("/v2/%61dmin/manifests/x", false)]
    #[case::encoded_reference("/v2/a/manifests/..%2f..%2fadmin", false)]
    #[case::backslash("/v2/a%5c..%5cadmin/manifests/x", false)]
    #[case::dots("/v2/a/../admin/manifests/x", false)]
    #[case::dots_in_a_component("/v2/a..b/manifests/x", false)]
    #[case::empty_component("/v2/a//b/manifests/x", false)]
    #[case::no_repository("/v2//manifests/x", false)]
    #[case::no_repository_for_tags("/v2/tags/list", false)]
    #[case::upper_case("/v2/Admin/manifests/x", false)]
    #[case::tag_in_the_repository("/v2/a:b/tags/list", false)]
    #[case::digest_in_the_repository(&format!("/v2/a@{DIGEST}/tags/list"), false)]
    #[case::no_reference("/v2/a/manifests/", false)]
    #[case::semicolon("/v2/a;admin/manifests/x", false)]
    #[case::no_digest("/v2/a/manifests/sha256:xyz", false)]
    #[case::tag_and_digest(&format!("/v2/a/manifests/v1@{DIGEST}"), false)]
    #[case::other_api("/v2/a/blobs/uploads/", false)]
    #[case::before_the_api("/admin/v2/a/manifests/x", false)]
    fn s12_a_stored_credential_is_sent_only_to_canonical_paths(#[case] path: &str, #[case] is_allowed: bool) {
        assert_eq!(is_read(path), is_allowed);
    }
}
