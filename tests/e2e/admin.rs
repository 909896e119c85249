//! Tests the admin API and the shipped workspaces manifest, which must behave like the seed system.

use imagewatch_abi::Digest;
use imagewatch_tests::components;
use imagewatch_tests::engine::RunSpec;
use imagewatch_tests::http_client::build_client;
use imagewatch_tests::image::ImageSpec;
use imagewatch_tests::process::{Process, Signal};
use imagewatch_tests::program::start_imagewatch;
use imagewatch_tests::proxy::Proxy;
use serde_json::json;

use crate::stage::{ADMIN_TOKEN, Daemon, SHORT_TIMEOUT, Stage, answer_of, watch_with};

const RUNTIMES: [&str; 9] =
    ["autogen", "claude-code", "codex", "crewai", "deepagents", "gemini-cli", "hermes", "langgraph", "openclaw"];

/// A scenario with the shipped manifest. It has images for only two of the nine runtimes: `codex` and `langgraph`.
struct Workspaces {
    stage: Stage,
    prefix: String,
}

impl Workspaces {
    async fn new() -> Self {
        let stage = Stage::new().await;
        let prefix = format!("{}/{}", stage.registry.host(), stage.scope.name("org"));
        let workspaces = Self { stage, prefix };
        workspaces.push("codex", "v1").await;
        workspaces.push("langgraph", "v1").await;
        workspaces
    }

    async fn push(&self, runtime: &str, version: &str) -> Digest {
        let repository = format!("{}/workspace-template-{runtime}", self.stage.scope.name("org"));
        let spec = ImageSpec::sleeper(&self.stage.scope.name(version));
        self.stage.registry.target().push(&repository, "latest", &spec).await
    }

    fn image(&self, runtime: &str) -> String {
        format!("{}/workspace-template-{runtime}:latest", self.prefix)
    }

    async fn run(&self, role: &str, runtime: &str) -> String {
        self.stage.run_as(role, RunSpec { image: self.image(runtime), ..RunSpec::default() }).await
    }

    /// Writes the shipped manifest with the plugin of this build.
    fn manifest(&self) -> std::path::PathBuf {
        let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/../manifests/workspaces.json");
        let text = std::fs::read_to_string(shipped).expect("the manifest can be read");
        let wasm = components::plugin_wasm();
        let path = self.stage.folder.path().join("workspaces.json");
        let text = text.replace("target/plugin/imagewatch.wasm", wasm.to_str().expect("the path is UTF-8"));
        std::fs::write(&path, text).expect("the folder is writable");
        path
    }

    fn watch(&self, docker_host: &str, auto_refresh: &str) -> Daemon {
        let envs = [("MOLECULE_IMAGE_REGISTRY", self.prefix.as_str()), ("IMAGE_AUTO_REFRESH", auto_refresh)];
        watch_with(docker_host, &[self.manifest()], &envs)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_workspaces_endpoint_gives_three_kinds_of_answers() {
    let workspaces = Workspaces::new().await;
    let stage = &workspaces.stage;
    workspaces.run("ws-1", "codex").await;
    workspaces.run("ws-2", "langgraph").await;
    workspaces.run("other", "codex").await;
    let proxy = Proxy::to_engine(stage.scope.engine().host()).await;
    let daemon = workspaces.watch(&proxy.host(), "false");

    let (status, body) = daemon.post("/admin/workspace-images/refresh?runtime=cobol").await;
    assert_eq!((status, body), (400, json!({"error": "unknown runtime: cobol", "known_runtimes": RUNTIMES})));

    let url = "/admin/workspace-images/refresh?runtime=codex&recreate=false";
    assert_eq!(daemon.post(url).await, (200, json!({"pulled": ["codex"], "failed": [], "recreated": []})));

    let (status, body) = daemon.post("/admin/workspace-images/refresh?runtime=codex").await;
    let recreated = [stage.scope.name("ws-1")];
    assert_eq!((status, body), (200, json!({"pulled": ["codex"], "failed": [], "recreated": recreated})));
    assert_eq!(stage.containers().await, [stage.scope.name("other"), stage.scope.name("ws-2")]);

    let (status, body) = daemon.post("/admin/workspace-images/refresh").await;
    assert_eq!((status, &body["pulled"]), (200, &json!(["codex", "langgraph"])));
    let failed: Vec<&str> = RUNTIMES.into_iter().filter(|name| !["codex", "langgraph"].contains(name)).collect();
    assert_eq!((&body["failed"], &body["recreated"]), (&json!(failed), &json!([stage.scope.name("ws-2")])));

    let hold = proxy.hold("/containers/json");
    let url = daemon.admin_url("/admin/workspace-images/refresh?runtime=codex").await;
    let seen = proxy.count("/containers/json");
    let asked = tokio::spawn(answer_of(build_client().post(url).bearer_auth(ADMIN_TOKEN)));
    imagewatch_tests::wait::wait_for("the container list to be requested", SHORT_TIMEOUT, || async {
        let now = proxy.count("/containers/json");
        if now > seen { Ok(()) } else { Err(now) }
    })
    .await;
    proxy.cut().await;
    drop(hold);
    let (status, body) = asked.await.expect("the request task does not panic");
    assert_eq!((status, &body["partial_result"]), (500, &json!({"pulled": ["codex"], "failed": [], "recreated": []})));
    assert!(body["error"].as_str().is_some_and(|error| !error.is_empty()), "{body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_admin_api_needs_a_token_except_for_health() {
    let workspaces = Workspaces::new().await;
    let daemon = workspaces.watch(workspaces.stage.scope.engine().host(), "false");
    let url = daemon.admin_url("/admin/workspace-images/refresh").await;
    for request in [build_client().post(&url), build_client().post(&url).bearer_auth("wrong")] {
        let (status, body) = answer_of(request).await;
        assert_eq!(status, 401, "{body}");
    }
    for path in ["/healthz", "/readyz"] {
        let (status, body) = answer_of(build_client().get(daemon.admin_url(path).await)).await;
        assert_eq!(status, 200, "{path}: {body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn image_auto_refresh_false_disables_polling_with_a_log_line() {
    let workspaces = Workspaces::new().await;
    let proxy = Proxy::to_registry(&workspaces.stage.registry.host()).await;
    let prefix = format!("{}/org", proxy.host());
    for value in ["false", "", "0", "no"] {
        let envs = [("MOLECULE_IMAGE_REGISTRY", prefix.as_str()), ("IMAGE_AUTO_REFRESH", value)];
        let daemon = watch_with(workspaces.stage.scope.engine().host(), &[workspaces.manifest()], &envs);
        let line = daemon.wait_for_line("polling is off").await;
        assert!(line.contains("`enabled`") && line.contains("IMAGE_AUTO_REFRESH"), "{line}");
        daemon.stop().await;
    }
    assert_eq!(proxy.requests(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn image_auto_refresh_true_seeds_and_replaces_moved_images() {
    let workspaces = Workspaces::new().await;
    let stage = &workspaces.stage;
    workspaces.run("ws-1", "codex").await;
    let daemon = workspaces.watch(stage.scope.engine().host(), "true");
    daemon.wait_for_line("codex: first seen at sha256:").await;
    daemon.wait_for_line("autogen: failed to look up: ").await;
    daemon.stop().await;
    // The shipped interval is five minutes. A copy with a shorter interval notices the move in time.
    let path = workspaces.manifest();
    let text = std::fs::read_to_string(&path).expect("just written").replace("\"5m\"", "\"200ms\"");
    std::fs::write(&path, text).expect("the folder is writable");
    let envs = [("MOLECULE_IMAGE_REGISTRY", workspaces.prefix.as_str()), ("IMAGE_AUTO_REFRESH", "true")];
    let daemon = watch_with(stage.scope.engine().host(), &[path], &envs);
    daemon.wait_for_line("codex: first seen at sha256:").await;
    workspaces.push("codex", "v2").await;
    daemon.wait_for_line(&format!("codex: pulled, recreated {}", stage.scope.name("ws-1"))).await;
    assert_eq!(stage.containers().await, Vec::<String>::new());
}

fn start_on(stage: &Stage, address: &str, envs: &[(&str, &str)]) -> Process {
    let manifest = stage.write(&stage.manifest().config("images", &stage.image("web")), "own");
    let args = ["run", "--admin-listen", address].map(std::ffi::OsStr::new);
    start_imagewatch(stage.scope.engine().host(), args.into_iter().chain([manifest.as_os_str()]), envs)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_admin_api_needs_a_token_to_listen_beyond_loopback() {
    let stage = Stage::new().await;
    let mut refused = start_on(&stage, "0.0.0.0:0", &[]);
    assert_eq!(refused.wait_exit(SHORT_TIMEOUT).await, Some(6), "{:?}", refused.lines());
    refused.wait_for_line("IMAGEWATCH_ADMIN_TOKEN", SHORT_TIMEOUT).await;
    let mut daemon = start_on(&stage, "127.0.0.1:0", &[]);
    let line = daemon.wait_for_line("admin API listens", SHORT_TIMEOUT).await;
    let taken = line.rsplit_once("address=").expect("the line contains the address").1.trim().to_owned();
    let mut second = start_on(&stage, &taken, &[]);
    assert_eq!(second.wait_exit(SHORT_TIMEOUT).await, Some(6), "{:?}", second.lines());
    second.wait_for_line("in use", SHORT_TIMEOUT).await;
    let (status, body) = answer_of(build_client().post(format!("http://{taken}/admin/workspace-images/refresh"))).await;
    assert_eq!(status, 401);
    assert!(body["error"].as_str().is_some_and(|error| error.contains("IMAGEWATCH_ADMIN_TOKEN")), "{body}");
    daemon.signal(Signal::INT);
    assert_eq!(daemon.wait_exit(SHORT_TIMEOUT).await, Some(0), "Ctrl-C also causes a clean exit");
}
