//! Commits an update. All paths use it: the program that began the update, recovery, handover, and the restart of a unit.
//! Each step can be repeated.

use imagewatch_abi::Report;

use super::Replacer;
use super::ending::Transaction;
use super::facts::{Handling, Origin, Part};
use super::journal::{Entry, Record};
use super::recovery::report_of;
use imagewatch_engine::EngineError;
use tracing::debug;

impl Replacer {
    /// The new containers of `transaction` have passed: its old ones go, the hooks for afterwards run, and old images go.
    /// What its policy is to know of it.
    ///
    /// # Errors
    /// An old container is not gone; to be begun again.
    pub(super) async fn commit(
        &self,
        transaction: &Transaction,
        entry: &mut Entry,
        record: Option<&Record>,
    ) -> Result<Report, EngineError> {
        entry.is_passed = true;
        if let Some(record) = record
            && let Err(error) = record.write(entry)
        {
            debug!(%error, "failed to write the journal; labels and names tell the rest");
        }
        self.finish(transaction).await?;
        let parts: Vec<&Part> = transaction.sides.iter().map(|side| &side.part).collect();
        let made_by = Some(transaction.id.as_str());
        self.clean_up(&transaction.origin, &parts, made_by, record.map(|record| (record, entry))).await;
        let recreated = parts.iter().filter(|part| part.handling == Handling::Recreate);
        let recreated = recreated.map(|part| part.name.clone()).collect();
        Ok(Report { recreated, ..report_of(transaction) })
    }

    /// What follows the last change of an update that succeeded: the hooks in the new containers of `parts`, which the
    /// transaction `made_by` made or a unit, and removes old images.
    pub(super) async fn clean_up(
        &self,
        origin: &Origin,
        parts: &[&Part],
        made_by: Option<&str>,
        journal: Option<(&Record, &mut Entry)>,
    ) {
        self.run_hooks_after(parts, made_by, journal).await;
        let Some(reference) = &origin.reference else { return };
        let updated = parts.iter().enumerate().filter(|(index, part)| *index == 0 || part.is_member);
        for (_, part) in updated {
            self.retire_image(reference, &part.old_image, origin.keep_images, made_by).await;
        }
    }
}
