//! The calls of the engine's API that imagewatch makes beyond reading, and what each is for. A socket proxy or an access
//! filter in front of the engine has to allow them.
//!
//! The only table of them: what is asked before a replacement, and what reasons name. The README lists the needed ones.

use serde_json::{Value, json};

/// The id of a container, a network or an image that no engine has. A call about it changes nothing: the engine answers
/// that it does not exist, and a filter that refuses the call refuses it here too.
pub const ABSENT: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// One call of the engine's API.
#[derive(Debug, PartialEq, Eq)]
pub struct Permission {
    /// The HTTP method.
    pub method: &'static str,
    /// The path without the version; `*` stands for an id or a name.
    pub path: &'static str,
    /// The section of tecnativa/docker-socket-proxy and its relatives that allows it, with `POST=1` for all but `GET`.
    pub section: &'static str,
    /// What imagewatch makes it for.
    pub purpose: &'static str,
    /// When it is needed.
    pub needed: Needed,
    /// The query with which it changes nothing.
    query: &'static [(&'static str, &'static str)],
}

/// When a call is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needed {
    /// For every replacement.
    Always,
    /// For containers on more than one network.
    ManyNetworks,
    /// For one feature, which works less well without it.
    Optional,
}

/// All of them.
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
            "take a new container from a network it is not to be on",
            &[],
        )
    },
    optional("GET", "/info", "INFO", "tell a swarm node, for strategy start-first"),
    optional("POST", "/containers/*/exec", "CONTAINERS", "run the hooks that labels name"),
    optional("POST", "/exec/*/start", "EXEC", "run the hooks that labels name"),
    optional("POST", "/images/*/tag", "IMAGES", "give a tag back to the old image after a failure"),
    optional("DELETE", "/images/*", "IMAGES", "remove old images, with host.keep_images"),
];

/// The engine parses the name before it does anything.
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
    /// `METHOD /path`, as reasons have it.
    pub fn call(&self) -> String {
        format!("{} {}", self.method, self.path)
    }

    /// Why a container is not replaced without it, as a lowercase fragment.
    pub fn reason(&self) -> String {
        format!(
            "{} was refused by what is between imagewatch and the engine; allow it there, imagewatch needs it to {}",
            self.call(),
            self.purpose
        )
    }

    /// The path, the query and the body of a request that changes nothing.
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

/// The first of `refused` that a container on so many networks cannot be replaced without.
pub fn first_needed(refused: &[&'static Permission], networks: usize) -> Option<&'static Permission> {
    refused.iter().copied().find(|permission| match permission.needed {
        Needed::Always => true,
        Needed::ManyNetworks => networks > 1,
        Needed::Optional => false,
    })
}

/// A call, `METHOD /path`, without its ids, as the table writes it: `POST /containers/*/update`.
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

/// The first and the last part of a path are words of the API, and what is between them is an id or a name.
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
    fn a_call_is_written_as_in_the_table() {
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
    fn a_network_call_matters_only_to_a_container_on_several_networks() {
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
    fn a_harmless_request_names_nothing_that_exists() {
        for permission in PERMISSIONS.iter().filter(|permission| permission.needed != Needed::Optional) {
            let (path, query, _) = permission.harmless_request();
            let is_absent = path.contains(&ABSENT) || query.iter().any(|(_, value)| *value == ABSENT);
            assert!(is_absent, "{permission:?}");
        }
    }
}
