//! Reads digests, platform and origin from an engine's image inspection.

use imagewatch_abi::{Digest, ImageOrigin, Reference};
use serde_json::Value;

/// What the engine reports about an image.
#[derive(Debug, Clone, Default)]
pub struct ImageFacts {
    /// Whether the engine has the image. An image can be removed while containers still run it.
    is_present: bool,
    /// The digests by repository, `name@digest`.
    pub repo_digests: Vec<String>,
    /// The image's own digest, which the containerd store and Podman report. Docker's graph drivers report none. Unlike
    /// `repo_digests`, it remains when a pull moves the tag to another image.
    pub target: Option<Digest>,
    /// `os/arch[/variant]`. `None` if the engine does not report it.
    pub platform: Option<String>,
    /// The repositories that the image was pulled from. `None` if the engine does not report them.
    pulled_from: Option<Vec<String>>,
}

impl ImageFacts {
    /// Parses an image inspection. Null means that the engine does not have the image. Set `has_identity` if the
    /// inspection was requested with `Identity` (API 1.55). The engine omits `Identity` if it knows nothing about the
    /// image.
    pub fn parse(inspection: &Value, has_identity: bool) -> Self {
        let texts = |list: &Value, key: Option<&str>| -> Vec<String> {
            let items = list.as_array().into_iter().flatten().map(|item| key.map_or(item, |key| &item[key]));
            items.filter_map(Value::as_str).map(str::to_owned).collect()
        };
        Self {
            is_present: !inspection.is_null(),
            repo_digests: texts(&inspection["RepoDigests"], None),
            target: inspection["Descriptor"]["digest"].as_str().and_then(|digest| digest.parse().ok()),
            platform: platform_of(inspection),
            pulled_from: has_identity.then(|| texts(&inspection["Identity"]["Pull"], Some("Repository"))),
        }
    }

    /// Where the image came from, for a container that was created from the reference `image`. Graph drivers set a
    /// repository digest only on a pull or a push. The containerd store and Podman set one for every named image, even
    /// if it was built or loaded. For these, only the engine's report of a pull counts.
    pub fn origin(&self, image: &str, is_podman: bool) -> ImageOrigin {
        let Ok(reference) = image.parse::<Reference>() else { return ImageOrigin::Unknown };
        let origin_of = |repositories: &[String]| {
            let is_same = |name: &String| name.parse::<Reference>().is_ok_and(|other| other.name() == reference.name());
            match repositories {
                [] => ImageOrigin::Local,
                some if some.iter().any(is_same) => ImageOrigin::Registry,
                _ => ImageOrigin::Unknown,
            }
        };
        let all_have_digests = is_podman || self.target.is_some();
        match &self.pulled_from {
            _ if !self.is_present => ImageOrigin::Unknown,
            Some(repositories) if self.target.is_some() => origin_of(repositories),
            _ if all_have_digests => ImageOrigin::Unknown,
            _ => origin_of(&self.repo_digests),
        }
    }
}

/// The platform of an image inspection, `os/arch[/variant]`. `None` if the inspection does not contain it.
pub fn platform_of(inspection: &Value) -> Option<String> {
    join(["Os", "Architecture", "Variant"].map(|key| inspection[key].as_str()))
}

/// The platform of the manifest that a container runs, `os/arch[/variant]`, from its descriptor. `None` on graph
/// drivers.
pub fn platform_of_manifest(descriptor: &Value) -> Option<String> {
    join(["os", "architecture", "variant"].map(|key| descriptor["platform"][key].as_str()))
}

fn join(parts: [Option<&str>; 3]) -> Option<String> {
    let [os, architecture, variant] = parts.map(|part| part.filter(|part| !part.is_empty()));
    let variant = variant.map(|variant| format!("/{variant}")).unwrap_or_default();
    Some(format!("{}/{}{variant}", os?, architecture?))
}

#[cfg(test)]
mod tests;
