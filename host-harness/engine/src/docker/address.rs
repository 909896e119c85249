//! Which engine is meant: an address and what the environment says about the connection. What this program does not
//! support it refuses by name, before it opens a connection, so that nothing is sent unencrypted and no other engine
//! than the one meant is used.

use std::path::PathBuf;

use serde_json::Value;

use crate::ApiVersion;

const DEFAULT_ADDRESS: &str = "unix:///var/run/docker.sock";

/// Why the engine cannot be used as it was named.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Not an address that this program connects to.
    #[error("the engine address {host:?} cannot be used{why}; write unix:///path/to/docker.sock or tcp://host:port")]
    Unsupported {
        /// The address as given.
        host: String,
        /// What is missing, with a leading `: `.
        why: &'static str,
    },
    /// An encrypted connection is asked for.
    #[error(
        "{variable} is set, and imagewatch cannot connect to an engine over TLS: nothing was sent to {host}; give imagewatch the engine's socket (DOCKER_HOST=unix:///path/to/docker.sock) or a socket proxy, and unset {variable}"
    )]
    Tls {
        /// The environment variable.
        variable: &'static str,
        /// The address that would have been used.
        host: String,
    },
    /// A context of the docker command names the engine.
    #[error(
        "{source_of_context} selects the context {context:?}, and imagewatch does not read contexts of the docker command: set DOCKER_HOST to the address that `docker context inspect {context}` shows, or select the context `default`"
    )]
    Context {
        /// Where the context is selected.
        source_of_context: String,
        /// The context's name.
        context: String,
    },
    /// Not a version of the API.
    #[error("DOCKER_API_VERSION={0:?} is not an API version; write it as in DOCKER_API_VERSION=1.44, or unset it")]
    ApiVersion(String),
    /// The engine talks TLS on this port.
    #[error(
        "the engine at {host} expects TLS, which imagewatch cannot talk; give it the engine's socket (DOCKER_HOST=unix:///path/to/docker.sock) or a socket proxy"
    )]
    ExpectsTls {
        /// The address.
        host: String,
    },
    /// No API version that both ends speak.
    #[error(
        "{asked} speaks API versions {from} to {to}, and the engine at {host} speaks {engine_from} to {engine_to}; {advice}"
    )]
    NoCommonVersion {
        /// The source of the version range: `imagewatch` or `DOCKER_API_VERSION`.
        asked: &'static str,
        /// The oldest version here.
        from: ApiVersion,
        /// The newest version here.
        to: ApiVersion,
        /// The engine's address.
        host: String,
        /// The engine's oldest version.
        engine_from: ApiVersion,
        /// The engine's newest version.
        engine_to: ApiVersion,
        /// What to do.
        advice: &'static str,
    },
}

/// An engine, as the environment names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineChoice {
    /// `unix://…`, `tcp://…` or `http://…`.
    pub host: String,
    /// The only API version to use, if one was asked for.
    pub api: Option<ApiVersion>,
}

/// The engine at `docker_host`, or else the default one, under the environment in which `variable` looks up a variable.
/// Reads what the docker command reads: `DOCKER_TLS_VERIFY`, `DOCKER_TLS`, `DOCKER_CERT_PATH`, `DOCKER_CONTEXT`, the
/// current context in its `config.json`, and `DOCKER_API_VERSION`.
///
/// # Errors
/// The first setting that this program does not support.
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

/// Whether this program can connect to `host`.
///
/// # Errors
/// Why not.
pub(super) fn check_address(host: &str) -> Result<(), AddressError> {
    let unsupported = |why| Err(AddressError::Unsupported { host: host.to_owned(), why });
    match host.split_once("://") {
        Some(("unix" | "tcp" | "http", rest)) if !rest.is_empty() => Ok(()),
        Some(("ssh", _)) => unsupported(": imagewatch opens no SSH connections"),
        Some(("https", _)) => unsupported(": imagewatch cannot connect to an engine over TLS"),
        Some(("npipe", _)) => unsupported(": named pipes exist on Windows only"),
        Some(("fd", _)) => unsupported(": fd:// is where an engine listens, not where it is reached"),
        _ => unsupported(""),
    }
}

/// The context that the docker command would use, unless it is the default one, and where it is selected.
fn selected_context(variable: &dyn Fn(&str) -> Option<String>) -> Option<(String, String)> {
    let is_other = |context: &String| !context.is_empty() && context != "default";
    if let Some(context) = variable("DOCKER_CONTEXT") {
        // `DOCKER_CONTEXT=default` takes precedence over the file.
        return is_other(&context).then(|| ("DOCKER_CONTEXT".to_owned(), context));
    }
    let folder = variable("DOCKER_CONFIG").map(PathBuf::from);
    let file = folder.or_else(|| Some(PathBuf::from(variable("HOME")?).join(".docker")))?.join("config.json");
    // A file that cannot be read selects nothing for the docker command either.
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
    fn f07_a_setting_that_is_not_supported_is_refused_by_name() {
        let folder = tempfile::tempdir().expect("a folder");
        let config = folder.path().join("config.json");
        std::fs::write(&config, r#"{"currentContext": "far"}"#).expect("it is written");
        let folder = folder.path().to_str().expect("it is text");
        let tcp = Some("tcp://127.0.0.1:2376");
        for (case, host, variables, names) in [
            ("verify", tcp, &[("DOCKER_TLS_VERIFY", "1")][..], Some("DOCKER_TLS_VERIFY")),
            ("any value counts, as in docker", tcp, &[("DOCKER_TLS_VERIFY", "0")], Some("DOCKER_TLS_VERIFY")),
            ("without verifying", tcp, &[("DOCKER_TLS", "1")], Some("DOCKER_TLS")),
            ("certificates", tcp, &[("DOCKER_CERT_PATH", "/certs")], Some("DOCKER_CERT_PATH")),
            ("no address: tcp://localhost:2376", None, &[("DOCKER_TLS_VERIFY", "1")], Some("DOCKER_TLS_VERIFY")),
            ("an empty variable is not set", tcp, &[("DOCKER_TLS_VERIFY", "")], None),
            ("a socket needs no TLS", Some("unix:///x.sock"), &[("DOCKER_TLS_VERIFY", "1")], None),
            ("context", None, &[("DOCKER_CONTEXT", "x")], Some("DOCKER_CONTEXT")),
            ("an address takes precedence over it", tcp, &[("DOCKER_CONTEXT", "x")], None),
            ("the default context", None, &[("DOCKER_CONTEXT", "default"), ("DOCKER_CONFIG", folder)], None),
            ("the current context", None, &[("DOCKER_CONFIG", folder)], Some("currentContext")),
            ("an address takes precedence over that too", tcp, &[("DOCKER_CONFIG", folder)], None),
            ("no config file", None, &[("DOCKER_CONFIG", "/nonexistent")], None),
            ("SSH", Some("ssh://me@far"), &[], Some("SSH")),
            ("HTTPS", Some("https://far:2376"), &[], Some("TLS")),
            ("a Windows pipe", Some("npipe:////./pipe/docker"), &[], Some("Windows")),
            ("a listener's address", Some("fd://"), &[], Some("fd://")),
            ("a path", Some("/var/run/docker.sock"), &[], Some("write unix:///path")),
            ("a version that is none", tcp, &[("DOCKER_API_VERSION", "new")], Some("DOCKER_API_VERSION")),
        ] {
            let chosen = choose(host, variables);
            let message = chosen.as_ref().err().map(ToString::to_string).unwrap_or_default();
            assert_eq!(chosen.is_err(), names.is_some(), "{case}: {chosen:?}");
            assert!(message.contains(names.unwrap_or_default()), "{case}: {message}");
        }
    }

    #[test]
    fn an_api_version_that_was_asked_for_is_kept() {
        let chosen = choose(None, &[("DOCKER_API_VERSION", "1.41")]).expect("it is supported");
        assert_eq!(chosen, EngineChoice { host: DEFAULT_ADDRESS.to_owned(), api: "1.41".parse().ok() });
    }
}
