//! New containers that a rollback keeps, because their old containers are gone and cannot be created again. A container
//! under that name is better than none, even without the other containers of its transaction.

use super::{Side, Transaction, name_of};
use crate::Replacer;
use crate::journal::Entry;
use imagewatch_engine::EngineError;

impl Replacer {
    /// The sides whose new container is all that is left.
    pub(super) async fn lasting<'a>(
        &self,
        transaction: &'a Transaction,
        known: &Entry,
    ) -> Result<Vec<&'a Side>, EngineError> {
        let mut lasting = Vec::new();
        for side in transaction.sides.iter().filter(|side| known.snapshot_of(&side.part.old).is_none()) {
            let Some(new) = &side.new else { continue };
            if self.find(&side.part.old).await?.is_none() && self.find(new).await?.is_some() {
                lasting.push(side);
            }
        }
        Ok(lasting)
    }

    /// It has its name and policy, and runs if the old one did and it can. Says so, for people.
    pub(super) async fn let_new_stay(&self, transaction: &Transaction, side: &Side) -> Result<String, EngineError> {
        let part = &side.part;
        let stays = format!("the container from before of {} is gone for good, and its new one stays", part.name);
        let Some(new) = &side.new else { return Ok(stays) };
        let Some(inspection) = self.find(new).await? else { return Ok(stays) };
        if name_of(&inspection) == part.temporary_name(&transaction.id) {
            self.engine.rename(new, &part.name).await?;
        }
        self.rearm(part, new, &inspection).await?;
        if !part.was_running || inspection["State"]["Running"] == true {
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
