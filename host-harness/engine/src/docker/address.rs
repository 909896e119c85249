//! Chooses the engine from an address and the environment. A setting that imagewatch does not support is an error that
//! names the setting. The error occurs before any connection is opened. So nothing is sent unencrypted, and imagewatch
//! never uses an engine that the user did not choose.

use std::path::PathBuf;

use serde_json::Value;

use crate::ApiVersion;

const DEFAULT_ADDRESS: &str = "unix:///var/run/docker.sock";

/// Why imagewatch cannot use the chosen engine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// imagewatch cannot connect to this kind of address.
    #[error("the engine address {host:?} cannot be used{why}; write unix:///path/to/docker.sock or tcp://host:port")]
    Unsupported {
        /// The address as the user wrote it.
        host: String,
        /// What is not supported, with a leading `: `, or empty.
        why: &'static str,
    },
    /// The environment asks for an encrypted connection.
    #[error(
        "{variable} is set, and imagewatch cannot connect to an engine over TLS: nothing was sent to {host}; give imagewatch the engine's socket (DOCKER_HOST=unix:///path/to/docker.sock) or a socket proxy, and unset {variable}"
    )]
    Tls {
        /// The environment variable.
        variable: &'static str,
        /// The address that would have been used.
        host: String,
    },
    /// A context of the docker command selects the engine.
    #[error(
        "{source_of_context} selects the context {context:?}, and imagewatch does not read contexts of the docker command: set DOCKER_HOST to the address that `docker context inspect {context}` shows, or select the context `default`"
    )]
    Context {
        /// Where the context is selected.
        source_of_context: String,
        /// The context's name.
        context: String,
    },
    /// `DOCKER_API_VERSION` is not an API version.
    #[error("DOCKER_API_VERSION={0:?} is not an API version; write it as in DOCKER_API_VERSION=1.44, or unset it")]
    ApiVersion(String),
    /// The engine expects TLS on this port.
    #[error(
        "the engine at {host} expects TLS, which imagewatch does not support; give imagewatch the engine's socket (DOCKER_HOST=unix:///path/to/docker.sock) or a socket proxy"
    )]
    ExpectsTls {
        /// The engine's address.
        host: String,
    },
    /// imagewatch and the engine have no API version in common.
    #[error(
        "{asked} speaks API versions {from} to {to}, and the engine at {host} speaks {engine_from} to {engine_to}; {advice}"
    )]
    NoCommonVersion {
        /// The source of the version range: `imagewatch` or `DOCKER_API_VERSION`.
        asked: &'static str,
        /// The oldest version that `asked` allows.
        from: ApiVersion,
        /// The newest version that `asked` allows.
        to: ApiVersion,
        /// The engine's address.
        host: String,
        /// The engine's oldest version.
        engine_from: ApiVersion,
        /// The engine's newest version.
        engine_to: ApiVersion,
        /// What the user can do.
        advice: &'static str,
    },
}

/// The chosen engine: its address and, optionally, its API version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineChoice {
    /// `unix://…`, `tcp://…` or `http://…`.
    pub host: String,
    /// The API version from `DOCKER_API_VERSION`. `None` means that imagewatch negotiates the version.
    pub api: Option<ApiVersion>,
}

/// Chooses the engine at `docker_host`, or the default engine at `unix:///var/run/docker.sock`. `variable` looks up an
/// environment variable. Like the docker command, this function reads `DOCKER_TLS_VERIFY`, `DOCKER_TLS`,
/// `DOCKER_CERT_PATH`, `DOCKER_CONTEXT`, the current context in `config.json`, and `DOCKER_API_VERSION`.
///
/// # Errors
/// Returns an error for the first setting that imagewatch does not support.
pub fn choose_engine(
    docker_host: Option<&str>,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<EngineChoice, AddressError> {
    let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
    let host = docker_host.unwrap_or(DEFAULT_ADDRESS).to_owned();
    let is_named_socket = docker_host.is_some_and(|host| host.starts_with("unix://"));
    let tls = ["DOCKER_TLS_VERIFY", "DOCKER_TLS", "DOCKER_CERT_PATH"];
    // A Unix socket needs no TLS. Without an address, these variables mean tcp://localhost:2376.
    let asks_for_tls = tls.into_iter().find(|name| {
        variable(name).is_some() && !is_named_socket && (docker_host.is_some() || *name != "DOCKER_CERT_PATH")
    });
    if let Some(variable) = asks_for_tls {
        return Err(AddressError::Tls { variable, host });
    }
    if docker_host.is_none()
        && let Some((source_of_context, context)) = selected_context(&variable)
    {
        return Err(AddressError::Context { source_of_context, context });
    }
    check_address(&host)?;
    let api = variable("DOCKER_API_VERSION").map(|text| {
        text.trim_start_matches('v').parse::<ApiVersion>().map_err(|_| AddressError::ApiVersion(text.clone()))
    });
    Ok(EngineChoice { host, api: api.transpose()? })
}

/// Checks whether imagewatch can connect to `host`.
///
/// # Errors
/// Returns an error if the form of the address is not supported.
pub(super) fn check_address(host: &str) -> Result<(), AddressError> {
    let unsupported = |why| Err(AddressError::Unsupported { host: host.to_owned(), why });
    match host.split_once("://") {
        Some(("unix" | "tcp" | "http", rest)) if !rest.is_empty() => Ok(()),
        Some(("ssh", _)) => unsupported(": imagewatch does not support SSH connections"),
        Some(("https", _)) => unsupported(": imagewatch cannot connect to an engine over TLS"),
        Some(("npipe", _)) => unsupported(": named pipes exist on Windows only"),
        Some(("fd", _)) => unsupported(": fd:// is an address for an engine to listen on, not to connect to"),
        _ => unsupported(""),
    }
}

/// The context that the docker command would use, and where it is selected. `None` for the default context.
fn selected_context(variable: &dyn Fn(&str) -> Option<String>) -> Option<(String, String)> {
    let is_other = |context: &String| !context.is_empty() && context != "default";
    if let Some(context) = variable("DOCKER_CONTEXT") {
        // `DOCKER_CONTEXT=default` also takes precedence over the file.
        return is_other(&context).then(|| ("DOCKER_CONTEXT".to_owned(), context));
    }
    let folder = variable("DOCKER_CONFIG").map(PathBuf::from);
    let file = folder.or_else(|| Some(PathBuf::from(variable("HOME")?).join(".docker")))?.join("config.json");
    // The docker command also ignores a file that it cannot read.
    let config: Value = serde_json::from_slice(&std::fs::read(&file).ok()?).ok()?;
    let context = config["currentContext"].as_str()?.to_owned();
    is_other(&context).then(|| (format!("`currentContext` in {}", file.display()), context))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn choose(docker_host: Option<&str>, variables: &[(&str, &str)]) -> Result<EngineChoice, AddressError> {
        let variables: BTreeMap<String, String> =
            variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        choose_engine(docker_host, &|name| variables.get(name).cloned())
    }

    #[test]
    fn f07_an_unsupported_setting_is_an_error_that_names_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let config = folder.path().join("config.json");
        std::fs::write(&config, r#"{"currentContext": "far"}"#).expect("it is written");
        let folder = folder.path().to_str().expect("it is text");
        let tcp = Some("tcp://127.0.0.1:2376");
        for (case, host, variables, names) in [
            ("verify", tcp, &[("DOCKER_TLS_VERIFY", "1")][..], Some("DOCKER_TLS_VERIFY")),
            ("any value enables TLS, as in docker", tcp, &[("DOCKER_TLS_VERIFY", "0")], Some("DOCKER_TLS_VERIFY")),
            ("TLS without verification", tcp, &[("DOCKER_TLS", "1")], Some("DOCKER_TLS")),
            ("certificates", tcp, &[("DOCKER_CERT_PATH", "/certs")], Some("DOCKER_CERT_PATH")),
            ("no address: tcp://localhost:2376", None, &[("DOCKER_TLS_VERIFY", "1")], Some("DOCKER_TLS_VERIFY")),
            ("an empty variable is not set", tcp, &[("DOCKER_TLS_VERIFY", "")], None),
            ("a socket needs no TLS", Some("unix:///x.sock"), &[("DOCKER_TLS_VERIFY", "1")], None),
            ("context", None, &[("DOCKER_CONTEXT", "x")], Some("DOCKER_CONTEXT")),
            ("an address takes precedence over DOCKER_CONTEXT", tcp, &[("DOCKER_CONTEXT", "x")], None),
            ("the default context", None, &[("DOCKER_CONTEXT", "default"), ("DOCKER_CONFIG", folder)], None),
            ("the current context", None, &[("DOCKER_CONFIG", folder)], Some("currentContext")),
            ("an address takes precedence over the current context", tcp, &[("DOCKER_CONFIG", folder)], None),
            ("no config file", None, &[("DOCKER_CONFIG", "/nonexistent")], None),
            ("SSH", Some("ssh://me@far"), &[], Some("SSH")),
            ("HTTPS", Some("https://far:2376"), &[], Some("TLS")),
            ("a Windows pipe", Some("npipe:////./pipe/docker"), &[], Some("Windows")),
            ("a listener's address", Some("fd://"), &[], Some("fd://")),
            ("a path", Some("/var/run/docker.sock"), &[], Some("write unix:///path")),
            ("an invalid version", tcp, &[("DOCKER_API_VERSION", "new")], Some("DOCKER_API_VERSION")),
        ] {
            let chosen = choose(host, variables);
            let message = chosen.as_ref().err().map(ToString::to_string).unwrap_or_default();
            assert_eq!(chosen.is_err(), names.is_some(), "{case}: {chosen:?}");
            assert!(message.contains(names.unwrap_or_default()), "{case}: {message}");
        }
    }

    #[test]
    fn the_configured_api_version_is_used() {
        let chosen = choose(None, &[("DOCKER_API_VERSION", "1.41")]).expect("it is supported");
        assert_eq!(chosen, EngineChoice { host: DEFAULT_ADDRESS.to_owned(), api: "1.41".parse().ok() });
    }
}
