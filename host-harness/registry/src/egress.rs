//! The rules for requests of plugins: hosts, schemes, methods, headers, and the hosts that may receive a stored
//! credential. The rules are pure functions of one request. This module opens no connections, holds no credentials, and
//! does not trust the guest.

use imagewatch_abi::{Failure, FailureCode, HttpRequest, Method, ReadBody, is_loopback_host};
use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use url::Url;

use super::network::Network;
use super::realms::Realms;
use imagewatch_base::hosts::{ALLOWED_HOSTS, AllowedHosts, EgressError, UrlHost, refuse_entry};
use imagewatch_base::registry_name::{DOCKER_HUB, parse_registry};

mod purpose;

/// The config key that lists the hosts that requests may reach without TLS.
const INSECURE_REGISTRIES: &str = "host.insecure_registries";
/// The config key that lists pairs of a registry and the host that issues its tokens.
const AUTH_REALMS: &str = "host.auth_realms";
/// The entry of [`INSECURE_REGISTRIES`] that allows all loopback hosts.
const LOOPBACK: &str = "loopback";

/// The maximum length of a host name (RFC 1035). Messages quote the host.
const MAX_HOST_BYTES: usize = 253;

/// Registries whose tokens are issued by another host, according to the registries' documentation.
const KNOWN_REALMS: [(&str, &str); 5] = [
    (DOCKER_HUB, "auth.docker.io"),
    (DOCKER_HUB, "auth.ipv6.docker.com"),
    ("registry.gitlab.com", "gitlab.com"),
    ("nvcr.io", "authn.nvidia.com"),
    ("rg.fr-par.scw.cloud", "api.scaleway.com"),
];

/// Headers that a guest may not set. The connection sets them, or they would authenticate as somebody other than the
/// guest. `accept-encoding` is included because bodies are not decompressed.
const REFUSED_HEADERS: [&str; 12] = [
    "accept-encoding",
    "connection",
    "content-length",
    "content-type",
    "cookie",
    "expect",
    "host",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Form fields that contain secrets. Only the host sets them.
const REFUSED_FIELDS: [&str; 2] = ["refresh_token", "password"];

/// The operator's rules for the HTTP requests of one plugin manifest.
#[derive(Debug, Clone)]
pub struct EgressRules {
    allowed: AllowedHosts,
    allow_insecure_loopback: bool,
    insecure: Vec<String>,
    realms: Vec<(String, String)>,
}

/// A permitted request, in the form in which it was checked.
#[derive(Debug, Clone)]
pub struct Permit {
    /// The HTTP method.
    pub method: Method,
    /// The URL. Its host is [`host`](Self::host).
    pub url: Url,
    /// The guest's headers.
    pub headers: HeaderMap,
    /// `host`, or `host:port` if the port is not the scheme's default port.
    pub host: String,
    /// The addresses that the request may reach.
    pub network: Network,
    /// The stored credential that may be attached.
    pub credential: Option<CredentialPermit>,
    /// A requested credential that may not be attached, and the reason. If this credential is stored, the request fails
    /// with that reason. Otherwise the request is sent anonymously.
    pub denied_credential: Option<(CredentialPermit, Failure)>,
    /// Whether the request is sent anonymously if no credential is stored.
    pub allow_anonymous: bool,
    /// Whether the client may follow a redirect, see [`EgressRules::check_redirect`]. Always `false` for token
    /// requests.
    pub may_redirect: bool,
}

/// The stored credential that may be attached to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CredentialPermit {
    /// The registry of the credential.
    pub registry: String,
    /// The repository of the credential, if the guest named one.
    pub repository: Option<String>,
    /// Whether the URL's host is a token realm of the registry, not the registry itself.
    pub is_realm: bool,
}

impl EgressRules {
    /// Parses the manifest's `allowed_hosts` and two config values. An entry of `allowed_hosts` is a glob of a host,
    /// with a port unless it is the scheme's default port. The text after the first `/` of an entry is ignored. The
    /// config values are lists separated by commas or spaces. `host.insecure_registries` lists hosts that requests may
    /// reach without TLS; `loopback` means all loopback hosts. `host.auth_realms` lists pairs `registry=realmhost`.
    ///
    /// # Errors
    /// Returns an error for the first entry that is not valid.
    pub fn parse(allowed_hosts: &[String], insecure: &str, auth_realms: &str) -> Result<Self, EgressError> {
        Self::over(AllowedHosts::parse(allowed_hosts)?, insecure, auth_realms)
    }

    /// Creates rules from hosts that were parsed before and may have been narrowed. For the config values, see
    /// [`parse`](Self::parse).
    ///
    /// # Errors
    /// Returns an error for the first entry of the config values that is not valid.
    pub fn over(allowed: AllowedHosts, insecure: &str, auth_realms: &str) -> Result<Self, EgressError> {
        let mut rules = Self { allowed, allow_insecure_loopback: false, insecure: Vec::new(), realms: Vec::new() };
        for entry in list(insecure) {
            if entry == LOOPBACK {
                rules.allow_insecure_loopback = true;
            } else {
                rules.insecure.push(parse_host(INSECURE_REGISTRIES, entry, entry)?);
            }
        }
        for entry in list(auth_realms) {
            let (registry, realm) = entry
                .split_once('=')
                .ok_or_else(|| refuse_entry(AUTH_REALMS, entry, "write it as <registry host>=<realm host>"))?;
            rules.realms.push((parse_host(AUTH_REALMS, entry, registry)?, parse_host(AUTH_REALMS, entry, realm)?));
        }
        Ok(rules)
    }

    /// Checks whether `request` may be sent, and with which credential. `realms` contains the realms that registries
    /// have named so far.
    ///
    /// # Errors
    /// Returns a failure that names the URL's host and the key that would allow the request.
    pub fn check(&self, request: &HttpRequest, realms: &Realms) -> Result<Permit, Failure> {
        let (url, host) = parse_url(&request.url)?;
        let headers = check_headers(&request.headers, &host, self.allowed.has(&host))?;
        let is_realm = self.is_realm(&host)
            || is_anonymous_token_request(request, &headers)
                && realms.has(&url, |registry| !host.is(registry) && self.allowed.has(&UrlHost::named(registry)));
        let is_known = self.allowed.has(&host) || is_realm;
        let mut denied_credential = None;
        let credential = match request.credential.as_deref().map(|named| self.check_credential(named, &host)) {
            None => None,
            Some(Ok(permit)) => Some(permit),
            // Another host may issue the tokens of a registry. A public image then needs no credential.
            Some(Err(refusal)) => match *refusal {
                (Some(permit), failure) if request.allow_anonymous && is_known && url.scheme() == "https" => {
                    denied_credential = Some((permit, failure));
                    None
                }
                (_, failure) => return Err(failure),
            },
        };
        if !is_known {
            return denied(format!("{host} is not in {ALLOWED_HOSTS} of the plugin manifest: add it there"));
        }
        self.check_scheme(&url, &host)?;
        let is_chosen =
            is_realm || denied_credential.is_some() || credential.as_ref().is_some_and(|found| found.is_realm);
        let network = self.check_network(&host, is_chosen)?;
        let credential = credential.filter(|_| !headers.contains_key(AUTHORIZATION));
        check_form(request, &host, credential.is_some())?;
        if let Some(permit) = &credential {
            purpose::check(request, &url, &headers, permit, realms)?;
        }
        let is_document = request.method == Method::Head || request.read != ReadBody::Text;
        Ok(Permit {
            method: request.method,
            url,
            headers,
            host: host.short,
            network,
            credential,
            denied_credential,
            allow_anonymous: request.allow_anonymous,
            may_redirect: is_document && request.method != Method::Post && !is_chosen,
        })
    }

    /// Checks whether the client may follow a redirect from `permit` to `location`. A redirect to another origin
    /// carries no credential and no header except `accept`. It may reach only addresses that a registry may choose. A
    /// redirect from https to http is never allowed.
    ///
    /// # Errors
    /// Returns a failure that names the hosts and, if one exists, the key that would allow the redirect.
    pub fn check_redirect(&self, permit: &Permit, location: &str) -> Result<Permit, Failure> {
        let target = match permit.url.join(location) {
            Ok(target) => check_url(target),
            Err(error) => denied(format!("the url is malformed: {error}")),
        };
        let refuse = |failure: Failure| -> Failure {
            let message = format!("{} redirects to a target that is not allowed: {}", permit.host, failure.message);
            Failure { message, ..failure }
        };
        let (url, host) = target.map_err(refuse)?;
        if url.origin() == permit.url.origin() {
            return Ok(Permit { url, ..permit.clone() });
        }
        if permit.url.scheme() == "https" && url.scheme() != "https" {
            let message = format!("{host} without TLS; no key allows a redirect from https to http");
            return denied(message).map_err(refuse);
        }
        self.check_scheme(&url, &host).map_err(refuse)?;
        let network = self.check_network(&host, true).map_err(refuse)?;
        let mut headers = permit.headers.clone();
        let accept = headers.remove(ACCEPT);
        let headers = accept.map(|value| (ACCEPT, value)).into_iter().collect();
        Ok(Permit { url, headers, host: host.short, network, credential: None, ..permit.clone() })
    }

    /// Decides whether the credential that the guest named may be sent to `host`. This function alone makes that
    /// decision. A refusal contains the credential, if the name is valid.
    fn check_credential(
        &self,
        named: &str,
        host: &UrlHost,
    ) -> Result<CredentialPermit, Box<(Option<CredentialPermit>, Failure)>> {
        let (registry, repository) = match named.split_once('/') {
            Some((registry, repository)) => (registry, Some(repository.to_owned())),
            None => (named, None),
        };
        let Some(registry) = parse_registry(registry).filter(|_| repository.as_deref().is_none_or(is_repository))
        else {
            let message = format!("the credential requested for {host} is not named by a registry host");
            return denied(message).map_err(|failure| Box::new((None, failure)));
        };
        if !self.allowed.has(&UrlHost::named(&registry)) {
            let message = format!(
                "this plugin may not send the credential of {registry} to {host}: add {registry} to {ALLOWED_HOSTS}"
            );
            return denied(message).map_err(|failure| Box::new((None, failure)));
        }
        let is_realm = !host.is(&registry);
        let permit = CredentialPermit { registry, repository, is_realm };
        if is_realm && !self.is_bound(&permit.registry, host) {
            let registry = &permit.registry;
            let message = format!(
                "the credential of {registry} may not be sent to {host}: if {host} issues the tokens of {registry}, \
                 add {registry}={host} to {AUTH_REALMS}"
            );
            return denied(message).map_err(|failure| Box::new((Some(permit), failure)));
        }
        Ok(permit)
    }

    fn check_scheme(&self, url: &Url, host: &UrlHost) -> Result<(), Failure> {
        let is_insecure = self.allow_insecure_loopback && is_loopback_host(&host.short)
            || self.insecure.iter().any(|entry| host.is(entry));
        if url.scheme() == "https" || is_insecure {
            return Ok(());
        }
        denied(format!("{host} may not be contacted without TLS: use https, or add it to {INSECURE_REGISTRIES}"))
    }

    /// Decides which addresses a request to `host` may reach. `is_chosen` means that a registry's answer chose the
    /// host. A host that is an address is checked here. A host name is checked on each connection, see [`Network`].
    fn check_network(&self, host: &UrlHost, is_chosen: bool) -> Result<Network, Failure> {
        let is_named = self.allowed.names(host) || self.realms.iter().any(|(_, realm)| host.is(realm));
        let network = match host.address {
            Some(_) if is_named => Network::Literal,
            _ if is_named || !is_chosen || self.is_realm(host) => Network::Operators,
            _ => Network::Public,
        };
        if let Some(address) = host.address {
            network.check(&host.short, address).or_else(|refused| denied(refused.to_string()))?;
        } else if network == Network::Public && is_loopback_host(&host.short) {
            return denied(format!(
                "{host} is this machine, and a registry's answer may not lead there: add {host} to {ALLOWED_HOSTS}, or \
                 add <registry>={host} to {AUTH_REALMS}"
            ));
        }
        Ok(network)
    }

    /// Whether `host` issues tokens for `registry`, according to the built-in list or the configuration.
    fn is_bound(&self, registry: &str, host: &UrlHost) -> bool {
        self.pairs().any(|(of, realm)| of == registry && host.is(realm))
    }

    /// Whether `host` issues tokens for any registry that the plugin may contact.
    fn is_realm(&self, host: &UrlHost) -> bool {
        self.pairs().any(|(registry, realm)| host.is(realm) && self.allowed.has(&UrlHost::named(registry)))
    }

    fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        let configured = self.realms.iter().map(|(registry, realm)| (registry.as_str(), realm.as_str()));
        KNOWN_REALMS.into_iter().chain(configured)
    }
}

/// Whether the request can be an anonymous token request: a GET for text without an `authorization` header.
fn is_anonymous_token_request(request: &HttpRequest, headers: &HeaderMap) -> bool {
    request.method == Method::Get && request.read == ReadBody::Text && !headers.contains_key(AUTHORIZATION)
}

/// Whether `text` matches the grammar of repositories. The check is strict, because the name of a credential is looked
/// up in files and passed to programs.
fn is_repository(text: &str) -> bool {
    let is_component = |part: &str| {
        let is_edge = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        part.starts_with(is_edge) && part.ends_with(is_edge)
    };
    text.split('/').all(is_component)
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '/' | '.' | '_' | '-'))
}

/// Checks a form. It may be sent only with a permitted credential, and the guest may not set secret fields.
fn check_form(request: &HttpRequest, host: &UrlHost, has_credential: bool) -> Result<(), Failure> {
    if request.method != Method::Post {
        let is_empty = request.form.is_empty();
        return if is_empty { Ok(()) } else { denied(format!("a form for {host} must be sent with POST")) };
    }
    if !has_credential {
        return denied(format!(
            "a form may be sent to {host} only with a credential: name its registry, and if {host} issues that \
             registry's tokens, add <registry>={host} to {AUTH_REALMS}"
        ));
    }
    match request.form.iter().find(|(name, _)| REFUSED_FIELDS.contains(&name.as_str())) {
        Some((name, _)) => denied(format!("a plugin may not set form field {name} for {host}")),
        None => Ok(()),
    }
}

fn denied<T>(message: String) -> Result<T, Failure> {
    Err(Failure::permanent(FailureCode::Denied, message))
}

/// Parses a URL. The message never quotes the URL, because its query may be secret.
fn parse_url(text: &str) -> Result<(Url, UrlHost), Failure> {
    match Url::parse(text) {
        Ok(url) => check_url(url),
        Err(error) => denied(format!("the url is malformed: {error}")),
    }
}

fn check_url(url: Url) -> Result<(Url, UrlHost), Failure> {
    let name = url.host_str().unwrap_or("a url without a host");
    if name.len() > MAX_HOST_BYTES {
        return denied(format!("the url's host has more than {MAX_HOST_BYTES} characters, the limit of DNS"));
    }
    if !matches!(url.scheme(), "https" | "http") {
        return denied(format!("{name} may be contacted by https only, not by {}", url.scheme()));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return denied(format!("the url for {name} contains a user name or password: name a credential instead"));
    }
    if url.fragment().is_some() {
        return denied(format!("the url for {name} has a fragment, which is never sent: remove it"));
    }
    match UrlHost::of(&url) {
        Some(host) => Ok((url, host)),
        None => denied("the url has no host".to_owned()),
    }
}

fn check_headers(headers: &[(String, String)], host: &UrlHost, is_allowed: bool) -> Result<HeaderMap, Failure> {
    let mut checked = HeaderMap::with_capacity(headers.len());
    for (name, value) in headers {
        let (Ok(name), Ok(mut value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) else {
            return denied(format!("a header for {host} is malformed"));
        };
        if REFUSED_HEADERS.contains(&name.as_str()) || name.as_str().starts_with("proxy-") {
            return denied(format!("a plugin may not set header {name} for {host}"));
        }
        if name == AUTHORIZATION {
            check_authorization(&value, host, is_allowed)?;
            value.set_sensitive(true);
        }
        checked.append(name, value);
    }
    Ok(checked)
}

fn check_authorization(value: &HeaderValue, host: &UrlHost, is_allowed: bool) -> Result<(), Failure> {
    let is_bearer = value.as_bytes().get(..7).is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"bearer "));
    if !is_bearer {
        return denied(format!("a plugin may send only a bearer token to {host}: for a password, name a credential"));
    }
    if !is_allowed {
        return denied(format!("a bearer token may not be sent to {host}: add {host} to {ALLOWED_HOSTS}"));
    }
    Ok(())
}

fn list(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| c == ',' || c.is_whitespace()).filter(|entry| !entry.is_empty())
}

fn parse_host(key: &'static str, entry: &str, host: &str) -> Result<String, EgressError> {
    parse_registry(host).ok_or_else(|| refuse_entry(key, entry, "write only <host> or <host>:<port>"))
}

#[cfg(test)]
mod tests;
