//! The wasm side of the plugin: exports, imports of host functions, the ABI section and a panic hook. This module
//! exists in wasm builds only, because the imports of extism-pdk link only there.

#![expect(unsafe_code, reason = "exports, imports and link sections of a wasm module require unsafe code")]

use std::sync::Once;

use extism_pdk::extism;
use imagewatch_core::Host;
use imagewatch_core::abi::{
    Answer, Containers, Failure, FailureCode, HttpBatch, HttpResponses, LogLine, Order, Orders, OrdersAccepted,
    Selector, exports,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Hosts read this section without running the module. build.rs keeps it through `strip`.
#[used]
#[unsafe(link_section = "imagewatch.abi")]
static ABI: [u8; 1] = *b"1";
const _: () = assert!(imagewatch_core::abi::ABI_VERSION == 1, "the section above must declare the same version");

/// The capabilities that this policy needs, in another such section. Its config and the engine determine the hosts,
/// images and containers.
const CAPABILITIES_TEXT: &str = r#"{"functions":["docker_containers","docker_refresh","host_log","http_send"],"strategies":["replace","start-first","remove","pull-only","notify"],"hosts":"any","images":"any","containers":"any"}"#;
#[used]
#[unsafe(link_section = "imagewatch.capabilities")]
static CAPABILITIES: [u8; CAPABILITIES_TEXT.len()] =
    *CAPABILITIES_TEXT.as_bytes().as_array().expect("the array has the length of the text");

// The macros of the PDK declare the same imports, but with an error type that adds 20 KB of backtraces to a module.
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

/// Runs one export with the input from Extism. Returns 0 with an output, or 1 with an error text.
fn call(export: &str) -> i32 {
    report_panics();
    // SAFETY: this follows Extism's calling convention. Every block is written before the host learns of it. The same
    // applies to all calls below.
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

/// Allocates a block in the host's memory and writes `bytes` into it.
fn write_block(bytes: &[u8]) -> u64 {
    unsafe {
        let block = extism::alloc(bytes.len() as u64);
        extism::store(block, bytes);
        block
    }
}

/// Reads what the host wrote into `block`, and frees the block. Block 0 means no data. Its length is not requested,
/// because not every host handles that request.
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
    let input = serde_json::to_vec(input).expect("types of the boundary have string keys only");
    let block = write_block(&input);
    let answer = unsafe { function(block) };
    unsafe { extism::free(block) };
    let answer = take_block(answer).unwrap_or_default();
    serde_json::from_slice(&answer).unwrap_or_else(|error| {
        Answer::Err(Failure::retryable(FailureCode::BadAnswer, format!("the host's answer cannot be read: {error}")))
    })
}

/// Reports the text of a panic to the host before the module aborts, so that the host can log the cause.
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

    fn docker_refresh(&mut self, orders: Vec<Order>) -> Answer<OrdersAccepted> {
        ask(docker_refresh, &Orders { orders })
    }

    fn log(&mut self, line: LogLine) {
        // A log line that cannot be encoded does not change a decision.
        if let Ok(line) = serde_json::to_vec(&line) {
            let block = write_block(&line);
            unsafe {
                host_log(block);
                extism::free(block);
            }
        }
    }
}
