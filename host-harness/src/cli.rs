//! The command line: arguments, one-shot commands, their output, and exit codes.

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
pub use oneshot::{CheckResult, ManifestFailure, RefreshSummary};
pub use replay::{ReplayRequest, replay};
