//! The two ways in which a verb ends early, and the shorthand for adding what was being done.

use std::fmt;

/// Why a verb stopped.
#[derive(Debug)]
pub(crate) enum Error {
    /// A step failed; the text says which and what to do next.
    Failed(String),
    /// The user (or the machine) asked us to stop, by this signal.
    Interrupted(i32),
}

/// What every step returns.
pub(crate) type Result<T> = std::result::Result<T, Error>;

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(text) => f.write_str(text),
            Self::Interrupted(signal) => write!(f, "stopped by signal {signal}"),
        }
    }
}

/// A failed step with this text.
pub(crate) fn failed<T>(text: impl Into<String>) -> Result<T> {
    Err(Error::Failed(text.into()))
}

/// Names what was attempted in front of an operating system's error.
pub(crate) trait Context<T> {
    /// Turns the error into `failed to {what}: {error}`.
    fn context(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T> Context<T> for std::io::Result<T> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| Error::Failed(format!("failed to {}: {error}", what())))
    }
}
