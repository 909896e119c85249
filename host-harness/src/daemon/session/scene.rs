//! A policy written inline, at work in a world of its own, for tests of what policies do and of what is done with them.

use serde_json::json;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use wiremock::matchers::any;
use wiremock::{Mock, MockServer, ResponseTemplate};

use super::*;
use crate::daemon::effects::Adapters;
use imagewatch_engine::testing::MemoryEngine;
use imagewatch_policy::inline::Inline;
use imagewatch_policy::{LoadedPlugin, StateKeeping, load};
use imagewatch_registry::client::{HttpClient, HttpSettings};
use imagewatch_registry::credentials::env::parse_credentials;
use imagewatch_registry::credentials::store::CredentialStore;
use imagewatch_registry::egress::EgressRules;

/// What no policy may ever see.
pub(crate) const SECRET: &str = "the-canary";

/// A policy at work beside an engine with one container, a registry that is allowed, and a credential for another.
pub(crate) struct Scene {
    pub(crate) session: Session,
    pub(crate) effects: Arc<GrantedHost>,
    pub(crate) record: Arc<Record>,
    pub(crate) engine: Arc<MemoryEngine>,
    pub(crate) registry: MockServer,
}

impl Scene {
    /// The word `REGISTRY` in the policy's poll is the address of the registry.
    pub(crate) async fn new(policy: &Inline, more: &[(&str, &str)]) -> Self {
        Self::with_hosts(policy, &["REGISTRY"], more).await
    }

    /// The same with `allowed_hosts`, in which `REGISTRY` is the address of the registry.
    pub(crate) async fn with_hosts(policy: &Inline, allowed_hosts: &[&str], more: &[(&str, &str)]) -> Self {
        let registry = MockServer::start().await;
        let poll = policy.poll.replace("REGISTRY", &registry.address().to_string());
        let policy = Inline { poll, ..policy.clone() };
        Mock::given(any())
            .respond_with(ResponseTemplate::new(200).set_body_string("x".repeat(100)))
            .mount(&registry)
            .await;
        let folder = TempDir::new().expect("a folder");
        let path = folder.path().join("hostile.wasm");
        std::fs::write(&path, policy.build()).expect("a file");
        let mut config = json!({"host.allow_unhashed": "true", "host.fuel": "50000000", "grant.images": "ok.io/*",
            "grant.containers": "name:ok-*", "grant.strategies": "replace start-first remove pull-only notify"});
        for (key, value) in more {
            config[*key] = json!(value);
        }
        let hosts: Vec<String> =
            allowed_hosts.iter().map(|host| host.replace("REGISTRY", &registry.address().to_string())).collect();
        let text = json!({"wasm": [{"path": path}], "allowed_hosts": hosts, "config": config}).to_string();
        let manifest = PluginManifest::parse("hostile", "(test)", &text, &|_| None).expect("a good manifest");
        let plugin = Arc::new(load(&manifest).expect("it loads"));
        let manifest = Arc::new(manifest);
        let engine = Arc::new(MemoryEngine::new());
        engine.add_image("ok.io/a:latest", &json!({"Id": "one", "RepoDigests": []}));
        engine.add_container("victim", "ok.io/a:latest", json!({}), true).await;
        let variable = ("IMAGEWATCH_CREDENTIAL_X".to_owned(), format!("secret.io=alice:{SECRET}"));
        let store = Arc::new(Store::in_memory());
        let adapters = Adapters {
            engine: engine.clone(),
            http: Arc::new(HttpClient::new(&HttpSettings::default()).expect("a client")),
            credentials: Arc::new(parse_credentials([variable]).expect("a credential")),
            store: store.clone(),
            cancel: CancellationToken::new(),
        };
        let record = Arc::new(Record::default());
        let rules = EgressRules::over(plugin.grants.hosts().clone(), &manifest.host.insecure_registries, "")
            .expect("good rules");
        let effects = GrantedHost::new(manifest.clone(), plugin.clone(), rules, adapters, record.clone());
        let effects = Arc::new(effects);
        let session = Session::new(manifest, plugin, effects.clone(), store, record.clone(), StateKeeping::Persisted);
        Self { session, effects, record, engine, registry }
    }
}

/// What `plugin` gets of the grants of `manifest`, on an engine without containers and without any credential.
pub(crate) fn effects_of(
    manifest: &Arc<PluginManifest>,
    plugin: &Arc<LoadedPlugin>,
    store: &Arc<Store>,
) -> Arc<GrantedHost> {
    let rules = EgressRules::parse(&manifest.allowed_hosts, "loopback", "").expect("good rules");
    let adapters = Adapters {
        engine: Arc::new(MemoryEngine::new()),
        http: Arc::new(HttpClient::new(&HttpSettings::default()).expect("a client")),
        credentials: Arc::new(CredentialStore::default()),
        store: store.clone(),
        cancel: CancellationToken::new(),
    };
    Arc::new(GrantedHost::new(manifest.clone(), plugin.clone(), rules, adapters, Arc::default()))
}

/// A session of the policy of `manifest` over [`effects_of`].
pub(crate) fn session_of(manifest: Arc<PluginManifest>) -> Session {
    let plugin = Arc::new(load(&manifest).expect("the policy loads"));
    let store = Arc::new(Store::in_memory());
    let effects = effects_of(&manifest, &plugin, &store);
    Session::new(manifest, plugin, effects, store, Arc::default(), StateKeeping::Memory)
}
