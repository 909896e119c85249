//! Builds the requests that registries are sent. Every part of a URL is checked or encoded.

use imagewatch_abi::{HttpRequest, Method, ReadBody, Reference};

/// One `Accept` header for every manifest type, always the same: a registry that renegotiates the
/// type answers with another document's digest.
const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";

/// How a request proves itself.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Auth<'a> {
    /// Not at all.
    None,
    /// With the registry's credential, which the host attaches.
    Basic,
    /// With a token.
    Bearer(&'a str),
}

/// The request for a tag's digest.
pub(crate) fn build_head(scheme: &str, reference: &Reference, auth: Auth<'_>) -> HttpRequest {
    let url = format!(
        "{scheme}://{}/v2/{}/manifests/{}",
        reference.api_host(),
        reference.repository(),
        reference.tag_or_latest()
    );
    let accept = ("accept".to_owned(), ACCEPT.to_owned());
    let request = build_registry(reference.api_host(), url, &["docker-content-digest"], auth);
    HttpRequest { method: Method::Head, headers: [vec![accept], request.headers].concat(), ..request }
}

/// The URL of the first page of a repository's tags.
pub(crate) fn tags_url(scheme: &str, reference: &Reference) -> String {
    format!("{scheme}://{}/v2/{}/tags/list?n=1000", reference.api_host(), reference.repository())
}

/// The request for a page of tags.
pub(crate) fn build_tags(registry: &str, url: &str, auth: Auth<'_>) -> HttpRequest {
    HttpRequest { read: ReadBody::Document, ..build_registry(registry, url.to_owned(), &["link"], auth) }
}

/// A GET of a registry's own, with what every answer of it is read for.
fn build_registry(registry: &str, url: String, want: &[&str], auth: Auth<'_>) -> HttpRequest {
    let token = match auth {
        Auth::Bearer(token) => vec![("authorization".to_owned(), format!("Bearer {token}"))],
        Auth::None | Auth::Basic => vec![],
    };
    HttpRequest {
        method: Method::Get,
        url,
        headers: token,
        want: want.iter().chain(&["www-authenticate", "retry-after"]).map(|&name| name.to_owned()).collect(),
        credential: matches!(auth, Auth::Basic).then(|| registry.to_owned()),
        or_anonymous: false,
        unless_credential: None,
        form: vec![],
        read: ReadBody::Text,
    }
}

/// Whether a challenge's realm is an absolute http(s) URL that a query can be added to.
pub(crate) fn is_realm(realm: &str) -> bool {
    let is_url = realm.starts_with("https://") || realm.starts_with("http://");
    is_url && realm.bytes().all(|b| b.is_ascii_graphic()) && !realm.contains('#')
}

/// The request for a token. What the query of `realm` itself says is kept.
pub(crate) fn build_token(registry: &str, realm: &str, service: Option<&str>, scope: &str) -> HttpRequest {
    let mut query = form_urlencoded::Serializer::new(String::new());
    if let Some(service) = service {
        query.append_pair("service", service);
    }
    query.append_pair("scope", scope);
    let separator = if realm.contains('?') { '&' } else { '?' };
    HttpRequest {
        method: Method::Get,
        url: format!("{realm}{separator}{}", query.finish()),
        headers: vec![],
        want: vec!["retry-after".to_owned()],
        credential: Some(registry.to_owned()),
        // Public images need no credential, but a token all the same.
        or_anonymous: true,
        unless_credential: None,
        form: vec![],
        read: ReadBody::Text,
    }
}

#[cfg(test)]
mod tests {
    use crate::any_test;
    use rstest::rstest;

    use super::*;

    #[any_test]
    fn digest_is_asked_for_with_every_manifest_type_in_one_header() {
        let reference = "ghcr.io/o/workspace-template-codex:latest".parse().expect("reference");
        let request = build_head("https", &reference, Auth::Bearer("t0k"));
        assert_eq!(request.url, "https://ghcr.io/v2/o/workspace-template-codex/manifests/latest");
        assert_eq!(request.headers[1], ("authorization".to_owned(), "Bearer t0k".to_owned()));
        assert_eq!(request.headers[0].1.split(", ").count(), 4);
        assert_eq!(request.credential, None);
    }

    #[rstest]
    #[test_attr(any_test)]
    #[case::ghcr(
        "https://ghcr.io/token",
        Some("ghcr.io"),
        "https://ghcr.io/token?service=ghcr.io&scope=repository%3Ao%2Fa%3Apull"
    )]
    #[case::no_service("https://g/v2/token", None, "https://g/v2/token?scope=repository%3Ao%2Fa%3Apull")]
    #[case::own_query("https://g/t?x=1", Some("s"), "https://g/t?x=1&service=s&scope=repository%3Ao%2Fa%3Apull")]
    #[case::injection(
        "https://g/t",
        Some("s&scope=*"),
        "https://g/t?service=s%26scope%3D*&scope=repository%3Ao%2Fa%3Apull"
    )]
    fn token_url_is_encoded(#[case] realm: &str, #[case] service: Option<&str>, #[case] url: &str) {
        let request = build_token("ghcr.io", realm, service, "repository:o/a:pull");
        assert_eq!(request.url, url);
    }

    #[rstest]
    #[test_attr(any_test)]
    #[case::relative("/token")]
    #[case::other_scheme("ftp://g/t")]
    #[case::fragment("https://g/t#x")]
    #[case::blank("https://g/ t")]
    fn realms_that_are_no_url_are_refused(#[case] realm: &str) {
        assert!(!is_realm(realm));
    }
}
