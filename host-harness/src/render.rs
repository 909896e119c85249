//! Results for people, as text: the table of `check`, the summary of `refresh`, a module's portrait.
//! Makes strings; prints nothing. Colours are always in them; who prints strips them where they do not belong.

use std::fmt::Write as _;

use comfy_table::{Attribute, Cell, Color, ContentArrangement, Table, presets::NOTHING};
use imagewatch_abi::{DescribeOutput, Digest, Outcome, Report, Verdict};

use crate::plugin::ModuleInfo;

/// The outcomes of a check, a row each.
pub fn check_table(outcomes: &[Outcome]) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING).enforce_styling().set_content_arrangement(ContentArrangement::Dynamic);
    let header = ["IMAGE", "CONTAINER", "RUNNING", "REMOTE", "VERDICT", "REASON"];
    table.set_header(header.map(|title| Cell::new(title).add_attribute(Attribute::Bold)));
    for outcome in outcomes {
        let image = outcome.reference.as_ref().map_or_else(|| outcome.target.clone(), ToString::to_string);
        table.add_row([
            Cell::new(image),
            Cell::new(outcome.container.as_deref().unwrap_or("-")),
            Cell::new(short(outcome.running.as_ref())),
            Cell::new(short(outcome.digest.as_ref())),
            Cell::new(verdict_name(outcome.verdict)).fg(colour(outcome.verdict)),
            Cell::new(outcome.reason.as_deref().unwrap_or("")),
        ]);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let count = |verdict| outcomes.iter().filter(|outcome| outcome.verdict == verdict).count();
    let lines: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    format!(
        "{}\n\n{} to update, {} up to date, {} unknown\n",
        lines.join("\n"),
        count(Verdict::Moved),
        count(Verdict::Unchanged),
        count(Verdict::Unknown)
    )
}

fn short(digest: Option<&Digest>) -> &str {
    digest.map_or("-", Digest::short)
}

/// The word as it stands in JSON.
fn verdict_name(verdict: Verdict) -> String {
    serde_json::to_value(verdict).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

fn colour(verdict: Verdict) -> Color {
    match verdict {
        Verdict::Unchanged | Verdict::Committed | Verdict::Refreshed => Color::Green,
        Verdict::Moved | Verdict::Held | Verdict::Pending => Color::Yellow,
        Verdict::Unknown | Verdict::Failed | Verdict::RolledBack => Color::Red,
        Verdict::Seeded | Verdict::Pinned | Verdict::Unused => Color::DarkGrey,
    }
}

/// What a refresh did, a line for each target and container.
pub fn refresh_summary(outcomes: &[Outcome], reports: &[Report]) -> String {
    let mut text = String::new();
    for report in reports {
        let state = match (&report.err, report.pulled) {
            (Some(failure), _) => format!("failed: {}", failure.message),
            (None, true) => "image is up to date".to_owned(),
            (None, false) => "not pulled".to_owned(),
        };
        let _ = writeln!(text, "{}: {state}", report.target);
        for container in &report.recreated {
            let _ = writeln!(text, "  recreated {container}");
        }
        for failure in &report.failed {
            let again = if report.restored.contains(&failure.container) { "; it runs again as before" } else { "" };
            let _ = writeln!(text, "  failed {}: {}{again}", failure.container, failure.reason);
        }
    }
    for outcome in outcomes {
        let reason = outcome.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
        let _ = writeln!(text, "{}: {}{reason}", outcome.target, verdict_name(outcome.verdict));
    }
    if text.is_empty() {
        text.push_str("nothing to refresh\n");
    }
    text
}

/// A module and what it says of itself.
pub fn module_portrait(file: &str, info: &ModuleInfo, description: Result<&DescribeOutput, &str>) -> String {
    let mut text = format!("{file}\n  size     {} bytes\n  sha256   {}\n", info.size_bytes, info.sha256);
    let abi = info.abi.map_or("not declared".to_owned(), |abi| abi.to_string());
    let _ = writeln!(text, "  abi      {abi}");
    let _ = writeln!(text, "  exports  {}", info.exports.join(" "));
    for import in &info.imports {
        let mark = if info.foreign_imports().contains(&import.as_str()) { "  <- refused" } else { "" };
        let _ = writeln!(text, "  import   {import}{mark}");
    }
    match description {
        Err(reason) => {
            let _ = writeln!(text, "  refused  {reason}");
        }
        Ok(description) => {
            let _ = writeln!(text, "  policy   {} {}", description.name, description.version);
            for key in &description.config_keys {
                let _ = writeln!(text, "  config   {}: {}", key.key, key.doc);
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_says_what_runs_what_the_registry_has_and_why() {
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
    }
}
