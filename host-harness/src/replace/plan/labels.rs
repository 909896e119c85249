//! The labels by which an operator settles what no inspection tells. Reads them; takes no decision.

use serde_json::Value;

/// What every label of ours begins with. They are never taken for the image's own.
pub(super) const OURS: &str = "imagewatch.";
/// Marks the container that a replacement made. Never carried: the next one writes its own.
pub(super) const TRANSACTION: &str = "imagewatch.transaction";
/// Names of variables that stay as they are even where the old image had the same value, apart by commas.
pub(super) const KEEP_ENV: &str = "imagewatch.keep-env";
/// Networks whose MAC address is a configured one, apart by commas; see `networks`.
pub(super) const KEEP_MAC: &str = "imagewatch.keep-mac";
/// `true`: replace it although it was created with `--rm`.
pub(super) const ALLOW_RM: &str = "imagewatch.allow-rm";
/// `true`: files that were put into the container from outside may go with it.
pub(super) const CARRY_NOTHING: &str = "imagewatch.carry-nothing";
/// `true`: two containers may write to its volumes at once.
pub(super) const SHARED_VOLUMES_SAFE: &str = "imagewatch.shared-volumes-safe";
/// What must answer before it counts as healthy.
pub(super) const PROBE: &str = "imagewatch.probe";
pub(super) const COMPOSE_PROJECT: &str = "com.docker.compose.project";
pub(super) const COMPOSE_SERVICE: &str = "com.docker.compose.service";

/// The value of a container's label; `None` also if it is empty.
pub(super) fn label<'a>(container: &'a Value, key: &str) -> Option<&'a str> {
    container["Config"]["Labels"][key].as_str().map(str::trim).filter(|value| !value.is_empty())
}

pub(super) fn is_true(container: &Value, key: &str) -> bool {
    label(container, key) == Some("true")
}

/// The parts of a label that is a list.
pub(super) fn list<'a>(container: &'a Value, key: &str) -> Vec<&'a str> {
    label(container, key).into_iter().flat_map(|text| text.split(',')).map(str::trim).collect()
}
