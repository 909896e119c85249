//! What a stored credential may be used for, wherever it may go: to read manifests and tags from its registry's API, and
//! to ask a realm that the registry named for a token that reads. An account can do more, which is not a plugin's to do.

use imagewatch_abi::{Failure, HttpRequest, Method, Reference};
use reqwest::header::{ACCEPT, HeaderMap};
use url::Url;

use super::{CredentialPermit, denied};
use crate::realms::Realms;

/// What a token request says, in its query or form; besides that, only what the realm's own URL says.
const TOKEN_FIELDS: [&str; 4] = ["account", "client_id", "scope", "service"];

/// What a token request by POST says as well.
const GRANT_TYPE: (&str, &str) = ("grant_type", "refresh_token");

/// What a token for a repository is good for, when it changes nothing there; the last two are Azure's.
const READING: [&str; 3] = ["pull", "content_read", "metadata_read"];

/// Whether `request`, to `url`, may be sent with the credential of `permit`.
pub(super) fn check(
    request: &HttpRequest,
    url: &Url,
    headers: &HeaderMap,
    permit: &CredentialPermit,
    realms: &Realms,
) -> Result<(), Failure> {
    let (registry, host) = (&permit.registry, url.host_str().unwrap_or_default());
    if let Some(name) = headers.keys().find(|name| *name != ACCEPT) {
        return denied(format!("header {name} does not go to {host} along with the credential of {registry}"));
    }
    if !permit.is_realm && request.method != Method::Post && is_read(url.path()) {
        return Ok(());
    }
    let another_path = denied(format!(
        "the credential of {registry} is for reading manifests and tags there, and for tokens at the realm that \
         {registry} names when it is asked without: this is another path of {host}"
    ));
    // One that names several says with each what belongs to it.
    let named = realms.named_by(registry, url);
    named
        .iter()
        .fold(another_path, |checked, realm| checked.or_else(|_| check_token_request(request, url, registry, realm)))
}

/// Whether the request asks `realm` for a token that reads.
fn check_token_request(request: &HttpRequest, url: &Url, registry: &str, realm: &Url) -> Result<(), Failure> {
    let own: Vec<(String, String)> = realm.query_pairs().into_owned().collect();
    let asked = url.query_pairs().into_owned().chain(request.form.iter().cloned());
    for (name, value) in asked.filter(|field| !own.contains(field)) {
        let is_known = TOKEN_FIELDS.contains(&name.as_str()) || (name.as_str(), value.as_str()) == GRANT_TYPE;
        if !is_known {
            return denied(format!("a token of {registry} is asked for without the field {name}"));
        }
        if name == "scope" && !value.split_whitespace().all(is_scope_to_read) {
            return denied(format!("a token of {registry} is asked for to pull with, and for nothing else"));
        }
    }
    Ok(())
}

/// `/v2/`, `/v2/<repository>/manifests/<tag or digest>` and `/v2/<repository>/tags/list`, each part as the grammar of
/// references writes it: what a server decodes or resolves may be another path.
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

/// Whether `repository` with `version`, a tag or a digest with its separator, is a reference in its canonical form.
fn names(repository: &str, version: &str) -> bool {
    // A host, so that nothing is read as one.
    let text = format!("registry.invalid/{repository}{version}");
    text.parse::<Reference>()
        .is_ok_and(|reference| reference.repository() == repository && reference.to_string() == text)
}

/// One of a kind of the registry's own (`aws`) has no actions to choose.
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
    #[case::encoded_way_up("/v2/x%2f..%2f..%2fadmin/manifests/x", false)]
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
    fn s12_a_stored_credential_goes_to_canonical_paths_only(#[case] path: &str, #[case] is_allowed: bool) {
        assert_eq!(is_read(path), is_allowed);
    }
}
