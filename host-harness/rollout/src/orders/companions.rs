//! Which containers are updated together with one, because they write to the same volume: all of them come to run the new
//! image, or none does. Changes nothing.

use std::collections::BTreeSet;

use imagewatch_abi::{Container, Failure, Order, Selector, Strategy};

use super::batch::{Batch, is_meant};
use super::image::Image;
use super::{OrderContext, strategy_of};
use crate::is_working_name;
use imagewatch_engine::names_same_image;

/// The containers that `order`, or an order of the same group in `batch`, will bring to `image`. The order's own
/// containers, `listed`, come first. The others follow in the order in which their orders were placed.
///
/// # Errors
/// When the containers cannot be listed.
pub(super) async fn find_candidates(
    ctx: &OrderContext,
    order: &Order,
    image: Option<&Image>,
    listed: &[Container],
    batch: &Batch,
) -> Result<Vec<Container>, Failure> {
    let mates: Vec<&Order> = batch.mates(order).collect();
    let has_volumes = listed.iter().any(|container| !container.writable_mounts.is_empty());
    let all = if mates.is_empty() || !has_volumes {
        Vec::new()
    } else {
        let all = ctx.rollout.engine.containers(&Selector::default()).await;
        all.map_err(|error| error.failure())?
    };
    let is_candidate = |order: &Order, container: &Container| {
        let is_replaced = matches!(strategy_of(order, container), Ok(Some(Strategy::Replace | Strategy::StartFirst)));
        is_replaced && image.is_none_or(|image| container.image_id != image.id)
    };
    let own = listed.iter().filter(|container| is_candidate(order, container));
    let is_of_mate = |mate: &Order, container: &Container| {
        is_meant(mate, container) && is_candidate(mate, container) && !is_working_name(&container.name)
    };
    let of_mates = mates
        .iter()
        .flat_map(|mate| all.iter().filter(|container| is_of_mate(mate, container) && (ctx.is_granted)(container)));
    Ok(own.chain(of_mates).cloned().collect())
}

/// The names of those of `candidates` that write to a volume of `root`, directly or through another one.
pub(super) fn companions_of(root: &Container, candidates: &[Container]) -> Vec<String> {
    let mut volumes: BTreeSet<&String> = root.writable_mounts.iter().collect();
    let is_other =
        |container: &&Container| container.name != root.name && names_same_image(&container.image, &root.image);
    let mut companions: Vec<&Container> = Vec::new();
    let mut others: Vec<&Container> = candidates.iter().filter(is_other).collect();
    loop {
        let shares = |container: &Container| container.writable_mounts.iter().any(|mount| volumes.contains(mount));
        let found: Vec<&Container> = others.extract_if(.., |container| shares(container)).collect();
        if found.is_empty() {
            break;
        }
        volumes.extend(found.iter().flat_map(|container| &container.writable_mounts));
        companions.extend(found);
    }
    let mut names: Vec<String> = Vec::new();
    for name in candidates.iter().map(|container| &container.name) {
        if companions.iter().any(|companion| companion.name == *name) && !names.contains(name) {
            names.push(name.clone());
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(name: &str, image: &str, volumes: &[&str]) -> Container {
        Container {
            name: name.to_owned(),
            image: image.to_owned(),
            writable_mounts: volumes.iter().map(|volume| (*volume).to_owned()).collect(),
            ..Container::default()
        }
    }

    #[test]
    fn f36_who_shares_a_volume_and_the_image_is_updated_together() {
        let root = container("app", "r/cloud", &["data"]);
        for (case, others, expected) in [
            ("another volume", vec![container("cron", "r/cloud", &["logs"])], vec![]),
            ("the same volume", vec![container("cron", "r/cloud", &["data"])], vec!["cron"]),
            ("another image", vec![container("backup", "r/backup", &["data"])], vec![]),
            ("no volume", vec![container("web", "r/cloud", &[])], vec![]),
            (
                "the same image, written in full",
                vec![container("cron", "docker.io/r/cloud:latest", &["data"])],
                vec!["cron"],
            ),
            ("another tag", vec![container("cron", "r/cloud:29", &["data"])], vec![]),
            (
                "through another one, in the order in which they were placed",
                vec![
                    container("b", "r/cloud", &["logs"]),
                    container("c", "r/cloud", &["data", "logs"]),
                    container("c", "r/cloud", &["data", "logs"]),
                ],
                vec!["b", "c"],
            ),
        ] {
            let candidates: Vec<Container> = [root.clone()].into_iter().chain(others).collect();
            assert_eq!(companions_of(&root, &candidates), expected, "{case}");
        }
    }
}
