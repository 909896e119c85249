//! The environment of the measurements: a real registry with images, and manifests that watch all of them.

use std::path::{Path, PathBuf};

use futures_util::{StreamExt, stream};
use imagewatch_tests::image::ImageSpec;
use imagewatch_tests::plugin_manifest::PluginManifest;
use imagewatch_tests::registry::{Registry, RegistryAuth};
use tempfile::TempDir;

/// The number of watched images. Each one has its own repository and digest.
pub(crate) const IMAGES: usize = 500;

/// [`IMAGES`] as a float, for divisions.
#[expect(clippy::cast_precision_loss, reason = "500 is exact")]
pub(crate) const IMAGES_F: f64 = IMAGES as f64;

/// The registry, and a folder for manifests.
#[derive(Debug)]
pub(crate) struct World {
    registry: Registry,
    folder: TempDir,
    /// The address of the engine. No measurement sends it a request.
    pub(crate) docker_host: String,
}

impl World {
    /// Starts a registry and pushes all images.
    pub(crate) async fn start() -> Self {
        let docker_host = std::env::var("DOCKER_HOST").expect("DOCKER_HOST is set; `cargo xtask bench` sets it");
        let registry = Registry::start(RegistryAuth::None).await;
        let target = registry.target();
        let pushes = (0..IMAGES).map(|index| {
            let target = &target;
            async move { target.push(&repository(index), "latest", &ImageSpec::label_only(&index.to_string())).await }
        });
        stream::iter(pushes).buffer_unordered(16).for_each(async |_| {}).await;
        Self { registry, folder: TempDir::new().expect("the temp folder is writable"), docker_host }
    }

    /// The `127.0.0.1:PORT` of the registry.
    pub(crate) fn host(&self) -> String {
        self.registry.host()
    }

    /// The state folder of a policy that is called in this process.
    pub(crate) fn state_dir(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// Writes a manifest that watches every image at `host`, which is the registry or a proxy.
    pub(crate) fn write_manifest(&self, name: &str, host: &str, interval: &str) -> PathBuf {
        let images = (0..IMAGES).map(|index| format!("{host}/{}:latest", repository(index)));
        watching(images, host).config("interval", interval).write(self.folder.path(), name)
    }

    /// The folder for manifests and other files.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }
}

/// A manifest that watches `images` at `host`.
pub(crate) fn watching(images: impl IntoIterator<Item = String>, host: &str) -> PluginManifest {
    let images: Vec<String> = images.into_iter().collect();
    PluginManifest::new().config("images", &images.join(" ")).config("grant.images", "*").allow_host(host)
}

fn repository(index: usize) -> String {
    format!("bench/app-{index:03}")
}
