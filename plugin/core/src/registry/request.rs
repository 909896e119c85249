//! Builds the requests that registries are sent. Every part of a URL is checked or encoded.

use imagewatch_abi::{Digest, HttpRequest, Method, ReadBody, Reference};

use super::limit;

/// One `Accept` header for every manifest type, always the same: a registry that renegotiates the
/// type answers with another document's digest.
const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";

/// How a request proves itself.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Auth<'a> {
    /// Not at all.
    None,
    /// With the login of this name, which the host attaches, unless it is the one with this id.
    Basic(&'a str, Option<&'a str>),
    /// With a token.
    Bearer(&'a str),
}

/// What is read of a manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Want {
    /// The digest that the registry says it has.
    Head,
    /// The digest that it has, by its content.
    Hash,
    /// Its text.
    Text,
}

/// The request for the manifest of a digest or tag.
pub(crate) fn build_manifest(scheme: &str, reference: &Reference, want: Want, auth: Auth<'_>) -> HttpRequest {
    let (host, repository) = (reference.api_host(), reference.repository());
    let version = reference.digest().map_or(reference.tag_or_latest(), Digest::as_str);
    let url = format!("{scheme}://{host}/v2/{repository}/manifests/{version}");
    let mut request = build_registry(url, "docker-content-digest", auth);
    request.headers.insert(0, ("accept".to_owned(), ACCEPT.to_owned()));
    let (method, read) = match want {
        Want::Head => (Method::Head, ReadBody::Text),
        Want::Hash => (Method::Get, ReadBody::Digest),
        Want::Text => (Method::Get, ReadBody::Document),
    };
    if want == Want::Hash {
        request.response_headers.push("content-type".to_owned());
    }
    HttpRequest { method, read, ..request }
}

/// The URL of the first page of a repository's tags.
pub(crate) fn tags_url(scheme: &str, reference: &Reference) -> String {
    format!("{scheme}://{}/v2/{}/tags/list?n=1000", reference.api_host(), reference.repository())
}

/// The request for a page of tags.
pub(crate) fn build_tags(url: String, auth: Auth<'_>) -> HttpRequest {
    HttpRequest { read: ReadBody::Document, ..build_registry(url, "link", auth) }
}

/// A GET of a registry's own, with what every answer of it is read for.
fn build_registry(url: String, want: &str, auth: Auth<'_>) -> HttpRequest {
    let mut request = build_get(url, &[want, "www-authenticate"]);
    match auth {
        Auth::None => {}
        Auth::Basic(credential, unless) => {
            request.credential = Some(credential.to_owned());
            request.rejected_credential_id = unless.map(str::to_owned);
        }
        Auth::Bearer(token) => request.headers.push(("authorization".to_owned(), format!("Bearer {token}"))),
    }
    request
}

fn build_get(url: String, want: &[&str]) -> HttpRequest {
    HttpRequest {
        method: Method::Get,
        url,
        headers: vec![],
        response_headers: want.iter().chain(&limit::HEADERS).map(|&name| name.to_owned()).collect(),
        credential: None,
        allow_anonymous: false,
        rejected_credential_id: None,
        form: vec![],
        read: ReadBody::Text,
    }
}

/// Whether a challenge's realm is an absolute http(s) URL that a query can be added to.
pub(crate) fn is_realm(realm: &str) -> bool {
    let is_url = realm.starts_with("https://") || realm.starts_with("http://");
    is_url && realm.bytes().all(|b| b.is_ascii_graphic()) && !realm.contains('#')
}

/// The URL of a token for `scopes`. What the query of `realm` itself says is kept.
pub(crate) fn token_url(realm: &str, service: Option<&str>, scopes: &[String]) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    if let Some(service) = service {
        query.append_pair("service", service);
    }
    for scope in scopes.iter().flat_map(|scope| scope.split(' ')) {
        query.append_pair("scope", scope);
    }
    let separator = if realm.contains('?') { '&' } else { '?' };
    format!("{realm}{separator}{}", query.finish())
}

/// The request for a token at `url`, with the login where there is one: public images need none, but a token all the same.
pub(crate) fn build_token(url: String, login: Option<(&str, Option<&str>)>) -> HttpRequest {
    let mut request = build_get(url, &[]);
    if let Some((credential, unless)) = login {
        request.credential = Some(credential.to_owned());
        request.rejected_credential_id = unless.map(str::to_owned);
        request.allow_anonymous = true;
    }
    request
}

/// The request for a token with an identity token, which the host puts into the form.
pub(crate) fn build_exchange(
    realm: &str,
    service: Option<&str>,
    scopes: &[String],
    login: (&str, Option<&str>),
) -> HttpRequest {
    let field = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let mut form = vec![field("grant_type", "refresh_token"), field("client_id", "imagewatch")];
    form.extend(service.map(|service| field("service", service)));
    form.push(field("scope", &scopes.join(" ")));
    HttpRequest { method: Method::Post, form, ..build_token(realm.to_owned(), Some(login)) }
}

#[cfg(test)]
mod tests {
    use crate::any_test;
    use rstest::rstest;

    use super::*;

    #[any_test]
    fn digest_is_asked_for_with_every_manifest_type_in_one_header() {
        let reference = "ghcr.io/o/workspace-template-codex:latest".parse().expect("reference");
        let request = build_manifest("https", &reference, Want::Head, Auth::Bearer("t0k"));
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
        assert_eq!(token_url(realm, service, &["repository:o/a:pull".to_owned()]), url);
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
