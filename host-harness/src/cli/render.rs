//! Renders results as text: the tables of `check`, `history`, `quarantine list` and `plugin replay`, the summary of
//! `refresh`, and the description of a module.
//!
//! The functions return strings and print nothing. The strings always contain colours. The caller strips them if the
//! output does not support colours.

use std::fmt::Write as _;
use std::path::Path;

use comfy_table::{Attribute, Cell, Color, ContentArrangement, Table, presets::NOTHING};
use imagewatch_abi::{Digest, Outcome, Report, StatusKind, Verdict};
use serde::Serialize;

use super::Inspected;
use crate::daemon::status::{Event, QuarantinedDigest};
use crate::daemon::unwatched::Unwatched;
use imagewatch_base::text::{Untrusted, sanitize, sanitize_line};
use imagewatch_policy::transcript::{Decision, Replayed};
use imagewatch_policy::{Compared, RolledBack};

/// Renders the outcomes of a check: one row per outcome, then a line with totals.
pub fn check_table(outcomes: &[Outcome]) -> String {
    let mut table = plain_table(&["IMAGE", "CONTAINER", "RUNNING", "REMOTE", "VERDICT", "STATUS", "REASON"]);
    for outcome in outcomes {
        let image = outcome.reference.as_ref().map_or_else(|| outcome.target.clone(), ToString::to_string);
        table.add_row([
            line(&image),
            line(outcome.container.as_deref().unwrap_or("-")),
            Cell::new(short(outcome.running.as_ref())),
            Cell::new(short(outcome.digest.as_ref())),
            Cell::new(word_of(outcome.verdict)).fg(colour(outcome.verdict)),
            Cell::new(outcome.status.as_ref().map_or("-".to_owned(), |status| status.kind.to_string())),
            line(outcome.reason.as_deref().unwrap_or("")),
        ]);
    }
    let count = |kinds: &[StatusKind]| outcomes.iter().filter(|outcome| kinds.contains(&kind_of(outcome))).count();
    let more = |kinds: &[StatusKind], word: &str| match count(kinds) {
        0 => String::new(),
        count => format!(", {count} {word}"),
    };
    let held = more(&[StatusKind::Held, StatusKind::FailedAndRestored], "held");
    let blocked = more(&[StatusKind::Blocked], "blocked");
    let unknown = outcomes.iter().filter(|outcome| outcome.verdict == Verdict::Unknown);
    let limited = match unknown.filter_map(|outcome| outcome.until_ms).max() {
        None => String::new(),
        Some(until_ms) => format!("; the last limit ends at {}", time_of_day(until_ms)),
    };
    format!(
        "{}\n\n{} to update, {} up to date, {} unknown{held}{blocked}{limited}\n",
        text_of(table),
        count(&[StatusKind::UpdateAvailable]),
        count(&[StatusKind::UpToDate]),
        count(&[StatusKind::Unknown, StatusKind::Local])
    )
}

/// The status that the policy gave, or the status that its verdict implies.
fn kind_of(outcome: &Outcome) -> StatusKind {
    let by_verdict = || match outcome.verdict {
        Verdict::Moved => StatusKind::UpdateAvailable,
        Verdict::Unchanged => StatusKind::UpToDate,
        Verdict::Held => StatusKind::Held,
        Verdict::Pinned => StatusKind::Pinned,
        Verdict::Unused => StatusKind::NotWatched,
        _ => StatusKind::Unknown,
    };
    outcome.status.as_ref().map_or_else(by_verdict, |status| status.kind)
}

/// Renders the containers that are not watched, one per row.
pub fn unwatched_table(unwatched: &[Unwatched]) -> String {
    if unwatched.is_empty() {
        return "every container is watched\n".to_owned();
    }
    let mut table = plain_table(&["CONTAINER", "IMAGE", "MANIFEST", "NOT WATCHED BECAUSE"]);
    for Unwatched { manifest, container } in unwatched {
        table.add_row([&container.container, &container.image, manifest, &container.reason].map(|text| line(text)));
    }
    format!("\n{}\n\n{} not watched\n", text_of(table), unwatched.len())
}

/// Renders events, one per row, newest first. `now_ms` is the current time in milliseconds since 1970.
pub fn history_table(events: &[Event], now_ms: u64) -> String {
    if events.is_empty() {
        return "nothing has happened yet\n".to_owned();
    }
    let mut table = plain_table(&["AGO", "MANIFEST", "TARGET", "VERDICT", "FROM", "TO", "REASON"]);
    for Event { at_ms, manifest, outcome } in events {
        table.add_row([
            Cell::new(duration_in_words(now_ms.saturating_sub(*at_ms))),
            line(manifest),
            line(&outcome.target),
            Cell::new(word_of(outcome.verdict)).fg(colour(outcome.verdict)),
            Cell::new(short(outcome.previous.as_ref())),
            Cell::new(short(outcome.digest.as_ref())),
            line(outcome.reason.as_deref().unwrap_or("")),
        ]);
    }
    text_of(table) + "\n"
}

/// Renders where a replayed policy differs from the recorded one: one row per difference, then a line with totals.
pub fn replay_table(replayed: &Replayed, now_ms: u64) -> String {
    let mut text = String::new();
    if !replayed.differences.is_empty() {
        let mut table = plain_table(&["AGO", "CALL", "TARGET", "RECORDED", "REPLAYED", "REASON"]);
        for difference in &replayed.differences {
            let shown = |decision: &Option<Decision>| {
                decision.as_ref().map_or("-".to_owned(), |decision| {
                    format!("{} {}", word_of(decision.verdict), short(decision.digest.as_ref()))
                })
            };
            let reason = difference.replayed.as_ref().and_then(|decision| decision.reason.as_deref()).unwrap_or("");
            table.add_row([
                Cell::new(duration_in_words(now_ms.saturating_sub(difference.at_ms))),
                line(&difference.export),
                line(&difference.target),
                Cell::new(shown(&difference.recorded)),
                Cell::new(shown(&difference.replayed)).fg(Color::Yellow),
                line(reason),
            ]);
        }
        text = text_of(table) + "\n\n";
    }
    for fault in &replayed.faults {
        let _ = writeln!(text, "failed to {}", sanitize_line(fault));
    }
    let (calls, outcomes) = (replayed.calls, replayed.outcomes);
    let _ = writeln!(text, "{} of {outcomes} outcomes differ, in {calls} calls", replayed.differences.len());
    text
}

/// Renders quarantined digests, one per row. `now_ms` is the current time in milliseconds since 1970.
pub fn quarantine_table(quarantined: &[QuarantinedDigest], now_ms: u64) -> String {
    if quarantined.is_empty() {
        return "nothing is in quarantine\n".to_owned();
    }
    let mut table = plain_table(&["MANIFEST", "TARGET", "DIGEST", "FAULT", "FAILED", "TRIED AGAIN", "REASON"]);
    for QuarantinedDigest { manifest, entry } in quarantined {
        let again = match entry.until_ms {
            None => "when the tag moves, or when cleared".to_owned(),
            Some(until_ms) if until_ms <= now_ms => "at the next poll".to_owned(),
            Some(until_ms) => format!("in {}", duration_in_words(until_ms - now_ms)),
        };
        let times = if entry.count == 1 { "once,".to_owned() } else { format!("{} times,", entry.count) };
        let failed = format!("{times} {} ago", duration_in_words(now_ms.saturating_sub(entry.last_ms)));
        table.add_row([
            line(manifest),
            line(&entry.target),
            Cell::new(entry.digest.short()),
            Cell::new(entry.cause.map_or_else(|| word_of(entry.fault), word_of)).fg(Color::Red),
            Cell::new(failed),
            Cell::new(again),
            line(&entry.reason),
        ]);
    }
    text_of(table) + "\n"
}

/// Renders the digests that were removed from quarantine, one per line.
pub fn cleared_lines(cleared: &[QuarantinedDigest]) -> String {
    if cleared.is_empty() {
        return "nothing was in quarantine\n".to_owned();
    }
    let line = |QuarantinedDigest { manifest, entry }: &QuarantinedDigest| {
        let (target, manifest) = (sanitize_line(&entry.target), sanitize_line(manifest));
        format!("cleared {} of {target} ({manifest})\n", entry.digest.short())
    };
    cleared.iter().map(line).collect()
}

/// A sanitized cell for text from a policy, the engine, a container or a recording.
fn line(text: &str) -> Cell {
    Cell::new(sanitize_line(text))
}

fn plain_table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING).enforce_styling().set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(header.iter().map(|title| Cell::new(title).add_attribute(Attribute::Bold)));
    table
}

fn text_of(mut table: Table) -> String {
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let lines: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    lines.join("\n")
}

/// Formats a duration in the largest unit that gives at least 2, rounded down.
fn duration_in_words(ms: u64) -> String {
    let units = [(86_400_000, "days"), (3_600_000, "h"), (60_000, "min")];
    let largest = units.into_iter().find(|(unit_ms, _)| ms >= 2 * unit_ms);
    let (unit_ms, name) = largest.unwrap_or((1_000, "s"));
    format!("{} {name}", ms / unit_ms)
}

/// Formats a time as `14:05:09Z`. The caller shows only times that are at most hours away.
fn time_of_day(ms: u64) -> String {
    let seconds = ms / 1_000 % 86_400;
    format!("{:02}:{:02}:{:02}Z", seconds / 3_600, seconds / 60 % 60, seconds % 60)
}

fn short(digest: Option<&Digest>) -> &str {
    digest.map_or("-", Digest::short)
}

/// The name of an enum value as serde writes it in JSON.
fn word_of(value: impl Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

fn colour(verdict: Verdict) -> Color {
    match verdict {
        Verdict::Unchanged | Verdict::Committed | Verdict::Refreshed => Color::Green,
        Verdict::Moved | Verdict::Held | Verdict::Pending => Color::Yellow,
        Verdict::Unknown | Verdict::Failed | Verdict::RolledBack => Color::Red,
        Verdict::Seeded | Verdict::Pinned | Verdict::Unused => Color::DarkGrey,
    }
}

/// Renders the result of a refresh: one line for each target and each container.
pub fn refresh_summary(outcomes: &[Outcome], reports: &[Report]) -> String {
    let mut text = String::new();
    for report in reports {
        let state = match (&report.err, report.pulled) {
            (Some(failure), _) => format!("failed: {}", sanitize_line(&failure.message)),
            (None, true) => "image is up to date".to_owned(),
            (None, false) => "not pulled".to_owned(),
        };
        let _ = writeln!(text, "{}: {state}", sanitize_line(&report.target));
        for container in &report.recreated {
            let _ = writeln!(text, "  recreated {}", sanitize_line(container));
        }
        for failure in &report.failed {
            let again = if report.restored.contains(&failure.container) { "; it runs again as before" } else { "" };
            let (container, reason) = (sanitize_line(&failure.container), sanitize_line(&failure.reason));
            let _ = writeln!(text, "  failed {container}: {reason}{again}");
        }
    }
    for outcome in outcomes {
        let reason = outcome.reason.as_ref().map(|reason| format!(": {}", sanitize_line(reason))).unwrap_or_default();
        let _ = writeln!(text, "{}: {}{reason}", sanitize_line(&outcome.target), word_of(outcome.verdict));
    }
    if text.is_empty() {
        text.push_str("nothing to refresh\n");
    }
    text
}

/// Renders a module: what it declares, what it requests and what it is granted.
pub fn module_portrait(inspected: &Inspected) -> String {
    let Inspected { file, module: info, capabilities, refused, description } = inspected;
    let mut text = format!("{}\n  size     {} bytes\n  sha256   {}\n", sanitize(file), info.size_bytes, info.sha256);
    let abi = info.abi.map_or("not declared".to_owned(), |abi| abi.to_string());
    let _ = writeln!(text, "  abi      {abi}");
    let _ = writeln!(text, "  exports  {}", joined(&info.exports));
    for import in &info.imports {
        let mark = if info.foreign_imports().contains(&import) { "  <- refused" } else { "" };
        let _ = writeln!(text, "  import   {import}{mark}");
    }
    match (&info.capabilities, capabilities) {
        (None, _) => text.push_str("  asks     (it declares no capabilities)\n"),
        (Some(asked), None) => asked.wants().iter().for_each(|(what, asked)| {
            let _ = writeln!(text, "  asks     {what}: {}", need_text(asked.as_deref()));
        }),
        (Some(_), Some(compared)) => compared.iter().for_each(|line| text.push_str(&compared_lines(line))),
    }
    if let Some(reason) = refused {
        let _ = writeln!(text, "  refused  {reason}");
    }
    if let Some(description) = description {
        let _ =
            writeln!(text, "  policy   {} {}", Untrusted::new(&description.name), Untrusted::new(&description.version));
        for key in &description.config_keys {
            let _ = writeln!(text, "  config   {}: {}", Untrusted::new(&key.key), Untrusted::new(&key.doc));
        }
    }
    text
}

fn compared_lines(Compared { what, asked, granted, beyond }: &Compared) -> String {
    let mark = if beyond.is_empty() { String::new() } else { format!("  <- not granted: {}", joined(beyond)) };
    let granted = if granted.is_empty() { "none".to_owned() } else { joined(granted) };
    format!("  asks     {what}: {}{mark}\n  granted  {what}: {granted}\n", need_text(asked.as_deref()))
}

fn need_text(asked: Option<&[String]>) -> String {
    match asked {
        None => "whatever is granted".to_owned(),
        Some([]) => "none".to_owned(),
        Some(asked) => joined(asked),
    }
}

/// Joins untrusted words with spaces. Each word is sanitized.
fn joined<T: ToString>(words: &[T]) -> String {
    words.iter().map(|word| sanitize_line(&word.to_string())).collect::<Vec<_>>().join(" ")
}

/// Renders the result of a rollback.
pub fn rolled_back_line(RolledBack { manifest, manifest_file, module_file, sha256 }: &RolledBack) -> String {
    let shown = |path: &Path| sanitize(&path.display().to_string());
    let (manifest, manifest_file, module_file) = (sanitize_line(manifest), shown(manifest_file), shown(module_file));
    let sha256 = sha256.get(..12).unwrap_or(sha256);
    format!("{manifest}: restored {module_file} (sha256 {sha256}) and {manifest_file}\n")
}

#[cfg(test)]
mod tests {
    use imagewatch_abi::{ContainerFailure, Failure, NotWatched, PullCause, Status};

    use super::*;
    use crate::store::sample::quarantined;

    #[test]
    fn check_table_shows_images_digests_verdicts_and_totals() {
        let digest = |letter: &str| format!("sha256:{}", letter.repeat(64)).parse::<Digest>().ok();
        let outcome = |verdict| Outcome {
            reference: "ghcr.io/o/a:v1".parse().ok(),
            container: Some("web".to_owned()),
            running: digest("a"),
            digest: digest("b"),
            reason: Some("because".to_owned()),
            ..Outcome::new("web", verdict)
        };
        let table = check_table(&[outcome(Verdict::Moved), outcome(Verdict::Unknown)]);
        for part in [
            "ghcr.io/o/a:v1",
            "sha256:aaaaaaaaaaaa",
            "sha256:bbbbbbbbbbbb",
            "moved",
            "because",
            "1 to update, 0 up to date, 1 unknown",
        ] {
            assert!(table.contains(part), "{part} in\n{table}");
        }
        assert!(!table.contains(&"a".repeat(13)), "digests are short");
        assert!(check_table(&[outcome(Verdict::Held)]).contains("0 unknown, 1 held"));
        let with = |verdict, kind| Outcome { status: Some(Status::new(kind, "because")), ..outcome(verdict) };
        let table = check_table(&[
            with(Verdict::Moved, StatusKind::Blocked),
            with(Verdict::Moved, StatusKind::UpdateAvailable),
            with(Verdict::Held, StatusKind::FailedAndRestored),
            with(Verdict::Unknown, StatusKind::Local),
        ]);
        for part in
            ["update available", "failed and restored", "1 to update, 0 up to date, 1 unknown, 1 held, 1 blocked"]
        {
            assert!(table.contains(part), "`notify` containers do not count as to update: {part} in\n{table}");
        }
        let limited = |until_ms| Outcome { until_ms, ..outcome(Verdict::Unknown) };
        let table = check_table(&[limited(Some(50_709_000)), limited(None)]);
        assert!(table.contains("2 unknown; the last limit ends at 14:05:09Z"), "{table}");
    }

    /// Hostile text, as a container log, an engine answer or a recording may contain it.
    const FORGED: &str = "a\n2026 ERROR forged\u{1b}[2J\u{202e}b";

    #[test]
    fn s6_tables_and_summaries_sanitize_untrusted_text() {
        let forged = FORGED.to_owned();
        let outcome = Outcome {
            container: Some(forged.clone()),
            reason: Some(forged.clone()),
            ..Outcome::new(FORGED, Verdict::Failed)
        };
        let failure = ContainerFailure { container: forged.clone(), reason: forged.clone(), ..Default::default() };
        let failed = |err| Report {
            target: forged.clone(),
            recreated: vec![forged.clone()],
            failed: vec![failure.clone()],
            err,
            ..Report::default()
        };
        let err = Failure::pull(PullCause::Other, forged.clone());
        let entry = imagewatch_abi::Quarantined { reason: forged.clone(), ..quarantined(FORGED, "b", 1) };
        let quarantined = [QuarantinedDigest { manifest: forged.clone(), entry }];
        let container = NotWatched { container: forged.clone(), image: forged.clone(), reason: forged.clone() };
        for (case, shown, lines) in [
            ("a refresh", refresh_summary(&[], &[failed(Some(err)), failed(None)]), 6),
            ("a refusal to refresh", refresh_summary(std::slice::from_ref(&outcome), &[]), 1),
            ("a check", check_table(std::slice::from_ref(&outcome)), 4),
            ("the quarantine", quarantine_table(&quarantined, 0), 2),
            ("cleared digests", cleared_lines(&quarantined), 1),
            ("the history", history_table(&[Event { at_ms: 0, manifest: forged.clone(), outcome }], 0), 2),
            ("unwatched containers", unwatched_table(&[Unwatched { manifest: forged.clone(), container }]), 5),
        ] {
            let plain = anstream::adapter::strip_str(&shown).to_string();
            assert!(!plain.contains(['\u{1b}', '\u{202e}']), "{case}: {plain:?}");
            assert_eq!(plain.lines().count(), lines, "{case}: {plain}");
            assert!(plain.contains("a 2026 ERROR forged [2J b"), "{case}: {plain}");
        }
    }

    #[test]
    fn quarantine_table_shows_fault_count_and_next_attempt() {
        let entry = |until_ms, count| QuarantinedDigest {
            manifest: "apps".to_owned(),
            entry: imagewatch_abi::Quarantined { until_ms, ..quarantined("web", "b", count) },
        };
        let now_ms = 2_000 + 42 * 60_000;
        let table =
            quarantine_table(&[entry(None, 1), entry(Some(now_ms), 2), entry(Some(now_ms + 7_200_000), 3)], now_ms);
        for part in [
            "apps",
            "sha256:bbbbbbbbbbbb",
            "image",
            "once, 42 min ago",
            "2 times, 42 min ago",
            "when the tag moves, or when cleared",
            "at the next poll",
            "in 2 h",
            "web: exited with code 1",
        ] {
            assert!(table.contains(part), "{part} in\n{table}");
        }
        let mut full = entry(Some(now_ms + 3_600_000), 1);
        full.entry.cause = Some(PullCause::NoSpace);
        let table = quarantine_table(&[full], now_ms);
        assert!(table.contains("no_space") && !table.contains("image"), "the cause of a failed pull:\n{table}");
        assert_eq!(quarantine_table(&[], now_ms), "nothing is in quarantine\n");
        assert_eq!(cleared_lines(&[entry(None, 1)]), "cleared sha256:bbbbbbbbbbbb of web (apps)\n");
        assert_eq!(cleared_lines(&[]), "nothing was in quarantine\n");
    }

    #[test]
    fn durations_use_the_largest_unit_that_gives_at_least_two() {
        for (ms, words) in [
            (0, "0 s"),
            (119_999, "119 s"),
            (120_000, "2 min"),
            (7_199_999, "119 min"),
            (7_200_000, "2 h"),
            (172_799_999, "47 h"),
            (172_800_000, "2 days"),
        ] {
            assert_eq!(duration_in_words(ms), words, "{ms} ms");
        }
    }
}
