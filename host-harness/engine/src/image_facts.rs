//! What an engine's inspection of an image says: its digests, its platform, and where it came from.

use imagewatch_abi::{Digest, ImageOrigin, Reference};
use serde_json::Value;

/// What the engine knows of an image.
#[derive(Debug, Clone, Default)]
pub struct ImageFacts {
    /// Whether the engine has the image at all: one that containers run can be gone.
    is_there: bool,
    /// The digests of its repositories, `name@digest`.
    pub repo_digests: Vec<String>,
    /// The containerd store's own, and Podman's; Docker's graph drivers have none. Unlike the others it stays when a
    /// pull moves the image's tag on.
    pub target: Option<Digest>,
    /// `os/arch[/variant]`; absent where the engine does not report it.
    pub platform: Option<String>,
    /// The repositories that it was pulled from; absent where the engine does not report them.
    pulled_from: Option<Vec<String>>,
}

impl ImageFacts {
    /// Reads an image inspection; null is an image that is not there. `has_identity`: the engine was asked for the image's
    /// `Identity` and can report it (API 1.55); it leaves that out of an image of which it knows nothing.
    pub fn parse(inspection: &Value, has_identity: bool) -> Self {
        let texts = |list: &Value, key: Option<&str>| -> Vec<String> {
            let items = list.as_array().into_iter().flatten().map(|item| key.map_or(item, |key| &item[key]));
            items.filter_map(Value::as_str).map(str::to_owned).collect()
        };
        Self {
            is_there: !inspection.is_null(),
            repo_digests: texts(&inspection["RepoDigests"], None),
            target: inspection["Descriptor"]["digest"].as_str().and_then(|digest| digest.parse().ok()),
            platform: platform_of(inspection),
            pulled_from: has_identity.then(|| texts(&inspection["Identity"]["Pull"], Some("Repository"))),
        }
    }

    /// Where the image came from, seen from a container that was created from it by the name `image`. Graph drivers set a
    /// repository's digest by a pull or a push only. The containerd store and Podman give one to every image that has a
    /// name, also to those that were built or loaded; there, only what the engine reports of a pull counts.
    pub fn origin(&self, image: &str, is_podman: bool) -> ImageOrigin {
        let Ok(reference) = image.parse::<Reference>() else { return ImageOrigin::Unknown };
        let came_from = |repositories: &[String]| {
            let is_it = |name: &String| name.parse::<Reference>().is_ok_and(|other| other.name() == reference.name());
            match repositories {
                [] => ImageOrigin::Local,
                some if some.iter().any(is_it) => ImageOrigin::Registry,
                _ => ImageOrigin::Unknown,
            }
        };
        let gives_digests_to_all = is_podman || self.target.is_some();
        match &self.pulled_from {
            _ if !self.is_there => ImageOrigin::Unknown,
            Some(repositories) if self.target.is_some() => came_from(repositories),
            _ if gives_digests_to_all => ImageOrigin::Unknown,
            _ => came_from(&self.repo_digests),
        }
    }
}

/// `os/arch[/variant]` of an image inspection.
pub fn platform_of(inspection: &Value) -> Option<String> {
    join(["Os", "Architecture", "Variant"].map(|key| inspection[key].as_str()))
}

/// `os/arch[/variant]` of the manifest that a container runs, from its descriptor; absent on graph drivers.
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
