//! Challenges, denials and tokens: which way is left for a query whose proof was not enough.

use std::collections::BTreeSet;

use imagewatch_abi::{Answer, Failure, FailureCode, HttpResponse};

use super::super::cache::{Challenge, Known, Token};
use super::super::challenge::{Asked, choose};
use super::super::token::parse_token;
use super::messages::{bad_answer, host_of, refused_token, shown, token_server, unauthorized};
use super::plan::{ENOUGH, is_answerable};
use super::{Fallback, Proof, Query, Resolver, TokenAsk};

/// No registry's wishes for one repository are longer than this.
const MAX_SCOPE: usize = 1_000;

impl Resolver<'_> {
    /// A 401: learn how the registry wants to be asked, or find out what was wrong with the proof.
    pub(super) fn take_challenge(&mut self, query: Query, proof: &Proof, response: &HttpResponse) {
        let registry = query.registry().to_owned();
        let Some(asked) = choose(&response.header_values("www-authenticate")) else {
            let message = format!("{registry} answered 401 without a Bearer or Basic challenge");
            return self.finish(query, Err(bad_answer(message)));
        };
        if !is_answerable(&asked.challenge) {
            let Challenge::Bearer { realm, .. } = &asked.challenge else { return };
            let message = format!("{registry} names the token realm {:?}, which is no http(s) URL", shown(realm));
            return self.finish(query, Err(bad_answer(message)));
        }
        let is_anonymous = self.is_anonymous(&query);
        let known = self.cache.registries.entry(registry).or_default();
        known.challenge_suspect = false;
        if known.challenge.as_ref() != Some(&asked.challenge) {
            let is_other = known.challenge.is_some();
            known.challenge = Some(asked.challenge.clone());
            known.tokens.clear();
            note_scope(known, &query, &asked);
            // One change of mind is learnt from; more are a registry that cannot make up its mind.
            if self.may_try(&query, if is_other { Fallback::Renew } else { Fallback::Prove }) {
                return;
            }
        } else if *proof == Proof::None {
            note_scope(known, &query, &asked);
            if !is_anonymous && self.may_try(&query, Fallback::Prove) {
                return;
            }
        }
        match proof {
            Proof::Login(login) if self.reject(&query, login, response) => return,
            Proof::Token { at, .. } if self.may_renew(&query, *at, &asked) => return,
            _ => {}
        }
        self.take_denial(query, proof, response.authenticated);
    }

    /// Whether `query` may go out with the login once more: ECR's are over after 12 hours, which it says in the words of
    /// a denial. The host renews what the request names as refused; that is this query's alone to say, for a true
    /// denial of one repository leaves the login good for the others.
    pub(super) fn may_repeat(&mut self, query: &Query, response: &HttpResponse) -> bool {
        let (true, Some(id)) = (is_ecr(query.registry()), &response.credential_id) else { return false };
        let Some(job) = self.open.get_mut(query) else { return false };
        let is_first = job.may_try(Fallback::Repeat);
        if is_first {
            job.unless = Some(id.clone());
        }
        is_first
    }

    /// A login that was refused is not sent again, here or in later calls, until it is another. Whether the host may have
    /// another already.
    fn reject(&mut self, query: &Query, login: &str, response: &HttpResponse) -> bool {
        self.note_login_try(query.registry());
        if let (Some(known), Some(id)) = (self.cache.registries.get_mut(query.registry()), &response.credential_id) {
            known.rejected.insert(login.to_owned(), id.clone());
        }
        let may_be_another = self.may_repeat(query, response);
        if !may_be_another {
            self.refused.insert(login.to_owned());
        }
        may_be_another
    }

    /// Whether a 401 to a token leaves a way: a wider scope, or a new one in place of one that is over.
    fn may_renew(&mut self, query: &Query, at: usize, asked: &Asked) -> bool {
        let Some(known) = self.cache.registries.get_mut(query.registry()) else { return false };
        let Some(job) = self.open.get_mut(query) else { return false };
        let error = asked.error.as_deref();
        if error == Some("insufficient_scope") {
            return note_scope(known, query, asked) && job.may_try(Fallback::Widen);
        }
        match known.tokens.get_mut(at) {
            Some(token) if token.is_fresh && error != Some("invalid_token") => return false,
            // It may be over for all of its repositories; the first that notices takes it away.
            Some(token) => token.expires_at_ms = 0,
            None => {}
        }
        job.may_try(Fallback::Renew)
    }

    /// A proof that is not enough for this repository.
    pub(super) fn take_denial(&mut self, query: Query, proof: &Proof, is_authenticated: bool) {
        let Some(job) = self.open.get_mut(&query) else { return };
        let known = self.cache.registries.entry(query.registry().to_owned()).or_default();
        let mut is_authenticated = is_authenticated;
        match proof {
            Proof::None | Proof::Login(_) => {}
            Proof::Token { at, is_borrowed } => {
                if *is_borrowed {
                    known.is_shared = known.is_shared.or(Some(false));
                }
                let scope = known.scope_of(query.reference());
                let Some(token) = known.tokens.get_mut(*at) else {
                    // Gone with what another query has learnt in this round.
                    if job.may_try(Fallback::Renew) {
                        return;
                    }
                    return self.finish(query, Err(bad_answer("the token was taken back".to_owned())));
                };
                if (*is_borrowed || token.scopes.len() > 1) && job.may_try(Fallback::Alone) {
                    job.was_in_batch = token.scopes.remove(&scope);
                    return;
                }
                is_authenticated = token.is_authenticated;
            }
        }
        job.was_in_batch = false;
        let has_login = is_authenticated || matches!(proof, Proof::Login(_));
        if has_login && job.may_try(Fallback::Anonymous) {
            return;
        }
        // Denied with and without: the login is tried again the next time.
        known.public.remove(query.reference().repository());
        let has_login = has_login || job.has_tried(Fallback::Anonymous);
        // Some registries refuse only the HEAD. One that has answered a HEAD before does not.
        let takes_head = known.has_head == Some(true);
        if job.is_forbidden && !has_login && !takes_head && self.may_ask_for_content(&query) {
            return;
        }
        let failure = unauthorized(self.cache.registries.get(query.registry()), query.reference(), has_login);
        self.finish(query, Err(failure));
    }

    pub(super) fn take_token(&mut self, ask: &TokenAsk, answer: Answer<HttpResponse>) {
        self.note_login_try(&ask.registry);
        let Some(known) = self.cache.registries.get_mut(&ask.registry) else { return };
        // The registry changed its mind about Bearer in this very round: asked again in the next.
        let Some(Challenge::Bearer { realm, .. }) = known.challenge.clone() else { return };
        let server = token_server(&ask.registry, &realm);
        let response = match answer {
            Answer::Ok(response) => response,
            Answer::Err(failure) => {
                match (failure.code, &ask.login) {
                    (FailureCode::IdentityToken, _) if !known.is_post => known.is_post = true,
                    (FailureCode::PerRepository, _) if !known.is_per_repository => known.is_per_repository = true,
                    (FailureCode::Rejected, Some(login)) if self.refused.insert(login.clone()) => {}
                    _ => {
                        self.talk(&ask.registry).challenge_suspect = true;
                        self.fail_waiting(ask, &failure);
                    }
                }
                return;
            }
        };
        if let Some(parked) = self.note_limit(host_of(&realm), &response) {
            return self.fail_waiting(ask, &parked.to_failure(&server));
        }
        if response.status != 200 {
            return self.take_token_refusal(ask, &server, &response);
        }
        match parse_token(&response.body, self.now_ms) {
            Err(why) => {
                self.talk(&ask.registry).challenge_suspect = true;
                self.fail_waiting(ask, &bad_answer(format!("{server} {why}")));
            }
            Ok((value, expires_at_ms)) => {
                self.talk(&ask.registry).logins = ENOUGH;
                let Some(known) = self.cache.registries.get_mut(&ask.registry) else { return };
                if let (Some(login), true) = (&ask.login, response.authenticated) {
                    known.rejected.remove(login);
                }
                known.tokens.push(Token {
                    value,
                    expires_at_ms,
                    scopes: ask.scopes.iter().cloned().collect(),
                    is_authenticated: response.authenticated,
                    is_fresh: true,
                });
            }
        }
    }

    fn take_token_refusal(&mut self, ask: &TokenAsk, server: &str, response: &HttpResponse) {
        let Some(known) = self.cache.registries.get_mut(&ask.registry) else { return };
        let is_denial = matches!(response.status, 401 | 403);
        match &ask.login {
            Some(login) if response.status == 401 && response.authenticated => {
                self.refused.insert(login.clone());
                if let Some(id) = &response.credential_id {
                    known.rejected.insert(login.clone(), id.clone());
                }
                return;
            }
            // One of them may be what is refused, or that they are several.
            _ if ask.scopes.len() > 1 && (400..500).contains(&response.status) && response.status != 408 => {
                known.is_single = true;
                return;
            }
            Some(_) if is_denial && response.authenticated => {
                let mut is_another_way = false;
                for query in self.waiting(ask) {
                    is_another_way |= self.may_try(&query, Fallback::Anonymous);
                }
                if is_another_way {
                    return;
                }
            }
            _ => {}
        }
        let Some(known) = self.cache.registries.get(&ask.registry) else { return };
        let failure = refused_token(known, &ask.registry, server, response);
        self.fail_waiting(ask, &failure);
        if !is_denial {
            self.talk(&ask.registry).challenge_suspect = true;
        }
    }

    pub(super) fn waiting(&self, ask: &TokenAsk) -> Vec<Query> {
        let Some(known) = self.cache.registries.get(&ask.registry) else { return Vec::new() };
        let waits = self.open.iter().filter(|(query, job)| {
            query.registry() == ask.registry
                && ask.scopes.contains(&known.scope_of(query.reference()))
                && self.login_of(known, query.reference(), job) == ask.login
        });
        waits.map(|(query, _)| query.clone()).collect()
    }

    /// No token for those that wait for it.
    fn fail_waiting(&mut self, ask: &TokenAsk, failure: &Failure) {
        for query in self.waiting(ask) {
            self.finish(query, Err(failure.clone()));
        }
    }

    /// Whether `query` goes without a login.
    fn is_anonymous(&self, query: &Query) -> bool {
        let known_and_job = self.cache.registries.get(query.registry()).zip(self.open.get(query));
        known_and_job.is_some_and(|(known, job)| self.login_of(known, query.reference(), job).is_none())
    }
}

/// Remembers the scope that the registry names for this repository where it is not the usual one: the union with what
/// was asked for, its own first, as some servers look at the first only. Whether that is news.
pub(super) fn note_scope(known: &mut Known, query: &Query, asked: &Asked) -> bool {
    let before = known.scope_of(query.reference());
    let Some(named) = asked.scope.as_deref() else { return false };
    if before.split(' ').eq(named.split(' ')) {
        return false;
    }
    let mut words = named.split_ascii_whitespace();
    let first = words.next().unwrap_or_default();
    let mut rest: BTreeSet<&str> = words.chain(before.split(' ')).collect();
    rest.remove(first);
    let merged = rest.into_iter().fold(first.to_owned(), |merged, scope| merged + " " + scope);
    let is_news = merged != before && merged.len() <= MAX_SCOPE;
    if !is_news {
        return false;
    }
    known.scopes.insert(query.reference().repository().to_owned(), merged);
    true
}

/// Ends of the names of AWS's private registries; the host knows where each has its API.
const ECR_ENDS: [&str; 9] = [
    ".amazonaws.com",
    ".amazonaws.com.cn",
    ".amazonaws.eu",
    ".c2s.ic.gov",
    ".sc2s.sgov.gov",
    ".cloud.adc-e.uk",
    ".csp.hci.ic.gov",
    ".on.aws",
    ".on.amazonwebservices.com.cn",
];

fn is_ecr(registry: &str) -> bool {
    let registry = registry.split(':').next().unwrap_or(registry);
    let is_private = [".dkr.ecr.", ".dkr.ecr-fips.", ".dkr-ecr.", ".dkr-ecr-fips."];
    is_private.iter().any(|part| registry.contains(part)) && ECR_ENDS.iter().any(|end| registry.ends_with(end))
}
