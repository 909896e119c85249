//! Puts a different secret into each source of credentials and checks that each one is used. Then it runs polls, every
//! kind of failure, a kill in the middle of an update, and a restart. No secret may be visible anywhere, in any
//! encoding. `session/canary.rs` of the host covers the policy's memory.

mod registries;
mod search;

use std::path::{Path, PathBuf};
use std::time::Duration;

use imagewatch_tests::engine::RunSpec;
use imagewatch_tests::http_client::build_client;
use imagewatch_tests::image::ImageSpec;
use imagewatch_tests::process::{Process, Signal};
use imagewatch_tests::program::{STATE_DIR, start_imagewatch};
use imagewatch_tests::wait::wait_for;
use tempfile::TempDir;
use tokio::time::sleep;

use self::registries::{Mode, Registries};
use self::search::SecretScan;
use crate::stage::{LONG_TIMEOUT, SHORT_TIMEOUT, Stage, labels};

const ADMIN_TOKEN: &str = "canary~admin?token>/+0001";
const IN_CONTAINER: &str = "canary~environment?of>/+0002";
const IN_HOOK: &str = "canary~hook~command~0003";

/// A container of a real registry, private images of fake registries, and the state folder.
struct Scene {
    stage: Stage,
    registries: Registries,
    state: TempDir,
    manifests: [PathBuf; 2],
}

impl Scene {
    async fn new() -> Self {
        let stage = Stage::new().await;
        stage.push("web", "v1").await;
        let hook = format!(": {IN_HOOK}; touch /hooked");
        let spec = RunSpec {
            image: stage.image("web"),
            env: vec![format!("APP_SECRET={IN_CONTAINER}")],
            labels: labels(&[("imagewatch.hook.pre-update", &hook), ("imagewatch.hook.post-update", &hook)]),
            ..RunSpec::default()
        };
        stage.run_as("web", spec).await;
        let registries = Registries::start(stage.folder.path()).await;
        let private = registries.manifest(stage.manifest());
        let apps = stage.manifest().config("images", &stage.image("web"));
        let manifests = [stage.write(&apps, "apps"), stage.write(&private, "private")];
        Self { registries, state: TempDir::new().expect("the temp folder is writable"), manifests, stage }
    }

    fn start(&self, args: &[&str], format: &str) -> Process {
        let state = self.state.path().to_str().expect("the temp folder's name is text");
        let own = [
            ("IMAGEWATCH_LOG", "trace"),
            ("IMAGEWATCH_LOG_FORMAT", format),
            ("IMAGEWATCH_ADMIN_TOKEN", ADMIN_TOKEN),
            (STATE_DIR, state),
        ];
        let credentials = self.registries.environment();
        let credentials = credentials.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        start_imagewatch(
            self.stage.scope.engine().host(),
            args,
            &own.into_iter().chain(credentials).collect::<Vec<_>>(),
        )
    }

    fn watch(&self, format: &str) -> Process {
        let [apps, private] = self.manifests.each_ref().map(|path| text(path));
        let record = self.record(format);
        self.start(&["run", "--admin-listen", "127.0.0.1:0", "--record", text(&record), apps, private], format)
    }

    fn record(&self, format: &str) -> PathBuf {
        self.stage.folder.path().join(format!("{format}.record"))
    }

    /// Runs a command to its end and returns all its output.
    async fn run(&self, args: &[&str], format: &str) -> String {
        let mut process = self.start(args, format);
        process.wait_exit(LONG_TIMEOUT).await.expect("imagewatch exits with a code");
        process.lines().join("\n")
    }

    /// Runs the commands that use private images, and those that show what happened.
    async fn commands(&self, found: &mut SecretScan, when: &str) {
        let [apps, private] = self.manifests.each_ref().map(|path| text(path));
        for (args, format) in [
            (&["check", "--json", apps, private][..], "text"),
            (&["check", private], "json"),
            (&["refresh", "--no-recreate", "--json", "--manifest", private], "text"),
        ] {
            found.add(&format!("{args:?} {when}"), self.run(args, format).await);
        }
    }

    async fn accounts(&self, found: &mut SecretScan) {
        for args in
            [&["history", "--json"][..], &["history"], &["quarantine", "list", "--json"], &["quarantine", "list"]]
        {
            found.add(&format!("{args:?}"), self.run(args, "text").await);
        }
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("the path is UTF-8")
}

/// Admin API requests that only read.
const READS: [(&str, &str); 8] = [
    ("GET", "/metrics"),
    ("GET", "/healthz"),
    ("GET", "/readyz"),
    ("GET", "/admin/targets"),
    ("GET", "/admin/history?limit=1000"),
    ("GET", "/admin/quarantine"),
    ("GET", "/admin/plugins"),
    ("GET", "/nowhere"),
];

/// Admin API requests that change something.
const WRITES: [(&str, &str); 4] = [
    ("DELETE", "/admin/quarantine?target=nobody"),
    ("POST", "/admin/plugins/private/reload"),
    ("POST", "/admin/plugins/private/rollback"),
    ("POST", "/admin/workspace-images/refresh"),
];

/// Sends requests to the admin API with the right token, with a wrong one, and with none.
async fn ask(daemon: &Process, asked: &[(&str, &str)], found: &mut SecretScan) {
    let line = daemon.wait_for_line("admin API listens", SHORT_TIMEOUT).await;
    let address = line.split("127.0.0.1:").nth(1).expect("the line contains the address");
    let port: String = address.chars().take_while(char::is_ascii_digit).collect();
    let mut granted = 0;
    for (method, path) in asked {
        for token in [Some(ADMIN_TOKEN), Some("another"), None] {
            let url = format!("http://127.0.0.1:{port}{path}");
            let mut request = build_client().request(method.parse().expect("the method is valid"), url);
            request = token.into_iter().fold(request, reqwest::RequestBuilder::bearer_auth);
            let answer = request.send().await.expect("the admin API answers");
            granted +=
                usize::from(token == Some(ADMIN_TOKEN) && path.starts_with("/admin/plugins") && answer.status() == 200);
            let headers = format!("{:?}", answer.headers());
            found.add(&format!("{method} {path}"), headers + &answer.text().await.expect("the answer is text"));
        }
    }
    assert!(granted >= 1, "the right token is accepted");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_visible_anywhere() {
    let scene = Scene::new().await;
    let (stage, registries) = (&scene.stage, &scene.registries);
    let own = [ADMIN_TOKEN, IN_CONTAINER, IN_HOOK].map(str::to_owned);
    let mut found = SecretScan::new(registries.secrets().into_iter().chain(own));

    // Every secret is used.
    let mut first = scene.watch("text");
    registries.wait_until_all_seen(SHORT_TIMEOUT).await;
    wait_for("all private images to be first seen", SHORT_TIMEOUT, || async {
        let count = first.lines().iter().filter(|line| line.contains("first seen")).count();
        if count > registries.count() { Ok(()) } else { Err(first.lines()) }
    })
    .await;
    scene.commands(&mut found, "while everything works").await;

    // Every kind of failure.
    for mode in Mode::FAILURES {
        registries.set_mode(mode);
        scene.commands(&mut found, &format!("while they are {mode:?}")).await;
        sleep(Duration::from_millis(600)).await;
        // The reasons of the failures.
        ask(&first, &READS, &mut found).await;
    }
    assert_eq!(registries.seen_elsewhere().await, Vec::<String>::new(), "no credential follows a redirect");
    registries.set_mode(Mode::Well);
    ask(&first, &READS, &mut found).await;
    ask(&first, &WRITES, &mut found).await;

    // The program is killed in an update, while the journal exists.
    let v2 = stage.push("web", "v2").await;
    wait_for("an update to begin", LONG_TIMEOUT, || async {
        let journal = std::fs::read_dir(scene.state.path().join("journal"));
        if journal.into_iter().flatten().next().is_some() { Ok(()) } else { Err(first.lines()) }
    })
    .await;
    first.signal(Signal::KILL);
    first.wait_exit(LONG_TIMEOUT).await;
    found.add("the first run", first.lines().join("\n"));
    let journals = found.add_files("after the kill", scene.state.path());
    assert!(
        journals.iter().any(|name| name.contains("journal")),
        "no journal, so the program was not killed in an update: {journals:?}"
    );

    // The program restarts, and a bad image follows.
    let mut second = scene.watch("json");
    stage.wait_until_on("web", &v2, LONG_TIMEOUT).await;
    let web = stage.scope.name("web");
    assert_eq!(stage.scope.exec(&web, &["sh", "-c", "echo $APP_SECRET"]).await.trim(), IN_CONTAINER);
    wait_for("the hook after the update", SHORT_TIMEOUT, || async {
        let answer = stage.scope.exec(&web, &["sh", "-c", "ls /hooked || true"]).await;
        if answer.contains("/hooked") { Ok(()) } else { Err(answer) }
    })
    .await;
    stage.push_image("web", &ImageSpec::broken(&stage.scope.name("v3"))).await;
    second.wait_for_line("is quarantined", LONG_TIMEOUT).await;
    scene.commands(&mut found, "at the end").await;
    scene.accounts(&mut found).await;
    ask(&second, &READS, &mut found).await;
    ask(&second, &WRITES, &mut found).await;
    found.add_files("while the second program runs", scene.state.path());
    second.signal(Signal::TERM);
    assert_eq!(second.wait_exit(LONG_TIMEOUT).await, Some(0), "{:#?}", second.lines());
    found.add("the second run", second.lines().join("\n"));
    found.add_files("at the end", scene.state.path());
    for format in ["text", "json"] {
        let record = std::fs::read(scene.record(format)).expect("the record can be read");
        assert_ne!(record.len(), 0);
        // The record contains labels, and with them the commands of hooks. The help text of the option documents this.
        found.add("the record", String::from_utf8_lossy(&record).replace(IN_HOOK, ""));
    }
    found.assert_no_secret_found();
}
