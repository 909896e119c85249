//! The API calls with which imagewatch changes something, the purpose of each call, and `GET /info`. A socket proxy or
//! an access filter in front of the engine must allow them.
//!
//! This table is the only one: the check before a replacement and the reasons in messages use it. The README lists the
//! calls that a replacement needs.

use serde_json::{Value, json};

/// The id of a container, network or image that does not exist. A call with this id changes nothing: the engine answers
/// that the object does not exist. A filter that refuses the call for real ids also refuses it for this id.
pub const ABSENT: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// One call of the engine's API.
#[derive(Debug, PartialEq, Eq)]
pub struct Permission {
    /// The HTTP method.
    pub method: &'static str,
    /// The path without the version; `*` stands for an id or a name.
    pub path: &'static str,
    /// The section of tecnativa/docker-socket-proxy and similar proxies that allows the call. Methods other than `GET`
    /// also need `POST=1`.
    pub section: &'static str,
    /// What imagewatch uses the call for. Reads after "imagewatch needs it to".
    pub purpose: &'static str,
    /// When the call is needed.
    pub needed: Needed,
    /// The query with which the call changes nothing.
    query: &'static [(&'static str, &'static str)],
}

/// When a call is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needed {
    /// For every replacement.
    Always,
    /// For containers on more than one network.
    ManyNetworks,
    /// For one feature, which is limited without the call.
    Optional,
}

/// All calls that a filter must allow.
pub const PERMISSIONS: &[Permission] = &[
    always("POST", "/images/create", "IMAGES", "pull an image", INVALID_IMAGE),
    always("POST", "/containers/create", "CONTAINERS", "create the new container", NEW_NAME),
    always("POST", "/containers/*/update", "CONTAINERS", "suspend and restore a restart policy", &[]),
    always("POST", "/containers/*/stop", "CONTAINERS", "stop the old container", &[]),
    always("POST", "/containers/*/rename", "CONTAINERS", "give the new container its name", NEW_NAME),
    always("POST", "/containers/*/start", "CONTAINERS", "start the new container, or the old one again", &[]),
    always("DELETE", "/containers/*", "CONTAINERS", "remove the old container", &[]),
    Permission {
        needed: Needed::ManyNetworks,
        ..always("POST", "/networks/*/connect", "NETWORKS", "connect a container to its networks", &[])
    },
    Permission {
        needed: Needed::ManyNetworks,
        ..always(
            "POST",
            "/networks/*/disconnect",
            "NETWORKS",
            "disconnect a new container from a network that it must not be on",
            &[],
        )
    },
    optional("GET", "/info", "INFO", "detect a swarm node, for strategy start-first"),
    optional("POST", "/containers/*/exec", "CONTAINERS", "run the hooks that labels define"),
    optional("POST", "/exec/*/start", "EXEC", "run the hooks that labels define"),
    optional("POST", "/images/*/tag", "IMAGES", "restore the tag of the old image after a failure"),
    optional("DELETE", "/images/*", "IMAGES", "remove old images, with host.keep_images"),
];

/// An image name that is not valid. The engine parses the name first, so the call changes nothing.
const INVALID_IMAGE: &[(&str, &str)] = &[("fromImage", "INVALID:NAME:"), ("tag", ABSENT)];
const NEW_NAME: &[(&str, &str)] = &[("name", ABSENT)];

const fn always(
    method: &'static str,
    path: &'static str,
    section: &'static str,
    purpose: &'static str,
    query: &'static [(&'static str, &'static str)],
) -> Permission {
    Permission { method, path, section, purpose, needed: Needed::Always, query }
}

const fn optional(
    method: &'static str,
    path: &'static str,
    section: &'static str,
    purpose: &'static str,
) -> Permission {
    Permission { needed: Needed::Optional, ..always(method, path, section, purpose, &[]) }
}

impl Permission {
    /// The call as messages show it: `METHOD /path`.
    pub fn call(&self) -> String {
        format!("{} {}", self.method, self.path)
    }

    /// The reason why a container cannot be replaced without this call, as a sentence fragment.
    pub fn reason(&self) -> String {
        format!(
            "{} was refused by a proxy or plugin in front of the engine; allow it there, imagewatch needs it to {}",
            self.call(),
            self.purpose
        )
    }

    /// The path segments, the query and the body of a request that makes this call but changes nothing.
    pub fn harmless_request(&self) -> (Vec<&'static str>, &'static [(&'static str, &'static str)], Option<Value>) {
        let path = self.path.split('/').skip(1).map(|part| if part == "*" { ABSENT } else { part }).collect();
        let body = match self.path {
            "/containers/create" => Some(json!({ "Image": format!("sha256:{ABSENT}") })),
            "/containers/*/update" => Some(json!({ "RestartPolicy": { "Name": "no" } })),
            "/networks/*/connect" | "/networks/*/disconnect" => Some(json!({ "Container": ABSENT })),
            _ => None,
        };
        (path, self.query, body)
    }
}

/// The first call in `refused` that the replacement of a container on `networks` networks needs.
pub fn first_needed(refused: &[&'static Permission], networks: usize) -> Option<&'static Permission> {
    refused.iter().copied().find(|permission| match permission.needed {
        Needed::Always => true,
        Needed::ManyNetworks => networks > 1,
        Needed::Optional => false,
    })
}

/// Replaces the ids in a call of the form `METHOD /path` by `*`, as in the table: `POST /containers/*/update`.
pub fn without_ids(call: &str) -> String {
    let (method, path) = call.split_once(' ').unwrap_or(("GET", call));
    let path: Vec<&str> = path.split('/').skip(1).collect();
    let is_same = |permission: &&Permission| {
        let parts = permission.path.split('/').skip(1);
        permission.method == method
            && parts.clone().count() == path.len()
            && parts.zip(&path).all(|(part, given)| part == "*" || part == *given)
    };
    PERMISSIONS.iter().find(is_same).map_or_else(|| general_form(method, &path), Permission::call)
}

/// Replaces everything between the first and the last segment of a path by `*`. For calls that are not in the table,
/// the first and the last segment belong to the API, and an id or a name is between them.
fn general_form(method: &str, path: &[&str]) -> String {
    match path {
        [first, _, .., last] => format!("{method} /{first}/*/{last}"),
        _ => format!("{method} /{}", path.join("/")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_in_a_call_are_replaced_as_in_the_table() {
        for (call, expected) in [
            ("POST /containers/web/update", "POST /containers/*/update"),
            ("DELETE /containers/0a1b", "DELETE /containers/*"),
            ("POST /images/create", "POST /images/create"),
            ("GET /containers/json", "GET /containers/json"),
            ("GET /containers/web/json", "GET /containers/*/json"),
            ("GET /images/r.io/app:1/json", "GET /images/*/json"),
            ("GET /info", "GET /info"),
        ] {
            assert_eq!(without_ids(call), expected);
        }
    }

    #[test]
    fn network_calls_are_needed_only_for_several_networks() {
        let refused = |path: &str| PERMISSIONS.iter().filter(|p| p.path == path).collect::<Vec<_>>();
        for (path, networks, matters) in [
            ("/networks/*/connect", 1, false),
            ("/networks/*/connect", 2, true),
            ("/networks/*/disconnect", 1, false),
            ("/networks/*/disconnect", 2, true),
            ("/containers/*/rename", 0, true),
            ("/info", 2, false),
        ] {
            assert_eq!(first_needed(&refused(path), networks).is_some(), matters, "{path} {networks}");
        }
    }

    #[test]
    fn a_harmless_request_names_only_absent_objects() {
        for permission in PERMISSIONS.iter().filter(|permission| permission.needed != Needed::Optional) {
            let (path, query, _) = permission.harmless_request();
            let is_absent = path.contains(&ABSENT) || query.iter().any(|(_, value)| *value == ABSENT);
            assert!(is_absent, "{permission:?}");
        }
    }
}
