//! The imagewatch program. It carries out what a sandboxed policy orders, within the limits of the policy's manifest.
//!
//! - `cli` reads the command line and prints results.
//! - `api` serves the admin API over HTTP.
//! - `daemon` loads and watches manifests.
//! - `store` persists data across restarts.
//!
//! A module may use the modules that come after it in this list, but not those before it.

pub mod api;
pub mod cli;
pub mod daemon;
pub mod store;
