//! Tests the names of registries and the precedence of sources.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use secrecy::ExposeSecret;
use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::credentials::env::parse_credentials;

const SECRET: &str = "canary-5e2b";

#[test]
fn every_form_of_a_registry_name_has_one_canonical_form() {
    for (written, name) in [
        ("ghcr.io", Some("ghcr.io")),
        (" GHCR.io ", Some("ghcr.io")),
        ("ghcr.io:443", Some("ghcr.io")),
        ("docker.io", Some("docker.io")),
        ("index.docker.io", Some("docker.io")),
        ("Registry-1.Docker.io", Some("docker.io")),
        ("registry.example.com:5000", Some("registry.example.com:5000")),
        ("127.0.0.1:5000", Some("127.0.0.1:5000")),
        ("[::1]:5000", Some("[::1]:5000")),
        ("localhost", Some("localhost")),
        ("", None),
        ("ghcr.io/org", None),
        ("https://ghcr.io", None),
        ("user@ghcr.io", None),
        ("ghcr.io?x", None),
        ("ghcr.io:port", None),
        ("https:", None),
        ("a b", None),
    ] {
        assert_eq!(parse_registry(written).as_deref(), name, "{written:?}");
    }
}

/// A home folder for the configurations of a test.
struct Home(TempDir);

impl Home {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, below: &str) -> String {
        self.0.path().join(below).display().to_string()
    }

    fn write(&self, below: &str, text: &str) -> String {
        let path = self.0.path().join(below);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    fn store(&self, variables: &[(&str, &str)]) -> CredentialStore {
        let home = [("HOME", self.path("")), ("PATH", format!("{}:/usr/bin:/bin", self.path("bin")))];
        let variables = variables.iter().map(|(name, value)| (*name, (*value).to_owned()));
        parse_credentials(home.into_iter().chain(variables).map(|(name, value)| (name.to_owned(), value))).unwrap()
    }
}

fn config(entries: &[(&str, &str)]) -> String {
    let auths = entries.iter().map(|(key, login)| ((*key).to_owned(), json!({ "auth": STANDARD.encode(login) })));
    json!({ "auths": auths.collect::<serde_json::Map<_, _>>() }).to_string()
}

async fn user(store: &CredentialStore, registry: &str) -> Option<String> {
    match store.find(registry, Some("org/app")).await.unwrap()? {
        Credential::Basic { username, .. } => Some(username),
        token => Some(format!("{token:?}")),
    }
}

#[tokio::test]
async fn the_first_source_with_a_credential_is_used() {
    let home = Home::new();
    let runtime = home.path("run");
    let every = ["a.io", "b.io", "c.io", "d.io", "e.io"];
    let of = |from: usize, user: &str| {
        let login = format!("{user}:pw");
        config(&every[from..].iter().map(|registry| (*registry, login.as_str())).collect::<Vec<_>>())
    };
    home.write(".docker/config.json", &of(2, "docker"));
    home.write("run/containers/auth.json", &of(3, "runtime"));
    home.write(".config/containers/auth.json", &of(4, "config"));
    let given = of(1, "given");
    let variables = [("IMAGEWATCH_CREDENTIAL_A", "a.io=own:pw"), ("XDG_RUNTIME_DIR", runtime.as_str())];
    let store = home.store(&[variables[0], variables[1], ("DOCKER_AUTH_CONFIG", given.as_str())]);
    for (registry, expected) in every.into_iter().zip(["own", "given", "given", "given", "given"]) {
        assert_eq!(user(&store, registry).await.as_deref(), Some(expected), "{registry}");
    }
    let store = home.store(&variables);
    let found = [Some("own"), None, Some("docker"), Some("docker"), Some("docker")];
    for (registry, expected) in every.into_iter().zip(found) {
        assert_eq!(user(&store, registry).await.as_deref(), expected, "{registry}");
    }
    let elsewhere = home.write("elsewhere/config.json", &config(&[("c.io", "elsewhere:pw")]));
    let folder = elsewhere.trim_end_matches("/config.json");
    let store = home.store(&[variables[1], ("DOCKER_CONFIG", folder)]);
    let found = [None, None, Some("elsewhere"), Some("runtime"), Some("runtime")];
    for (registry, expected) in every.into_iter().zip(found) {
        assert_eq!(user(&store, registry).await.as_deref(), expected, "{registry}");
    }
    fs::remove_file(home.path("run/containers/auth.json")).unwrap();
    assert_eq!(user(&store, "e.io").await.as_deref(), Some("config"), "the file is read again");
    let own = home.write("auth.json", &config(&[("d.io", "named:pw")]));
    let store = home.store(&[variables[1], ("DOCKER_CONFIG", folder), ("REGISTRY_AUTH_FILE", &own)]);
    assert_eq!(user(&store, "d.io").await.as_deref(), Some("named"));
    assert_eq!(user(&store, "e.io").await, None, "REGISTRY_AUTH_FILE replaces the default files");
}

#[tokio::test]
async fn files_are_read_again_and_repositories_are_distinguished() {
    let home = Home::new();
    let store = home.store(&[]);
    assert_eq!(user(&store, "r.io").await, None);
    assert!(!store.is_per_repository("r.io"));
    home.write(".docker/config.json", &config(&[("r.io", "all:pw"), ("r.io/org", "org:pw")]));
    assert!(store.is_per_repository("R.io") && !store.is_per_repository("docker.io"));
    assert_eq!(user(&store, "r.io").await.as_deref(), Some("org"));
    let other = store.find("r.io", Some("other/app")).await.unwrap().unwrap();
    let org = store.find("r.io", Some("org/app")).await.unwrap().unwrap();
    assert_ne!(other.id(), org.id());
    assert!(!store.renew("r.io", &org.id()), "a file has no other credential");
}

#[tokio::test]
async fn a_broken_source_affects_only_its_registries_and_shows_nothing() {
    let home = Home::new();
    let broken = format!("{{\"auths\": {{\"r.io\": {{\"auth\": \"{SECRET}\"");
    home.write(".docker/config.json", &broken);
    let missing = home.path("missing");
    let named = format!("f.io=me:{missing}");
    let store = home.store(&[("IMAGEWATCH_CREDENTIAL_A", "a.io=me:pw"), ("IMAGEWATCH_CREDENTIAL_F_FILE", &named)]);
    assert_eq!(user(&store, "a.io").await.as_deref(), Some("me"), "an earlier source has a credential");
    let text = store.find("r.io", None).await.unwrap_err().to_string();
    assert!(text.contains(".docker/config.json: it is not valid JSON"), "{text}");
    let text = store.find("f.io", None).await.unwrap_err().to_string();
    assert!(text.contains("IMAGEWATCH_CREDENTIAL_F_FILE") && !text.contains(&missing), "{text}");
    assert!(!store.is_per_repository("r.io"));

    let helper = json!({ "credsStore": "x", "auths": { "meant.io": {} } }).to_string();
    home.write(".docker/config.json", &helper);
    assert!(user(&store, "other.io").await.is_none(), "a missing helper is no error for a registry that is not listed");
    let text = store.find("meant.io", None).await.unwrap_err().to_string();
    assert!(text.contains("docker-credential-x for meant.io"), "{text}");

    let store = home.store(&[("DOCKER_AUTH_CONFIG", SECRET), ("REGISTRY_AUTH_FILE", &missing)]);
    let text = format!("{:?} {store:?}", store.find("r.io", None).await.unwrap_err());
    assert!(text.contains("DOCKER_AUTH_CONFIG") && !text.contains(SECRET), "{text}");
    fs::remove_file(home.path(".docker/config.json")).unwrap();
    let store = home.store(&[("REGISTRY_AUTH_FILE", &missing)]);
    let text = store.find("r.io", None).await.unwrap_err().to_string();
    assert!(text.contains("(REGISTRY_AUTH_FILE): the file does not exist"), "{text}");
}

#[tokio::test]
async fn a_secret_from_every_source_is_found_and_never_shown() {
    let home = Home::new();
    let canary = |source: &str| format!("{SECRET}-{source}-~?>");
    let script = format!("#!/bin/sh\necho '{{\"Username\":\"u\",\"Secret\":\"{}\"}}'\n", canary("helper"));
    let helper = home.write("bin/docker-credential-canary", &script);
    fs::set_permissions(helper, fs::Permissions::from_mode(0o755)).unwrap();
    let file = home.write("secret", &format!("{}\n", canary("file")));
    let auths = json!({
        "auths": {
            "auth.io": { "auth": STANDARD.encode(format!("u:{}", canary("auth"))) },
            "identity.io": { "identitytoken": canary("identity") },
            "registry.io": { "registrytoken": canary("registry") },
        },
        "credHelpers": { "helper.io": "canary" },
    });
    home.write(".docker/config.json", &auths.to_string());
    home.write(".config/containers/auth.json", &config(&[("podman.io/org", &format!("u:{}", canary("podman")))]));
    let given = config(&[("given.io", &format!("u:{}", canary("given")))]);
    let store = home.store(&[
        ("GHCR_USER", "u"),
        ("GHCR_TOKEN_FILE", &file),
        ("IMAGEWATCH_CREDENTIAL_A", &format!("env.io=u:{}", canary("env"))),
        ("IMAGEWATCH_CREDENTIAL_B_FILE", &format!("file.io=u:{file}")),
        ("DOCKER_AUTH_CONFIG", &given),
        ("AWS_SECRET_ACCESS_KEY", &canary("aws")),
        ("HTTPS_PROXY", &format!("http://u:{}@proxy", canary("proxy"))),
        ("IMAGEWATCH_ADMIN_TOKEN", &canary("admin")),
    ]);
    let mut shown = vec![format!("{store:?}")];
    for (registry, source) in [
        ("ghcr.io", "file"),
        ("env.io", "env"),
        ("file.io", "file"),
        ("given.io", "given"),
        ("auth.io", "auth"),
        ("identity.io", "identity"),
        ("registry.io", "registry"),
        ("helper.io", "helper"),
        ("podman.io", "podman"),
    ] {
        let found = store.find(registry, Some("org/app")).await.unwrap().unwrap();
        let (Credential::Basic { password: secret, .. }
        | Credential::IdentityToken(secret)
        | Credential::RegistryToken(secret)) = &found;
        assert_eq!(secret.expose_secret(), canary(source), "{registry}");
        shown.push(format!("{found:?} {} {}", found.id(), store.sources_for(registry)));
    }
    let shown = shown.join(" ");
    assert!(!shown.contains(SECRET), "{shown}");
    assert!(!shown.contains(&STANDARD.encode(SECRET)[..8]), "{shown}");
}

#[test]
fn the_hint_names_the_possible_sources() {
    let store = Home::new().store(&[]);
    let aws = store.sources_for("123456789012.dkr.ecr.eu-west-2.amazonaws.com");
    assert!(aws.ends_with("or give this machine keys for AWS"), "{aws}");
    let own = store.sources_for("r.io");
    assert_eq!(own, "IMAGEWATCH_CREDENTIAL_<NAME>=r.io=<user>:<password>, or run `docker login r.io`");
}
