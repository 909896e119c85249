//! What an operator says of one container by its labels. Reads them; does nothing about them.

use std::time::Duration;

use imagewatch_abi::Strategy;
pub use imagewatch_abi::label::{
    ALLOW_RM, CARRY_NOTHING, DEPENDS_ON, ENABLE, KEEP_ENV, KEEP_MAC, PREFIX as OURS, PROBE, Probe, SHARED_VOLUMES_SAFE,
    STRATEGY, UPDATER,
};
use imagewatch_abi::label::{
    DRAIN, HEALTH_TIMEOUT, HOOK_POST_UPDATE, HOOK_PRE_CHECK, HOOK_PRE_UPDATE, HOOK_TIMEOUT, STABLE_FOR,
    check as check_all, parse_yes_no, read_duration_ms, read_probe, read_strategy,
};
use serde_json::Value;

/// Compose's: the project that it belongs to.
pub const COMPOSE_PROJECT: &str = "com.docker.compose.project";
/// Compose's: the service that it runs.
pub const COMPOSE_SERVICE: &str = "com.docker.compose.service";

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
            Self::PreCheck => HOOK_PRE_CHECK,
            Self::PreUpdate => HOOK_PRE_UPDATE,
            Self::PostUpdate => HOOK_POST_UPDATE,
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

    /// Whether `key` says yes. A value that cannot be read permits nothing; [`Labels::check`] names it.
    pub fn is_yes(self, key: &str) -> bool {
        self.0[key].as_str().and_then(parse_yes_no) == Some(true)
    }

    /// Whether `key` says no.
    pub fn is_no(self, key: &str) -> bool {
        self.0[key].as_str().and_then(parse_yes_no) == Some(false)
    }

    /// The parts of a value that is a list, apart by commas or blanks.
    pub fn list(self, key: &str) -> impl Iterator<Item = &'a str> {
        let states = self.value(key).into_iter().flat_map(|text| text.split([',', ' ']));
        states.filter(|state| !state.is_empty())
    }

    /// Whether every label of imagewatch's is known and can be read.
    ///
    /// # Errors
    /// Names the first that is not, and what to write.
    pub fn check(self) -> Result<(), String> {
        let all = self.0.as_object().into_iter().flatten();
        check_all(all.filter_map(|(name, value)| Some((name.as_str(), value.as_str()?))))
    }

    /// How the container is handled, if it says so.
    ///
    /// # Errors
    /// Names the label and what it may be.
    pub fn strategy(self) -> Result<Option<Strategy>, String> {
        self.value(STRATEGY).map(read_strategy).transpose()
    }

    /// What must answer before the container counts as healthy: `tcp:PORT` or `http:PORT/PATH`.
    ///
    /// # Errors
    /// Names the label and how it is written.
    pub fn probe(self) -> Result<Option<Probe>, String> {
        self.value(PROBE).map(read_probe).transpose()
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
        self.value(key).map(|text| read_duration_ms(key, text).map(Duration::from_millis)).transpose()
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
        for (value, says_yes, says_no) in [
            ("Yes", true, false),
            (" 1", true, false),
            ("OFF", false, true),
            ("maybe", false, false),
            ("", false, false),
        ] {
            let labels = labels(ALLOW_RM, value);
            assert_eq!(
                (Labels(&labels).is_yes(ALLOW_RM), Labels(&labels).is_no(ALLOW_RM)),
                (says_yes, says_no),
                "{value:?}"
            );
        }
        let labels = json!({ STABLE_FOR: "90s", DRAIN: "soon" });
        assert_eq!(Labels(&labels).stable_for(), Ok(Some(Duration::from_secs(90))));
        assert!(Labels(&labels).drain().is_err_and(|why| why.contains(DRAIN) && why.contains("soon")));
        assert_eq!(Labels(&Value::Null).health_timeout(), Ok(None));
    }
}
