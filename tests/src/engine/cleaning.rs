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

/// For the engine to end what it has begun.
const CLEANING: Duration = Duration::from_secs(10);

/// A program that was killed may have had a request under way, and its container comes after we looked.
/// Then what it uses cannot be removed, which shows.
pub(super) async fn clean_all(docker: &Docker, prefix: &str) -> Result<(), Error> {
    let end = Instant::now() + CLEANING;
    loop {
        match clean(docker, prefix).await {
            // 403 is for a network that is in use.
            Err(Error::DockerResponseServerError { status_code: 403 | 409, .. }) if Instant::now() < end => {
                sleep(Duration::from_millis(50)).await;
            }
            Err(error @ Error::DockerResponseServerError { status_code: 403, .. }) => {
                return if is_anybody_in_networks(docker, prefix).await? { Err(error) } else { Ok(()) };
            }
            ended => return ended,
        }
    }
}

/// Docker 20.10 counts a network's endpoints beside keeping them, and under load counts wrong: one that is in use by the
/// count and not by the list cannot be removed until the engine starts anew (<https://github.com/moby/moby/issues/42119>).
async fn is_anybody_in_networks(docker: &Docker, prefix: &str) -> Result<bool, Error> {
    for name in scope_networks(docker, prefix).await? {
        let network = absent_as_none(docker.inspect_network(&name, None::<InspectNetworkOptions>).await);
        if network.and_then(|network| network.containers).is_some_and(|containers| !containers.is_empty()) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Networks last: what else there is can be removed without them.
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

/// Ids and names. By name, and by label too: a copy keeps the label, whatever it is called.
pub(super) async fn scope_containers(docker: &Docker, prefix: &str) -> Result<BTreeMap<String, String>, Error> {
    let all = docker.list_containers(Some(ListContainersOptionsBuilder::new().all(true).build())).await?;
    let containers = all.into_iter().filter_map(|container| {
        // Who is linked to is listed under its names in others' eyes too: `/other/alias`.
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

/// With the volumes that nobody named. The engine takes those along only until another container has used them, as the
/// one that comes of an update does.
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
            // Another container of the same update has it still; it goes with the last.
            Err(Error::DockerResponseServerError { status_code: 409, .. }) => {}
            removed => ignore_absent(removed)?,
        }
    }
    Ok(())
}
