//! What a steady tick takes beside its floor: a bare loop of reqwest over the same requests, with as many in flight.
//! The two go by turns over connections that are open already, so that whatever else the machine does hits both.

use std::sync::Arc;
use std::time::Instant;

use futures_util::{StreamExt, stream};
use imagewatch::credentials::env::parse_credentials;
use imagewatch::effects::{Adapters, ManifestEffects};
use imagewatch::engine::docker::DockerEngine;
use imagewatch::http::client::{DEFAULT_CONNECTIONS_PER_HOST, HttpClient};
use imagewatch::http::egress::EgressRules;
use imagewatch::plugin::{Record, call};
use imagewatch::session::Session;
use imagewatch::store::Store;
use imagewatch_abi::{HttpRequest, PollInput, PollMode, PollOutput, Verdict, exports};
use reqwest::Client;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::policy::{Canned, Policy};
use crate::report::{Aim, Row, Samples, ms};
use crate::world::{IMAGES, World};

/// Measures `rounds` pairs.
pub(crate) async fn measure(world: Arc<World>, rounds: usize) -> Vec<Row> {
    crate::say("ticking beside a bare loop");
    let (policy, _) = Policy::load(&world.write_manifest("tick", &world.host(), "5m"));
    let requests: Arc<[HttpRequest]> = recorded_requests(&policy).into();
    let client = build_bare_client();
    let mut session = build_session(&policy, &world);
    for _ in 0..2 {
        tick(&mut session).await;
        bare_loop(&client, &requests).await;
    }
    let (mut ticks, mut floors) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        // Each goes first in half of the pairs.
        if round % 2 == 0 {
            ticks.push(tick(&mut session).await);
            floors.push(bare_loop(&client, &requests).await);
        } else {
            floors.push(bare_loop(&client, &requests).await);
            ticks.push(tick(&mut session).await);
        }
    }
    let pairs = Samples::new(ticks.iter().zip(&floors).map(|(tick, floor)| tick / floor));
    let [ticks, floors] = [ticks, floors].map(Samples::new);
    let ratio = Samples::new([ticks.median() / floors.median()]);
    vec![
        Row::new("steady tick / bare loop, of the medians", "x", ratio).aim(Aim::Median(1.2)),
        Row::new("  steady tick / bare loop, of each pair", "x", pairs),
        Row::new("  steady tick", "ms", ticks),
        Row::new("  bare loop of reqwest", "ms", floors),
    ]
}

/// What the policy asks in a tick.
fn recorded_requests(policy: &Policy) -> Vec<HttpRequest> {
    let answers = Arc::new(Canned::default());
    let input = PollInput::default();
    let called = call::<_, PollOutput>(&policy.plugin.compiled, exports::POLL, &input, Arc::clone(&answers) as _);
    called.expect("the policy answers");
    let asked = answers.asked();
    assert_eq!(asked.len(), IMAGES, "one request for each image");
    asked
}

/// With the settings of the program's client that matter on the wire.
fn build_bare_client() -> Client {
    let builder = Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).referer(false);
    builder.pool_max_idle_per_host(DEFAULT_CONNECTIONS_PER_HOST).build().expect("the client builds")
}

/// As `app` wires it.
fn build_session(policy: &Policy, world: &World) -> Session {
    let host = &policy.manifest.host;
    let rules = EgressRules::parse(&policy.manifest.allowed_hosts, &host.insecure_registries, &host.auth_realms);
    let adapters = Adapters {
        engine: Arc::new(DockerEngine::connect(Some(&world.docker_host)).expect("DOCKER_HOST is an address")),
        http: Arc::new(HttpClient::new(DEFAULT_CONNECTIONS_PER_HOST).expect("the client builds")),
        credentials: Arc::new(parse_credentials([]).expect("there are none")),
        store: Arc::new(Store::open(&world.state_dir()).expect("the temp folder takes a store")),
        cancel: CancellationToken::new(),
    };
    let store = adapters.store.clone();
    let (manifest, plugin, record) = (policy.manifest.clone(), policy.plugin.clone(), Arc::new(Record::default()));
    let rules = rules.expect("the manifest is ours");
    let effects = ManifestEffects::new(manifest.clone(), plugin.clone(), rules, adapters, record.clone());
    Session::new(manifest, plugin, Arc::new(effects), store, record)
}

/// In milliseconds.
async fn tick(session: &mut Session) -> f64 {
    let is_first = session.state.is_null();
    let start = Instant::now();
    let (output, orders) = session.poll(None, Vec::new(), PollMode::Watch).await.expect("the policy answers");
    let elapsed = start.elapsed();
    let expected = if is_first { Verdict::Seeded } else { Verdict::Unchanged };
    assert!(output.outcomes.iter().all(|outcome| outcome.verdict == expected), "{:?}", output.outcomes.first());
    assert_eq!((output.outcomes.len(), orders.len()), (IMAGES, 0));
    ms(elapsed)
}

/// In milliseconds.
async fn bare_loop(client: &Client, requests: &Arc<[HttpRequest]>) -> f64 {
    let (client, requests) = (client.clone(), Arc::clone(requests));
    let looped = async move {
        let start = Instant::now();
        stream::iter(&*requests).for_each_concurrent(DEFAULT_CONNECTIONS_PER_HOST, |asked| head(&client, asked)).await;
        start.elapsed()
    };
    // On a thread of its own, as the program's.
    let runtime = Handle::current();
    ms(tokio::task::spawn_blocking(move || runtime.block_on(looped)).await.expect("every request is answered"))
}

async fn head(client: &Client, asked: &HttpRequest) {
    let request =
        asked.headers.iter().fold(client.head(&asked.url), |request, (name, value)| request.header(name, value));
    let response = request.send().await.expect("the registry answers");
    assert!(response.status().is_success() && response.headers().contains_key("docker-content-digest"));
}
