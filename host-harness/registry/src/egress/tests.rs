//! Tests each egress rule, and properties that hold for every request of a guest.

use imagewatch_abi::ReadBody;
use proptest::prelude::*;

use super::*;
use imagewatch_base::registry_name::DOCKER_HUB_NAMES;

mod cases;

/// `allowed` contains hosts separated by `|`.
fn rules(allowed: &str, insecure: &str, realms: &str) -> EgressRules {
    let allowed: Vec<String> = allowed.split_terminator('|').map(str::to_owned).collect();
    EgressRules::parse(&allowed, insecure, realms).expect("the test's rules are well formed")
}

/// Checks the request while no registry has named a realm.
fn check(rules: &EgressRules, request: &HttpRequest) -> Result<Permit, Failure> {
    rules.check(request, &Realms::default())
}

/// Checks the request after the registry `credential` named the request's URL as its realm.
fn check_named(rules: &EgressRules, request: &HttpRequest, credential: &str) -> Result<Permit, Failure> {
    rules.check(request, &naming(credential, &request.url))
}

/// The known realms after `registry` named `realm`.
fn naming(registry: &str, realm: &str) -> Realms {
    let realms = Realms::default();
    realms.learn(registry, &format!("Bearer realm=\"{realm}\""));
    realms
}

fn get(url: &str, credential: Option<&str>) -> HttpRequest {
    HttpRequest {
        method: Method::Get,
        url: url.to_owned(),
        headers: Vec::new(),
        response_headers: Vec::new(),
        credential: credential.map(str::to_owned),
        allow_anonymous: false,
        rejected_credential_id: None,
        form: Vec::new(),
        read: ReadBody::Text,
    }
}

fn with_header(name: &str, value: &str) -> HttpRequest {
    HttpRequest { headers: vec![(name.to_owned(), value.to_owned())], ..get("https://ghcr.io/v2/", None) }
}

#[test]
fn requests_within_the_grant_are_permitted() {
    for (name, allowed, url, host) in [
        ("exact host", "ghcr.io", "https://ghcr.io/v2/", "ghcr.io"),
        ("host in upper and lower case", "GHCR.io", "https://Ghcr.IO/v2/", "ghcr.io"),
        ("an entry with a path", "ghcr.io/org", "https://ghcr.io/v2/", "ghcr.io"),
        ("the default port in the url", "ghcr.io", "https://ghcr.io:443/", "ghcr.io"),
        ("the default port in the entry", "ghcr.io:443", "https://ghcr.io/", "ghcr.io"),
        ("another port", "r.io:5000", "https://r.io:5000/v2/", "r.io:5000"),
        ("a glob", "*.amazonaws.com", "https://1.dkr.ecr.x.amazonaws.com/", "1.dkr.ecr.x.amazonaws.com"),
        ("everything", "*", "https://a.example:8443/", "a.example:8443"),
        ("loopback without tls", "127.0.0.1:*", "http://127.0.0.1:5000/v2/", "127.0.0.1:5000"),
        ("an ipv6 address", "[::1]:5000", "http://[::1]:5000/v2/", "[::1]:5000"),
        ("a listed insecure host", "r.lan", "http://r.lan/v2/", "r.lan"),
        ("docker hub by its reference name", "docker.io", "https://registry-1.docker.io/v2/", "registry-1.docker.io"),
    ] {
        let permit = check(&rules(allowed, "loopback, r.lan", ""), &get(url, None)).expect(name);
        assert_eq!(permit.host, host, "{name}");
        assert_eq!(permit.credential, None, "{name}");
    }
}

#[test]
fn requests_outside_the_grant_are_refused_with_the_host_and_the_key() {
    const GHCR: &str = "ghcr.io";
    let long = format!("https://{}.io/", "a.".repeat(130));
    let token_to_realm = HttpRequest {
        headers: vec![("authorization".to_owned(), "Bearer t".to_owned())],
        ..get("https://authn.nvidia.com/token", Some("nvcr.io"))
    };
    for (name, allowed, request, says) in [
        ("no grant", "", get("https://ghcr.io/", None), "ghcr.io|allowed_hosts"),
        ("other host", GHCR, get("https://evil.example/", None), "evil.example|allowed_hosts"),
        ("a host with the same suffix", GHCR, get("https://notghcr.io/", None), "notghcr.io"),
        ("a host with the same prefix", GHCR, get("https://ghcr.io.evil.example/", None), "ghcr.io.evil.example"),
        ("the host as user name", GHCR, get("https://ghcr.io@evil.example/", None), "evil.example|credential"),
        ("a user name", GHCR, get("https://u:p@ghcr.io/", None), "ghcr.io|user name"),
        ("another port", GHCR, get("https://ghcr.io:8443/", None), "ghcr.io:8443|allowed_hosts"),
        ("a backslash", GHCR, get("https://evil.example\\@ghcr.io/", None), "evil.example"),
        ("a trailing dot", GHCR, get("https://ghcr.io./", None), "ghcr.io."),
        ("a fragment", GHCR, get("https://ghcr.io/#x", None), "ghcr.io|fragment"),
        ("a host that is too long", "*", get(&long, None), "more than 253"),
        ("another scheme", GHCR, get("ftp://ghcr.io/", None), "ghcr.io|https"),
        ("a file", "*", get("file:///etc/passwd", None), "https"),
        ("a relative url", GHCR, get("/v2/", None), "malformed"),
        ("no tls", GHCR, get("http://ghcr.io/", None), "ghcr.io|host.insecure_registries"),
        ("no tls, listed with another port", "r.lan:80*", get("http://r.lan:8081/", None), "host.insecure_registries"),
        ("a basic password", GHCR, with_header("Authorization", "Basic eDp5"), "ghcr.io|credential"),
        ("a host header", GHCR, with_header("Host", "evil.example"), "ghcr.io|host"),
        ("a cookie", GHCR, with_header("cookie", "a=b"), "ghcr.io|cookie"),
        ("a proxy password", GHCR, with_header("proxy-authorization", "Basic x"), "proxy-authorization"),
        ("a compressed answer", GHCR, with_header("Accept-Encoding", "gzip"), "accept-encoding"),
        ("a hop-by-hop header", GHCR, with_header("transfer-encoding", "chunked"), "transfer-encoding"),
        ("two headers in one", GHCR, with_header("x", "a\r\nhost: b"), "ghcr.io|malformed"),
        ("metadata under a wildcard", "*", get("https://169.254.169.254/", None), "169.254.169.254|allowed_hosts"),
        (
            "metadata as hexadecimal and decimal numbers",
            "*",
            get("https://0xa9.254.43518/", None),
            "169.254.169.254|allowed_hosts",
        ),
        ("metadata as a mapped address", "*", get("https://[::ffff:a9fe:a9fe]/", None), "link-local|allowed_hosts"),
        ("the unspecified address", "*", get("https://0/", None), "0.0.0.0|unspecified|allowed_hosts"),
        ("a bearer token for a realm that is not allowed", "nvcr.io", token_to_realm, "authn.nvidia.com|allowed_hosts"),
    ] {
        let failure = check(&rules(allowed, "loopback, r.lan:8080", ""), &request).map(|_| ()).expect_err(name);
        assert_eq!(failure.code, FailureCode::Denied, "{name}");
        for part in says.split('|') {
            assert!(failure.message.contains(part), "{name}: {}", failure.message);
        }
    }
}

#[test]
fn a_credential_goes_only_to_its_registry_and_realms() {
    for (name, allowed, credential, url, found) in [
        ("its registry", "ghcr.io", "ghcr.io", "https://ghcr.io/token?service=x", Ok(("ghcr.io", false))),
        ("in upper and lower case", "ghcr.io", "GHCR.io", "https://ghcr.io/token", Ok(("ghcr.io", false))),
        ("with a port", "r.io:5000", "r.io:5000", "https://r.io:5000/v2/", Ok(("r.io:5000", false))),
        ("another port of its registry", "*", "r.io:5000", "https://r.io:5001/v2/", Err("host.auth_realms")),
        (
            "docker hub",
            "registry-1.docker.io",
            "docker.io",
            "https://registry-1.docker.io/v2/",
            Ok(("docker.io", false)),
        ),
        (
            "docker hub's realm",
            "docker.io",
            "registry-1.docker.io",
            "https://auth.docker.io/token",
            Ok(("docker.io", true)),
        ),
        (
            "docker hub's other realm",
            "docker.io",
            "docker.io",
            "https://auth.ipv6.docker.com/token",
            Ok(("docker.io", true)),
        ),
        (
            "gitlab's realm",
            "registry.gitlab.com",
            "registry.gitlab.com",
            "https://gitlab.com/jwt/auth",
            Ok(("registry.gitlab.com", true)),
        ),
        ("nvidia's realm", "nvcr.io", "nvcr.io", "https://authn.nvidia.com/token", Ok(("nvcr.io", true))),
        (
            "a configured realm",
            "registry.corp",
            "registry.corp",
            "https://gitlab.corp/jwt/auth",
            Ok(("registry.corp", true)),
        ),
        (
            "a configured realm without tls",
            "registry.corp",
            "registry.corp",
            "http://gitlab.corp/jwt/auth",
            Err("host.insecure_registries"),
        ),
        (
            "a realm of another registry",
            "*",
            "ghcr.io",
            "https://gitlab.corp/jwt/auth",
            Err("add ghcr.io=gitlab.corp to host.auth_realms"),
        ),
        ("another registry, both allowed", "ghcr.io|quay.io", "ghcr.io", "https://quay.io/v2/auth", Err("quay.io")),
        ("any host, all allowed", "*", "ghcr.io", "https://evil.example/token", Err("host.auth_realms")),
        (
            "a realm of a registry that is not allowed",
            "quay.io",
            "nvcr.io",
            "https://authn.nvidia.com/token",
            Err("add nvcr.io to allowed_hosts"),
        ),
        ("no tls", "ghcr.io", "ghcr.io", "http://ghcr.io/token", Err("host.insecure_registries")),
        (
            "no tls on loopback",
            "127.0.0.1:5000",
            "127.0.0.1:5000",
            "http://127.0.0.1:5000/token",
            Ok(("127.0.0.1:5000", false)),
        ),
        ("no tls on port 80", "localhost:80", "localhost:80", "http://localhost:80/token", Ok(("localhost:80", false))),
        (
            "a url instead of a registry",
            "*",
            "https://ghcr.io/",
            "https://ghcr.io/token",
            Err("not named by a registry host"),
        ),
    ] {
        let request = get(url, Some(credential));
        let checked = check_named(&rules(allowed, "loopback", "registry.corp=gitlab.corp"), &request, credential);
        let seen = checked.map(|permit| permit.credential).map_err(|failure| failure.message);
        match found {
            Ok((registry, is_realm)) => {
                assert_eq!(
                    seen,
                    Ok(Some(CredentialPermit { registry: registry.to_owned(), repository: None, is_realm })),
                    "{name}"
                );
            }
            Err(part) => assert!(seen.as_ref().is_err_and(|message| message.contains(part)), "{name}: {seen:?}"),
        }
    }
}

#[test]
fn a_request_with_a_token_gets_no_credential_and_hides_the_token() {
    let request =
        HttpRequest { credential: Some("ghcr.io".to_owned()), ..with_header("Authorization", "bearer s3cret") };
    let permit = check(&rules("ghcr.io", "", ""), &request).expect("a bearer token for an allowed host");
    assert_eq!(permit.credential, None);
    assert!(!format!("{permit:?}").contains("s3cret"));
}

#[test]
fn loopback_needs_tls_without_the_loopback_keyword() {
    let failure =
        check(&rules("*", "", ""), &get("http://127.0.0.1:5000/", None)).expect_err("no keyword, no plain http");
    assert!(failure.message.contains("host.insecure_registries"), "{}", failure.message);
}

#[test]
fn the_chooser_of_a_host_decides_its_allowed_addresses() {
    let realms = Realms::default();
    for (registry, realm) in [
        ("registry.corp", "auth.other"),
        ("docker.io", "auth.docker.io"),
        ("a.corp", "auth.corp"),
        ("b.corp", "10.0.0.9"),
    ] {
        realms.learn(registry, &format!("Bearer realm=\"https://{realm}/token\""));
    }
    for (name, allowed, url, credential, network) in [
        ("by name", "registry.corp", "https://registry.corp/v2/", None, Network::Operators),
        ("by pattern", "*", "https://registry.corp/v2/", None, Network::Operators),
        ("an address by pattern", "10.*", "https://10.0.0.1/v2/", None, Network::Operators),
        ("exactly this address", "169.254.1.1", "https://169.254.1.1/v2/", None, Network::Literal),
        ("exactly this address and port", "[fe80::1]:5000", "https://[fe80::1]:5000/v2/", None, Network::Literal),
        ("with its credential", "*", "https://registry.corp/v2/", Some("registry.corp"), Network::Operators),
        ("a known realm", "docker.io", "https://auth.docker.io/token", Some("docker.io"), Network::Operators),
        ("a known realm, anonymously", "docker.io", "https://auth.docker.io/token", None, Network::Operators),
        ("a configured realm", "a.corp", "https://auth.corp/token", Some("a.corp"), Network::Operators),
        ("a configured realm that is an address", "b.corp", "https://10.0.0.9/token", Some("b.corp"), Network::Literal),
        ("a named realm", "*", "https://auth.other/token", None, Network::Public),
        ("a named realm of an allowed registry", "*.corp", "https://auth.other/token", None, Network::Public),
        ("by credential", "*", "https://elsewhere.corp/token", Some("registry.corp"), Network::Public),
        (
            "by credential, but in allowed_hosts",
            "* e.corp",
            "https://e.corp/token",
            Some("registry.corp"),
            Network::Operators,
        ),
    ] {
        let allowed = allowed.replace(' ', "|");
        let request = HttpRequest { allow_anonymous: true, ..get(url, credential) };
        let permit = rules(&allowed, "", "a.corp=auth.corp b.corp=10.0.0.9").check(&request, &realms);
        assert_eq!(permit.map(|permit| permit.network), Ok(network), "{name}");
    }
}

#[test]
fn a_credential_can_be_named_with_its_repository() {
    for (named, found) in [
        ("ghcr.io/o/a", Some(("ghcr.io", Some("o/a")))),
        ("ghcr.io", Some(("ghcr.io", None))),
        ("docker.io/library/nginx", Some(("docker.io", Some("library/nginx")))),
        ("ghcr.io/", None),
        ("ghcr.io//a", None),
        ("ghcr.io/o/../a", None),
        ("ghcr.io/o/a b", None),
        ("ghcr.io/o/a\n", None),
        ("/o/a", None),
        ("https://ghcr.io/o", None),
    ] {
        let url = if named.starts_with("docker") { "https://registry-1.docker.io/v2/" } else { "https://ghcr.io/v2/" };
        let permit = check(&rules("*", "", ""), &get(url, Some(named))).ok().and_then(|permit| permit.credential);
        let seen = permit.as_ref().map(|found| (found.registry.as_str(), found.repository.as_deref()));
        assert_eq!(seen, found, "{named:?}");
    }
}

#[test]
fn a_credential_is_used_only_to_read_and_to_request_pull_tokens() {
    let own_query = "https://auth.r.io/token?kind=a";
    let header = |name: &str| vec![(name.to_owned(), "x".to_owned())];
    let field = |name: &str, value: &str| vec![(name.to_owned(), value.to_owned())];
    let plain = |url: &str| get(url, Some("r.io"));
    let post = |url: &str, form| HttpRequest { method: Method::Post, form, ..plain(url) };
    let with_header = |name: &str| HttpRequest { headers: header(name), ..plain("https://r.io/v2/") };
    for (name, request, says) in [
        ("its API", plain("https://r.io/v2/"), None),
        ("a manifest", plain("https://r.io/v2/o/a/manifests/latest"), None),
        ("tags", plain("https://r.io/v2/o/a/tags/list?n=1000"), None),
        ("an accept header", with_header("accept"), None),
        ("a token", plain("https://auth.r.io/token?kind=a&service=s&scope=repository:o/a:pull"), None),
        ("several scopes", plain("https://auth.r.io/token?scope=repository:o/a:pull&scope=repository:o/b:pull"), None),
        ("a registry-specific scope", plain("https://auth.r.io/token?scope=aws"), None),
        ("an azure scope", plain("https://auth.r.io/token?scope=repository:o/a:metadata_read"), None),
        ("a token by form", post("https://auth.r.io/token", field("grant_type", "refresh_token")), None),
        ("a blob", plain("https://r.io/v2/o/a/blobs/sha256:1"), Some("another path of r.io")),
        ("the catalog", plain("https://r.io/v2/_catalog"), Some("another path of r.io")),
        ("another API", plain("https://r.io/api/v2/users"), Some("another path of r.io")),
        (
            "a token from the registry itself",
            plain("https://r.io/token?scope=repository:o/a:pull"),
            Some("another path of r.io"),
        ),
        ("another path of its realm", plain("https://auth.r.io/users"), Some("another path of auth.r.io")),
        ("a form for its API", post("https://r.io/v2/", vec![]), Some("another path of r.io")),
        (
            "a token that never expires",
            plain("https://auth.r.io/token?offline_token=true"),
            Some("without the field offline_token"),
        ),
        ("another value of the realm's query", plain("https://auth.r.io/token?kind=b"), Some("without the field kind")),
        ("to push", plain("https://auth.r.io/token?scope=repository:o/a:pull,push"), Some("only to pull")),
        ("to delete", plain("https://auth.r.io/token?scope=aws%20repository:o/a:delete"), Some("only to pull")),
        ("the catalog scope", plain("https://auth.r.io/token?scope=registry:catalog:*"), Some("only to pull")),
        ("to push, by form", post("https://auth.r.io/token", field("scope", "repository:o/a:*")), Some("only to pull")),
        (
            "another grant",
            post("https://auth.r.io/token", field("grant_type", "password")),
            Some("the field grant_type"),
        ),
        ("another method", with_header("x-http-method-override"), Some("header x-http-method-override")),
    ] {
        let checked = rules("*", "", "r.io=auth.r.io").check(&request, &naming("r.io", own_query));
        match says {
            None => assert!(checked.is_ok_and(|permit| permit.credential.is_some()), "{name}"),
            Some(says) => {
                let failure = checked.map(|_| ()).expect_err(name);
                assert!(failure.code == FailureCode::Denied && failure.message.contains(says), "{name}: {failure}");
            }
        }
    }
}

#[test]
fn malformed_rules_are_refused_with_the_key_and_the_entry() {
    for (name, allowed, insecure, realms, key, entry) in [
        ("a scheme", "https://ghcr.io", "", "", "allowed_hosts", "https://ghcr.io"),
        ("only a path", "/org", "", "", "allowed_hosts", "/org"),
        ("an empty entry", "", "", "", "allowed_hosts", ""),
        ("an open class", "a[b", "", "", "allowed_hosts", "a[b"),
        ("a path", "*", "r.lan, r.lan/x", "", "host.insecure_registries", "r.lan/x"),
        ("no pair", "*", "", "a.io=b.io gitlab.corp", "host.auth_realms", "gitlab.corp"),
        ("half a pair", "*", "", "a.io=", "host.auth_realms", "a.io="),
        ("a url as realm", "*", "", "a.io=https://b.io", "host.auth_realms", "a.io=https://b.io"),
    ] {
        let error = EgressRules::parse(&[allowed.to_owned()], insecure, realms).expect_err(name);
        assert_eq!((error.key, error.entry.as_str()), (key, entry), "{name}");
        assert!(error.to_string().contains(key), "{name}: {error}");
    }
}

fn any_host() -> impl Strategy<Value = String> {
    prop_oneof![
        prop::sample::select(vec![
            "ghcr.io",
            "docker.io",
            "registry-1.docker.io",
            "auth.docker.io",
            "registry.gitlab.com",
            "gitlab.com",
            "nvcr.io",
            "authn.nvidia.com",
            "evil.example",
            "127.0.0.1",
            "[::1]",
            "a.io",
            "b.io",
        ])
        .prop_map(str::to_owned),
        "[a-z]{1,3}\\.(io|docker\\.io)",
    ]
}

proptest! {
    #[test]
    fn a_credential_is_attached_only_for_its_registry_or_a_bound_realm(
        registry in any_host(), host in any_host(), port in prop::option::of(1_u16..), is_https: bool, allow_all: bool,
    ) {
        let port = port.map(|port| format!(":{port}")).unwrap_or_default();
        let url = format!("{}://{host}{port}/token", if is_https { "https" } else { "http" });
        let allowed = if allow_all { "*" } else { registry.as_str() };
        let request = get(&url, Some(&registry));
        let checked = check_named(&rules(allowed, "loopback", "a.io=b.io"), &request, &registry);
        let Ok(permit) = checked else { return Ok(()) };
        let Some(credential) = permit.credential else { return Ok(()) };
        let hub = |name: &str| if DOCKER_HUB_NAMES.contains(&name) { DOCKER_HUB.to_owned() } else { name.to_owned() };
        let (of, to) = (hub(&registry), hub(&permit.host));
        let bound = KNOWN_REALMS.contains(&(of.as_str(), to.as_str())) || (of == "a.io" && to == "b.io");
        prop_assert_eq!(&credential.registry, &of);
        prop_assert!(of == to || bound, "the credential of {} went to {}", of, to);
        prop_assert!(is_https || is_loopback_host(&permit.host), "{} in clear", url);
    }

    #[test]
    fn no_url_makes_a_credential_or_form_go_to_another_host(
        url in "(https?://)?(a\\.io|b\\.io|[ -~é]{0,12})[/@:#?.\\\\]{0,2}[ -~]{0,30}", is_post: bool, allow_anonymous: bool,
    ) {
        let realms = Realms::default();
        realms.learn("a.io", &url);
        let method = if is_post { Method::Post } else { Method::Get };
        let request = HttpRequest { method, allow_anonymous, ..get(&url, Some("a.io")) };
        let Ok(permit) = rules("*", "loopback", "a.io=b.io").check(&request, &realms) else { return Ok(()) };
        let is_bound = matches!(permit.url.host_str(), Some("a.io" | "b.io")) && permit.url.port().is_none();
        prop_assert!(is_bound || permit.credential.is_none(), "{}", permit.url);
        prop_assert!(is_bound || !is_post, "{}", permit.url);
        prop_assert!(permit.url.username().is_empty() && permit.url.password().is_none());
    }

    #[test]
    fn no_location_makes_a_secret_leave_its_origin_or_tls(
        location in "(https?:)?(//)?(a\\.io|b\\.io|127\\.0\\.0\\.1|[ -~é]{0,12})?[/@:#?.\\\\]{0,2}[ -~]{0,30}",
        is_https: bool,
    ) {
        let url = if is_https { "https://a.io/v2/" } else { "http://a.io/v2/" };
        let rules = rules("*", "loopback a.io b.io", "");
        let headers = vec![("x-secret".to_owned(), "s".to_owned())];
        for request in [get(url, Some("a.io")), HttpRequest { headers, ..get(url, None) }] {
            let permit = check(&rules, &HttpRequest { method: Method::Head, ..request }).expect("its registry");
            let Ok(next) = rules.check_redirect(&permit, &location) else { return Ok(()) };
            let is_same = next.url.origin() == permit.url.origin();
            prop_assert_eq!(next.credential.is_some(), is_same && permit.credential.is_some(), "{}", next.url);
            let has = |permit: &Permit| permit.headers.contains_key("x-secret");
            prop_assert_eq!(has(&next), is_same && has(&permit), "{}", next.url);
            prop_assert!(next.url.scheme() == "https" || !is_https, "{}", next.url);
            prop_assert!(is_same || next.network == Network::Public, "{}", next.url);
        }
    }

    #[test]
    fn no_url_panics_and_permitted_urls_have_an_allowed_host(url in "(https?://)?[ -~]{0,40}") {
        if let Ok(permit) = check(&rules("ghcr.io", "loopback", ""), &get(&url, None)) {
            prop_assert_eq!(permit.url.host_str(), Some("ghcr.io"));
            prop_assert_eq!(permit.url.scheme(), "https");
        }
    }
}
