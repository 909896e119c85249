//! Looks up the digests of many references, or the tags of many repositories, in batched rounds: ask, get a token,
//! ask again. In the steady state, with the challenge and a token known, that is one HEAD each.
//! What failed is that reference's failure and no other's.

use std::collections::{BTreeMap, BTreeSet};

use imagewatch_abi::{
    Answer, Digest, Failure, FailureCode, HttpBatch, HttpRequest, HttpResponse, HttpResponses, MAX_BATCH, Reference,
};

use super::challenge;
use super::request::{Auth, build_head, build_tags, build_token, is_realm, tags_url};
use super::tags::TagList;
use super::token::parse_token;
use crate::config::Insecure;
use crate::state::{Cache, KnownRegistry};
use crate::{Host, gather};

/// Rounds that a look-up may take but for further pages of a tag list: ask, get a token, ask again.
const ROUNDS: usize = 3;

/// What looking up one reference came to.
pub(crate) type Lookup = Result<Digest, Failure>;

/// What is looked up.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Query {
    /// The digest of a tag.
    Digest(Reference),
    /// The tags of a repository.
    Tags(Reference),
}

/// What a look-up found.
enum Found {
    Digest(Digest),
    Tags(Vec<String>),
}

/// What a request that is under way is for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Purpose {
    /// One query; whether it went out with proof of any kind.
    Query(Query, bool),
    /// A token for everything of this registry and scope.
    Token { registry: String, scope: String },
}

impl Query {
    fn reference(&self) -> &Reference {
        match self {
            Self::Digest(reference) | Self::Tags(reference) => reference,
        }
    }
}

struct Resolver<'a> {
    cache: &'a mut Cache,
    insecure: &'a Insecure,
    now_ms: u64,
    open: BTreeSet<Query>,
    /// Tag lists of which pages have come.
    lists: BTreeMap<Query, TagList>,
    /// Registries and scopes whose token is as new as this tick: a 401 with it is final.
    fresh: BTreeSet<(String, String)>,
    done: Vec<(Query, Result<Found, Failure>)>,
}

/// The digest of each of `references`, or why not.
pub(crate) fn resolve(
    host: &mut dyn Host,
    cache: &mut Cache,
    insecure: &Insecure,
    now_ms: u64,
    references: BTreeSet<Reference>,
) -> BTreeMap<Reference, Lookup> {
    let queries = gather(references.into_iter().map(Query::Digest));
    let done = look_up(host, cache, insecure, now_ms, queries);
    gather(done.into_iter().filter_map(|(query, found)| match (query, found) {
        (Query::Digest(reference), Ok(Found::Digest(digest))) => Some((reference, Ok(digest))),
        (Query::Digest(reference), Err(failure)) => Some((reference, Err(failure))),
        _ => None,
    }))
}

/// The tags of each repository of `references` by its [`Reference::name`], in the registry's order, or why not.
pub(crate) fn list_tags(
    host: &mut dyn Host,
    cache: &mut Cache,
    insecure: &Insecure,
    now_ms: u64,
    references: &BTreeSet<Reference>,
) -> BTreeMap<String, Result<Vec<String>, Failure>> {
    let queries = gather(references.iter().map(|reference| Query::Tags(reference.without_tag())));
    let done = look_up(host, cache, insecure, now_ms, queries);
    gather(done.into_iter().filter_map(|(query, found)| match (query, found) {
        (Query::Tags(reference), Ok(Found::Tags(tags))) => Some((reference.name(), Ok(tags))),
        (Query::Tags(reference), Err(failure)) => Some((reference.name(), Err(failure))),
        _ => None,
    }))
}

fn look_up(
    host: &mut dyn Host,
    cache: &mut Cache,
    insecure: &Insecure,
    now_ms: u64,
    open: BTreeSet<Query>,
) -> Vec<(Query, Result<Found, Failure>)> {
    let (lists, fresh) = (BTreeMap::new(), BTreeSet::new());
    let mut resolver = Resolver { cache, insecure, now_ms, open, lists, fresh, done: Vec::new() };
    let mut rounds = 0;
    while rounds < ROUNDS {
        let round = resolver.next_round();
        if round.is_empty() {
            break;
        }
        let pages = |resolver: &Resolver<'_>| resolver.lists.values().map(|list| list.pages).sum::<usize>();
        let before = pages(&resolver);
        for (purpose, answer) in send(host, round) {
            resolver.take(purpose, answer);
        }
        rounds += usize::from(pages(&resolver) == before);
    }
    for query in std::mem::take(&mut resolver.open) {
        let message =
            format!("{} kept asking for another proof; gave up until the next poll", query.reference().api_host());
        resolver.finish(query, Err(Failure::passing(FailureCode::Unauthorized, message)));
    }
    resolver.done
}

/// Sends `round` in batches the host takes; a batch that failed as a whole failed for each of its requests.
fn send(host: &mut dyn Host, round: BTreeMap<Purpose, HttpRequest>) -> Vec<(Purpose, Answer<HttpResponse>)> {
    let (purposes, requests): (Vec<Purpose>, Vec<HttpRequest>) = round.into_iter().unzip();
    let mut answers = Vec::with_capacity(requests.len());
    for batch in requests.chunks(MAX_BATCH) {
        match host.http_send(HttpBatch { requests: batch.to_vec() }) {
            Answer::Ok(HttpResponses { responses }) if responses.len() == batch.len() => answers.extend(responses),
            Answer::Ok(_) => answers.extend(batch.iter().map(|_| {
                Answer::Err(Failure::passing(FailureCode::BadAnswer, "the host answered another number of responses"))
            })),
            Answer::Err(failure) => answers.extend(batch.iter().map(|_| Answer::Err(failure.clone()))),
        }
    }
    purposes.into_iter().zip(answers).collect()
}

impl Resolver<'_> {
    /// For every open reference the request that it needs next; a token is asked for once for all that share it.
    fn next_round(&self) -> BTreeMap<Purpose, HttpRequest> {
        gather(self.open.iter().map(|query| self.next_request(query)))
    }

    /// The page of a tag list that is to be read next.
    fn page_url(&self, query: &Query) -> String {
        let next = self.lists.get(query).and_then(|list| list.next.clone());
        next.unwrap_or_else(|| tags_url(self.insecure.scheme(query.reference().api_host()), query.reference()))
    }

    fn next_request(&self, query: &Query) -> (Purpose, HttpRequest) {
        let reference = query.reference();
        let registry = reference.api_host();
        let head = |auth, is_proven| {
            let request = match query {
                Query::Digest(_) => build_head(self.insecure.scheme(registry), reference, auth),
                Query::Tags(_) => build_tags(registry, &self.page_url(query), auth),
            };
            (Purpose::Query(query.clone(), is_proven), request)
        };
        let Some(known) = self.cache.registries.get(registry) else { return head(Auth::None, false) };
        let KnownRegistry::Bearer { realm, service, tokens, refused, .. } = known else {
            return head(Auth::Basic, true);
        };
        let scope = scope_of(known, reference);
        match tokens.get(&scope).filter(|token| token.expires_at_ms > self.now_ms) {
            Some(token) => head(Auth::Bearer(&token.value), true),
            None if refused.contains(&scope) => head(Auth::None, false),
            None => {
                let request = build_token(registry, realm, service.as_deref(), &scope);
                (Purpose::Token { registry: registry.to_owned(), scope }, request)
            }
        }
    }

    fn take(&mut self, purpose: Purpose, answer: Answer<HttpResponse>) {
        match purpose {
            Purpose::Query(query, is_proven) => match answer {
                Answer::Err(failure) => {
                    if failure.code == FailureCode::NoCredential {
                        self.cache.registries.remove(query.reference().api_host());
                    }
                    self.finish(query, Err(failure));
                }
                Answer::Ok(response) if response.status == 401 => self.take_challenge(query, is_proven, &response),
                Answer::Ok(response) if response.status == 200 => self.take_found(query, &response),
                Answer::Ok(response) => {
                    let failure = read_refusal(&query, &response);
                    self.finish(query, Err(failure));
                }
            },
            Purpose::Token { registry, scope } => self.take_token(registry, scope, answer),
        }
    }

    /// A 200: the digest, or a page of tags.
    fn take_found(&mut self, query: Query, response: &HttpResponse) {
        match &query {
            Query::Digest(reference) => {
                let digest = read_digest(reference, response).map(Found::Digest);
                self.finish(query, digest);
            }
            Query::Tags(reference) => {
                let url = self.page_url(&query);
                let list = self.lists.entry(query.clone()).or_default();
                let added = list.add(&url, &response.body, &response.header_values("link"));
                let found = match added {
                    Err(why) => Err(bad_answer(format!("{} {why}", reference.api_host()))),
                    Ok(()) if list.next.is_some() => return,
                    Ok(()) => Ok(Found::Tags(std::mem::take(&mut list.tags))),
                };
                self.finish(query, found);
            }
        }
    }

    /// A 401: learn how the registry wants to be asked, and leave the query open for another round.
    fn take_challenge(&mut self, query: Query, is_proven: bool, response: &HttpResponse) {
        let reference = query.reference();
        let registry = reference.api_host().to_owned();
        let Some(asked) = challenge::choose(&response.header_values("www-authenticate")) else {
            let message = format!("{registry} answered 401 without a Bearer or Basic challenge");
            return self.finish(query, Err(bad_answer(message)));
        };
        if let KnownRegistry::Bearer { realm, .. } = &asked
            && !is_realm(realm)
        {
            let message = format!("{registry} names the token realm {realm:?}, which is no http(s) URL");
            return self.finish(query, Err(bad_answer(message)));
        }
        let is_same_kind = |known: &KnownRegistry| std::mem::discriminant(known) == std::mem::discriminant(&asked);
        let is_final = is_proven
            && self.cache.registries.get(&registry).is_some_and(|known| match known {
                KnownRegistry::Basic => is_same_kind(known),
                KnownRegistry::Bearer { .. } => self.fresh.contains(&(registry.clone(), scope_of(known, reference))),
            });
        if is_final {
            let failure = unauthorized(reference, response.authenticated);
            return self.finish(query, Err(failure));
        }
        self.learn(registry, asked, reference);
    }

    /// Remembers the challenge, keeping the tokens of other repositories when it is the same as before.
    fn learn(&mut self, registry: String, asked: KnownRegistry, reference: &Reference) {
        let (
            KnownRegistry::Bearer { realm, service, scope, .. },
            Some(KnownRegistry::Bearer { realm: r, service: s, scope: c, tokens, refused }),
        ) = (&asked, self.cache.registries.get_mut(&registry))
        else {
            self.cache.registries.insert(registry, asked);
            return;
        };
        if (realm, service, scope) == (&*r, &*s, &*c) {
            let scope = asked_scope(scope.as_ref(), reference);
            refused.remove(&scope);
            if !self.fresh.contains(&(registry, scope.clone())) {
                tokens.remove(&scope);
            }
        } else {
            self.cache.registries.insert(registry, asked);
        }
    }

    fn take_token(&mut self, registry: String, scope: String, answer: Answer<HttpResponse>) {
        let token = match answer {
            Answer::Err(failure) => Err(failure),
            Answer::Ok(response) if response.status == 200 => parse_token(&response.body, self.now_ms)
                .map_err(|why| bad_answer(format!("the token server of {registry} {why}"))),
            Answer::Ok(response) => Err(refused_token(&registry, &response)),
        };
        match (token, self.cache.registries.get_mut(&registry)) {
            (Ok(token), Some(KnownRegistry::Bearer { tokens, .. })) => {
                tokens.insert(scope.clone(), token);
                self.fresh.insert((registry, scope));
            }
            (Err(failure), Some(known)) => {
                if let KnownRegistry::Bearer { refused, .. } = known {
                    refused.insert(scope.clone());
                }
                let known = known.clone();
                let waits = |query: &&Query| {
                    query.reference().api_host() == registry && scope_of(&known, query.reference()) == scope
                };
                for query in self.open.iter().filter(waits).cloned().collect::<Vec<_>>() {
                    self.finish(query, Err(failure.clone()));
                }
            }
            // The registry changed its mind about Bearer in this very round: asked again in the next.
            (_, _) => {}
        }
    }

    fn finish(&mut self, query: Query, found: Result<Found, Failure>) {
        self.open.remove(&query);
        let found = found.map_err(|failure| crate::context("failed to look up", failure));
        self.done.push((query, found));
    }
}

fn scope_of(known: &KnownRegistry, reference: &Reference) -> String {
    match known {
        KnownRegistry::Bearer { scope, .. } => asked_scope(scope.as_ref(), reference),
        KnownRegistry::Basic => String::new(),
    }
}

fn asked_scope(own: Option<&String>, reference: &Reference) -> String {
    own.cloned().unwrap_or_else(|| format!("repository:{}:pull", reference.repository()))
}

fn read_digest(reference: &Reference, response: &HttpResponse) -> Lookup {
    let registry = reference.api_host();
    match response.header("docker-content-digest") {
        None => Err(bad_answer(format!("{registry} answered without Docker-Content-Digest"))),
        Some(text) => text.parse().map_err(|error| {
            let shown: String = text.chars().filter(|c| !c.is_control()).take(80).collect();
            bad_answer(format!("{registry} answered Docker-Content-Digest {shown:?}: {error}"))
        }),
    }
}

fn read_refusal(query: &Query, response: &HttpResponse) -> Failure {
    let reference = query.reference();
    let registry = reference.api_host();
    match (response.status, query) {
        (403, _) => unauthorized(reference, response.authenticated),
        (404, Query::Digest(_)) => Failure::lasting(
            FailureCode::NotFound,
            format!("{registry} has no {}:{}", reference.repository(), reference.tag_or_latest()),
        ),
        (404, Query::Tags(_)) => {
            Failure::lasting(FailureCode::NotFound, format!("{registry} has no {}", reference.repository()))
        }
        (status, _) => by_status(registry, status, response),
    }
}

fn by_status(server: &str, status: u16, response: &HttpResponse) -> Failure {
    match status {
        429 => {
            let wait =
                response.header("retry-after").filter(|wait| wait.len() <= 40 && !wait.contains(char::is_control));
            let until = wait.map_or("later".to_owned(), |wait| format!("after {wait}"));
            Failure::passing(FailureCode::RateLimited, format!("{server} limits the rate: asked to come back {until}"))
        }
        status => Failure { retryable: status >= 500, ..bad_answer(format!("{server} answered with status {status}")) },
    }
}

fn refused_token(registry: &str, response: &HttpResponse) -> Failure {
    let server = format!("the token server of {registry}");
    match response.status {
        401 | 403 if response.authenticated => Failure::lasting(
            FailureCode::Unauthorized,
            format!("{server} refused the credential configured for {registry} (status {})", response.status),
        ),
        401 | 403 => Failure::lasting(
            FailureCode::NoCredential,
            format!(
                "{server} gives no anonymous token (status {}); configure a credential for {registry}",
                response.status
            ),
        ),
        status => by_status(&server, status, response),
    }
}

fn unauthorized(reference: &Reference, is_authenticated: bool) -> Failure {
    let (registry, repository) = (reference.api_host(), reference.repository());
    let advice = if is_authenticated {
        format!("the credential configured for {registry} does not give access to it")
    } else {
        format!("if {repository} is private, configure a credential for {registry}")
    };
    Failure::lasting(FailureCode::Unauthorized, format!("{registry} denied access to {repository}; {advice}"))
}

fn bad_answer(message: String) -> Failure {
    Failure::passing(FailureCode::BadAnswer, message)
}
