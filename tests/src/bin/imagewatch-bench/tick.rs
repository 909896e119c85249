//! The duration of a steady poll, compared with its floor: a bare reqwest loop over the same requests, with the same
//! number in flight. The two alternate over open connections, so that the load of the machine affects both.

use std::sync::Arc;
use std::time::Instant;

use imagewatch::daemon::effects::{Adapters, GrantedHost};
use imagewatch::daemon::session::Session;
use imagewatch::store::Store;
use imagewatch_abi::{HttpRequest, PollInput, PollMode, PollOutput, Verdict, exports};
use imagewatch_engine::docker::DockerEngine;
use imagewatch_policy::{Record, StateKeeping, call};
use imagewatch_registry::client::{HttpClient, HttpSettings};
use imagewatch_registry::credentials::env::parse_credentials;
use imagewatch_registry::egress::EgressRules;
use tokio_util::sync::CancellationToken;

use crate::floor::{Floor, Head};
use crate::policy::{Canned, Policy};
use crate::report::{Aim, Row, Samples, ms};
use crate::world::{IMAGES, World};

/// Measures `rounds` pairs.
pub(crate) async fn measure(world: Arc<World>, rounds: usize) -> Vec<Row> {
    crate::say("polling, compared with a bare loop");
    let policy = Policy::load(&world.write_manifest("tick", &world.host(), "5m"));
    let floor = Floor::new(recorded_requests(&policy), None);
    let mut session = build_session(&policy, &world);
    for expected in [Verdict::Seeded, Verdict::Unchanged] {
        tick(&mut session, expected).await;
        floor.run().await;
    }
    let (mut ticks, mut floors) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        // Each of the two goes first in half of the pairs.
        if round % 2 == 0 {
            ticks.push(tick(&mut session, Verdict::Unchanged).await);
            floors.push(floor.run().await);
        } else {
            floors.push(floor.run().await);
            ticks.push(tick(&mut session, Verdict::Unchanged).await);
        }
    }
    let pairs = Samples::new(ticks.iter().zip(&floors).map(|(tick, floor)| tick / floor));
    let [ticks, floors] = [ticks, floors].map(Samples::new);
    let ratio = Samples::new([ticks.median() / floors.median()]);
    vec![
        Row::new("steady poll / bare loop, of the medians", "x", ratio).aim(Aim::Median(1.2)),
        Row::new("  steady poll / bare loop, of each pair", "x", pairs),
        Row::new("  steady poll", "ms", ticks),
        Row::new("  bare loop of reqwest", "ms", floors),
    ]
}

/// The policy's requests in a poll.
fn recorded_requests(policy: &Policy) -> Vec<Head> {
    let answers = Arc::new(Canned::default());
    let input = PollInput::default();
    let called = call::<_, PollOutput>(&policy.plugin.compiled, exports::POLL, &input, Arc::clone(&answers) as _);
    called.expect("the policy answers");
    let asked = answers.asked();
    assert_eq!(asked.len(), IMAGES, "one request for each image");
    asked.into_iter().map(|HttpRequest { url, headers, .. }| Head { url, headers }).collect()
}

/// Builds a session with the same parts as `app`.
fn build_session(policy: &Policy, world: &World) -> Session {
    let host = &policy.manifest.host;
    let rules = EgressRules::parse(&policy.manifest.allowed_hosts, &host.insecure_registries, &host.auth_realms);
    let adapters = Adapters {
        engine: Arc::new(DockerEngine::connect(&world.docker_host).expect("DOCKER_HOST is an address")),
        http: Arc::new(HttpClient::new(&HttpSettings::default()).expect("the client builds")),
        credentials: Arc::new(parse_credentials([]).expect("an empty list is valid")),
        store: Arc::new(Store::open(&world.state_dir()).expect("the temp folder is writable")),
        cancel: CancellationToken::new(),
    };
    let store = adapters.store.clone();
    let (manifest, plugin, record) = (policy.manifest.clone(), policy.plugin.clone(), Arc::new(Record::default()));
    let rules = rules.expect("the manifest is valid");
    let effects = GrantedHost::new(manifest.clone(), plugin.clone(), rules, adapters, record.clone());
    Session::new(manifest, plugin, Arc::new(effects), store, record, StateKeeping::Persisted)
}

/// Runs one poll and returns its time in milliseconds.
async fn tick(session: &mut Session, expected: Verdict) -> f64 {
    let start = Instant::now();
    let (output, orders) = session.poll(None, Vec::new(), PollMode::Watch).await.expect("the policy answers");
    let elapsed = start.elapsed();
    assert!(output.outcomes.iter().all(|outcome| outcome.verdict == expected), "{:?}", output.outcomes.first());
    assert_eq!((output.outcomes.len(), orders.len()), (IMAGES, 0));
    ms(elapsed)
}
