//! Which token realms registries have named in their challenges. A policy may ask a realm for an
//! anonymous token that is not among its hosts, and with a credential for a token at all, but only one that a registry
//! did name: else it could send whatever it likes to whomever it likes. Knows no challenge's grammar, holds no token.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use url::Url;

use imagewatch_base::registry_name::parse_registry;

/// A registry has one, or one for each of its repositories; this only bounds what a hostile one can make us keep.
const MAX_REALMS_PER_REGISTRY: usize = 64;
const MAX_REALM_BYTES: usize = 1_024;

/// And this what one can that leads to ever more hosts.
const MAX_REGISTRIES: usize = 1_024;

/// Realms (`https://auth.docker.io/token`), with their queries, by the registry that named them.
#[derive(Debug, Default)]
pub struct Realms {
    by_registry: Mutex<BTreeMap<String, BTreeSet<Url>>>,
}

impl Realms {
    /// Notes every URL in `challenge`, a value of `WWW-Authenticate` from the host `registry`.
    pub fn note(&self, registry: &str, challenge: &str) {
        let named: Vec<Url> = urls(challenge).filter(|url| url.as_str().len() <= MAX_REALM_BYTES).collect();
        let mut by_registry = self.by_registry.lock().unwrap_or_else(PoisonError::into_inner);
        let is_full = by_registry.len() >= MAX_REGISTRIES && !by_registry.contains_key(registry);
        if named.is_empty() || is_full {
            return;
        }
        let known = by_registry.entry(registry.to_owned()).or_default();
        for url in named {
            if known.len() < MAX_REALMS_PER_REGISTRY {
                known.insert(url);
            }
        }
    }

    /// Whether a registry for which `is_trusted` holds named a realm at the origin of `url`, by https.
    pub fn has(&self, url: &Url, is_trusted: impl Fn(&str) -> bool) -> bool {
        let is_there = |known: &Url| known.scheme() == "https" && known.origin() == url.origin();
        let by_registry = self.by_registry.lock().unwrap_or_else(PoisonError::into_inner);
        by_registry.iter().any(|(registry, named)| is_trusted(registry) && named.iter().any(is_there))
    }

    /// The realms that `registry`, under any of its names, named and that `url` is but for the query.
    pub fn named_by(&self, registry: &str, url: &Url) -> Vec<Url> {
        let is_it = |known: &&Url| known.origin() == url.origin() && known.path() == url.path();
        // Without TLS a host goes without that port.
        let is_registry =
            |host: &str| parse_registry(host).as_deref() == Some(registry) || format!("{host}:80") == registry;
        let by_registry = self.by_registry.lock().unwrap_or_else(PoisonError::into_inner);
        let of_it = by_registry.iter().filter(|(host, _)| is_registry(host));
        of_it.flat_map(|(_, named)| named).filter(is_it).cloned().collect()
    }
}

fn urls(challenge: &str) -> impl Iterator<Item = Url> {
    let words = challenge.split(|c: char| matches!(c, '"' | ',' | '\\') || c.is_whitespace());
    let unnamed = words.map(|word| without_prefix(word, "realm=").unwrap_or(word));
    let is_url = |word: &&str| ["https://", "http://"].iter().any(|scheme| without_prefix(word, scheme).is_some());
    unnamed.filter(is_url).filter_map(|word| Url::parse(word).ok()).filter(Url::has_host)
}

/// What follows `prefix`, in capitals or not.
fn without_prefix<'a>(word: &'a str, prefix: &str) -> Option<&'a str> {
    word.split_at_checked(prefix.len()).filter(|(start, _)| start.eq_ignore_ascii_case(prefix)).map(|(_, rest)| rest)
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
        realms.note("long.io", &format!("Bearer realm=\"https://long.io/{}\"", "x".repeat(MAX_REALM_BYTES)));
        assert!(!realms.has(&url("https://long.io/"), |_| true));
        for n in 0..2 * MAX_REGISTRIES {
            realms.note(&format!("r{n}.evil.example"), "Bearer realm=\"https://evil.example/\"");
        }
        assert_eq!(realms.by_registry.lock().expect("not poisoned").len(), MAX_REGISTRIES);
    }

    #[test]
    fn a_realm_is_the_url_that_its_registry_named_under_any_name_but_for_the_query() {
        let realms = Realms::default();
        realms.note("registry-1.docker.io", r#"Bearer realm="https://auth.docker.io/token",service="s""#);
        realms.note("r.lan:5000", "Bearer realm=http://r.lan:5001/auth?kind=a&own=b, service=other");
        for (text, registry, is_named) in [
            ("https://auth.docker.io/token?scope=x", "docker.io", true),
            ("https://auth.docker.io/token/", "docker.io", false),
            ("https://auth.docker.io/users", "docker.io", false),
            ("https://auth.docker.io/token", "r.lan:5000", false),
            ("http://r.lan:5001/auth?scope=x", "r.lan:5000", true),
            ("http://r.lan:5000/auth", "r.lan:5000", false),
        ] {
            assert_eq!(realms.named_by(registry, &url(text)).len(), usize::from(is_named), "{text}");
        }
        let [own] = &realms.named_by("r.lan:5000", &url("http://r.lan:5001/auth"))[..] else { panic!("it was named") };
        assert_eq!(own.query(), Some("kind=a&own=b"));
        realms.note("plain.lan", "Bearer realm=http://plain.lan/token");
        assert_eq!(realms.named_by("plain.lan:80", &url("http://plain.lan:80/token")).len(), 1);
        assert!(!realms.has(&url("http://r.lan:5001/auth"), |_| true), "by https only");
    }
}
