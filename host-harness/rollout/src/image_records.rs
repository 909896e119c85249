//! What replacements remember of images beyond the life of the process. The program implements it with its store.

use std::error::Error;
use std::fmt;

use imagewatch_abi::{Container, ImageOrigin, Reference};
use serde_json::Value;

/// Why a record was not read or written; reads after "failed to ".
pub type RecordError = Box<dyn Error + Send + Sync>;

/// Records of images. Each call may block for as long as a small file takes to read or to sync.
pub trait ImageRecords: fmt::Debug + Send + Sync {
    /// The config of the image `image_id`, as it was kept.
    fn image_config(&self, image_id: &str) -> Result<Option<Value>, RecordError>;

    /// Keeps the config of the image `image_id`. A later one replaces it.
    fn keep_image_config(&self, image_id: &str, config: &Value) -> Result<(), RecordError>;

    /// Records that a container of `repository` ran `image_id` until `at_ms`, in milliseconds since 1970. If it is recorded
    /// already, the later time counts.
    fn record_previous_image(&self, repository: &str, image_id: &str, at_ms: u64) -> Result<(), RecordError>;

    /// The images that containers of `repository` ran before, newest first.
    fn previous_images(&self, repository: &str) -> Result<Vec<String>, RecordError>;

    /// Removes the records of a removed image, in every repository. Its config stays: a container may run it.
    fn forget_previous_image(&self, image_id: &str) -> Result<(), RecordError>;

    /// Records that imagewatch pulled `image_id` from `repository`.
    fn record_pulled_image(&self, repository: &str, image_id: &str) -> Result<(), RecordError>;

    /// Whether imagewatch pulled `image_id` from `repository`.
    fn has_pulled_image(&self, repository: &str, image_id: &str) -> Result<bool, RecordError>;
}

/// Sets the origin of each container whose image imagewatch pulled from the repository that the container names, where
/// the engine does not report an origin.
///
/// # Errors
/// The records cannot be read; the containers that follow stay as they are.
pub fn complete_origins(records: &dyn ImageRecords, containers: &mut [Container]) -> Result<(), RecordError> {
    for container in containers.iter_mut().filter(|container| container.origin != Some(ImageOrigin::Registry)) {
        let Ok(reference) = container.image.parse::<Reference>() else { continue };
        if records.has_pulled_image(&reference.name(), &container.image_id)? {
            container.origin = Some(ImageOrigin::Registry);
        }
    }
    Ok(())
}

/// Records that end with the process.
#[cfg(any(test, feature = "testing"))]
pub mod testing {
    use std::collections::{BTreeMap, BTreeSet};
    use std::sync::{Mutex, MutexGuard, PoisonError};

    use serde_json::Value;

    use super::{ImageRecords, RecordError};

    /// See the module.
    #[derive(Debug, Default)]
    pub struct MemoryRecords(Mutex<Records>);

    #[derive(Debug, Default)]
    struct Records {
        configs: BTreeMap<String, Value>,
        /// By repository and image.
        previous: BTreeMap<(String, String), u64>,
        pulled: BTreeSet<(String, String)>,
    }

    impl MemoryRecords {
        fn records(&self) -> MutexGuard<'_, Records> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner)
        }
    }

    fn key(repository: &str, image_id: &str) -> (String, String) {
        (repository.to_owned(), image_id.to_owned())
    }

    impl ImageRecords for MemoryRecords {
        fn image_config(&self, image_id: &str) -> Result<Option<Value>, RecordError> {
            Ok(self.records().configs.get(image_id).cloned())
        }

        fn keep_image_config(&self, image_id: &str, config: &Value) -> Result<(), RecordError> {
            self.records().configs.insert(image_id.to_owned(), config.clone());
            Ok(())
        }

        fn record_previous_image(&self, repository: &str, image_id: &str, at_ms: u64) -> Result<(), RecordError> {
            let mut records = self.records();
            let until_ms = records.previous.entry(key(repository, image_id)).or_default();
            *until_ms = at_ms.max(*until_ms);
            Ok(())
        }

        fn previous_images(&self, repository: &str) -> Result<Vec<String>, RecordError> {
            let records = self.records();
            let of_repository = records.previous.iter().filter(|((name, _), _)| name == repository);
            let mut images: Vec<_> = of_repository.map(|((_, image_id), until_ms)| (*until_ms, image_id)).collect();
            images.sort_by(|one, other| other.0.cmp(&one.0).then(one.1.cmp(other.1)));
            Ok(images.into_iter().map(|(_, image_id)| image_id.clone()).collect())
        }

        fn forget_previous_image(&self, image_id: &str) -> Result<(), RecordError> {
            let mut records = self.records();
            records.previous.retain(|(_, id), _| id != image_id);
            records.pulled.retain(|(_, id)| id != image_id);
            Ok(())
        }

        fn record_pulled_image(&self, repository: &str, image_id: &str) -> Result<(), RecordError> {
            self.records().pulled.insert(key(repository, image_id));
            Ok(())
        }

        fn has_pulled_image(&self, repository: &str, image_id: &str) -> Result<bool, RecordError> {
            Ok(self.records().pulled.contains(&key(repository, image_id)))
        }
    }
}
