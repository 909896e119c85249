//! The proxies that the environment configures, and the URLs that use them. Neither messages nor `Debug` show a proxy's
//! password.

use std::fmt;
use std::net::IpAddr;

use imagewatch_abi::is_loopback_host;
use ipnet::IpNet;
use reqwest::Proxy;
use url::{Host, Url};

/// The proxies from `HTTPS_PROXY` for https, `HTTP_PROXY` for http, and the exceptions in `NO_PROXY`. If a variable is
/// absent or empty, the variable in lower case is used. Requests to loopback addresses never use a proxy.
#[derive(Clone, Default)]
pub struct Proxies {
    http: Option<NamedProxy>,
    https: Option<NamedProxy>,
    exempt: String,
}

#[derive(Clone)]
struct NamedProxy {
    variable: String,
    url: Url,
}

/// A variable that does not contain a proxy URL. The message does not show the value, because it may contain a
/// password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("read the proxy in {variable}: it needs an http or https url, as in http://proxy.lan:3128")]
pub struct ProxyError {
    /// The name of the variable.
    pub variable: String,
}

impl Proxies {
    /// Reads the variables from `environment`, pairs of name and value.
    ///
    /// # Errors
    /// Returns an error if a variable does not contain an http or https URL.
    pub fn parse(environment: impl IntoIterator<Item = (String, String)>) -> Result<Self, ProxyError> {
        let mut set: Vec<(String, String)> = environment.into_iter().filter(|(_, value)| !value.is_empty()).collect();
        // Upper case sorts first, so it takes precedence.
        set.sort();
        let first = |name: &str| set.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).cloned();
        Ok(Self {
            http: first("http_proxy").map(NamedProxy::parse).transpose()?,
            https: first("https_proxy").map(NamedProxy::parse).transpose()?,
            exempt: first("no_proxy").map(|(_, value)| value).unwrap_or_default(),
        })
    }

    /// The proxy for `url` and the variable that configures it. `None` means a direct connection.
    pub(super) fn proxy_for(&self, url: &Url) -> reqwest::Result<Option<(Proxy, &str)>> {
        let named = if url.scheme() == "https" { &self.https } else { &self.http };
        match named {
            Some(named) if !self.is_exempt(url) => Ok(Some((Proxy::all(named.url.clone())?, &named.variable))),
            _ => Ok(None),
        }
    }

    fn is_exempt(&self, url: &Url) -> bool {
        let port = url.port_or_known_default();
        let is_loopback = url.host_str().is_some_and(is_loopback_host);
        is_loopback || url.host().is_some_and(|host| self.exempt.split(',').any(|entry| covers(entry, &host, port)))
    }
}

impl NamedProxy {
    fn parse((variable, value): (String, String)) -> Result<Self, ProxyError> {
        let text = if value.contains("://") { value } else { format!("http://{value}") };
        let url = Url::parse(text.trim()).ok();
        match url.filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host()) {
            Some(url) => Ok(Self { variable, url }),
            None => Err(ProxyError { variable }),
        }
    }
}

impl fmt::Debug for Proxies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let variables: Vec<&str> =
            [&self.http, &self.https].into_iter().flatten().map(|p| p.variable.as_str()).collect();
        f.debug_struct("Proxies").field("from", &variables).field("exempt", &self.exempt).finish()
    }
}

/// Whether an entry of `NO_PROXY` covers a host. An entry is `*`, a domain with its subdomains, an address or a
/// network, each with an optional port.
fn covers(entry: &str, host: &Host<&str>, port: Option<u16>) -> bool {
    let entry = entry.trim();
    let (name, entry_port) = match entry.rsplit_once(':') {
        Some((name, digits)) if !name.contains(':') || name.ends_with(']') => (name, digits.parse().ok()),
        _ => (entry, None),
    };
    if entry_port.is_some() && entry_port != port {
        return false;
    }
    let is_at = |address: IpAddr| {
        let name = name.trim_matches(['[', ']']);
        name.parse::<IpNet>().is_ok_and(|net| net.contains(&address)) || name.parse() == Ok(address)
    };
    match host {
        _ if name == "*" => true,
        Host::Ipv4(address) => is_at((*address).into()),
        Host::Ipv6(address) => is_at((*address).into()),
        Host::Domain(domain) => {
            let (domain, name) = (domain.to_ascii_lowercase(), name.to_ascii_lowercase());
            let name = name.trim_start_matches('*').trim_start_matches('.');
            !name.is_empty() && domain.strip_suffix(name).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn proxies(environment: &[(&str, &str)]) -> Result<Proxies, ProxyError> {
        Proxies::parse(environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
    }

    #[rstest]
    #[case::none(&[], "https://ghcr.io/", None)]
    #[case::https(&[("HTTPS_PROXY", "http://p:3128")], "https://ghcr.io/", Some("HTTPS_PROXY"))]
    #[case::https_proxy_is_not_used_for_http(&[("HTTPS_PROXY", "http://p:3128")], "http://r.lan/", None)]
    #[case::http(&[("http_proxy", "p:3128")], "http://r.lan/", Some("http_proxy"))]
    #[case::upper_first(&[("https_proxy", "http://a"), ("HTTPS_PROXY", "http://b")], "https://r/", Some("HTTPS_PROXY"))]
    #[case::empty_is_unset(&[("https_proxy", "http://a"), ("HTTPS_PROXY", "")], "https://r/", Some("https_proxy"))]
    #[case::loopback_address(&[("HTTP_PROXY", "http://p")], "http://127.0.0.1:5000/", None)]
    #[case::loopback_name(&[("HTTP_PROXY", "http://p")], "http://localhost:5000/", None)]
    fn a_url_uses_the_proxy_of_its_scheme(
        #[case] environment: &[(&str, &str)],
        #[case] url: &str,
        #[case] variable: Option<&str>,
    ) {
        let proxies = proxies(environment).expect("well formed");
        let url = Url::parse(url).expect("a url");
        assert_eq!(proxies.proxy_for(&url).expect("a proxy").map(|(_, variable)| variable), variable);
    }

    #[rstest]
    #[case::everything("*", &["https://ghcr.io/", "https://10.0.0.1/"], &[])]
    #[case::domain("lan", &["https://lan/", "https://r.lan/", "https://a.R.LAN:5000/"], &["https://wlan/", "https://lan.io/"])]
    #[case::leading_dot(".lan", &["https://r.lan/"], &["https://rlan/"])]
    #[case::leading_star("*.lan", &["https://r.lan/"], &["https://rlan/"])]
    #[case::port("r.lan:5000", &["https://r.lan:5000/"], &["https://r.lan/", "https://r.lan:5001/"])]
    #[case::default_port("r.lan:443", &["https://r.lan/"], &["https://r.lan:5000/"])]
    #[case::address("10.0.0.1", &["https://10.0.0.1/"], &["https://10.0.0.11/"])]
    #[case::network("10.0.0.0/8", &["https://10.1.2.3:5000/"], &["https://11.0.0.1/", "https://r.lan/"])]
    #[case::ipv6("fd00::/8", &["https://[fd12::1]/"], &["https://[2001:db8::1]/"])]
    #[case::ipv6_address("[fd12::1]:5000", &["https://[fd12::1]:5000/"], &["https://[fd12::1]/"])]
    #[case::several("a.lan, b.lan ,", &["https://a.lan/", "https://b.lan/"], &["https://c.lan/"])]
    fn no_proxy_exempts_listed_hosts(#[case] exempt: &str, #[case] direct: &[&str], #[case] proxied: &[&str]) {
        let proxies = proxies(&[("HTTPS_PROXY", "http://p:3128"), ("no_proxy", exempt)]).expect("well formed");
        for (urls, is_exempt) in [(direct, true), (proxied, false)] {
            for url in urls {
                assert_eq!(proxies.is_exempt(&Url::parse(url).expect("a url")), is_exempt, "{url}");
            }
        }
    }

    #[rstest]
    #[case::unsupported_scheme("socks5://me:hunter2@p")]
    #[case::no_host("http://:hunter2@")]
    fn an_invalid_proxy_error_names_the_variable_and_hides_the_value(#[case] value: &str) {
        let error = proxies(&[("HTTPS_PROXY", value)]).expect_err("not a proxy");
        let text = format!("{error} {error:?}");
        assert!(text.contains("HTTPS_PROXY") && text.contains("http://proxy.lan:3128"), "{text}");
        assert!(!text.contains("hunter2"), "{text}");
    }

    #[test]
    fn debug_hides_a_proxy_password() {
        let proxies = proxies(&[("HTTPS_PROXY", "http://me:hunter2@p:3128")]).expect("well formed");
        let text = format!("{proxies:?}");
        assert!(text.contains("HTTPS_PROXY") && !text.contains("hunter2"), "{text}");
    }
}
