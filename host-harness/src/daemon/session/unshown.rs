//! What a policy does not get to see, the operator does.

use imagewatch_abi::{Answer, Selector};

use super::*;
use crate::daemon::session::scene::Scene;
use imagewatch_policy::Effects;
use imagewatch_policy::inline::Inline;

const LISTS: &str = "(drop (call $docker_containers «{}»))";

#[tokio::test(flavor = "multi_thread")]
async fn containers_that_are_not_granted_are_told_to_the_operator_and_not_to_the_policy() {
    for (config, says) in [
        (vec![], "config key `grant.containers` does not grant it"),
        (
            vec![("grant.containers", "*"), ("grant.images", "a")],
            "config key `grant.images` does not grant its image ok.io/a:latest",
        ),
        (vec![("grant.containers", "*"), ("grant.images", "ok.io/a")], "write ok.io/a:*"),
    ] {
        let mut scene = Scene::new(&Inline::polling(LISTS), &config).await;
        for mode in [PollMode::Watch, PollMode::Check] {
            let (output, _) = scene.session.poll(None, Vec::new(), mode).await.expect("the call goes on");
            let [one] = &output.not_watched[..] else { panic!("{config:?}: {output:?}") };
            assert_eq!((one.container.as_str(), one.image.as_str()), ("victim", "ok.io/a:latest"));
            assert!(one.reason.contains(says), "{config:?}: {}", one.reason);
        }
        let effects = scene.effects.clone();
        let listed = tokio::task::spawn_blocking(move || effects.docker_containers(Selector::default())).await;
        assert!(matches!(listed.expect("it ends"), Answer::Ok(listed) if listed.containers.is_empty()), "{config:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_is_granted_is_for_the_policy_to_tell() {
    let config = [("grant.containers", "*"), ("grant.images", "*")];
    let mut scene = Scene::new(&Inline::polling(LISTS), &config).await;
    let (output, _) = scene.session.poll(None, Vec::new(), PollMode::Check).await.expect("the call goes on");
    assert!(output.not_watched.is_empty(), "{output:?}");
}
