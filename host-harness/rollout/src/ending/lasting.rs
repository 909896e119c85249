//! New containers that a rollback keeps, because their old containers are gone and cannot be created again. A container
//! under that name is better than none, even without the other containers of its transaction.

use super::{Member, Transaction, name_of};
use crate::Rollout;
use crate::journal::JournalEntry;
use imagewatch_engine::EngineError;

impl Rollout {
    /// The members whose new container is all that is left.
    pub(super) async fn lasting<'a>(
        &self,
        transaction: &'a Transaction,
        known: &JournalEntry,
    ) -> Result<Vec<&'a Member>, EngineError> {
        let mut lasting = Vec::new();
        for member in transaction.members.iter().filter(|member| known.snapshot_of(&member.state.old).is_none()) {
            let Some(new) = &member.new else { continue };
            if self.find(&member.state.old).await?.is_none() && self.find(new).await?.is_some() {
                lasting.push(member);
            }
        }
        Ok(lasting)
    }

    /// It has its name and policy, and runs if the old one did and it can. Says so, for people.
    pub(super) async fn keep_new(&self, transaction: &Transaction, member: &Member) -> Result<String, EngineError> {
        let state = &member.state;
        let stays = format!("the container from before of {} is gone for good, and its new one stays", state.name);
        let Some(new) = &member.new else { return Ok(stays) };
        let Some(inspection) = self.find(new).await? else { return Ok(stays) };
        if name_of(&inspection) == state.temporary_name(&transaction.id) {
            self.engine.rename(new, &state.name).await?;
        }
        self.restore_restart_policy(state, new, &inspection).await?;
        if !state.was_running || inspection["State"]["Running"] == true {
            return Ok(stays);
        }
        match self.engine.start(new).await {
            Err(error) if error.is_unavailable() => Err(error),
            // It may share a namespace of one that has just gone. To begin all of this again would not change that.
            Err(error) => Ok(format!("{stays}, though it cannot be started: {error}")),
            Ok(()) => Ok(stays),
        }
    }
}
