//! Removes everything that a scope left on the engine.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bollard::Docker;
use bollard::errors::Error;
use bollard::query_parameters::{
    InspectNetworkOptions, ListContainersOptionsBuilder, ListImagesOptions, ListNetworksOptions, ListVolumesOptions,
    RemoveContainerOptionsBuilder, RemoveImageOptions, RemoveVolumeOptions,
};
use tokio::time::sleep;

use super::{SCOPE_LABEL, absent_as_none, ignore_absent, is_absent};

/// How long the engine may take to finish the operations that it has started.
const CLEANING_TIMEOUT: Duration = Duration::from_secs(10);

/// Removes everything of the scope, and tries again until nothing is left. A killed program may have left a running
/// request, and its container can appear after the first listing. In that case, the engine refuses to remove what this
/// container uses.
pub(super) async fn clean_all(docker: &Docker, prefix: &str) -> Result<(), Error> {
    let end = Instant::now() + CLEANING_TIMEOUT;
    loop {
        match clean(docker, prefix).await {
            // The engine answers 403 for a network that is in use.
            Err(Error::DockerResponseServerError { status_code: 403 | 409, .. }) if Instant::now() < end => {
                sleep(Duration::from_millis(50)).await;
            }
            Err(error @ Error::DockerResponseServerError { status_code: 403, .. }) => {
                return if has_used_networks(docker, prefix).await? { Err(error) } else { Ok(()) };
            }
            ended => return ended,
        }
    }
}

/// Docker 20.10 keeps a counter of a network's endpoints besides the list, and under load the counter becomes wrong. A
/// network that is in use by the counter but not by the list cannot be removed until the engine restarts
/// (<https://github.com/moby/moby/issues/42119>).
async fn has_used_networks(docker: &Docker, prefix: &str) -> Result<bool, Error> {
    for name in scope_networks(docker, prefix).await? {
        let network = absent_as_none(docker.inspect_network(&name, None::<InspectNetworkOptions>).await);
        if network.and_then(|network| network.containers).is_some_and(|containers| !containers.is_empty()) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Removes everything once. Networks come last, because everything else can be removed without them.
async fn clean(docker: &Docker, prefix: &str) -> Result<(), Error> {
    for id in scope_containers(docker, prefix).await?.keys() {
        remove_container(docker, id).await?;
    }
    let volumes = docker.list_volumes(None::<ListVolumesOptions>).await?.volumes.unwrap_or_default();
    for volume in volumes.iter().filter(|volume| volume.name.starts_with(prefix)) {
        ignore_absent(docker.remove_volume(&volume.name, None::<RemoveVolumeOptions>).await)?;
    }
    // By reference, not by id: another scope may use the same image under its own names.
    for reference in scope_references(docker, prefix).await? {
        ignore_absent(docker.remove_image(&reference, None::<RemoveImageOptions>, None).await)?;
    }
    let mut removed = Ok(());
    for name in scope_networks(docker, prefix).await? {
        removed = removed.and(ignore_absent(docker.remove_network(&name).await));
    }
    removed
}

async fn scope_networks(docker: &Docker, prefix: &str) -> Result<Vec<String>, Error> {
    let networks = docker.list_networks(None::<ListNetworksOptions>).await?;
    Ok(networks.into_iter().filter_map(|network| network.name.filter(|name| name.starts_with(prefix))).collect())
}

/// Returns ids and names. The search uses names and labels, because a copy of a container keeps the label under any
/// name.
pub(super) async fn scope_containers(docker: &Docker, prefix: &str) -> Result<BTreeMap<String, String>, Error> {
    let all = docker.list_containers(Some(ListContainersOptionsBuilder::new().all(true).build())).await?;
    let containers = all.into_iter().filter_map(|container| {
        // A container that is the target of a link is also listed under the names of the link: `/other/alias`.
        let names = container.names?;
        let name = names.iter().map(|name| name.trim_start_matches('/')).find(|name| !name.contains('/'))?.to_owned();
        let label = container.labels.unwrap_or_default().remove(SCOPE_LABEL);
        let is_ours = name.starts_with(prefix) || label.as_deref() == Some(prefix);
        Some((container.id.filter(|_| is_ours)?, name))
    });
    Ok(containers.collect())
}

pub(super) async fn scope_references(docker: &Docker, prefix: &str) -> Result<Vec<String>, Error> {
    let images = docker.list_images(None::<ListImagesOptions>).await?;
    let references = images.into_iter().flat_map(|image| image.repo_tags.into_iter().chain(image.repo_digests));
    let mut references: Vec<_> = references.filter(|reference| reference.contains(prefix)).collect();
    references.sort();
    Ok(references)
}

/// Removes a container with its anonymous volumes. The engine removes such a volume with the container only until a
/// second container has used it, as the replacement in an update does.
pub(super) async fn remove_container(docker: &Docker, container: &str) -> Result<(), Error> {
    let mounts = match docker.inspect_container(container, None).await {
        Err(error) if is_absent(&error) => return Ok(()),
        found => found?.mounts.unwrap_or_default(),
    };
    let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
    ignore_absent(docker.remove_container(container, Some(options)).await)?;
    let is_nameless = |name: &String| name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    for volume in mounts.into_iter().filter_map(|mount| mount.name).filter(is_nameless) {
        match docker.remove_volume(&volume, None::<RemoveVolumeOptions>).await {
            // Another container of the same update still uses the volume. The volume is removed with the last one.
            Err(Error::DockerResponseServerError { status_code: 409, .. }) => {}
            removed => ignore_absent(removed)?,
        }
    }
    Ok(())
}
