//! The imagewatch program: performs the effects that a sandboxed policy orders, as far as its manifest grants them.
//!
//! `cli` reads the command line and prints; `api` answers HTTP; `daemon` loads and watches manifests; `store` keeps what
//! outlives the process. Each may use those after it, and none before it.

pub mod api;
pub mod cli;
pub mod daemon;
pub mod store;
