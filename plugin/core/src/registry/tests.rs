//! Whatever a registry or its token server writes is read without a panic, and what comes of it stays within bounds.

use imagewatch_abi::HttpResponse;
use proptest::prelude::*;

use super::{challenge, document, limit, request, tags, token};

/// Texts made of what the grammars are made of, so that more of them get past the first character.
fn header() -> impl Strategy<Value = String> {
    let word = prop_oneof![
        Just("Bearer "),
        Just("Basic "),
        Just("realm="),
        Just("scope="),
        Just("error="),
        Just("https://a.b/c"),
        Just("\""),
        Just("\\"),
        Just(","),
        Just(" "),
        Just("="),
        Just("<"),
        Just(">"),
        Just(";"),
        Just("rel=\"next\""),
        Just("?n=1"),
        Just("/v2/"),
        Just("//"),
        Just("é"),
        Just("0"),
        Just("99"),
        Just("Nov"),
        Just("GMT"),
        Just(":"),
        Just("-"),
        Just("retry-after: "),
        Just("\u{b5}s"),
        Just("h"),
        Just(".5s"),
    ];
    prop_oneof![any::<String>(), prop::collection::vec(word, 0..24).prop_map(|words| words.concat())]
}

fn json() -> impl Strategy<Value = String> {
    let word = prop_oneof![
        Just("{"),
        Just("}"),
        Just("["),
        Just("]"),
        Just(","),
        Just(":"),
        Just("\"token\""),
        Just("\"expires_in\""),
        Just("\"tags\""),
        Just("\"manifests\""),
        Just("\"digest\""),
        Just("\"platform\""),
        Just("\"a\""),
        Just("1e999"),
        Just("-1"),
        Just("null"),
        Just("300"),
    ];
    prop_oneof![any::<String>(), prop::collection::vec(word, 0..24).prop_map(|words| words.concat())]
}

proptest! {
    #[test]
    fn challenges(first in header(), second in header()) {
        if let Some(asked) = challenge::choose(&[&first, &second])
            && let super::cache::Challenge::Bearer { realm, service, .. } = asked.challenge
            && request::is_realm(&realm)
        {
            let url = request::token_url(&realm, service.as_deref(), &["repository:o/a:pull".to_owned()]);
            prop_assert!(url.starts_with(&realm) && url.bytes().all(|b| b.is_ascii_graphic()), "{url}");
        }
    }

    #[test]
    fn links(link in header(), body in json()) {
        const URL: &str = "https://r.io/v2/o/a/tags/list?n=1000";
        let mut list = tags::TagList::default();
        let _ = list.add(URL, &body, &[]);
        if list.add(URL, r#"{"tags":["a"]}"#, &[&link]).is_ok()
            && let Some(next) = list.next
        {
            prop_assert!(next.starts_with("https://r.io/") && next.bytes().all(|b| b.is_ascii_graphic()), "{next}");
        }
    }

    #[test]
    fn tokens(body in json(), now_ms in 0..4_000_000_000_000_u64) {
        if let Ok((value, expires_at_ms)) = token::parse_token(&body, now_ms) {
            prop_assert!(value.bytes().all(|b| b.is_ascii_graphic()));
            prop_assert!((now_ms + 50_000..=now_ms + 86_400_000).contains(&expires_at_ms));
        }
    }

    #[test]
    fn documents(body in json()) {
        let _ = document::Document::parse(&body);
    }

    #[test]
    fn limits(texts in prop::collection::vec(header(), 5), status in prop::sample::select(vec![200_u16, 429, 503])) {
        const NOW_MS: u64 = 1_795_269_600_000;
        let headers = limit::HEADERS.iter().map(|name| (*name).to_owned()).zip(texts.iter().cloned()).collect();
        let body = texts.last().cloned().unwrap_or_default();
        let response = HttpResponse { status, headers, body, ..HttpResponse::default() };
        if let limit::Limit::Refused(wait_ms) = limit::read_limit(&response, NOW_MS) {
            let parked = limit::RateLimited::new("r.io", NOW_MS, wait_ms, None);
            prop_assert!(parked.until_ms > NOW_MS && parked.until_ms <= NOW_MS + 6 * 3_600_000 + 30_001);
        }
    }
}
