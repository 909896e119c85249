//! What a plugin may send and where: hosts, schemes, methods, headers, and towards whom a stored
//! credential may be attached. Pure rules over one request: opens no connection, holds no
//! credential, and takes the guest's word for nothing.

use imagewatch_abi::{Failure, FailureCode, HttpRequest, Method, ReadBody, is_loopback_host};
use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use url::Url;

use super::network::Network;
use super::realms::Realms;
use imagewatch_base::hosts::{ALLOWED_HOSTS, AllowedHosts, EgressError, UrlHost, refuse_entry};
use imagewatch_base::registry_name::{DOCKER_HUB, parse_registry};

mod purpose;

/// The manifest's field that lists the hosts a policy may contact.
const INSECURE_REGISTRIES: &str = "host.insecure_registries";
const AUTH_REALMS: &str = "host.auth_realms";
const LOOPBACK: &str = "loopback";

/// RFC 1035; messages quote the host.
const MAX_HOST_BYTES: usize = 253;

/// Registries whose tokens are issued by another host, as they document it themselves.
const KNOWN_REALMS: [(&str, &str); 5] = [
    (DOCKER_HUB, "auth.docker.io"),
    (DOCKER_HUB, "auth.ipv6.docker.com"),
    ("registry.gitlab.com", "gitlab.com"),
    ("nvcr.io", "authn.nvidia.com"),
    ("rg.fr-par.scw.cloud", "api.scaleway.com"),
];

/// What the connection itself needs, or what would speak for somebody else than the guest. Bodies are taken as they
/// are, so nothing may ask for a compressed one.
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

/// Form fields that are secrets: the host sets them.
const REFUSED_FIELDS: [&str; 2] = ["refresh_token", "password"];

/// The operator's grant for HTTP, from one plugin manifest.
#[derive(Debug, Clone)]
pub struct EgressRules {
    allowed: AllowedHosts,
    allow_insecure_loopback: bool,
    insecure: Vec<String>,
    realms: Vec<(String, String)>,
}

/// A request that may be sent, in the form in which it was checked.
#[derive(Debug, Clone)]
pub struct Permit {
    /// The method.
    pub method: Method,
    /// The URL; its host is [`host`](Self::host).
    pub url: Url,
    /// The guest's headers.
    pub headers: HeaderMap,
    /// `host`, or `host:port` when the port is not the scheme's own.
    pub host: String,
    /// Which addresses the host may be at.
    pub network: Network,
    /// Whose stored credential may go along.
    pub credential: Option<CredentialPermit>,
    /// The credential that was asked for in vain, and why: the request may be sent only while none is stored.
    pub withheld: Option<(CredentialPermit, Failure)>,
    /// Whether to do without when none is stored.
    pub or_anonymous: bool,
    /// Whether a redirect may be followed, see [`EgressRules::check_redirect`]. What asks for a token never is.
    pub may_redirect: bool,
}

/// The one stored credential that may be attached to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CredentialPermit {
    /// The registry that it belongs to.
    pub registry: String,
    /// The repository that it is for, when the guest named one.
    pub repository: Option<String>,
    /// The URL's host is a token realm of that registry, not the registry itself.
    pub is_realm: bool,
}

impl EgressRules {
    /// Reads the manifest's `allowed_hosts` (globs of hosts, with the port where it is not the
    /// scheme's own; from the first `/` on an entry is ignored) and two config values, lists
    /// separated by commas or blanks: `host.insecure_registries` (hosts that may be spoken to
    /// without TLS; `loopback` is all of this machine's) and `host.auth_realms` (pairs
    /// `registry=realmhost`).
    pub fn parse(allowed_hosts: &[String], insecure: &str, auth_realms: &str) -> Result<Self, EgressError> {
        Self::over(AllowedHosts::parse(allowed_hosts)?, insecure, auth_realms)
    }

    /// The same over hosts that were parsed before, and perhaps narrowed.
    ///
    /// # Errors
    /// The entry of one of the two config values that cannot be used.
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

    /// Whether `request` may be sent and with whose credential; else a failure that names the URL's
    /// host and the key that would allow it. `realms` are those that registries have named so far.
    pub fn check(&self, request: &HttpRequest, realms: &Realms) -> Result<Permit, Failure> {
        let (url, host) = parse_url(&request.url)?;
        let headers = check_headers(&request.headers, &host, self.allowed.has(&host))?;
        let is_realm = self.is_realm(&host)
            || is_like_a_token_request(request, &headers)
                && realms.has(&url, |registry| !host.is(registry) && self.allowed.has(&UrlHost::named(registry)));
        let is_known = self.allowed.has(&host) || is_realm;
        let mut withheld = None;
        let credential = match request.credential.as_deref().map(|named| self.check_credential(named, &host)) {
            None => None,
            Some(Ok(permit)) => Some(permit),
            // A public image of a registry whose tokens another host issues needs no credential.
            Some(Err(refusal)) => match *refusal {
                (Some(permit), failure) if request.or_anonymous && is_known && url.scheme() == "https" => {
                    withheld = Some((permit, failure));
                    None
                }
                (_, failure) => return Err(failure),
            },
        };
        if !is_known {
            return denied(format!("{host} is not among the plugin manifest's {ALLOWED_HOSTS}: add it there"));
        }
        self.check_scheme(&url, &host)?;
        let is_chosen = is_realm || withheld.is_some() || credential.as_ref().is_some_and(|found| found.is_realm);
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
            withheld,
            or_anonymous: request.or_anonymous,
            may_redirect: is_document && request.method != Method::Post && !is_chosen,
        })
    }

    /// Whether the answer to `permit` may lead on to `location`, and how: to another origin without credential and
    /// without any header but `accept`, never from https to http, and only to where a registry's choice may lead.
    pub fn check_redirect(&self, permit: &Permit, location: &str) -> Result<Permit, Failure> {
        let target = match permit.url.join(location) {
            Ok(target) => check_url(target),
            Err(error) => denied(format!("the url is malformed: {error}")),
        };
        let refuse = |failure: Failure| -> Failure {
            let message = format!("{} redirects to where it may not: {}", permit.host, failure.message);
            Failure { message, ..failure }
        };
        let (url, host) = target.map_err(refuse)?;
        if url.origin() == permit.url.origin() {
            return Ok(Permit { url, ..permit.clone() });
        }
        if permit.url.scheme() == "https" && url.scheme() != "https" {
            let message = format!("{host} without TLS, which no key allows after https");
            return denied(message).map_err(refuse);
        }
        self.check_scheme(&url, &host).map_err(refuse)?;
        let network = self.check_network(&host, true).map_err(refuse)?;
        let mut headers = permit.headers.clone();
        let accept = headers.remove(ACCEPT);
        let headers = accept.map(|value| (ACCEPT, value)).into_iter().collect();
        Ok(Permit { url, headers, host: host.short, network, credential: None, ..permit.clone() })
    }

    /// `named` is the guest's word; that its credential may go to `host` is decided here alone. A refusal comes with
    /// the credential that it is about, if there is one by that name.
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
            let message = format!("the credential asked for towards {host} is not named by a registry host");
            return denied(message).map_err(|failure| Box::new((None, failure)));
        };
        if !self.allowed.has(&UrlHost::named(&registry)) {
            let message = format!(
                "the credential of {registry} is not this plugin's to use towards {host}: add {registry} to {ALLOWED_HOSTS}"
            );
            return denied(message).map_err(|failure| Box::new((None, failure)));
        }
        let is_realm = !host.is(&registry);
        let permit = CredentialPermit { registry, repository, is_realm };
        if is_realm && !self.is_bound(&permit.registry, host) {
            let registry = &permit.registry;
            let message = format!(
                "the credential of {registry} does not go to {host}: if that is where {registry} has its tokens \
                 issued, add {registry}={host} to {AUTH_REALMS}"
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
        denied(format!("{host} may not be spoken to without TLS: use https, or add it to {INSECURE_REGISTRIES}"))
    }

    /// Which addresses `host` may be at; `is_chosen` says that a registry's answer chose it. Of hosts that are
    /// addresses themselves that is decided here, of names when they are connected to.
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
                "{host} is this machine, where a registry's answer may not lead: add it to {ALLOWED_HOSTS} or, with \
                 its registry, to {AUTH_REALMS}"
            ));
        }
        Ok(network)
    }

    /// Whether `host` issues tokens for `registry`, as is known or configured.
    fn is_bound(&self, registry: &str, host: &UrlHost) -> bool {
        self.pairs().any(|(of, realm)| of == registry && host.is(realm))
    }

    /// Whether `host` issues tokens for any registry that the plugin may ask.
    fn is_realm(&self, host: &UrlHost) -> bool {
        self.pairs().any(|(registry, realm)| host.is(realm) && self.allowed.has(&UrlHost::named(registry)))
    }

    fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        let configured = self.realms.iter().map(|(registry, realm)| (registry.as_str(), realm.as_str()));
        KNOWN_REALMS.into_iter().chain(configured)
    }
}

/// Asks for something that anybody may have, and as tokens are asked for.
fn is_like_a_token_request(request: &HttpRequest, headers: &HeaderMap) -> bool {
    request.method == Method::Get && request.read == ReadBody::Text && !headers.contains_key(AUTHORIZATION)
}

/// Only what a reference's grammar has: a credential's name is looked up in files and handed to programs.
fn is_repository(text: &str) -> bool {
    let is_component = |part: &str| {
        let is_edge = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        part.starts_with(is_edge) && part.ends_with(is_edge)
    };
    text.split('/').all(is_component)
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '/' | '.' | '_' | '-'))
}

/// A form is for whom its credential is for, and no secret of the guest's is in it.
fn check_form(request: &HttpRequest, host: &UrlHost, has_credential: bool) -> Result<(), Failure> {
    if request.method != Method::Post {
        let is_empty = request.form.is_empty();
        return if is_empty { Ok(()) } else { denied(format!("a form for {host} is to be posted")) };
    }
    if !has_credential {
        return denied(format!(
            "a form may go to {host} only with a credential that may: name its registry, and if {host} issues that \
             registry's tokens, add <registry>={host} to {AUTH_REALMS}"
        ));
    }
    match request.form.iter().find(|(name, _)| REFUSED_FIELDS.contains(&name.as_str())) {
        Some((name, _)) => denied(format!("form field {name} towards {host} is not a plugin's to set")),
        None => Ok(()),
    }
}

fn denied<T>(message: String) -> Result<T, Failure> {
    Err(Failure::lasting(FailureCode::Denied, message))
}

/// The message never quotes the URL: its query is nobody else's business.
fn parse_url(text: &str) -> Result<(Url, UrlHost), Failure> {
    match Url::parse(text) {
        Ok(url) => check_url(url),
        Err(error) => denied(format!("the url is malformed: {error}")),
    }
}

fn check_url(url: Url) -> Result<(Url, UrlHost), Failure> {
    let name = url.host_str().unwrap_or("a url without a host");
    if name.len() > MAX_HOST_BYTES {
        return denied(format!("the url's host has more than {MAX_HOST_BYTES} characters, which no name server knows"));
    }
    if !matches!(url.scheme(), "https" | "http") {
        return denied(format!("{name} may be spoken to by https only, not by {}", url.scheme()));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return denied(format!("the url for {name} carries a user name or password: name a credential instead"));
    }
    if url.fragment().is_some() {
        return denied(format!("the url for {name} has a fragment, which no registry sees"));
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
            return denied(format!("header {name} towards {host} is not a plugin's to set"));
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
        return denied(format!("a plugin may send {host} a bearer token only: for a password name a credential"));
    }
    if !is_allowed {
        return denied(format!("a bearer token may not go to {host}: add it to {ALLOWED_HOSTS}"));
    }
    Ok(())
}

fn list(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| c == ',' || c.is_whitespace()).filter(|entry| !entry.is_empty())
}

fn parse_host(key: &'static str, entry: &str, host: &str) -> Result<String, EgressError> {
    parse_registry(host).ok_or_else(|| refuse_entry(key, entry, "it needs a bare <host> or <host>:<port>"))
}

#[cfg(test)]
mod tests;
