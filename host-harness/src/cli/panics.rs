//! Records whether this program panicked. A panic ends a task but not the process, so the exit code must report it.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::cli::exit_code::Exit;

static HAS_PANICKED: AtomicBool = AtomicBool::new(false);

/// Installs a panic hook that records every later panic for [`exit_after`], in any thread, even if it is caught.
pub fn note_all() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        HAS_PANICKED.store(true, Ordering::Relaxed);
        report(panic);
    }));
}

/// Returns `exit`, but replaces a success by [`Exit::Panicked`] if the program has panicked.
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
    fn s9_a_panic_in_any_thread_prevents_exit_code_0() {
        note_all();
        std::thread::spawn(|| panic!("a panic of this test")).join().expect_err("it panics");
        assert_eq!(exit_after(Exit::Success), Exit::Panicked);
        assert_eq!(exit_after(Exit::Engine), Exit::Engine);
    }
}
