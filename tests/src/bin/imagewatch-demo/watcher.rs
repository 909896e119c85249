//! The program under demonstration, with its log shown live. The debug lines only serve to count polls and are hidden.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use imagewatch_tests::process::{Process, Signal};
use imagewatch_tests::program::{STATE_DIR, start_imagewatch};
use tokio::time::sleep;

use crate::screen;

/// The timeout for events that take a poll and some work of the engine.
const SHORT_TIMEOUT: Duration = Duration::from_secs(30);
/// Short enough that the clock next to a log line shows the time of that line.
const POLL_INTERVAL: Duration = Duration::from_millis(5);
/// The log line of each policy call.
const CALL: &str = " DEBUG policy called ";

/// A running `imagewatch run`. Dropping it kills it, and shows its complete log if the demo fails.
#[derive(Debug)]
pub(crate) struct Watcher {
    process: Process,
    shown: Cell<usize>,
}

impl Watcher {
    /// Starts imagewatch with `manifest` against the engine at `docker_host`. The state folder is `state`.
    pub(crate) fn start(docker_host: &str, manifest: &Path, state: &Path) -> Self {
        let args = ["run", "--admin-listen", "off"].map(Path::new);
        let envs = [("IMAGEWATCH_LOG", "info,imagewatch::daemon::session=debug"), state_dir(state)];
        let process = start_imagewatch(docker_host, args.into_iter().chain([manifest]), &envs);
        Self { process, shown: Cell::new(0) }
    }

    /// Shows the log until a line contains `pattern`.
    pub(crate) async fn wait_for_line(&self, pattern: &str) {
        let has_line = || self.process.lines().iter().any(|line| line.contains(pattern)).then_some(());
        self.wait_until(&format!("a log line with {pattern:?}"), has_line).await;
    }

    /// Shows the log until two more polls are complete.
    pub(crate) async fn wait_for_two_more_polls(&self) {
        let wanted = self.polls() + 2;
        self.wait_until("two more polls", || (self.polls() >= wanted).then_some(())).await;
    }

    /// Shows the log until `done` returns a value.
    pub(crate) async fn wait_until<T>(&self, what: &str, mut done: impl FnMut() -> Option<T>) -> T {
        let deadline = Instant::now() + SHORT_TIMEOUT;
        loop {
            let answer = done();
            self.show_news();
            if let Some(answer) = answer {
                return answer;
            }
            assert!(Instant::now() < deadline, "waited {SHORT_TIMEOUT:?} for {what}");
            sleep(POLL_INTERVAL).await;
        }
    }

    /// Sends SIGTERM, waits for the exit, and returns the exit code. `None` means that a signal ended the program.
    pub(crate) async fn stop(&mut self) -> Option<i32> {
        self.process.signal(Signal::TERM);
        let code = self.process.wait_exit(SHORT_TIMEOUT).await;
        self.show_news();
        code
    }

    /// The number of completed polls.
    pub(crate) fn polls(&self) -> usize {
        let is_tick = |line: &&String| line.contains(CALL) && line.contains(r#"export="poll""#);
        self.process.lines().iter().filter(is_tick).count()
    }

    fn show_news(&self) {
        let lines = self.process.lines();
        for line in &lines[self.shown.replace(lines.len())..] {
            if !line.contains(CALL) {
                screen::log(without_date(line));
            }
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        if std::thread::panicking() {
            anstream::eprintln!("\nthe complete log of imagewatch:\n{}", self.process.lines().join("\n"));
        }
    }
}

/// Removes the date and time at the start of a log line. The demo shows its own clock there.
fn without_date(line: &str) -> &str {
    line.split_once("Z ").map_or(line, |(_, rest)| rest.trim_start())
}

/// Runs `imagewatch` with `args` to its end and returns its output. `state` is the state folder of the running program.
/// Panics unless the command succeeds.
pub(crate) async fn run_to_end(docker_host: &str, args: &[PathBuf], state: &Path) -> Vec<String> {
    let mut process = start_imagewatch(docker_host, args, &[state_dir(state)]);
    let code = process.wait_exit(SHORT_TIMEOUT).await;
    let lines = process.lines();
    assert_eq!(code, Some(0), "the exit code of `imagewatch` with {args:?}, which printed {lines:#?}");
    lines
}

fn state_dir(folder: &Path) -> (&'static str, &str) {
    (STATE_DIR, folder.to_str().expect("the temp folder's name is text"))
}
