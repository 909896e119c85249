//! The demo's service: how its container is created, and what is visible from outside.

use std::collections::BTreeMap;

use imagewatch_abi::Digest;
use imagewatch_tests::engine::{RunSpec, Scope};
use imagewatch_tests::image::WEB_PORT;
use imagewatch_tests::unique::free_port;

const NOTE: &str = "/data/note";

/// The user's settings of the service, and the values from its image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Service {
    /// The container's id.
    pub(crate) id: String,
    /// The repository digests of the container's image.
    pub(crate) digests: Vec<Digest>,
    /// The value of `$VERSION`, from the image.
    pub(crate) version: String,
    /// What must not change in an update.
    pub(crate) own: Own,
}

/// The user's own settings and data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Own {
    /// The image reference that the container was created from.
    pub(crate) image: String,
    /// The value of `$GREETING`.
    pub(crate) greeting: String,
    /// The value of the label `team`.
    pub(crate) team: String,
    /// The published address, `127.0.0.1:PORT`.
    pub(crate) address: String,
    /// The content of the note in the volume.
    pub(crate) note: String,
}

/// The container of the service, like `docker run` with a variable, two labels, a port and a volume.
pub(crate) fn build_spec(scope: &Scope, name: &str, image: &str) -> RunSpec {
    let labels = [("imagewatch.enable", "true"), ("team", "shop")];
    RunSpec {
        name: name.to_owned(),
        image: image.to_owned(),
        labels: labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
        env: vec!["GREETING=hello".to_owned()],
        fixed_ports: BTreeMap::from([(WEB_PORT, free_port())]),
        volumes: vec![format!("{}:/data", scope.name("data"))],
        ..RunSpec::default()
    }
}

/// Writes a note into the volume.
pub(crate) async fn write_note(scope: &Scope, name: &str, note: &str) {
    scope.exec(name, &["sh", "-c", &format!("echo '{note}' > {NOTE}")]).await;
}

/// Reads the state of the container with this name, from outside and inside.
pub(crate) async fn observe(scope: &Scope, name: &str) -> Service {
    let now = scope.inspect(name).await.unwrap_or_else(|| panic!("container {name} does not exist"));
    assert!(now.is_running, "{name} does not run");
    let variables = scope.exec(name, &["env"]).await;
    let variable = |key: &str| {
        let line = variables.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        line.unwrap_or_else(|| panic!("{name} has no {key} in its environment:\n{variables}")).to_owned()
    };
    let label = |key: &str| now.labels.get(key).unwrap_or_else(|| panic!("{name} has no label {key}")).clone();
    Service {
        own: Own {
            greeting: variable("GREETING"),
            team: label("team"),
            address: now.published.get(&WEB_PORT).unwrap_or_else(|| panic!("{name} publishes no port")).clone(),
            note: scope.exec(name, &["cat", NOTE]).await.trim().to_owned(),
            image: now.image,
        },
        version: variable("VERSION"),
        digests: now.digests,
        id: now.id,
    }
}
