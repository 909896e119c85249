//! What the engine has, as one batch of orders sees it. Each container is inspected once, and again only after it changed.

use std::collections::BTreeMap;

use futures_util::{StreamExt, TryStreamExt, stream};
use imagewatch_engine::{Engine, EngineError, Listed};
use serde_json::Value;
use tokio::sync::Mutex;
use tracing::warn;

const PARALLEL_INSPECTIONS: usize = 8;

/// The inspections of all containers of one engine, kept for the orders of one batch.
#[derive(Debug, Default)]
pub struct EngineSnapshot {
    /// By id. The lock is held while containers are inspected, so that two orders do not inspect the same one.
    known: Mutex<BTreeMap<String, Known>>,
}

/// A container as it was listed and inspected.
#[derive(Debug)]
struct Known {
    listed: Listed,
    /// `None` when the engine lists the container but cannot inspect it.
    inspection: Option<Value>,
}

impl EngineSnapshot {
    /// Lists the containers of `engine` and returns their inspections. Inspects those named in `fresh`, those that are new,
    /// and those that are listed differently than before. What other containers depend on cannot change in another way.
    ///
    /// A container that the engine cannot inspect is left out, unless it is named in `fresh`: one broken container must not
    /// stop the update of another one. The inspection of a container that hangs takes the time limit of a call, two minutes,
    /// once per batch.
    ///
    /// # Errors
    /// The engine does not list its containers, is away, or cannot inspect a container named in `fresh`.
    pub(crate) async fn inspect_all(&self, engine: &dyn Engine, fresh: &[String]) -> Result<Vec<Value>, EngineError> {
        let mut known = self.known.lock().await;
        let listed = engine.list().await?;
        known.retain(|id, _| listed.iter().any(|listed| listed.id == *id));
        let is_stale = |listed: &&Listed| {
            fresh.iter().any(|name| name == listed.name())
                || known.get(&listed.id).is_none_or(|known| known.listed != **listed)
        };
        let stale: Vec<Listed> = listed.iter().filter(is_stale).cloned().collect();
        let inspected = stream::iter(stale).map(async |listed| {
            let inspection = inspect(engine, &listed, fresh).await?;
            Ok::<_, EngineError>(Known { listed, inspection })
        });
        let inspected: Vec<Known> = inspected.buffered(PARALLEL_INSPECTIONS).try_collect().await?;
        known.extend(inspected.into_iter().map(|found| (found.listed.id.clone(), found)));
        // In the order of the engine's list, on which the order of dependents depends.
        Ok(listed.iter().filter_map(|listed| known.get(&listed.id)?.inspection.clone()).collect())
    }
}

/// `None` for a container that is gone, and for one that cannot be inspected and is not named in `fresh`.
async fn inspect(engine: &dyn Engine, listed: &Listed, fresh: &[String]) -> Result<Option<Value>, EngineError> {
    let is_needed = fresh.iter().any(|name| name == listed.name());
    match engine.inspect_container(&listed.id).await {
        Ok(inspection) => Ok(Some(inspection)),
        Err(error) if error.is_gone() => Ok(None),
        Err(error @ (EngineError::Refused { .. } | EngineError::BadAnswer { .. } | EngineError::Timeout { .. }))
            if !is_needed =>
        {
            warn!(container = listed.name(), %error, "cannot be inspected; assumed to depend on no other container");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
