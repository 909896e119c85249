//! The stages of a verb: how long each took, and how it ended. A stage that is a check lets the others go on, so
//! that one run shows everything that is wrong.

use std::time::{Duration, Instant};

use crate::{
    error::{Error, Result, failed},
    say::say,
};

/// What was run so far.
pub(crate) struct Stages {
    begun: Instant,
    done: Vec<Stage>,
}

struct Stage {
    name: &'static str,
    took: Duration,
    problem: Option<String>,
}

impl Stages {
    /// No stage yet; the clock starts.
    pub(crate) fn new() -> Self {
        Self { begun: Instant::now(), done: Vec::new() }
    }

    /// Runs a stage that the later ones need: its error ends the verb.
    pub(crate) fn need<T>(&mut self, name: &'static str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        say!("\nxtask: == {name}");
        let start = Instant::now();
        let outcome = work();
        let problem = outcome.as_ref().err().map(ToString::to_string);
        self.done.push(Stage { name, took: start.elapsed(), problem });
        outcome
    }

    /// Runs a check: a failure is kept for [`finish`](Self::finish), an interruption ends the verb.
    pub(crate) fn check(&mut self, name: &'static str, work: impl FnOnce() -> Result<()>) -> Result<()> {
        match self.need(name, work) {
            Err(Error::Failed(text)) => {
                say!("xtask: {name}: {text}");
                Ok(())
            }
            other => other,
        }
    }

    /// An error when a check failed.
    pub(crate) fn finish(&self) -> Result<()> {
        let failures: Vec<_> = self.done.iter().filter(|stage| stage.problem.is_some()).map(|s| s.name).collect();
        if failures.is_empty() { Ok(()) } else { failed(format!("failed: {}", failures.join(", "))) }
    }
}

/// The summary is printed however the verb ends.
impl Drop for Stages {
    fn drop(&mut self) {
        say!("\nxtask: summary");
        for Stage { name, took, problem } in &self.done {
            let verdict = if problem.is_some() { "FAILED" } else { "ok" };
            say!("  {verdict:<6}  {:>7.1} s  {name}", took.as_secs_f64());
        }
        say!("  total   {:>7.1} s", self.begun.elapsed().as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_check_lets_the_next_run_and_fails_the_whole() {
        let mut stages = Stages::new();
        stages.check("first", || failed("no")).expect("a check goes on");
        stages.check("second", || Ok(())).expect("a check goes on");
        assert_eq!(stages.done.len(), 2);
        assert_eq!(stages.finish().expect_err("one failed").to_string(), "failed: first");
    }

    #[test]
    fn a_signal_ends_the_verb_at_once() {
        let mut stages = Stages::new();
        let outcome = stages.check("first", || Err(Error::Interrupted(2)));
        assert!(matches!(outcome, Err(Error::Interrupted(2))));
    }
}
