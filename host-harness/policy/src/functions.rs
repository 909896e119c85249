//! The host functions that a policy imports.
//!
//! Each one decodes its input, passes it to the [`Effects`] of the call, encodes the answer, and counts calls and
//! bytes. A panic in the effects becomes an error in the answer, because an unwinding host function would abort the
//! policy call.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use imagewatch_abi::{
    Answer, Containers, Failure, FailureCode, HOST_NAMESPACE, HttpBatch, HttpResponses, LogLine, Orders,
    OrdersAccepted, Selector, host_functions as names,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use wasmtime::{Caller, Error, Linker};

use super::fault::{Denied, Fault, FaultKind};
use super::linking::Guest;
use super::quota::Quota;
use imagewatch_base::text::sanitize_line;

/// What a policy can do during one call. An implementation enforces the manifest's grants and deadlines. It may block.
pub trait Effects: Send + Sync {
    /// Sends a batch of requests. Their responses may have `room` bytes in total.
    fn http_send(&self, batch: HttpBatch, room: usize) -> Answer<HttpResponses>;
    /// Lists containers.
    fn docker_containers(&self, selector: Selector) -> Answer<Containers>;
    /// Accepts orders.
    fn docker_refresh(&self, orders: Orders) -> Answer<OrdersAccepted>;
    /// Logs a line.
    fn log(&self, line: LogLine);
    /// Records that a limit of the call refused something `count` times. `message` is a fragment.
    fn denied(&self, _what: Denied, _count: u64, _message: &str) {}
}

/// The context of the host functions of one call.
#[derive(Clone)]
pub(super) struct Context {
    pub(super) effects: Arc<dyn Effects>,
    pub(super) quota: Arc<Quota>,
}

/// The result of a host function. An `Err` aborts the policy call.
type HostResult<T> = Result<Answer<T>, String>;

/// Links the host functions.
///
/// # Errors
/// A name is defined twice, which is a bug.
pub(super) fn link(linker: &mut Linker<Guest>) -> Result<(), Error> {
    link_function(linker, names::HTTP_SEND, |context, batch: HttpBatch| {
        let (most, count) = (context.quota.limits.batch, batch.requests.len());
        if count > most {
            let message = format!("a batch of {count} requests is over the limit of {most}");
            context.effects.denied(Denied::Batch, 1, &message);
            return Ok(Answer::Err(Failure::permanent(FailureCode::TooLarge, message)));
        }
        Ok(context.effects.http_send(batch, context.quota.room()))
    })?;
    link_function(linker, names::DOCKER_CONTAINERS, |context, selector: Selector| {
        Ok(context.effects.docker_containers(selector))
    })?;
    link_function(linker, names::DOCKER_REFRESH, |context, orders: Orders| {
        context.quota.count_orders(orders.orders.len())?;
        Ok(context.effects.docker_refresh(orders))
    })?;
    linker.func_wrap(
        HOST_NAMESPACE,
        names::HOST_LOG,
        |caller: Caller<'_, Guest>, offset: u64| -> Result<(), Error> {
            let context = &caller.data().context;
            // A dropped line is not read, but it must be a block.
            let bytes = caller.data().kernel.block(offset)?;
            if context.quota.take_log_line() {
                context.quota.count_bytes(bytes.len()).map_err(limit_fault)?;
                match serde_json::from_slice(bytes) {
                    Ok(line) => context.effects.log(line),
                    Err(error) => drop(invalid_input(context, names::HOST_LOG, &error)),
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
    ask: impl Fn(&Context, I) -> HostResult<O> + Send + Sync + 'static,
) -> Result<(), Error> {
    linker.func_wrap(
        HOST_NAMESPACE,
        name,
        move |mut caller: Caller<'_, Guest>, offset: u64| -> Result<u64, Error> {
            let guest = caller.data();
            let answer = answer(&guest.context, name, guest.kernel.block(offset)?, &ask)?;
            guest.context.quota.count_bytes(answer.len()).map_err(limit_fault)?;
            Ok(caller.data_mut().kernel.put(&answer)?)
        },
    )?;
    Ok(())
}

fn answer<I: DeserializeOwned, O: Serialize>(
    context: &Context,
    name: &'static str,
    bytes: &[u8],
    ask: impl Fn(&Context, I) -> HostResult<O>,
) -> Result<Vec<u8>, Error> {
    context.quota.count_call().map_err(limit_fault)?;
    context.quota.count_bytes(bytes.len()).map_err(limit_fault)?;
    let answer = match serde_json::from_slice(bytes) {
        Ok(input) => match catch_unwind(AssertUnwindSafe(|| ask(context, input))) {
            Ok(answer) => answer.map_err(limit_fault)?,
            Err(_) => Answer::Err(Failure::retryable(
                FailureCode::Other,
                format!("the host's {name} panicked; please report it"),
            )),
        },
        Err(error) => Answer::Err(Failure::permanent(FailureCode::Other, invalid_input(context, name, &error))),
    };
    Ok(serde_json::to_vec(&answer)?)
}

/// A fault for an exceeded limit. The quota stores the real kind, which replaces [`FaultKind::Trap`].
fn limit_fault(reason: String) -> Fault {
    Fault::new(FaultKind::Trap, reason)
}

/// Records invalid input and returns a message. The message is shortened, because the error may quote the whole input.
fn invalid_input(context: &Context, name: &str, error: &serde_json::Error) -> String {
    let message = sanitize_line(&format!("invalid input for {name}: {error}"));
    context.effects.denied(Denied::InvalidOutput, 1, &message);
    message
}
