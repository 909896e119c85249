//! A child process whose output is read live. It never outlives its owner. This module does not know which program it
//! runs.

use std::future::ready;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

pub use rustix::process::Signal;
use rustix::process::{Pid, kill_process};
use tempfile::TempDir;

use crate::wait::wait_for;

/// The number of output lines that are shown when a test fails.
const LAST_LINES: usize = 40;

/// A running or ended child. Dropping it kills the process by its pid and waits for its end.
#[derive(Debug)]
pub struct Process {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
    readers: [JoinHandle<()>; 2],
    _folder: Option<TempDir>,
}

impl Process {
    /// Starts `command` without input. Both outputs are collected in the order in which their lines arrive.
    pub fn start(command: Command) -> Self {
        Self::start_in(command, None)
    }

    /// Starts `command` in the same way. `folder` is removed after the process has ended and this value is dropped.
    pub fn start_in(mut command: Command, folder: Option<TempDir>) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("failed to start {command:?}: {error}"));
        let lines = Arc::default();
        let readers = [
            collect(child.stdout.take().expect("stdout is piped"), &lines),
            collect(child.stderr.take().expect("stderr is piped"), &lines),
        ];
        Self { child, lines, readers, _folder: folder }
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// All lines of both outputs so far.
    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().expect("no reader panics").clone()
    }

    /// Waits for a line that contains `pattern` and returns the first one, which may be an earlier line. Panics after
    /// `deadline` with all output.
    pub async fn wait_for_line(&self, pattern: &str, deadline: Duration) -> String {
        wait_for(&format!("a line with {pattern:?}"), deadline, || async {
            let lines = self.lines();
            lines.iter().find(|line| line.contains(pattern)).cloned().ok_or(lines)
        })
        .await
    }

    /// Sends `signal` if the process still runs.
    pub fn signal(&mut self, signal: Signal) {
        if self.exit_status().is_none() {
            kill_process(Pid::from_child(&self.child), signal).expect("a running child can be signalled");
        }
    }

    /// The exit status, or `None` while the process runs.
    pub fn exit_status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be waited for")
    }

    /// Waits for the end of the process and of its output, and returns the exit code. `None` means that a signal ended
    /// the process. Panics after `deadline`.
    pub async fn wait_exit(&mut self, deadline: Duration) -> Option<i32> {
        let status = wait_for("the process's end", deadline, || {
            let is_read = self.readers.iter().all(JoinHandle::is_finished);
            let status = self.exit_status().filter(|_| is_read);
            ready(status.ok_or_else(|| self.lines()))
        })
        .await;
        status.code()
    }

    /// Kills the process and waits for its end.
    pub fn kill(&mut self) {
        // This fails only for a process that has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    #[allow(clippy::print_stdout, reason = "the test harness shows what a failing test prints")]
    fn drop(&mut self) {
        self.kill();
        if thread::panicking() {
            // The log usually explains why the test fails.
            let lines = self.lines();
            println!(
                "the last lines of a program's output:\n{}",
                lines[lines.len().saturating_sub(LAST_LINES)..].join("\n")
            );
        }
    }
}

fn collect(output: impl Read + Send + 'static, lines: &Arc<Mutex<Vec<String>>>) -> JoinHandle<()> {
    let lines = Arc::clone(lines);
    thread::spawn(move || {
        for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
            lines.lock().expect("no reader panics").push(String::from_utf8_lossy(&line).into_owned());
        }
    })
}
