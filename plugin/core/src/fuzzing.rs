//! What the fuzz targets in `fuzz/` feed: a reader of outside text each, with what must hold whatever the text is.
//! A panic is a finding. Built for them and for the tests that replay their corpora, never into the plugin.

use imagewatch_abi::Reference;

use crate::registry::cache::Challenge;
use crate::registry::{challenge, request, tags, token};

const TAGS_URL: &str = "https://r.io/v2/o/a/tags/list?n=1000";
const NOW_MS: u64 = 1_795_269_600_000;

/// A reference prints as what parses to itself again, and what is made of it is one too.
pub fn reference(bytes: &[u8]) {
    let Some(reference) = std::str::from_utf8(bytes).ok().and_then(|text| text.parse::<Reference>().ok()) else {
        return;
    };
    for made in [reference.clone(), reference.without_tag(), reference.clone().with_explicit_tag()] {
        let printed = made.to_string();
        assert_eq!(printed.parse::<Reference>().as_ref(), Ok(&made), "{printed:?}");
        assert!(printed.bytes().all(|byte| byte.is_ascii_graphic()), "{printed:?}");
        assert_eq!(made.registry(), reference.registry(), "{printed:?}");
        assert!(!made.registry().contains(['/', '@', '?', '#', '\\']), "{printed:?}");
    }
}

/// The realm that is chosen stands in one of the headers, a line each, and a token's URL begins with it.
pub fn challenge(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let headers: Vec<&str> = text.lines().collect();
    let Some(asked) = challenge::choose(&headers) else { return };
    let Challenge::Bearer { realm, service, scope } = asked.challenge else { return };
    assert!(headers.iter().any(|header| is_of(&realm, header)), "{realm:?} is in none of {headers:?}");
    if request::is_realm(&realm) {
        let scopes: Vec<String> = scope.into_iter().chain(asked.scope).collect();
        let url = request::token_url(&realm, service.as_deref(), &scopes);
        assert!(url.starts_with(&realm) && url.bytes().all(|byte| byte.is_ascii_graphic()), "{url:?}");
    }
}

/// Whether `value` stands in `header` as it is, or without the backslashes that a quoted string may have.
fn is_of(value: &str, header: &str) -> bool {
    let mut rest = header.chars();
    header.contains(value) || (header.contains('\\') && value.chars().all(|wanted| rest.any(|c| c == wanted)))
}

/// The first line is a `Link` header, the others are the page: the next page is on the same origin.
pub fn link(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (header, page) = text.split_once('\n').unwrap_or((text, ""));
    for body in [r#"{"tags":["a"]}"#, page] {
        let mut list = tags::TagList::default();
        if list.add(TAGS_URL, body, &[header]).is_ok()
            && let Some(next) = list.next
        {
            assert!(next.starts_with("https://r.io/") && next != TAGS_URL, "{next:?}");
            assert!(next.bytes().all(|byte| byte.is_ascii_graphic()), "{next:?}");
        }
    }
}

/// A token can stand in a header, and lives between a minute and a day.
pub fn token(bytes: &[u8]) {
    let body = String::from_utf8_lossy(bytes);
    if let Ok((value, until_ms)) = token::parse_token(&body, NOW_MS) {
        assert!(!value.is_empty() && value.bytes().all(|byte| byte.is_ascii_graphic()), "{value:?}");
        assert!((NOW_MS + 50_000..=NOW_MS + 86_400_000).contains(&until_ms), "{until_ms}");
    }
}

#[cfg(all(test, not(target_arch = "wasm32")))]
mod tests {
    use std::path::Path;

    use rstest::rstest;

    #[rstest]
    #[case::reference("reference", crate::fuzzing::reference)]
    #[case::challenge("challenge", crate::fuzzing::challenge)]
    #[case::link("link", crate::fuzzing::link)]
    #[case::token("token", crate::fuzzing::token)]
    fn the_corpus_holds(#[case] target: &str, #[case] check: fn(&[u8])) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
        let files = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let mut count = 0;
        for file in files {
            check(&std::fs::read(file.expect("an entry").path()).expect("a file"));
            count += 1;
        }
        assert!(count > 20, "{} has {count} files", folder.display());
    }
}
