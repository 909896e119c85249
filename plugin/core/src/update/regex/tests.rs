//! Patterns row by row, and a comparison with `regex-lite` on random patterns and tags. `regex-lite` is too large for
//! the module.

use rstest::rstest;

use super::*;
use crate::any_test;

#[rstest]
#[test_attr(any_test)]
#[case::anywhere("b+", "abbc", Some((0, 4)))]
#[case::no_match("x", "abc", None)]
#[case::anchored("^b", "abc", None)]
#[case::end("c$", "abc", Some((0, 3)))]
#[case::group("v([0-9]+)", "v12-x", Some((1, 3)))]
#[case::named("(?P<n>\\d+)", "v12", Some((1, 3)))]
#[case::named_without_p("(?<n>\\d+)", "v12", Some((1, 3)))]
#[case::only_the_first_group("(?:v)(\\d)(\\d)", "v12", Some((1, 2)))]
#[case::group_without_a_match("a(x)?b", "ab", Some((0, 2)))]
#[case::leftmost("(a+)", "baab", Some((1, 3)))]
#[case::earlier_alternative_first("(a|ab)", "ab", Some((0, 1)))]
#[case::lazy("(a+?)", "aaa", Some((0, 1)))]
#[case::bounds("^(a{2,3})", "aaaa", Some((0, 3)))]
#[case::exactly("^a{2}$", "aaa", None)]
#[case::class("^[^a-c.]+$", "xyz", Some((0, 3)))]
#[case::class_ends("^[]a-]+$", "-]a", Some((0, 3)))]
#[case::escapes("^\\w\\W\\D\\.$", "_-x.", Some((0, 4)))]
#[case::last_repetition("(?:(a)|b)+", "ab", Some((0, 1)))]
#[case::empty("", "abc", Some((0, 3)))]
fn patterns_match(#[case] pattern: &str, #[case] text: &str, #[case] expected: Option<(usize, usize)>) {
    assert_eq!(Regex::parse(pattern).expect(pattern).find(text), expected);
}

#[rstest]
#[test_attr(any_test)]
#[case::open("(a", "not closed")]
#[case::closed("a)", "no matching")]
#[case::class("[a", "not closed")]
#[case::class_range("[z-a]", "later one")]
#[case::nested_class("[[:alpha:]]", "not supported")]
#[case::nothing_to_repeat("*a", "nothing to repeat")]
#[case::empty_repeated("(a*)*", "may be empty")]
#[case::anchor_repeated("^*", "may be empty")]
#[case::twice("a**", "repeats a repetition")]
#[case::brace("a{x}", "valid repetition")]
#[case::brace_backwards("a{3,2}", "valid repetition")]
#[case::flags("(?i)a", "not supported")]
#[case::look_ahead("(?=a)", "not supported")]
#[case::look_behind("(?<=a)b", "not supported")]
#[case::back_reference("(a)\\1", "not supported")]
#[case::word_boundary("\\bx", "not supported")]
#[case::backslash("a\\", "too early")]
#[case::not_ascii("ä", "ASCII")]
#[case::large("(?:a{100}){100}", "too large")]
#[case::deep(&"(".repeat(30), "too deep")]
#[case::long(&"|".repeat(1000), "longer")]
fn unsupported_features_are_named(#[case] pattern: &str, #[case] part: &str) {
    let error = Regex::parse(pattern).map(drop).expect_err(pattern);
    assert!(error.contains(part), "{error}");
}

#[any_test]
fn a_pattern_with_exponential_backtracking_stays_fast() {
    let pattern = Regex::parse("^(?:a+a+)+(?:a|aa)+$").expect("a pattern");
    assert_eq!(pattern.find(&format!("{}b", "a".repeat(127))), None);
}

#[cfg(not(target_arch = "wasm32"))]
mod against_regex_lite {
    use proptest::prelude::*;

    use super::*;

    fn pattern() -> impl Strategy<Value = String> {
        let atom = prop::sample::select(vec![
            "a", "b", "-", "1", ".", "\\d", "\\w", "\\.", "[ab]", "[^a]", "[a-b1-]", "[]b]", "\\D",
        ]);
        let atom = atom.prop_map(str::to_owned);
        let nested = atom.prop_recursive(4, 24, 4, |inner| {
            let times = prop::sample::select(vec!["*", "+", "?", "*?", "+?", "??", "{2}", "{1,}", "{0,2}", "{1,3}?"]);
            prop_oneof![
                prop::collection::vec(inner.clone(), 1..4).prop_map(|parts| parts.concat()),
                (inner.clone(), inner.clone()).prop_map(|(one, other)| format!("(?:{one}|{other})")),
                inner.clone().prop_map(|inner| format!("({inner})")),
                (inner.clone(), times).prop_map(|(inner, times)| format!("(?:{inner}){times}")),
                inner.clone().prop_map(|inner| format!("(?:{inner}|)")),
            ]
        });
        (prop::bool::ANY, nested, prop::bool::ANY).prop_map(|(start, pattern, end)| {
            format!("{}{pattern}{}", if start { "^" } else { "" }, if end { "$" } else { "" })
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 4_000, ..ProptestConfig::default() })]
        #[test]
        fn both_engines_find_the_same(pattern in pattern(), texts in prop::collection::vec("[ab1.\\-]{0,8}", 1..6)) {
            // This engine refuses the repetition of a part that may be empty.
            let Ok(regex) = Regex::parse(&pattern) else { return Ok(()) };
            let reference = regex_lite::Regex::new(&pattern).expect("regex-lite supports every pattern of this engine");
            for text in texts {
                let expected = reference.captures(&text).map(|found| {
                    found.get(1).map_or((0, text.len()), |group| (group.start(), group.end()))
                });
                prop_assert_eq!(regex.find(&text), expected, "{} on {:?}", pattern, text);
            }
        }
    }
}
