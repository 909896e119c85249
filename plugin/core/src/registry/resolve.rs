//! Looks up digests, tags and documents in batched rounds: ask, get a token, ask again. In the steady state, with the
//! challenge and a token known, that is one HEAD for each image. What failed is that query's failure and no other's,
//! but for a server that asked to be left alone: it holds up all that need it.

mod answer;
mod auth;
mod messages;
mod plan;

use std::collections::{BTreeMap, BTreeSet};

use imagewatch_abi::{
    Answer, Digest, Failure, FailureCode, HttpBatch, HttpRequest, HttpResponse, HttpResponses, LogLevel, MAX_BATCH,
    Reference,
};
use serde::{Deserialize, Serialize};

use super::document::Document;
use super::tags::TagList;
use crate::config::Insecure;
use crate::state::Cache;
use crate::{Host, log};

/// So many rounds may pass without a registry being asked anything: tokens come after one or two.
const MAX_IDLE_ROUNDS: usize = 16;

/// What looking up one reference came to.
pub(crate) type Lookup = Result<Digest, Failure>;

/// What is looked up.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Query {
    /// The digest of a tag.
    Digest(Reference),
    /// The tags of a repository.
    Tags(Reference),
    /// The index or manifest of a digest.
    Document(Reference),
}

impl Query {
    fn reference(&self) -> &Reference {
        match self {
            Self::Digest(reference) | Self::Tags(reference) | Self::Document(reference) => reference,
        }
    }

    fn registry(&self) -> &str {
        self.reference().api_host()
    }

    /// Unlike that of any other query.
    fn name(&self) -> String {
        let kind = match self {
            Self::Digest(_) => "digest",
            Self::Tags(_) => "tags",
            Self::Document(_) => "document",
        };
        format!("{kind} {}", self.reference())
    }
}

/// What a look-up found.
enum Found {
    Digest(Digest),
    Tags(Vec<String>),
    Document(Document),
}

/// Ways out of a refusal. Each is tried once for a query, which bounds the requests that it may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fallback {
    /// With the proof that the registry asks for.
    Prove,
    /// By the content, as the HEAD is refused or does not say the digest.
    Hash,
    /// With a new token, as this one is over before its time.
    Renew,
    /// With a token of its own, as one for several repositories or for another one does not do.
    Alone,
    /// With the wider scope that the registry names.
    Widen,
    /// With the login once more, which the host renews.
    Repeat,
    /// Without the login, which is denied what anybody may read.
    Anonymous,
}

/// A query on its way.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Job {
    /// A bit for each [`Way`].
    tried: u8,
    /// Whether a token for several repositories did not do.
    was_in_batch: bool,
    /// Whether the last answer was a 403.
    is_forbidden: bool,
    /// The id of the login that it was refused with, where the host may have renewed that since.
    unless: Option<String>,
    list: TagList,
}

impl Job {
    /// Whether `way` was not tried before; now it is.
    fn may_try(&mut self, way: Fallback) -> bool {
        let is_first = !self.has_tried(way);
        self.tried |= 1 << way as u8;
        is_first
    }

    fn has_tried(&self, way: Fallback) -> bool {
        self.tried & (1 << way as u8) != 0
    }
}

/// What has passed with a registry in this call.
#[derive(Debug, Default)]
struct RegistrySession {
    /// How many queries there were for it.
    queries: usize,
    /// Whether it has answered anything.
    responded: bool,
    /// How often its login was tried; see [`plan::ENOUGH`].
    logins: u32,
    /// Whether its challenge led nowhere.
    challenge_suspect: bool,
}

struct Resolver<'a> {
    cache: &'a mut Cache,
    insecure: &'a Insecure,
    now_ms: u64,
    open: BTreeMap<Query, Job>,
    talks: BTreeMap<String, RegistrySession>,
    /// Names of logins that are not sent any more in this call.
    refused: BTreeSet<String>,
    /// Registries of which something is pending that others wait for: nobody else goes ahead there.
    late: BTreeSet<String>,
    /// Those of them where it is a login or a token.
    late_logins: BTreeSet<String>,
    done: Vec<(Query, Result<Found, Failure>)>,
    notes: Vec<String>,
}

/// What a request that is under way is for.
#[derive(Debug, Clone)]
enum Purpose {
    Query(Query, Proof),
    Token(TokenAsk),
}

/// What a query went out with.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Proof {
    None,
    /// The login of this name.
    Login(String),
    /// The token at this place; whether it was got for another repository.
    Token {
        at: usize,
        is_borrowed: bool,
    },
}

/// A token that is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
struct TokenAsk {
    registry: String,
    /// The name of the login that goes with it, if one may.
    login: Option<String>,
    scopes: Vec<String>,
}

/// The digest of each of `references`, or why not.
pub(crate) fn resolve(
    host: &mut dyn Host,
    cache: &mut Cache,
    insecure: &Insecure,
    now_ms: u64,
    references: BTreeSet<Reference>,
) -> BTreeMap<Reference, Lookup> {
    let done = look_up(host, cache, insecure, now_ms, references.into_iter().map(Query::Digest));
    done.into_iter()
        .filter_map(|(query, found)| match (query, found) {
            (Query::Digest(reference), Ok(Found::Digest(digest))) => Some((reference, Ok(digest))),
            (Query::Digest(reference), Err(failure)) => Some((reference, Err(failure))),
            _ => None,
        })
        .collect()
}

/// The tags of each repository of `references` by its [`Reference::name`], in the registry's order, or why not.
pub(crate) fn list_tags(
    host: &mut dyn Host,
    cache: &mut Cache,
    insecure: &Insecure,
    now_ms: u64,
    references: &BTreeSet<Reference>,
) -> BTreeMap<String, Result<Vec<String>, Failure>> {
    let queries = references.iter().map(|reference| Query::Tags(reference.without_tag()));
    let done = look_up(host, cache, insecure, now_ms, queries);
    done.into_iter()
        .filter_map(|(query, found)| match (query, found) {
            (Query::Tags(reference), Ok(Found::Tags(tags))) => Some((reference.name(), Ok(tags))),
            (Query::Tags(reference), Err(failure)) => Some((reference.name(), Err(failure))),
            _ => None,
        })
        .collect()
}

/// Those of `references`, pinned by digest, that their own repository has; each is asked for, also where the cache has
/// the same document from another repository. A `HEAD` is enough, so a registry that refuses to hand out the manifest
/// still confirms it.
pub(crate) fn find_in_repository(
    host: &mut dyn Host,
    cache: &mut Cache,
    insecure: &Insecure,
    now_ms: u64,
    references: BTreeSet<Reference>,
) -> Vec<Reference> {
    let queries: Vec<Query> = references.into_iter().map(Query::Digest).collect();
    let found = look_up(host, cache, insecure, now_ms, queries).into_iter();
    found.filter_map(|(query, found)| found.is_ok().then(|| query.reference().clone())).collect()
}

/// Reads the documents of `references`, pinned by digest, into the cache, unless they are there. One that cannot be
/// had is left out.
pub(crate) fn load_documents(
    host: &mut dyn Host,
    cache: &mut Cache,
    insecure: &Insecure,
    now_ms: u64,
    references: BTreeSet<Reference>,
) {
    let is_missing = |reference: &Reference| reference.digest().is_some_and(|d| !cache.documents.contains_key(d));
    let queries: Vec<Query> = references.into_iter().filter(is_missing).map(Query::Document).collect();
    for (query, found) in look_up(host, cache, insecure, now_ms, queries) {
        if let (Some(digest), Ok(Found::Document(document))) = (query.reference().digest(), found) {
            cache.documents.insert(digest.clone(), document);
        }
    }
}

fn look_up(
    host: &mut dyn Host,
    cache: &mut Cache,
    insecure: &Insecure,
    now_ms: u64,
    queries: impl IntoIterator<Item = Query>,
) -> Vec<(Query, Result<Found, Failure>)> {
    let take_up = |query: Query| {
        let job = if cache.unfinished.is_empty() { Job::default() } else { cache.unfinished.take_job(&query.name()) };
        (query, job)
    };
    let open: BTreeMap<Query, Job> = queries.into_iter().map(take_up).collect();
    let mut talks: BTreeMap<String, RegistrySession> = BTreeMap::new();
    for query in open.keys() {
        talks.entry(query.registry().to_owned()).or_default().queries += 1;
    }
    let (refused, late, late_logins, done, notes) = Default::default();
    let mut resolver = Resolver { cache, insecure, now_ms, open, talks, refused, late, late_logins, done, notes };
    let mut idle_rounds = 0;
    while idle_rounds < MAX_IDLE_ROUNDS {
        let round = resolver.next_round();
        if round.is_empty() {
            break;
        }
        let is_idle = round.iter().all(|(purpose, _)| matches!(purpose, Purpose::Token(_)));
        idle_rounds = if is_idle { idle_rounds + 1 } else { 0 };
        for (purpose, answer) in send(host, round) {
            resolver.take(purpose, answer);
        }
        for note in resolver.notes.drain(..) {
            log(host, LogLevel::Warn, note);
        }
    }
    for query in resolver.open.keys().cloned().collect::<Vec<_>>() {
        let message = format!("{} kept asking for another proof; gave up until the next poll", query.registry());
        resolver.finish(query, Err(Failure::retryable(FailureCode::Unauthorized, message)));
    }
    for (registry, _) in resolver.talks.iter().filter(|(_, talk)| talk.challenge_suspect) {
        if let Some(known) = resolver.cache.registries.get_mut(registry) {
            known.challenge_suspect = true;
        }
    }
    resolver.done
}

/// Sends `round` in batches the host takes; a batch that failed as a whole failed for each of its requests.
fn send(host: &mut dyn Host, round: Vec<(Purpose, HttpRequest)>) -> Vec<(Purpose, Answer<HttpResponse>)> {
    let (purposes, requests): (Vec<Purpose>, Vec<HttpRequest>) = round.into_iter().unzip();
    let mut answers = Vec::with_capacity(requests.len());
    for batch in requests.chunks(MAX_BATCH) {
        match host.http_send(HttpBatch { requests: batch.to_vec(), may_defer: true }) {
            Answer::Ok(HttpResponses { responses }) if responses.len() == batch.len() => answers.extend(responses),
            Answer::Ok(_) => answers.extend(batch.iter().map(|_| {
                Answer::Err(Failure::retryable(FailureCode::BadAnswer, "the host answered another number of responses"))
            })),
            Answer::Err(failure) => answers.extend(batch.iter().map(|_| Answer::Err(failure.clone()))),
        }
    }
    purposes.into_iter().zip(answers).collect()
}

#[cfg(test)]
mod tests;
