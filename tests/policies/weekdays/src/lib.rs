//! A policy of its own, over `imagewatch-abi` alone: watches containers whose tag is a version, and moves them to newer
//! versions of the same major, from Monday to Friday. `plugin/README.md` walks through it.
//!
//! It keeps no state: what runs tells the version, and `in_flight` what is under way. The state that it is given goes
//! back as it came, so that it can take the place of another policy for a weekend and hand over again.

pub mod day;
#[cfg(target_arch = "wasm32")]
mod guest;
pub mod policy;
pub mod version;
