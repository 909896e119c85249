//! The decisions of imagewatch: what is watched, how the registry is asked, whether a digest
//! moved, whether it is barred, and whether a move is kept or rolled back.
//!
//! Pure: no clock (`now_ms` is an argument), no I/O but through [`Host`], no environment, no
//! randomness, no async. The same input and the same answers of the host give the same bytes out,
//! so a tick can be replayed from its recording.
//!
//! [`call`] is the whole contract: a wasm module exports it, tests drive it with a scripted host.

mod config;
mod describe;
mod gate;
mod group;
mod poll;
mod refresh;
mod registry;
mod running;
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
    Answer, Containers, Failure, HttpBatch, HttpResponses, LogLevel, LogLine, Order, Placed, Selector, exports,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// `#[test]`, natively and under Node: the decisions are to be the same in wasm.
#[cfg(all(test, not(target_arch = "wasm32")))]
use core::prelude::v1::test as any_test;
#[cfg(all(test, target_arch = "wasm32"))]
use wasm_bindgen_test::wasm_bindgen_test as any_test;

pub use config::KEYS;
pub use imagewatch_abi as abi;

/// What a policy may ask of the world: the host functions of the boundary.
/// Every expected failure comes back as data; an implementation never panics for one.
pub trait Host {
    /// The manifest's value for `key`.
    fn config(&self, key: &str) -> Option<String>;
    /// Sends a batch of requests.
    fn http_send(&mut self, batch: HttpBatch) -> Answer<HttpResponses>;
    /// Lists containers.
    fn docker_containers(&mut self, selector: Selector) -> Answer<Containers>;
    /// Orders refreshes.
    fn docker_refresh(&mut self, orders: Vec<Order>) -> Answer<Placed>;
    /// Logs a line.
    fn log(&mut self, line: LogLine);
}

/// Runs one export: `input` and the result are JSON as [`imagewatch_abi`] has it.
///
/// # Errors
/// A text for people when `export` is none of [`exports::ALL`] or `input` is not its input. All
/// that is expected to go wrong is in the output instead.
pub fn call(export: &str, input: &[u8], host: &mut dyn Host) -> Result<Vec<u8>, String> {
    match export {
        exports::DESCRIBE => encode(&describe::describe(host)),
        exports::POLL => encode(&poll::poll(host, decode(export, input)?)),
        exports::SETTLE => encode(&settle::settle(host, decode(export, input)?)),
        exports::REFRESH => encode(&refresh::refresh(host, &decode(export, input)?)),
        _ => Err(format!("no export {export:?}; there are {}", exports::ALL.join(", "))),
    }
}

fn decode<T: DeserializeOwned>(export: &str, input: &[u8]) -> Result<T, String> {
    serde_json::from_slice(input).map_err(|error| format!("input of {export} is not what it takes: {error}"))
}

fn encode<T: Serialize>(output: &T) -> Result<Vec<u8>, String> {
    serde_json::to_vec(output).map_err(|error| format!("could not write the output: {error}"))
}

/// Logs `message` for people at `level`.
fn log(host: &mut dyn Host, level: LogLevel, message: String) {
    host.log(LogLine { level, message });
}

/// A set or map of `items`, which come mostly sorted. Not `collect`: that sorts them first, and each type's
/// sort adds some 5 KB to the module.
fn gather<C: Default + Extend<T>, T>(items: impl IntoIterator<Item = T>) -> C {
    let mut gathered = C::default();
    gathered.extend(items);
    gathered
}

/// Puts `what` before a failure's message.
fn context(what: &str, failure: Failure) -> Failure {
    Failure { message: format!("{what}: {}", failure.message), ..failure }
}
