//! The `imagewatch.*` labels of a container: the table of all labels, and the parser for their values. The policy and
//! the host both use this module, so that a label has the same meaning for both.
//!
//! Parsing is strict. A value that cannot be parsed, and a label that is not in the table, are problems. A container
//! with a problem is never updated.

use crate::{Strategy, parse_duration_ms};

/// The prefix of every label.
pub const PREFIX: &str = "imagewatch.";

/// Whether the container is watched.
pub const ENABLE: &str = "imagewatch.enable";
/// How the container is updated.
pub const STRATEGY: &str = "imagewatch.strategy";
/// Which tag the container follows.
pub const UPDATE_POLICY: &str = "imagewatch.update-policy";
/// Which tags are candidates.
pub const TAG_FILTER: &str = "imagewatch.tag-filter";
/// The probe that must succeed before the container counts as healthy.
pub const PROBE: &str = "imagewatch.probe";
/// How long the container must run before it counts as stable.
pub const STABLE_FOR: &str = "imagewatch.stable-for";
/// How long the container may take to become healthy.
pub const HEALTH_TIMEOUT: &str = "imagewatch.health-timeout";
/// How long both containers serve, with start-first.
pub const DRAIN: &str = "imagewatch.drain";
/// The containers that this container needs.
pub const DEPENDS_ON: &str = "imagewatch.depends-on";
/// A command that runs before anything is created.
pub const HOOK_PRE_CHECK: &str = "imagewatch.hook.pre-check";
/// A command that runs before the old container is stopped.
pub const HOOK_PRE_UPDATE: &str = "imagewatch.hook.pre-update";
/// A command that runs in the new container.
pub const HOOK_POST_UPDATE: &str = "imagewatch.hook.post-update";
/// How long one hook may take.
pub const HOOK_TIMEOUT: &str = "imagewatch.hook.timeout";
/// The environment variables that keep their values.
pub const KEEP_ENV: &str = "imagewatch.keep-env";
/// The networks on which the MAC address of the container is configured.
pub const KEEP_MAC: &str = "imagewatch.keep-mac";
/// Allows replacing a container that was created with `--rm`.
pub const ALLOW_RM: &str = "imagewatch.allow-rm";
/// Allows losing files that were copied into the container from outside.
pub const CARRY_NOTHING: &str = "imagewatch.carry-nothing";
/// Allows two containers to use the volumes at the same time.
pub const SHARED_VOLUMES_SAFE: &str = "imagewatch.shared-volumes-safe";
/// Marks the container in which imagewatch runs.
pub const UPDATER: &str = "imagewatch.updater";
/// The transaction that created the container.
pub const TRANSACTION: &str = "imagewatch.transaction";
/// The job of the helper container in a self-update.
pub const ERRAND: &str = "imagewatch.errand";

/// The format of a label's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// A word for yes or no, see [`parse_yes_no`].
    YesNo,
    /// The name of a [`Strategy`].
    Strategy,
    /// A duration, see [`parse_duration_ms`].
    Duration,
    /// A probe, see [`read_probe`].
    Probe,
    /// Any text. The code that uses the label validates it.
    Text,
}

/// A label that imagewatch knows.
#[derive(Debug)]
pub struct Label {
    /// The label's name.
    pub name: &'static str,
    /// The format of its value.
    pub form: Form,
    /// The purpose of the label, in one sentence.
    pub doc: &'static str,
    /// Whether imagewatch writes the label. Operators do not set such a label.
    pub is_internal: bool,
}

const fn label(name: &'static str, form: Form, doc: &'static str) -> Label {
    Label { name, form, doc, is_internal: false }
}

const fn internal(name: &'static str, doc: &'static str) -> Label {
    Label { name, form: Form::Text, doc, is_internal: true }
}

/// Every label that imagewatch knows.
pub const LABELS: &[Label] = &[
    label(ENABLE, Form::YesNo, "`true`: the container is watched. `false`: it is not."),
    label(STRATEGY, Form::Strategy, "How the container is updated. Takes precedence over config key `strategy`."),
    label(UPDATE_POLICY, Form::Text, "Which tag it follows. Takes precedence over config key `update_policy`."),
    label(TAG_FILTER, Form::Text, "Which tags are candidates. Takes precedence over config key `tag_filter`."),
    label(PROBE, Form::Probe, "`tcp:PORT` or `http:PORT/PATH`: what must answer before the new container is healthy."),
    label(STABLE_FOR, Form::Duration, "How long the new container must run before the update is kept."),
    label(HEALTH_TIMEOUT, Form::Duration, "How long the new container may take to become healthy."),
    label(DRAIN, Form::Duration, "With `start-first`: how long both containers serve before the old one stops."),
    label(DEPENDS_ON, Form::Text, "Names of containers, separated by commas. This container restarts with them."),
    label(HOOK_PRE_CHECK, Form::Text, "A command that runs in the old container before anything is created."),
    label(HOOK_PRE_UPDATE, Form::Text, "A command that runs in the old container before it stops."),
    label(HOOK_POST_UPDATE, Form::Text, "A command that runs in the new container once it is healthy."),
    label(HOOK_TIMEOUT, Form::Duration, "How long each hook may take."),
    label(KEEP_ENV, Form::Text, "Names of variables, separated by commas. They keep their values."),
    label(KEEP_MAC, Form::Text, "Networks, separated by commas, on which the container's MAC address is configured."),
    label(ALLOW_RM, Form::YesNo, "`true` allows replacing a container that was created with `--rm`."),
    label(CARRY_NOTHING, Form::YesNo, "`true` allows losing files that were copied into the container."),
    label(SHARED_VOLUMES_SAFE, Form::YesNo, "`true` allows two containers to write to the volumes at the same time."),
    label(UPDATER, Form::YesNo, "`true` marks the container in which imagewatch runs."),
    internal(TRANSACTION, "The update that created the container."),
    internal(ERRAND, "The job of the helper container in a self-update."),
];

/// Parses a word for yes (`true`, `t`, `yes`, `y`, `on`, `1`) or no (`false`, `f`, `no`, `n`, `off`, `0`). Letter case
/// and surrounding blanks do not matter. Returns `None` for any other text, including the empty text.
pub fn parse_yes_no(text: &str) -> Option<bool> {
    let is_one_of = |words: &[&str]| words.iter().any(|word| text.trim().eq_ignore_ascii_case(word));
    if is_one_of(&["true", "t", "yes", "y", "on", "1"]) {
        Some(true)
    } else {
        is_one_of(&["false", "f", "no", "n", "off", "0"]).then_some(false)
    }
}

/// Parses the yes or no in `text`, the value of label `name`.
///
/// # Errors
/// A lowercase fragment that names the label, its value and the valid format. The readers below return the same kind of
/// error.
pub fn read_yes_no(name: &str, text: &str) -> Result<bool, String> {
    parse_yes_no(text).ok_or_else(|| format!("its label {name} is {}; write true or false", quoted(text)))
}

/// Parses the value of [`STRATEGY`].
#[expect(clippy::missing_errors_doc, reason = "see read_yes_no")]
pub fn read_strategy(text: &str) -> Result<Strategy, String> {
    Ok(match text.trim() {
        "replace" => Strategy::Replace,
        "start-first" => Strategy::StartFirst,
        "remove" => Strategy::Remove,
        "pull-only" => Strategy::PullOnly,
        "notify" => Strategy::Notify,
        _ => {
            let text = quoted(text);
            return Err(format!(
                "its label {STRATEGY} is {text}; it may be replace, start-first, remove, pull-only or notify"
            ));
        }
    })
}

/// Parses the value `text` of label `name` into milliseconds.
#[expect(clippy::missing_errors_doc, reason = "see read_yes_no")]
pub fn read_duration_ms(name: &str, text: &str) -> Result<u64, String> {
    parse_duration_ms(text.trim())
        .ok_or_else(|| format!("its label {name} is {}; write for example 30s or 5m", quoted(text)))
}

/// A probe that must succeed before a container counts as healthy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// The port accepts a connection.
    Tcp(u16),
    /// `GET` of this path at this port returns a 2xx or 3xx status.
    Http(u16, String),
}

/// Parses the value of [`PROBE`]: `tcp:PORT` or `http:PORT/PATH`.
#[expect(clippy::missing_errors_doc, reason = "see read_yes_no")]
pub fn read_probe(text: &str) -> Result<Probe, String> {
    let parsed = match text.trim().split_once(':') {
        Some(("tcp", port)) => port.parse().ok().map(Probe::Tcp),
        Some(("http", rest)) => {
            let (port, path) = rest.split_once('/').unwrap_or((rest, ""));
            port.parse().ok().map(|port| Probe::Http(port, format!("/{path}")))
        }
        _ => None,
    };
    parsed.ok_or_else(|| format!("its label {PROBE} is {}; write tcp:PORT or http:PORT/PATH", quoted(text)))
}

/// Whether two values of label `name` have the same meaning: all words for yes are equal, and all words for no.
pub fn means_same(name: &str, one: &str, other: &str) -> bool {
    let is_yes_no = LABELS.iter().any(|label| label.name == name && label.form == Form::YesNo);
    one == other || (is_yes_no && parse_yes_no(one).is_some_and(|one| parse_yes_no(other) == Some(one)))
}

/// The maximum length of a quoted label in a message. The author of an image can write labels of any length.
const MAX_QUOTED_CHARS: usize = 80;

fn quoted(text: &str) -> String {
    format!("{:?}", text.chars().take(MAX_QUOTED_CHARS).collect::<String>())
}

/// Checks a container's `labels`, given as names and values. Labels of other programs are ignored.
///
/// # Errors
/// A lowercase fragment for the first label that imagewatch does not know or cannot parse. It names the label and says
/// what to write instead.
pub fn check<'a>(labels: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<(), String> {
    labels.into_iter().filter(|(name, _)| resembles_prefix(name)).try_for_each(|(name, value)| check_one(name, value))
}

/// Whether `name` starts with the prefix of imagewatch's labels, in any letter case.
fn resembles_prefix(name: &str) -> bool {
    name.trim_start().get(..PREFIX.len()).is_some_and(|start| start.eq_ignore_ascii_case(PREFIX))
}

fn check_one(name: &str, value: &str) -> Result<(), String> {
    let Some(label) = LABELS.iter().find(|label| label.name == name) else {
        let nearest = nearest(name);
        return Err(format!("its label {} is unknown; the nearest known label is {nearest}", quoted(name)));
    };
    match label.form {
        Form::YesNo => read_yes_no(name, value).map(drop),
        // In any other form, an empty value counts as an absent label.
        _ if value.trim().is_empty() => Ok(()),
        Form::Strategy => read_strategy(value).map(drop),
        Form::Duration => read_duration_ms(name, value).map(drop),
        Form::Probe => read_probe(value).map(drop),
        Form::Text => Ok(()),
    }
}

/// The label with the name closest to `name`: the one that differs in the fewest letters. Internal labels are not
/// considered.
pub fn nearest(name: &str) -> &'static str {
    let name: String = name.trim().to_ascii_lowercase().chars().take(MAX_QUOTED_CHARS).collect();
    let known = LABELS.iter().filter(|label| !label.is_internal).map(|label| label.name);
    known.min_by_key(|known| distance(&name, known)).unwrap_or(ENABLE)
}

/// How many letters must be added, removed or changed to turn `one` into `other` (Levenshtein distance).
pub fn distance(one: &str, other: &str) -> usize {
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in other.bytes().enumerate() {
            let changed = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn f10_only_words_for_yes_and_no_parse_in_any_letter_case() {
        for yes in ["true", "True", "TRUE", "t", "1", "yes", "YES", "y", "on", "On", "true ", "\ttrue\n"] {
            assert_eq!(parse_yes_no(yes), Some(true), "{yes:?}");
        }
        for no in ["false", "False", "FALSE", "f", "0", "no", "n", "off", "OFF", "False ", " no"] {
            assert_eq!(parse_yes_no(no), Some(false), "{no:?}");
        }
        for neither in ["", " ", "disabled", "enabled", "2", "tru", "true!", "not", "nein", "\u{ff11}", "null", "ja"] {
            assert_eq!(parse_yes_no(neither), None, "{neither:?}");
        }
    }

    #[test]
    fn f10_an_invalid_label_is_named_with_the_valid_format() {
        for (case, name, value, part) in [
            ("enable", ENABLE, "disabled", "imagewatch.enable is \"disabled\"; write true or false"),
            ("enable without a value", ENABLE, "", "write true or false"),
            ("allow-rm", ALLOW_RM, "maybe", "imagewatch.allow-rm is \"maybe\""),
            ("carry-nothing", CARRY_NOTHING, "2", "imagewatch.carry-nothing is \"2\""),
            ("updater", UPDATER, "self", "imagewatch.updater is \"self\""),
            ("shared volumes", SHARED_VOLUMES_SAFE, "ok", "imagewatch.shared-volumes-safe is \"ok\""),
            ("strategy", STRATEGY, "sometimes", "start-first"),
            ("duration", DRAIN, "soon", "write for example 30s"),
            ("probe", PROBE, "80", "imagewatch.probe is \"80\"; write tcp:PORT or http:PORT/PATH"),
            ("a probe with an invalid port", PROBE, "tcp:99999", "write tcp:PORT or http:PORT/PATH"),
            ("a misspelt name", "imagewatch.stratgey", "notify", "nearest known label is imagewatch.strategy"),
            ("a wrong ending", "imagewatch.enabled", "true", "nearest known label is imagewatch.enable"),
            ("a trailing blank", "imagewatch.enable ", "false", "nearest known label is imagewatch.enable"),
            ("another letter case", "imageWatch.Enable", "false", "nearest known label is imagewatch.enable"),
            ("an underscore", "imagewatch.allow_rm", "true", "nearest known label is imagewatch.allow-rm"),
            ("a hook name", "imagewatch.pre-update", "true", "nearest known label is imagewatch.hook.pre-update"),
            ("nothing after the dot", "imagewatch.", "true", "is unknown"),
        ] {
            let problem = check([("com.example", "x"), (name, value)]).expect_err(case);
            assert!(problem.contains(part), "{case}: {problem}");
        }
    }

    #[test]
    fn valid_labels_and_labels_of_other_programs_pass() {
        for (name, value) in [
            (ENABLE, "Yes"),
            (STRATEGY, "start-first"),
            (STRATEGY, ""),
            (DRAIN, "30s"),
            (DRAIN, ""),
            (PROBE, "tcp:80"),
            (PROBE, " http:80/up "),
            (PROBE, ""),
            (UPDATE_POLICY, "semver:*"),
            (TRANSACTION, "{}"),
            (ERRAND, "{}"),
            ("imagewatch", "x"),
            ("com.imagewatch.enable", "x"),
            ("image", "x"),
            ("", ""),
        ] {
            assert_eq!(check([(name, value)]), Ok(()), "{name}={value}");
        }
    }

    #[test]
    fn the_table_lists_each_label_once_with_a_description() {
        for (index, label) in LABELS.iter().enumerate() {
            assert!(label.name.starts_with(PREFIX) && label.doc.ends_with('.'), "{label:?}");
            assert!(LABELS[..index].iter().all(|other| other.name != label.name), "{label:?} is listed twice");
        }
    }

    #[test]
    fn values_with_the_same_meaning_are_equal() {
        for (name, one, other, expected) in [
            (ENABLE, "true", "True", true),
            (ENABLE, "1", "yes", true),
            (ENABLE, "true", "false", false),
            (ENABLE, "disabled", "disabled", true),
            (ENABLE, "disabled", "off", false),
            ("com.example.flag", "true", "True", false),
            (STRATEGY, "notify", "notify", true),
        ] {
            assert_eq!(means_same(name, one, other), expected, "{name}: {one} {other}");
        }
    }

    #[test]
    fn the_distance_counts_differing_letters() {
        for (one, other, expected) in [("", "", 0), ("", "abc", 3), ("kitten", "sitting", 3), ("ab", "ba", 2)] {
            assert_eq!(distance(one, other), expected, "{one} {other}");
            assert_eq!(distance(other, one), expected, "{other} {one}");
        }
    }

    proptest! {
        #[test]
        fn any_label_is_checked_without_a_panic(name in "imagewatch\\.\\PC{0,12}", value in "\\PC{0,8}") {
            let is_known = LABELS.iter().any(|label| label.name == name);
            let checked = check([(name.as_str(), value.as_str())]);
            prop_assert!(is_known || checked.is_err());
        }
    }
}
