//! End-to-end scenarios, one module each, in one binary: they share one link and run side by side.

#![allow(clippy::panic, clippy::unwrap_used, clippy::print_stdout)]

mod admin;
mod auth;
mod bad_input;
mod boundary;
mod commands;
mod failing;
mod faults;
mod itself;
mod killed;
mod moving;
mod quarantine;
mod restarted;
mod stage;
mod support;
