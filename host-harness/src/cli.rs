//! The command line: its arguments, the commands that end, what they print, and their exit codes.

pub mod arguments;
pub mod core_dumps;
pub mod exit_code;
mod forget;
mod inspection;
mod oneshot;
pub mod panics;
pub mod progress;
pub mod render;
mod replay;
pub mod telemetry;

pub use forget::forget;
pub use inspection::{Inspected, inspect_module, roll_back_policy};
pub use oneshot::{Checked, ManifestFailure, Refreshed};
pub use replay::{ReplayRequest, replay};
