//! Support library for the end-to-end tests, the demo and the benchmarks. It provides a real registry, a real engine,
//! the real program, and proxies that disturb the connections between them.
//! The library does not depend on the host's code. It uses the program as an operator does.
//!
//! Every function panics when its environment is not as the test needs it. In a test, the panic is the report. No test
//! is ever skipped: a missing component fails the test, and the message says how to get the component.

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
