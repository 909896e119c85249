//! No credential is ever in a policy's memory. Whole polls of the built policy against registries that ask for
//! each kind of credential, cut off at many moments; after each, all of its linear memories are searched.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use tokio_util::sync::CancellationToken;
use wiremock::matchers::{body_string_contains, header, method, path};
use wiremock::{Mock, MockServer, ResponseTemplate};

use super::*;
use crate::daemon::effects::Adapters;
use imagewatch_engine::testing::MemoryEngine;
use imagewatch_policy::dump::{Dumped, poll_and_dump};
use imagewatch_policy::load;
use imagewatch_registry::client::{HttpClient, HttpSettings};
use imagewatch_registry::credentials::env::parse_credentials;
use imagewatch_registry::egress::EgressRules;

/// Symbols that every encoding changes.
const PASSWORD: &str = "canary-basic-~?>/+&:9";
const TOKEN_PASSWORD: &str = "canary-realm-~?>/+&:9";
const IDENTITY: &str = "canary-identity-~?>/+&:9";
const REGISTRY_TOKEN: &str = "canary-registry-token-9";
/// What the policy itself gets, for the realm's credential and for the identity token.
const BEARERS: [&str; 2] = ["bearer-for-a-password", "bearer-for-an-identity"];
const MOMENTS: u64 = 16;

/// Registries that take one kind of credential each, and who remember whether they saw it.
struct Registries {
    basic: MockServer,
    token: MockServer,
    identity: MockServer,
    bearer: MockServer,
}

fn basic_of(login: &str) -> String {
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(login))
}

/// A registry that shows its image to who sends `authorization`, and else asks as `challenge` says.
async fn registry(authorization: &str, challenge: impl Fn(&str) -> String) -> MockServer {
    let server = MockServer::start().await;
    let digest = format!("sha256:{}", "a".repeat(64));
    let found = ResponseTemplate::new(200).insert_header("docker-content-digest", digest);
    let refused = ResponseTemplate::new(401).insert_header("www-authenticate", challenge(&server.uri()));
    let head = || Mock::given(method("HEAD"));
    head().and(header("authorization", authorization)).respond_with(found).with_priority(1).mount(&server).await;
    head().respond_with(refused).mount(&server).await;
    server
}

fn basic_challenge(_: &str) -> String {
    "Basic realm=\"it\"".to_owned()
}

fn bearer_challenge(uri: &str) -> String {
    format!("Bearer realm=\"{uri}/token\",service=\"it\"")
}

fn token(value: &str) -> ResponseTemplate {
    ResponseTemplate::new(200).set_body_json(serde_json::json!({ "token": value, "expires_in": 300 }))
}

impl Registries {
    async fn start() -> Self {
        let bearers = BEARERS.map(|bearer| format!("Bearer {bearer}"));
        let it = Self {
            basic: registry(&basic_of(&format!("me:{PASSWORD}")), basic_challenge).await,
            token: registry(&bearers[0], bearer_challenge).await,
            identity: registry(&bearers[1], bearer_challenge).await,
            // A ready token goes where a registry asks for the credential itself.
            bearer: registry(&format!("Bearer {REGISTRY_TOKEN}"), basic_challenge).await,
        };
        let login = header("authorization", basic_of(&format!("me:{TOKEN_PASSWORD}")).as_str());
        let ask = Mock::given(method("GET")).and(path("/token")).and(login);
        ask.respond_with(token(BEARERS[0])).expect(1..).mount(&it.token).await;
        let form: String =
            url::form_urlencoded::Serializer::new(String::new()).append_pair("refresh_token", IDENTITY).finish();
        let ask = Mock::given(method("POST")).and(path("/token")).and(body_string_contains(form));
        ask.respond_with(token(BEARERS[1])).expect(1..).mount(&it.identity).await;
        it
    }

    fn hosts(&self) -> [String; 4] {
        [&self.basic, &self.token, &self.identity, &self.bearer].map(|server| server.address().to_string())
    }

    /// The variables that hold the credentials.
    fn environment(&self) -> [(String, String); 3] {
        let [basic, token, identity, bearer] = self.hosts();
        let config = serde_json::json!({ "auths": {
            identity: { "identitytoken": IDENTITY }, bearer: { "registrytoken": REGISTRY_TOKEN },
        } });
        [
            ("IMAGEWATCH_CREDENTIAL_A".to_owned(), format!("{basic}=me:{PASSWORD}")),
            ("IMAGEWATCH_CREDENTIAL_B".to_owned(), format!("{token}=me:{TOKEN_PASSWORD}")),
            ("DOCKER_AUTH_CONFIG".to_owned(), config.to_string()),
        ]
    }

    fn manifest(&self) -> PluginManifest {
        let images = self.hosts().map(|host| format!("{host}/org/the-image:latest")).join(" ");
        let text = serde_json::json!({ "wasm": [{ "path": "none" }], "allowed_hosts": self.hosts(),
            "config": { "images": images, "grant.images": "*", "grant.containers": "*" } });
        let manifest = PluginManifest::parse("apps", "(test)", &text.to_string(), &|_| None);
        manifest.expect("a good manifest").with_embedded()
    }
}

/// The secrets, in each form in which one could show.
fn needles() -> Vec<String> {
    let secrets = [PASSWORD, TOKEN_PASSWORD, IDENTITY, REGISTRY_TOKEN];
    let forms = secrets.iter().flat_map(|secret| {
        let login = format!("me:{secret}");
        let percent: String = url::form_urlencoded::byte_serialize(secret.as_bytes()).collect();
        let coded = [*secret, &login].map(|text| [STANDARD_NO_PAD.encode(text), URL_SAFE_NO_PAD.encode(text)]);
        coded.into_iter().flatten().chain([(*secret).to_owned(), percent]).collect::<Vec<_>>()
    });
    forms.collect()
}

/// An engine with a container for each image, so that there is something to compare.
async fn engine(hosts: &[String]) -> MemoryEngine {
    let engine = MemoryEngine::new();
    for (index, host) in hosts.iter().enumerate() {
        let image = format!("{host}/org/the-image:latest");
        engine.add_image(&image, &serde_json::json!({ "Id": format!("id-{index}"), "RepoDigests": [] }));
        engine.add_container(&format!("web-{index}"), &image, serde_json::json!({}), true).await;
    }
    engine
}

#[tokio::test(flavor = "multi_thread")]
async fn no_credential_is_in_the_policys_memory_at_any_moment_of_a_poll() {
    let registries = Registries::start().await;
    let manifest = Arc::new(registries.manifest());
    let plugin = Arc::new(load(&manifest).expect("the policy loads"));
    let adapters = Adapters {
        engine: Arc::new(engine(&registries.hosts()).await),
        http: Arc::new(HttpClient::new(&HttpSettings::default()).expect("a client")),
        credentials: Arc::new(parse_credentials(registries.environment()).expect("good credentials")),
        store: Arc::new(Store::in_memory()),
        cancel: CancellationToken::new(),
    };
    let rules = EgressRules::parse(&manifest.allowed_hosts, "loopback", "").expect("good rules");
    let effects = GrantedHost::new(manifest.clone(), plugin, rules, adapters, Arc::default());
    let effects = Arc::new(effects);
    let input = PollInput { now_ms: now_ms(), ..PollInput::default() };
    let input = serde_json::to_vec(&input).expect("it is JSON");
    let poll = async |fuel: u64| -> Dumped {
        let (manifest, effects, input) = (manifest.clone(), effects.clone(), input.clone());
        let polled = tokio::task::spawn_blocking(move || poll_and_dump(&manifest, fuel, &input, effects));
        polled.await.expect("no panic")
    };

    let whole = poll(u64::MAX / 2).await;
    let output: PollOutput =
        serde_json::from_slice(whole.output.as_deref().expect("it ends")).expect("a poll's output");
    let verdicts: Vec<Verdict> = output.outcomes.iter().map(|outcome| outcome.verdict).collect();
    assert_eq!(verdicts, [Verdict::Seeded; 4], "every registry let it in: {output:?}");
    let (needles, whole_fuel, mut with_bearers) = (needles(), whole.fuel, 0);
    let moments = (0..MOMENTS).map(|moment| whole_fuel * (20 + 79 * moment / (MOMENTS - 1)) / 100);
    let mut dumps = vec![whole];
    for fuel in moments {
        let dump = poll(fuel).await;
        assert!(dump.output.is_none() && dump.fuel == fuel, "{} of {fuel} used", dump.fuel);
        dumps.push(dump);
    }
    for dump in &dumps {
        assert!(dump.memory.contains("org/the-image"), "what is dumped is the memory of this poll");
        with_bearers += usize::from(BEARERS.iter().all(|bearer| dump.memory.contains(bearer)));
        for needle in &needles {
            assert!(!dump.memory.contains(needle.as_str()), "{needle} is in it with {} of fuel", dump.fuel);
        }
    }
    assert!((2..=dumps.len()).contains(&with_bearers), "late ones have what came back: {with_bearers}");
}
