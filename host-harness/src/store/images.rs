//! Images that containers were created from. Replacements need this data.
//!
//! - The config of an image, because the engine forgets an image that was removed.
//! - The previous images and the pulled images of a repository.

use rusqlite::types::Type;
use rusqlite::{OptionalExtension, params};
use serde_json::Value;

use imagewatch_rollout::image_records::{ImageRecords, RecordError};

use super::{Store, column_ms};

impl ImageRecords for Store {
    fn image_config(&self, image_id: &str) -> Result<Option<Value>, RecordError> {
        Ok(self.read(|connection| {
            let sql = "SELECT config FROM image_config WHERE image_id = ?1";
            let parse = |row: &rusqlite::Row<'_>| {
                let json: String = row.get(0)?;
                serde_json::from_str(&json)
                    .map_err(|error| rusqlite::Error::FromSqlConversionFailure(0, Type::Text, Box::new(error)))
            };
            connection.prepare_cached(sql)?.query_row([image_id], parse).optional()
        })?)
    }

    fn keep_image_config(&self, image_id: &str, config: &Value) -> Result<(), RecordError> {
        Ok(self.write(|transaction| {
            let sql = "INSERT OR REPLACE INTO image_config (image_id, config) VALUES (?1, ?2)";
            transaction.execute(sql, params![image_id, config.to_string()]).map(drop)
        })?)
    }

    fn record_previous_image(&self, repository: &str, image_id: &str, at_ms: u64) -> Result<(), RecordError> {
        Ok(self.write(|transaction| {
            let sql = "INSERT INTO previous_image (repository, image_id, at_ms) VALUES (?1, ?2, ?3)
                ON CONFLICT (repository, image_id) DO UPDATE SET at_ms = max(at_ms, excluded.at_ms)";
            transaction.execute(sql, params![repository, image_id, column_ms(at_ms)]).map(drop)
        })?)
    }

    fn previous_images(&self, repository: &str) -> Result<Vec<String>, RecordError> {
        Ok(self.read(|connection| {
            let sql = "SELECT image_id FROM previous_image WHERE repository = ?1 ORDER BY at_ms DESC, image_id";
            connection.prepare_cached(sql)?.query_map([repository], |row| row.get(0))?.collect()
        })?)
    }

    fn record_pulled_image(&self, repository: &str, image_id: &str) -> Result<(), RecordError> {
        Ok(self.write(|transaction| {
            let sql = "INSERT OR IGNORE INTO pulled_image (repository, image_id) VALUES (?1, ?2)";
            transaction.execute(sql, params![repository, image_id]).map(drop)
        })?)
    }

    fn has_pulled_image(&self, repository: &str, image_id: &str) -> Result<bool, RecordError> {
        Ok(self.read(|connection| {
            let sql = "SELECT 1 FROM pulled_image WHERE repository = ?1 AND image_id = ?2";
            connection.prepare_cached(sql)?.exists([repository, image_id])
        })?)
    }

    fn forget_previous_image(&self, image_id: &str) -> Result<(), RecordError> {
        Ok(self.write(|transaction| {
            transaction.execute("DELETE FROM pulled_image WHERE image_id = ?1", [image_id])?;
            transaction.execute("DELETE FROM previous_image WHERE image_id = ?1", [image_id]).map(drop)
        })?)
    }
}
