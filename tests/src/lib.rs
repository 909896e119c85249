//! What the end-to-end tests, the demo and the benches stand on: a real registry, a real engine,
//! the real program, and proxies that break the way between them.
//! Knows nothing of the host's inside; it sees the program as an operator does.
//!
//! Everything here panics when the world is not as the test needs it: in a test that is the report.
//! Nothing is ever skipped, so a missing component is a failed test that says how to get it.

#![allow(clippy::panic, clippy::unwrap_used, clippy::missing_panics_doc)]

pub mod components;
pub mod engine;
pub mod engine_events;
pub mod fake_registry;
pub mod http_client;
pub mod image;
pub mod judge;
pub mod kill;
pub mod load;
pub mod plugin_manifest;
pub mod podman;
pub mod private_engine;
pub mod prober;
pub mod process;
pub mod program;
pub mod proxy;
pub mod push;
pub mod registry;
pub mod stage;
pub mod stalled;
pub mod subject;
pub mod token_server;
pub mod unique;
pub mod wait;
