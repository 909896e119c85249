//! Keeps this process's memory out of core dumps, because it holds credentials.

use std::io;

use rustix::process::{Resource, Rlimit, setrlimit};

/// Disables core dumps for this process and for the programs that it starts. On Linux, other processes of the same user
/// can no longer read this process's memory either.
///
/// # Errors
/// The operating system refused the change.
pub fn forbid() -> io::Result<()> {
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    // The kernel can pipe dumps to a collector such as systemd-coredump. A collector ignores the limit.
    #[cfg(target_os = "linux")]
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s7_a_crash_does_not_write_memory_to_a_file() {
        forbid().expect("a process may always lower its limits");
        let limit = rustix::process::getrlimit(Resource::Core);
        assert_eq!((limit.current, limit.maximum), (Some(0), Some(0)));
        #[cfg(target_os = "linux")]
        assert_eq!(
            rustix::process::dumpable_behavior().expect("the kernel reports it"),
            rustix::process::DumpableBehavior::NotDumpable
        );
    }
}
