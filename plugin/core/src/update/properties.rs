//! Properties of the order of tags and of the choice, for random tags that are built from parts of real tags.

use proptest::prelude::*;

use super::{Choice, UpdatePolicy};

const POLICIES: &[(&str, Option<&str>)] = &[
    ("semver:*", None),
    ("semver:>=0.0.0-0", None),
    ("semver:^1 || ^2", Some(r"^v?(\d+\.\d+\.\d+)")),
    ("numeric", Some(r"^(\d+)")),
    ("numeric:desc", None),
    ("alphabetical", None),
];

fn any_tag() -> impl Strategy<Value = String> {
    let number = || prop_oneof![Just("0"), Just("1"), Just("2"), Just("10"), Just("01")];
    let version = prop::collection::vec(number(), 1..5).prop_map(|numbers| numbers.join("."));
    let piece = prop_oneof![
        (prop::sample::select(vec!["ls", "r", "alpine", "alpine3.", "rc", "rc.", "alpha.", "debian-", ""]), 0..12_u32)
            .prop_map(|(word, number)| format!("{word}{number}")),
        prop::sample::select(vec!["gabcdef", "g123456", "1a2b3c4", "slim", "alpha.1.b4djgk3", "alpha.2.0545458"])
            .prop_map(str::to_owned),
    ];
    let suffix =
        prop::collection::vec(piece.prop_map(|piece| format!("-{piece}")), 0..3).prop_map(|pieces| pieces.concat());
    (any::<bool>(), version, suffix)
        .prop_map(|(has_v, version, suffix)| format!("{}{version}{suffix}", if has_v { "v" } else { "" }))
}

fn any_policy() -> impl Strategy<Value = UpdatePolicy> {
    prop::sample::select(POLICIES).prop_map(|(text, filter)| {
        let policy = UpdatePolicy::parse(text).expect("a policy");
        filter.map(|filter| policy.filtered(filter).expect("a filter")).unwrap_or(policy)
    })
}

proptest! {
    #[test]
    fn the_order_is_antisymmetric(policy in any_policy(), one in any_tag(), other in any_tag()) {
        let found = policy.compare(&one, &other);
        prop_assert_eq!(policy.compare(&other, &one), found.map(std::cmp::Ordering::reverse), "{} {}", one, other);
    }

    #[test]
    fn the_order_is_transitive_among_tags_of_one_form(policy in any_policy(), mut tags in prop::collection::vec(any_tag(), 3)) {
        tags.sort_by(|one, other| policy.rank(one, other));
        let form = |tag: &String| super::natural::form(tag);
        let is_one_form = tags.iter().all(|tag| form(tag) == form(&tags[0]));
        let [a, b, c] = tags.as_slice() else { unreachable!("three tags") };
        if let (true, Some(first), Some(second)) = (is_one_form, policy.compare(a, b), policy.compare(b, c)) {
            prop_assert_eq!(policy.compare(a, c), Some(first.then(second)), "{} {} {}", a, b, c);
        }
    }

    #[test]
    fn the_choice_is_newer_and_independent_of_the_list_order(
        policy in any_policy(),
        mut tags in prop::collection::vec(any_tag(), 0..12),
        current in any_tag(),
    ) {
        let before = tags.clone();
        let choice = policy.choose(&before, &current);
        tags.reverse();
        prop_assert_eq!(policy.choose(&tags, &current), choice.clone());
        if let Choice::Newer(newer) = choice {
            prop_assert!(!newer.is_empty());
            for tag in &newer {
                prop_assert_eq!(policy.compare(tag, &current), Some(std::cmp::Ordering::Greater));
                prop_assert!(policy.reaches(&current, tag));
            }
            for pair in newer.windows(2) {
                prop_assert_ne!(policy.compare(pair[0], pair[1]), Some(std::cmp::Ordering::Less));
            }
        }
    }
}
