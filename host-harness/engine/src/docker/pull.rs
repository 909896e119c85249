//! A pull through bollard. This module corrects bollard's request, reads the answer stream to its end, and sums up the
//! progress. It sets no deadline and does not check which image arrives.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use bollard::auth::DockerCredentials;
use bollard::models::CreateImageInfo;
use bollard::query_parameters::CreateImageOptions;
use bollard::{BollardRequest, Docker, errors::Error};
use futures_util::TryStreamExt;
use imagewatch_abi::Reference;
use secrecy::{ExposeSecret, SecretString};

use super::raw::redirect;
use crate::{ApiVersion, PullProgress};
use imagewatch_base::secret::Credential;

const AUTH_HEADER: &str = "x-registry-auth";
/// The address of Docker Hub's credentials, in the engine and in `config.json`.
const DOCKER_HUB_ADDRESS: &str = "https://index.docker.io/v1/";

/// Corrects two errors in bollard's request. Bollard encodes the credential with the standard base64 alphabet, but the
/// engine decodes the URL-safe one and otherwise pulls anonymously without an error. Bollard also omits the version
/// from the path.
pub(super) fn correct_request(request: BollardRequest, version: ApiVersion) -> BollardRequest {
    let target = request.uri().path_and_query().map(|target| format!("/v{version}{target}")).unwrap_or_default();
    let mut request = redirect(request, &target);
    if let Some(value) = request.headers_mut().get_mut(AUTH_HEADER)
        && let Ok(text) = value.to_str()
        && let Ok(corrected) = text.replace('+', "-").replace('/', "_").parse()
    {
        *value = corrected;
        value.set_sensitive(true);
    }
    request
}

/// Pulls `reference` and returns when the answer stream ends.
pub(super) async fn pull(
    client: &Docker,
    reference: &Reference,
    platform: Option<&str>,
    credential: Option<&Credential>,
    progress: &(dyn Fn(PullProgress) + Send + Sync),
) -> Result<(), Error> {
    let tag = reference.digest().map_or_else(|| reference.tag_or_latest().to_owned(), ToString::to_string);
    let options = CreateImageOptions {
        from_image: Some(reference.name()),
        tag: Some(tag),
        platform: platform.unwrap_or_default().to_owned(),
        ..CreateImageOptions::default()
    };
    let credentials = credential.map(|credential| build_credentials(reference.registry(), credential));
    let mut lines = client.create_image(Some(options), None, credentials);
    let mut sums = Sums::default();
    while let Some(line) = lines.try_next().await? {
        progress(sums.add(line));
    }
    Ok(())
}

fn build_credentials(registry: &str, credential: &Credential) -> DockerCredentials {
    let address = if registry == "docker.io" { DOCKER_HUB_ADDRESS } else { registry };
    let blank = DockerCredentials { serveraddress: Some(address.to_owned()), ..DockerCredentials::default() };
    let expose = |secret: &SecretString| Some(secret.expose_secret().to_owned());
    match credential {
        Credential::Basic { username, password } => {
            DockerCredentials { username: Some(username.clone()), password: expose(password), ..blank }
        }
        Credential::IdentityToken(token) => DockerCredentials { identitytoken: expose(token), ..blank },
        Credential::RegistryToken(token) => DockerCredentials { registrytoken: expose(token), ..blank },
    }
}

/// The progress of a pull so far.
#[derive(Debug, Default)]
struct Sums {
    /// Bytes per layer, `(done, total)`.
    layers: BTreeMap<String, (u64, u64)>,
    /// The highest count of each step of each layer, by `(layer, status)`.
    steps: BTreeMap<(String, String), u64>,
}

impl Sums {
    fn add(&mut self, line: CreateImageInfo) -> PullProgress {
        let status = line.status.unwrap_or_default();
        let detail = line.progress_detail.unwrap_or_default();
        let count = |count: Option<i64>| count.and_then(|count| u64::try_from(count).ok()).unwrap_or(0);
        if let Some(layer) = &line.id {
            if status == "Downloading" {
                self.layers.insert(layer.clone(), (count(detail.current), count(detail.total)));
            } else if let Some((done, total)) = self.layers.get_mut(layer) {
                // Every later status of a layer (verifying, extracting, complete) means that it is downloaded.
                *done = *total;
            }
        }
        let advances = self.advance(line.id.as_deref().unwrap_or_default(), &status, count(detail.current));
        let sum = |pick: fn(&(u64, u64)) -> u64| self.layers.values().map(pick).fold(0, u64::saturating_add);
        let status = line.id.map_or_else(|| status.clone(), |id| format!("{id}: {status}"));
        PullProgress { done_bytes: sum(|layer| layer.0), total_bytes: sum(|layer| layer.1), status, advances }
    }

    /// Whether a line reports more progress than the lines before it. The containerd image store repeats lines many
    /// times per second. A download that restarts from zero reports bytes that were already downloaded.
    fn advance(&mut self, layer: &str, status: &str, current: u64) -> bool {
        // Graph drivers count down the seconds until the next attempt.
        if status.starts_with("Retrying") {
            return false;
        }
        match self.steps.entry((layer.to_owned(), status.to_owned())) {
            Entry::Vacant(entry) => {
                entry.insert(current);
                true
            }
            Entry::Occupied(mut highest) => {
                let is_more = current > *highest.get();
                if is_more {
                    highest.insert(current);
                }
                is_more
            }
        }
    }
}

#[cfg(test)]
mod tests;
