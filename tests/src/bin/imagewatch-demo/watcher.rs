//! The program under demonstration, its log shown live. Its debug lines are not shown: they are there to count ticks.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use imagewatch_tests::process::{Process, Signal};
use imagewatch_tests::program::{STATE_DIR, start_imagewatch};
use tokio::time::sleep;

use crate::screen;

/// For what takes a tick and some work of the engine.
const SOON: Duration = Duration::from_secs(30);
/// Prompt enough that the clock beside a log line is the line's own.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// What each call of the policy says of itself.
const CALL: &str = " DEBUG policy called ";

/// A running `imagewatch run`; dropping it kills it, and shows its whole log if the demo is failing.
#[derive(Debug)]
pub(crate) struct Watcher {
    process: Process,
    shown: Cell<usize>,
}

impl Watcher {
    /// Starts it with `manifest` against the engine at `docker_host`; it keeps its state in `state`.
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

    /// Shows the log until two more ticks are over.
    pub(crate) async fn wait_for_two_more_ticks(&self) {
        let wanted = self.ticks() + 2;
        self.wait_until("two more ticks", || (self.ticks() >= wanted).then_some(())).await;
    }

    /// Shows the log until `done` answers.
    pub(crate) async fn wait_until<T>(&self, what: &str, mut done: impl FnMut() -> Option<T>) -> T {
        let deadline = Instant::now() + SOON;
        loop {
            let answer = done();
            self.show_news();
            if let Some(answer) = answer {
                return answer;
            }
            assert!(Instant::now() < deadline, "waited {SOON:?} for {what}");
            sleep(LOOK_EVERY).await;
        }
    }

    /// Asks it to end with SIGTERM, waits for that, and returns its exit code; `None` means that a signal ended it.
    pub(crate) async fn stop(&mut self) -> Option<i32> {
        self.process.signal(Signal::TERM);
        let code = self.process.wait_exit(SOON).await;
        self.show_news();
        code
    }

    /// How many ticks it has done.
    pub(crate) fn ticks(&self) -> usize {
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
            anstream::eprintln!("\nthe whole log of imagewatch:\n{}", self.process.lines().join("\n"));
        }
    }
}

/// The line as the program wrote it, less the date and time in front: the demo's clock stands there.
fn without_date(line: &str) -> &str {
    line.split_once("Z ").map_or(line, |(_, rest)| rest.trim_start())
}

/// Runs `imagewatch` with `args` beside the one whose state is in `state`, to its end, and returns what it printed; panics
/// unless it succeeds.
pub(crate) async fn run_to_end(docker_host: &str, args: &[PathBuf], state: &Path) -> Vec<String> {
    let mut process = start_imagewatch(docker_host, args, &[state_dir(state)]);
    let code = process.wait_exit(SOON).await;
    let lines = process.lines();
    assert_eq!(code, Some(0), "the exit code of `imagewatch` with {args:?}, which printed {lines:#?}");
    lines
}

fn state_dir(folder: &Path) -> (&'static str, &str) {
    (STATE_DIR, folder.to_str().expect("the temp folder's name is text"))
}
