//! Tests every form of variable, and that no value is shown.

use futures_util::FutureExt;
use proptest::prelude::*;
use secrecy::ExposeSecret;

use super::*;

fn parse(environment: &[(&str, &str)]) -> Result<CredentialStore, CredentialEnvError> {
    parse_credentials(environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
}

fn find(store: &CredentialStore, registry: &str) -> Option<Credential> {
    store.find(registry, None).now_or_never().expect("no source waits").expect("no source is broken")
}

fn login(credential: &Credential) -> (&str, &str) {
    let Credential::Basic { username, password } = credential else { panic!("{credential:?}") };
    (username, password.expose_secret())
}

#[test]
fn every_credential_is_found_for_its_registry() {
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
            name: "whitespace is trimmed",
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
            name: "with a prefix, not for ghcr.io",
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
            name: "an empty prefix is ignored",
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
            name: "a port, and a password with separators and spaces",
            environment: &[("IMAGEWATCH_CREDENTIAL_A", "127.0.0.1:5000=me: =:a=b:c/@% ")],
            registry: "127.0.0.1:5000",
            found: Some(("me", " =:a=b:c/@% ")),
        },
        Row {
            name: "docker hub, stored and requested under different names",
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
fn malformed_values_are_reported_by_variable_and_never_shown() {
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
fn two_credentials_for_one_registry_are_an_error_that_names_both() {
    for (name, environment, first, second) in [
        (
            "two general variables",
            [("IMAGEWATCH_CREDENTIAL_A", "docker.io=a:x"), ("IMAGEWATCH_CREDENTIAL_B", "index.docker.io=b:y")]
                .as_slice(),
            "IMAGEWATCH_CREDENTIAL_A",
            "IMAGEWATCH_CREDENTIAL_B",
        ),
        (
            "GHCR_USER and a general variable",
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
fn a_malformed_prefix_is_an_error_only_with_a_credential() {
    let prefix = ("MOLECULE_IMAGE_REGISTRY", "https://ghcr.io/org");
    assert!(parse(&[prefix]).is_ok());
    assert_eq!(
        parse(&[prefix, ("GHCR_USER", "me"), ("GHCR_TOKEN", "x")]).err(),
        Some(CredentialEnvError::MalformedPrefix)
    );
}

#[test]
fn the_hint_names_the_possible_variables() {
    let store = parse(&[("MOLECULE_IMAGE_REGISTRY", "reg.example.com/org")]).expect("no credential");
    assert!(store.sources_for("reg.example.com").starts_with("GHCR_USER and GHCR_TOKEN, or IMAGEWATCH_CREDENTIAL_"));
    assert!(store.sources_for("ghcr.io").starts_with("IMAGEWATCH_CREDENTIAL_"));
}

proptest! {
    #[test]
    fn a_password_is_stored_unchanged_and_never_shown(password in "[ -~é]{8,40}") {
        prop_assume!(password.chars().any(|c| c.is_ascii_punctuation() || c.is_ascii_digit()));
        let store = parse(&[("IMAGEWATCH_CREDENTIAL_P", &format!("quay.io=u:{password}"))]).expect("well formed");
        let credential = find(&store, "quay.io").expect("stored");
        prop_assert_eq!(login(&credential).1, &password);
        let shown = format!("{store:?} {credential:?}");
        prop_assert!(!shown.contains(&password), "{}", shown);
    }
}

#[test]
fn a_password_file_is_read_again_after_a_change() {
    let folder = tempfile::tempdir().unwrap();
    let (token, key) = (folder.path().join("token"), folder.path().join("key.json"));
    let json_key = "{\n  \"type\": \"service_account\",\n  \"private_key\": \"a:b\\n\"\n}";
    std::fs::write(&token, " t0ken\r\n").unwrap();
    std::fs::write(&key, format!("{json_key}\n")).unwrap();
    let environment = [
        ("GHCR_USER", "me".to_owned()),
        ("GHCR_TOKEN_FILE", token.display().to_string()),
        ("IMAGEWATCH_CREDENTIAL_GAR_FILE", format!("europe-docker.pkg.dev=_json_key:{}", key.display())),
        ("IMAGEWATCH_CREDENTIAL_GONE_FILE", "gone.io=me:/nowhere/hunter2".to_owned()),
    ];
    let store = parse_credentials(environment.map(|(name, value)| (name.to_owned(), value))).unwrap();
    assert_eq!(find(&store, "ghcr.io").as_ref().map(login), Some(("me", "t0ken")));
    assert_eq!(find(&store, "europe-docker.pkg.dev").as_ref().map(login), Some(("_json_key", json_key)));
    std::fs::write(&token, "another").unwrap();
    assert_eq!(find(&store, "ghcr.io").as_ref().map(login), Some(("me", "another")));
    for (content, reason) in [(&b"\n"[..], "it is empty"), (b"\xff", "it is not UTF-8 text")] {
        std::fs::write(&token, content).unwrap();
        let error = store.find("ghcr.io", None).now_or_never().unwrap().unwrap_err().to_string();
        assert!(error.contains("the file that GHCR_TOKEN_FILE names") && error.contains(reason), "{error}");
    }
    let error = store.find("gone.io", None).now_or_never().unwrap().unwrap_err().to_string();
    assert!(error.contains("IMAGEWATCH_CREDENTIAL_GONE_FILE") && !error.contains("hunter2"), "{error}");
}

#[test]
fn a_malformed_file_variable_is_reported_and_never_shown() {
    for value in ["quay.io=me:hunter2", "quay.io=me:", "hunter2", "quay.io=:/hunter2"] {
        let error = parse(&[("IMAGEWATCH_CREDENTIAL_Q_FILE", value)]).expect_err(value);
        let text = format!("{error} {error:?}");
        assert!(text.contains("IMAGEWATCH_CREDENTIAL_Q_FILE") && text.contains("begins with /"), "{text}");
        assert!(!text.contains("hunter2"), "{text}");
    }
    let both = [("GHCR_USER", "me"), ("GHCR_TOKEN", "x"), ("GHCR_TOKEN_FILE", "/x")];
    let text = parse(&both).expect_err("both").to_string();
    assert!(text.contains("both GHCR_TOKEN and GHCR_TOKEN_FILE"), "{text}");
}
