//! The host functions as a policy calls them: bytes in, bytes out. Decodes, asks the call's
//! [`Effects`], encodes, and counts what that takes. Decides nothing, and lets no panic through: a host function that
//! unwinds or returns an error kills the guest's call.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use imagewatch_abi::{
    Answer, Containers, Failure, FailureCode, HOST_NAMESPACE, HttpBatch, HttpResponses, LogLine, Orders, Placed,
    Selector, host_functions as names,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use wasmtime::{Caller, Error, Linker};

use super::fault::{Denied, Fault, FaultKind};
use super::linking::Guest;
use super::meter::Meter;
use imagewatch_base::text::sanitize_line;

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

/// What the host functions of one call work with.
#[derive(Clone)]
pub(super) struct Context {
    pub(super) effects: Arc<dyn Effects>,
    pub(super) meter: Arc<Meter>,
}

/// What a host function comes to; an `Err` ends the call.
type Asked<T> = Result<Answer<T>, String>;

/// Links the host functions.
///
/// # Errors
/// A name is defined twice, which is a bug.
pub(super) fn link(linker: &mut Linker<Guest>) -> Result<(), Error> {
    link_function(linker, names::HTTP_SEND, |context, batch: HttpBatch| {
        let (most, asked) = (context.meter.limits.batch, batch.requests.len());
        if asked > most {
            let message = format!("a batch of {asked} requests is over the limit of {most}");
            context.effects.denied(Denied::Batch, 1, &message);
            return Ok(Answer::Err(Failure::lasting(FailureCode::TooLarge, message)));
        }
        Ok(context.effects.http_send(batch, context.meter.room()))
    })?;
    link_function(linker, names::DOCKER_CONTAINERS, |context, selector: Selector| {
        Ok(context.effects.docker_containers(selector))
    })?;
    link_function(linker, names::DOCKER_REFRESH, |context, orders: Orders| {
        context.meter.count_orders(orders.orders.len())?;
        Ok(context.effects.docker_refresh(orders))
    })?;
    linker.func_wrap(
        HOST_NAMESPACE,
        names::HOST_LOG,
        |caller: Caller<'_, Guest>, offset: u64| -> Result<(), Error> {
            let context = &caller.data().context;
            // What is dropped is not even read, but must be a block.
            let bytes = caller.data().kernel.block(offset)?;
            if context.meter.take_log_line() {
                context.meter.count_bytes(bytes.len()).map_err(ended)?;
                match serde_json::from_slice(bytes) {
                    Ok(line) => context.effects.log(line),
                    Err(error) => drop(not_taken(context, names::HOST_LOG, &error)),
                }
            }
            Ok(())
        },
    )?;
    Ok(())
}

fn link_function<I: DeserializeOwned, O: Serialize>(
    linker: &mut Linker<Guest>,
    name: &'static str,
    ask: impl Fn(&Context, I) -> Asked<O> + Send + Sync + 'static,
) -> Result<(), Error> {
    linker.func_wrap(
        HOST_NAMESPACE,
        name,
        move |mut caller: Caller<'_, Guest>, offset: u64| -> Result<u64, Error> {
            let guest = caller.data();
            let answer = answer(&guest.context, name, guest.kernel.block(offset)?, &ask)?;
            guest.context.meter.count_bytes(answer.len()).map_err(ended)?;
            Ok(caller.data_mut().kernel.put(&answer)?)
        },
    )?;
    Ok(())
}

fn answer<I: DeserializeOwned, O: Serialize>(
    context: &Context,
    name: &'static str,
    bytes: &[u8],
    ask: impl Fn(&Context, I) -> Asked<O>,
) -> Result<Vec<u8>, Error> {
    context.meter.count_call().map_err(ended)?;
    context.meter.count_bytes(bytes.len()).map_err(ended)?;
    let answer = match serde_json::from_slice(bytes) {
        Ok(asked) => match catch_unwind(AssertUnwindSafe(|| ask(context, asked))) {
            Ok(answer) => answer.map_err(ended)?,
            Err(_) => Answer::Err(Failure::passing(
                FailureCode::Other,
                format!("the host's {name} panicked; please report it"),
            )),
        },
        Err(error) => Answer::Err(Failure::lasting(FailureCode::Other, not_taken(context, name, &error))),
    };
    Ok(serde_json::to_vec(&answer)?)
}

/// The meter knows the kind of limit that was passed.
fn ended(reason: String) -> Fault {
    Fault::new(FaultKind::Trap, reason)
}

/// The error quotes what it was given, which may be as large as a call's memory.
fn not_taken(context: &Context, name: &str, error: &serde_json::Error) -> String {
    let message = sanitize_line(&format!("{name} was given something else than it takes: {error}"));
    context.effects.denied(Denied::InvalidOutput, 1, &message);
    message
}
