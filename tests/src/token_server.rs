//! A token server for tests, according to distribution's `docs/spec/auth/token.md`: GET, Basic users and anonymous
//! pulls. It records its requests. The registry trusts its certificate.
//!
//! The server uses axum, because the host depends on it anyway. Tokens are ES256 instead of RS256. docker-registry
//! accepts both, and only an ES256 key can be created without another crate.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::routing::get;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::unique::random_hex;

/// The `service` of every token.
pub const SERVICE: &str = "registry.test";
/// The `iss` of every token.
pub const ISSUER: &str = "imagewatch-tests";

/// Which clients get a token.
#[derive(Debug, Clone)]
pub struct TokenPolicy {
    /// Passwords by user name. A user gets all requested actions.
    pub users: BTreeMap<String, String>,
    /// Whether a request without credentials gets a token for pulls. Otherwise, it gets 401.
    pub is_anonymous_allowed: bool,
    /// The lifetime of a token in seconds.
    pub expires_in_s: u64,
}

/// One request to the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRequest {
    /// The first `service`, if present.
    pub service: Option<String>,
    /// All `scope` values, in order.
    pub scopes: Vec<String>,
    /// The user name of the Basic auth, whether the password was right or not. `None` without Basic auth.
    pub user: Option<String>,
    /// The status of the answer.
    pub status: u16,
}

/// A running server. Dropping it stops it. It lives in the runtime of the test that started it.
#[derive(Debug)]
pub struct TokenServer {
    realm: String,
    signer: Arc<TokenSigner>,
    requests: Arc<Mutex<Vec<TokenRequest>>>,
    task: JoinHandle<()>,
}

#[derive(Clone)]
struct Shared {
    policy: Arc<TokenPolicy>,
    signer: Arc<TokenSigner>,
    requests: Arc<Mutex<Vec<TokenRequest>>>,
}

impl TokenServer {
    /// Starts the server on a free loopback port with a new key.
    pub async fn start(policy: TokenPolicy) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let realm = format!("http://{}/token", listener.local_addr().expect("a bound socket has an address"));
        let signer = Arc::new(TokenSigner::generate());
        let requests = Arc::<Mutex<Vec<TokenRequest>>>::default();
        let shared = Shared { policy: Arc::new(policy), signer: Arc::clone(&signer), requests: Arc::clone(&requests) };
        let router = axum::Router::new().route("/token", get(answer)).with_state(shared);
        let task = tokio::spawn(async move { axum::serve(listener, router).await.expect("axum::serve never fails") });
        Self { realm, signer, requests, task }
    }

    /// The URL for a challenge.
    pub fn realm(&self) -> &str {
        &self.realm
    }

    /// The `host:port` of the realm.
    pub fn host(&self) -> &str {
        self.realm.trim_start_matches("http://").trim_end_matches("/token")
    }

    /// All requests so far, in order.
    pub fn requests(&self) -> Vec<TokenRequest> {
        self.requests.lock().expect("no handler panics").clone()
    }

    /// The signer, which creates tokens without a request.
    pub fn signer(&self) -> &Arc<TokenSigner> {
        &self.signer
    }
}

impl Drop for TokenServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(State(shared): State<Shared>, RawQuery(query): RawQuery, headers: HeaderMap) -> (StatusCode, String) {
    let query = query.unwrap_or_default();
    let values = |key: &str| -> Vec<String> {
        let pairs = url::form_urlencoded::parse(query.as_bytes());
        pairs.filter(|(name, _)| name == key).map(|(_, value)| value.into_owned()).collect()
    };
    let scopes = values("scope");
    let basic = headers.get(header::AUTHORIZATION).map(|value| parse_basic(value.as_bytes()));
    let is_known = |(user, password): &(String, String)| shared.policy.users.get(user) == Some(password);
    let (status, body) = match &basic {
        Some(login) if is_known(login) => (StatusCode::OK, shared.token(&login.0, &scopes, false)),
        None if shared.policy.is_anonymous_allowed => (StatusCode::OK, shared.token("", &scopes, true)),
        _ => (StatusCode::UNAUTHORIZED, json!({"errors": [{"code": "UNAUTHORIZED"}]}).to_string()),
    };
    shared.requests.lock().expect("no handler panics").push(TokenRequest {
        service: values("service").into_iter().next(),
        scopes,
        user: basic.map(|(user, _)| user),
        status: status.as_u16(),
    });
    (status, body)
}

impl Shared {
    fn token(&self, user: &str, scopes: &[String], pull_only: bool) -> String {
        let access: Vec<_> = scopes.iter().filter_map(|scope| parse_scope(scope, pull_only)).collect();
        let token = self.signer.sign(user, &json!(access), self.policy.expires_in_s);
        json!({"token": token, "expires_in": self.policy.expires_in_s}).to_string()
    }
}

/// Parses `repository:a/b:pull,push` into an entry of a token's `access`. The name may contain colons.
fn parse_scope(scope: &str, pull_only: bool) -> Option<serde_json::Value> {
    let (kind, rest) = scope.split_once(':')?;
    let (name, actions) = rest.rsplit_once(':')?;
    let actions: Vec<_> = actions.split(',').filter(|action| !pull_only || *action == "pull").collect();
    Some(json!({"type": kind, "name": name, "actions": actions}))
}

/// Returns the user name and the password. Both are empty if the header is not Basic auth.
fn parse_basic(header: &[u8]) -> (String, String) {
    let text = String::from_utf8_lossy(header);
    let decoded = text.strip_prefix("Basic ").and_then(|encoded| STANDARD.decode(encoded).ok()).unwrap_or_default();
    let login = String::from_utf8_lossy(&decoded).into_owned();
    login.split_once(':').map(|(user, password)| (user.to_owned(), password.to_owned())).unwrap_or_default()
}

/// Signs tokens with a new key.
pub struct TokenSigner {
    key: EcdsaKeyPair,
    certificate_der: Vec<u8>,
    certificate_pem: String,
}

impl TokenSigner {
    fn generate() -> Self {
        let made = rcgen::generate_simple_self_signed(vec!["token-signer".to_owned()]).expect("ring makes P-256 keys");
        let pkcs8 = made.signing_key.serialize_der();
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &pkcs8, &SystemRandom::new())
            .expect("ring reads the key from rcgen");
        Self { key, certificate_der: made.cert.der().to_vec(), certificate_pem: made.cert.pem() }
    }

    /// The certificate for a registry's `rootcertbundle`.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// Issues a token that allows `user` to pull from and push to all `repositories` for five minutes.
    pub fn issue(&self, user: &str, repositories: &[&str]) -> String {
        let grant = |name: &&str| json!({"type": "repository", "name": name, "actions": ["pull", "push"]});
        self.sign(user, &repositories.iter().map(grant).collect(), 300)
    }

    fn sign(&self, user: &str, access: &serde_json::Value, expires_in_s: u64) -> String {
        let now_s = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970").as_secs();
        let header = json!({"typ": "JWT", "alg": "ES256", "x5c": [STANDARD.encode(&self.certificate_der)]});
        let claims = json!({
            "iss": ISSUER, "sub": user, "aud": SERVICE, "jti": random_hex(),
            "nbf": now_s, "iat": now_s, "exp": now_s + expires_in_s, "access": access,
        });
        let encode = |json: serde_json::Value| URL_SAFE_NO_PAD.encode(json.to_string());
        let signed = format!("{}.{}", encode(header), encode(claims));
        let signature = self.key.sign(&SystemRandom::new(), signed.as_bytes()).expect("the system gives randomness");
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

impl std::fmt::Debug for TokenSigner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TokenSigner")
    }
}
