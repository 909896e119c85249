//! The credentials at hand, by registry, out of all sources in their order. Knows the order and no source's form, and
//! does not decide where one may be sent (that is `http::egress`).

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

/// What every registry's credential is looked up in; the first source that has one answers, and one that cannot be read
/// is an error unless a source before it has answered:
///
/// 1. this program's own variables, see [`parse_credentials`](super::env::parse_credentials);
/// 2. the configuration in `DOCKER_AUTH_CONFIG`;
/// 3. `$DOCKER_CONFIG/config.json`, else `$HOME/.docker/config.json`;
/// 4. `$REGISTRY_AUTH_FILE`, else `$XDG_RUNTIME_DIR/containers/auth.json`, then `$XDG_CONFIG_HOME/containers/auth.json`
///    (`$HOME/.config`);
/// 5. for AWS's registries, a token that is had with this machine's keys for AWS.
///
/// In each of the configurations a helper goes before what the file holds. Files are read anew when they changed.
/// `Debug` shows registries and user names, no secret. The default has no source at all.
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
    /// Of a variable.
    Given { variable: &'static str, config: Result<DockerConfig, Problem> },
    /// Of a file. One that a variable names must be there.
    File { file: WatchedFile<Result<DockerConfig, Problem>>, must_be: Option<&'static str> },
}

impl CredentialStore {
    pub(super) fn new(logins: EnvCredentials, environment: &Environment) -> Self {
        let (helpers, ecr) = (Some(Helpers::new(environment)), Some(Ecr::new(environment)));
        Self { logins, configs: find_configs(environment), helpers, ecr }
    }

    /// The credential for registry `host` (`ghcr.io`, `registry.example.com:5000`), under any of its names, and for
    /// its `repository` (`org/app`) where one is kept for that alone. `None` when no source has one.
    ///
    /// May wait for a helper or for AWS; their answers are kept, and shared by those who ask meanwhile.
    ///
    /// # Errors
    /// When a source that may have it cannot be used.
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

    /// Whether repositories of registry `host` may have credentials of their own, so that [`find`](Self::find)
    /// needs to know the repository.
    pub fn is_per_repository(&self, host: &str) -> bool {
        let Some(registry) = parse_registry(host) else { return false };
        let is_in = |config: &Config| config.with(|config| Ok(config.is_per_repository(&registry)));
        self.configs.iter().any(|config| matches!(is_in(config), Ok(Some(true))))
    }

    /// Registry `host` says that the credential with this id has expired: the next [`find`](Self::find) asks its
    /// source again. Answers whether that may give another one: not out of a file, which is read anew anyway, and not
    /// within a minute after it was got, so that a registry that goes on refusing is not asked without end.
    pub fn renew(&self, host: &str, credential_id: &str) -> bool {
        let is_aws = parse_registry(host).is_some_and(|registry| Ecr::has(&registry));
        let is_token = is_aws && self.ecr.as_ref().is_some_and(|ecr| ecr.forget(credential_id));
        is_token || self.helpers.as_ref().is_some_and(|helpers| helpers.forget(credential_id))
    }

    /// What would supply a credential for registry `host`; reads after "…: set ".
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
    /// What `look` finds in the configuration; `None` where there is none.
    fn with<T>(&self, look: impl FnOnce(&DockerConfig) -> Result<T, Problem>) -> Result<Option<T>, CredentialError> {
        let found = match self {
            Self::Given { config, .. } => config.as_ref().map_err(Clone::clone).and_then(look).map(Some),
            Self::File { file, must_be } => match file.read(parse_docker_config) {
                Ok(Some(config)) => config.as_ref().as_ref().map_err(Clone::clone).and_then(look).map(Some),
                Ok(None) if must_be.is_none() => Ok(None),
                Ok(None) => Err(NO_FILE.to_owned()),
                Err(reason) => Err(reason),
            },
        };
        found.map_err(|reason| CredentialError::Unreadable { origin: self.origin(), reason })
    }

    fn origin(&self) -> String {
        match self {
            Self::Given { variable, .. } => (*variable).to_owned(),
            Self::File { file, must_be: Some(variable) } => format!("{} ({variable})", file.path().display()),
            Self::File { file, must_be: None } => file.path().display().to_string(),
        }
    }
}

/// Where configurations may be, the first first.
fn find_configs(environment: &Environment) -> Vec<Config> {
    let folder = |name| environment.value(name).map(PathBuf::from);
    let file = |path: Option<PathBuf>, must_be| path.map(|path| Config::File { file: WatchedFile::new(path), must_be });
    let home = |below: &str| folder("HOME").map(|home| home.join(below));
    let given = environment
        .value("DOCKER_AUTH_CONFIG")
        .map(|text| Config::Given { variable: "DOCKER_AUTH_CONFIG", config: parse_docker_config(text.as_bytes()) });
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
