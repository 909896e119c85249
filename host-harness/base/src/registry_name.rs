//! Canonical names of registries.

use url::Url;

/// The canonical name of Docker Hub.
pub const DOCKER_HUB: &str = "docker.io";

/// All names of Docker Hub's registry. They share one credential.
pub const DOCKER_HUB_NAMES: [&str; 3] = [DOCKER_HUB, "index.docker.io", "registry-1.docker.io"];

/// Returns the canonical name of a registry: lower case, without port 443, and [`DOCKER_HUB`] for every name of
/// Docker Hub. Returns `None` if `host` is not a bare `host` or `host:port`.
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
