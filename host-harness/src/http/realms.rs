//! Which token realms registries have named in their challenges. A policy may ask a realm for an
//! anonymous token that is not among its hosts, but only one that a registry did name: else it
//! could send whatever it likes to whomever it likes. Knows no challenge's grammar, holds no token.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use url::{Origin, Url};

/// A registry has one, rarely two; this only bounds what a hostile one can make us keep.
const MAX_REALMS_PER_REGISTRY: usize = 16;

/// Origins (`https://auth.docker.io`) by the registry host that named them.
#[derive(Debug, Default)]
pub struct Realms {
    by_registry: Mutex<BTreeMap<String, BTreeSet<String>>>,
}

impl Realms {
    /// Notes every https URL in `challenge`, a value of `WWW-Authenticate` from `registry`.
    pub fn note(&self, registry: &str, challenge: &str) {
        let named: Vec<String> = origins(challenge).collect();
        if named.is_empty() {
            return;
        }
        let mut by_registry = self.by_registry.lock().unwrap_or_else(PoisonError::into_inner);
        let known = by_registry.entry(registry.to_owned()).or_default();
        for origin in named {
            if known.len() < MAX_REALMS_PER_REGISTRY {
                known.insert(origin);
            }
        }
    }

    /// Whether a registry for which `is_trusted` holds named the origin of `url` as its realm.
    pub fn has(&self, url: &Url, is_trusted: impl Fn(&str) -> bool) -> bool {
        let origin = url.origin().ascii_serialization();
        let by_registry = self.by_registry.lock().unwrap_or_else(PoisonError::into_inner);
        by_registry.iter().any(|(registry, named)| named.contains(&origin) && is_trusted(registry))
    }
}

fn origins(challenge: &str) -> impl Iterator<Item = String> {
    let words = challenge.split(|c: char| matches!(c, '"' | ',' | '\\' | '=') || c.is_whitespace());
    words
        .filter(|word| word.get(..8).is_some_and(|scheme| scheme.eq_ignore_ascii_case("https://")))
        .filter_map(|word| Url::parse(word).ok())
        .map(|url| url.origin())
        .filter(Origin::is_tuple)
        .map(|origin| origin.ascii_serialization())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).expect("a url")
    }

    #[test]
    fn a_realm_is_known_by_its_origin_and_by_who_named_it() {
        let realms = Realms::default();
        realms.note("r.io", r#"Bearer realm="https://Auth.r.io/token?a=b",service="r.io",scope="x:https://s.io""#);
        realms.note("other.io", "Bearer realm=https://auth.other.io:8443/token, service=other");
        for (text, registry, is_known) in [
            ("https://auth.r.io/token?service=r.io&scope=x", "r.io", true),
            ("https://auth.r.io:443/elsewhere", "r.io", true),
            ("https://auth.r.io/token", "other.io", false),
            ("https://auth.r.io:8443/token", "r.io", false),
            ("https://auth.other.io:8443/", "other.io", true),
            ("http://auth.r.io/token", "r.io", false),
            ("https://evil.example/token", "r.io", false),
        ] {
            assert_eq!(realms.has(&url(text), |by| by == registry), is_known, "{text}");
        }
    }

    #[test]
    fn what_a_registry_can_make_us_keep_is_bounded() {
        let realms = Realms::default();
        for n in 0..1000 {
            realms.note("r.io", &format!("Bearer realm=\"https://a{n}.io/\""));
        }
        assert!(realms.has(&url("https://a0.io/"), |_| true) && !realms.has(&url("https://a999.io/"), |_| true));
    }
}
