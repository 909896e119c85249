//! Builds images from scratch in memory: a static busybox with its applets, some files, and a config. It builds
//! documents and blobs, and sends nothing.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::sync::LazyLock;

use flate2::Compression;
use flate2::write::GzEncoder;
use imagewatch_abi::Digest;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::components;

/// The media type of the manifest that a push sends.
pub const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";
const LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const APPLETS: [&str; 17] = [
    "sh", "httpd", "sleep", "cat", "echo", "env", "ls", "wget", "test", "true", "false", "kill", "nslookup",
    "readlink", "rm", "touch", "usleep",
];
/// The container port of [`ImageSpec::web`].
pub const WEB_PORT: u16 = 8080;
/// A path of [`ImageSpec::graceful`]. Its answer comes only after the container was asked to stop.
pub const LINGERING: &str = "/cgi-bin/lingering";

/// Ends when no request is in progress. After the stop signal, it accepts no new requests.
const GRACEFUL: &str = "httpd -f -p 8080 -h /www & httpd=$!
trap 'touch /stopping; kill $httpd; while ls /busy-* >/dev/null 2>&1; do usleep 20000; done; exit 0' TERM
while :; do sleep 3600 & wait $!; done";

/// Answers half a second after the stop signal, or after half a minute.
const LINGERING_SCRIPT: &str = "#!/bin/sh
touch /busy-$$
tries=0
while [ ! -e /stopping ] && [ $tries -lt 600 ]; do usleep 50000; tries=$((tries + 1)); done
usleep 500000
echo
cat /version
[ -e /stopping ] && echo ', while stopping'
exec >&-
# In the meantime, the server sends the answer.
usleep 300000
rm /busy-$$
";

/// The content of an image. Different specs give different digests; equal specs give the same image.
#[derive(Debug, Clone, Default)]
pub struct ImageSpec {
    /// Whether the image contains the busybox layer. Without this layer, nothing in the image can run.
    pub has_busybox: bool,
    /// Files by path, without the leading `/`.
    pub files: BTreeMap<String, String>,
    /// `Cmd`.
    pub cmd: Vec<String>,
    /// `Env`, as `NAME=value`.
    pub env: Vec<String>,
    /// `Labels`.
    pub labels: BTreeMap<String, String>,
    /// `StopSignal`. The engine's default is SIGTERM.
    pub stop_signal: Option<String>,
    /// `ExposedPorts`, TCP.
    pub exposed_ports: Vec<u16>,
    /// `Healthcheck`: a shell command that runs each second. Two failures make the container unhealthy.
    pub health_command: Option<String>,
    /// The platform that the image claims, as `os/arch[/variant]`. `None` is the platform of this machine. The files
    /// are always for this machine.
    pub platform: Option<String>,
}

impl ImageSpec {
    /// An image that contains only its name, for checks that never run a container.
    pub fn label_only(version: &str) -> Self {
        Self { labels: BTreeMap::from([("version".to_owned(), version.to_owned())]), ..Self::default() }
    }

    /// An image that runs until it is stopped and ends immediately on SIGTERM. `version` is in `/version`, `$VERSION`
    /// and the label `version`.
    pub fn sleeper(version: &str) -> Self {
        Self::service(version, "")
    }

    /// Like [`sleeper`](Self::sleeper), and serves `version` at `http://…:8080/`.
    pub fn web(version: &str) -> Self {
        let mut spec = Self::service(version, &format!("httpd -p {WEB_PORT} -h /www; "));
        spec.files.insert("www/index.html".to_owned(), version.to_owned());
        spec.exposed_ports = vec![WEB_PORT];
        spec
    }

    /// Like [`web`](Self::web), with a health check. The server answers the requests in progress before it ends. See
    /// [`LINGERING`].
    pub fn graceful(version: &str) -> Self {
        let health = format!("wget -q -O /dev/null http://127.0.0.1:{WEB_PORT}/");
        let mut spec = Self { health_command: Some(health), ..Self::web(version).running(GRACEFUL) };
        spec.files.insert(format!("www{LINGERING}"), LINGERING_SCRIPT.to_owned());
        spec
    }

    /// An image that exits with code 1 immediately after its start: a bad release.
    pub fn broken(version: &str) -> Self {
        Self::sleeper(version).running("echo broken release; exit 1")
    }

    /// Returns the same image with `script` as its command.
    #[must_use]
    pub fn running(self, script: &str) -> Self {
        Self { cmd: ["sh", "-c", script].map(str::to_owned).to_vec(), ..self }
    }

    fn service(version: &str, start: &str) -> Self {
        // As process 1, a shell without a trap ignores SIGTERM, and each stop would take ten seconds.
        let script = format!("trap 'exit 0' TERM; {start}while :; do sleep 3600 & wait $!; done");
        Self {
            has_busybox: true,
            files: BTreeMap::from([("version".to_owned(), version.to_owned())]),
            env: vec!["PATH=/bin".to_owned(), format!("VERSION={version}")],
            ..Self::label_only(version)
        }
        .running(&script)
    }
}

/// A content-addressed blob.
#[derive(Debug, Clone)]
pub(crate) struct Blob {
    pub(crate) digest: Digest,
    pub(crate) bytes: Vec<u8>,
}

/// Everything that a push sends.
#[derive(Debug)]
pub(crate) struct BuiltImage {
    /// The config and the layers.
    pub(crate) blobs: Vec<Blob>,
    pub(crate) manifest: Blob,
}

struct Layer {
    blob: Blob,
    /// The digest of the uncompressed tar, as listed in the config.
    diff_id: Digest,
}

static BUSYBOX: LazyLock<Layer> = LazyLock::new(|| {
    let path = components::busybox();
    let busybox = fs::read(&path).unwrap_or_else(|error| panic!("failed to read {}: {error}", path.display()));
    let mut tar = tar::Builder::new(Vec::new());
    append_file(&mut tar, "bin/busybox", &busybox, 0o755);
    for applet in APPLETS {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        header.set_mode(0o777);
        tar.append_link(&mut header, format!("bin/{applet}"), "busybox").expect("a write to a vector succeeds");
    }
    finish_layer(tar)
});

/// Builds `spec` for this machine's architecture. The same spec gives the same bytes.
pub(crate) fn build_image(spec: &ImageSpec) -> BuiltImage {
    let files = (!spec.files.is_empty()).then(|| build_files_layer(&spec.files));
    let layers: Vec<&Layer> = spec.has_busybox.then(|| &*BUSYBOX).into_iter().chain(&files).collect();
    let config = blob(build_config(spec, &layers).to_string().into_bytes());
    let manifest = blob(build_manifest(&config, &layers).to_string().into_bytes());
    let blobs = layers.iter().map(|layer| layer.blob.clone()).chain([config]).collect();
    BuiltImage { blobs, manifest }
}

fn build_config(spec: &ImageSpec, layers: &[&Layer]) -> Value {
    let ports: BTreeMap<String, Value> =
        spec.exposed_ports.iter().map(|port| (format!("{port}/tcp"), json!({}))).collect();
    let mut config = json!({"Cmd": spec.cmd, "Env": spec.env, "Labels": spec.labels, "ExposedPorts": ports});
    if let Some(signal) = &spec.stop_signal {
        config["StopSignal"] = json!(signal);
    }
    if let Some(command) = &spec.health_command {
        config["Healthcheck"] = json!({"Test": ["CMD-SHELL", command], "Interval": 1_000_000_000_u64, "Retries": 2});
    }
    let platform = spec.platform.clone().unwrap_or_else(|| format!("linux/{}", go_architecture()));
    let mut image = platform_fields(&platform);
    image["created"] = json!("2026-01-01T00:00:00Z");
    image["config"] = config;
    let diff_ids: Vec<_> = layers.iter().map(|layer| &layer.diff_id).collect();
    image["rootfs"] = json!({"type": "layers", "diff_ids": diff_ids});
    image
}

/// `os/arch[/variant]` as the fields of an image config and of an index.
pub(crate) fn platform_fields(platform: &str) -> Value {
    let parts = ["os", "architecture", "variant"].into_iter().zip(platform.split('/'));
    parts.map(|(field, part)| (field.to_owned(), json!(part))).collect::<serde_json::Map<_, _>>().into()
}

fn build_manifest(config: &Blob, layers: &[&Layer]) -> Value {
    let describe = |media_type: &str, blob: &Blob| json!({"mediaType": media_type, "digest": blob.digest, "size": blob.bytes.len()});
    json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": describe(CONFIG_TYPE, config),
        "layers": layers.iter().map(|layer| describe(LAYER_TYPE, &layer.blob)).collect::<Vec<_>>(),
    })
}

fn build_files_layer(files: &BTreeMap<String, String>) -> Layer {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, content) in files {
        // All files are executable, because some are scripts.
        append_file(&mut tar, path, content.as_bytes(), 0o755);
    }
    finish_layer(tar)
}

fn append_file(tar: &mut tar::Builder<Vec<u8>>, path: &str, content: &[u8], mode: u32) {
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(mode);
    tar.append_data(&mut header, path, content).expect("a write to a vector succeeds");
}

fn finish_layer(tar: tar::Builder<Vec<u8>>) -> Layer {
    let tar = tar.into_inner().expect("a write to a vector succeeds");
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(&tar).expect("a write to a vector succeeds");
    Layer { blob: blob(gzip.finish().expect("a write to a vector succeeds")), diff_id: sha256(&tar) }
}

fn blob(bytes: Vec<u8>) -> Blob {
    Blob { digest: sha256(&bytes), bytes }
}

/// The digest of `bytes`, as a registry computes it.
pub fn sha256(bytes: &[u8]) -> Digest {
    let hash = Sha256::digest(bytes);
    let text = hash.iter().fold("sha256:".to_owned(), |text, byte| text + &format!("{byte:02x}"));
    text.parse().expect("64 lower-case hex digits")
}

fn go_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
