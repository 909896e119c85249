//! Words for the person at the terminal. Never panics: a closed pipe (`cargo xtask test | head`) must not
//! keep the clean-up from running.

use std::io::{self, Write as _};

/// Writes one line to stderr, where cargo writes its own; a write error is ignored, see the module's doc.
pub(crate) fn write_line(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// [`write_line`] with a format string.
macro_rules! say {
    ($($argument:tt)*) => { $crate::say::write_line(&format!($($argument)*)) };
}
pub(crate) use say;
