//! Credentials from environment variables. The environment is an argument, so that nothing here
//! depends on the process; no message and no error shows a value.

use std::collections::BTreeMap;

use super::store::{CredentialStore, parse_registry};
use crate::secret::Credential;

const PREFIX: &str = "IMAGEWATCH_CREDENTIAL_";
const SEED_VARIABLES: &str = "GHCR_USER and GHCR_TOKEN";
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

/// Reads all credentials from `environment` (pairs of name and value):
///
/// - `GHCR_USER` and `GHCR_TOKEN`, trimmed of blanks, both needed: for the registry host of
///   `MOLECULE_IMAGE_REGISTRY` when that is set and not empty, else for `ghcr.io`.
/// - `IMAGEWATCH_CREDENTIAL_<NAME>=<registry host>=<user>:<password>`: any name, any number; the
///   password may hold every character.
pub fn parse_credentials(
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<CredentialStore, CredentialEnvError> {
    let environment: BTreeMap<String, String> = environment.into_iter().collect();
    let mut store = CredentialStore::default();
    add_seed_credential(&mut store, &environment)?;
    for (variable, value) in environment.range(PREFIX.to_owned()..).take_while(|(name, _)| name.starts_with(PREFIX)) {
        let (registry, credential) =
            parse_value(value).ok_or_else(|| CredentialEnvError::Malformed { variable: variable.clone() })?;
        insert(&mut store, registry, credential, variable)?;
    }
    Ok(store)
}

fn add_seed_credential(
    store: &mut CredentialStore,
    environment: &BTreeMap<String, String>,
) -> Result<(), CredentialEnvError> {
    let value = |name: &str| environment.get(name).map(|value| value.trim()).filter(|value| !value.is_empty());
    let prefix = value("MOLECULE_IMAGE_REGISTRY").unwrap_or(SEED_REGISTRY);
    let registry = prefix.split('/').next().and_then(parse_registry);
    if let Some(registry) = &registry {
        store.set_seed_registry(registry.clone());
    }
    let (Some(username), Some(token)) = (value("GHCR_USER"), value("GHCR_TOKEN")) else { return Ok(()) };
    let credential = Credential::basic(username, token);
    insert(store, registry.ok_or(CredentialEnvError::MalformedPrefix)?, credential, SEED_VARIABLES)
}

fn parse_value(value: &str) -> Option<(String, Credential)> {
    let (host, login) = value.split_once('=')?;
    let (username, password) = login.split_once(':')?;
    if username.is_empty() || password.is_empty() {
        return None;
    }
    let credential = Credential::basic(username, password);
    Some((parse_registry(host)?, credential))
}

fn insert(
    store: &mut CredentialStore,
    registry: String,
    credential: Credential,
    source: &str,
) -> Result<(), CredentialEnvError> {
    store.insert(registry.clone(), credential, source).map_err(|first| CredentialEnvError::Twice {
        registry,
        first,
        second: source.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use proptest::prelude::*;
    use secrecy::ExposeSecret;

    use super::*;

    fn parse(environment: &[(&str, &str)]) -> Result<CredentialStore, CredentialEnvError> {
        parse_credentials(environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
    }

    fn find(store: &CredentialStore, registry: &str) -> Option<Credential> {
        store.find(registry, None).now_or_never().expect("the environment is there at once").expect("nothing is broken")
    }

    fn login(credential: &Credential) -> (&str, &str) {
        let Credential::Basic { username, password } = credential else { panic!("{credential:?}") };
        (username, password.expose_secret())
    }

    #[test]
    fn every_credential_goes_to_the_registry_it_is_for() {
        struct Row {
            name: &'static str,
            environment: &'static [(&'static str, &'static str)],
            registry: &'static str,
            found: Option<(&'static str, &'static str)>,
        }
        const GHCR: [(&str, &str); 2] = [("GHCR_USER", "me"), ("GHCR_TOKEN", "t0ken")];
        let rows = [
            Row { name: "nothing set", environment: &[], registry: "ghcr.io", found: None },
            Row { name: "both set", environment: &GHCR, registry: "ghcr.io", found: Some(("me", "t0ken")) },
            Row { name: "case of the host", environment: &GHCR, registry: "GHCR.IO", found: Some(("me", "t0ken")) },
            Row { name: "another registry", environment: &GHCR, registry: "quay.io", found: None },
            Row {
                name: "blanks are trimmed",
                environment: &[("GHCR_USER", " me\t"), ("GHCR_TOKEN", "\nt0ken ")],
                registry: "ghcr.io",
                found: Some(("me", "t0ken")),
            },
            Row { name: "user only", environment: &[("GHCR_USER", "me")], registry: "ghcr.io", found: None },
            Row { name: "token only", environment: &[("GHCR_TOKEN", "t0ken")], registry: "ghcr.io", found: None },
            Row {
                name: "blank token",
                environment: &[("GHCR_USER", "me"), ("GHCR_TOKEN", "  ")],
                registry: "ghcr.io",
                found: None,
            },
            Row {
                name: "follows the prefix",
                environment: &[GHCR[0], GHCR[1], ("MOLECULE_IMAGE_REGISTRY", "reg.example.com:5000/org/sub")],
                registry: "reg.example.com:5000",
                found: Some(("me", "t0ken")),
            },
            Row {
                name: "and leaves ghcr.io",
                environment: &[GHCR[0], GHCR[1], ("MOLECULE_IMAGE_REGISTRY", "reg.example.com:5000/org")],
                registry: "ghcr.io",
                found: None,
            },
            Row {
                name: "a bare host as prefix",
                environment: &[GHCR[0], GHCR[1], ("MOLECULE_IMAGE_REGISTRY", "reg.example.com")],
                registry: "reg.example.com",
                found: Some(("me", "t0ken")),
            },
            Row {
                name: "an empty prefix is none",
                environment: &[GHCR[0], GHCR[1], ("MOLECULE_IMAGE_REGISTRY", "")],
                registry: "ghcr.io",
                found: Some(("me", "t0ken")),
            },
            Row {
                name: "general form",
                environment: &[("IMAGEWATCH_CREDENTIAL_A", "quay.io=robot+x:pw")],
                registry: "quay.io",
                found: Some(("robot+x", "pw")),
            },
            Row {
                name: "port and a password of separators and blanks",
                environment: &[("IMAGEWATCH_CREDENTIAL_A", "127.0.0.1:5000=me: =:a=b:c/@% ")],
                registry: "127.0.0.1:5000",
                found: Some(("me", " =:a=b:c/@% ")),
            },
            Row {
                name: "docker hub under one name and asked by another",
                environment: &[("IMAGEWATCH_CREDENTIAL_HUB", "index.docker.io=me:pw")],
                registry: "registry-1.docker.io",
                found: Some(("me", "pw")),
            },
        ];
        for Row { name, environment, registry, found } in rows {
            let credential = find(&parse(environment).expect(name), registry);
            let seen = credential.as_ref().map(login);
            assert_eq!(seen, found, "{name}");
        }
    }

    #[test]
    fn malformed_values_are_refused_by_name_and_never_shown() {
        for (name, value) in [
            ("no host", "hunter2"),
            ("no password", "quay.io=hunter2"),
            ("empty password", "quay.io=hunter2:"),
            ("empty user", "quay.io=:hunter2"),
            ("empty host", "=hunter2:hunter2"),
            ("a url as host", "https://quay.io=me:hunter2"),
            ("a path after the host", "quay.io/hunter2=me:hunter2"),
            ("empty", ""),
        ] {
            let error = parse(&[("IMAGEWATCH_CREDENTIAL_QUAY", value)]).expect_err(name);
            let text = format!("{error} {error:?}");
            assert!(text.contains("IMAGEWATCH_CREDENTIAL_QUAY"), "{name}: {text}");
            assert!(text.contains("<registry host>=<user>:<password>"), "{name}: {text}");
            assert!(!text.contains("hunter2"), "{name}: {text}");
        }
    }

    #[test]
    fn two_credentials_for_one_registry_are_refused_and_both_named() {
        for (name, environment, first, second) in [
            (
                "two general ones",
                [("IMAGEWATCH_CREDENTIAL_A", "docker.io=a:x"), ("IMAGEWATCH_CREDENTIAL_B", "index.docker.io=b:y")]
                    .as_slice(),
                "IMAGEWATCH_CREDENTIAL_A",
                "IMAGEWATCH_CREDENTIAL_B",
            ),
            (
                "the seed's and a general one",
                &[("GHCR_USER", "me"), ("GHCR_TOKEN", "x"), ("IMAGEWATCH_CREDENTIAL_A", "GHCR.io=a:x")],
                "GHCR_USER and GHCR_TOKEN",
                "IMAGEWATCH_CREDENTIAL_A",
            ),
        ] {
            let text = parse(environment).expect_err(name).to_string();
            assert!(text.contains(first) && text.contains(second), "{name}: {text}");
        }
    }

    #[test]
    fn a_malformed_prefix_matters_only_with_a_credential() {
        let prefix = ("MOLECULE_IMAGE_REGISTRY", "https://ghcr.io/org");
        assert!(parse(&[prefix]).is_ok());
        assert_eq!(
            parse(&[prefix, ("GHCR_USER", "me"), ("GHCR_TOKEN", "x")]).err(),
            Some(CredentialEnvError::MalformedPrefix)
        );
    }

    #[test]
    fn the_hint_names_the_variables_that_would_help() {
        let store = parse(&[("MOLECULE_IMAGE_REGISTRY", "reg.example.com/org")]).expect("no credential");
        assert!(
            store.sources_for("reg.example.com").starts_with("GHCR_USER and GHCR_TOKEN, or IMAGEWATCH_CREDENTIAL_")
        );
        assert!(store.sources_for("ghcr.io").starts_with("IMAGEWATCH_CREDENTIAL_"));
    }

    proptest! {
        #[test]
        fn a_password_survives_whole_and_never_shows(password in "[ -~é]{8,40}") {
            prop_assume!(password.chars().any(|c| c.is_ascii_punctuation() || c.is_ascii_digit()));
            let store = parse(&[("IMAGEWATCH_CREDENTIAL_P", &format!("quay.io=u:{password}"))]).expect("well formed");
            let credential = find(&store, "quay.io").expect("stored");
            prop_assert_eq!(login(&credential).1, &password);
            let shown = format!("{store:?} {credential:?}");
            prop_assert!(!shown.contains(&password), "{}", shown);
        }
    }
}
