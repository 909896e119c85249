//! Fake private registries, one for each source of credentials. Each one checks for its secret, and can fail in several
//! ways. A failing registry also sends back everything that it received.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use imagewatch_tests::plugin_manifest::PluginManifest;
use imagewatch_tests::wait::wait_for;
use serde_json::{Value, json};
use wiremock::matchers::any;
use wiremock::{Mock, MockServer, Request, ResponseTemplate};

use super::search::forms;

/// This registry is reachable only through a proxy, which answers for it.
const ECR: &str = "123456789012.dkr.ecr.us-east-1.amazonaws.com";
const USER: &str = "me";
/// The keys for AWS. The second one is never sent; it only signs.
const AWS: [&str; 3] = ["AKIACANARY000000KEY1", "canary~aws~secret/+0020", "canary~aws~session/+0021"];
/// In the address of the proxy.
const PROXY: &str = "canary-proxy-0022";

/// The behaviour of all registries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Well,
    ServerError,
    Garbage,
    Elsewhere,
    Slow,
    Forbidden,
    Unauthorized,
}

impl Mode {
    pub(super) const FAILURES: [Self; 6] =
        [Self::ServerError, Self::Garbage, Self::Elsewhere, Self::Slow, Self::Forbidden, Self::Unauthorized];
    const ALL: [Self; 7] = [
        Self::Well,
        Self::ServerError,
        Self::Garbage,
        Self::Elsewhere,
        Self::Slow,
        Self::Forbidden,
        Self::Unauthorized,
    ];
}

/// How a registry expects its credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Basic,
    /// In exchange for a token, by GET.
    Token,
    /// In exchange for a token, by POST.
    Identity,
    /// Sent unchanged.
    Bearer,
}

/// One registry and its secret.
struct Source {
    name: &'static str,
    kind: Kind,
    secret: String,
    server: MockServer,
}

/// All registries.
pub(super) struct Registries {
    sources: Vec<Source>,
    aws: MockServer,
    elsewhere: MockServer,
    mode: Arc<AtomicUsize>,
    folder: PathBuf,
}

const SOURCES: [(&str, Kind); 10] = [
    ("variable", Kind::Basic),
    ("file", Kind::Token),
    ("ghcr", Kind::Basic),
    ("auth-config", Kind::Basic),
    ("config", Kind::Token),
    ("helper", Kind::Basic),
    ("identity", Kind::Identity),
    ("registry-token", Kind::Bearer),
    ("containers", Kind::Token),
    ("ecr", Kind::Basic),
];

impl Source {
    /// The text that the registry must receive in a header or a body.
    fn on_the_wire(&self) -> String {
        wire(self.kind, &self.secret)
    }

    fn host(&self) -> String {
        if self.name == "ecr" { ECR.to_owned() } else { self.server.address().to_string() }
    }

    fn entry(&self) -> Value {
        match self.kind {
            Kind::Identity => json!({ "identitytoken": self.secret }),
            Kind::Bearer => json!({ "registrytoken": self.secret }),
            Kind::Basic | Kind::Token => json!({ "auth": STANDARD.encode(format!("{USER}:{}", self.secret)) }),
        }
    }
}

fn wire(kind: Kind, secret: &str) -> String {
    match kind {
        Kind::Basic | Kind::Token => format!("Basic {}", STANDARD.encode(format!("{USER}:{secret}"))),
        Kind::Identity => url::form_urlencoded::byte_serialize(secret.as_bytes()).collect(),
        Kind::Bearer => format!("Bearer {secret}"),
    }
}

fn bearer(name: &str) -> String {
    format!("canary~bearer~for~{name}")
}

/// Whether an engine sent this request. Docker with the containerd store (seen with 28.5.2) also sends the login of a
/// pull to the target of a redirect. A client of Docker cannot prevent this.
fn is_of_engine(sent: &str) -> bool {
    sent.contains("user-agent: docker/")
}

/// The headers and the body as one text.
fn sent(request: &Request) -> String {
    let headers =
        request.headers.iter().map(|(name, value)| format!("{name}: {}\n", String::from_utf8_lossy(value.as_bytes())));
    headers.collect::<String>() + &String::from_utf8_lossy(&request.body)
}

/// The answer of the registry with the name `name`.
fn answer(request: &Request, name: &str, kind: Kind, wire: &str, mode: Mode, elsewhere: &str) -> ResponseTemplate {
    let sent = sent(request);
    let echo = json!({ "errors": [{ "code": "DENIED", "message": sent, "detail": sent }], "details": sent });
    let one_line = sent.replace('\n', " ");
    let realm = request.headers.get("host").map_or("", |host| host.to_str().unwrap_or_default());
    let challenge = match kind {
        // A ready token is used where a registry asks for the credential itself.
        Kind::Basic | Kind::Bearer => "Basic realm=\"it\"".to_owned(),
        Kind::Token | Kind::Identity => format!("Bearer realm=\"http://{realm}/token\",service=\"it\""),
    };
    let digest = format!("sha256:{}", "a".repeat(64));
    match mode {
        Mode::Well | Mode::Slow => {
            let delay = if mode == Mode::Slow { Duration::from_secs(3) } else { Duration::ZERO };
            let bearer = format!("Bearer {}", bearer(name));
            let is_login = request.url.path() == "/token";
            let wanted = if is_login || matches!(kind, Kind::Basic | Kind::Bearer) { wire } else { &bearer };
            let answer = match (sent.contains(wanted), is_login) {
                (true, true) => ResponseTemplate::new(200)
                    .set_body_json(json!({ "token": bearer["Bearer ".len()..], "expires_in": 60 })),
                (true, false) => ResponseTemplate::new(200).insert_header("docker-content-digest", digest),
                (false, _) => ResponseTemplate::new(401).insert_header("www-authenticate", challenge),
            };
            answer.set_delay(delay)
        }
        Mode::ServerError => ResponseTemplate::new(500).set_body_json(echo),
        Mode::Garbage => {
            ResponseTemplate::new(200).insert_header("docker-content-digest", one_line).set_body_string(sent)
        }
        Mode::Elsewhere => {
            ResponseTemplate::new(307).insert_header("location", format!("{elsewhere}{}", request.url.path()))
        }
        Mode::Forbidden => ResponseTemplate::new(403).set_body_json(echo),
        Mode::Unauthorized => {
            ResponseTemplate::new(401).insert_header("www-authenticate", challenge).set_body_json(echo)
        }
    }
}

impl Registries {
    /// Starts all registries, and writes the files with their credentials into `folder`.
    pub(super) async fn start(folder: &Path) -> Self {
        let (elsewhere, aws) = (MockServer::start().await, MockServer::start().await);
        Mock::given(any()).respond_with(ResponseTemplate::new(404)).mount(&elsewhere).await;
        let mode = Arc::new(AtomicUsize::new(0));
        let mut sources = Vec::new();
        for (index, (name, kind)) in SOURCES.into_iter().enumerate() {
            let server = MockServer::start().await;
            // A token for a registry is sent unchanged. In the other secrets, every encoding changes a character.
            let symbols = if kind == Kind::Bearer { "" } else { "?>/+&:" };
            let secret = format!("canary~{name}{symbols}{index:04}");
            let (wire, mode, elsewhere) = (wire(kind, &secret), Arc::clone(&mode), elsewhere.uri());
            let respond = move |request: &Request| {
                answer(request, name, kind, &wire, Mode::ALL[mode.load(Ordering::Relaxed)], &elsewhere)
            };
            Mock::given(any()).respond_with(respond).mount(&server).await;
            sources.push(Source { name, kind, secret, server });
        }
        let it = Self { sources, aws, elsewhere, mode, folder: folder.to_owned() };
        let token = STANDARD.encode(format!("{USER}:{}", it.source("ecr").secret));
        let data = json!({ "authorizationData": [{ "authorizationToken": token, "expiresAt": 4_000_000_000_u64 }] });
        Mock::given(any()).respond_with(ResponseTemplate::new(200).set_body_json(data)).mount(&it.aws).await;
        it.write_files();
        it
    }

    fn source(&self, name: &str) -> &Source {
        self.sources.iter().find(|source| source.name == name).expect("the source exists")
    }

    fn path(&self, name: &str) -> String {
        self.folder.join(name).to_str().expect("the temp folder's name is text").to_owned()
    }

    fn write_files(&self) {
        let auths = |names: &[&str]| {
            let entries = names.iter().map(|name| (self.source(name).host(), self.source(name).entry()));
            json!({ "auths": entries.collect::<serde_json::Map<_, _>>() })
        };
        let mut config = auths(&["config", "identity", "registry-token"]);
        config["credHelpers"] = json!({ self.source("helper").host(): "canary" });
        let write = |name: &str, text: String| fs::write(self.path(name), text).expect("the folder is writable");
        write("config.json", config.to_string());
        write("auth.json", auths(&["containers"]).to_string());
        write("password", format!("{}\n", self.source("file").secret));
        let helper = json!({ "Username": USER, "Secret": self.source("helper").secret });
        write("docker-credential-canary", format!("#!/bin/sh\ncat >/dev/null\ncat <<'END'\n{helper}\nEND\n"));
        let executable = fs::Permissions::from_mode(0o755);
        fs::set_permissions(self.path("docker-credential-canary"), executable).expect("the file's mode can be changed");
    }

    /// The environment variables that contain the credentials or refer to them.
    pub(super) fn environment(&self) -> Vec<(String, String)> {
        let given = |name: &str| format!("{}={USER}:{}", self.source(name).host(), self.source(name).secret);
        let auth_config = json!({ "auths": { self.source("auth-config").host(): self.source("auth-config").entry() } });
        let proxy = self.source("ecr").server.address();
        let set = [
            ("IMAGEWATCH_CREDENTIAL_ONE", given("variable")),
            (
                "IMAGEWATCH_CREDENTIAL_TWO_FILE",
                format!("{}={USER}:{}", self.source("file").host(), self.path("password")),
            ),
            ("GHCR_USER", USER.to_owned()),
            ("GHCR_TOKEN", self.source("ghcr").secret.clone()),
            ("MOLECULE_IMAGE_REGISTRY", format!("{}/org", self.source("ghcr").host())),
            ("DOCKER_AUTH_CONFIG", auth_config.to_string()),
            ("DOCKER_CONFIG", self.folder.display().to_string()),
            ("REGISTRY_AUTH_FILE", self.path("auth.json")),
            ("PATH", format!("{}:/usr/bin:/bin", self.folder.display())),
            ("AWS_ACCESS_KEY_ID", AWS[0].to_owned()),
            ("AWS_SECRET_ACCESS_KEY", AWS[1].to_owned()),
            ("AWS_SESSION_TOKEN", AWS[2].to_owned()),
            ("AWS_ENDPOINT_URL_ECR", self.aws.uri()),
            ("HTTP_PROXY", format!("http://{USER}:{PROXY}@{proxy}")),
        ];
        set.map(|(name, value)| (name.to_owned(), value)).to_vec()
    }

    /// Adds one image of each registry to the manifest.
    pub(super) fn manifest(&self, manifest: PluginManifest) -> PluginManifest {
        let hosts: Vec<String> = self.sources.iter().map(Source::host).collect();
        let images: Vec<String> = hosts.iter().map(|host| format!("{host}/org/app:latest")).collect();
        let manifest = hosts.iter().fold(manifest, |manifest, host| manifest.allow_host(host));
        manifest
            .config("images", &images.join(" "))
            .config("grant.images", "*")
            .config("host.insecure_registries", &format!("loopback {ECR}"))
            .config("host.http_timeout", "1s")
    }

    pub(super) fn count(&self) -> usize {
        self.sources.len()
    }

    /// All secrets, and the tokens that the registries issued for some of them.
    pub(super) fn secrets(&self) -> Vec<String> {
        let own = self.sources.iter().map(|source| source.secret.clone());
        let bearers = self.sources.iter().map(|source| bearer(source.name));
        own.chain(bearers).chain(AWS.into_iter().chain([PROXY]).map(str::to_owned)).collect()
    }

    pub(super) fn set_mode(&self, mode: Mode) {
        let index = Mode::ALL.iter().position(|known| *known == mode).expect("the mode is in the list");
        self.mode.store(index, Ordering::Relaxed);
    }

    /// Waits until every secret that is sent has reached its registry.
    pub(super) async fn wait_until_all_seen(&self, deadline: Duration) {
        let mut wanted: Vec<_> = self.sources.iter().map(|source| (&source.server, source.on_the_wire())).collect();
        let of_proxy = format!("Basic {}", STANDARD.encode(format!("{USER}:{PROXY}")));
        wanted.push((&self.source("ecr").server, of_proxy));
        wanted.extend([AWS[0], AWS[2]].map(|key| (&self.aws, key.to_owned())));
        let tokens = self.sources.iter().filter(|source| matches!(source.kind, Kind::Token | Kind::Identity));
        wanted.extend(tokens.map(|source| (&source.server, format!("Bearer {}", bearer(source.name)))));
        wait_for("every secret to be used", deadline, || async {
            let mut missing = Vec::new();
            for (server, text) in &wanted {
                let requests = server.received_requests().await.expect("requests are recorded");
                if !requests.iter().any(|request| sent(request).contains(text)) {
                    missing.push(format!("{text} at {} among {}", server.uri(), requests.len()));
                }
            }
            if missing.is_empty() { Ok(()) } else { Err(missing) }
        })
        .await;
    }

    /// The secrets that the program sent to a host that is not allowed.
    pub(super) async fn seen_elsewhere(&self) -> Vec<String> {
        let requests = self.elsewhere.received_requests().await.expect("requests are recorded");
        let texts: Vec<String> = requests.iter().map(sent).filter(|text| !is_of_engine(text)).collect();
        let is_seen = |secret: &String| forms(secret).iter().any(|form| texts.iter().any(|text| text.contains(form)));
        self.secrets().into_iter().filter(is_seen).collect()
    }
}
