//! What an operator says of one container by its labels. Reads them; does nothing about them.

use std::time::Duration;

use imagewatch_abi::{Strategy, parse_duration_ms};
use serde_json::Value;

/// What every label of ours begins with. They are never taken for the image's own.
pub const OURS: &str = "imagewatch.";
/// How this container is handled; goes before the manifest's `strategy`.
pub const STRATEGY: &str = "imagewatch.strategy";
/// Names of containers that this one needs, apart by commas; it is restarted with them.
pub const DEPENDS_ON: &str = "imagewatch.depends-on";
/// Marks the container in which an updater runs.
pub const UPDATER: &str = "imagewatch.updater";
/// Names of variables that stay as they are even where the old image had the same value, apart by commas.
pub const KEEP_ENV: &str = "imagewatch.keep-env";
/// Networks whose MAC address is a configured one, apart by commas; see `plan::networks`.
pub const KEEP_MAC: &str = "imagewatch.keep-mac";
/// `true`: replace it although it was created with `--rm`.
pub const ALLOW_RM: &str = "imagewatch.allow-rm";
/// `true`: files that were put into the container from outside may go with it.
pub const CARRY_NOTHING: &str = "imagewatch.carry-nothing";
/// `true`: two containers may write to its volumes at once.
pub const SHARED_VOLUMES_SAFE: &str = "imagewatch.shared-volumes-safe";
/// What must answer before it counts as healthy.
pub const PROBE: &str = "imagewatch.probe";
/// Compose's: the project that it belongs to.
pub const COMPOSE_PROJECT: &str = "com.docker.compose.project";
/// Compose's: the service that it runs.
pub const COMPOSE_SERVICE: &str = "com.docker.compose.service";
const STABLE_FOR: &str = "imagewatch.stable-for";
const HEALTH_TIMEOUT: &str = "imagewatch.health-timeout";
const DRAIN: &str = "imagewatch.drain";
const HOOK_TIMEOUT: &str = "imagewatch.hook.timeout";

/// A question that a container must answer before it counts as healthy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// A connection to this port.
    Tcp(u16),
    /// A 2xx or 3xx answer to `GET` of this path at this port.
    Http(u16, String),
}

/// A moment at which a command of the container's own is run in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// Before anything is made, in the old container.
    PreCheck,
    /// Before the old container is touched, in it.
    PreUpdate,
    /// When the new container is healthy, in it.
    PostUpdate,
}

impl Hook {
    /// Its label.
    pub fn label(self) -> &'static str {
        match self {
            Self::PreCheck => "imagewatch.hook.pre-check",
            Self::PreUpdate => "imagewatch.hook.pre-update",
            Self::PostUpdate => "imagewatch.hook.post-update",
        }
    }
}

/// The labels of a container's inspection.
#[derive(Debug, Clone, Copy)]
pub struct Labels<'a>(pub &'a Value);

impl<'a> Labels<'a> {
    /// Of a container.
    pub fn of(inspection: &'a Value) -> Self {
        Self(&inspection["Config"]["Labels"])
    }

    /// The value of `key`, if it is set and not empty.
    pub fn value(self, key: &str) -> Option<&'a str> {
        self.0[key].as_str().map(str::trim).filter(|value| !value.is_empty())
    }

    /// Whether `key` is `true`.
    pub fn is_true(self, key: &str) -> bool {
        self.value(key) == Some("true")
    }

    /// The parts of a value that is a list, apart by commas or blanks.
    pub fn list(self, key: &str) -> impl Iterator<Item = &'a str> {
        let parts = self.value(key).into_iter().flat_map(|text| text.split([',', ' ']));
        parts.filter(|part| !part.is_empty())
    }

    /// Whether all that is written in them can be read.
    ///
    /// # Errors
    /// Names the first label that cannot, and how it is written.
    pub fn check(self) -> Result<(), String> {
        self.probe()?;
        for duration in [self.stable_for(), self.health_timeout(), self.drain(), self.hook_timeout()] {
            duration?;
        }
        self.strategy().map(drop)
    }

    /// How the container is handled, if it says so.
    ///
    /// # Errors
    /// Names the label and what it may be.
    pub fn strategy(self) -> Result<Option<Strategy>, String> {
        let parse = |value: &str| {
            serde_json::from_value(Value::String(value.to_owned())).map_err(|_| {
                format!(
                    "its label {STRATEGY} is {value:?}; it may be replace, start-first, remove, pull-only or notify"
                )
            })
        };
        self.value(STRATEGY).map(parse).transpose()
    }

    /// What must answer before the container counts as healthy: `tcp:PORT` or `http:PORT/PATH`.
    ///
    /// # Errors
    /// Names the label and how it is written.
    pub fn probe(self) -> Result<Option<Probe>, String> {
        let Some(text) = self.value(PROBE) else { return Ok(None) };
        let parsed = match text.split_once(':') {
            Some(("tcp", port)) => port.parse().ok().map(Probe::Tcp),
            Some(("http", rest)) => {
                let (port, path) = rest.split_once('/').unwrap_or((rest, ""));
                port.parse().ok().map(|port| Probe::Http(port, format!("/{path}")))
            }
            _ => None,
        };
        match parsed {
            Some(probe) => Ok(Some(probe)),
            None => Err(format!("its label {PROBE} is {text:?}; write tcp:PORT or http:PORT/PATH")),
        }
    }

    /// How long it must run to count as stable.
    ///
    /// # Errors
    /// Names the label and how it is written. So for the other durations.
    pub fn stable_for(self) -> Result<Option<Duration>, String> {
        self.duration(STABLE_FOR)
    }

    /// How long it may take to become healthy.
    pub fn health_timeout(self) -> Result<Option<Duration>, String> {
        self.duration(HEALTH_TIMEOUT)
    }

    /// With start-first, how long both serve before the old one is stopped.
    pub fn drain(self) -> Result<Option<Duration>, String> {
        self.duration(DRAIN)
    }

    /// How long one of its hooks may take.
    pub fn hook_timeout(self) -> Result<Option<Duration>, String> {
        self.duration(HOOK_TIMEOUT)
    }

    fn duration(self, key: &str) -> Result<Option<Duration>, String> {
        let parse = |text: &str| {
            let ms = parse_duration_ms(text);
            ms.map(Duration::from_millis)
                .ok_or_else(|| format!("its label {key} is {text:?}; write for example 30s or 5m"))
        };
        self.value(key).map(parse).transpose()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn labels_are_read_and_what_cannot_be_read_is_named() {
        let labels = |key: &str, value: &str| json!({ key: value });
        for (value, expected) in [
            ("tcp:80", Ok(Some(Probe::Tcp(80)))),
            ("http:8080/healthz", Ok(Some(Probe::Http(8080, "/healthz".to_owned())))),
            ("http:8080", Ok(Some(Probe::Http(8080, "/".to_owned())))),
            ("", Ok(None)),
            ("80", Err(())),
            ("tcp:99999", Err(())),
        ] {
            let labels = labels(PROBE, value);
            assert_eq!(Labels(&labels).probe().map_err(drop), expected, "{value:?}");
        }
        for (value, expected) in [
            ("start-first", Ok(Some(Strategy::StartFirst))),
            ("notify", Ok(Some(Strategy::Notify))),
            ("sometimes", Err(())),
        ] {
            let labels = labels(STRATEGY, value);
            assert_eq!(Labels(&labels).strategy().map_err(drop), expected, "{value:?}");
        }
        let labels = json!({ STABLE_FOR: "90s", DRAIN: "soon" });
        assert_eq!(Labels(&labels).stable_for(), Ok(Some(Duration::from_secs(90))));
        assert!(Labels(&labels).drain().is_err_and(|why| why.contains(DRAIN) && why.contains("soon")));
        assert_eq!(Labels(&Value::Null).health_timeout(), Ok(None));
    }
}
