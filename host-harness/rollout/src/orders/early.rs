//! Orders whose containers are all refused. Nothing is pulled for them.

use imagewatch_abi::{Container, ContainerFailure, Order, Strategy};
use tracing::warn;

use super::{OrderContext, list_containers, strategy_of};
use crate::step_error::StepError;

/// Why each container of `order` is refused. `None` if one of them may be handled, or if no container can be listed.
///
/// An order with strategy `remove` is never refused here. The seed system pulls before it lists containers, and a
/// failed pull must not be hidden by a failed list.
pub(super) async fn refuse_all_before_pull(ctx: &OrderContext, order: &Order) -> Option<Vec<ContainerFailure>> {
    if !order.recreate || order.strategy == Strategy::Remove {
        return None;
    }
    let mut refused = Vec::new();
    for container in list_containers(ctx, order).await.ok()? {
        refused.push(refusal(ctx, order, &container).await?.as_failure(&container.name));
    }
    for failure in &refused {
        warn!(container = %failure.container, reason = %failure.reason, "container refused; nothing was pulled");
    }
    (!refused.is_empty()).then_some(refused)
}

/// Why `container` is not handled. `None` also if this cannot be found out before the pull.
async fn refusal(ctx: &OrderContext, order: &Order, container: &Container) -> Option<StepError> {
    let strategy = match strategy_of(order, container) {
        Err(reason) => return Some(StepError::refused(reason)),
        Ok(None | Some(Strategy::PullOnly | Strategy::Notify)) => return None,
        Ok(Some(strategy)) => strategy,
    };
    let inspection = ctx.rollout.engine.inspect_container(&container.id).await.ok()?;
    let checked = if strategy == Strategy::Remove {
        ctx.rollout.refuse_removal(&inspection).await
    } else {
        ctx.rollout.refuse_before_pull(&inspection).await
    };
    checked.err().filter(|step_error| !step_error.engine_unreachable)
}
