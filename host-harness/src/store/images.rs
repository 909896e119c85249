//! Images that containers came from, for replacements: their configs, since the engine forgets an image
//! that was removed, and the ones that a repository had before.

use rusqlite::types::Type;
use rusqlite::{OptionalExtension, params};
use serde_json::Value;

use imagewatch_abi::{Container, ImageOrigin, Reference};

use super::{Store, StoreError, column_ms};

impl Store {
    /// The config of the image `image_id`, as it was kept.
    pub fn image_config(&self, image_id: &str) -> Result<Option<Value>, StoreError> {
        self.read(|connection| {
            let sql = "SELECT config FROM image_config WHERE image_id = ?1";
            let parse = |row: &rusqlite::Row<'_>| {
                let json: String = row.get(0)?;
                serde_json::from_str(&json)
                    .map_err(|error| rusqlite::Error::FromSqlConversionFailure(0, Type::Text, Box::new(error)))
            };
            connection.prepare_cached(sql)?.query_row([image_id], parse).optional()
        })
    }

    /// Keeps the config of the image `image_id`; a later one takes its place.
    pub fn keep_image_config(&self, image_id: &str, config: &Value) -> Result<(), StoreError> {
        self.write(|transaction| {
            let sql = "INSERT OR REPLACE INTO image_config (image_id, config) VALUES (?1, ?2)";
            transaction.execute(sql, params![image_id, config.to_string()]).map(drop)
        })
    }

    /// Notes that a container of `repository` ran `image_id` until `at_ms`, milliseconds since 1970; of one
    /// that did so before, the later time counts.
    pub fn note_previous_image(&self, repository: &str, image_id: &str, at_ms: u64) -> Result<(), StoreError> {
        self.write(|transaction| {
            let sql = "INSERT INTO previous_image (repository, image_id, at_ms) VALUES (?1, ?2, ?3)
                ON CONFLICT (repository, image_id) DO UPDATE SET at_ms = max(at_ms, excluded.at_ms)";
            transaction.execute(sql, params![repository, image_id, column_ms(at_ms)]).map(drop)
        })
    }

    /// The images that containers of `repository` ran before, newest first.
    pub fn previous_images(&self, repository: &str) -> Result<Vec<String>, StoreError> {
        self.read(|connection| {
            let sql = "SELECT image_id FROM previous_image WHERE repository = ?1 ORDER BY at_ms DESC, image_id";
            connection.prepare_cached(sql)?.query_map([repository], |row| row.get(0))?.collect()
        })
    }

    /// Notes that this program pulled `image_id` from `repository`.
    pub fn note_pulled_image(&self, repository: &str, image_id: &str) -> Result<(), StoreError> {
        self.write(|transaction| {
            let sql = "INSERT OR IGNORE INTO pulled_image (repository, image_id) VALUES (?1, ?2)";
            transaction.execute(sql, params![repository, image_id]).map(drop)
        })
    }

    /// Completes the origin of those of `containers` of which the engine does not report it: an image that this program
    /// pulled from the repository that the container names came from there.
    pub fn complete_origins(&self, containers: &mut [Container]) -> Result<(), StoreError> {
        for container in containers.iter_mut().filter(|container| container.origin != Some(ImageOrigin::Registry)) {
            let Ok(reference) = container.image.parse::<Reference>() else { continue };
            if self.has_pulled(&reference.name(), &container.image_id)? {
                container.origin = Some(ImageOrigin::Registry);
            }
        }
        Ok(())
    }

    fn has_pulled(&self, repository: &str, image_id: &str) -> Result<bool, StoreError> {
        self.read(|connection| {
            let sql = "SELECT 1 FROM pulled_image WHERE repository = ?1 AND image_id = ?2";
            connection.prepare_cached(sql)?.exists([repository, image_id])
        })
    }

    /// Forgets the image `image_id` as a previous one, in every repository. Its config stays: a container may run it.
    pub fn forget_previous_image(&self, image_id: &str) -> Result<(), StoreError> {
        self.write(|transaction| {
            transaction.execute("DELETE FROM pulled_image WHERE image_id = ?1", [image_id])?;
            transaction.execute("DELETE FROM previous_image WHERE image_id = ?1", [image_id]).map(drop)
        })
    }
}
