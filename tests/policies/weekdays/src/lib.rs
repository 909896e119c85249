//! An independent policy that uses `imagewatch-abi` only. It watches containers whose tag is a version. It moves them
//! to newer versions of the same major, from Monday to Friday. `plugin/README.md` explains it step by step.
//!
//! It keeps no state: the running container shows the version, and `in_flight` shows the orders in progress. It returns
//! the state that it receives without changes. So it can replace another policy for a weekend, and the other policy can
//! continue afterwards.

pub mod day;
#[cfg(target_arch = "wasm32")]
mod guest;
pub mod policy;
pub mod version;
