//! Tests configurations with tables of other projects and with unusual forms, and tests that no secret is shown.

use base64::engine::general_purpose::STANDARD as PADDED;
use proptest::collection::vec;
use proptest::prelude::*;
use rstest::rstest;
use secrecy::ExposeSecret;
use serde_json::json;

use super::*;

const SECRET: &str = "canary-9d1f";

fn parse(config: &Value) -> DockerConfig {
    parse_docker_config(config.to_string().as_bytes()).unwrap()
}

fn auth(login: &str) -> Value {
    json!({ "auth": PADDED.encode(login) })
}

/// The kind, user and secret of a credential.
fn shape(credential: Option<&Credential>) -> Option<(&'static str, String, String)> {
    let secret = |secret: &SecretString| secret.expose_secret().to_owned();
    Some(match credential? {
        Credential::Basic { username, password } => ("basic", username.clone(), secret(password)),
        Credential::IdentityToken(token) => ("identity", String::new(), secret(token)),
        Credential::RegistryToken(token) => ("registry", String::new(), secret(token)),
    })
}

fn found(config: &Value, registry: &str, repository: Option<&str>) -> Option<(&'static str, String, String)> {
    shape(parse(config).find(registry, repository).unwrap().credential.as_ref())
}

/// The tables come from go-containerregistry `pkg/authn/keychain_test.go` and moby `registry/auth_test.go`; see
/// `config_json.json`.
#[test]
fn the_tables_of_other_projects_pass() {
    let tables: Value = serde_json::from_str(include_str!("tests-data/config_json.json")).unwrap();
    for case in tables["config_json_ggcr"].as_array().unwrap() {
        let target = case["target"].as_str().unwrap();
        let content = match &case["content"] {
            Value::String(text) => text.clone(),
            content => content.to_string(),
        };
        let config = parse_docker_config(content.as_bytes());
        if case["error"] == true {
            assert!(config.is_err(), "{case}");
            continue;
        }
        let (registry, repository) = target.split_once('/').map_or((target, None), |(host, path)| (host, Some(path)));
        let found = shape(config.unwrap().find(registry, repository).unwrap().credential.as_ref());
        let expected = |key: &str| case[key].as_str().unwrap().to_owned();
        assert_eq!(found, Some(("basic", expected("username"), expected("password"))), "{case}");
    }
    for (registry, keys) in tables["auth_config_key_moby"]["match"].as_object().unwrap() {
        for key in keys.as_array().unwrap() {
            let config = json!({ "auths": { key.as_str().unwrap(): auth("u:p") } });
            assert!(found(&config, registry, Some("org/app")).is_some(), "{key}");
            assert!(found(&config, "another.example.com", None).is_none(), "{key}");
        }
    }
    let order = tables["auth_json_lookup_order"]["order"].as_array().unwrap();
    let mut auths: Vec<(String, Value)> =
        order.iter().map(|key| key.as_str().unwrap()).map(|key| (key.to_owned(), auth(&format!("{key}:p")))).collect();
    while !auths.is_empty() {
        let config = json!({ "auths": auths.iter().cloned().collect::<Map<String, Value>>() });
        let (_, user, _) = found(&config, "my-registry.local", Some("namespace/user/image")).unwrap();
        assert_eq!(user, auths[0].0);
        assert_eq!(parse(&config).is_per_repository("my-registry.local"), auths[0].0.contains('/'));
        auths.remove(0);
    }
}

#[rstest]
#[case::official("https://index.docker.io/v1/")]
#[case::short("docker.io")]
#[case::index("index.docker.io")]
#[case::host("https://registry-1.docker.io")]
fn docker_hub_is_found_under_all_of_its_names(#[case] key: &str) {
    let config = json!({ "auths": { key: auth("me:pw") } });
    assert_eq!(found(&config, "docker.io", Some("library/nginx")), Some(("basic", "me".into(), "pw".into())));
}

#[test]
fn the_plainest_of_several_keys_for_a_registry_is_used() {
    let config = json!({ "auths": {
        "docker.io": auth("short:p"), "https://index.docker.io/v1/": auth("official:p"),
        "https://r.io/v1/": auth("old:p"), "r.io": auth("plain:p"), "r.io/v2/": auth("odd:p"), "r.io/org": auth("org:p"),
    } });
    let user = |registry: &str, repository| found(&config, registry, repository).unwrap().1;
    assert_eq!(user("docker.io", None), "official");
    assert_eq!(user("r.io", Some("other/app")), "plain");
    assert_eq!(user("r.io", Some("org/app")), "org");
    assert_eq!(user("r.io", Some("organic/app")), "plain", "a path matches whole components only");
    assert_eq!(user("r.io", None), "plain");
}

#[rstest]
#[case::split_at_the_first_colon(auth("me:a:b=c"), ("basic", "me", "a:b=c"))]
#[case::nul_padded(auth("me:pw\0\0\0"), ("basic", "me", "pw"))]
#[case::unpadded(json!({ "auth": "bWU6cHc" }), ("basic", "me", "pw"))]
#[case::broken_lines(json!({ "auth": "bWU6\ncHc=\n" }), ("basic", "me", "pw"))]
#[case::plain_text(json!({ "username": "me", "password": "p:w" }), ("basic", "me", "p:w"))]
#[case::identity(json!({ "auth": "MDA6", "identitytoken": "id" }), ("identity", "", "id"))]
#[case::identity_by_user(auth("<token>:id"), ("identity", "", "id"))]
#[case::registry(json!({ "registrytoken": "rt", "identitytoken": "id" }), ("registry", "", "rt"))]
fn every_form_of_an_entry_is_parsed(#[case] entry: Value, #[case] expected: (&str, &str, &str)) {
    let (kind, user, secret) = found(&json!({ "auths": { "r.io": entry } }), "r.io", None).unwrap();
    assert_eq!((kind, user.as_str(), secret.as_str()), expected);
}

/// The user names that clouds use for their own tokens.
#[rstest]
#[case::google_access_token("oauth2accesstoken", "ya29.a0Af_x-y")]
#[case::google_key(
    "_json_key",
    "{\n  \"type\": \"service_account\",\n  \"private_key\": \"-----BEGIN\\n:A+/=\\n\"\n}\n"
)]
#[case::google_key_base64("_json_key_base64", "ewogICJ0eXBlIjogIng6eSIKfQo=")]
#[case::azure("00000000-0000-0000-0000-000000000000", "eyJhbGciOi.J9.x_y-z")]
#[case::gitlab_deploy_token("gitlab+deploy-token-1", "gldt-~?>:")]
#[case::gitlab_job("gitlab-ci-token", "glcbt-64_x")]
fn cloud_logins_are_parsed_unchanged(#[case] user: &str, #[case] password: &str) {
    let expected = Some(("basic", user.to_owned(), password.to_owned()));
    assert_eq!(found(&json!({ "auths": { "r.io": auth(&format!("{user}:{password}")) } }), "r.io", None), expected);
    let clear = json!({ "auths": { "r.io": { "username": user, "password": password } } });
    assert_eq!(found(&clear, "r.io", None), expected);
}

#[rstest]
#[case::no_base64(json!({ "auth": format!("{SECRET}!") }))]
#[case::no_colon(auth(SECRET))]
#[case::no_user(auth(&format!(":{SECRET}")))]
#[case::no_password(auth(&format!("{SECRET}:")))]
#[case::not_text(json!({ "auth": [SECRET] }))]
#[case::not_an_object(json!(SECRET))]
#[case::only_a_password(json!({ "password": SECRET }))]
fn an_invalid_entry_affects_only_its_registry(#[case] entry: Value) {
    let config = parse(&json!({ "auths": { "bad.io": entry, "good.io": auth("me:pw") } }));
    assert!(config.find("good.io", None).unwrap().credential.is_some());
    assert!(config.find("other.io", None).unwrap().credential.is_none());
    let reason = config.find("bad.io", None).unwrap_err();
    assert!(reason.contains("bad.io"), "{reason}");
    assert!(!format!("{reason} {config:?}").contains(SECRET), "{reason} {config:?}");
}

#[test]
fn a_helper_is_configured_per_registry_or_for_all() {
    let config = parse(&json!({
        "auths": { "listed.io": {}, "own.io": auth("me:pw") },
        "credHelpers": { "gcr.io": "gcloud", "https://index.docker.io/v1/": "pass", "bad.io": "../../bin/sh", "r.io/org": "x" },
        "credsStore": "desktop",
    }));
    let call = |registry: &str, repository| {
        let call = config.find(registry, repository).unwrap().helper.unwrap();
        (call.helper.to_string(), call.server, call.is_explicit)
    };
    assert_eq!(call("gcr.io", None), ("gcloud".to_owned(), "gcr.io".to_owned(), true));
    assert_eq!(call("docker.io", None), ("pass".to_owned(), DOCKER_HUB_KEY.to_owned(), true));
    assert_eq!(call("listed.io", None), ("desktop".to_owned(), "listed.io".to_owned(), true));
    assert_eq!(call("other.io", None), ("desktop".to_owned(), "other.io".to_owned(), false));
    assert_eq!(call("r.io", Some("org/app")), ("x".to_owned(), "r.io/org".to_owned(), true));
    let own = config.find("own.io", None).unwrap();
    assert!(own.helper.is_some() && own.credential.is_some(), "{own:?}");
    let reason = config.find("bad.io", None).unwrap_err();
    assert!(reason.contains("bad.io in credHelpers") && !reason.contains("bin/sh"), "{reason}");
}

#[rstest]
#[case::path("../evil")]
#[case::space("a b")]
#[case::shell("a;b")]
#[case::nul("a\0b")]
#[case::empty("")]
#[case::unicode("é")]
fn a_helper_name_contains_only_safe_characters(#[case] name: &str) {
    assert_eq!(parse_helper_name(&json!(name)), None);
    assert!(parse_helper_name(&json!("ecr-login_2.x")).is_some());
}

#[rstest]
#[case::truncated("{\"auths\": {\"r.io\": {\"auth\": \"canary-9d1f", "not valid JSON: error at line 1")]
#[case::list("[\"canary-9d1f\"]", "not a JSON object")]
#[case::auths("{\"auths\": \"canary-9d1f\"}", "auths is not a JSON object")]
#[case::helpers("{\"credHelpers\": [\"canary-9d1f\"]}", "credHelpers is not a JSON object")]
#[case::empty("", "not valid JSON")]
#[case::not_text("\u{0}\u{1}canary-9d1f", "not valid JSON")]
fn an_invalid_file_is_reported_without_its_content(#[case] text: &str, #[case] reason: &str) {
    let problem = parse_docker_config(text.as_bytes()).unwrap_err();
    assert!(problem.contains(reason) && !problem.contains(SECRET), "{problem}");
}

/// Any JSON that contains known keys and canaries.
fn any_json() -> impl Strategy<Value = Value> {
    let words = ["auth", "auths", "credsStore", "credHelpers", "identitytoken", "password", "username", "r.io", SECRET];
    let word = prop_oneof![proptest::sample::select(words.to_vec()).prop_map(str::to_owned), "[ -~]{0,12}"];
    let text = prop_oneof![
        word.clone(),
        Just(PADDED.encode(format!("u:{SECRET}"))),
        Just(PADDED.encode(SECRET)),
        Just(format!("r.io/{}", "x".repeat(9))),
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        text.prop_map(Value::from)
    ];
    leaf.prop_recursive(4, 40, 6, move |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            vec((word.clone(), inner), 0..6).prop_map(|entries| Value::Object(entries.into_iter().collect())),
        ]
    })
}

fn shows_nothing(bytes: &[u8]) {
    let shown = match parse_docker_config(bytes) {
        Err(problem) => problem,
        Ok(config) => {
            let found = ["r.io", "docker.io"].map(|registry| format!("{:?}", config.find(registry, Some("org/app"))));
            format!("{} {config:?}", found.join(" "))
        }
    };
    // The canary may be shown as the name of a registry, a user or a helper, but not as a secret.
    let without_names = shown
        .replace(&format!("registry: \"{SECRET}\""), "")
        .replace(&format!("of {SECRET} in"), "")
        .replace(&format!("username: \"{SECRET}\""), "")
        .replace(&format!("HelperName(\"{SECRET}\")"), "");
    assert!(!without_names.contains(SECRET), "{without_names}");
}

proptest! {
    #[test]
    fn parsing_never_panics_and_never_shows_a_secret(
        auths in any_json(), helpers in any_json(), store in any_json(), cut in 0..400_usize, flip in 0..400_usize,
    ) {
        let config = json!({ "auths": auths, "credHelpers": helpers, "credsStore": store }).to_string().into_bytes();
        shows_nothing(&config);
        shows_nothing(&config[..cut.min(config.len())]);
        let mut flipped = config;
        if let Some(byte) = flipped.get_mut(flip) {
            *byte ^= 0x11;
        }
        shows_nothing(&flipped);
    }

    #[test]
    fn random_bytes_are_refused_without_a_panic(bytes in vec(any::<u8>(), 0..200)) {
        shows_nothing(&bytes);
    }

    #[test]
    fn an_auth_is_decoded_unchanged(user in "[a-zA-Z0-9<>_+$.-]{1,20}", password in "[^\0]{1,40}") {
        let config = json!({ "auths": { "r.io": auth(&format!("{user}:{password}")) } });
        prop_assert_eq!(found(&config, "r.io", None).unwrap().2, password);
    }
}
