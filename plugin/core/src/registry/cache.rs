//! What was learnt of registries: how they want to be asked, their tokens, who wants to be left alone, and documents
//! that never change. Lost at a restart; costs a few requests then. Takes no decision.

use std::collections::{BTreeMap, BTreeSet};

use imagewatch_abi::{Digest, Reference};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::document::Document;
use super::limit::RateLimited;
use super::unfinished::Unfinished;

/// Kept by the host between calls.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Cache {
    /// By API host.
    pub(crate) registries: BTreeMap<String, Known>,
    /// By host: registries and token servers apart.
    pub(crate) parked: BTreeMap<String, RateLimited>,
    /// By digest, which fixes their content.
    pub(crate) documents: BTreeMap<Digest, Document>,
    /// Images that their repository has, as `repository@digest`: each was asked for by its digest.
    pub(crate) confirmed: BTreeSet<Reference>,
    /// What the next poll goes on with.
    #[serde(skip_serializing_if = "Unfinished::is_empty")]
    pub(crate) unfinished: Unfinished,
}

/// What is known of a registry.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a thing learnt by itself")]
pub(crate) struct Known {
    /// How it wants to be asked; absent: without any proof, so far.
    pub(crate) challenge: Option<Challenge>,
    /// The challenge led nowhere the last time: it is asked for anew before it is answered.
    pub(crate) challenge_suspect: bool,
    pub(crate) tokens: Vec<Token>,
    /// Scopes other than `repository:…:pull`, by repository.
    pub(crate) scopes: BTreeMap<String, String>,
    /// The login is an identity token, which is sent by POST.
    pub(crate) is_post: bool,
    /// Its logins go by repository.
    pub(crate) is_per_repository: bool,
    /// Its token server does not take several scopes at once.
    pub(crate) is_single: bool,
    /// Whether a token that was got without a login for one repository is good for another.
    pub(crate) is_shared: Option<bool>,
    /// The ids of refused logins, by the name under which they were asked for: not sent again until they change.
    pub(crate) rejected: BTreeMap<String, String>,
    /// Repositories that the login is denied and anybody may read.
    pub(crate) public: BTreeSet<String>,
    /// Whether its HEAD says the digest; once it did, it does.
    pub(crate) has_head: Option<bool>,
}

/// What a registry wants as proof.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Challenge {
    /// The login itself.
    Basic,
    /// A token from its realm.
    Bearer {
        realm: String,
        service: Option<String>,
        /// A scope of its own kind (`aws`, `*`), asked for in place of `repository:…:pull`.
        scope: Option<String>,
    },
}

/// A bearer token. `Debug` does not show it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Token {
    pub(crate) value: String,
    pub(crate) expires_at_ms: u64,
    /// What it was asked for.
    pub(crate) scopes: BTreeSet<String>,
    /// Whether it was got with a login.
    pub(crate) is_authenticated: bool,
    /// Whether it was got in this very call.
    #[serde(skip)]
    pub(crate) is_fresh: bool,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Token").field("expires_at_ms", &self.expires_at_ms).finish_non_exhaustive()
    }
}

impl Known {
    /// The scopes that a token for `reference` needs, separated by blanks.
    pub(crate) fn scope_of(&self, reference: &Reference) -> String {
        let own = self.scopes.get(reference.repository());
        let general = match &self.challenge {
            Some(Challenge::Bearer { scope, .. }) => scope.as_ref(),
            _ => None,
        };
        own.or(general).cloned().unwrap_or_else(|| format!("repository:{}:pull", reference.repository()))
    }
}

impl Cache {
    /// Reads what the host kept. A cache that cannot be read is an empty one: it costs requests, nothing else.
    pub(crate) fn parse(value: &Value) -> Self {
        Self::deserialize(value).unwrap_or_default()
    }

    /// For the host to keep, without tokens that are over. Who was parked stays noted for as long again, so that the
    /// next wait of a server that names none is longer.
    pub(crate) fn into_value(mut self, now_ms: u64) -> Value {
        for known in self.registries.values_mut() {
            known.tokens.retain(|token| token.expires_at_ms > now_ms);
        }
        self.parked.retain(|_, parked| parked.forget_ms() > now_ms);
        serde_json::to_value(self).expect("a cache has string keys only")
    }
}
