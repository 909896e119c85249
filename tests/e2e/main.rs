//! End-to-end scenarios, one module each, in one binary: they share one link and run side by side.

#![allow(clippy::panic, clippy::unwrap_used, clippy::print_stdout)]

mod admin;
mod auth;
mod bad_input;
mod boundary;
mod commands;
mod failing;
mod faults;
mod gate;
mod groups;
mod itself;
mod killed;
mod moving;
mod oracle;
mod podman;
mod quarantine;
mod restarted;
mod start_first;
mod steps;
mod support;
mod systemd;

use imagewatch_tests::stage;
