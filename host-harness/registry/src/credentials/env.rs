//! Credentials from environment variables and from the files that they name. The environment is an argument, so that
//! nothing here depends on the process; no message and no error shows a value.

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

/// Why the environment's credentials cannot be used. Names variables, never values.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CredentialEnvError {
    /// A variable is not of the expected form.
    #[error("read the credential in {variable}: write it as <registry host>=<user>:<password>, none of them empty")]
    Malformed {
        /// The variable's name.
        variable: String,
    },
    /// A variable that names a file is not of the expected form.
    #[error(
        "read the credential in {variable}: write it as <registry host>=<user>:</path/of/a/file>, where the file holds \
         the password alone and its path begins with /"
    )]
    MalformedFile {
        /// The variable's name.
        variable: String,
    },
    /// The registry's prefix does not begin with a host.
    #[error(
        "read the registry that GHCR_USER and GHCR_TOKEN are for: MOLECULE_IMAGE_REGISTRY must begin with a registry \
         host, as in ghcr.io/molecule-ai"
    )]
    MalformedPrefix,
    /// Two variables give a credential for one registry.
    #[error("choose a credential for {registry}: both {first} and {second} give one; unset one of them")]
    Twice {
        /// The registry, as [`parse_registry`] writes it.
        registry: String,
        /// The variable that was read first.
        first: String,
        /// The other.
        second: String,
    },
}

/// The credentials of the environment, one for each registry. `Debug` shows no password and no path.
#[derive(Debug, Default)]
pub(super) struct EnvCredentials {
    by_registry: BTreeMap<String, Login>,
    seed_registry: Option<String>,
}

/// A user and a password, and which variables they are from.
#[derive(Debug)]
struct Login {
    username: Text,
    password: Text,
    source: String,
}

/// A value of the environment, or of a file that it names.
#[derive(Debug)]
enum Text {
    Given(SecretString),
    File { variable: String, file: WatchedFile<Result<SecretString, String>>, is_trimmed: bool },
}

/// Makes the store of all credentials out of `environment` (pairs of name and value), which says where the other
/// sources are too; see [`CredentialStore`] for those. Here:
///
/// - `GHCR_USER` and `GHCR_TOKEN`, or files of these names with `_FILE`; trimmed of blanks, both needed: for the
///   registry host of `MOLECULE_IMAGE_REGISTRY` when that is set and not empty, else for `ghcr.io`.
/// - `IMAGEWATCH_CREDENTIAL_<NAME>=<registry host>=<user>:<password>`: any name, any number; the
///   password may hold every character.
/// - `IMAGEWATCH_CREDENTIAL_<NAME>_FILE=<registry host>=<user>:</path>`: the file is the password, less one line end.
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
    /// The credential for `registry`, a name that [`parse_registry`] answered.
    pub(super) fn find(&self, registry: &str) -> Result<Option<Credential>, CredentialError> {
        let Some(login) = self.by_registry.get(registry) else { return Ok(None) };
        let (username, password) = (login.username.read()?, login.password.read()?);
        Ok(Some(Credential::from_login(username.expose_secret(), password)))
    }

    /// Whether `registry` is the one that `GHCR_USER` and `GHCR_TOKEN` stand for, whether they are set or not.
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
        // Not the path: it may be a password that somebody put into the wrong variable.
        let origin = format!("the file that {variable} names");
        text.map_err(|reason| CredentialError::Unreadable { origin, reason })
    }
}

/// Docker's secrets are written with and without an end of line.
fn parse_secret(bytes: &[u8], is_trimmed: bool) -> Result<SecretString, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "it is no UTF-8 text".to_owned())?;
    let line = text.strip_suffix('\n').map_or(text, |text| text.strip_suffix('\r').unwrap_or(text));
    let secret = if is_trimmed { text.trim() } else { line };
    if secret.is_empty() {
        return Err("it is empty".to_owned());
    }
    Ok(secret.into())
}

#[cfg(test)]
mod tests;
