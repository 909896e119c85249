//! What everything is measured on: a real registry with its images, and manifests that watch them all.

use std::path::{Path, PathBuf};

use futures_util::{StreamExt, stream};
use imagewatch_tests::image::ImageSpec;
use imagewatch_tests::plugin_manifest::PluginManifest;
use imagewatch_tests::registry::{Registry, RegistryAuth};
use tempfile::TempDir;

/// How many images are watched: each in a repository of its own and with a digest of its own.
pub(crate) const IMAGES: usize = 500;

/// As in [`IMAGES`], for dividing.
#[expect(clippy::cast_precision_loss, reason = "500 is exact")]
pub(crate) const IMAGES_F: f64 = IMAGES as f64;

/// The registry, and a folder for manifests.
#[derive(Debug)]
pub(crate) struct World {
    registry: Registry,
    folder: TempDir,
    /// Where the engine is. Nothing that is measured asks it anything.
    pub(crate) docker_host: String,
}

impl World {
    /// A registry with all images in it.
    pub(crate) async fn start() -> Self {
        let docker_host = std::env::var("DOCKER_HOST").expect("DOCKER_HOST is set; `cargo xtask bench` does it");
        let registry = Registry::start(RegistryAuth::None).await;
        let target = registry.target();
        let pushes = (0..IMAGES).map(|index| {
            let target = &target;
            async move { target.push(&repository(index), "latest", &ImageSpec::label_only(&index.to_string())).await }
        });
        stream::iter(pushes).buffer_unordered(16).for_each(async |_| {}).await;
        Self { registry, folder: TempDir::new().expect("the temp folder takes folders"), docker_host }
    }

    /// `127.0.0.1:PORT` of the registry itself.
    pub(crate) fn host(&self) -> String {
        self.registry.host()
    }

    /// Where a policy that is called here keeps its quarantine.
    pub(crate) fn state_dir(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// Writes a manifest that watches every image at `host`, the registry or what stands before it.
    pub(crate) fn write_manifest(&self, name: &str, host: &str, interval: &str) -> PathBuf {
        let images = (0..IMAGES).map(|index| format!("{host}/{}:latest", repository(index)));
        watching(images, host).config("interval", interval).write(self.folder.path(), name)
    }

    /// Where manifests and other files go.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }
}

/// A manifest that watches `images`, all of them at `host`.
pub(crate) fn watching(images: impl IntoIterator<Item = String>, host: &str) -> PluginManifest {
    let images: Vec<String> = images.into_iter().collect();
    PluginManifest::new().config("images", &images.join(" ")).config("grant.images", "*").allow_host(host)
}

fn repository(index: usize) -> String {
    format!("bench/app-{index:03}")
}
