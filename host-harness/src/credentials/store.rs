//! The credentials at hand, one for each registry. Knows no source of them (that is its
//! neighbours' part) and does not decide where one may be sent (that is `http::egress`).

use std::collections::BTreeMap;

use url::Url;

use super::error::CredentialError;
use crate::secret::Credential;

/// The name under which Docker Hub is kept, whichever of its names was given.
pub const DOCKER_HUB: &str = "docker.io";

/// All names of Docker Hub's registry: one registry, one credential.
pub const DOCKER_HUB_NAMES: [&str; 3] = [DOCKER_HUB, "index.docker.io", "registry-1.docker.io"];

/// One credential for each registry. `Debug` shows registries and user names, no password.
#[derive(Debug, Clone, Default)]
pub struct CredentialStore {
    by_registry: BTreeMap<String, Stored>,
    seed_registry: Option<String>,
}

#[derive(Debug, Clone)]
struct Stored {
    credential: Credential,
    source: String,
}

impl CredentialStore {
    /// The credential for registry `host` (`ghcr.io`, `registry.example.com:5000`), under any of its names, and for
    /// its `repository` (`org/app`) where one is kept for that alone. `None` when no source has one.
    pub async fn find(&self, host: &str, repository: Option<&str>) -> Result<Option<Credential>, CredentialError> {
        let _ = repository;
        let registry = parse_registry(host);
        Ok(registry.and_then(|name| self.by_registry.get(&name)).map(|stored| stored.credential.clone()))
    }

    /// Whether repositories of registry `host` may have credentials of their own, so that [`find`](Self::find)
    /// needs to know the repository.
    pub fn is_per_repository(&self, host: &str) -> bool {
        let _ = host;
        false
    }

    /// Registry `host` says that the credential with this id has expired: the next [`find`](Self::find) asks its
    /// source again. Answers whether that may give another one; a credential out of a file is what it is.
    pub fn renew(&self, host: &str, credential_id: &str) -> bool {
        let _ = (host, credential_id);
        false
    }

    /// What would supply a credential for registry `host`; reads after "…: set ".
    pub fn sources_for(&self, host: &str) -> String {
        let general = format!("IMAGEWATCH_CREDENTIAL_<NAME>={host}=<user>:<password>");
        if self.seed_registry.is_some() && self.seed_registry == parse_registry(host) {
            format!("GHCR_USER and GHCR_TOKEN, or {general}")
        } else {
            general
        }
    }

    /// Keeps `credential` for `registry`, a name that [`parse_registry`] answered. When there is one
    /// already, that one stays and the name of its source comes back.
    pub(super) fn insert(&mut self, registry: String, credential: Credential, source: &str) -> Result<(), String> {
        if let Some(present) = self.by_registry.get(&registry) {
            return Err(present.source.clone());
        }
        self.by_registry.insert(registry, Stored { credential, source: source.to_owned() });
        Ok(())
    }

    /// Notes the registry that `GHCR_USER` and `GHCR_TOKEN` stand for, whether they are set or not.
    pub(super) fn set_seed_registry(&mut self, registry: String) {
        self.seed_registry = Some(registry);
    }
}

/// The one way in which a registry's name is written here: lower case, without the port of https,
/// [`DOCKER_HUB`] for all of its names. `None` when `host` is not a bare `host` or `host:port`.
pub fn parse_registry(host: &str) -> Option<String> {
    let host = host.trim();
    let is_bare = !host.is_empty() && !host.ends_with(':');
    if !is_bare || host.contains(['/', '\\', '?', '#', '@', '%']) || host.contains(char::is_whitespace) {
        return None;
    }
    let url = Url::parse(&format!("https://{host}/")).ok()?;
    let name = url.host_str()?;
    match url.port() {
        Some(port) => Some(format!("{name}:{port}")),
        None if DOCKER_HUB_NAMES.contains(&name) => Some(DOCKER_HUB.to_owned()),
        None => Some(name.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_has_one_name_however_it_is_written() {
        for (written, name) in [
            ("ghcr.io", Some("ghcr.io")),
            (" GHCR.io ", Some("ghcr.io")),
            ("ghcr.io:443", Some("ghcr.io")),
            ("docker.io", Some("docker.io")),
            ("index.docker.io", Some("docker.io")),
            ("Registry-1.Docker.io", Some("docker.io")),
            ("registry.example.com:5000", Some("registry.example.com:5000")),
            ("127.0.0.1:5000", Some("127.0.0.1:5000")),
            ("[::1]:5000", Some("[::1]:5000")),
            ("localhost", Some("localhost")),
            ("", None),
            ("ghcr.io/org", None),
            ("https://ghcr.io", None),
            ("user@ghcr.io", None),
            ("ghcr.io?x", None),
            ("ghcr.io:port", None),
            ("https:", None),
            ("a b", None),
        ] {
            assert_eq!(parse_registry(written).as_deref(), name, "{written:?}");
        }
    }
}
