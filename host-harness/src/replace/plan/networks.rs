//! Endpoints: per network what was asked for, and nothing that the engine assigned.

use serde_json::{Map, Value, json};

use super::{Object, is_empty, strings};
use crate::engine::ApiVersion;

/// What a create call may ask of an endpoint; all else in an inspection is what came of it.
const ASKED_FOR: [&str; 4] = ["IPAMConfig", "Links", "DriverOpts", "GwPriority"];
/// Refused on the default network, which has neither name service nor fixed addresses.
const USER_NETWORKS_ONLY: [&str; 2] = ["IPAMConfig", "Links"];

/// The endpoints of the create call, and those to be connected after it.
pub(super) fn build_endpoints(old: &Value, network_mode: &str, api: ApiVersion) -> (Object, Vec<(String, Value)>) {
    if matches!(network_mode, "host" | "none") || network_mode.starts_with("container:") {
        return (Map::new(), Vec::new());
    }
    let primary = if matches!(network_mode, "default" | "") { "bridge" } else { network_mode };
    let networks = old["NetworkSettings"]["Networks"].as_object();
    let build =
        |(name, inspected): (&String, &Value)| (name.clone(), build_endpoint(old, name, inspected, primary, api));
    let mut endpoints: Object = networks.into_iter().flatten().map(build).collect();
    if api >= ApiVersion::MANY_ENDPOINTS {
        return (endpoints, Vec::new());
    }
    // Any other first network would leave the container without its primary one.
    let first =
        if endpoints.contains_key(primary) { Some(primary.to_owned()) } else { endpoints.keys().next().cloned() };
    let created = first.and_then(|name| endpoints.remove_entry(&name)).into_iter().collect();
    (created, endpoints.into_iter().collect())
}

fn build_endpoint(old: &Value, network: &str, inspected: &Value, primary: &str, api: ApiVersion) -> Value {
    let is_user_network = network != "bridge";
    let mut endpoint = Map::new();
    for field in ASKED_FOR {
        let value = &inspected[field];
        if !is_empty(value) && (is_user_network || !USER_NETWORKS_ONLY.contains(&field)) {
            endpoint.insert(field.to_owned(), value.clone());
        }
    }
    let aliases = own_aliases(old, inspected);
    if is_user_network && !aliases.is_empty() {
        endpoint.insert("Aliases".to_owned(), json!(aliases));
    }
    // The endpoint's own MacAddress may be a generated one; only this one is known to be asked for.
    let mac = &old["Config"]["MacAddress"];
    if network == primary && api >= ApiVersion::MANY_ENDPOINTS && !is_empty(mac) {
        endpoint.insert("MacAddress".to_owned(), mac.clone());
    }
    Value::Object(endpoint)
}

/// Older engines list the container's short id among its aliases.
fn own_aliases<'a>(old: &Value, inspected: &'a Value) -> Vec<&'a str> {
    let short_id = old["Id"].as_str().and_then(|id| id.get(..12));
    strings(&inspected["Aliases"]).into_iter().filter(|alias| Some(*alias) != short_id).collect()
}
