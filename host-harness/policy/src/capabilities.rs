//! The capabilities that a module requests, and their comparison with what a manifest grants.
//!
//! A module declares them in a custom section, which is read without running the module. The host enforces both the
//! declared capabilities and the grants.

use imagewatch_abi::Strategy;
use serde::{Deserialize, Serialize};

use super::grants::{Grants, is_covered};

/// Name of the custom section. It contains [`Capabilities`] as JSON.
pub const CAPABILITIES_SECTION: &str = "imagewatch.capabilities";

/// The capabilities that a module requests. All fields are required: a module that omits one is refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Capabilities {
    /// The host functions that the module imports.
    pub functions: Vec<String>,
    /// The strategies that the module orders.
    pub strategies: Vec<Strategy>,
    /// Hosts, written as in `allowed_hosts`.
    pub hosts: Need,
    /// Images, written as in `grant.images`.
    pub images: Need,
    /// Containers, written as in `grant.containers`.
    pub containers: Need,
}

/// The hosts, images or containers that a module requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", untagged)]
pub enum Need {
    /// `"any"`: the module works with everything that is granted. Its config says what it uses.
    #[serde(with = "any")]
    Any,
    /// A list of patterns: the module needs nothing else.
    Only(Vec<String>),
}

/// Serializes [`Need::Any`] as `"any"`.
mod any {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("any")
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<(), D::Error> {
        match String::deserialize(deserializer)?.as_str() {
            "any" => Ok(()),
            other => Err(D::Error::custom(format!("{other:?} is neither \"any\" nor a list"))),
        }
    }
}

/// One kind of capability: what is requested and what is granted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Compared {
    /// `functions`, `strategies`, `hosts`, `images` or `containers`.
    pub what: &'static str,
    /// What the module requests. `None` means everything that is granted.
    pub asked: Option<Vec<String>>,
    /// What the manifest grants.
    pub granted: Vec<String>,
    /// What the module requests, but the manifest does not grant.
    pub beyond: Vec<String>,
}

impl Capabilities {
    /// Returns each kind of capability with what is requested. `None` means everything that is granted.
    pub fn wants(&self) -> [(&'static str, Option<Vec<String>>); 5] {
        let need = |need: &Need| match need {
            Need::Any => None,
            Need::Only(patterns) => Some(patterns.clone()),
        };
        [
            ("functions", Some(self.functions.clone())),
            ("strategies", Some(names(&self.strategies))),
            ("hosts", need(&self.hosts)),
            ("images", need(&self.images)),
            ("containers", need(&self.containers)),
        ]
    }

    /// Compares each kind of capability with `grants`.
    pub fn compare(&self, grants: &Grants) -> Vec<Compared> {
        let granted = [
            grants.functions.clone(),
            names(&grants.strategies),
            grants.hosts.entries(),
            grants.images.clone(),
            grants.containers.clone(),
        ];
        let compare = |((what, asked), granted): ((_, Option<Vec<String>>), Vec<String>)| {
            let is_granted =
                |asked: &str| if what == "hosts" { grants.hosts.covers(asked) } else { is_covered(asked, &granted) };
            let beyond = asked.iter().flatten().filter(|asked| !is_granted(asked)).cloned().collect();
            Compared { what, asked, granted, beyond }
        };
        self.wants().into_iter().zip(granted).map(compare).collect()
    }

    /// Checks that `grants` cover everything that the module requests.
    ///
    /// # Errors
    /// A fragment that names what is not granted, and what to do.
    pub fn fits(&self, grants: &Grants) -> Result<(), String> {
        if let Need::Only(hosts) = &self.hosts {
            grants.hosts.narrow(hosts).map_err(|wrong| {
                format!("it requests an invalid host: {wrong}; correct its section `{CAPABILITIES_SECTION}`")
            })?;
        }
        match self.compare(grants).into_iter().find(|compared| !compared.beyond.is_empty()) {
            None => Ok(()),
            Some(Compared { what, beyond, .. }) => {
                let key =
                    if what == "hosts" { "`allowed_hosts`".to_owned() } else { format!("config key `grant.{what}`") };
                Err(format!(
                    "it requests {what} {}, which the manifest does not grant; to grant this, add it to {key}",
                    beyond.join(", ")
                ))
            }
        }
    }
}

/// The names of the strategies, as in JSON.
fn names(strategies: &[Strategy]) -> Vec<String> {
    let name = |strategy: &Strategy| serde_json::to_value(strategy).ok()?.as_str().map(str::to_owned);
    strategies.iter().filter_map(name).collect()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::PluginManifest;

    const ASKED: &str = r#"{"functions": ["http_send"], "strategies": ["notify"], "hosts": ["ghcr.io"],
        "images": ["ghcr.io/o/a:v1"], "containers": "any"}"#;

    fn grants(hosts: &str, config: &str) -> Grants {
        let text = format!(r#"{{"wasm": [{{"path": "p"}}], "allowed_hosts": [{hosts}], "config": {{{config}}}}}"#);
        PluginManifest::parse("m", "m.json", &text, &|_| None).expect("a good manifest").grants
    }

    #[rstest]
    #[case::all(r#""*""#, r#""grant.images": "*""#, None)]
    #[case::exactly(
        r#""GHCR.io/o""#,
        r#""grant.images": "ghcr.io/o/*", "grant.strategies": "notify", "grant.functions": "http_send""#,
        None
    )]
    #[case::host(r#""docker.io""#, r#""grant.images": "*""#, Some("hosts ghcr.io"))]
    #[case::image(r#""*""#, r#""grant.images": "ghcr.io/p/*""#, Some("images ghcr.io/o/a:v1"))]
    #[case::strategy(r#""*""#, r#""grant.images": "*", "grant.strategies": "replace""#, Some("`grant.strategies`"))]
    #[case::function(r#""*""#, r#""grant.images": "*", "grant.functions": "host_log""#, Some("functions http_send"))]
    fn requested_capabilities_must_be_granted(#[case] hosts: &str, #[case] config: &str, #[case] part: Option<&str>) {
        let asked: Capabilities = serde_json::from_str(ASKED).expect("capabilities");
        match (asked.fits(&grants(hosts, config)), part) {
            (Ok(()), None) => {}
            (Err(reason), Some(part)) => assert!(reason.contains(part), "{reason}"),
            (other, _) => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_policy_gets_only_what_it_requests() {
        let asked: Capabilities = serde_json::from_str(ASKED).expect("capabilities");
        let given =
            grants(r#""*""#, r#""grant.images": "*", "grant.containers": "name:web""#).narrow(&asked).expect("good");
        assert!(given.has_image(&"ghcr.io/o/a:v1".parse().expect("a reference")));
        assert!(!given.has_image(&"ghcr.io/o/a:v2".parse().expect("a reference")));
        assert!(given.has_strategy(Strategy::Notify) && !given.has_strategy(Strategy::Replace));
        assert!(!given.never_has_name("web") && given.never_has_name("db"));
    }

    #[rstest]
    #[case::missing_field(&ASKED.replace(r#", "containers": "any""#, ""), "containers")]
    #[case::unknown_field(&ASKED.replace("functions", "files"), "files")]
    #[case::strategy(&ASKED.replace("notify", "explode"), "explode")]
    #[case::word(&ASKED.replace("any", "all"), "Need")]
    fn a_malformed_declaration_is_refused(#[case] text: &str, #[case] part: &str) {
        let error = serde_json::from_str::<Capabilities>(text).expect_err("malformed").to_string();
        assert!(error.contains(part), "{error}");
    }
}
