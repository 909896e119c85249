//! What is remembered of images: the configuration of each that a container runs, for when the image itself is
//! gone; and which images were replaced, so that all but the last few can be removed. Removes none that anything uses.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use imagewatch_abi::{Container, Reference, short_digest};
use serde_json::{Value, json};
use tracing::{debug, info, warn};

use super::Replacer;
use super::recovery::diagnose;
use crate::clock::now_ms;
use crate::engine::{EngineError, Listed};
use crate::store::{Store, StoreError};

/// The store, and which images are in it for sure.
pub struct KnownImages {
    store: Arc<Store>,
    known: Mutex<BTreeSet<String>>,
}

impl fmt::Debug for KnownImages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KnownImages").finish_non_exhaustive()
    }
}

impl KnownImages {
    /// In `store`.
    pub fn new(store: Arc<Store>) -> Self {
        Self { store, known: Mutex::default() }
    }

    /// Notes that this program pulled `image_id` by `reference`.
    pub fn note_pulled(&self, reference: &Reference, image_id: &str) {
        said(self.store.note_pulled_image(&reference.name(), image_id));
    }

    /// See [`Store::complete_origins`].
    pub fn complete_origins(&self, containers: &mut [Container]) {
        said(self.store.complete_origins(containers));
    }

    fn is_known(&self, image_id: &str) -> bool {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).contains(image_id)
    }

    /// Keeps what a plan needs of an image.
    fn keep(&self, image_id: &str, image: &Value) {
        let fields = ["Id", "Config", "Os", "Architecture", "Variant"];
        let kept: serde_json::Map<String, Value> =
            fields.iter().map(|field| ((*field).to_owned(), image[*field].clone())).collect();
        said(self.store.keep_image_config(image_id, &json!(kept)));
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(image_id.to_owned());
    }
}

impl Replacer {
    /// The inspection of an image, or what is remembered of it; `None` when it is gone and nothing is.
    pub(super) async fn image(&self, image_id: &str) -> Result<Option<Value>, EngineError> {
        let image = self.engine.inspect_image(image_id).await?;
        Ok(image.or_else(|| said(self.images.store.image_config(image_id)).flatten()))
    }

    /// Remembers the images of `containers`, while they are there.
    pub(super) async fn remember_images(&self, containers: &[Listed]) -> Result<(), EngineError> {
        let ids: BTreeSet<&str> = containers.iter().map(|container| container.image_id.as_str()).collect();
        for id in ids.into_iter().filter(|id| !self.images.is_known(id)) {
            if let Some(image) = self.engine.inspect_image(id).await? {
                self.images.keep(id, &image);
            }
        }
        Ok(())
    }

    /// Notes that `reference` ran `image_id` until now, and removes its older images but for the last `keep`. An
    /// image that a container runs, or that an open transaction may need, stays.
    pub async fn retire_image(&self, reference: &Reference, image_id: &str, keep: Option<usize>) {
        let repository = reference.name();
        said(self.images.store.note_previous_image(&repository, image_id, now_ms()));
        let Some(keep) = keep else { return };
        let listed = match self.engine.list().await {
            Ok(listed) => listed,
            Err(error) => return debug!(%repository, %error, "old images are left for the next time"),
        };
        let open = diagnose(&listed, &self.journal.transactions());
        let needed = open.iter().flat_map(|open| &open.transaction.sides).map(|side| side.part.old_image.as_str());
        let used: BTreeSet<&str> = listed.iter().map(|container| container.image_id.as_str()).chain(needed).collect();
        let previous = said(self.images.store.previous_images(&repository)).unwrap_or_default();
        for id in previous.iter().skip(keep).filter(|id| !used.contains(id.as_str())) {
            match self.engine.remove_image(id).await {
                Ok(()) => info!(image_id = short_digest(id), %repository, "removed an old image"),
                Err(error) if error.is_gone() => {}
                Err(error) => {
                    warn!(image_id = short_digest(id), %repository, %error, "an old image could not be removed");
                    continue;
                }
            }
            said(self.images.store.forget_previous_image(id));
        }
    }
}

/// A store that fails costs what it would have remembered, and nothing else.
fn said<T>(result: Result<T, StoreError>) -> Option<T> {
    result.map_err(|error| warn!("failed to {error}")).ok()
}
