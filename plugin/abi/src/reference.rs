//! Image references: the grammar and the normalisation for Docker Hub, as in
//! <https://github.com/distribution/reference> (`reference.go`, `normalize.go`). References cross the boundary as this
//! parsed type, never as bare strings.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Digest;

const DOCKER_HUB: &str = "docker.io";
const MAX_REPOSITORY: usize = 255;
const MAX_TAG: usize = 128;

/// A parsed, normalised reference. `nginx` becomes `docker.io/library/nginx`. A missing tag stays missing.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(try_from = "String", into = "String")]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// The error for a text that is not a valid [`Reference`]: a lowercase fragment that quotes the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReferenceError(String);

impl fmt::Display for ReferenceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ReferenceError {}

impl Reference {
    /// The registry, as references name it: `docker.io`, `ghcr.io`, `127.0.0.1:5000`.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The host of the registry's API: [`registry`](Self::registry), or `registry-1.docker.io` for Docker Hub.
    pub fn api_host(&self) -> &str {
        if self.registry == DOCKER_HUB { "registry-1.docker.io" } else { &self.registry }
    }

    /// The repository's path within the registry: `library/nginx`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// `registry/repository`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// The tag, or `latest` if the reference has none.
    pub fn tag_or_latest(&self) -> &str {
        self.tag.as_deref().unwrap_or("latest")
    }

    /// The digest to which the reference is pinned.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// A reference to `digest` in the same repository, without a tag.
    #[must_use]
    pub fn at(&self, digest: &Digest) -> Self {
        Self { digest: Some(digest.clone()), ..self.without_tag() }
    }

    /// A reference to the same repository, without a tag or a digest.
    #[must_use]
    pub fn without_tag(&self) -> Self {
        Self { tag: None, digest: None, ..self.clone() }
    }

    /// A reference to another tag of the same repository.
    ///
    /// # Errors
    /// If `tag` is not a valid tag.
    pub fn with_tag(&self, tag: &str) -> Result<Self, ReferenceError> {
        format!("{}:{tag}", self.name()).parse()
    }

    /// The same reference, with `latest` written out if it has neither a tag nor a digest.
    #[must_use]
    pub fn with_explicit_tag(mut self) -> Self {
        if self.digest.is_none() {
            self.tag.get_or_insert_with(|| "latest".to_owned());
        }
        self
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        parse_reference(text).map_err(|why| ReferenceError(format!("invalid image reference {text:?}: {why}")))
    }
}

fn parse_reference(text: &str) -> Result<Reference, &'static str> {
    if text.is_empty() {
        return Err("it is empty");
    }
    if text.parse::<Digest>().is_ok() {
        return Err("it is an image id, which no tag points to");
    }
    if text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
        return Err("64 hex digits are an image id, not a name");
    }
    let (rest, digest) = match text.split_once('@') {
        None => (text, None),
        Some((rest, digest)) => {
            (rest, Some(digest.parse::<Digest>().map_err(|_| "the part after @ is not a sha256 or sha512 digest")?))
        }
    };
    let (registry, path_and_tag) = split_registry(rest);
    let (path, tag) = match path_and_tag.split_once(':') {
        None => (path_and_tag, None),
        Some((path, tag)) => (path, Some(tag)),
    };
    if !is_registry(registry) {
        return Err("the registry host is malformed");
    }
    if tag.is_some_and(|tag| !is_tag(tag)) {
        return Err(
            "the tag may have letters, digits, `_`, `.` and `-`, at most 128, and may not start with `.` or `-`",
        );
    }
    let repository = match (registry, path.contains('/')) {
        (DOCKER_HUB, false) => format!("library/{path}"),
        _ => path.to_owned(),
    };
    if repository.len() > MAX_REPOSITORY {
        return Err("the repository has more than 255 characters");
    }
    if !path.split('/').all(is_path_component) {
        return Err(
            "the repository may have lower-case letters, digits and single `.`, `_`, `__` or dashes between them",
        );
    }
    Ok(Reference { registry: registry.to_owned(), repository, tag: tag.map(str::to_owned), digest })
}

/// The first component is a registry if it looks like a host: it contains a dot, a colon or an upper-case letter, or it
/// is `localhost`.
fn split_registry(text: &str) -> (&str, &str) {
    match text.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':']) || first == "localhost" || first.chars().any(|c| c.is_ascii_uppercase()) =>
        {
            (if first == "index.docker.io" { DOCKER_HUB } else { first }, rest)
        }
        _ => (DOCKER_HUB, text),
    }
}

fn is_registry(host: &str) -> bool {
    let (is_name, port) = if let Some(rest) = host.strip_prefix('[') {
        let Some((address, port)) = rest.split_once(']') else { return false };
        // The grammar does not allow an IPv4 part in an IPv6 address.
        (!address.contains('.') && address.parse::<std::net::Ipv6Addr>().is_ok(), port)
    } else {
        let (name, port) = host.split_at(host.find(':').unwrap_or(host.len()));
        (name.split('.').all(is_domain_component), port)
    };
    let is_digits = |port: &str| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
    is_name && (port.is_empty() || port.strip_prefix(':').is_some_and(is_digits))
}

fn is_domain_component(part: &str) -> bool {
    !part.is_empty()
        && !part.starts_with('-')
        && !part.ends_with('-')
        && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

/// Whether `tag` is valid: at most 128 letters, digits, `_`, `.` and `-`, and neither `.` nor `-` at the start.
pub fn is_tag(tag: &str) -> bool {
    tag.len() <= MAX_TAG
        && tag.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
        && tag.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

/// `[a-z0-9]+` joined by `.`, `_`, `__` or any number of `-`.
fn is_path_component(part: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = part.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return false };
    is_word(*first)
        && is_word(*last)
        && bytes
            .split(|b| is_word(*b))
            .all(|separator| matches!(separator, b"" | b"." | b"_" | b"__") || separator.iter().all(|b| *b == b'-'))
}

impl TryFrom<String> for Reference {
    type Error = ReferenceError;

    fn try_from(text: String) -> Result<Self, ReferenceError> {
        text.parse()
    }
}

impl From<Reference> for String {
    fn from(reference: Reference) -> Self {
        reference.to_string()
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        match &self.digest {
            Some(digest) => write!(f, "@{digest}"),
            None => Ok(()),
        }
    }
}

/// Whether `host` (`host` or `host:port`) is this machine by its name or address. Plain HTTP is then safe. The rule
/// follows go-containerregistry's list, without its private networks.
pub fn is_loopback_host(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        None => host.split(':').next().unwrap_or(host),
    };
    name == "localhost"
        || name.ends_with(".localhost")
        || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests;
