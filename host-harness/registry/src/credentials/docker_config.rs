//! Parses Docker's `config.json` and the `auth.json` of Podman and related tools: the stored credentials and the
//! credential helpers. This module reads no files and runs no helpers. An invalid entry affects only its own registry.
//! Messages never show the content of an entry.

use std::fmt;

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use secrecy::SecretString;
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use imagewatch_base::registry_name::{DOCKER_HUB, parse_registry};
use imagewatch_base::secret::{Credential, SecretJson};

/// The key of Docker Hub in configurations and for helpers.
pub(super) const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A parsed configuration. `Debug` shows registries and user names but no secrets.
#[derive(Debug, Default)]
pub(super) struct DockerConfig {
    auths: Vec<(Scope, Result<Option<Credential>, Problem>)>,
    helpers: Vec<(Scope, Result<HelperName, Problem>)>,
    store: Option<Result<HelperName, Problem>>,
}

/// What is wrong with a configuration or an entry. Reads after "read credentials from FILE: ".
pub(super) type Problem = String;

/// What a configuration contains for one registry or repository.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// The helper to query first.
    pub(super) helper: Option<HelperCall>,
    /// The credential in the configuration itself.
    pub(super) credential: Option<Credential>,
}

/// A query to a credential helper.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HelperCall {
    pub(super) helper: HelperName,
    /// The name of the registry for the helper.
    pub(super) server: String,
    /// Whether the configuration names the registry. If so, a missing helper is an error.
    pub(super) is_explicit: bool,
}

/// The name of a helper without `docker-credential-`. It becomes part of a program name, so it contains only letters,
/// digits, `.`, `_` and `-`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct HelperName(String);

impl fmt::Display for HelperName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The scope of an entry: a registry, or a path below it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Scope {
    registry: String,
    path: Option<String>,
    /// Several keys can mean the same registry. The lowest rank, the plainest key, takes precedence.
    rank: u8,
}

/// Parses a configuration. Fails if the document as a whole is invalid.
pub(super) fn parse_docker_config(bytes: &[u8]) -> Result<DockerConfig, Problem> {
    // Without the parser's message, which quotes the document.
    let document = SecretJson::parse(bytes)
        .map_err(|error| format!("it is not valid JSON: error at line {}, column {}", error.line(), error.column()))?;
    let Value::Object(config) = document.expose() else { return Err("it is not a JSON object".to_owned()) };
    let store = match config.get("credsStore") {
        None | Some(Value::Null) => None,
        Some(Value::String(name)) if name.is_empty() => None,
        Some(value) => Some(parse_helper_name(value).ok_or_else(|| bad_helper("credsStore"))),
    };
    let auths = object(config, "auths")?.map(|(key, entry)| {
        let scope = Scope::parse(key)?;
        let credential = parse_entry(entry).map_err(|reason| format!("the entry of {scope} in auths {reason}"));
        Some((scope, credential))
    });
    let helpers = object(config, "credHelpers")?.map(|(key, name)| {
        let scope = Scope::parse(key)?;
        let name = parse_helper_name(name).ok_or_else(|| bad_helper(&format!("the entry of {scope} in credHelpers")));
        Some((scope, name))
    });
    Ok(DockerConfig { auths: auths.flatten().collect(), helpers: helpers.flatten().collect(), store })
}

impl DockerConfig {
    /// Finds the helper and the credential for `repository` in `registry`. `registry` is a result of
    /// [`parse_registry`]. The entry with the longest path takes precedence.
    pub(super) fn find(&self, registry: &str, repository: Option<&str>) -> Result<Found, Problem> {
        let auth = best(&self.auths, registry, repository);
        let is_explicit = auth.is_some();
        let named = best(&self.helpers, registry, repository).map(|(scope, name)| (scope.server(), name, true));
        let store = self.store.as_ref().map(|name| (server_of(registry), name, is_explicit));
        let helper = match named.or(store) {
            None => None,
            Some((server, name, is_explicit)) => Some(HelperCall { helper: name.clone()?, server, is_explicit }),
        };
        let credential = auth.map_or(Ok(None), |(_, credential)| credential.clone())?;
        Ok(Found { helper, credential })
    }

    /// Whether an entry applies only to some repositories of `registry`.
    pub(super) fn is_per_repository(&self, registry: &str) -> bool {
        let scopes = self.auths.iter().map(|(scope, _)| scope).chain(self.helpers.iter().map(|(scope, _)| scope));
        scopes.into_iter().any(|scope| scope.registry == registry && scope.path.is_some())
    }
}

impl Scope {
    /// Parses the key of an entry. Returns `None` if the key is not a registry.
    fn parse(key: &str) -> Option<Self> {
        let bare = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://"));
        let (host, path) = bare.unwrap_or(key).split_once('/').unwrap_or((bare.unwrap_or(key), ""));
        // Older versions of Docker wrote keys with a scheme, or with only an API version as the path. Such a key means
        // the whole registry.
        let path = Some(path.trim_end_matches('/')).filter(|path| bare.is_none() && !matches!(*path, "" | "v1" | "v2"));
        let registry = parse_registry(host)?;
        let is_plain = if registry == DOCKER_HUB { key == DOCKER_HUB_KEY } else { key == registry };
        let rank = if is_plain || path.is_some() { 0 } else { 1 + u8::from(bare.is_some()) };
        Some(Self { registry, path: path.map(str::to_owned), rank })
    }

    fn covers(&self, registry: &str, repository: Option<&str>) -> bool {
        let is_below = |path: &str| {
            let rest = repository.and_then(|repository| repository.strip_prefix(path));
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        self.registry == registry && self.path.as_deref().is_none_or(is_below)
    }

    fn server(&self) -> String {
        match &self.path {
            Some(path) => format!("{}/{path}", self.registry),
            None => server_of(&self.registry),
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.path {
            Some(path) => write!(f, "{}/{path}", self.registry),
            None => f.write_str(&self.registry),
        }
    }
}

fn server_of(registry: &str) -> String {
    if registry == DOCKER_HUB { DOCKER_HUB_KEY.to_owned() } else { registry.to_owned() }
}

fn best<'a, T>(entries: &'a [(Scope, T)], registry: &str, repository: Option<&str>) -> Option<&'a (Scope, T)> {
    let covering = entries.iter().filter(|(scope, _)| scope.covers(registry, repository));
    covering.min_by_key(|(scope, _)| (usize::MAX - scope.path.as_ref().map_or(0, String::len), scope.rank))
}

fn object<'a>(
    config: &'a Map<String, Value>,
    key: &str,
) -> Result<impl Iterator<Item = (&'a String, &'a Value)>, Problem> {
    match config.get(key) {
        None | Some(Value::Null) => Ok(None.into_iter().flatten()),
        Some(Value::Object(entries)) => Ok(Some(entries).into_iter().flatten()),
        Some(_) => Err(format!("its {key} is not a JSON object")),
    }
}

fn parse_helper_name(value: &Value) -> Option<HelperName> {
    let name = value.as_str()?;
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    (!name.is_empty() && name.chars().all(is_allowed)).then(|| HelperName(name.to_owned()))
}

fn bad_helper(place: &str) -> Problem {
    format!("{place} is not a helper's name; use only letters, digits and . _ -")
}

/// Parses an entry. Returns `None` for an empty entry, which means that a helper has the credential.
fn parse_entry(entry: &Value) -> Result<Option<Credential>, &'static str> {
    let Value::Object(entry) = entry else { return Err("is not a JSON object") };
    let text = |key: &str| match entry.get(key) {
        None | Some(Value::Null) => Ok(""),
        Some(Value::String(text)) => Ok(text.as_str()),
        Some(_) => Err("has a field that is not text"),
    };
    let (registry_token, identity_token, auth) = (text("registrytoken")?, text("identitytoken")?, text("auth")?);
    let (username, password) = (text("username")?, text("password")?);
    if !registry_token.is_empty() {
        return Ok(Some(Credential::RegistryToken(registry_token.into())));
    }
    if !identity_token.is_empty() {
        return Ok(Some(Credential::IdentityToken(identity_token.into())));
    }
    if !auth.is_empty() {
        return parse_auth(auth).map(Some);
    }
    match (username, password) {
        ("", "") => Ok(None),
        ("", _) | (_, "") => Err("has a user or a password but not both"),
        (username, password) => Ok(Some(Credential::from_login(username, password.into()))),
    }
}

/// Parses `auth`, the base64 of `user:password`. Older versions of Docker padded it with NULs.
fn parse_auth(auth: &str) -> Result<Credential, &'static str> {
    const WRONG: &str = "has an auth that is not the base64 of user:password";
    let auth = Zeroizing::new(auth.chars().filter(|c| !c.is_ascii_whitespace()).collect::<String>());
    let decoded = Zeroizing::new(BASE64.decode(auth.trim_end_matches('=')).map_err(|_| WRONG)?);
    let login = std::str::from_utf8(&decoded).map_err(|_| WRONG)?;
    let (username, password) = login.split_once(':').ok_or(WRONG)?;
    let password = password.trim_matches('\0');
    if username.is_empty() || password.is_empty() {
        return Err(WRONG);
    }
    Ok(Credential::from_login(username, SecretString::from(password)))
}

#[cfg(test)]
mod tests;
