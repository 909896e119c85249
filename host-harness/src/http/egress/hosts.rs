//! Hosts as URLs have them and as the operator lists them. Compares and matches; permits nothing.

use std::net::IpAddr;

use globset::{Glob, GlobSet, GlobSetBuilder};
use url::{Host, Url};

use super::{ALLOWED_HOSTS, EgressError, refuse_entry};
use crate::credentials::store::{DOCKER_HUB, DOCKER_HUB_NAMES, parse_registry};

/// A URL's host and port, as lists may write it: without a port that is the scheme's own, and with it.
#[derive(Debug)]
pub(super) struct UrlHost {
    pub(super) short: String,
    full: String,
    /// The address, where the host is one.
    pub(super) address: Option<IpAddr>,
}

impl UrlHost {
    /// `None` for a URL without a host or of a scheme without a port.
    pub(super) fn of(url: &Url) -> Option<Self> {
        let (name, port) = (url.host_str()?, url.port_or_known_default()?);
        let full = format!("{name}:{port}");
        let short = if url.port().is_some() { full.clone() } else { name.to_owned() };
        let address = match url.host()? {
            Host::Ipv4(address) => Some(address.into()),
            Host::Ipv6(address) => Some(address.into()),
            Host::Domain(_) => None,
        };
        Some(Self { short, full, address })
    }

    /// Of a registry's name alone; https is understood.
    pub(super) fn named(registry: &str) -> Self {
        let has_port = registry.rsplit_once(':').is_some_and(|(_, port)| !port.ends_with(']'));
        let full = if has_port { registry.to_owned() } else { format!("{registry}:443") };
        Self { short: registry.to_owned(), full, address: None }
    }

    /// Whether `name`, written as [`parse_registry`] writes it, is this host and port.
    pub(super) fn is(&self, name: &str) -> bool {
        name == self.full || name == self.short || parse_registry(&self.short).is_some_and(|short| short == name)
    }
}

impl std::fmt::Display for UrlHost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.short)
    }
}

/// The manifest's `allowed_hosts`.
#[derive(Debug, Clone)]
pub(super) struct AllowedHosts {
    globs: GlobSet,
    /// The entries without a wildcard.
    literal: Vec<String>,
}

impl AllowedHosts {
    pub(super) fn parse(entries: &[String]) -> Result<Self, EgressError> {
        let refuse = |entry: &str, why: String| refuse_entry(ALLOWED_HOSTS, entry, why);
        let (mut globs, mut literal) = (GlobSetBuilder::new(), Vec::new());
        for entry in entries {
            if entry.contains("://") {
                return Err(refuse(entry, "write the host alone, without a scheme".to_owned()));
            }
            let host = entry.split('/').next().unwrap_or_default().trim().to_ascii_lowercase();
            if host.is_empty() {
                return Err(refuse(entry, "it names no host".to_owned()));
            }
            let (address, rest) = split_address(&host);
            if !rest.contains(['*', '?', '[', '{', '\\']) {
                literal.push(host.clone());
            }
            let glob = format!("{}{rest}", globset::escape(address));
            globs.add(Glob::new(&glob).map_err(|error| refuse(entry, error.kind().to_string()))?);
        }
        let globs =
            globs.build().map_err(|error| refuse(error.glob().unwrap_or_default(), error.kind().to_string()))?;
        Ok(Self { globs, literal })
    }

    /// Whether an entry, with or without wildcards, is for `host`.
    pub(super) fn has(&self, host: &UrlHost) -> bool {
        names(host).any(|name| self.globs.is_match(name))
    }

    /// Whether an entry is `host` itself.
    pub(super) fn names(&self, host: &UrlHost) -> bool {
        names(host).any(|name| self.literal.iter().any(|entry| entry == name))
    }
}

/// Every way in which `host` may be listed.
fn names(host: &UrlHost) -> impl Iterator<Item = &str> {
    let aliases = DOCKER_HUB_NAMES.iter().filter(|_| host.is(DOCKER_HUB)).copied();
    aliases.chain([host.short.as_str(), host.full.as_str()])
}

/// An IPv6 address in its brackets, which are no character class, and what follows it.
fn split_address(host: &str) -> (&str, &str) {
    match host.find(']') {
        Some(end) if host.starts_with('[') && host[..end].contains(':') => host.split_at(end + 1),
        _ => ("", host),
    }
}
