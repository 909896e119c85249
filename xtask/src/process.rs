//! Children: every long one runs in a process group of its own, so that it can be ended with all that it started,
//! whether it finished, failed, or the user pressed Ctrl-C. Quick questions to a tool go through [`capture`].

use std::{
    ffi::OsStr,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use crate::{
    error::{Context as _, Error, Result, failed},
    say::say,
    signals,
};

/// How long a child may take to end after it got the signal.
const GRACE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(20);

/// Runs a child to its end, its output going where ours goes. Fails when it fails, with the command in the text.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    check_interrupt()?;
    let line = command_line(command);
    say!("xtask: $ {line}");
    let child = command.stdin(Stdio::null()).process_group(0).spawn().context(|| format!("start {line}"))?;
    let status = Group::of(child, &line).wait()?;
    if status.success() { Ok(()) } else { failed(format!("`{line}` ended with {status}")) }
}

/// Runs a short command and returns its standard output; `None` when it cannot be started or fails.
pub(crate) fn capture(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Waits until `done` answers, the deadline passes (`None`), or a signal comes.
pub(crate) fn wait_until<T>(deadline: Duration, mut done: impl FnMut() -> Result<Option<T>>) -> Result<Option<T>> {
    let start = Instant::now();
    loop {
        if let Some(answer) = done()? {
            return Ok(Some(answer));
        }
        check_interrupt()?;
        if start.elapsed() > deadline {
            return Ok(None);
        }
        std::thread::sleep(POLL);
    }
}

/// Like [`wait_until`], for clean-up: a signal does not cut it short. True when `done` came true in time.
pub(crate) fn wait_to_clean(deadline: Duration, mut done: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    while !done() {
        if start.elapsed() > deadline {
            return false;
        }
        std::thread::sleep(POLL);
    }
    true
}

/// An error once a signal has come: nothing new is started then.
pub(crate) fn check_interrupt() -> Result<()> {
    signals::received().map_or(Ok(()), |signal| Err(Error::Interrupted(signal)))
}

/// The path of a program, looked for on PATH and then where Debian keeps root's tools.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    find_program_on(name, &std::env::var_os("PATH").unwrap_or_default())
}

/// The same on another search path.
pub(crate) fn find_program_on(name: &str, path: &OsStr) -> Option<PathBuf> {
    let root_tools = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(path).chain(root_tools).map(|folder| folder.join(name)).find(|file| is_executable(file))
}

fn is_executable(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    file.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// A child and everything in its process group; dropping it ends what is left of them.
struct Group<'a> {
    child: Child,
    line: &'a str,
}

impl<'a> Group<'a> {
    fn of(child: Child, line: &'a str) -> Self {
        Self { child, line }
    }

    fn wait(mut self) -> Result<ExitStatus> {
        loop {
            if let Some(status) = self.child.try_wait().context(|| format!("wait for {}", self.line))? {
                check_interrupt()?;
                return Ok(status);
            }
            if let Some(signal) = signals::received() {
                say!("xtask: signal {signal}, stopping `{}`", self.line);
                self.signal(signal);
                wait_to_clean(GRACE, || self.is_gone());
                return Err(Error::Interrupted(signal));
            }
            std::thread::sleep(POLL);
        }
    }

    fn signal(&self, number: i32) -> bool {
        // A process id fits: Linux's limit is 2^22.
        let group = i32::try_from(self.child.id()).expect("process ids are below 2^22");
        signals::send(-group, number)
    }

    /// Whether the whole group has ended. Reaps the child, or its zombie would count as alive.
    fn is_gone(&mut self) -> bool {
        let _ = self.child.try_wait();
        !self.signal(0)
    }
}

impl Drop for Group<'_> {
    fn drop(&mut self) {
        if self.is_gone() {
            return;
        }
        say!("xtask: `{}` left processes behind, killing its process group", self.line);
        self.signal(signals::KILL);
        wait_to_clean(GRACE, || self.is_gone());
    }
}

/// The command as one would type it, without its environment.
fn command_line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_that_fails_is_named_with_its_command() {
        let error = run(Command::new("sh").args(["-c", "exit 3"])).expect_err("it exits with 3");
        assert_eq!(error.to_string(), "`sh -c exit 3` ended with exit status: 3");
    }

    #[test]
    fn what_a_child_leaves_running_is_ended_with_it() {
        let note = std::env::temp_dir().join(format!("xtask-left-{}", std::process::id()));
        let script = format!("sleep 600 & echo $! > {}", note.display());
        run(Command::new("sh").args(["-c", &script])).expect("the shell itself succeeds");
        let left: u32 = std::fs::read_to_string(&note).expect("the shell wrote it").trim().parse().expect("a pid");
        std::fs::remove_file(&note).expect("it is ours");
        // A zombie has ended: whoever inherited it may never reap it.
        let has_ended = || std::fs::read_to_string(format!("/proc/{left}/stat")).map_or(true, |s| s.contains(") Z "));
        assert!(wait_to_clean(GRACE, has_ended), "process {left} still runs");
    }

    #[test]
    fn a_program_is_found_by_name_and_a_missing_one_is_not() {
        assert!(find_program("sh").is_some());
        assert!(find_program("no-such-program-anywhere").is_none());
    }
}
