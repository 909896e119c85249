//! The host functions as Extism wants them: bytes in, bytes out. Decodes, asks the call's
//! [`Effects`], encodes. Decides nothing, and lets no panic through: a host function that unwinds
//! or returns an error kills the guest's call.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use extism::{CurrentPlugin, Error, Function, PTR, UserData, Val};
use imagewatch_abi::{
    Answer, Containers, Failure, FailureCode, HttpBatch, HttpResponses, LogLine, MAX_BATCH, Orders, Placed, Selector,
    host_functions as names,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// What a policy asks of the world during one call. An implementation enforces the manifest's
/// grants and deadlines; it is called on a thread that may block.
pub trait Effects: Send + Sync {
    /// Sends a batch of at most [`MAX_BATCH`] requests.
    fn http_send(&self, batch: HttpBatch) -> Answer<HttpResponses>;
    /// Lists containers.
    fn docker_containers(&self, selector: Selector) -> Answer<Containers>;
    /// Takes orders.
    fn docker_refresh(&self, orders: Orders) -> Answer<Placed>;
    /// Logs a line.
    fn log(&self, line: LogLine);
}

/// Host state of one call, as Extism hands it to the functions.
pub(super) type Context = Arc<dyn Effects>;

/// The functions to link into every policy.
pub(super) fn host_functions() -> Vec<Function> {
    vec![
        function(names::HTTP_SEND, |effects, batch: HttpBatch| {
            if batch.requests.len() > MAX_BATCH {
                let message = format!("a batch of {} requests is over the limit of {MAX_BATCH}", batch.requests.len());
                return Answer::Err(Failure::lasting(FailureCode::TooLarge, message));
            }
            effects.http_send(batch)
        }),
        function(names::DOCKER_CONTAINERS, |effects, selector: Selector| effects.docker_containers(selector)),
        function(names::DOCKER_REFRESH, |effects, orders: Orders| effects.docker_refresh(orders)),
        Function::new(names::HOST_LOG, [PTR], [], UserData::<()>::default(), |plugin, inputs, _, _| {
            if let Ok(line) = serde_json::from_slice(&input(plugin, inputs)?) {
                plugin.host_context::<Context>()?.clone().log(line);
            }
            Ok(())
        }),
    ]
}

fn function<I: DeserializeOwned, O: Serialize>(
    name: &'static str,
    ask: impl Fn(&dyn Effects, I) -> Answer<O> + Send + Sync + 'static,
) -> Function {
    Function::new(name, [PTR], [PTR], UserData::<()>::default(), move |plugin, inputs, outputs, _| {
        let bytes = input(plugin, inputs)?;
        let effects = plugin.host_context::<Context>()?.clone();
        let answer = match serde_json::from_slice(&bytes) {
            Ok(asked) => catch_unwind(AssertUnwindSafe(|| ask(effects.as_ref(), asked))).unwrap_or_else(|_| {
                Answer::Err(Failure::passing(
                    FailureCode::Other,
                    format!("the host's {name} panicked; please report it"),
                ))
            }),
            Err(error) => Answer::Err(Failure::lasting(
                FailureCode::Other,
                format!("{name} was given something else than it takes: {error}"),
            )),
        };
        let Some(output) = outputs.first_mut() else {
            return Err(Error::msg(format!("{name} has no place for its answer")));
        };
        plugin.memory_set_val(output, serde_json::to_vec(&answer)?)
    })
}

fn input(plugin: &mut CurrentPlugin, inputs: &[Val]) -> Result<Vec<u8>, Error> {
    let offset = inputs.first().ok_or_else(|| Error::msg("a host function was called without its argument"))?;
    plugin.memory_get_val(offset)
}
