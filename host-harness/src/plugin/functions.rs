//! The host functions as Extism wants them: bytes in, bytes out. Decodes, asks the call's
//! [`Effects`], encodes, and counts what that takes. Decides nothing, and lets no panic through: a host function that
//! unwinds or returns an error kills the guest's call.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use extism::{CurrentPlugin, Error, Function, PTR, UserData, Val};
use imagewatch_abi::{
    Answer, Containers, Failure, FailureCode, HttpBatch, HttpResponses, LogLine, Orders, Placed, Selector,
    host_functions as names,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::fault::Denied;
use super::meter::Meter;
use crate::text::sanitize_line;

/// What a policy asks of the world during one call. An implementation enforces the manifest's
/// grants and deadlines; it is called on a thread that may block.
pub trait Effects: Send + Sync {
    /// Sends a batch of requests, whose answers may have `room` bytes together.
    fn http_send(&self, batch: HttpBatch, room: usize) -> Answer<HttpResponses>;
    /// Lists containers.
    fn docker_containers(&self, selector: Selector) -> Answer<Containers>;
    /// Takes orders.
    fn docker_refresh(&self, orders: Orders) -> Answer<Placed>;
    /// Logs a line.
    fn log(&self, line: LogLine);
    /// Is told what a limit of the call refused, as a fragment; `count` times at once.
    fn denied(&self, _what: Denied, _count: u64, _message: &str) {}
}

/// Host state of one call, as Extism hands it to the functions.
#[derive(Clone)]
pub(super) struct Context {
    pub(super) effects: Arc<dyn Effects>,
    pub(super) meter: Arc<Meter>,
}

/// What a host function comes to; an `Err` ends the call.
type Asked<T> = Result<Answer<T>, String>;

/// The functions to link into every policy.
pub(super) fn host_functions() -> Vec<Function> {
    vec![
        function(names::HTTP_SEND, |context, batch: HttpBatch| {
            let (most, asked) = (context.meter.limits.batch, batch.requests.len());
            if asked > most {
                let message = format!("a batch of {asked} requests is over the limit of {most}");
                context.effects.denied(Denied::Batch, 1, &message);
                return Ok(Answer::Err(Failure::lasting(FailureCode::TooLarge, message)));
            }
            Ok(context.effects.http_send(batch, context.meter.room()))
        }),
        function(names::DOCKER_CONTAINERS, |context, selector: Selector| {
            Ok(context.effects.docker_containers(selector))
        }),
        function(names::DOCKER_REFRESH, |context, orders: Orders| {
            context.meter.count_orders(orders.orders.len())?;
            Ok(context.effects.docker_refresh(orders))
        }),
        Function::new(names::HOST_LOG, [PTR], [], UserData::<()>::default(), |plugin, inputs, _, _| {
            let context = plugin.host_context::<Context>()?.clone();
            // What is dropped is not even copied.
            if context.meter.take_log_line() {
                let bytes = input(plugin, inputs)?;
                context.meter.count_bytes(bytes.len()).map_err(Error::msg)?;
                match serde_json::from_slice(&bytes) {
                    Ok(line) => context.effects.log(line),
                    Err(error) => drop(not_taken(&context, names::HOST_LOG, &error)),
                }
            }
            Ok(())
        }),
    ]
}

fn function<I: DeserializeOwned, O: Serialize>(
    name: &'static str,
    ask: impl Fn(&Context, I) -> Asked<O> + Send + Sync + 'static,
) -> Function {
    Function::new(name, [PTR], [PTR], UserData::<()>::default(), move |plugin, inputs, outputs, _| {
        let context = plugin.host_context::<Context>()?.clone();
        context.meter.count_call().map_err(Error::msg)?;
        let bytes = input(plugin, inputs)?;
        context.meter.count_bytes(bytes.len()).map_err(Error::msg)?;
        let answer = match serde_json::from_slice(&bytes) {
            Ok(asked) => match catch_unwind(AssertUnwindSafe(|| ask(&context, asked))) {
                Ok(answer) => answer.map_err(Error::msg)?,
                Err(_) => Answer::Err(Failure::passing(
                    FailureCode::Other,
                    format!("the host's {name} panicked; please report it"),
                )),
            },
            Err(error) => Answer::Err(Failure::lasting(FailureCode::Other, not_taken(&context, name, &error))),
        };
        let Some(output) = outputs.first_mut() else {
            return Err(Error::msg(format!("{name} has no place for its answer")));
        };
        let answer = serde_json::to_vec(&answer)?;
        context.meter.count_bytes(answer.len()).map_err(Error::msg)?;
        plugin.memory_set_val(output, answer)
    })
}

/// The error quotes what it was given, which may be as large as a call's memory.
fn not_taken(context: &Context, name: &str, error: &serde_json::Error) -> String {
    let message = sanitize_line(&format!("{name} was given something else than it takes: {error}"));
    context.effects.denied(Denied::InvalidOutput, 1, &message);
    message
}

fn input(plugin: &mut CurrentPlugin, inputs: &[Val]) -> Result<Vec<u8>, Error> {
    let offset = inputs.first().ok_or_else(|| Error::msg("a host function was called without its argument"))?;
    plugin.memory_get_val(offset)
}
