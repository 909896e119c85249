//! Making a container again that went when it was stopped, from what was written down of it.

use std::collections::BTreeMap;

use imagewatch_abi::Reference;
use serde_json::{Value, json};

use super::{Transaction, facts_of, id_of, name_of, volume_sources};
use crate::Rollout;
use crate::journal::Snapshot;
use crate::label;
use crate::plan::{Plan, PlanInput, build_plan, own_platform};
use imagewatch_engine::EngineError;

impl Rollout {
    /// A container that went when it was stopped is made again from what was written down, on its own image. It
    /// gets its name when it is complete.
    pub(super) async fn recreate_removed(
        &self,
        transaction: &Transaction,
        index: usize,
        snapshot: &Snapshot,
    ) -> Result<String, EngineError> {
        let state = &transaction.members[index].state;
        let is_made = |c: &Value| facts_of(c).is_some_and(|f| f.is_restored && f.transaction == transaction.id);
        if let Some(made) = self.find(&state.name).await?.filter(is_made) {
            return Ok(id_of(&made));
        }
        let aside = state.aside_name(&transaction.id);
        let id = match self.find(&aside).await?.filter(is_made) {
            Some(made) => id_of(&made),
            None => self.create_again(transaction, index, snapshot).await?,
        };
        let made = self.engine.inspect_container(&id).await?;
        self.reconnect(transaction, &id, &made, snapshot).await?;
        self.engine.rename(&id, &state.name).await?;
        Ok(id)
    }

    async fn create_again(
        &self,
        transaction: &Transaction,
        index: usize,
        snapshot: &Snapshot,
    ) -> Result<String, EngineError> {
        let state = &transaction.members[index].state;
        let reference = snapshot.container["Config"]["Image"].as_str().unwrap_or_default();
        if let Ok(reference) = reference.parse::<Reference>() {
            self.let_name(&reference, &state.old_image).await?;
        }
        let plan = self.plan_again(transaction, snapshot).await?;
        let mut body = plan.body;
        let facts = label::TransactionLabel { is_restored: true, ..transaction.facts(index) };
        body["Labels"][label::LABEL] = json!(facts.to_label());
        self.engine.create_container(&state.aside_name(&transaction.id), &body, plan.platform.as_deref()).await
    }

    /// Lets `reference` name the image, unless it does or says by digest which one it means. The id of the image that it
    /// named instead, if there was one.
    pub(crate) async fn let_name(&self, reference: &Reference, image_id: &str) -> Result<Option<String>, EngineError> {
        if reference.digest().is_some() {
            return Ok(None);
        }
        let here = self.engine.inspect_image(&reference.to_string()).await?;
        let here = here.and_then(|image| image["Id"].as_str().map(str::to_owned));
        if here.as_deref() == Some(image_id) {
            return Ok(None);
        }
        self.engine.tag_image(image_id, reference).await?;
        Ok(here)
    }

    /// How a container that was written down is made again, on its own image.
    pub(crate) async fn plan_again(&self, transaction: &Transaction, snapshot: &Snapshot) -> Result<Plan, EngineError> {
        let engine = self.engine.facts().await?;
        let image = if snapshot.image.is_null() {
            self.image_of(&snapshot.container).await?.unwrap_or_default()
        } else {
            snapshot.image.clone()
        };
        let listed = self.engine.list().await?;
        let mut names: BTreeMap<String, String> =
            listed.iter().map(|container| (container.id.clone(), container.name().to_owned())).collect();
        // The others of the transaction have their names back by now, or will have.
        names.extend(transaction.members.iter().map(|member| (member.state.old.clone(), member.state.name.clone())));
        let mut sources = Vec::new();
        for source in volume_sources(&snapshot.container) {
            sources.extend(self.find(source).await?);
        }
        let platform = own_platform(&snapshot.container, &image);
        let input = PlanInput {
            old: &snapshot.container,
            old_image: &image,
            new_image: &image,
            volume_sources: &sources,
            names: &names,
            reference: None,
            platform: platform.as_deref(),
            api: engine.api,
            is_podman: engine.is_podman,
        };
        build_plan(&input).map_err(|reason| {
            let name = name_of(&snapshot.container);
            EngineError::BadAnswer { action: format!("make {name} again"), reason }
        })
    }
}
