//! Error texts of real engines with their causes. `20` is Docker 20.10 with a graph driver. `28` is Docker 28.5 with
//! the containerd image store. Both were recorded against a registry that fails in the way that the row names. `podman`
//! and the other rows come from public issues.

use super::*;

const DIGEST: &str = "sha256:ab100828cf2432be9921afed54be667dae6c6daab4d2732667e2be53b379e5cf";

fn check(rows: &[(&str, Option<u16>, &str)], cause: PullCause) {
    for (row, status, text) in rows {
        let text = text.replace("DIGEST", DIGEST);
        assert_eq!(classify(*status, &text), cause, "{row}: {text}");
    }
}

#[test]
fn k6_texts_of_a_missing_image() {
    let rows = [
        ("20: tag", Some(500), "manifest unknown"),
        (
            "20: tag of a public registry",
            Some(404),
            "manifest for r.io/a:1 not found: manifest unknown: manifest unknown",
        ),
        ("20: repository", Some(500), "name unknown"),
        ("20: no body", Some(500), "error parsing HTTP 404 response body: unexpected end of JSON input: \"\""),
        ("20: layer", None, "unknown blob"),
        ("20: config", None, "error pulling image configuration: download failed after attempts=1: unknown blob"),
        ("28: tag", Some(404), "failed to resolve reference \"r.io/a:1\": r.io/a:1: not found"),
        (
            "28: layer",
            None,
            "failed to copy: httpReadSeeker: failed open: could not fetch content descriptor DIGEST (application/vnd.docker.image.rootfs.diff.tar.gzip) from remote: not found",
        ),
        (
            "podman: tag",
            Some(500),
            "initializing source docker://r.io/a:1: reading manifest 1 in r.io/a: manifest unknown",
        ),
        ("only a status", Some(404), "gone"),
    ];
    check(&rows, PullCause::NotFound);
}

#[test]
fn k6_texts_of_a_missing_platform() {
    let rows = [
        ("20", None, "no matching manifest for linux/amd64 in the manifest list entries"),
        (
            "28",
            Some(404),
            "no matching manifest for linux/amd64 in the manifest list entries: no match for platform in manifest: not found",
        ),
        (
            "containerd",
            None,
            "failed to pull and unpack image \"r.io/a:1\": no match for platform in manifest: not found",
        ),
        (
            "another platform",
            Some(404),
            "image with reference r.io/a:1 was found but does not match the specified platform: wanted linux/arm64, actual: linux/amd64",
        ),
        (
            "podman",
            Some(500),
            "choosing an image from manifest list docker://r.io/a:1: no image found in image index for architecture \"amd64\", variant \"\", OS \"linux\"",
        ),
    ];
    check(&rows, PullCause::NoPlatform);
}

#[test]
fn k6_texts_of_a_refusal() {
    let rows = [
        ("20: manifest", Some(500), "denied"),
        (
            "20: manifest, no body",
            Some(500),
            "error parsing HTTP 403 response body: unexpected end of JSON input: \"\"",
        ),
        ("20: no login", Some(500), "unauthorized"),
        (
            "20: wrong login",
            Some(500),
            "Head \"https://r.io/v2/a/manifests/1\": unauthorized: incorrect username or password",
        ),
        (
            "20: Docker Hub",
            Some(404),
            "pull access denied for a/b, repository does not exist or may require 'docker login': denied: requested access to the resource is denied",
        ),
        ("20: layer, 401", None, "unauthorized"),
        ("20: layer, 403", None, "denied"),
        (
            "28: HEAD, 403",
            Some(500),
            "unknown: failed to resolve reference \"r.io/a:1\": unexpected status from HEAD request to http://r.io/v2/a/manifests/1: 403 Forbidden",
        ),
        ("28: GET, 403", None, "error from registry: denied\ndenied"),
        (
            "28: GET, 403, no body",
            None,
            "unknown: failed to copy: httpReadSeeker: failed open: unexpected status from GET request to http://r.io/v2/a/manifests/DIGEST: 403 Forbidden",
        ),
        (
            "28: no login",
            Some(500),
            "failed to resolve reference \"r.io/a:1\": pull access denied, repository does not exist or may require authorization: authorization failed: no basic auth credentials",
        ),
        (
            "28: layer, 401",
            None,
            "failed to copy: httpReadSeeker: failed open: authorization failed: no basic auth credentials",
        ),
        (
            "podman",
            Some(500),
            "initializing source docker://r.io/a:1: reading manifest 1 in r.io/a: requested access to the resource is denied",
        ),
        (
            "podman: wrong login",
            Some(500),
            "initializing source docker://r.io/a:1: unable to retrieve auth token: invalid username/password: unauthorized: authentication required",
        ),
        ("only a status", Some(403), "no"),
    ];
    check(&rows, PullCause::Denied);
}

#[test]
fn k6_texts_of_a_rate_limit() {
    let rows = [
        (
            "20: Docker Hub",
            Some(500),
            "toomanyrequests: You have reached your pull rate limit. You may increase the limit by authenticating and upgrading: https://www.docker.com/increase-rate-limit",
        ),
        ("20: layer", None, "toomanyrequests"),
        (
            "28: HEAD",
            Some(500),
            "unknown: failed to resolve reference \"r.io/a:1\": unexpected status from HEAD request to http://r.io/v2/a/manifests/1: 429 Too Many Requests",
        ),
        ("28: layer", None, "error from registry: toomanyrequests\ntoomanyrequests"),
        ("only a status", Some(429), "wait"),
    ];
    check(&rows, PullCause::RateLimited);
}

#[test]
fn k6_texts_of_a_digest_or_size_mismatch() {
    let rows = [
        ("20: layer", None, "filesystem layer verification failed for digest DIGEST"),
        ("20: manifest", None, "manifest verification failed for digest DIGEST"),
        (
            "28: layer",
            None,
            "failed commit on ref \"layer-DIGEST\": commit failed: unexpected commit digest sha256:00, expected DIGEST: failed precondition",
        ),
        (
            "28: manifest",
            None,
            "failed commit on ref \"manifest-DIGEST\": commit failed: \"manifest-DIGEST\" failed size validation: 442 != 441: failed precondition",
        ),
        (
            "containerd: size",
            None,
            "failed commit on ref \"layer-DIGEST\": unexpected commit size 41461321, expected 13804441: unknown",
        ),
        ("podman", Some(500), "writing blob: Digest did not match, expected DIGEST, got sha256:00"),
    ];
    check(&rows, PullCause::Mismatch);
}

#[test]
fn k6_texts_of_a_full_disk() {
    let rows = [
        ("20: download", None, "write /var/lib/docker/tmp/GetImageBlob997452: no space left on device"),
        (
            "20: extraction",
            None,
            "failed to register layer: Error processing tar file(exit status 1): write /data: no space left on device",
        ),
        ("quota of xfs", None, "failed to register layer: write /usr/lib/libLLVM.so.19.1: disk quota exceeded"),
        (
            "28: extraction",
            None,
            "failed to extract layer (application/vnd.docker.image.rootfs.diff.tar.gzip DIGEST) to overlayfs as \"extract-1\": write /data: no space left on device: unknown",
        ),
        (
            "podman",
            Some(500),
            "writing blob: adding layer with blob \"DIGEST\": processing tar file(write /x: no space left on device): exit status 1",
        ),
    ];
    check(&rows, PullCause::NoSpace);
}

#[test]
fn k6_texts_of_an_unreachable_or_failing_registry() {
    let rows = [
        ("20: 500", Some(500), "received unexpected HTTP status: 500 Internal Server Error"),
        ("20: 503", Some(500), "received unexpected HTTP status: 503 Service Unavailable"),
        (
            "20: captive portal",
            Some(500),
            "error unmarshalling content: invalid character '<' looking for beginning of value",
        ),
        (
            "20: no connection",
            Some(500),
            "Get \"http://127.0.0.1:1/v2/\": dial tcp 127.0.0.1:1: connect: connection refused",
        ),
        (
            "20: no route to the name server",
            Some(500),
            "Get \"https://nosuch.invalid/v2/\": dial tcp: lookup nosuch.invalid: Temporary failure in name resolution",
        ),
        (
            "20: slow",
            Some(500),
            "Get \"https://r.io/v2/\": net/http: request canceled while waiting for connection (Client.Timeout exceeded while awaiting headers)",
        ),
        ("20: slow TLS", Some(500), "Get \"https://r.io/v2/\": net/http: TLS handshake timeout"),
        ("20: certificate", Some(500), "Get \"https://r.io/v2/\": x509: certificate signed by unknown authority"),
        ("20: plain HTTP", Some(500), "Get \"https://r.io/v2/\": http: server gave HTTP response to HTTPS client"),
        ("20: connection closed early", None, "unexpected EOF"),
        ("20: connection closed early, no range requests", None, "expected HTTP 206 from byte range request"),
        ("20: layer redirects to an unreachable host", None, "dial tcp 127.0.0.1:1: connect: connection refused"),
        (
            "20: layer redirects to an unknown host",
            None,
            "dial tcp: lookup nosuch.invalid on 10.0.0.53:53: dial udp 10.0.0.53:53: connect: network is unreachable",
        ),
        (
            "28: 500",
            Some(500),
            "unknown: failed to resolve reference \"r.io/a:1\": unexpected status from HEAD request to http://r.io/v2/a/manifests/1: 500 Internal Server Error",
        ),
        (
            "28: 503",
            Some(500),
            "unknown: failed to resolve reference \"r.io/a:1\": unexpected status from HEAD request to http://r.io/v2/a/manifests/1: 503 Service Unavailable",
        ),
        ("28: layer, 500", None, "error from registry: internal error"),
        (
            "28: no connection",
            Some(500),
            "failed to resolve reference \"127.0.0.1:1/a:latest\": failed to do request: Head \"https://127.0.0.1:1/v2/a/manifests/latest\": dial tcp 127.0.0.1:1: connect: connection refused",
        ),
        (
            "28: unknown host",
            Some(500),
            "failed to resolve reference \"nosuch.invalid/a:latest\": failed to do request: Head \"https://nosuch.invalid/v2/a/manifests/latest\": dial tcp: lookup nosuch.invalid on 10.0.0.53:53: no such host",
        ),
        (
            "28: layer redirects to an unreachable host",
            None,
            "failed to copy: httpReadSeeker: failed open: failed to do request: Get \"http://127.0.0.1:1/blob\": dial tcp 127.0.0.1:1: connect: connection refused",
        ),
        ("28: connection closed early", None, "short read: expected 2219 bytes but got 100: unexpected EOF"),
        (
            "28: connection closed",
            Some(500),
            "failed to resolve reference \"r.io/a:1\": failed to do request: Head \"https://r.io/v2/a/manifests/1\": EOF",
        ),
        (
            "podman",
            Some(500),
            "initializing source docker://r.io/a:1: pinging container registry r.io: Get \"https://r.io/v2/\": dial tcp: lookup r.io: no such host",
        ),
        ("only a status", Some(503), "later"),
    ];
    check(&rows, PullCause::RegistryUnreachable);
}

#[test]
fn k6_texts_of_a_failing_engine() {
    let rows = [(
        "containerd is unreachable",
        Some(500),
        "connection error: desc = \"transport: Error while dialing: dial unix /run/containerd/containerd.sock: connect: connection refused\"",
    )];
    check(&rows, PullCause::EngineUnreachable);
}

#[test]
fn k6_texts_that_match_no_row() {
    let rows = [
        ("no permission to write", None, "open /var/lib/docker/tmp/x: permission denied"),
        ("subordinate ids", None, "failed to register layer: lchown /app/x: invalid argument"),
        ("missing program", Some(500), "exec: \"unpigz\": executable file not found in $PATH"),
        ("empty", Some(500), ""),
    ];
    check(&rows, PullCause::Other);
}

#[test]
fn k6_an_image_name_never_matches_a_row() {
    for name in ["denied", "unauthorized", "not-found", "no-space-left-on-device", "toomanyrequests", "eof", "http"] {
        let text = format!("failed to resolve reference \"r.io/{name}:{name}\": an unknown failure");
        assert_eq!(classify(Some(500), &text), PullCause::Other, "{text}");
    }
}
