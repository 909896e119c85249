//! Tests the requests of a pull against a fake engine on a socket.

use std::path::Path;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use rstest::rstest;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

use super::*;
use crate::Engine;
use crate::docker::DockerEngine;

/// Starts a fake engine of API 1.44 that has every image. Returns the heads of the requests that it receives.
fn listen(socket: &Path) -> Arc<Mutex<Vec<String>>> {
    let heads = Arc::new(Mutex::new(Vec::new()));
    let (listener, seen) = (UnixListener::bind(socket).unwrap(), heads.clone());
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(answer(stream, seen.clone()));
        }
    });
    heads
}

async fn answer(mut stream: UnixStream, heads: Arc<Mutex<Vec<String>>>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    let body = match head.split(' ').nth(1).unwrap() {
        "/version" => json!({ "ApiVersion": "1.44", "Components": [] }).to_string(),
        _ => "{\"status\":\"Pull complete\"}\r\n".to_owned(),
    };
    heads.lock().unwrap().push(head);
    let length = body.len();
    let response = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}");
    stream.write_all(response.as_bytes()).await.unwrap();
}

/// Pulls `image` and returns the request line and the credential header.
async fn pulled(image: &str, credential: Option<&Credential>) -> (String, Option<String>) {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("engine.sock");
    let heads = listen(&socket);
    let engine = DockerEngine::connect(&format!("unix://{}", socket.display())).unwrap();
    engine.pull(&image.parse().unwrap(), None, credential, &|_| {}).await.unwrap();
    let head = heads.lock().unwrap().last().unwrap().clone();
    let header = head.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("x-registry-auth").then(|| value.to_owned())
    });
    (head.lines().next().unwrap().to_owned(), header)
}

/// Decodes the header as the engine does: with Go's `base64.URLEncoding`, which requires padding. Null fields are
/// removed.
fn decode(header: &str) -> Value {
    let mut auth: Value = serde_json::from_slice(&URL_SAFE.decode(header).unwrap()).unwrap();
    auth.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    auth
}

/// The cases come from moby's tests of `registry/authconfig`. The standard alphabet encodes some of them with `+` and
/// `/`.
#[rstest]
#[case::docker_hub("nginx:1", "https://index.docker.io/v1/")]
#[case::registry("ghcr.io/o/app:1", "ghcr.io")]
#[case::port("127.0.0.1:5000/app:1", "127.0.0.1:5000")]
#[tokio::test]
async fn a_login_is_sent_in_the_url_safe_alphabet(#[case] image: &str, #[case] address: &str) {
    for (username, password) in [("use", "Zz~~~9?>"), ("use", "Zz~~~9"), ("me", "??>>~~"), ("u", "p"), ("é", "\"{\n")]
    {
        let (line, header) = pulled(image, Some(&Credential::basic(username, password))).await;
        assert!(line.starts_with("POST /v1.44/images/create?"), "{line}");
        let header = header.unwrap();
        assert!(!header.contains(['+', '/']) && header.len() % 4 == 0, "{header}");
        let expected = json!({ "username": username, "password": password, "serveraddress": address });
        assert_eq!(decode(&header), expected);
    }
}

#[rstest]
#[case::identity(Credential::IdentityToken("id~?>".into()), "identitytoken", "id~?>")]
#[case::registry(Credential::RegistryToken("rt~?>".into()), "registrytoken", "rt~?>")]
#[tokio::test]
async fn a_token_is_sent_in_its_own_field(#[case] credential: Credential, #[case] field: &str, #[case] token: &str) {
    let (_, header) = pulled("ghcr.io/o/app:1", Some(&credential)).await;
    assert_eq!(decode(&header.unwrap()), json!({ field: token, "serveraddress": "ghcr.io" }));
}

#[tokio::test]
async fn an_anonymous_pull_has_no_header() {
    assert_eq!(pulled("nginx:1", None).await.1, None);
}

/// `(layer, status, current)` of each line, and whether it advances the pull.
#[rstest]
#[case::bytes_grow(&[("a", "Downloading", 1), ("a", "Downloading", 2)], &[true, true])]
#[case::containerd_repeats_a_line(&[("a", "Downloading", 1), ("a", "Downloading", 1)], &[true, false])]
#[case::a_download_restarts(
    &[("a", "Downloading", 9), ("a", "Retrying in 5 seconds", 0), ("a", "Retrying in 4 seconds", 0),
      ("a", "Downloading", 1), ("a", "Downloading", 9), ("a", "Downloading", 10)],
    &[true, false, false, false, false, true]
)]
#[case::steps_of_a_layer(&[("a", "Download complete", 0), ("a", "Extracting", 0), ("a", "Extracting", 1)], &[true; 3])]
#[case::another_layer(&[("a", "Downloading", 5), ("b", "Downloading", 5)], &[true, true])]
fn f19_only_new_progress_advances_a_pull(#[case] lines: &[(&str, &str, i64)], #[case] expected: &[bool]) {
    let mut sums = Sums::default();
    let mut add = |&(layer, status, current): &(&str, &str, i64)| {
        let line = json!({ "id": layer, "status": status, "progressDetail": { "current": current, "total": 20 } });
        sums.add(serde_json::from_value(line).unwrap()).advances
    };
    assert_eq!(lines.iter().map(&mut add).collect::<Vec<_>>(), expected);
}
