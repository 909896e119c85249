//! Hosts: as URLs write them, as the manifest lists them, and as a module lists them. Parses, compares and matches them,
//! and is the one place that says which hosts a list stands for.

use std::net::IpAddr;

use globset::{Glob, GlobMatcher};
use url::{Host, Url};

use crate::registry_name::{DOCKER_HUB, DOCKER_HUB_NAMES, parse_registry};

/// The manifest's key that lists the hosts a policy may contact.
pub const ALLOWED_HOSTS: &str = "allowed_hosts";

/// A config value that is no egress rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("read {entry:?} in {key}: {why}")]
pub struct EgressError {
    /// The manifest's key at fault.
    pub key: &'static str,
    /// The entry at fault.
    pub entry: String,
    why: String,
}

/// The error for `entry` of the list under `key`.
pub fn refuse_entry(key: &'static str, entry: &str, why: impl Into<String>) -> EgressError {
    EgressError { key, entry: entry.to_owned(), why: why.into() }
}

/// A URL's host and port, as lists may write it: without a port that is the scheme's own, and with it.
#[derive(Debug)]
pub struct UrlHost {
    /// As lists usually write it: without a port that is the scheme's own.
    pub short: String,
    full: String,
    /// The address, where the host is one.
    pub address: Option<IpAddr>,
}

impl UrlHost {
    /// `None` for a URL without a host or of a scheme without a port.
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

    /// Of a registry's name alone; https is understood.
    pub fn named(registry: &str) -> Self {
        let has_port = registry.rsplit_once(':').is_some_and(|(_, port)| !port.ends_with(']'));
        let full = if has_port { registry.to_owned() } else { format!("{registry}:443") };
        Self { short: registry.to_owned(), full, address: None }
    }

    /// Whether `name`, written as [`parse_registry`] writes it, is this host and port.
    pub fn is(&self, name: &str) -> bool {
        name == self.full || name == self.short || parse_registry(&self.short).is_some_and(|short| short == name)
    }
}

impl std::fmt::Display for UrlHost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.short)
    }
}

/// One entry of a list of hosts: `<host>` or `<host>:<port>`, where `*` stands for any text. Lower case.
#[derive(Debug, Clone)]
struct HostPattern {
    text: String,
    glob: GlobMatcher,
}

impl HostPattern {
    /// An entry of a manifest's `allowed_hosts`. Extism's manifests may carry a path, which does not count; every glob is
    /// the operator's to write.
    fn granted(entry: &str) -> Result<Self, EgressError> {
        let refuse = |why: String| refuse_entry(ALLOWED_HOSTS, entry, why);
        if let Some((_, rest)) = entry.split_once("://") {
            let host = rest.split('/').next().unwrap_or_default();
            return Err(refuse(format!("an entry has no scheme: write {host:?}")));
        }
        let text = entry.split('/').next().unwrap_or_default().trim().to_ascii_lowercase();
        if text.is_empty() {
            return Err(refuse(
                "it names no host: write a host such as \"ghcr.io\", or \"*\" for all hosts".to_owned(),
            ));
        }
        if let Some(wrong) = text.chars().find(|c| c.is_whitespace() || matches!(c, '@' | '#' | '%')) {
            return Err(refuse(format!("{wrong:?} does not occur in a host: write <host> or <host>:<port>")));
        }
        Self::of(text).map_err(refuse)
    }

    /// An entry of a module's own list: exactly a host and perhaps a port, with no wildcard but `*`.
    fn requested(entry: &str) -> Result<Self, String> {
        let text = entry.to_ascii_lowercase();
        let (host, port) = split_port(&text);
        let is_port = |port: &str| port == "*" || port.parse::<u16>().is_ok_and(|number| number.to_string() == port);
        let is_of_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '*');
        // What the URL parser writes in another way is another host.
        let is_canonical = || Url::parse(&format!("https://{host}/")).is_ok_and(|url| url.host_str() == Some(host));
        let is_host = (host.starts_with('[') || host.chars().all(is_of_name)) && (host.contains('*') || is_canonical());
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

    /// Whether every host of this pattern is one of `granted`. Where that cannot be told, no.
    fn is_within(&self, granted: &Self) -> bool {
        if self.is_literal() {
            let url = Url::parse(&format!("https://{}/", self.text)).ok();
            return url.as_ref().and_then(UrlHost::of).is_some_and(|host| granted.has(&host));
        }
        // A character that no host has stands for whatever `*` matches; only a `*` of the grant matches it.
        let any_text = self.text.replace('*', "\u{1}");
        self.text == granted.text || (has_only_stars(&granted.text) && granted.glob.is_match(any_text))
    }
}

/// The hosts that a policy may contact: what the manifest grants and, where the module lists hosts itself, of those only
/// what it lists.
#[derive(Debug, Clone)]
pub struct AllowedHosts {
    granted: Vec<HostPattern>,
    requested: Option<Vec<HostPattern>>,
}

impl AllowedHosts {
    /// Reads a manifest's `allowed_hosts`.
    ///
    /// # Errors
    /// The first entry that is no host, and what to write.
    pub fn parse(entries: &[String]) -> Result<Self, EgressError> {
        let granted = entries.iter().map(|entry| HostPattern::granted(entry)).collect::<Result<_, _>>()?;
        Ok(Self { granted, requested: None })
    }

    /// The same, less every host that is not in `requested`, a module's own list.
    ///
    /// # Errors
    /// A fragment that names the first entry that is no host.
    pub fn narrow(&self, requested: &[String]) -> Result<Self, String> {
        let requested = requested.iter().map(|entry| HostPattern::requested(entry)).collect::<Result<_, _>>()?;
        Ok(Self { granted: self.granted.clone(), requested: Some(requested) })
    }

    /// The manifest's entries, lower case and without what stands after a `/`.
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

    /// Whether the manifest has an entry that is `host` itself. A module's own list does not count: it cannot make an
    /// address reachable.
    pub fn names(&self, host: &UrlHost) -> bool {
        names(host).any(|name| self.granted.iter().any(|entry| entry.is_literal() && entry.text == name))
    }
}

/// Every way in which `host` may be listed.
fn names(host: &UrlHost) -> impl Iterator<Item = &str> {
    let aliases = DOCKER_HUB_NAMES.iter().filter(|_| host.is(DOCKER_HUB)).copied();
    aliases.chain([host.short.as_str(), host.full.as_str()])
}

/// An IPv6 address in its brackets, which are no character class, and what follows it.
fn split_address(host: &str) -> (&str, &str) {
    match host.find(']') {
        Some(end) if host.starts_with('[') && host[..end].contains(':') => host.split_at(end + 1),
        _ => ("", host),
    }
}

/// A host, and what follows its last colon if that is outside of an IPv6 address.
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
    #[case::path_alone("/x.example.com")]
    #[case::scheme("https://a.example.com")]
    #[case::user("evil.com@a.example.com")]
    #[case::user_after("a.example.com@evil.com")]
    #[case::backslash("evil.com\\a.example.com")]
    #[case::query("evil.com?.example.com")]
    #[case::fragment("evil.com#.example.com")]
    #[case::percent("evil.com%2f.example.com")]
    #[case::blank("evil.com a.example.com")]
    #[case::blank_at_the_end("a.example.com ")]
    #[case::tab("ev\til.example.com")]
    #[case::alternatives("{evil.com,a.example.com}")]
    #[case::class("[ae]vil.example.com")]
    #[case::any_letter("?.example.com")]
    #[case::number_for_an_address("2130706433")]
    #[case::address_in_hex("0x7f.1")]
    #[case::not_ascii("b\u{fc}cher.example.com")]
    #[case::open_bracket("[::1")]
    #[case::no_port("a.example.com:")]
    #[case::port_out_of_range("a.example.com:65536")]
    #[case::port_with_a_zero("a.example.com:0443")]
    #[case::port_with_a_sign("a.example.com:+443")]
    #[case::two_ports("a.example.com:1:2")]
    #[case::nothing("")]
    fn s4_a_module_lists_exactly_hosts_and_ports(#[case] entry: &str) {
        let all = hosts(&["*", "*.example.com"]);
        let error = all.narrow(&[entry.to_owned()]).expect_err("no host");
        assert!(error.contains("neither <host> nor <host>:<port>"), "{error}");
        assert!(!all.covers(entry), "{entry}");
    }

    #[rstest]
    #[case::equal("a.io", "a.io", true)]
    #[case::letter_case("A.io", "a.IO", true)]
    #[case::all("*", "*", true)]
    #[case::under_all("*.a.io:*", "*", true)]
    #[case::one_of_a_pattern("x.a.io", "*.a.io", true)]
    #[case::deeper("x.y.a.io", "*.a.io", true)]
    #[case::narrower_pattern("*.x.a.io", "*.a.io", true)]
    #[case::two_stars("*.x.*.a.io", "*.a.io", true)]
    #[case::wider_pattern("*.io", "*.a.io", false)]
    #[case::pattern_without_its_dot("*a.io", "*.a.io", false)]
    #[case::everything("*", "*.a.io", false)]
    #[case::another("evil.com", "*.a.io", false)]
    #[case::ends_alike("evila.io", "*.a.io", false)]
    #[case::default_port("a.io:443", "a.io", true)]
    #[case::default_port_granted("a.io", "a.io:443", true)]
    #[case::another_port("a.io:5000", "a.io", false)]
    #[case::any_port("a.io:*", "a.io", false)]
    #[case::one_of_all_ports("a.io:5000", "a.io:*", true)]
    #[case::docker_hub("docker.io", "registry-1.docker.io", true)]
    #[case::address("[::1]:5000", "[::1]:*", true)]
    #[case::class_of_the_grant("*.a.io", "[a-z].a.io", false)]
    #[case::any_letter_of_the_grant("*.a.io", "?.a.io", false)]
    #[case::text_under_a_class("x.a.io", "[a-z].a.io", true)]
    fn s4_covered_means_that_every_host_is_granted(
        #[case] requested: &str,
        #[case] granted: &str,
        #[case] is_covered: bool,
    ) {
        assert_eq!(hosts(&[granted]).covers(requested), is_covered);
    }

    #[test]
    fn s4_a_list_of_a_module_only_narrows() {
        let url = |text: &str| UrlHost::of(&Url::parse(text).expect("a URL")).expect("a host");
        let narrowed = hosts(&["*.example.com", "169.254.1.1"]);
        // Even a list that goes beyond the grant, which is refused at load, adds nothing.
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
    fn s5_only_the_manifest_names_an_address() {
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
    #[case::path_alone("/org", "write a host")]
    #[case::user("me@ghcr.io", "write <host>")]
    #[case::two_in_one("ghcr.io quay.io", "write <host>")]
    fn an_entry_of_the_manifest_that_is_no_host_says_what_to_write(#[case] entry: &str, #[case] part: &str) {
        let error = AllowedHosts::parse(&[entry.to_owned()]).expect_err("no host").to_string();
        assert!(error.contains(part) && error.contains("allowed_hosts"), "{error}");
    }
}
