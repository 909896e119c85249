//! Keeps what this process holds in memory, credentials above all, out of core dumps. Knows nothing of credentials.

use std::io;

use rustix::process::{Resource, Rlimit, setrlimit};

/// From now on no crash of this process, nor of a program that it starts, writes its memory to a file, and no other
/// process of this user may read it.
///
/// # Errors
/// What the system refused.
pub fn forbid() -> io::Result<()> {
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    // A collector that the kernel hands dumps to, systemd-coredump say, does not heed the limit.
    #[cfg(target_os = "linux")]
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s7_a_crash_writes_no_memory_to_a_file() {
        forbid().expect("a process may always do less");
        let limit = rustix::process::getrlimit(Resource::Core);
        assert_eq!((limit.current, limit.maximum), (Some(0), Some(0)));
        #[cfg(target_os = "linux")]
        assert_eq!(
            rustix::process::dumpable_behavior().expect("it is told"),
            rustix::process::DumpableBehavior::NotDumpable
        );
    }
}
