//! Credentials from environment variables and from the files that they name. The environment is passed as an argument,
//! so this module does not depend on the process. Messages never show a value.

use std::collections::BTreeMap;
use std::path::PathBuf;

use secrecy::{ExposeSecret, SecretString};

use super::environment::Environment;
use super::error::CredentialError;
use super::file::{NO_FILE, WatchedFile};
use super::store::CredentialStore;
use imagewatch_base::registry_name::parse_registry;
use imagewatch_base::secret::Credential;

const PREFIX: &str = "IMAGEWATCH_CREDENTIAL_";
const FILE_SUFFIX: &str = "_FILE";
const SEED_REGISTRY: &str = "ghcr.io";

/// The credentials in the environment cannot be used. The message names variables but never shows values.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CredentialEnvError {
    /// A variable does not have the expected form.
    #[error("read the credential in {variable}: write it as <registry host>=<user>:<password>, none of them empty")]
    Malformed {
        /// The variable's name.
        variable: String,
    },
    /// A variable that names a file does not have the expected form.
    #[error(
        "read the credential in {variable}: write it as <registry host>=<user>:</path/of/a/file>, where the file \
         contains only the password and its path begins with /"
    )]
    MalformedFile {
        /// The variable's name.
        variable: String,
    },
    /// `MOLECULE_IMAGE_REGISTRY` does not begin with a registry host.
    #[error(
        "read the registry that GHCR_USER and GHCR_TOKEN are for: MOLECULE_IMAGE_REGISTRY must begin with a registry \
         host, as in ghcr.io/molecule-ai"
    )]
    MalformedPrefix,
    /// Two variables define a credential for the same registry.
    #[error("choose a credential for {registry}: both {first} and {second} define one; unset one of them")]
    Twice {
        /// The canonical name of the registry, see [`parse_registry`].
        registry: String,
        /// The variable that was read first.
        first: String,
        /// The other variable.
        second: String,
    },
}

/// The credentials from the environment, one per registry. `Debug` shows no passwords and no paths.
#[derive(Debug, Default)]
pub(super) struct EnvCredentials {
    by_registry: BTreeMap<String, Login>,
    seed_registry: Option<String>,
}

/// A user and a password, and the variables that define them.
#[derive(Debug)]
struct Login {
    username: Text,
    password: Text,
    source: String,
}

/// A value from the environment, or from a file that the environment names.
#[derive(Debug)]
enum Text {
    Given(SecretString),
    File { variable: String, file: WatchedFile<Result<SecretString, String>>, is_trimmed: bool },
}

/// Creates the store of all credentials from `environment`, pairs of name and value. The environment also locates the
/// other sources, see [`CredentialStore`]. This function reads these variables:
///
/// - `GHCR_USER` and `GHCR_TOKEN`, or `GHCR_USER_FILE` and `GHCR_TOKEN_FILE`, which name files. Both are required, and
///   surrounding whitespace is removed. They apply to the registry host of `MOLECULE_IMAGE_REGISTRY`, by default
///   `ghcr.io`.
/// - `IMAGEWATCH_CREDENTIAL_<NAME>=<registry host>=<user>:<password>`, any number of times with any names. The password
///   may contain every character.
/// - `IMAGEWATCH_CREDENTIAL_<NAME>_FILE=<registry host>=<user>:</path>`. The file contains the password. One line end
///   at the end is removed.
///
/// # Errors
/// Returns an error if a variable is malformed, or if two variables define a credential for the same registry.
pub fn parse_credentials(
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<CredentialStore, CredentialEnvError> {
    let environment: Environment = environment.into_iter().collect();
    let mut logins = EnvCredentials::default();
    logins.add_seed(&environment)?;
    for (variable, value) in environment.with_prefix(PREFIX) {
        let (registry, login) = parse_login(variable, value)?;
        logins.insert(registry, login)?;
    }
    Ok(CredentialStore::new(logins, &environment))
}

impl EnvCredentials {
    /// The credential for `registry`, a result of [`parse_registry`].
    pub(super) fn find(&self, registry: &str) -> Result<Option<Credential>, CredentialError> {
        let Some(login) = self.by_registry.get(registry) else { return Ok(None) };
        let (username, password) = (login.username.read()?, login.password.read()?);
        Ok(Some(Credential::from_login(username.expose_secret(), password)))
    }

    /// Whether `GHCR_USER` and `GHCR_TOKEN` apply to `registry`. They need not be set.
    pub(super) fn is_seed(&self, registry: &str) -> bool {
        self.seed_registry.as_deref() == Some(registry)
    }

    fn add_seed(&mut self, environment: &Environment) -> Result<(), CredentialEnvError> {
        let prefix = environment.value("MOLECULE_IMAGE_REGISTRY").unwrap_or(SEED_REGISTRY);
        self.seed_registry = prefix.split('/').next().and_then(parse_registry);
        let registry = self.seed_registry.clone();
        let text = |name| seed_text(environment, name, registry.as_deref().unwrap_or(prefix));
        let (Some(username), Some(password)) = (text("GHCR_USER")?, text("GHCR_TOKEN")?) else { return Ok(()) };
        let login = Login { username, password, source: "GHCR_USER and GHCR_TOKEN".to_owned() };
        self.insert(registry.ok_or(CredentialEnvError::MalformedPrefix)?, login)
    }

    fn insert(&mut self, registry: String, login: Login) -> Result<(), CredentialEnvError> {
        if let Some(present) = self.by_registry.get(&registry) {
            let (first, second) = (present.source.clone(), login.source);
            return Err(CredentialEnvError::Twice { registry, first, second });
        }
        self.by_registry.insert(registry, login);
        Ok(())
    }
}

fn seed_text(environment: &Environment, name: &str, registry: &str) -> Result<Option<Text>, CredentialEnvError> {
    let variable = format!("{name}{FILE_SUFFIX}");
    match (environment.value(name), environment.value(&variable)) {
        (None, None) => Ok(None),
        (Some(value), None) => Ok(Some(Text::Given(value.into()))),
        (None, Some(path)) => {
            Ok(Some(Text::File { variable, file: WatchedFile::new(PathBuf::from(path)), is_trimmed: true }))
        }
        (Some(_), Some(_)) => {
            Err(CredentialEnvError::Twice { registry: registry.to_owned(), first: name.to_owned(), second: variable })
        }
    }
}

fn parse_login(variable: &str, value: &str) -> Result<(String, Login), CredentialEnvError> {
    let is_file = variable.ends_with(FILE_SUFFIX);
    let parts = value.split_once('=').and_then(|(host, login)| Some((parse_registry(host)?, login.split_once(':')?)));
    match parts {
        Some((registry, (username, password)))
            if !username.is_empty() && !password.is_empty() && (!is_file || password.starts_with('/')) =>
        {
            let password = if is_file {
                let file = WatchedFile::new(PathBuf::from(password));
                Text::File { variable: variable.to_owned(), file, is_trimmed: false }
            } else {
                Text::Given(password.into())
            };
            Ok((registry, Login { username: Text::Given(username.into()), password, source: variable.to_owned() }))
        }
        _ if is_file => Err(CredentialEnvError::MalformedFile { variable: variable.to_owned() }),
        _ => Err(CredentialEnvError::Malformed { variable: variable.to_owned() }),
    }
}

impl Text {
    fn read(&self) -> Result<SecretString, CredentialError> {
        let (variable, file, is_trimmed) = match self {
            Self::Given(text) => return Ok(text.clone()),
            Self::File { variable, file, is_trimmed } => (variable, file, *is_trimmed),
        };
        let text = match file.read(|bytes| parse_secret(bytes, is_trimmed)) {
            Ok(Some(text)) => (*text).clone(),
            Ok(None) => Err(NO_FILE.to_owned()),
            Err(reason) => Err(reason),
        };
        // Without the path: it may be a password that the user put into the wrong variable.
        let origin = format!("the file that {variable} names");
        text.map_err(|reason| CredentialError::Unreadable { origin, reason })
    }
}

/// Parses the content of a secret file. Such files exist with and without a line end.
fn parse_secret(bytes: &[u8], is_trimmed: bool) -> Result<SecretString, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "it is not UTF-8 text".to_owned())?;
    let line = text.strip_suffix('\n').map_or(text, |text| text.strip_suffix('\r').unwrap_or(text));
    let secret = if is_trimmed { text.trim() } else { line };
    if secret.is_empty() {
        return Err("it is empty".to_owned());
    }
    Ok(secret.into())
}

#[cfg(test)]
mod tests;
