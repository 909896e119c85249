//! The program is killed in the middle of an update, and the engine goes down and comes back before the program
//! does (T24): what an engine then starts by itself must not stand in the way.

use futures_util::future::join_all;
use imagewatch_tests::judge::take_picture;
use imagewatch_tests::kill::{Moment, kill_and_recover};
use imagewatch_tests::private_engine::PrivateEngine;
use imagewatch_tests::registry::{Registry, RegistryAuth};
use imagewatch_tests::subject::{Arena, Subject};
use tokio::sync::{Barrier, Mutex};

/// A restart policy, the event at which the program is killed, and whether the new container runs by then.
const CASES: [(&str, &str, bool); 6] = [
    ("always", "stop", false),
    ("on-failure", "stop", false),
    ("always", "connect", false),
    ("on-failure", "rename", false),
    ("always", "start", true),
    ("on-failure", "start", true),
];

#[tokio::test(flavor = "multi_thread")]
async fn t24_an_engine_that_restarts_after_a_kill_does_not_bring_the_old_container_back_beside_the_new() {
    // Made first, so that it ends last.
    let engine = Mutex::new(PrivateEngine::start().await);
    let arena = {
        let engine = engine.lock().await;
        let registry = Registry::start_at(engine.outer_address(), RegistryAuth::None).await;
        Arena::new(&engine.connect().await, registry).await
    };
    let all_dead = Barrier::new(CASES.len());
    let updates = CASES.iter().enumerate().map(|(number, (policy, event, _))| {
        let (arena, engine, all_dead) = (&arena, &engine, &all_dead);
        async move {
            let subject = Subject::new(arena, &format!("r{number}"), policy).await;
            let old = take_picture(arena.scope(), subject.name()).await.expect("it runs").id;
            let between = async || {
                if all_dead.wait().await.is_leader() {
                    engine.lock().await.restart().await;
                    arena.take_restart_of_engine().await;
                }
                all_dead.wait().await;
                let old = take_picture(arena.scope(), &old).await.expect("nobody has removed it");
                assert!(!old.kept.is_running, "{policy}, killed at {event}: the old one came back by itself");
            };
            let moment = Moment::Event((*event).to_owned(), 0);
            let ending = kill_and_recover(&subject, "v2", true, moment, between).await;
            println!("{policy}, killed at {event}, engine restarted: {:?} after {:?}", ending.way, ending.took);
        }
    });
    join_all(updates).await;
}
