//! Tests bad input of each kind with the real program. Each case gives one clear message with the file, key, host or
//! image, and the documented exit code or the outcome of that target. Nothing else stops.

use std::path::{Path, PathBuf};
use std::time::Duration;

use imagewatch_tests::components;
use imagewatch_tests::plugin_manifest::PluginManifest;
use imagewatch_tests::program::start_imagewatch;
use imagewatch_tests::push::{PushAuth, RegistryTarget};
use imagewatch_tests::registry::host_that_is_down;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use wiremock::matchers::any;
use wiremock::{Mock, MockServer, ResponseTemplate};

use crate::stage::{LONG_TIMEOUT, Stage};

/// Runs `imagewatch check` on `manifest` and returns the exit code and the output.
async fn check(docker_host: &str, manifest: &Path) -> (i32, String) {
    let args = ["check".as_ref(), "--json".as_ref(), manifest.as_os_str()];
    let mut process = start_imagewatch(docker_host, args, &[]);
    let code = process.wait_exit(LONG_TIMEOUT).await.expect("imagewatch exits with a code");
    (code, process.lines().join("\n"))
}

fn write(stage: &Stage, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
    let path = stage.folder.path().join(name);
    std::fs::write(&path, text).expect("the test's folder is writable");
    path
}

/// Builds a module with the exports of a policy, the given ABI version and one additional import.
fn module(abi: &str, import: &str) -> Vec<u8> {
    let exports = ["describe", "poll", "settle", "refresh"]
        .map(|name| format!(r#"(func (export "{name}") (result i32) i32.const 0)"#))
        .concat();
    wat::parse_str(format!(r#"(module {import} {exports} (@custom "imagewatch.abi" "{abi}"))"#))
        .expect("the WAT is valid")
}

#[tokio::test(flavor = "multi_thread")]
async fn unusable_manifests_and_modules_give_the_reason_and_the_exit_code() {
    let stage = Stage::new().await;
    let wasm = components::plugin_wasm();
    let good = std::fs::read(&wasm).expect("the module was built");
    let manifest_of = |file: &str, bytes: &[u8]| {
        let module = write(&stage, &format!("{file}.wasm"), bytes);
        let config = serde_json::json!({"host.allow_unhashed": "true"});
        write(
            &stage,
            &format!("{file}.json"),
            serde_json::json!({"wasm": [{"path": module}], "config": config}).to_string(),
        )
    };
    let with = |file: &str, key: &str, value: &str| stage.write(&stage.manifest().config(key, value), file);
    let mut wrong_hash = stage.manifest().config("images", "a");
    wrong_hash.hash = Some("00".repeat(32));
    for (case, manifest, code, parts) in [
        ("malformed", write(&stage, "malformed.json", "{\"wasm\": ["), 3, ["malformed.json", "line 1"]),
        ("unknown field", write(&stage, "field.json", r#"{"wsam": []}"#), 3, ["field.json", "wsam"]),
        ("unknown key", with("key", "imagess", "a"), 3, ["key.json", "`imagess`: is unknown"]),
        ("invalid reference", with("reference", "images", "ghcr.io/UPPER"), 3, ["`images`", "ghcr.io/UPPER"]),
        ("wrong hash", stage.write(&wrong_hash, "hash"), 4, ["hash.json", "manifest's `hash` is 0000"]),
        (
            "no hash",
            stage.write(&PluginManifest { wasm: write(&stage, "p.wasm", &good[1..]), ..stage.manifest() }, "unhashed"),
            4,
            ["unhashed.json", "has no `hash`"],
        ),
        ("truncated wasm", manifest_of("cut", &good[..good.len() / 2]), 4, ["cut.wasm", "not a valid wasm module"]),
        ("no wasm", manifest_of("text", b"<html>"), 4, ["text.wasm", "does not start"]),
        (
            "foreign import",
            manifest_of("foreign", &module("1", r#"(import "env" "exec" (func))"#)),
            4,
            ["foreign.wasm", "imports `env exec`"],
        ),
        ("wrong ABI", manifest_of("abi", &module("9", "")), 4, ["abi.wasm", "built for ABI 9"]),
        ("no file", PathBuf::from("/nowhere/m.json"), 3, ["/nowhere/m.json", "check the path"]),
    ] {
        let (exit, output) = check(stage.scope.engine().host(), &manifest).await;
        assert_eq!(exit, code, "{case}: {output}");
        for part in parts {
            assert!(output.contains(part), "{case}: no {part:?} in {output}");
        }
        assert!(output.contains("failed to ") && !output.contains("panicked"), "{case}: {output}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_engine_is_reported_with_its_socket() {
    let stage = Stage::new().await;
    let manifest = stage.write(&stage.manifest().config("images", &stage.image("a")), "one");
    for (host, code) in [("unix:///nowhere/docker.sock", 5), ("ssh://somewhere", 3)] {
        let (exit, output) = check(host, &manifest).await;
        assert_eq!(exit, code, "{output}");
        assert!(output.contains(host), "{output}");
    }
}

async fn answering(response: ResponseTemplate) -> MockServer {
    let server = MockServer::start().await;
    Mock::given(any()).respond_with(response).mount(&server).await;
    server
}

/// Starts a server that accepts connections and never answers.
async fn silent() -> (String, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
    let host = listener.local_addr().expect("a bound socket has an address").to_string();
    let task = tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            held.push(stream);
        }
    });
    (host, task)
}

/// Starts a token server that answers with 10 MB.
async fn flood() -> (String, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
    let host = listener.local_addr().expect("a bound socket has an address").to_string();
    let own = host.clone();
    let task = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let own = own.clone();
            tokio::spawn(async move {
                let mut request = vec![0; 4096];
                while let Ok(read @ 1..) = stream.read(&mut request).await {
                    let answer = if request[..read].starts_with(b"HEAD") {
                        format!("HTTP/1.1 401 Unauthorized\r\nwww-authenticate: Bearer realm=\"http://{own}/token\"\r\ncontent-length: 0\r\n\r\n").into_bytes()
                    } else {
                        let body = format!("{{\"token\": \"{}\"}}", "a".repeat(10_000_000));
                        format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into_bytes()
                    };
                    if stream.write_all(&answer).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    (host, task)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_registry_answer_affects_only_its_own_image() {
    let stage = Stage::new().await;
    stage.push("good", "v1").await;
    let html = answering(ResponseTemplate::new(200).set_body_raw("<html>", "text/html")).await;
    let no_digest =
        answering(ResponseTemplate::new(200).insert_header("docker-content-digest", "sha256:nonsense")).await;
    let (silent, _silence) = silent().await;
    let (flood, _flooding) = flood().await;
    let down = host_that_is_down();
    let tls = stage.registry.host();
    let hosts = [html.address().to_string(), no_digest.address().to_string(), silent, flood, down];
    let reasons = [
        "answered a web page where a manifest was asked for",
        "answered nothing where a manifest was asked for",
        "no answer from",
        "more than 65536 bytes",
        "could not connect to",
    ];
    let images: Vec<String> = hosts.iter().map(|host| format!("{host}/app:v1")).collect();
    let mut manifest = stage
        .manifest()
        .config("images", &format!("{} {}", images.join(" "), stage.image("good")))
        .config("host.http_timeout", "2s");
    for host in &hosts {
        manifest = manifest.allow_host(host);
    }
    let (exit, output) = check(stage.scope.engine().host(), &stage.write(&manifest, "all")).await;
    let checked: Value = serde_json::from_str(&output).unwrap_or_else(|error| panic!("{error}: {output}"));
    assert_eq!(exit, 1, "{output}");
    for ((image, host), part) in images.iter().zip(&hosts).zip(reasons) {
        let row = checked["images"]
            .as_array()
            .expect("the images are a list")
            .iter()
            .find(|row| row["target"] == image.as_str());
        let row = row.unwrap_or_else(|| panic!("{image} in {output}"));
        let reason = row["reason"].as_str().expect("the image has a reason");
        assert_eq!(row["verdict"], "unknown", "{row}");
        assert!(reason.contains(part) && reason.contains(host.as_str()), "{part} and {host} in {reason}");
    }
    let good = checked["images"].as_array().and_then(|rows| rows.last()).expect("the good image has a row");
    assert_eq!(good["verdict"], "unused", "{good}");

    // The plain HTTP registry is addressed as if it had TLS.
    let manifest =
        stage.manifest().config("images", &stage.image("good")).config("host.insecure_registries", "another.example");
    let (exit, output) = check(stage.scope.engine().host(), &stage.write(&manifest, "tls")).await;
    assert_eq!(exit, 1, "{output}");
    assert!(output.contains(&tls) && output.to_lowercase().contains("tls"), "{output}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_registry_does_not_delay_other_manifests() {
    let stage = Stage::new().await;
    stage.push("web", "v1").await;
    stage.run("web").await;
    let (silent, _silence) = silent().await;
    let quick = stage.write(&stage.manifest().config("images", &stage.image("web")), "quick");
    let stuck = stage.manifest_for(&silent).config("images", &format!("{silent}/app:v1"));
    let daemon = stage.watch(&[stage.write(&stuck, "stuck"), quick]);
    daemon.wait_for_line("first seen").await;
    let v2 = stage.push("web", "v2").await;
    stage.wait_until_on("web", &v2, Duration::from_secs(9)).await;
    assert_eq!(daemon.count("no answer from"), 0, "the other manifest still waits");
    let line = daemon.wait_for_line("no answer from").await;
    assert!(line.contains(&silent) && line.contains("10"), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_not_allowed_gets_no_request() {
    let stage = Stage::new().await;
    let server = MockServer::start().await;
    let host = server.address().to_string();
    let target = RegistryTarget::new(&host, PushAuth::Anonymous);
    assert_eq!(target.digest_of("app", "v1").await, None, "the registry answers the test's request");
    let before = server.received_requests().await.map_or(0, |requests| requests.len());
    let manifest = stage.manifest().config("images", &format!("{host}/app:v1"));
    let (exit, output) = check(stage.scope.engine().host(), &stage.write(&manifest, "foreign")).await;
    assert_eq!(exit, 1, "{output}");
    assert!(output.contains("allowed_hosts") && output.contains(&host), "{output}");
    assert_eq!(server.received_requests().await.map_or(0, |requests| requests.len()), before);
}
