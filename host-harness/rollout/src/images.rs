//! What is remembered of images: the configuration of each that a container runs, for when the image itself is
//! gone; and which images were replaced, so that all but the last few can be removed. Removes none that anything uses.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use imagewatch_abi::{Container, Reference, short_digest};
use serde_json::{Value, json};
use tracing::{debug, info, warn};

use super::Rollout;
use super::recovery::classify;
use crate::image_records::{ImageRecords, RecordError, complete_origins};
use imagewatch_base::clock::now_ms;
use imagewatch_engine::image_facts::{platform_of, platform_of_manifest};
use imagewatch_engine::{EngineError, Listed};

/// The records of images, and which images are recorded for certain.
pub struct KnownImages {
    records: Arc<dyn ImageRecords>,
    known: Mutex<BTreeSet<String>>,
}

impl fmt::Debug for KnownImages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KnownImages").finish_non_exhaustive()
    }
}

impl KnownImages {
    /// Over `records`.
    pub fn new(records: Arc<dyn ImageRecords>) -> Self {
        Self { records, known: Mutex::default() }
    }

    /// Notes that this program pulled `image_id` by `reference`.
    pub fn note_pulled(&self, reference: &Reference, image_id: &str) {
        said(self.records.record_pulled_image(&reference.name(), image_id));
    }

    /// See [`complete_origins`].
    pub fn complete_origins(&self, containers: &mut [Container]) {
        said(complete_origins(&*self.records, containers));
    }

    fn is_known(&self, image_id: &str) -> bool {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).contains(image_id)
    }

    /// Keeps what a plan needs of an image, under the id of the image or the digest of the manifest.
    fn keep(&self, image_id: &str, image: &Value) {
        let fields = ["Id", "Config", "Os", "Architecture", "Variant"];
        let kept: serde_json::Map<String, Value> =
            fields.iter().map(|field| ((*field).to_owned(), image[*field].clone())).collect();
        said(self.records.keep_image_config(image_id, &json!(kept)));
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(image_id.to_owned());
    }
}

impl Rollout {
    /// The inspection of the image that `container` runs, as its own manifest has it, or what is remembered of that;
    /// `None` when it is gone and nothing is.
    pub(super) async fn image_of(&self, container: &Value) -> Result<Option<Value>, EngineError> {
        let image_id = container["Image"].as_str().unwrap_or_default();
        let manifest = &container["ImageManifestDescriptor"];
        let image = self.inspect_own_image(image_id, manifest).await?;
        Ok(image.or_else(|| said(self.images.records.image_config(key_of(image_id, manifest))).flatten()))
    }

    /// Remembers the images of `containers`, while they are there.
    pub(super) async fn remember_images(&self, containers: &[Listed]) -> Result<(), EngineError> {
        let keyed = containers.iter().map(|container| {
            let (id, manifest) = (container.image_id.as_str(), &container.image_manifest_descriptor);
            (key_of(id, manifest), (id, manifest))
        });
        let images: BTreeMap<&str, (&str, &Value)> = keyed.collect();
        for (key, (id, manifest)) in images.into_iter().filter(|(key, _)| !self.images.is_known(key)) {
            if let Some(image) = self.inspect_own_image(id, manifest).await? {
                self.images.keep(key, &image);
            }
        }
        Ok(())
    }

    /// An image as the manifest of that descriptor has it; the descriptor is null where an image has one manifest. `None`
    /// also where the engine has not the content of that manifest, and so shows another one or an empty configuration.
    async fn inspect_own_image(&self, image_id: &str, manifest: &Value) -> Result<Option<Value>, EngineError> {
        let platform = platform_of_manifest(manifest);
        let mut image = match &platform {
            Some(platform) => self.engine.inspect_platform(image_id, platform).await?,
            None => None,
        };
        if image.is_none() {
            image = self.engine.inspect_image(image_id).await?;
        }
        let is_own = |image: &Value| {
            let is_readable = image["Descriptor"].is_null() || platform_of(image).is_some();
            let is_same = image["Descriptor"]["digest"] == manifest["digest"] || platform_of(image) == platform;
            manifest.is_null() || (is_readable && is_same)
        };
        Ok(image.filter(is_own).map(|mut image| {
            // Asked for one platform, the engine answers with the manifest's digest.
            image["Id"] = json!(image_id);
            image
        }))
    }

    /// Notes that `reference` ran `image_id` until now, and removes its older images but for the last `keep`. An
    /// image that a container runs, or that an open transaction other than `made_by` may need, stays.
    pub(super) async fn retire_image(
        &self,
        reference: &Reference,
        image_id: &str,
        keep: Option<usize>,
        made_by: Option<&str>,
    ) {
        let repository = reference.name();
        said(self.images.records.record_previous_image(&repository, image_id, now_ms()));
        let Some(keep) = keep else { return };
        let listed = match self.engine.list().await {
            Ok(listed) => listed,
            Err(error) => return debug!(%repository, %error, "old images are left for the next time"),
        };
        let open = classify(&listed, &self.journal.transactions());
        let others = open.iter().filter(|open| Some(open.transaction.id.as_str()) != made_by);
        let needed = others.flat_map(|open| &open.transaction.members).map(|member| member.state.old_image.as_str());
        let used: BTreeSet<&str> = listed.iter().map(|container| container.image_id.as_str()).chain(needed).collect();
        let previous = said(self.images.records.previous_images(&repository)).unwrap_or_default();
        for id in previous.iter().skip(keep).filter(|id| !used.contains(id.as_str())) {
            match self.engine.remove_image(id).await {
                Ok(()) => info!(image_id = short_digest(id), %repository, "removed an old image"),
                Err(error) if error.is_gone() => {}
                Err(error) => {
                    warn!(image_id = short_digest(id), %repository, %error, "an old image could not be removed");
                    continue;
                }
            }
            said(self.images.records.forget_previous_image(id));
        }
    }
}

/// Under what the image of a container is remembered: of an index, each manifest has a configuration of its own.
fn key_of<'a>(image_id: &'a str, manifest: &'a Value) -> &'a str {
    manifest["digest"].as_str().unwrap_or(image_id)
}

/// Logs a failure. Without the record, only what it would have remembered is lost.
fn said<T>(result: Result<T, RecordError>) -> Option<T> {
    result.map_err(|error| warn!("failed to {error}")).ok()
}
