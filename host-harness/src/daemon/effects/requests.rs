//! One manifest's way to registries: its rules, its limits, and what is under way. Batches that may be deferred go on in
//! the background, under the same rules and limits as all others.

use std::sync::Arc;

use imagewatch_abi::{Answer, HttpBatch, HttpRequest, HttpResponse, HttpResponses};
use tokio::runtime::Handle;

use super::Adapters;
use imagewatch_registry::client::{ByteBudget, HttpLimits, Share, fit};
use imagewatch_registry::deferred::Deferred;
use imagewatch_registry::egress::EgressRules;

/// What a policy asks of registries.
#[derive(Debug)]
pub(super) struct Requests {
    rules: Arc<EgressRules>,
    limits: HttpLimits,
    deferred: Deferred<Share>,
    /// For the bodies of all that is under way or not collected.
    held: Arc<ByteBudget>,
}

impl Requests {
    pub(super) fn new(rules: EgressRules, limits: HttpLimits) -> Self {
        let held = Arc::new(ByteBudget::of(limits.batch_bytes));
        Self { rules: Arc::new(rules), limits, deferred: Deferred::default(), held }
    }

    pub(super) fn deferred(&self) -> &Deferred<Share> {
        &self.deferred
    }

    /// The answers may have `room` bytes together.
    pub(super) fn send(&self, adapters: &Adapters, runtime: &Handle, batch: HttpBatch, room: usize) -> HttpResponses {
        if batch.may_defer {
            let responses = runtime.block_on(self.send_deferred(adapters, runtime, batch.requests, room));
            return HttpResponses { responses };
        }
        let Adapters { http, credentials, cancel, .. } = adapters;
        let limits = HttpLimits { batch_bytes: room, ..self.limits };
        runtime.block_on(http.send_all(&self.rules, credentials, batch, &limits, cancel))
    }

    async fn send_deferred(
        &self,
        adapters: &Adapters,
        runtime: &Handle,
        requests: Vec<HttpRequest>,
        room: usize,
    ) -> Vec<Answer<HttpResponse>> {
        let room = Arc::new(ByteBudget::of(room));
        let send = |request: HttpRequest| {
            let share = Share::of(room.clone(), Some(self.held.clone()));
            let (adapters, rules, limits) = (adapters.clone(), self.rules.clone(), self.limits);
            async move {
                let Adapters { http, credentials, cancel, .. } = &adapters;
                http.send_one(&rules, credentials, &request, &limits, cancel, share).await
            }
        };
        let arrived = self.deferred.send(runtime, requests, send).await;
        arrived.into_iter().map(|(answer, share)| fit(answer, share.as_ref(), &room)).collect()
    }
}
