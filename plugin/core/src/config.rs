//! Parses the manifest's string map into a validated [`Config`]. [`KEYS`] is the table of all keys. A test compares it
//! with the table in docs/configuration.md. This module makes no decisions.

use std::collections::BTreeSet;
use std::rc::Rc;

use imagewatch_abi::{Failure, Reference, Strategy, is_loopback_host, parse_duration_ms};

use crate::Host;
use crate::update::UpdatePolicy;

/// A config key.
#[derive(Debug)]
pub struct Key {
    /// The key in the manifest.
    pub name: &'static str,
    /// Type and unit.
    pub kind: &'static str,
    /// The value that applies if the key is absent or empty.
    pub default: &'static str,
    /// A description in one sentence.
    pub doc: &'static str,
}

const fn key(name: &'static str, kind: &'static str, default: &'static str, doc: &'static str) -> Key {
    Key { name, kind, default, doc }
}

/// The digest with which the registry's digest is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Baseline {
    /// The digest that the policy recorded before.
    Seen,
    /// The digests of the images that the containers run.
    Running,
}

/// What to do with a container if no source reports where its image came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum UnknownOrigin {
    /// Do not update the container, and do not query a registry for it.
    Hold,
    /// Ask the registry whether it has the image that the container runs. Update the container only if it does.
    Ask,
}

/// Every key that this policy reads.
pub const KEYS: &[Key] = &[
    key("enabled", "`true`, or anything else", "true", "Whether polling is on. A manual refresh works in either case."),
    key("interval", "duration (`ms`, `s`, `m`, `h`)", "5m", "Time between two polls."),
    key("names", "list", "", "Watch one image for each name. `template` gives its reference."),
    key("template", "text", "{prefix}/{name}:latest", "The reference of a name. `{prefix}` and `{name}` are replaced."),
    key(
        "prefix",
        "registry host and path",
        "",
        "The value of `{prefix}`. Its registry host is the host that is queried.",
    ),
    key("default_name", "text", "", "The name for a workload that names none. It must be one of `names`."),
    key("images", "list of references", "", "Watch these images."),
    key(
        "containers",
        "`labelled` or `all`",
        "",
        "Watch the running containers with label `imagewatch.enable=true`, or all running containers except those with `imagewatch.enable=false`.",
    ),
    key(
        "baseline",
        "`seen` or `running`",
        "seen",
        "What the registry's digest is compared with. `seen`: the digest that was recorded before, so that the first poll changes nothing. `running`: the image that the containers run, so that a container that is outdated at the start is updated.",
    ),
    key(
        "unknown_origin",
        "`hold` or `ask`",
        "hold",
        "What to do if no source reports whether an image was pulled or built on the machine (Docker with the containerd image store before API 1.55, Podman). `hold`: skip the container, and query no registry. `ask`: ask its registry whether it has the running image, and update the container only if it does.",
    ),
    key(
        "container_name_contains",
        "text",
        "",
        "Handle only those containers on a watched image whose name contains this text.",
    ),
    key(
        "strategy",
        "`replace`, `start-first`, `remove`, `pull-only` or `notify`",
        "replace",
        "`replace`: stop the container, then start a container on the new image. `start-first`: start the new one first if possible. `remove`: force-remove the container, so that a control plane creates it again. `pull-only`: only pull. `notify`: only report that the tag moved. A container's label `imagewatch.strategy` takes precedence. If the manifest lists images or names, `pull-only` and `notify` apply to all their containers.",
    ),
    key(
        "update_policy",
        "`digest`, `semver:RANGE`, `numeric` or `alphabetical`",
        "digest",
        "Which tag to follow; see Following tags. A container's labels `imagewatch.update-policy` and `imagewatch.tag-filter` take precedence together.",
    ),
    key(
        "tag_filter",
        "regular expression",
        "",
        "Only tags that match are candidates. The text of the first group is compared. A container's label `imagewatch.tag-filter` takes precedence.",
    ),
    key("platform", "`os/arch[/variant]`", "", "The platform to pull; empty means the engine's default."),
    key(
        "host.insecure_registries",
        "list of hosts, or `loopback`",
        "loopback",
        "Registries that may be contacted over plain HTTP. `loopback` means every loopback address.",
    ),
];

/// A validated config.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) enabled: bool,
    pub(crate) interval_ms: u64,
    pub(crate) watch: Watch,
    pub(crate) default_name: Option<String>,
    pub(crate) name_contains: Option<String>,
    pub(crate) baseline: Baseline,
    pub(crate) unknown_origin: UnknownOrigin,
    pub(crate) strategy: Strategy,
    pub(crate) update: Rc<UpdatePolicy>,
    pub(crate) platform: Option<String>,
    pub(crate) insecure: Insecure,
}

/// The source of the targets.
#[derive(Debug)]
pub(crate) enum Watch {
    /// The config lists the targets, as names with their references.
    Listed(Vec<(String, Reference)>),
    /// Running containers that opted in or, with `all`, every running container that did not opt out.
    Containers { all: bool },
}

/// The registries that are queried over plain HTTP.
#[derive(Debug)]
pub(crate) struct Insecure(Vec<String>);

impl Insecure {
    #[cfg(test)]
    pub(crate) fn none() -> Self {
        Self(Vec::new())
    }

    /// `http` or `https` for `host`.
    pub(crate) fn scheme(&self, host: &str) -> &'static str {
        let is_insecure = |entry: &String| entry == host || (entry == "loopback" && is_loopback_host(host));
        if self.0.iter().any(is_insecure) { "http" } else { "https" }
    }
}

impl Config {
    /// Parses and validates every key.
    ///
    /// # Errors
    /// The first key whose value is not usable, and why.
    pub(crate) fn parse(host: &dyn Host) -> Result<Self, Failure> {
        let text = |key: &str| host.config(key).map(|v| v.trim().to_owned()).filter(|v| !v.is_empty());
        let watch = parse_watch(&text)?;
        let default_name = text("default_name");
        if let (Some(name), Watch::Listed(targets)) = (&default_name, &watch)
            && !targets.iter().any(|(known, _)| known == name)
        {
            return Err(Failure::config("default_name", format!("{name:?} is not among `names`")));
        }
        Ok(Self {
            // The original system has the same rule: `true` means on, and any other text means off.
            enabled: text("enabled").is_none_or(|value| value == "true"),
            interval_ms: parse_interval_ms("interval", text("interval").as_deref().unwrap_or("5m"))?,
            watch,
            default_name,
            name_contains: text("container_name_contains"),
            baseline: match text("baseline").as_deref() {
                None | Some("seen") => Baseline::Seen,
                Some("running") => Baseline::Running,
                Some(_) => return Err(Failure::config("baseline", "expected `seen` or `running`")),
            },
            unknown_origin: match text("unknown_origin").as_deref() {
                None | Some("hold") => UnknownOrigin::Hold,
                Some("ask") => UnknownOrigin::Ask,
                Some(_) => return Err(Failure::config("unknown_origin", "expected `hold` or `ask`")),
            },
            strategy: parse_strategy(text("strategy").as_deref().unwrap_or("replace"))?,
            update: parse_update(&text)?,
            platform: text("platform").map(parse_platform).transpose()?,
            insecure: Insecure(list(text("host.insecure_registries").as_deref().unwrap_or("loopback"))),
        })
    }
}

fn parse_watch(text: &dyn Fn(&str) -> Option<String>) -> Result<Watch, Failure> {
    match (text("names"), text("images"), text("containers").as_deref()) {
        (Some(names), None, None) => parse_named(&list(&names), text),
        (None, Some(images), None) => {
            let parse = |image: String| match image.parse::<Reference>() {
                Ok(reference) => Ok((image, reference.with_explicit_tag())),
                Err(error) => Err(Failure::config("images", error.to_string())),
            };
            Ok(Watch::Listed(list(&images).into_iter().map(parse).collect::<Result<_, _>>()?))
        }
        (None, None, Some("labelled")) => Ok(Watch::Containers { all: false }),
        (None, None, Some("all")) => Ok(Watch::Containers { all: true }),
        (None, None, Some(other)) => {
            Err(Failure::config("containers", format!("{other:?} is neither `labelled` nor `all`")))
        }
        (None, None, None) => Err(Failure::config("names", "nothing to watch: set `names`, `images` or `containers`")),
        _ => Err(Failure::config("names", "`names`, `images` and `containers` exclude each other: set one of them")),
    }
}

/// Builds the targets from the original system's rule: all images follow the prefix, and the registry host is the part
/// before its first slash. A prefix is refused if Docker would pull its images from another registry.
fn parse_named(names: &[String], text: &dyn Fn(&str) -> Option<String>) -> Result<Watch, Failure> {
    let prefix = text("prefix").unwrap_or_default();
    let prefix = prefix.trim_end_matches('/');
    let template = text("template").unwrap_or_else(|| "{prefix}/{name}:latest".to_owned());
    if !template.contains("{name}") {
        return Err(Failure::config(
            "template",
            format!("{template:?} does not contain {{name}}, so all names would give the same image"),
        ));
    }
    let mut targets = Vec::new();
    for name in names {
        let image = template.replace("{prefix}", prefix).replace("{name}", name);
        let reference: Reference =
            image.parse().map_err(|error| Failure::config("template", format!("for name {name:?}: {error}")))?;
        if template.starts_with("{prefix}") && reference.registry() != registry_host(prefix) {
            return Err(Failure::config(
                "prefix",
                format!(
                    "{prefix:?} does not start with a registry host: Docker would pull {image:?} from {}",
                    reference.registry()
                ),
            ));
        }
        targets.push((name.clone(), reference.with_explicit_tag()));
    }
    Ok(Watch::Listed(targets))
}

/// The part of a prefix before the first `/`. A prefix without a slash is returned unchanged.
fn registry_host(prefix: &str) -> &str {
    prefix.split('/').next().unwrap_or(prefix)
}

/// Splits at commas and blanks. Each entry is kept once, at its first position.
fn list(text: &str) -> Vec<String> {
    let entries = text.split([',', ' ', '\t', '\n', '\r']).filter(|entry| !entry.is_empty());
    let mut known = BTreeSet::new();
    entries.filter(|entry| known.insert(*entry)).map(str::to_owned).collect()
}

fn parse_interval_ms(key: &str, text: &str) -> Result<u64, Failure> {
    match parse_duration_ms(text) {
        Some(ms @ 1..=MAX_INTERVAL_MS) => Ok(ms),
        _ => Err(Failure::config(
            key,
            format!("{text:?} is not a duration: expected for example `30s`, `5m` or `1h`, at most 30 days"),
        )),
    }
}

const MAX_INTERVAL_MS: u64 = 30 * 24 * 3_600_000;

fn parse_strategy(text: &str) -> Result<Strategy, Failure> {
    match text {
        "replace" => Ok(Strategy::Replace),
        "start-first" => Ok(Strategy::StartFirst),
        "remove" => Ok(Strategy::Remove),
        "pull-only" => Ok(Strategy::PullOnly),
        "notify" => Ok(Strategy::Notify),
        other => Err(Failure::config(
            "strategy",
            format!("{other:?} is not one of `replace`, `start-first`, `remove`, `pull-only`, `notify`"),
        )),
    }
}

fn parse_update(text: &dyn Fn(&str) -> Option<String>) -> Result<Rc<UpdatePolicy>, Failure> {
    let policy = text("update_policy").unwrap_or_else(|| "digest".to_owned());
    let policy = UpdatePolicy::parse(&policy).map_err(|why| Failure::config("update_policy", why))?;
    let policy = match text("tag_filter") {
        None => policy,
        Some(filter) => policy.filtered(&filter).map_err(|why| Failure::config("tag_filter", why))?,
    };
    Ok(Rc::new(policy))
}

fn parse_platform(text: String) -> Result<String, Failure> {
    let is_part = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    let parts: Vec<&str> = text.split('/').collect();
    if (2..=3).contains(&parts.len()) && parts.iter().all(|part| is_part(part)) {
        Ok(text)
    } else {
        Err(Failure::config("platform", format!("{text:?} is not a platform: expected for example `linux/amd64`")))
    }
}

#[cfg(test)]
mod tests;
