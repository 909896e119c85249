//! A client in a container that sends requests to a service on its network by name, continuously.

use std::collections::BTreeMap;

use crate::engine::RunSpec;
use crate::image::{ImageSpec, WEB_PORT};
use crate::stage::{SHORT_TIMEOUT, Stage};
use crate::wait::wait_for;

/// What the client writes for a request without an answer.
pub const FAILED: &str = "failed";

/// Writes one line for each request: the answer, or `failed`. It looks up the addresses before each request.
const SCRIPT: &str = r#"
trap 'exit 0' TERM
addresses() {
    nslookup "$SERVICE" 127.0.0.11 2>/dev/null | while read -r key value; do
        case "$key $value" in *:53) ;; Address:*) echo "$value" ;; esac
    done
}
while :; do
    answer=
    for address in $(addresses); do
        answer=$(wget -q -O - "http://$address:$PORT/" 2>/dev/null) && break
        answer=
        [ -z "$TRIES_ALL" ] && break
    done
    echo "${answer:-failed}"
done
"#;

/// Which addresses of a name the client tries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tries {
    /// One after the other until one answers, as browsers and most libraries do.
    All,
    /// The first address only.
    First,
}

/// The running client. Its container is removed with the stage.
#[derive(Debug)]
pub struct Load<'a> {
    stage: &'a Stage,
    /// The container's name.
    pub container: String,
}

impl<'a> Load<'a> {
    /// Starts a client named for `role` on `network`. It sends requests to the web server with the name `service` on
    /// that network.
    pub async fn start(stage: &'a Stage, role: &str, network: &str, service: &str, tries: Tries) -> Self {
        stage.push_image(role, &ImageSpec::sleeper(&stage.scope.name(role)).running(SCRIPT)).await;
        let tries_all = if tries == Tries::All { "yes" } else { "" };
        let container = stage.scope.name(role);
        let env = vec![format!("SERVICE={service}"), format!("PORT={WEB_PORT}"), format!("TRIES_ALL={tries_all}")];
        let (name, network) = (container.clone(), Some(network.to_owned()));
        stage.scope.run(&RunSpec { name, image: stage.image(role), network, env, ..RunSpec::default() }).await;
        Self { stage, container }
    }

    /// Waits until `version` has answered at least five requests.
    pub async fn wait_until_served_by(&self, version: &str) {
        wait_for(&format!("answers of {version}"), SHORT_TIMEOUT, || async {
            let seen = self.answers().await;
            if seen.get(version).is_some_and(|count| *count >= 5) { Ok(()) } else { Err(seen) }
        })
        .await;
    }

    /// The number of times that each answer came so far. The web server answers with its version.
    pub async fn answers(&self) -> BTreeMap<String, usize> {
        let mut answers = BTreeMap::new();
        for line in self.stage.scope.log(&self.container).await {
            *answers.entry(line).or_default() += 1;
        }
        answers
    }
}
