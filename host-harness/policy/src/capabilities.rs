//! What a module says that it needs, in a custom section of its own that is read without running it, and how that
//! compares with what a manifest grants. The host holds it to both.

use imagewatch_abi::Strategy;
use serde::{Deserialize, Serialize};

use super::grants::{Grants, is_covered};

/// Name of the custom section: [`Capabilities`] as JSON.
pub const CAPABILITIES_SECTION: &str = "imagewatch.capabilities";

/// What a module asks for. Everything must be said: a module that leaves one out is refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Capabilities {
    /// The host functions that it imports.
    pub functions: Vec<String>,
    /// The strategies that it may order.
    pub strategies: Vec<Strategy>,
    /// Hosts, as in `allowed_hosts`.
    pub hosts: Need,
    /// Images, as in `grant.images`.
    pub images: Need,
    /// Containers, as in `grant.containers`.
    pub containers: Need,
}

/// What a module asks for of one kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", untagged)]
pub enum Need {
    /// `"any"`: its config says what; it works with whatever is granted.
    #[serde(with = "any")]
    Any,
    /// Patterns: it never needs another.
    Only(Vec<String>),
}

/// The word `any`.
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

/// One kind of thing, asked for and granted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Compared {
    /// `functions`, `strategies`, `hosts`, `images` or `containers`.
    pub what: &'static str,
    /// What the module asks for; none: whatever is granted.
    pub asked: Option<Vec<String>>,
    /// What the manifest grants.
    pub granted: Vec<String>,
    /// What of it is not granted.
    pub beyond: Vec<String>,
}

impl Capabilities {
    /// Each kind of thing with what is asked for of it; none: whatever is granted.
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

    /// Each kind beside what `grants` has of it.
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

    /// Whether all of it lies within `grants`; else a fragment that says what does not, and what to do.
    pub fn fits(&self, grants: &Grants) -> Result<(), String> {
        if let Need::Only(hosts) = &self.hosts {
            grants.hosts.narrow(hosts).map_err(|wrong| {
                format!("it asks for a host that cannot be read: {wrong}; correct its section `{CAPABILITIES_SECTION}`")
            })?;
        }
        match self.compare(grants).into_iter().find(|compared| !compared.beyond.is_empty()) {
            None => Ok(()),
            Some(Compared { what, beyond, .. }) => {
                let key =
                    if what == "hosts" { "`allowed_hosts`".to_owned() } else { format!("config key `grant.{what}`") };
                Err(format!(
                    "it asks for {what} {}, which the manifest does not grant; add that to {key} if it is to have it",
                    beyond.join(", ")
                ))
            }
        }
    }
}

/// As they stand in JSON.
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
    fn what_a_module_asks_for_must_be_granted(#[case] hosts: &str, #[case] config: &str, #[case] part: Option<&str>) {
        let asked: Capabilities = serde_json::from_str(ASKED).expect("capabilities");
        match (asked.fits(&grants(hosts, config)), part) {
            (Ok(()), None) => {}
            (Err(reason), Some(part)) => assert!(reason.contains(part), "{reason}"),
            (other, _) => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_policy_gets_no_more_than_it_asks_for() {
        let asked: Capabilities = serde_json::from_str(ASKED).expect("capabilities");
        let given =
            grants(r#""*""#, r#""grant.images": "*", "grant.containers": "name:web""#).narrow(&asked).expect("good");
        assert!(given.has_image(&"ghcr.io/o/a:v1".parse().expect("a reference")));
        assert!(!given.has_image(&"ghcr.io/o/a:v2".parse().expect("a reference")));
        assert!(given.has_strategy(Strategy::Notify) && !given.has_strategy(Strategy::Replace));
        assert!(!given.never_has_name("web") && given.never_has_name("db"));
    }

    #[rstest]
    #[case::field_left_out(&ASKED.replace(r#", "containers": "any""#, ""), "containers")]
    #[case::more_than_there_is(&ASKED.replace("functions", "files"), "files")]
    #[case::strategy(&ASKED.replace("notify", "explode"), "explode")]
    #[case::word(&ASKED.replace("any", "all"), "Need")]
    fn a_declaration_that_says_something_else_is_none(#[case] text: &str, #[case] part: &str) {
        let error = serde_json::from_str::<Capabilities>(text).expect_err("no declaration").to_string();
        assert!(error.contains(part), "{error}");
    }
}
