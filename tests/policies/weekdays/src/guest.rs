//! The wasm side: exports, imports of host functions, and the sections that declare the ABI and the capabilities. It
//! contains no decisions.

#![expect(unsafe_code, reason = "exports, imports and link sections of a wasm module require unsafe code")]
#![expect(clippy::unnecessary_wraps, reason = "every export returns a result, even if it cannot fail")]

use extism_pdk::{Error, FnResult, Json, config, host_fn, plugin_fn};
use imagewatch_abi::{
    Answer, Containers, DescribeOutput, Failure, FailureCode, HttpBatch, HttpResponses, LogLine, Orders,
    OrdersAccepted, PollInput, PollOutput, RefreshInput, RefreshOutput, Selector, SettleInput, SettleOutput,
};

use crate::policy::{self, Host};

/// Hosts read this section without running the module. build.rs keeps it through `strip`.
#[used]
#[unsafe(link_section = "imagewatch.abi")]
static ABI: [u8; 1] = *b"1";
const _: () = assert!(imagewatch_abi::ABI_VERSION == 1, "the section above must declare the same version");

/// The capabilities that this policy needs, in another such section. The containers that it finds determine the hosts,
/// images and containers.
const CAPABILITIES_TEXT: &str = r#"{"functions":["docker_containers","docker_refresh","host_log","http_send"],"strategies":["replace"],"hosts":"any","images":"any","containers":"any"}"#;
#[used]
#[unsafe(link_section = "imagewatch.capabilities")]
static CAPABILITIES: [u8; CAPABILITIES_TEXT.len()] =
    *CAPABILITIES_TEXT.as_bytes().as_array().expect("the array has the length of the text");

#[host_fn]
extern "ExtismHost" {
    fn http_send(batch: Json<HttpBatch>) -> Json<Answer<HttpResponses>>;
    fn docker_containers(selector: Json<Selector>) -> Json<Answer<Containers>>;
    fn docker_refresh(orders: Json<Orders>) -> Json<Answer<OrdersAccepted>>;
    fn host_log(line: Json<LogLine>);
}

#[plugin_fn]
pub fn describe() -> FnResult<Json<DescribeOutput>> {
    Ok(Json(policy::describe(&Guest)))
}

#[plugin_fn]
pub fn poll(Json(input): Json<PollInput>) -> FnResult<Json<PollOutput>> {
    Ok(Json(policy::poll(&mut Guest, input)))
}

#[plugin_fn]
pub fn settle(Json(input): Json<SettleInput>) -> FnResult<Json<SettleOutput>> {
    Ok(Json(policy::settle(&mut Guest, input)))
}

#[plugin_fn]
pub fn refresh(Json(input): Json<RefreshInput>) -> FnResult<Json<RefreshOutput>> {
    Ok(Json(policy::refresh(&mut Guest, input)))
}

struct Guest;

impl Host for Guest {
    fn config(&self, key: &str) -> Option<String> {
        config::get(key).ok().flatten()
    }

    fn http_send(&mut self, batch: HttpBatch) -> Answer<HttpResponses> {
        // SAFETY: this follows Extism's calling convention, and the host validates its input. The same applies to all
        // four calls.
        unpack(unsafe { http_send(Json(batch)) })
    }

    fn docker_containers(&mut self, selector: Selector) -> Answer<Containers> {
        unpack(unsafe { docker_containers(Json(selector)) })
    }

    fn docker_refresh(&mut self, orders: Orders) -> Answer<OrdersAccepted> {
        unpack(unsafe { docker_refresh(Json(orders)) })
    }

    fn log(&mut self, line: LogLine) {
        // A failure to log does not change a decision.
        drop(unsafe { host_log(Json(line)) });
    }
}

fn unpack<T>(answer: Result<Json<Answer<T>>, Error>) -> Answer<T> {
    match answer {
        Ok(Json(answer)) => answer,
        Err(error) => Answer::Err(Failure::retryable(
            FailureCode::BadAnswer,
            format!("the host's answer cannot be read: {error}"),
        )),
    }
}
