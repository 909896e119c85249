//! Which containers carry this program's connection to the engine: a socket proxy, whatever shares its network, or a
//! container that serves a socket in a folder. To stop one of them ends the connection in the middle of a replacement,
//! and nothing could start it again. Decides only that; changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde_json::Value;

use imagewatch_engine::{Engine, EngineError, Listed};

/// Sockets that engines serve themselves. Containers with a folder above one are clients.
const ENGINE_SOCKETS: [&str; 3] = ["/var/run/docker.sock", "/run/docker.sock", "/run/podman/podman.sock"];

const ADVICE: &str = "update it by hand, over the engine's own socket";

/// Why containers are not replaced, by their ids, as lowercase fragments.
pub type Carriers = BTreeMap<String, String>;

/// Where the engine is reached.
#[derive(Debug)]
enum Route {
    /// A socket, by its path on the engine's machine.
    Socket(PathBuf),
    /// An address.
    Network(Target),
}

/// What the connection is opened to.
#[derive(Debug)]
struct Target {
    name: String,
    /// What `name` resolves to.
    addresses: Vec<IpAddr>,
    port: u16,
}

/// The containers that carry this program's connection to `engine`. `own_id` is the container that this program runs
/// in. Asks the engine for nothing where it is reached at a socket that it serves itself.
///
/// # Errors
/// The engine does not list or show its containers.
pub async fn find_carriers(engine: &dyn Engine, own_id: Option<&str>) -> Result<Carriers, EngineError> {
    let address = engine.address();
    if address.strip_prefix("unix://").is_some_and(|path| own_id.is_none() && is_engines_own(Path::new(path))) {
        return Ok(Carriers::new());
    }
    let listed = engine.list().await?;
    let own = listed.iter().find(|container| Some(container.id.as_str()) == own_id);
    let Some(route) = Route::to(address, own).await else { return Ok(Carriers::new()) };
    let direct = match &route {
        Route::Socket(path) => listed.iter().filter(|container| serves_socket(container, path)).collect(),
        Route::Network(target) => target.carriers(engine, &listed, own).await?,
    };
    let mut carriers = Carriers::new();
    for container in direct {
        let reason = format!("it carries this updater's connection to the engine ({address}); {ADVICE}");
        carriers.insert(container.id.clone(), reason);
        if matches!(route, Route::Socket(_)) {
            continue;
        }
        for other in sharing_network(container, &listed) {
            let reason = format!(
                "it shares the network of {}, which carries this updater's connection to the engine ({address}); {ADVICE}",
                container.name()
            );
            carriers.entry(other.id.clone()).or_insert(reason);
        }
    }
    // This program does not stop itself: it hands over to its successor.
    carriers.retain(|id, _| Some(id.as_str()) != own_id);
    Ok(carriers)
}

impl Route {
    /// The way to `address`; `None` for one that no container can be on.
    async fn to(address: &str, own: Option<&Listed>) -> Option<Self> {
        let (scheme, rest) = address.split_once("://")?;
        if scheme == "unix" {
            let path = on_engines_machine(Path::new(rest), own);
            return (!is_engines_own(&path)).then_some(Self::Socket(path));
        }
        let authority = rest.split('/').next().unwrap_or(rest);
        let (name, port) = match authority.rsplit_once(':') {
            Some((name, port)) if !port.contains(']') => (name, port.parse().ok()?),
            _ => (authority, 2375),
        };
        let name = name.trim_start_matches('[').trim_end_matches(']').to_owned();
        let addresses = match name.parse() {
            Ok(address) => vec![address],
            // One that is not found now may be a container that is being started: it is still known by its name.
            Err(_) => tokio::net::lookup_host((name.as_str(), port))
                .await
                .map(|found| found.map(|socket| socket.ip()).collect())
                .unwrap_or_default(),
        };
        let addresses = addresses.into_iter().map(|address| address.to_canonical()).collect();
        Some(Self::Network(Target { name, addresses, port }))
    }
}

impl Target {
    /// The containers that are reached there, each for a reason of its own.
    async fn carriers<'a>(
        &self,
        engine: &dyn Engine,
        listed: &'a [Listed],
        own: Option<&'a Listed>,
    ) -> Result<Vec<&'a Listed>, EngineError> {
        let named: Vec<&Listed> = listed.iter().filter(|container| self.is_at(container)).collect();
        if !named.is_empty() {
            return Ok(named);
        }
        let mut found: Vec<&Listed> = listed.iter().filter(|container| self.is_published_by(container)).collect();
        if self.is_loopback() {
            // Inside a network that is shared, this is any of those that share it.
            found.extend(own.into_iter().flat_map(|own| sharing_network(own, listed)));
        }
        if !found.is_empty() {
            return Ok(found);
        }
        for container in listed.iter().filter(|container| network_mode(container) == "host" && is_up(container)) {
            match engine.inspect_container(&container.id).await {
                Ok(inspection) if self.is_served_on_host_network_by(&inspection) => found.push(container),
                Err(error) if error.is_unavailable() => return Err(error),
                // One that cannot be shown now is not replaced now either.
                _ => {}
            }
        }
        Ok(found)
    }

    fn is_loopback(&self) -> bool {
        self.addresses.iter().any(IpAddr::is_loopback)
    }

    /// Whether the address is that of the container itself, or its name on a network of the engine.
    fn is_at(&self, container: &Listed) -> bool {
        let endpoints = container.network_settings["Networks"].as_object().into_iter().flat_map(|map| map.values());
        let is_its = |endpoint: &Value| {
            let addresses = [&endpoint["IPAddress"], &endpoint["GlobalIPv6Address"]];
            let mut parsed = addresses.into_iter().filter_map(|text| text.as_str()?.parse::<IpAddr>().ok());
            let mut names = endpoint["Aliases"].as_array().into_iter().flatten();
            parsed.any(|address| self.addresses.contains(&address.to_canonical()))
                || names.any(|alias| alias == self.name.as_str())
        };
        container.name() == self.name || endpoints.into_iter().any(is_its)
    }

    /// Whether the engine forwards the port to the container. A port on all addresses of its machine belongs to one
    /// container only, whichever of them this program uses.
    fn is_published_by(&self, container: &Listed) -> bool {
        container.ports.as_array().into_iter().flatten().any(|port| {
            let address = port["IP"].as_str().unwrap_or_default();
            let is_reached = match address.parse::<IpAddr>() {
                Err(_) => true,
                Ok(address) if address.is_unspecified() => true,
                Ok(address) => {
                    self.addresses.contains(&address.to_canonical()) || (address.is_loopback() && self.is_loopback())
                }
            };
            port["PublicPort"] == self.port && port["Type"] != "udp" && is_reached
        })
    }

    /// Nothing lists where a container on the host's network listens: what it exposes and how it was started must do.
    fn is_served_on_host_network_by(&self, inspection: &Value) -> bool {
        let config = &inspection["Config"];
        let port = self.port.to_string();
        let texts = [&config["Entrypoint"], &config["Cmd"], &config["Env"]];
        let mut words = texts.into_iter().filter_map(Value::as_array).flatten().filter_map(Value::as_str);
        config["ExposedPorts"].get(format!("{port}/tcp")).is_some()
            || words.any(|word| word.split(|c: char| !c.is_ascii_digit()).any(|number| number == port))
    }
}

fn is_up(container: &Listed) -> bool {
    matches!(container.state.as_str(), "running" | "restarting" | "paused")
}

fn network_mode(container: &Listed) -> &str {
    container.host_config["NetworkMode"].as_str().unwrap_or_default()
}

/// The others in the network namespace of `container`, except in that of the host.
fn sharing_network<'a>(container: &Listed, listed: &'a [Listed]) -> Vec<&'a Listed> {
    let owner = network_owner(container, listed);
    let shares = |other: &&Listed| other.id != container.id && network_owner(other, listed) == owner;
    listed.iter().filter(shares).collect()
}

/// The id of the container that a container has its network of; its own, unless it shares one.
fn network_owner<'a>(container: &'a Listed, listed: &'a [Listed]) -> &'a str {
    let mut owner = container;
    let mut seen = BTreeSet::new();
    while let Some(reference) = network_mode(owner).strip_prefix("container:")
        && seen.insert(owner.id.as_str())
        && let Some(next) = listed.iter().find(|other| other.id.starts_with(reference) || other.name() == reference)
    {
        owner = next;
    }
    &owner.id
}

/// Where `path` lies on the engine's machine, if this program runs in a container that has it from there.
fn on_engines_machine(path: &Path, own: Option<&Listed>) -> PathBuf {
    let mounts = own.and_then(|own| own.mounts.as_array()).into_iter().flatten();
    let inside = mounts.filter_map(|mount| {
        let rest = path.strip_prefix(mount["Destination"].as_str()?).ok()?;
        let source = Path::new(mount["Source"].as_str()?);
        let outside = if rest.as_os_str().is_empty() { source.to_owned() } else { source.join(rest) };
        Some((rest.components().count(), outside))
    });
    inside.min_by_key(|(depth, _)| *depth).map_or_else(|| path.to_owned(), |(_, outside)| outside)
}

/// Whether a container has the socket's folder to write to, as one that serves the socket there needs to. The socket
/// alone is what a client has.
fn serves_socket(container: &Listed, socket: &Path) -> bool {
    container.mounts.as_array().into_iter().flatten().any(|mount| {
        // A list has an empty source for a volume, and every path begins with an empty one.
        let source = mount["Source"].as_str().map(Path::new).filter(|folder| folder.is_absolute());
        mount["RW"] == true
            && source.is_some_and(|folder| folder != Path::new("/") && folder != socket && socket.starts_with(folder))
    })
}

fn is_engines_own(socket: &Path) -> bool {
    let is_users =
        socket.starts_with("/run/user") && (socket.ends_with("docker.sock") || socket.ends_with("podman.sock"));
    is_users || ENGINE_SOCKETS.iter().any(|known| socket == Path::new(known))
}

#[cfg(test)]
mod tests;
