//! The checks of the fuzz target `docker_config` in `fuzz/`. Parsing a configuration must not panic, and neither a
//! message nor `Debug` may show a secret. This module is built only for the fuzz target and for the test that replays
//! its corpus.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::docker_config::parse_docker_config;

/// The text that is appended to every secret.
const CANARY: &str = "kanary9d1f";

/// Fields of an entry that contain a plain secret. `auth` contains a secret in base64.
const SECRETS: [&str; 3] = ["identitytoken", "password", "registrytoken"];

/// Checks a configuration unchanged and with marked secrets.
pub fn docker_config(bytes: &[u8]) {
    shown_of(bytes);
    let Ok(mut config) = serde_json::from_slice::<Value>(bytes) else { return };
    // Registries and user names may be shown. A configuration that already contains the canary may show it there.
    if is_shown_anyway(&config) {
        return;
    }
    if let Some(auths) = config.get_mut("auths").and_then(Value::as_object_mut) {
        auths.values_mut().for_each(mark);
    }
    let marked = config.to_string();
    let shown = shown_of(marked.as_bytes());
    for secret in [CANARY.to_owned(), STANDARD.encode(CANARY), STANDARD.encode(format!(":{CANARY}"))] {
        assert!(!shown.contains(secret.trim_end_matches('=')), "{secret} of {marked} is shown: {shown}");
    }
}

/// Everything that messages and `Debug` show of a configuration.
fn shown_of(bytes: &[u8]) -> String {
    let config = match parse_docker_config(bytes) {
        Ok(config) => config,
        Err(problem) => return problem,
    };
    let registries = ["r.io", "docker.io", "test.io", "localhost:5000"];
    let found = registries.map(|registry| {
        config.is_per_repository(registry);
        format!("{:?} {:?}", config.find(registry, None), config.find(registry, Some("org/app")))
    });
    format!("{config:?} {}", found.join(" "))
}

fn is_shown_anyway(config: &Value) -> bool {
    config.to_string().to_lowercase().contains(CANARY)
}

/// Appends the canary to every secret of an entry. Replaces an entry that is not an object by the canary.
fn mark(entry: &mut Value) {
    let Value::Object(fields) = entry else {
        *entry = Value::from(CANARY);
        return;
    };
    for (name, value) in fields {
        match value {
            Value::String(text) if name == "auth" && !text.is_empty() => {
                let login = STANDARD.decode(text.as_str()).ok().and_then(|login| String::from_utf8(login).ok());
                *text = match login.filter(|login| login.contains(':')) {
                    Some(login) => STANDARD.encode(format!("{login}{CANARY}")),
                    None => format!("{text}{CANARY}"),
                };
            }
            Value::String(text) if SECRETS.contains(&name.as_str()) && !text.is_empty() => text.push_str(CANARY),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    #[test]
    fn every_file_of_the_corpus_passes() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/docker_config");
        let files = std::fs::read_dir(&folder).expect("the corpus exists");
        let files: Vec<_> = files.map(|file| std::fs::read(file.expect("an entry").path()).expect("a file")).collect();
        assert!(files.len() > 20, "{} has {} files", folder.display(), files.len());
        for file in &files {
            super::docker_config(file);
        }
    }
}
