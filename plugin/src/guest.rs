//! The wasm side: exports, host-function imports, the ABI section, and a panic hook.
//! Natively none of it exists, since extism-pdk's imports link only in a wasm module.

#![expect(unsafe_code, reason = "exports, imports and link sections of a wasm module are unsafe by nature")]

use std::sync::Once;

use extism_pdk::extism;
use imagewatch_core::Host;
use imagewatch_core::abi::{
    Answer, Containers, Failure, FailureCode, HttpBatch, HttpResponses, LogLine, Order, Orders, Placed, Selector,
    exports,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Read by hosts without running the module; kept through `strip` by build.rs.
#[used]
#[unsafe(link_section = "imagewatch.abi")]
static ABI: [u8; 1] = *b"1";
const _: () = assert!(imagewatch_core::abi::ABI_VERSION == 1, "the section above says the same");

/// What this policy needs, likewise: hosts, images and containers are what its config and the engine name.
const CAPABILITIES_TEXT: &str = r#"{"functions":["docker_containers","docker_refresh","host_log","http_send"],"strategies":["replace","start-first","remove","pull-only","notify"],"hosts":"any","images":"any","containers":"any"}"#;
#[used]
#[unsafe(link_section = "imagewatch.capabilities")]
static CAPABILITIES: [u8; CAPABILITIES_TEXT.len()] =
    *CAPABILITIES_TEXT.as_bytes().as_array().expect("it has its length");

// The PDK's macros do the same with an error type whose backtraces are 20 KB of a module.
#[link(wasm_import_module = "extism:host/user")]
unsafe extern "C" {
    fn http_send(batch: u64) -> u64;
    fn docker_containers(selector: u64) -> u64;
    fn docker_refresh(orders: u64) -> u64;
    fn host_log(line: u64);
}

#[unsafe(no_mangle)]
extern "C" fn describe() -> i32 {
    call(exports::DESCRIBE)
}

#[unsafe(no_mangle)]
extern "C" fn poll() -> i32 {
    call(exports::POLL)
}

#[unsafe(no_mangle)]
extern "C" fn settle() -> i32 {
    call(exports::SETTLE)
}

#[unsafe(no_mangle)]
extern "C" fn refresh() -> i32 {
    call(exports::REFRESH)
}

/// Runs one export between Extism's input and output; 1 with an error text when there is no output.
fn call(export: &str) -> i32 {
    report_panics();
    // SAFETY: Extism's calling convention; every block is written before the host is told of it. So for all below.
    let input = unsafe { extism::load_input() };
    match imagewatch_core::call(export, &input, &mut Guest) {
        Ok(output) => {
            unsafe { extism::output_set(write_block(&output), output.len() as u64) };
            0
        }
        Err(message) => {
            unsafe { extism::error_set(write_block(message.as_bytes())) };
            1
        }
    }
}

/// A new block of the host's memory with `bytes`.
fn write_block(bytes: &[u8]) -> u64 {
    unsafe {
        let block = extism::alloc(bytes.len() as u64);
        extism::store(block, bytes);
        block
    }
}

/// What the host wrote into `block`, which is given back. Block 0 is none; not every host knows that it has no length.
fn take_block(block: u64) -> Option<Vec<u8>> {
    if block == 0 {
        return None;
    }
    let length = unsafe { extism::length(block) };
    if length == 0 {
        return None;
    }
    let mut bytes = vec![0; usize::try_from(length).ok()?];
    unsafe {
        extism::load(block, &mut bytes);
        extism::free(block);
    }
    Some(bytes)
}

/// Calls a host function with `input` as JSON.
fn ask<T: DeserializeOwned>(function: unsafe extern "C" fn(u64) -> u64, input: &impl Serialize) -> Answer<T> {
    let input = serde_json::to_vec(input).expect("what crosses the boundary has string keys only");
    let block = write_block(&input);
    let answer = unsafe { function(block) };
    unsafe { extism::free(block) };
    let answer = take_block(answer).unwrap_or_default();
    serde_json::from_slice(&answer).unwrap_or_else(|error| {
        Answer::Err(Failure::passing(FailureCode::BadAnswer, format!("the host's answer cannot be read: {error}")))
    })
}

/// Hands a panic's text to the host before the module aborts, so that a bug says what it was.
fn report_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        std::panic::set_hook(Box::new(|info| {
            unsafe { extism::error_set(write_block(format!("policy panicked: {info}").as_bytes())) };
        }));
    });
}

struct Guest;

impl Host for Guest {
    fn config(&self, key: &str) -> Option<String> {
        let block = write_block(key.as_bytes());
        let value = unsafe { extism::config_get(block) };
        unsafe { extism::free(block) };
        take_block(value).and_then(|value| String::from_utf8(value).ok())
    }

    fn http_send(&mut self, batch: HttpBatch) -> Answer<HttpResponses> {
        ask(http_send, &batch)
    }

    fn docker_containers(&mut self, selector: Selector) -> Answer<Containers> {
        ask(docker_containers, &selector)
    }

    fn docker_refresh(&mut self, orders: Vec<Order>) -> Answer<Placed> {
        ask(docker_refresh, &Orders { orders })
    }

    fn log(&mut self, line: LogLine) {
        // A line that cannot be written is no reason to decide otherwise.
        if let Ok(line) = serde_json::to_vec(&line) {
            let block = write_block(&line);
            unsafe {
                host_log(block);
                extism::free(block);
            }
        }
    }
}
