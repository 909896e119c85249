//! Endpoints: per network what was asked for, and nothing that the engine assigned.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::{Object, PlanInput, is_empty, is_shared_network, object, short_id, strings};
use crate::labels::{KEEP_MAC, Labels};
use imagewatch_engine::{ApiVersion, EngineFacts};

/// What a create call may ask of an endpoint; all else in an inspection is what came of it.
const ASKED_FOR: [&str; 4] = ["IPAMConfig", "Links", "DriverOpts", "GwPriority"];
/// Refused on the default network, which has neither name service nor fixed addresses.
const USER_NETWORKS_ONLY: [&str; 2] = ["IPAMConfig", "Links"];
/// From here on the engine refuses a setting of `eth0` among the container's; Docker 28 has it, and with
/// Docker 28 generated MAC addresses became random.
const DOCKER_28: ApiVersion = ApiVersion { major: 1, minor: 48 };
const ENDPOINT_SYSCTLS: &str = "com.docker.network.endpoint.sysctls";
/// The shortest id that the engine shows.
const SHORT_ID: usize = 12;

/// How the new container gets onto its networks.
#[derive(Debug, Default)]
pub(super) struct Endpoints {
    /// Those of the create call.
    pub(super) created: Object,
    /// Those that the create call cannot take.
    pub(super) connected_after: Vec<(String, Value)>,
    /// What the create call connects of itself.
    pub(super) unwanted: Vec<String>,
}

/// The endpoints. Puts `host`, the new host config, right where they depend on each other: its network mode
/// becomes a name, and its settings of one interface move to the endpoint where the engine wants them there.
pub(super) fn build_endpoints(input: &PlanInput<'_>, host: &mut Object) -> Result<Endpoints, String> {
    let mut mode = host.get("NetworkMode").and_then(Value::as_str).unwrap_or_default().to_owned();
    if is_shared_network(&mode) {
        return Ok(Endpoints::default());
    }
    let networks = networks_by_name(&input.old["NetworkSettings"]["Networks"]);
    if input.is_podman && networks.is_empty() && mode != "bridge" {
        return Ok(Endpoints::default()); // a user's own network stack: slirp4netns, pasta
    }
    if let Some(name) = name_of_network(&networks, &mode) {
        mode.clone_from(name);
        host.insert("NetworkMode".to_owned(), json!(mode));
    }
    let primary = primary_network(&mode, input.is_podman);
    let mut endpoints = Object::new();
    for (name, inspected) in &networks {
        endpoints.insert(name.clone(), build_endpoint(input, name, inspected, primary)?);
    }
    // Of a container on no network at all the engine makes one on its primary network.
    let unwanted = if endpoints.is_empty() { vec![primary.to_owned()] } else { Vec::new() };
    if input.api >= DOCKER_28 {
        move_sysctls(host, &mut endpoints, primary);
    }
    if input.api >= ApiVersion::MANY_ENDPOINTS || input.is_podman {
        return Ok(Endpoints { created: endpoints, connected_after: Vec::new(), unwanted });
    }
    // Any other first network would leave the container without its primary one.
    let first =
        if endpoints.contains_key(primary) { Some(primary) } else { endpoints.keys().next().map(String::as_str) };
    let first = first.map(str::to_owned);
    let created = first.and_then(|name| endpoints.remove_entry(&name)).into_iter().collect();
    Ok(Endpoints { created, connected_after: endpoints.into_iter().collect(), unwanted })
}

fn primary_network(mode: &str, is_podman: bool) -> &str {
    match mode {
        "default" | "" | "bridge" if is_podman => "podman",
        "default" | "" => "bridge",
        name => name,
    }
}

/// Networks as inspected. One that was asked for by its id is there twice, and then counts as one, under its name.
fn networks_by_name(inspected: &Value) -> BTreeMap<String, Value> {
    let networks: BTreeMap<String, Value> = object(inspected).into_iter().collect();
    let mut by_name = networks.clone();
    for (key, asked_for) in &networks {
        let Some(name) = name_of_network(&networks, key) else { continue };
        by_name.remove(key);
        let network = by_name.entry(name.clone()).or_default();
        for field in ASKED_FOR.into_iter().chain(["Aliases"]) {
            if is_empty(&network[field]) && !is_empty(&asked_for[field]) {
                network[field] = asked_for[field].clone();
            }
        }
    }
    by_name
}

/// The name of the network that `text` is the id of, or its beginning; `None` if it is a name itself.
fn name_of_network<'a>(networks: &'a BTreeMap<String, Value>, text: &str) -> Option<&'a String> {
    let is_id = |text: &str| text.len() >= SHORT_ID && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let id_of = |network: &'a Value| network["NetworkID"].as_str().unwrap_or_default();
    let own_id = networks.get(text).map(id_of).filter(|id| !id.is_empty());
    let is_it = |name: &str, network| {
        let id = id_of(network);
        name != text && id.starts_with(text) && own_id.is_none_or(|own_id| own_id == id)
    };
    networks.iter().find(|(name, network)| is_id(text) && is_it(name, network)).map(|(name, _)| name)
}

fn build_endpoint(input: &PlanInput<'_>, network: &str, inspected: &Value, primary: &str) -> Result<Value, String> {
    let is_user_network = network != if input.is_podman { "podman" } else { "bridge" };
    let mut endpoint = Map::new();
    for field in ASKED_FOR {
        let value = &inspected[field];
        if !is_empty(value) && (is_user_network || !USER_NETWORKS_ONLY.contains(&field)) {
            endpoint.insert(field.to_owned(), value.clone());
        }
    }
    let aliases = own_aliases(input.old, inspected);
    if is_user_network && !aliases.is_empty() {
        endpoint.insert("Aliases".to_owned(), json!(aliases));
    }
    if input.api >= ApiVersion::MANY_ENDPOINTS && !input.is_podman {
        let mac = configured_mac(input.old, input.api, network, inspected, network == primary)?;
        endpoint.extend(mac.map(|mac| ("MacAddress".to_owned(), json!(mac))));
    }
    Ok(Value::Object(endpoint))
}

/// Older engines list the container's short id among its aliases.
fn own_aliases<'a>(old: &Value, inspected: &'a Value) -> Vec<&'a str> {
    strings(&inspected["Aliases"]).into_iter().filter(|alias| Some(*alias) != short_id(old)).collect()
}

/// The address that was asked for. The endpoint's own `MacAddress` may be a generated one, which must not be
/// pinned; only that of the primary network is shown as asked for, in the container's config.
fn configured_mac<'a>(
    old: &'a Value,
    api: ApiVersion,
    network: &str,
    inspected: &'a Value,
    is_primary: bool,
) -> Result<Option<&'a str>, String> {
    let text = |value: &'a Value| value.as_str().filter(|text| !text.is_empty());
    if is_primary && let Some(configured) = text(&old["Config"]["MacAddress"]) {
        return Ok(Some(configured));
    }
    let current = text(&inspected["MacAddress"]);
    if Labels::of(old).list(KEEP_MAC).any(|kept| kept == network) {
        let unknown = "is not shown while it is stopped; start it, or take the label away";
        return current.map(Some).ok_or_else(|| format!("its MAC address on network {network} {unknown}"));
    }
    let is_known_as_configured = !is_primary && api < DOCKER_28;
    Ok(current.filter(|mac| is_known_as_configured && !is_generated(mac, inspected)))
}

/// Whether a container asked for its MAC address on any of its networks, as far as an inspection tells.
pub(super) fn has_configured_mac(old: &Value, engine: EngineFacts) -> bool {
    if !is_empty(&old["Config"]["MacAddress"]) || Labels::of(old).value(KEEP_MAC).is_some() {
        return true;
    }
    // Podman makes its addresses up otherwise than Docker.
    if engine.is_podman {
        return false;
    }
    let networks = networks_by_name(&old["NetworkSettings"]["Networks"]);
    let mode = old["HostConfig"]["NetworkMode"].as_str().unwrap_or_default();
    let mode = name_of_network(&networks, mode).map_or(mode, String::as_str);
    let primary = primary_network(mode, engine.is_podman);
    let mut macs = networks.iter().map(|(name, of)| configured_mac(old, engine.api, name, of, name == primary));
    macs.any(|mac| mac.is_ok_and(|mac| mac.is_some()))
}

/// Up to Docker 27 a generated MAC address is made from the IP address.
fn is_generated(mac: &str, inspected: &Value) -> bool {
    let address: Option<std::net::Ipv4Addr> = inspected["IPAddress"].as_str().and_then(|address| address.parse().ok());
    match address.map(|address| address.octets()) {
        Some([a, b, c, d]) => mac.eq_ignore_ascii_case(&format!("02:42:{a:02x}:{b:02x}:{c:02x}:{d:02x}")),
        None => mac.starts_with("02:42:"),
    }
}

/// `net.X.Y.eth0.Z` of the container is `net.X.Y.IFNAME.Z` of the endpoint that is `eth0`.
fn move_sysctls(host: &mut Object, endpoints: &mut Object, primary: &str) {
    let Some(sysctls) = host.get_mut("Sysctls").and_then(Value::as_object_mut) else { return };
    let mut moved = Vec::new();
    sysctls.retain(|key, value| {
        let parts: Vec<&str> = key.splitn(5, '.').collect();
        let ["net", family, kind, "eth0", setting] = parts[..] else { return true };
        moved.push(format!("net.{family}.{kind}.IFNAME.{setting}={}", value.as_str().unwrap_or_default()));
        false
    });
    if moved.is_empty() {
        return;
    }
    let first = endpoints.keys().next().filter(|_| !endpoints.contains_key(primary));
    let network = first.map_or(primary, String::as_str).to_owned();
    let endpoint = endpoints.entry(network).or_insert_with(|| json!({}));
    let present = endpoint["DriverOpts"][ENDPOINT_SYSCTLS].as_str().map(str::to_owned);
    let all: Vec<String> = present.into_iter().chain(moved).collect();
    endpoint["DriverOpts"][ENDPOINT_SYSCTLS] = json!(all.join(","));
}
