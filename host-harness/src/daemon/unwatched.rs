//! Containers that no manifest watches, and why: so that a result that lacks a container, or is empty, explains itself.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use imagewatch_abi::{NotWatched, Outcome};
use serde::Serialize;

/// Names that are listed for one cause; of more, only the count is told.
const MAX_NAMES: usize = 5;

/// A container that a manifest does not watch.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Unwatched {
    /// The manifest's name.
    pub manifest: String,
    /// The container, and why.
    #[serde(flatten)]
    pub container: NotWatched,
}

/// Leaves out the containers that another manifest watches, by what it says of them.
pub fn drop_watched(unwatched: &mut Vec<Unwatched>, outcomes: &[Outcome]) {
    let watched: BTreeSet<&str> = outcomes.iter().filter_map(|outcome| outcome.container.as_deref()).collect();
    unwatched.retain(|one| !watched.contains(one.container.container.as_str()));
}

/// Why the manifest `name` watches no container: each cause once, with the containers.
pub fn explain(name: &str, not_watched: &[NotWatched]) -> String {
    let mut text = match not_watched.len() {
        0 => return format!("manifest {name} watches no container: the engine has none"),
        1 => format!("manifest {name} watches none of the engine's containers, of which there is 1"),
        count => format!("manifest {name} watches none of the engine's {count} containers"),
    };
    let mut causes: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for one in not_watched {
        causes.entry(&one.reason).or_default().push(&one.container);
    }
    let mut causes: Vec<_> = causes.into_iter().collect();
    causes.sort_by_key(|(_, containers)| std::cmp::Reverse(containers.len()));
    for (reason, containers) in causes {
        let more = containers.len().saturating_sub(MAX_NAMES);
        let names = containers[..containers.len() - more].join(", ");
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let _ = write!(text, "; {names}{more}: {reason}");
    }
    text
}

#[cfg(test)]
mod tests {
    use imagewatch_abi::Verdict;

    use super::*;

    fn not_watched(container: &str, reason: &str) -> NotWatched {
        NotWatched { container: container.to_owned(), image: "nginx".to_owned(), reason: reason.to_owned() }
    }

    #[test]
    fn an_empty_result_names_each_cause_once_the_most_frequent_first() {
        assert_eq!(explain("apps", &[]), "manifest apps watches no container: the engine has none");
        let mut all: Vec<_> = (1..=7).map(|number| not_watched(&format!("c{number}"), "it has no label")).collect();
        all.insert(3, not_watched("db", "it is not granted"));
        assert_eq!(
            explain("apps", &all),
            "manifest apps watches none of the engine's 8 containers; c1, c2, c3, c4, c5 and 2 more: it has no label; \
             db: it is not granted"
        );
        assert!(explain("apps", &all[..1]).contains("of which there is 1; c1: it has no label"));
    }

    #[test]
    fn a_container_that_another_manifest_watches_is_watched() {
        let unwatched = |name: &str| Unwatched { manifest: "a".to_owned(), container: not_watched(name, "why") };
        let mut all = vec![unwatched("db"), unwatched("web")];
        let outcome = Outcome { container: Some("web".to_owned()), ..Outcome::new("web", Verdict::Unchanged) };
        drop_watched(&mut all, &[outcome]);
        assert_eq!(all, [unwatched("db")]);
    }
}
