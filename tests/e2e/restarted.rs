//! Kills the program in the middle of an update and restarts the engine before the program starts again (T24). The
//! containers that the engine then starts must not prevent the recovery.

use futures_util::future::join_all;
use imagewatch_tests::judge::read_state;
use imagewatch_tests::kill::{Moment, kill_and_recover};
use imagewatch_tests::private_engine::PrivateEngine;
use imagewatch_tests::registry::{Registry, RegistryAuth};
use imagewatch_tests::subject::{Fixture, TestContainer};
use tokio::sync::{Barrier, Mutex};

/// A restart policy, the event at which the program is killed, and whether the new container already runs then.
const CASES: [(&str, &str, bool); 6] = [
    ("always", "stop", false),
    ("on-failure", "stop", false),
    ("always", "connect", false),
    ("on-failure", "rename", false),
    ("always", "start", true),
    ("on-failure", "start", true),
];

#[tokio::test(flavor = "multi_thread")]
async fn t24_an_engine_restart_after_a_kill_does_not_start_both_containers() {
    // This value is created first, so that it is dropped last.
    let engine = Mutex::new(PrivateEngine::start().await);
    let fixture = {
        let engine = engine.lock().await;
        let registry = Registry::start_at(engine.outer_address(), RegistryAuth::None).await;
        Fixture::new(&engine.connect().await, registry).await
    };
    let all_dead = Barrier::new(CASES.len());
    let updates = CASES.iter().enumerate().map(|(number, (policy, event, _))| {
        let (fixture, engine, all_dead) = (&fixture, &engine, &all_dead);
        async move {
            let subject = TestContainer::new(fixture, &format!("r{number}"), policy).await;
            let old = read_state(fixture.scope(), subject.name()).await.expect("the container exists").id;
            let between = async || {
                if all_dead.wait().await.is_leader() {
                    engine.lock().await.restart().await;
                    fixture.accept_engine_restart().await;
                }
                all_dead.wait().await;
                let old = read_state(fixture.scope(), &old).await.expect("the old container still exists");
                assert!(!old.preserved.is_running, "{policy}, killed at {event}: the engine started the old container");
            };
            let moment = Moment::Event((*event).to_owned(), 0);
            let ending = kill_and_recover(&subject, "v2", true, moment, between).await;
            println!("{policy}, killed at {event}, engine restarted: {:?} after {:?}", ending.outcome, ending.took);
        }
    });
    join_all(updates).await;
}
