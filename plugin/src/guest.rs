//! The wasm side: exports, host-function imports, the ABI section, and a panic hook.
//! Natively none of it exists, since extism-pdk's imports link only in a wasm module.

#![expect(unsafe_code, reason = "exports, imports and link sections of a wasm module are unsafe by nature")]

use std::sync::Once;

use extism_pdk::{FnResult, Json, WithReturnCode, config, host_fn, plugin_fn};
use imagewatch_core::Host;
use imagewatch_core::abi::{
    Answer, Containers, Failure, FailureCode, HttpBatch, HttpResponses, LogLine, Order, Orders, Placed, Selector,
    exports,
};

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

#[host_fn]
extern "ExtismHost" {
    fn http_send(batch: Json<HttpBatch>) -> Json<Answer<HttpResponses>>;
    fn docker_containers(selector: Json<Selector>) -> Json<Answer<Containers>>;
    fn docker_refresh(orders: Json<Orders>) -> Json<Answer<Placed>>;
    fn host_log(line: Json<LogLine>);
}

#[plugin_fn]
pub fn describe(input: Vec<u8>) -> FnResult<Vec<u8>> {
    call(exports::DESCRIBE, &input)
}

#[plugin_fn]
pub fn poll(input: Vec<u8>) -> FnResult<Vec<u8>> {
    call(exports::POLL, &input)
}

#[plugin_fn]
pub fn settle(input: Vec<u8>) -> FnResult<Vec<u8>> {
    call(exports::SETTLE, &input)
}

#[plugin_fn]
pub fn refresh(input: Vec<u8>) -> FnResult<Vec<u8>> {
    call(exports::REFRESH, &input)
}

fn call(export: &str, input: &[u8]) -> FnResult<Vec<u8>> {
    report_panics();
    imagewatch_core::call(export, input, &mut Guest)
        .map_err(|message| WithReturnCode::new(extism_pdk::Error::msg(message), 1))
}

/// Hands a panic's text to the host before the module aborts, so that a bug says what it was.
fn report_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        std::panic::set_hook(Box::new(|info| {
            if let Ok(memory) = extism_pdk::Memory::from_bytes(format!("policy panicked: {info}")) {
                // SAFETY: the offset is that of a live block, which the host reads after the trap.
                unsafe { extism_pdk::extism::error_set(memory.offset()) };
            }
        }));
    });
}

struct Guest;

impl Host for Guest {
    fn config(&self, key: &str) -> Option<String> {
        config::get(key).ok().flatten()
    }

    fn http_send(&mut self, batch: HttpBatch) -> Answer<HttpResponses> {
        // SAFETY: Extism's calling convention; the host checks what it is given. So for all four.
        unpack(unsafe { http_send(Json(batch)) })
    }

    fn docker_containers(&mut self, selector: Selector) -> Answer<Containers> {
        unpack(unsafe { docker_containers(Json(selector)) })
    }

    fn docker_refresh(&mut self, orders: Vec<Order>) -> Answer<Placed> {
        unpack(unsafe { docker_refresh(Json(Orders { orders })) })
    }

    fn log(&mut self, line: LogLine) {
        // A host that cannot log is no reason to decide otherwise.
        drop(unsafe { host_log(Json(line)) });
    }
}

fn unpack<T>(answer: Result<Json<Answer<T>>, extism_pdk::Error>) -> Answer<T> {
    match answer {
        Ok(Json(answer)) => answer,
        Err(error) => {
            Answer::Err(Failure::passing(FailureCode::BadAnswer, format!("the host's answer cannot be read: {error}")))
        }
    }
}
