//! Hosts in URLs, in the manifest's `allowed_hosts`, and in a module's own list of hosts. This module parses, compares
//! and matches them. Only this module decides which hosts an entry matches.

use std::net::IpAddr;

use globset::{Glob, GlobMatcher};
use url::{Host, Url};

use crate::registry_name::{DOCKER_HUB, DOCKER_HUB_NAMES, parse_registry};

/// The manifest key that lists the hosts that a policy may contact.
pub const ALLOWED_HOSTS: &str = "allowed_hosts";

/// An invalid entry in a list of hosts or networks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("read {entry:?} in {key}: {why}")]
pub struct EgressError {
    /// The manifest key of the list.
    pub key: &'static str,
    /// The invalid entry.
    pub entry: String,
    why: String,
}

/// Creates the error for `entry` in the list under `key`. `why` says what is wrong and what to write.
pub fn refuse_entry(key: &'static str, entry: &str, why: impl Into<String>) -> EgressError {
    EgressError { key, entry: entry.to_owned(), why: why.into() }
}

/// The host and port of a URL, in the two forms that a list may contain: with and without the scheme's default port.
#[derive(Debug)]
pub struct UrlHost {
    /// The usual form: without the scheme's default port.
    pub short: String,
    full: String,
    /// The IP address, if the host is an address.
    pub address: Option<IpAddr>,
}

impl UrlHost {
    /// Returns `None` if the URL has no host, or if it has no port and its scheme has no default port.
    pub fn of(url: &Url) -> Option<Self> {
        let (name, port) = (url.host_str()?, url.port_or_known_default()?);
        let full = format!("{name}:{port}");
        let short = if url.port().is_some() { full.clone() } else { name.to_owned() };
        let address = match url.host()? {
            Host::Ipv4(address) => Some(address.into()),
            Host::Ipv6(address) => Some(address.into()),
            Host::Domain(_) => None,
        };
        Some(Self { short, full, address })
    }

    /// The host and port of a registry name. Without a port, the port is 443.
    pub fn named(registry: &str) -> Self {
        let has_port = registry.rsplit_once(':').is_some_and(|(_, port)| !port.ends_with(']'));
        let full = if has_port { registry.to_owned() } else { format!("{registry}:443") };
        Self { short: registry.to_owned(), full, address: None }
    }

    /// Whether `name` is this host and port. `name` has the form that [`parse_registry`] returns.
    pub fn is(&self, name: &str) -> bool {
        name == self.full || name == self.short || parse_registry(&self.short).is_some_and(|short| short == name)
    }
}

impl std::fmt::Display for UrlHost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.short)
    }
}

/// One entry of a list of hosts in lower case: `<host>` or `<host>:<port>`. `*` matches any text.
#[derive(Debug, Clone)]
struct HostPattern {
    text: String,
    glob: GlobMatcher,
}

impl HostPattern {
    /// Parses an entry of a manifest's `allowed_hosts`. A path is ignored, because Extism's manifests may contain one.
    /// The operator may use every glob.
    fn granted(entry: &str) -> Result<Self, EgressError> {
        let refuse = |why: String| refuse_entry(ALLOWED_HOSTS, entry, why);
        if let Some((_, rest)) = entry.split_once("://") {
            let host = rest.split('/').next().unwrap_or_default();
            return Err(refuse(format!("an entry must not have a scheme: write {host:?}")));
        }
        let text = entry.split('/').next().unwrap_or_default().trim().to_ascii_lowercase();
        if text.is_empty() {
            return Err(refuse(
                "it contains no host: write a host such as \"ghcr.io\", or \"*\" for all hosts".to_owned(),
            ));
        }
        if let Some(wrong) = text.chars().find(|c| c.is_whitespace() || matches!(c, '@' | '#' | '%')) {
            return Err(refuse(format!("{wrong:?} is not valid in a host: write <host> or <host>:<port>")));
        }
        Self::of(text).map_err(refuse)
    }

    /// Parses an entry of a module's own list: exactly a host with an optional port. `*` is the only wildcard.
    fn requested(entry: &str) -> Result<Self, String> {
        let text = entry.to_ascii_lowercase();
        let (host, port) = split_port(&text);
        let is_port = |port: &str| port == "*" || port.parse::<u16>().is_ok_and(|number| number.to_string() == port);
        let is_name_char = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '*');
        // If the URL parser changes the host, the entry does not mean what it says.
        let is_canonical = || Url::parse(&format!("https://{host}/")).is_ok_and(|url| url.host_str() == Some(host));
        let is_host =
            (host.starts_with('[') || host.chars().all(is_name_char)) && (host.contains('*') || is_canonical());
        if !is_host || !port.is_none_or(is_port) {
            return Err(format!("{entry:?} is neither <host> nor <host>:<port>"));
        }
        Self::of(text)
    }

    fn of(text: String) -> Result<Self, String> {
        let (address, rest) = split_address(&text);
        let glob =
            Glob::new(&format!("{}{rest}", globset::escape(address))).map_err(|error| error.kind().to_string())?;
        Ok(Self { glob: glob.compile_matcher(), text })
    }

    fn is_literal(&self) -> bool {
        !has_wildcard(&self.text)
    }

    fn has(&self, host: &UrlHost) -> bool {
        names(host).any(|name| self.glob.is_match(name))
    }

    /// Whether `granted` matches every host that this pattern matches. Returns `false` if that cannot be decided.
    fn is_within(&self, granted: &Self) -> bool {
        if self.is_literal() {
            let url = Url::parse(&format!("https://{}/", self.text)).ok();
            return url.as_ref().and_then(UrlHost::of).is_some_and(|host| granted.has(&host));
        }
        // A character that no host contains replaces each `*`. Only a `*` in the grant matches that character.
        let any_text = self.text.replace('*', "\u{1}");
        self.text == granted.text || (has_only_stars(&granted.text) && granted.glob.is_match(any_text))
    }
}

/// The hosts that a policy may contact: the hosts that the manifest grants. If the module has its own list, only the
/// granted hosts on that list.
#[derive(Debug, Clone)]
pub struct AllowedHosts {
    granted: Vec<HostPattern>,
    requested: Option<Vec<HostPattern>>,
}

impl AllowedHosts {
    /// Parses a manifest's `allowed_hosts`.
    ///
    /// # Errors
    /// Returns an error for the first entry that is not a host. The error says what to write instead.
    pub fn parse(entries: &[String]) -> Result<Self, EgressError> {
        let granted = entries.iter().map(|entry| HostPattern::granted(entry)).collect::<Result<_, _>>()?;
        Ok(Self { granted, requested: None })
    }

    /// Returns these hosts without the hosts that are not in `requested`, a module's own list.
    ///
    /// # Errors
    /// Returns a sentence fragment that names the first entry that is not a host.
    pub fn narrow(&self, requested: &[String]) -> Result<Self, String> {
        let requested = requested.iter().map(|entry| HostPattern::requested(entry)).collect::<Result<_, _>>()?;
        Ok(Self { granted: self.granted.clone(), requested: Some(requested) })
    }

    /// The manifest's entries, in lower case and without paths.
    pub fn entries(&self) -> Vec<String> {
        self.granted.iter().map(|pattern| pattern.text.clone()).collect()
    }

    /// Whether the manifest grants every host of `requested`, an entry of a module's own list.
    pub fn covers(&self, requested: &str) -> bool {
        let pattern = HostPattern::requested(requested);
        pattern.is_ok_and(|pattern| self.granted.iter().any(|granted| pattern.is_within(granted)))
    }

    /// Whether the policy may contact `host`.
    pub fn has(&self, host: &UrlHost) -> bool {
        let lists = |patterns: &[HostPattern]| patterns.iter().any(|pattern| pattern.has(host));
        lists(&self.granted) && self.requested.as_deref().is_none_or(lists)
    }

    /// Whether the manifest contains `host` literally, without a wildcard. A module's own list is ignored, because it
    /// must not make an address reachable.
    pub fn names(&self, host: &UrlHost) -> bool {
        names(host).any(|name| self.granted.iter().any(|entry| entry.is_literal() && entry.text == name))
    }
}

/// Every form of `host` that a list may contain.
fn names(host: &UrlHost) -> impl Iterator<Item = &str> {
    let aliases = DOCKER_HUB_NAMES.iter().filter(|_| host.is(DOCKER_HUB)).copied();
    aliases.chain([host.short.as_str(), host.full.as_str()])
}

/// Splits off a leading IPv6 address with its brackets, so that the brackets are not parsed as a character class.
fn split_address(host: &str) -> (&str, &str) {
    match host.find(']') {
        Some(end) if host.starts_with('[') && host[..end].contains(':') => host.split_at(end + 1),
        _ => ("", host),
    }
}

/// Splits `text` at its last colon, unless that colon belongs to an IPv6 address.
fn split_port(text: &str) -> (&str, Option<&str>) {
    match text.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (text, None),
    }
}

fn has_wildcard(text: &str) -> bool {
    split_address(text).1.contains(['*', '?', '[', '{', '\\'])
}

fn has_only_stars(text: &str) -> bool {
    !split_address(text).1.contains(['?', '[', '{', '\\'])
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn hosts(entries: &[&str]) -> AllowedHosts {
        let entries: Vec<String> = entries.iter().map(|entry| (*entry).to_owned()).collect();
        AllowedHosts::parse(&entries).expect("hosts")
    }

    #[rstest]
    #[case::path("evil.com/x.example.com")]
    #[case::only_path("/x.example.com")]
    #[case::scheme("https://a.example.com")]
    #[case::user("evil.com@a.example.com")]
    #[case::user_after("a.example.com@evil.com")]
    #[case::backslash("evil.com\\a.example.com")]
    #[case::query("evil.com?.example.com")]
    #[case::fragment("evil.com#.example.com")]
    #[case::percent("evil.com%2f.example.com")]
    #[case::space("evil.com a.example.com")]
    #[case::trailing_space("a.example.com ")]
    #[case::tab("ev\til.example.com")]
    #[case::alternatives("{evil.com,a.example.com}")]
    #[case::class("[ae]vil.example.com")]
    #[case::single_character_wildcard("?.example.com")]
    #[case::decimal_address("2130706433")]
    #[case::hex_address("0x7f.1")]
    #[case::not_ascii("b\u{fc}cher.example.com")]
    #[case::open_bracket("[::1")]
    #[case::empty_port("a.example.com:")]
    #[case::port_out_of_range("a.example.com:65536")]
    #[case::port_with_leading_zero("a.example.com:0443")]
    #[case::port_with_sign("a.example.com:+443")]
    #[case::two_ports("a.example.com:1:2")]
    #[case::empty("")]
    fn s4_a_module_entry_must_be_a_host_with_an_optional_port(#[case] entry: &str) {
        let all = hosts(&["*", "*.example.com"]);
        let error = all.narrow(&[entry.to_owned()]).expect_err("not a host");
        assert!(error.contains("neither <host> nor <host>:<port>"), "{error}");
        assert!(!all.covers(entry), "{entry}");
    }

    #[rstest]
    #[case::equal("a.io", "a.io", true)]
    #[case::letter_case("A.io", "a.IO", true)]
    #[case::all("*", "*", true)]
    #[case::pattern_within_all("*.a.io:*", "*", true)]
    #[case::host_within_pattern("x.a.io", "*.a.io", true)]
    #[case::deeper_subdomain("x.y.a.io", "*.a.io", true)]
    #[case::narrower_pattern("*.x.a.io", "*.a.io", true)]
    #[case::two_stars("*.x.*.a.io", "*.a.io", true)]
    #[case::wider_pattern("*.io", "*.a.io", false)]
    #[case::pattern_without_dot("*a.io", "*.a.io", false)]
    #[case::everything("*", "*.a.io", false)]
    #[case::other_host("evil.com", "*.a.io", false)]
    #[case::same_suffix_without_dot("evila.io", "*.a.io", false)]
    #[case::default_port_requested("a.io:443", "a.io", true)]
    #[case::default_port_granted("a.io", "a.io:443", true)]
    #[case::other_port("a.io:5000", "a.io", false)]
    #[case::any_port("a.io:*", "a.io", false)]
    #[case::one_port_within_all_ports("a.io:5000", "a.io:*", true)]
    #[case::docker_hub("docker.io", "registry-1.docker.io", true)]
    #[case::address("[::1]:5000", "[::1]:*", true)]
    #[case::grant_with_character_class("*.a.io", "[a-z].a.io", false)]
    #[case::grant_with_question_mark("*.a.io", "?.a.io", false)]
    #[case::host_within_character_class("x.a.io", "[a-z].a.io", true)]
    fn s4_an_entry_is_covered_only_if_every_host_is_granted(
        #[case] requested: &str,
        #[case] granted: &str,
        #[case] is_covered: bool,
    ) {
        assert_eq!(hosts(&[granted]).covers(requested), is_covered);
    }

    #[test]
    fn s4_a_module_list_only_narrows_the_grant() {
        let url = |text: &str| UrlHost::of(&Url::parse(text).expect("a URL")).expect("a host");
        let narrowed = hosts(&["*.example.com", "169.254.1.1"]);
        // The host refuses to load a module that lists more than the grant. Even so, such a list adds no host.
        let requested = ["a.example.com", "evil.com", "*.evil.com", "169.254.2.2"].map(str::to_owned);
        let narrowed = narrowed.narrow(&requested).expect("hosts");
        for (host, is_allowed) in [
            ("https://a.example.com/", true),
            ("https://b.example.com/", false),
            ("https://evil.com/", false),
            ("https://x.evil.com/", false),
            ("https://169.254.1.1/", false),
            ("https://169.254.2.2/", false),
        ] {
            assert_eq!(narrowed.has(&url(host)), is_allowed, "{host}");
        }
    }

    #[test]
    fn s5_only_the_manifest_can_name_an_address() {
        let url = |text: &str| UrlHost::of(&Url::parse(text).expect("a URL")).expect("a host");
        let requested = ["169.254.1.1", "[fe80::1]"].map(str::to_owned);
        let by_module = hosts(&["*"]).narrow(&requested).expect("hosts");
        let by_manifest = hosts(&["169.254.1.1", "[fe80::1]"]).narrow(&requested).expect("hosts");
        for host in ["https://169.254.1.1/", "https://[fe80::1]/"] {
            assert!(by_module.has(&url(host)) && !by_module.names(&url(host)), "{host}");
            assert!(by_manifest.has(&url(host)) && by_manifest.names(&url(host)), "{host}");
        }
    }

    #[rstest]
    #[case::scheme("https://ghcr.io/org", "write \"ghcr.io\"")]
    #[case::scheme_and_port("http://r.lan:5000", "write \"r.lan:5000\"")]
    #[case::only_path("/org", "write a host")]
    #[case::user("me@ghcr.io", "write <host>")]
    #[case::two_in_one("ghcr.io quay.io", "write <host>")]
    fn an_invalid_manifest_entry_says_what_to_write(#[case] entry: &str, #[case] part: &str) {
        let error = AllowedHosts::parse(&[entry.to_owned()]).expect_err("not a host").to_string();
        assert!(error.contains(part) && error.contains("allowed_hosts"), "{error}");
    }
}
