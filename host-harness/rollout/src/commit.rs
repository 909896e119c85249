//! Commits an update. All paths use it: the program that began the update, recovery, handover, and the restart of a unit.
//! Each step can be repeated.

use imagewatch_abi::Report;

use super::Rollout;
use super::ending::Transaction;
use super::journal::{JournalEntry, JournalHandle};
use super::label::{MemberAction, MemberState, OrderRef};
use super::recovery::report_of;
use imagewatch_engine::EngineError;
use tracing::debug;

impl Rollout {
    /// The new containers of `transaction` have passed: its old ones go, the hooks for afterwards run, and old images go.
    /// What its policy is to know of it.
    ///
    /// # Errors
    /// An old container is not gone; to be begun again.
    pub(super) async fn commit(
        &self,
        transaction: &Transaction,
        entry: &mut JournalEntry,
        record: Option<&JournalHandle>,
    ) -> Result<Report, EngineError> {
        entry.is_passed = true;
        if let Some(record) = record
            && let Err(error) = record.write(entry)
        {
            debug!(%error, "failed to write the journal; labels and names tell the rest");
        }
        self.finish(transaction).await?;
        let states: Vec<&MemberState> = transaction.members.iter().map(|member| &member.state).collect();
        let made_by = Some(transaction.id.as_str());
        self.clean_up(&transaction.origin, &states, made_by, record.map(|record| (record, entry))).await;
        let recreated = states.iter().filter(|state| state.action == MemberAction::Recreate);
        let recreated = recreated.map(|state| state.name.clone()).collect();
        Ok(Report { recreated, ..report_of(transaction) })
    }

    /// What follows the last change of an update that succeeded: the hooks in the new containers of `parts`, which the
    /// transaction `made_by` made or a unit, and removes old images.
    pub(super) async fn clean_up(
        &self,
        origin: &OrderRef,
        states: &[&MemberState],
        made_by: Option<&str>,
        journal: Option<(&JournalHandle, &mut JournalEntry)>,
    ) {
        self.run_hooks_after(states, made_by, journal).await;
        let Some(reference) = &origin.reference else { return };
        let updated = states.iter().enumerate().filter(|(index, state)| *index == 0 || state.is_companion);
        for (_, state) in updated {
            self.retire_image(reference, &state.old_image, origin.keep_images, made_by).await;
        }
    }
}
