//! Whether this program panicked. A panic ends a task and not the process, so the exit code must tell of it.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::cli::exit_code::Exit;

static HAS_PANICKED: AtomicBool = AtomicBool::new(false);

/// From now on every panic, of any thread and whether it is caught or not, is noted for [`exit_after`].
pub fn note_all() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        HAS_PANICKED.store(true, Ordering::Relaxed);
        report(panic);
    }));
}

/// `exit`, but no success after a panic.
pub fn exit_after(exit: Exit) -> Exit {
    match exit {
        Exit::Success if HAS_PANICKED.load(Ordering::Relaxed) => Exit::Panicked,
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s9_a_panic_of_any_thread_is_no_success() {
        note_all();
        std::thread::spawn(|| panic!("noted, by a test")).join().expect_err("it panics");
        assert_eq!(exit_after(Exit::Success), Exit::Panicked);
        assert_eq!(exit_after(Exit::Engine), Exit::Engine);
    }
}
