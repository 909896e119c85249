//! The token realms that registries have named in their challenges. A policy may request an anonymous token from a
//! realm outside its allowed hosts, and may request tokens with a credential. But in both cases a registry must have
//! named the realm. Otherwise the policy could send arbitrary requests to arbitrary hosts. This module does not parse
//! challenges fully, and it stores no tokens.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use url::Url;

use imagewatch_base::registry_name::parse_registry;

/// The maximum number of realms per registry. A registry normally names one realm, or one per repository. The limit
/// bounds the memory that a hostile registry can use.
const MAX_REALMS_PER_REGISTRY: usize = 64;
/// The maximum length of a realm's URL.
const MAX_REALM_BYTES: usize = 1_024;

/// The maximum number of registries. The limit bounds the memory that a registry can use by redirecting to many hosts.
const MAX_REGISTRIES: usize = 1_024;

/// Realms (`https://auth.docker.io/token`) with their queries, by the registry that named them.
#[derive(Debug, Default)]
pub struct Realms {
    by_registry: Mutex<BTreeMap<String, BTreeSet<Url>>>,
}

impl Realms {
    /// Stores every URL in `challenge`, a value of `WWW-Authenticate` from the host `registry`.
    pub fn learn(&self, registry: &str, challenge: &str) {
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

    /// Whether a registry for which `is_trusted` returns `true` named an https realm at the origin of `url`.
    pub fn has(&self, url: &Url, is_trusted: impl Fn(&str) -> bool) -> bool {
        let is_same_origin = |known: &Url| known.scheme() == "https" && known.origin() == url.origin();
        let by_registry = self.by_registry.lock().unwrap_or_else(PoisonError::into_inner);
        by_registry.iter().any(|(registry, named)| is_trusted(registry) && named.iter().any(is_same_origin))
    }

    /// The realms that `registry` named under any of its names and that equal `url` except for the query.
    pub fn named_by(&self, registry: &str, url: &Url) -> Vec<Url> {
        let is_same_path = |known: &&Url| known.origin() == url.origin() && known.path() == url.path();
        // A host that uses plain http is stored without port 80.
        let is_registry =
            |host: &str| parse_registry(host).as_deref() == Some(registry) || format!("{host}:80") == registry;
        let by_registry = self.by_registry.lock().unwrap_or_else(PoisonError::into_inner);
        let of_registry = by_registry.iter().filter(|(host, _)| is_registry(host));
        of_registry.flat_map(|(_, named)| named).filter(is_same_path).cloned().collect()
    }
}

fn urls(challenge: &str) -> impl Iterator<Item = Url> {
    let words = challenge.split(|c: char| matches!(c, '"' | ',' | '\\') || c.is_whitespace());
    let unnamed = words.map(|word| without_prefix(word, "realm=").unwrap_or(word));
    let is_url = |word: &&str| ["https://", "http://"].iter().any(|scheme| without_prefix(word, scheme).is_some());
    unnamed.filter(is_url).filter_map(|word| Url::parse(word).ok()).filter(Url::has_host)
}

/// Strips `prefix`, ignoring case.
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
    fn a_realm_is_identified_by_its_origin_and_its_registry() {
        let realms = Realms::default();
        realms.learn("r.io", r#"Bearer realm="https://Auth.r.io/token?a=b",service="r.io",scope="x:https://s.io""#);
        realms.learn("other.io", "Bearer realm=https://auth.other.io:8443/token, service=other");
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
    fn the_number_and_length_of_stored_realms_is_limited() {
        let realms = Realms::default();
        for n in 0..1000 {
            realms.learn("r.io", &format!("Bearer realm=\"https://a{n}.io/\""));
        }
        assert!(realms.has(&url("https://a0.io/"), |_| true) && !realms.has(&url("https://a999.io/"), |_| true));
        realms.learn("long.io", &format!("Bearer realm=\"https://long.io/{}\"", "x".repeat(MAX_REALM_BYTES)));
        assert!(!realms.has(&url("https://long.io/"), |_| true));
        for n in 0..2 * MAX_REGISTRIES {
            realms.learn(&format!("r{n}.evil.example"), "Bearer realm=\"https://evil.example/\"");
        }
        assert_eq!(realms.by_registry.lock().expect("not poisoned").len(), MAX_REGISTRIES);
    }

    #[test]
    fn named_by_ignores_the_query_and_accepts_every_registry_name() {
        let realms = Realms::default();
        realms.learn("registry-1.docker.io", r#"Bearer realm="https://auth.docker.io/token",service="s""#);
        realms.learn("r.lan:5000", "Bearer realm=http://r.lan:5001/auth?kind=a&own=b, service=other");
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
        let [realm] = &realms.named_by("r.lan:5000", &url("http://r.lan:5001/auth"))[..] else {
            panic!("it was named")
        };
        assert_eq!(realm.query(), Some("kind=a&own=b"));
        realms.learn("plain.lan", "Bearer realm=http://plain.lan/token");
        assert_eq!(realms.named_by("plain.lan:80", &url("http://plain.lan:80/token")).len(), 1);
        assert!(!realms.has(&url("http://r.lan:5001/auth"), |_| true), "only https realms count");
    }
}
