//! The `imagewatch.*` labels of a container: the one table of what there is, and the one parser for their values. The
//! policy and the host both use it, so that a label means the same to both.
//!
//! Nothing here is permissive: a value that cannot be read, and a label that is not in the table, are problems. A
//! container with a problem is never updated.

use crate::{Strategy, parse_duration_ms};

/// What the name of every label begins with.
pub const PREFIX: &str = "imagewatch.";

/// Opts the container in or out.
pub const ENABLE: &str = "imagewatch.enable";
/// How the container is updated.
pub const STRATEGY: &str = "imagewatch.strategy";
/// Which tag the container follows.
pub const UPDATE_POLICY: &str = "imagewatch.update-policy";
/// Which tags count.
pub const TAG_FILTER: &str = "imagewatch.tag-filter";
/// What must answer before the container counts as healthy.
pub const PROBE: &str = "imagewatch.probe";
/// How long the container must run to count as stable.
pub const STABLE_FOR: &str = "imagewatch.stable-for";
/// How long the container may take to become healthy.
pub const HEALTH_TIMEOUT: &str = "imagewatch.health-timeout";
/// With start-first, how long both containers serve.
pub const DRAIN: &str = "imagewatch.drain";
/// Containers that this one needs.
pub const DEPENDS_ON: &str = "imagewatch.depends-on";
/// A command that runs before anything is created.
pub const HOOK_PRE_CHECK: &str = "imagewatch.hook.pre-check";
/// A command that runs before the old container is stopped.
pub const HOOK_PRE_UPDATE: &str = "imagewatch.hook.pre-update";
/// A command that runs in the new container.
pub const HOOK_POST_UPDATE: &str = "imagewatch.hook.post-update";
/// How long one hook may take.
pub const HOOK_TIMEOUT: &str = "imagewatch.hook.timeout";
/// Environment variables that stay.
pub const KEEP_ENV: &str = "imagewatch.keep-env";
/// Networks whose MAC address is configured.
pub const KEEP_MAC: &str = "imagewatch.keep-mac";
/// Permits to replace a container that was created with `--rm`.
pub const ALLOW_RM: &str = "imagewatch.allow-rm";
/// Permits to lose files that were put into the container from outside.
pub const CARRY_NOTHING: &str = "imagewatch.carry-nothing";
/// Permits two containers on its volumes at the same time.
pub const SHARED_VOLUMES_SAFE: &str = "imagewatch.shared-volumes-safe";
/// Marks the container in which imagewatch itself runs.
pub const UPDATER: &str = "imagewatch.updater";
/// The transaction in whose course the container was created.
pub const TRANSACTION: &str = "imagewatch.transaction";
/// What the helper container of a self-update is for.
pub const ERRAND: &str = "imagewatch.errand";

/// How the value of a label is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// A word for yes or no, see [`parse_yes_no`].
    YesNo,
    /// The name of a [`Strategy`].
    Strategy,
    /// As [`parse_duration_ms`] reads it.
    Duration,
    /// As [`read_probe`] reads it.
    Probe,
    /// Anything; the code that uses it checks it.
    Text,
}

/// One label.
#[derive(Debug)]
pub struct Label {
    /// Its name.
    pub name: &'static str,
    /// How its value is written.
    pub form: Form,
    /// What it is for, one sentence.
    pub doc: &'static str,
    /// imagewatch writes it; an operator does not.
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
    label(ENABLE, Form::YesNo, "`true` has the container watched, `false` has it left alone."),
    label(STRATEGY, Form::Strategy, "How the container is updated; takes precedence over config key `strategy`."),
    label(UPDATE_POLICY, Form::Text, "Which tag it follows; takes precedence over config key `update_policy`."),
    label(TAG_FILTER, Form::Text, "Which tags count; takes precedence over config key `tag_filter`."),
    label(PROBE, Form::Probe, "`tcp:PORT` or `http:PORT/PATH`: what must answer before the new container is healthy."),
    label(STABLE_FOR, Form::Duration, "How long the new container must run before the update is kept."),
    label(HEALTH_TIMEOUT, Form::Duration, "How long the new container may take to become healthy."),
    label(DRAIN, Form::Duration, "With `start-first`: how long both containers serve before the old one stops."),
    label(DEPENDS_ON, Form::Text, "Names of containers, separated by commas: this one restarts with them."),
    label(HOOK_PRE_CHECK, Form::Text, "A command that runs in the old container before anything is created."),
    label(HOOK_PRE_UPDATE, Form::Text, "A command that runs in the old container before it stops."),
    label(HOOK_POST_UPDATE, Form::Text, "A command that runs in the new container once it is healthy."),
    label(HOOK_TIMEOUT, Form::Duration, "How long each hook may take."),
    label(KEEP_ENV, Form::Text, "Names of variables, separated by commas: they stay as they are."),
    label(KEEP_MAC, Form::Text, "Networks, separated by commas, on which its MAC address is a configured one."),
    label(ALLOW_RM, Form::YesNo, "`true` permits to replace it although it was created with `--rm`."),
    label(CARRY_NOTHING, Form::YesNo, "`true` permits to lose files that were put into it from outside."),
    label(SHARED_VOLUMES_SAFE, Form::YesNo, "`true` permits that two containers write to its volumes at once."),
    label(UPDATER, Form::YesNo, "`true` marks the container in which imagewatch itself runs."),
    internal(TRANSACTION, "The update in whose course the container was created."),
    internal(ERRAND, "What the helper container of a self-update is for."),
];

/// Reads a word for yes (`true`, `t`, `yes`, `y`, `on`, `1`) or no (`false`, `f`, `no`, `n`, `off`, `0`), in any letter
/// case and with blanks around it. Any other text, the empty one included, is neither.
pub fn parse_yes_no(text: &str) -> Option<bool> {
    let is_one_of = |words: &[&str]| words.iter().any(|word| text.trim().eq_ignore_ascii_case(word));
    if is_one_of(&["true", "t", "yes", "y", "on", "1"]) {
        Some(true)
    } else {
        is_one_of(&["false", "f", "no", "n", "off", "0"]).then_some(false)
    }
}

/// Reads the yes or no of label `name` with the value `text`.
///
/// # Errors
/// Names the label, its value and how to write it, a lowercase fragment. So for the readers below.
pub fn read_yes_no(name: &str, text: &str) -> Result<bool, String> {
    parse_yes_no(text).ok_or_else(|| format!("its label {name} is {}; write true or false", quoted(text)))
}

/// Reads the [`STRATEGY`] in `text`.
#[expect(clippy::missing_errors_doc, reason = "said above")]
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

/// Reads the milliseconds of label `name` with the value `text`.
#[expect(clippy::missing_errors_doc, reason = "said above")]
pub fn read_duration_ms(name: &str, text: &str) -> Result<u64, String> {
    parse_duration_ms(text.trim())
        .ok_or_else(|| format!("its label {name} is {}; write for example 30s or 5m", quoted(text)))
}

/// A question that a container must answer before it counts as healthy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// A connection to this port.
    Tcp(u16),
    /// A 2xx or 3xx answer to `GET` of this path at this port.
    Http(u16, String),
}

/// Reads the [`PROBE`] in `text`: `tcp:PORT` or `http:PORT/PATH`.
#[expect(clippy::missing_errors_doc, reason = "said above")]
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

/// Whether two values of label `name` mean the same: yes is yes however it is written.
pub fn means_same(name: &str, one: &str, other: &str) -> bool {
    let is_yes_no = LABELS.iter().any(|label| label.name == name && label.form == Form::YesNo);
    one == other || (is_yes_no && parse_yes_no(one).is_some_and(|one| parse_yes_no(other) == Some(one)))
}

/// At most so much of a label is quoted in a message: an image's author may write labels of any length.
const MAX_QUOTED_CHARS: usize = 80;

fn quoted(text: &str) -> String {
    format!("{:?}", text.chars().take(MAX_QUOTED_CHARS).collect::<String>())
}

/// The first of a container's `labels`, as names with values, that imagewatch does not know or cannot read.
///
/// # Errors
/// Names that label and what to write instead, a lowercase fragment.
pub fn check<'a>(labels: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<(), String> {
    labels.into_iter().filter(|(name, _)| is_like_ours(name)).try_for_each(|(name, value)| check_one(name, value))
}

/// Whether `name` is meant as one of imagewatch's labels.
fn is_like_ours(name: &str) -> bool {
    name.trim_start().get(..PREFIX.len()).is_some_and(|start| start.eq_ignore_ascii_case(PREFIX))
}

fn check_one(name: &str, value: &str) -> Result<(), String> {
    let Some(label) = LABELS.iter().find(|label| label.name == name) else {
        let nearest = nearest(name);
        return Err(format!("its label {} is unknown; the nearest known label is {nearest}", quoted(name)));
    };
    match label.form {
        Form::YesNo => read_yes_no(name, value).map(drop),
        // An empty value of any other form is as good as no label.
        _ if value.trim().is_empty() => Ok(()),
        Form::Strategy => read_strategy(value).map(drop),
        Form::Duration => read_duration_ms(name, value).map(drop),
        Form::Probe => read_probe(value).map(drop),
        Form::Text => Ok(()),
    }
}

/// The label for operators whose name differs from `name` in the fewest letters.
pub fn nearest(name: &str) -> &'static str {
    let name: String = name.trim().to_ascii_lowercase().chars().take(MAX_QUOTED_CHARS).collect();
    let known = LABELS.iter().filter(|label| !label.is_internal).map(|label| label.name);
    known.min_by_key(|known| distance(&name, known)).unwrap_or(ENABLE)
}

/// How many letters must be added, removed or changed to turn `one` into `other` (Levenshtein).
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
    fn f10_words_for_yes_and_no_are_read_in_any_letter_case_and_nothing_else() {
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
    fn f10_a_label_that_cannot_be_read_is_named_with_what_to_write() {
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
            ("the port of a probe", PROBE, "tcp:99999", "write tcp:PORT or http:PORT/PATH"),
            ("misspelt", "imagewatch.stratgey", "notify", "nearest known label is imagewatch.strategy"),
            ("another ending", "imagewatch.enabled", "true", "nearest known label is imagewatch.enable"),
            ("a blank behind", "imagewatch.enable ", "false", "nearest known label is imagewatch.enable"),
            ("another case", "imageWatch.Enable", "false", "nearest known label is imagewatch.enable"),
            ("an underscore", "imagewatch.allow_rm", "true", "nearest known label is imagewatch.allow-rm"),
            ("a hook", "imagewatch.pre-update", "true", "nearest known label is imagewatch.hook.pre-update"),
            ("nothing behind the dot", "imagewatch.", "true", "is unknown"),
        ] {
            let problem = check([("com.example", "x"), (name, value)]).expect_err(case);
            assert!(problem.contains(part), "{case}: {problem}");
        }
    }

    #[test]
    fn labels_that_can_be_read_and_labels_of_others_are_no_problem() {
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
    fn the_table_names_each_label_once_and_says_what_it_is_for() {
        for (index, label) in LABELS.iter().enumerate() {
            assert!(label.name.starts_with(PREFIX) && label.doc.ends_with('.'), "{label:?}");
            assert!(LABELS[..index].iter().all(|other| other.name != label.name), "{label:?} is there twice");
        }
    }

    #[test]
    fn values_mean_the_same_where_they_say_the_same() {
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
    fn a_distance_counts_the_letters_that_differ() {
        for (one, other, expected) in [("", "", 0), ("", "abc", 3), ("kitten", "sitting", 3), ("ab", "ba", 2)] {
            assert_eq!(distance(one, other), expected, "{one} {other}");
            assert_eq!(distance(other, one), expected, "{other} {one}");
        }
    }

    proptest! {
        #[test]
        fn whatever_a_label_is_it_is_read_without_a_panic(name in "imagewatch\\.\\PC{0,12}", value in "\\PC{0,8}") {
            let is_known = LABELS.iter().any(|label| label.name == name);
            let checked = check([(name.as_str(), value.as_str())]);
            prop_assert!(is_known || checked.is_err());
        }
    }
}
