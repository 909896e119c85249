//! A secret of its own through every source of credentials, each seen on the wire; then ticks, every kind of failure, a
//! kill in the middle of an update, and a restart. No secret shows anywhere, in no encoding. For the policy's memory see
//! `session/canary.rs` of the host.

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
use self::search::Haystack;
use crate::stage::{LATER, SOON, Stage, labels};

const ADMIN_TOKEN: &str = "canary~admin?token>/+0001";
const IN_CONTAINER: &str = "canary~environment?of>/+0002";
const IN_HOOK: &str = "canary~hook~command~0003";

/// A container of a real registry, private images of made-up ones, and where all that is kept.
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
        Self { registries, state: TempDir::new().expect("a folder"), manifests, stage }
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

    /// All output of a command that ends.
    async fn run(&self, args: &[&str], format: &str) -> String {
        let mut process = self.start(args, format);
        process.wait_exit(LATER).await.expect("it ends by itself");
        process.lines().join("\n")
    }

    /// The commands that look at private images, or tell what happened.
    async fn commands(&self, found: &mut Haystack, when: &str) {
        let [apps, private] = self.manifests.each_ref().map(|path| text(path));
        for (args, format) in [
            (&["check", "--json", apps, private][..], "text"),
            (&["check", private], "json"),
            (&["refresh", "--no-recreate", "--json", "--manifest", private], "text"),
        ] {
            found.add(&format!("{args:?} {when}"), self.run(args, format).await);
        }
    }

    async fn accounts(&self, found: &mut Haystack) {
        for args in
            [&["history", "--json"][..], &["history"], &["quarantine", "list", "--json"], &["quarantine", "list"]]
        {
            found.add(&format!("{args:?}"), self.run(args, "text").await);
        }
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path of ours")
}

/// What only tells.
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

/// What does something.
const WRITES: [(&str, &str); 4] = [
    ("DELETE", "/admin/quarantine?target=nobody"),
    ("POST", "/admin/plugins/private/reload"),
    ("POST", "/admin/plugins/private/rollback"),
    ("POST", "/admin/workspace-images/refresh"),
];

/// The admin API's answers, with the right token, a wrong one and none.
async fn ask(daemon: &Process, asked: &[(&str, &str)], found: &mut Haystack) {
    let line = daemon.wait_for_line("admin API listens", SOON).await;
    let address = line.split("127.0.0.1:").nth(1).expect("it names the address");
    let port: String = address.chars().take_while(char::is_ascii_digit).collect();
    let mut granted = 0;
    for (method, path) in asked {
        for token in [Some(ADMIN_TOKEN), Some("another"), None] {
            let url = format!("http://127.0.0.1:{port}{path}");
            let mut request = build_client().request(method.parse().expect("a method"), url);
            request = token.into_iter().fold(request, reqwest::RequestBuilder::bearer_auth);
            let answer = request.send().await.expect("it answers");
            granted +=
                usize::from(token == Some(ADMIN_TOKEN) && path.starts_with("/admin/plugins") && answer.status() == 200);
            let headers = format!("{:?}", answer.headers());
            found.add(&format!("{method} {path}"), headers + &answer.text().await.expect("a text"));
        }
    }
    assert!(granted >= 1, "the token is one");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_shows_anywhere_whatever_happens() {
    let scene = Scene::new().await;
    let (stage, registries) = (&scene.stage, &scene.registries);
    let own = [ADMIN_TOKEN, IN_CONTAINER, IN_HOOK].map(str::to_owned);
    let mut found = Haystack::new(registries.secrets().into_iter().chain(own));

    // Each is used.
    let mut first = scene.watch("text");
    registries.wait_until_all_seen(SOON).await;
    wait_for("all private images to be seen", SOON, || async {
        let count = first.lines().iter().filter(|line| line.contains("first seen")).count();
        if count > registries.count() { Ok(()) } else { Err(first.lines()) }
    })
    .await;
    scene.commands(&mut found, "while all is well").await;

    // Nothing works as it should.
    for mode in Mode::FAILURES {
        registries.be(mode);
        scene.commands(&mut found, &format!("while they are {mode:?}")).await;
        sleep(Duration::from_millis(600)).await;
        // The reasons of what failed.
        ask(&first, &READS, &mut found).await;
    }
    assert_eq!(registries.seen_elsewhere().await, Vec::<String>::new(), "no credential follows a redirect");
    registries.be(Mode::Well);
    ask(&first, &READS, &mut found).await;
    ask(&first, &WRITES, &mut found).await;

    // Killed in an update: its journal is there as long as it lasts.
    let v2 = stage.push("web", "v2").await;
    wait_for("an update to begin", LATER, || async {
        let journal = std::fs::read_dir(scene.state.path().join("journal"));
        if journal.into_iter().flatten().next().is_some() { Ok(()) } else { Err(first.lines()) }
    })
    .await;
    first.signal(Signal::KILL);
    first.wait_exit(LATER).await;
    found.add("the first run", first.lines().join("\n"));
    let journals = found.add_files("after the kill", scene.state.path());
    assert!(journals.iter().any(|name| name.contains("journal")), "it was killed in an update: {journals:?}");

    // And again; a bad image too.
    let mut second = scene.watch("json");
    stage.wait_until_on("web", &v2, LATER).await;
    let web = stage.scope.name("web");
    assert_eq!(stage.scope.exec(&web, &["sh", "-c", "echo $APP_SECRET"]).await.trim(), IN_CONTAINER);
    wait_for("the hook after the update", SOON, || async {
        let answer = stage.scope.exec(&web, &["sh", "-c", "ls /hooked || true"]).await;
        if answer.contains("/hooked") { Ok(()) } else { Err(answer) }
    })
    .await;
    stage.push_image("web", &ImageSpec::broken(&stage.scope.name("v3"))).await;
    second.wait_for_line("is quarantined", LATER).await;
    scene.commands(&mut found, "at the end").await;
    scene.accounts(&mut found).await;
    ask(&second, &READS, &mut found).await;
    ask(&second, &WRITES, &mut found).await;
    found.add_files("while the second one runs", scene.state.path());
    second.signal(Signal::TERM);
    assert_eq!(second.wait_exit(LATER).await, Some(0), "{:#?}", second.lines());
    found.add("the second run", second.lines().join("\n"));
    found.add_files("at the end", scene.state.path());
    for format in ["text", "json"] {
        let record = std::fs::read(scene.record(format)).expect("a record");
        assert_ne!(record.len(), 0);
        // Labels are in it, and with them the commands of hooks: its help says so.
        found.add("the record", String::from_utf8_lossy(&record).replace(IN_HOOK, ""));
    }
    found.assert_nothing_shows();
}
