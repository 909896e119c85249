//! The requests of the policy: which containers run on a version, and which versions their registries have. An invalid
//! answer becomes the reason of that target and affects no other target. This module makes no decisions.

use std::collections::BTreeMap;

use imagewatch_abi::label::{ENABLE, read_yes_no};
use imagewatch_abi::{
    Answer, Container, Failure, HttpBatch, HttpRequest, HttpResponse, MAX_BATCH, Method, Outcome, ReadBody, Reference,
    Selector, Verdict, is_loopback_host,
};
use serde_json::Value;

use super::Host;
use crate::version::Version;

/// A running container whose tag is a version.
pub(super) struct Target {
    /// The container's name.
    pub(super) name: String,
    pub(super) reference: Reference,
    pub(super) version: Version,
}

impl Target {
    fn of(container: &Container) -> Result<Self, String> {
        let reference: Reference = container.image.parse().map_err(|error| format!("{error}"))?;
        if reference.digest().is_some() {
            return Err(format!("{reference} is pinned by its digest"));
        }
        let tag = reference.tag_or_latest();
        let version = Version::parse(tag).ok_or_else(|| format!("tag {tag:?} is not a version such as 1.4.2"))?;
        Ok(Self { name: container.name.clone(), reference, version })
    }

    /// The same image with another version.
    pub(super) fn at(&self, version: Version) -> Reference {
        let text = format!("{}:{version}", self.reference.name());
        text.parse().expect("a parsed repository and a version make a valid reference")
    }

    /// An outcome with nothing but this target and a verdict.
    pub(super) fn outcome(&self, verdict: Verdict) -> Outcome {
        Outcome {
            reference: Some(self.reference.clone()),
            container: Some(self.name.clone()),
            ..Outcome::new(&self.name, verdict)
        }
    }
}

/// Finds the running containers to watch. Also returns an outcome for each container that opted in and cannot be
/// watched.
pub(super) fn find_targets(host: &mut dyn Host, is_for_all: bool) -> Result<(Vec<Target>, Vec<Outcome>), Failure> {
    // Lists every container. A selector for one label value would miss `True` and `yes`, and hide invalid values.
    let found = host.docker_containers(Selector::default()).into_result()?;
    let (mut targets, mut outcomes) = (Vec::new(), Vec::new());
    for container in found.containers.iter().filter(|container| container.state == "running") {
        let target = match is_watched(container, is_for_all) {
            Ok(false) => continue,
            Ok(true) => Target::of(container),
            Err(reason) => Err(reason),
        };
        match target {
            Ok(target) => targets.push(target),
            Err(reason) => outcomes.push(Outcome {
                reason: Some(reason),
                container: Some(container.name.clone()),
                ..Outcome::new(&container.name, Verdict::Unknown)
            }),
        }
    }
    Ok((targets, outcomes))
}

/// The value of the container's label. Without a label, the config decides.
fn is_watched(container: &Container, is_for_all: bool) -> Result<bool, String> {
    container.labels.get(ENABLE).map_or(Ok(is_for_all), |value| read_yes_no(ENABLE, value))
}

/// The versions of each repository, or why they are not known.
pub(super) struct Tags(BTreeMap<String, Result<Vec<Version>, String>>);

impl Tags {
    /// Requests the tags of every target's repository, once for each repository.
    pub(super) fn look_up(host: &mut dyn Host, targets: &[&Target]) -> Self {
        let mut found: BTreeMap<_, _> = targets
            .iter()
            .map(|target| (target.reference.name(), Err("the host answered another number of responses".to_owned())))
            .collect();
        let references: BTreeMap<_, _> =
            targets.iter().map(|target| (target.reference.name(), &target.reference)).collect();
        let asked: Vec<_> = references.into_iter().collect();
        for batch in asked.chunks(MAX_BATCH) {
            let requests = batch.iter().map(|(_, reference)| build_list(reference)).collect();
            match host.http_send(HttpBatch { requests, ..HttpBatch::default() }) {
                Answer::Ok(answer) => {
                    found.extend(batch.iter().zip(answer.responses).map(|((name, _), one)| (name.clone(), read(one))));
                }
                Answer::Err(failure) => {
                    found.extend(batch.iter().map(|(name, _)| (name.clone(), Err(failure.message.clone()))));
                }
            }
        }
        Self(found)
    }

    /// The versions of `target`'s repository.
    pub(super) fn of(&self, target: &Target) -> Result<&[Version], String> {
        match self.0.get(&target.reference.name()) {
            Some(Ok(versions)) => Ok(versions),
            Some(Err(reason)) => Err(format!("failed to list the tags: {reason}")),
            None => Err("its tags were not looked up".to_owned()),
        }
    }
}

fn build_list(reference: &Reference) -> HttpRequest {
    let host = reference.api_host();
    let scheme = if is_loopback_host(host) { "http" } else { "https" };
    HttpRequest {
        method: Method::Get,
        url: format!("{scheme}://{host}/v2/{}/tags/list?n=1000", reference.repository()),
        headers: Vec::new(),
        response_headers: vec!["link".to_owned()],
        credential: Some(host.to_owned()),
        allow_anonymous: true,
        rejected_credential_id: None,
        form: Vec::new(),
        read: ReadBody::Document,
    }
}

fn read(answer: Answer<HttpResponse>) -> Result<Vec<Version>, String> {
    let response = answer.into_result().map_err(|failure| failure.message)?;
    match response.status {
        200 if response.header("link").is_some() => {
            Err("there are more than 1000 tags, and this policy reads one page only".to_owned())
        }
        200 => parse_tags(&response.body).ok_or_else(|| "the registry's answer is not a list of tags".to_owned()),
        401 => Err("the registry asks for a token, which this policy does not fetch".to_owned()),
        status => Err(format!("the registry answered with status {status}")),
    }
}

fn parse_tags(body: &str) -> Option<Vec<Version>> {
    let body: Value = serde_json::from_str(body).ok()?;
    let tags = body.get("tags")?.as_array()?;
    Some(tags.iter().filter_map(|tag| Version::parse(tag.as_str()?)).collect())
}
