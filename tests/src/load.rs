//! A client in a container, which asks a service on its network again and again by a name. Judges nothing.

use std::collections::BTreeMap;

use crate::engine::RunSpec;
use crate::image::{ImageSpec, WEB_PORT};
use crate::stage::{SOON, Stage};
use crate::wait::wait_for;

/// What it writes for a question that nobody answered.
pub const FAILED: &str = "failed";

/// One line for each question: the answer, or `failed`. Which addresses there are is asked anew each time.
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

/// Which of a name's addresses a client tries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tries {
    /// One after the other until one answers, as browsers and most libraries do.
    All,
    /// The first only.
    First,
}

/// The running client; its container goes with the stage.
#[derive(Debug)]
pub struct Load<'a> {
    stage: &'a Stage,
    /// The container's name.
    pub container: String,
}

impl<'a> Load<'a> {
    /// Starts a client named for `role` on `network`, which asks the web server that is called `service` there.
    pub async fn start(stage: &'a Stage, role: &str, network: &str, service: &str, tries: Tries) -> Self {
        stage.push_image(role, &ImageSpec::sleeper(&stage.scope.name(role)).running(SCRIPT)).await;
        let tries_all = if tries == Tries::All { "yes" } else { "" };
        let container = stage.scope.name(role);
        let env = vec![format!("SERVICE={service}"), format!("PORT={WEB_PORT}"), format!("TRIES_ALL={tries_all}")];
        let (name, network) = (container.clone(), Some(network.to_owned()));
        stage.scope.run(&RunSpec { name, image: stage.image(role), network, env, ..RunSpec::default() }).await;
        Self { stage, container }
    }

    /// Waits until `version` has answered a few times.
    pub async fn wait_until_served_by(&self, version: &str) {
        wait_for(&format!("some answers of {version}"), SOON, || async {
            let seen = self.answers().await;
            if seen.get(version).is_some_and(|count| *count >= 5) { Ok(()) } else { Err(seen) }
        })
        .await;
    }

    /// How often each answer came so far; the web server's are versions.
    pub async fn answers(&self) -> BTreeMap<String, usize> {
        let mut answers = BTreeMap::new();
        for line in self.stage.scope.log(&self.container).await {
            *answers.entry(line).or_default() += 1;
        }
        answers
    }
}
