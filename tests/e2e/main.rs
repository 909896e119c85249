//! End-to-end scenarios, one module each. They are one binary, so that they link once and run in parallel.

#![allow(clippy::panic, clippy::unwrap_used, clippy::print_stdout)]

mod admin;
mod auth;
mod bad_input;
mod boundary;
mod canary;
mod commands;
mod connection;
mod failing;
mod faults;
mod filtered;
mod first_use;
mod gate;
mod groups;
mod hostile;
mod image_facts;
mod itself;
mod killed;
mod labels;
mod limited;
mod moving;
mod oracle;
mod persisted;
mod podman;
mod pulls;
mod quarantine;
mod redirected;
mod reload;
mod restarted;
mod security;
mod services;
mod signed;
mod start_first;
mod steps;
mod support;
mod swapped;
mod systemd;
mod tags;
mod tls;

use imagewatch_tests::stage;
