//! What each open query needs next: to be asked, a token first, or to wait for another that learns the same.
//! Frugal before fast only where it counts: one goes ahead where many would be turned away alike.

use std::collections::{BTreeMap, BTreeSet};

use imagewatch_abi::{Failure, FailureCode, HttpRequest, MAX_BATCH, Reference};

use super::super::cache::{Challenge, Known};
use super::super::request::{
    Auth, Want, build_exchange, build_manifest, build_tags, build_token, is_realm, tags_url, token_url,
};
use super::messages::{host_of, token_server};
use super::{Fallback, Job, Proof, Purpose, Query, Resolver, TokenAsk};

/// So many may find out side by side that a registry wants a proof; of more, one goes ahead.
const FEW: usize = 8;

/// A login that came through, or was tried so often without a word against it, may be sent side by side.
pub(super) const ENOUGH: u32 = 3;

/// So many scopes go into one token request,
const MAX_SCOPES: usize = 50;

/// and so many bytes of them: servers refuse long URLs.
const MAX_SCOPE_BYTES: usize = 3_000;

enum Plan {
    Ask(Proof),
    /// With this login, for this scope.
    Token(Option<String>, String),
    Wait,
    Fail(Failure),
}

/// The tokens wanted of a registry with a login: scopes that may share one, and those that may not.
type Wanted = BTreeMap<(String, Option<String>), (BTreeSet<String>, BTreeSet<String>)>;

impl Resolver<'_> {
    /// The next batch: for every open query the request that it needs next. Queries that are held up end here.
    pub(super) fn next_round(&mut self) -> Vec<(Purpose, HttpRequest)> {
        let mut round = Vec::new();
        let mut failed = Vec::new();
        let mut wanted = Wanted::new();
        let mut held_up = Vec::new();
        // Registries for which one goes ahead in this round, or has no answer yet.
        let mut busy = self.late.clone();
        for (query, job) in &self.open {
            if round.len() == MAX_BATCH {
                break;
            }
            match self.plan(query, job, &mut busy) {
                Plan::Wait if self.late.contains(query.registry()) => held_up.push(query.clone()),
                Plan::Token(..) if self.is_login_pending(query.registry()) => held_up.push(query.clone()),
                Plan::Wait => {}
                Plan::Fail(failure) => failed.push((query.clone(), failure)),
                Plan::Ask(proof) => {
                    round.push((Purpose::Query(query.clone(), proof.clone()), self.build(query, job, &proof)));
                }
                Plan::Token(login, scope) => {
                    let (shared, own) = wanted.entry((query.registry().to_owned(), login)).or_default();
                    if job.has_tried(Fallback::Alone) {
                        own.insert(scope)
                    } else {
                        shared.insert(scope)
                    };
                }
            }
        }
        for (query, failure) in failed {
            self.finish(query, Err(failure));
        }
        for query in held_up {
            let message = format!("{} has not answered yet", query.registry());
            self.suspend(query, &Failure::retryable(FailureCode::Pending, message));
        }
        for ((registry, login), (shared, own)) in wanted {
            self.ask_tokens(&mut round, &registry, login.as_deref(), &shared, own);
        }
        round
    }

    fn plan(&self, query: &Query, job: &Job, busy: &mut BTreeSet<String>) -> Plan {
        let (reference, registry) = (query.reference(), query.registry());
        if let Some(parked) = self.parked(registry) {
            return Plan::Fail(parked.to_failure(registry));
        }
        let Some(known) = self.cache.registries.get(registry) else {
            let is_crowd = self.talks.get(registry).is_some_and(|talk| talk.queries > FEW);
            let goes_ahead = !is_crowd || self.responded(registry) || busy.insert(registry.to_owned());
            return if goes_ahead { Plan::Ask(Proof::None) } else { Plan::Wait };
        };
        match &known.challenge {
            None => Plan::Ask(Proof::None),
            Some(Challenge::Basic) if known.challenge_suspect && !self.responded(registry) => ask_anew(registry, busy),
            Some(Challenge::Basic) => match self.login_of(known, reference, job) {
                None => Plan::Ask(Proof::None),
                // A wrong password is sent once, not once for each image: accounts are locked for less.
                Some(_) if !self.is_login_proven(registry) && !busy.insert(registry.to_owned()) => Plan::Wait,
                Some(login) => Plan::Ask(Proof::Login(login)),
            },
            Some(Challenge::Bearer { realm, .. }) => self.plan_token(known, realm, reference, job, busy),
        }
    }

    fn plan_token(
        &self,
        known: &Known,
        realm: &str,
        reference: &Reference,
        job: &Job,
        busy: &mut BTreeSet<String>,
    ) -> Plan {
        let registry = reference.api_host();
        let scope = known.scope_of(reference);
        let login = self.login_of(known, reference, job);
        let is_alone = job.has_tried(Fallback::Alone);
        let place = |is_good: &dyn Fn(&super::super::cache::Token) -> bool| {
            known.tokens.iter().position(|token| token.expires_at_ms > self.now_ms && is_good(token))
        };
        let own = place(&|token| {
            token.scopes.contains(&scope)
                && (login.is_some() || !token.is_authenticated)
                && (!is_alone || token.scopes.len() == 1)
        });
        if let Some(at) = own {
            return Plan::Ask(Proof::Token { at, is_borrowed: false });
        }
        if known.is_single && known.is_shared != Some(false) && !is_alone {
            let anonymous = place(&|token| !token.is_authenticated);
            if let Some(at) = anonymous {
                let goes_ahead = known.is_shared.is_some() || busy.insert(registry.to_owned());
                return if goes_ahead { Plan::Ask(Proof::Token { at, is_borrowed: true }) } else { Plan::Wait };
            }
        }
        if known.challenge_suspect && !self.responded(registry) {
            return ask_anew(registry, busy);
        }
        match self.parked(host_of(realm)) {
            Some(parked) => Plan::Fail(parked.to_failure(&token_server(registry, realm))),
            None => Plan::Token(login, scope),
        }
    }

    /// Whether the one that tries the login has no answer: until then the login is not sent again.
    fn is_login_pending(&self, registry: &str) -> bool {
        self.late_logins.contains(registry) && !self.is_login_proven(registry)
    }

    /// Adds the requests for tokens: as few as the server takes, and one alone until the login has come through.
    fn ask_tokens(
        &self,
        round: &mut Vec<(Purpose, HttpRequest)>,
        registry: &str,
        login: Option<&str>,
        shared: &BTreeSet<String>,
        own: BTreeSet<String>,
    ) {
        let Some(known) = self.cache.registries.get(registry) else { return };
        let Some(Challenge::Bearer { realm, service, .. }) = &known.challenge else { return };
        let most = if known.is_single || known.is_per_repository { 1 } else { MAX_SCOPES };
        let mut asks: Vec<Vec<String>> = Vec::new();
        for scope in shared {
            let bytes = |ask: &Vec<String>| ask.iter().map(|scope| scope.len() + 16).sum::<usize>();
            match asks.last_mut() {
                Some(ask) if ask.len() < most && bytes(ask) + scope.len() < MAX_SCOPE_BYTES => ask.push(scope.clone()),
                _ => asks.push(vec![scope.clone()]),
            }
        }
        asks.extend(own.into_iter().map(|scope| vec![scope]));
        if !self.is_login_proven(registry) {
            asks.truncate(1);
        }
        for scopes in asks {
            let unless = login.and_then(|login| known.rejected.get(login)).map(String::as_str);
            let login = login.map(|login| (login, unless));
            let request = match login {
                Some(login) if known.is_post => build_exchange(realm, service.as_deref(), &scopes, login),
                _ => build_token(token_url(realm, service.as_deref(), &scopes), login),
            };
            let login = login.map(|(login, _)| login.to_owned());
            round.push((Purpose::Token(TokenAsk { registry: registry.to_owned(), login, scopes }), request));
        }
    }

    fn build(&self, query: &Query, job: &Job, proof: &Proof) -> HttpRequest {
        let (reference, registry) = (query.reference(), query.registry());
        let known = self.cache.registries.get(registry);
        let auth = match (proof, known) {
            (Proof::Login(login), Some(known)) => {
                let unless = job.unless.as_ref().or_else(|| known.rejected.get(login));
                Auth::Basic(login, unless.map(String::as_str))
            }
            (Proof::Token { at, .. }, Some(known)) => Auth::Bearer(&known.tokens[*at].value),
            _ => Auth::None,
        };
        let scheme = self.insecure.scheme(registry);
        match query {
            Query::Digest(_) if self.is_hashed(query, job) => build_manifest(scheme, reference, Want::Hash, auth),
            Query::Digest(_) => build_manifest(scheme, reference, Want::Head, auth),
            Query::Document(_) => build_manifest(scheme, reference, Want::Text, auth),
            Query::Tags(_) => build_tags(self.page_url(query, job), auth),
        }
    }

    /// Whether the digest of `query` is taken from the content.
    pub(super) fn is_hashed(&self, query: &Query, job: &Job) -> bool {
        job.has_tried(Fallback::Hash)
            || self.cache.registries.get(query.registry()).is_some_and(|known| known.has_head == Some(false))
    }

    /// The page of a tag list that is to be read next.
    pub(super) fn page_url(&self, query: &Query, job: &Job) -> String {
        let first = || tags_url(self.insecure.scheme(query.registry()), query.reference());
        job.list.next.clone().unwrap_or_else(first)
    }

    /// The name of the login to send, unless none is to be sent.
    pub(super) fn login_of(&self, known: &Known, reference: &Reference, job: &Job) -> Option<String> {
        let login = if known.is_per_repository {
            format!("{}/{}", reference.api_host(), reference.repository())
        } else {
            reference.api_host().to_owned()
        };
        let is_anonymous = job.has_tried(Fallback::Anonymous)
            || known.public.contains(reference.repository())
            || self.refused.contains(&login);
        (!is_anonymous).then_some(login)
    }

    fn is_login_proven(&self, registry: &str) -> bool {
        self.talks.get(registry).is_some_and(|talk| talk.logins >= ENOUGH)
    }

    fn responded(&self, registry: &str) -> bool {
        self.talks.get(registry).is_some_and(|talk| talk.responded)
    }

    fn parked(&self, server: &str) -> Option<&super::super::limit::RateLimited> {
        self.cache.parked.get(server).filter(|parked| parked.until_ms > self.now_ms)
    }
}

/// One asks without proof, for all that the answer concerns.
fn ask_anew(registry: &str, busy: &mut BTreeSet<String>) -> Plan {
    if busy.insert(registry.to_owned()) { Plan::Ask(Proof::None) } else { Plan::Wait }
}

/// Whether a challenge can be answered at all.
pub(super) fn is_answerable(challenge: &Challenge) -> bool {
    !matches!(challenge, Challenge::Bearer { realm, .. } if !is_realm(realm))
}
