//! Notes that SIGINT, SIGTERM or SIGHUP came, and sends signals to process groups. What to do about a signal is
//! decided in `process`, not here.
//!
//! std has no signal API and xtask has no dependencies, so this module declares two functions of the C library
//! that std links anyway. It is the only unsafe code here.
#![allow(unsafe_code)]

use std::sync::atomic::{AtomicI32, Ordering};

/// Hang-up: the terminal is gone.
pub(crate) const HANGUP: i32 = 1;
/// Ctrl-C.
pub(crate) const INTERRUPT: i32 = 2;
/// Ends a process at once.
pub(crate) const KILL: i32 = 9;
/// Asks a process to end.
pub(crate) const TERMINATE: i32 = 15;

/// `SIG_IGN`, the disposition that `nohup` leaves behind.
const IGNORED: usize = 1;

static RECEIVED: AtomicI32 = AtomicI32::new(0);

// SAFETY: both signatures are POSIX's, with `sighandler_t` as the pointer-sized integer it is.
unsafe extern "C" {
    fn signal(number: i32, handler: usize) -> usize;
    fn kill(process: i32, number: i32) -> i32;
}

extern "C" fn note(number: i32) {
    RECEIVED.store(number, Ordering::SeqCst);
}

/// From now on a signal is noted instead of ending xtask; whoever runs a child looks at [`received`].
pub(crate) fn listen() {
    let handler = note as extern "C" fn(i32) as usize;
    // SAFETY: the handler only stores to an atomic, which is async-signal-safe.
    unsafe {
        signal(INTERRUPT, handler);
        signal(TERMINATE, handler);
        if signal(HANGUP, handler) == IGNORED {
            signal(HANGUP, IGNORED);
        }
    }
}

/// The last signal that came, if any did.
pub(crate) fn received() -> Option<i32> {
    match RECEIVED.load(Ordering::SeqCst) {
        0 => None,
        number => Some(number),
    }
}

/// Sends a signal to a process, or with a negative number to the process group of that id.
/// False when there is no such process (any more).
pub(crate) fn send(process: i32, number: i32) -> bool {
    // SAFETY: kill takes two integers and touches no memory of ours.
    unsafe { kill(process, number) == 0 }
}
