//! The decisions of imagewatch: which containers it watches, how it queries the registry, whether a digest moved,
//! whether a digest is quarantined, and whether a move is committed or rolled back.
//!
//! The crate is deterministic. It has no clock (`now_ms` is an argument), no environment, no randomness and no async
//! code. All I/O goes through [`Host`]. The same input and the same answers of the host always produce the same output
//! bytes, so that a recording of a tick can be replayed.
//!
//! [`call`] is the whole interface: a wasm module exports it, and tests drive it with a scripted host.

mod config;
mod describe;
mod gate;
mod group;
mod image_match;
mod poll;
mod refresh;
mod registry;
mod settle;
mod state;
mod status;
mod target;
mod update;

#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
#[cfg(any(test, feature = "script"))]
pub mod script;

use imagewatch_abi::{
    Answer, Containers, Failure, HttpBatch, HttpResponses, LogLevel, LogLine, Order, OrdersAccepted, Selector, exports,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// `#[test]` natively, and its counterpart under Node: the decisions must be the same in wasm.
#[cfg(all(test, not(target_arch = "wasm32")))]
use core::prelude::v1::test as any_test;
#[cfg(all(test, target_arch = "wasm32"))]
use wasm_bindgen_test::wasm_bindgen_test as any_test;

pub use config::KEYS;
pub use imagewatch_abi as abi;

/// The host functions that a policy can call. Expected failures are returned as data; an implementation does not panic
/// for them.
pub trait Host {
    /// The value of `key` in the manifest's config.
    fn config(&self, key: &str) -> Option<String>;
    /// Sends a batch of requests.
    fn http_send(&mut self, batch: HttpBatch) -> Answer<HttpResponses>;
    /// Lists the containers that match the selector.
    fn docker_containers(&mut self, selector: Selector) -> Answer<Containers>;
    /// Places orders to refresh containers.
    fn docker_refresh(&mut self, orders: Vec<Order>) -> Answer<OrdersAccepted>;
    /// Writes a line to the host's log.
    fn log(&mut self, line: LogLine);
}

/// Runs one export. `input` and the result are JSON, with the types of [`imagewatch_abi`].
///
/// # Errors
/// A message if `export` is not one of [`exports::ALL`], or if `input` is not valid for it. All expected failures are
/// part of the output instead.
pub fn call(export: &str, input: &[u8], host: &mut dyn Host) -> Result<Vec<u8>, String> {
    match export {
        exports::DESCRIBE => encode(&describe::describe(host)),
        exports::POLL => encode(&poll::poll(host, decode(export, input)?)),
        exports::SETTLE => encode(&settle::settle(host, decode(export, input)?)),
        exports::REFRESH => encode(&refresh::refresh(host, &decode(export, input)?)),
        _ => Err(format!("unknown export {export:?}; the exports are {}", exports::ALL.join(", "))),
    }
}

fn decode<T: DeserializeOwned>(export: &str, input: &[u8]) -> Result<T, String> {
    serde_json::from_slice(input).map_err(|error| format!("invalid input for {export}: {error}"))
}

fn encode<T: Serialize>(output: &T) -> Result<Vec<u8>, String> {
    serde_json::to_vec(output).map_err(|error| format!("failed to encode the output: {error}"))
}

fn log(host: &mut dyn Host, level: LogLevel, message: String) {
    host.log(LogLine { level, message });
}

/// Prefixes the message of `failure` with `what`.
fn context(what: &str, failure: Failure) -> Failure {
    Failure { message: format!("{what}: {}", failure.message), ..failure }
}
