//! The imagewatch host: does the effects that a sandboxed policy plugin orders, as far as its
//! manifest grants them. This file is the module wall; it holds no code.

pub mod admin;
pub mod app;
pub mod cli;
pub mod clock;
pub mod core_dumps;
pub mod credentials;
pub mod effects;
pub mod engine;
pub mod exit_code;
pub mod http;
pub mod memory;
pub mod orders;
pub mod panics;
pub mod plugin;
pub mod progress;
pub mod render;
pub mod repeats;
pub mod replace;
pub mod secret;
pub mod session;
pub mod state_dir;
pub mod store;
pub mod telemetry;
pub mod text;
pub mod transcript;
pub mod turns;
pub mod unwatched;
pub mod watch;
