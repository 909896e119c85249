//! The one label of `docker compose` that follows the image: with the old image's, the next `docker compose up`
//! would make the container anew. All its other labels are carried as they are.

use serde_json::{Value, json};

use super::{Object, PlanInput, is_empty, platform_of};
use imagewatch_engine::ApiVersion;

const IMAGE: &str = "com.docker.compose.image";
const VERSION: &str = "com.docker.compose.version";
/// From here on compose writes the digest of the manifest for the platform, where the engine lists manifests.
const BY_MANIFEST: (u32, u32) = (5, 4);

/// Writes the new image's identity as the compose that made the container would.
pub(super) fn update_image(labels: &mut Object, input: &PlanInput<'_>) {
    let image = input.new_image;
    let version = labels.get(VERSION).and_then(Value::as_str).and_then(parse_version);
    let is_by_manifest =
        version.is_some_and(|version| version >= BY_MANIFEST) && input.api >= ApiVersion::IMAGE_MANIFESTS;
    let manifest = if is_by_manifest { manifest_of_platform(image, input.platform) } else { None };
    let identity = manifest.or_else(|| image["Id"].as_str());
    if let (Some(label), Some(identity)) = (labels.get_mut(IMAGE), identity) {
        *label = json!(identity);
    }
}

/// `v2.24.6+ds1` is 2.24.
fn parse_version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.trim_start_matches('v').split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// Of the manifests whose content is here, the platform's; else the only one.
fn manifest_of_platform<'a>(image: &'a Value, platform: Option<&str>) -> Option<&'a str> {
    let available: Vec<&Value> = image["Manifests"]
        .as_array()?
        .iter()
        .filter(|manifest| manifest["Kind"] == "image" && manifest["Available"] == true)
        .collect();
    let wanted = platform.map(str::to_owned).or_else(|| platform_of(image));
    let is_wanted = |manifest: &&Value| matches_platform(&manifest["ImageData"]["Platform"], wanted.as_deref());
    let only = available.first().copied().filter(|_| available.len() == 1);
    available.iter().copied().find(|manifest| is_wanted(manifest)).or(only)?["ID"].as_str()
}

/// A variant counts only where both members name one.
fn matches_platform(platform: &Value, wanted: Option<&str>) -> bool {
    let mut wanted = wanted.unwrap_or_default().split('/');
    let (os, architecture, variant) = (wanted.next(), wanted.next(), wanted.next());
    let is_variant = |variant: &str| is_empty(&platform["variant"]) || platform["variant"] == variant;
    platform["os"].as_str() == os && platform["architecture"].as_str() == architecture && variant.is_none_or(is_variant)
}
