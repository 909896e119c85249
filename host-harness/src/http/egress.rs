//! What a plugin may send and where: hosts, schemes, methods, headers, and towards whom a stored
//! credential may be attached. Pure rules over one request: opens no connection, holds no
//! credential, and takes the guest's word for nothing.

use globset::{Glob, GlobSet, GlobSetBuilder};
use imagewatch_abi::{Failure, FailureCode, HttpRequest, Method, is_loopback_host};
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use url::Url;

use crate::credentials::store::{DOCKER_HUB, DOCKER_HUB_NAMES, parse_registry};

const ALLOWED_HOSTS: &str = "allowed_hosts";
const INSECURE_REGISTRIES: &str = "host.insecure_registries";
const AUTH_REALMS: &str = "host.auth_realms";
const LOOPBACK: &str = "loopback";

/// Registries whose tokens are issued by another host, as they document it themselves.
const KNOWN_REALMS: [(&str, &str); 4] = [
    (DOCKER_HUB, "auth.docker.io"),
    (DOCKER_HUB, "auth.ipv6.docker.com"),
    ("registry.gitlab.com", "gitlab.com"),
    ("nvcr.io", "authn.nvidia.com"),
];

/// What the connection itself needs, or what would speak for somebody else than the guest.
const REFUSED_HEADERS: [&str; 10] = [
    "connection",
    "content-length",
    "cookie",
    "expect",
    "host",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// A config value that is no egress rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("read {entry:?} in {key}: {why}")]
pub struct EgressError {
    /// The manifest's key at fault.
    pub key: &'static str,
    /// The entry at fault.
    pub entry: String,
    why: String,
}

/// The operator's grant for HTTP, from one plugin manifest.
#[derive(Debug, Clone)]
pub struct EgressRules {
    allowed: GlobSet,
    allow_insecure_loopback: bool,
    insecure: Vec<String>,
    realms: Vec<(String, String)>,
}

/// A request that may be sent, in the form in which it was checked.
#[derive(Debug)]
pub struct Permit {
    /// The method.
    pub method: Method,
    /// The URL; its host is [`host`](Self::host).
    pub url: Url,
    /// The guest's headers.
    pub headers: HeaderMap,
    /// `host`, or `host:port` when the port is not the scheme's own.
    pub host: String,
    /// Whose stored credential may go along.
    pub credential: Option<CredentialPermit>,
    /// The registry whose credential was asked for in vain, and why: the request may be sent only
    /// while none is stored for it.
    pub withheld: Option<(String, Failure)>,
    /// Whether to do without when none is stored.
    pub or_anonymous: bool,
}

/// The one stored credential that may be attached to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CredentialPermit {
    /// The registry that it belongs to.
    pub registry: String,
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
        let mut rules = Self {
            allowed: parse_globs(allowed_hosts)?,
            allow_insecure_loopback: false,
            insecure: Vec::new(),
            realms: Vec::new(),
        };
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
    /// host and the key that would allow it. Methods need no check: the boundary has only GET and HEAD.
    pub fn check(&self, request: &HttpRequest) -> Result<Permit, Failure> {
        let url = parse_url(&request.url)?;
        let host = UrlHost::of(&url)?;
        let is_allowed = self.is_allowed(&host);
        let mut withheld = None;
        let credential = match request.credential.as_deref().map(|named| self.check_credential(named, &host)) {
            None => None,
            Some(Ok(permit)) => Some(permit),
            // A public image of a registry whose tokens another host issues needs no credential.
            Some(Err(failure)) if request.or_anonymous && is_allowed && url.scheme() == "https" => {
                withheld = request.credential.as_deref().and_then(parse_registry).map(|registry| (registry, failure));
                None
            }
            Some(Err(failure)) => return Err(failure),
        };
        let is_realm = credential.as_ref().is_some_and(|credential| credential.is_realm);
        if !is_allowed && !is_realm {
            return denied(format!("{host} is not among the plugin manifest's {ALLOWED_HOSTS}: add it there"));
        }
        if url.scheme() != "https" && !self.is_insecure(&host) {
            return denied(format!(
                "{host} may not be spoken to without TLS: use https, or add it to {INSECURE_REGISTRIES}"
            ));
        }
        let headers = check_headers(&request.headers, &host, is_allowed)?;
        let credential = credential.filter(|_| !headers.contains_key(AUTHORIZATION));
        Ok(Permit {
            method: request.method,
            url,
            headers,
            host: host.short,
            credential,
            withheld,
            or_anonymous: request.or_anonymous,
        })
    }

    /// `named` is the guest's word; that its credential may go to `host` is decided here alone.
    fn check_credential(&self, named: &str, host: &UrlHost) -> Result<CredentialPermit, Failure> {
        let Some(registry) = parse_registry(named) else {
            return denied(format!("the credential asked for towards {host} is not named by a registry host"));
        };
        if !self.is_allowed(&UrlHost::named(&registry)) {
            return denied(format!(
                "the credential of {registry} is not this plugin's to use towards {host}: add {registry} to {ALLOWED_HOSTS}"
            ));
        }
        let is_realm = !host.is(&registry);
        if is_realm && !self.is_bound(&registry, host) {
            return denied(format!(
                "the credential of {registry} does not go to {host}: if that is where {registry} has its tokens \
                 issued, add {registry}={host} to {AUTH_REALMS}"
            ));
        }
        Ok(CredentialPermit { registry, is_realm })
    }

    fn is_allowed(&self, host: &UrlHost) -> bool {
        let aliases = DOCKER_HUB_NAMES.iter().filter(|_| host.is(DOCKER_HUB)).copied();
        aliases.chain([host.short.as_str(), host.full.as_str()]).any(|name| self.allowed.is_match(name))
    }

    fn is_insecure(&self, host: &UrlHost) -> bool {
        self.allow_insecure_loopback && is_loopback_host(&host.short)
            || self.insecure.iter().any(|entry| host.is(entry))
    }

    fn is_bound(&self, registry: &str, host: &UrlHost) -> bool {
        let configured = self.realms.iter().map(|(registry, realm)| (registry.as_str(), realm.as_str()));
        KNOWN_REALMS.into_iter().chain(configured).any(|(of, realm)| of == registry && host.is(realm))
    }
}

/// A URL's host and port, as lists may write it: without a port that is the scheme's own, and with it.
struct UrlHost {
    short: String,
    full: String,
}

impl UrlHost {
    fn of(url: &Url) -> Result<Self, Failure> {
        let (Some(name), Some(port)) = (url.host_str(), url.port_or_known_default()) else {
            return denied("the url has no host".to_owned());
        };
        let full = format!("{name}:{port}");
        let short = if url.port().is_some() { full.clone() } else { name.to_owned() };
        Ok(Self { short, full })
    }

    /// Of a registry's name alone; https is understood.
    fn named(registry: &str) -> Self {
        let has_port = registry.rsplit_once(':').is_some_and(|(_, port)| !port.ends_with(']'));
        let full = if has_port { registry.to_owned() } else { format!("{registry}:443") };
        Self { short: registry.to_owned(), full }
    }

    /// Whether `name`, written as [`parse_registry`] writes it, is this host and port.
    fn is(&self, name: &str) -> bool {
        name == self.full || name == self.short || parse_registry(&self.short).is_some_and(|short| short == name)
    }
}

impl std::fmt::Display for UrlHost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.short)
    }
}

fn denied<T>(message: String) -> Result<T, Failure> {
    Err(Failure::lasting(FailureCode::Denied, message))
}

/// The message never quotes the URL: its query is nobody else's business.
fn parse_url(text: &str) -> Result<Url, Failure> {
    let url = match Url::parse(text) {
        Ok(url) => url,
        Err(error) => return denied(format!("the url is malformed: {error}")),
    };
    let host = url.host_str().unwrap_or("a url without a host");
    if !matches!(url.scheme(), "https" | "http") {
        return denied(format!("{host} may be spoken to by https only, not by {}", url.scheme()));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return denied(format!("the url for {host} carries a user name or password: name a credential instead"));
    }
    if url.fragment().is_some() {
        return denied(format!("the url for {host} has a fragment, which no registry sees"));
    }
    Ok(url)
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

fn refuse_entry(key: &'static str, entry: &str, why: impl Into<String>) -> EgressError {
    EgressError { key, entry: entry.to_owned(), why: why.into() }
}

fn parse_host(key: &'static str, entry: &str, host: &str) -> Result<String, EgressError> {
    parse_registry(host).ok_or_else(|| refuse_entry(key, entry, "it needs a bare <host> or <host>:<port>"))
}

fn parse_globs(allowed_hosts: &[String]) -> Result<GlobSet, EgressError> {
    let refuse = |entry: &str, why: String| refuse_entry(ALLOWED_HOSTS, entry, why);
    let mut globs = GlobSetBuilder::new();
    for entry in allowed_hosts {
        if entry.contains("://") {
            return Err(refuse(entry, "write the host alone, without a scheme".to_owned()));
        }
        let host = entry.split('/').next().unwrap_or_default().trim().to_ascii_lowercase();
        if host.is_empty() {
            return Err(refuse(entry, "it names no host".to_owned()));
        }
        globs.add(Glob::new(&escape_address(&host)).map_err(|error| refuse(entry, error.kind().to_string()))?);
    }
    globs.build().map_err(|error| refuse(error.glob().unwrap_or_default(), error.kind().to_string()))
}

/// The brackets of an IPv6 address are no character class.
fn escape_address(host: &str) -> String {
    match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, port)) if address.contains(':') => format!("{}{port}", globset::escape(&format!("[{address}]"))),
        _ => host.to_owned(),
    }
}

#[cfg(test)]
mod tests;
