//! Finds the credential of a registry in all sources, in a fixed order. `egress` decides which hosts may receive a
//! credential.

use std::path::PathBuf;

use super::docker_config::{DockerConfig, Problem, parse_docker_config};
use super::ecr::Ecr;
use super::env::EnvCredentials;
use super::environment::Environment;
use super::error::CredentialError;
use super::file::{NO_FILE, WatchedFile};
use super::helper::Helpers;
use imagewatch_base::registry_name::parse_registry;
use imagewatch_base::secret::Credential;

/// The sources of registry credentials. The first source with a credential for the registry is used. A source that
/// cannot be read is an error, unless an earlier source has a credential. The sources are, in order:
///
/// 1. imagewatch's own variables, see [`parse_credentials`](super::env::parse_credentials)
/// 2. the configuration in `DOCKER_AUTH_CONFIG`
/// 3. `$DOCKER_CONFIG/config.json`, by default `$HOME/.docker/config.json`
/// 4. `$REGISTRY_AUTH_FILE`; if it is not set, `$XDG_RUNTIME_DIR/containers/auth.json` and then
///    `$XDG_CONFIG_HOME/containers/auth.json` (by default in `$HOME/.config`)
/// 5. for AWS registries, a token that imagewatch requests with the machine's AWS keys
///
/// Within a configuration, a credential helper takes precedence over an entry. Files are read again when they change.
/// `Debug` shows registries and user names but no secrets. The default store has no sources.
#[derive(Debug, Default)]
pub struct CredentialStore {
    logins: EnvCredentials,
    configs: Vec<Config>,
    helpers: Option<Helpers>,
    ecr: Option<Ecr>,
}

/// A configuration in Docker's form.
#[derive(Debug)]
enum Config {
    /// The content of a variable.
    Variable { variable: &'static str, config: Result<DockerConfig, Problem> },
    /// A file. If a variable names it in `required_by`, the file must exist.
    File { file: WatchedFile<Result<DockerConfig, Problem>>, required_by: Option<&'static str> },
}

impl CredentialStore {
    pub(super) fn new(logins: EnvCredentials, environment: &Environment) -> Self {
        let (helpers, ecr) = (Some(Helpers::new(environment)), Some(Ecr::new(environment)));
        Self { logins, configs: find_configs(environment), helpers, ecr }
    }

    /// Finds the credential for the registry `host` (`ghcr.io`, `registry.example.com:5000`), under any of its names.
    /// If a credential is stored for `repository` (`org/app`), that one is used. Returns `None` if no source has a
    /// credential.
    ///
    /// May wait for a helper or for AWS. Their answers are cached, and concurrent callers share them.
    ///
    /// # Errors
    /// Returns an error if a source that may contain the credential cannot be used.
    pub async fn find(&self, host: &str, repository: Option<&str>) -> Result<Option<Credential>, CredentialError> {
        let Some(registry) = parse_registry(host) else { return Ok(None) };
        if let Some(credential) = self.logins.find(&registry)? {
            return Ok(Some(credential));
        }
        for config in &self.configs {
            let found = config.with(|config| config.find(&registry, repository))?.unwrap_or_default();
            if let (Some(call), Some(helpers)) = (&found.helper, &self.helpers)
                && let Some(credential) = helpers.find(call).await?
            {
                return Ok(Some(credential));
            }
            if found.credential.is_some() {
                return Ok(found.credential);
            }
        }
        match &self.ecr {
            Some(ecr) => ecr.find(&registry).await,
            None => Ok(None),
        }
    }

    /// Whether a source has credentials for individual repositories of the registry `host`. In that case,
    /// [`find`](Self::find) needs the repository.
    pub fn is_per_repository(&self, host: &str) -> bool {
        let Some(registry) = parse_registry(host) else { return false };
        let is_in = |config: &Config| config.with(|config| Ok(config.is_per_repository(&registry)));
        self.configs.iter().any(|config| matches!(is_in(config), Ok(Some(true))))
    }

    /// Call this when the registry `host` rejects the credential with this id: the next [`find`](Self::find) queries
    /// its source again. Returns whether that may return another credential. Returns `false` for a credential from a
    /// file, because files are read again anyway. Returns `false` for a credential that is less than a minute old, so
    /// that a registry that always rejects it causes no endless queries.
    pub fn renew(&self, host: &str, credential_id: &str) -> bool {
        let is_aws = parse_registry(host).is_some_and(|registry| Ecr::has(&registry));
        let is_token = is_aws && self.ecr.as_ref().is_some_and(|ecr| ecr.forget(credential_id));
        is_token || self.helpers.as_ref().is_some_and(|helpers| helpers.forget(credential_id))
    }

    /// The settings that would supply a credential for the registry `host`. Reads after "…: set ".
    pub fn sources_for(&self, host: &str) -> String {
        let registry = parse_registry(host);
        let is_seed = registry.as_ref().is_some_and(|registry| self.logins.is_seed(registry));
        let seed = if is_seed { "GHCR_USER and GHCR_TOKEN, or " } else { "" };
        let is_aws = registry.as_ref().is_some_and(|registry| Ecr::has(registry));
        let aws = if is_aws { ", or give this machine keys for AWS" } else { "" };
        format!("{seed}IMAGEWATCH_CREDENTIAL_<NAME>={host}=<user>:<password>, or run `docker login {host}`{aws}")
    }
}

impl Config {
    /// Calls `look` with the configuration. Returns `None` if the configuration does not exist.
    fn with<T>(&self, look: impl FnOnce(&DockerConfig) -> Result<T, Problem>) -> Result<Option<T>, CredentialError> {
        let found = match self {
            Self::Variable { config, .. } => config.as_ref().map_err(Clone::clone).and_then(look).map(Some),
            Self::File { file, required_by } => match file.read(parse_docker_config) {
                Ok(Some(config)) => config.as_ref().as_ref().map_err(Clone::clone).and_then(look).map(Some),
                Ok(None) if required_by.is_none() => Ok(None),
                Ok(None) => Err(NO_FILE.to_owned()),
                Err(reason) => Err(reason),
            },
        };
        found.map_err(|reason| CredentialError::Unreadable { origin: self.origin(), reason })
    }

    fn origin(&self) -> String {
        match self {
            Self::Variable { variable, .. } => (*variable).to_owned(),
            Self::File { file, required_by: Some(variable) } => format!("{} ({variable})", file.path().display()),
            Self::File { file, required_by: None } => file.path().display().to_string(),
        }
    }
}

/// The possible configurations, in order of precedence.
fn find_configs(environment: &Environment) -> Vec<Config> {
    let folder = |name| environment.value(name).map(PathBuf::from);
    let file = |path: Option<PathBuf>, required_by| {
        path.map(|path| Config::File { file: WatchedFile::new(path), required_by })
    };
    let home = |below: &str| folder("HOME").map(|home| home.join(below));
    let given = environment
        .value("DOCKER_AUTH_CONFIG")
        .map(|text| Config::Variable { variable: "DOCKER_AUTH_CONFIG", config: parse_docker_config(text.as_bytes()) });
    let docker = folder("DOCKER_CONFIG").or_else(|| home(".docker")).map(|folder| folder.join("config.json"));
    let mut configs = vec![given, file(docker, None)];
    if let Some(path) = folder("REGISTRY_AUTH_FILE") {
        configs.push(file(Some(path), Some("REGISTRY_AUTH_FILE")));
    } else {
        let folders = [folder("XDG_RUNTIME_DIR"), folder("XDG_CONFIG_HOME").or_else(|| home(".config"))];
        configs.extend(folders.map(|folder| file(folder.map(|folder| folder.join("containers/auth.json")), None)));
    }
    configs.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests;
