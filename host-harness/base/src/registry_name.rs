//! The names of registries: one way to write each.

use url::Url;

/// The name under which Docker Hub is kept, whichever of its names was given.
pub const DOCKER_HUB: &str = "docker.io";

/// All names of Docker Hub's registry: one registry, one credential.
pub const DOCKER_HUB_NAMES: [&str; 3] = [DOCKER_HUB, "index.docker.io", "registry-1.docker.io"];

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
