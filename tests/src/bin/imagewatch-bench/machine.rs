//! Describes the machine of the measurements.

use std::{env, fs, thread};

/// One line with the processor, the cores, the memory, and the compiler of this executable.
pub(crate) fn describe() -> String {
    let cores = thread::available_parallelism().map_or(0, usize::from);
    let processor = field("/proc/cpuinfo", "model name").unwrap_or_else(|| env::consts::ARCH.to_owned());
    let memory = field("/proc/meminfo", "MemTotal").unwrap_or_default();
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or_default();
    let build = if cfg!(debug_assertions) { "debug" } else { "release" };
    format!("{cores} cores of {processor}, {memory}, load {load}; {build} build by {}", compiler())
}

/// The value of `name` in a file of `name: value` lines, as in `/proc`.
pub(crate) fn field(path: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.trim_start().strip_prefix(':'))?;
    Some(value.trim().to_owned())
}

/// The version that rustc writes into its output. The rustc on `PATH` may be a different one.
fn compiler() -> String {
    const MARK: &[u8] = b"rustc version ";
    let own = env::current_exe().and_then(fs::read).unwrap_or_default();
    // The mark is also in this program's constants. In the section, a version follows it.
    let is_version = |bytes: &&[u8]| bytes.starts_with(MARK) && bytes.get(MARK.len()).is_some_and(u8::is_ascii_digit);
    let found = own.windows(48).find(is_version).map(|bytes| {
        let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
        String::from_utf8_lossy(&bytes[..end]).replace(" version", "")
    });
    found.unwrap_or_else(|| "an unknown rustc".to_owned())
}
