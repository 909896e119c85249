//! The manifest's string map, read into a checked [`Config`]. [`KEYS`] is the one table of what
//! there is; the table in docs/configuration.md is compared with it in a test. Takes no decision.

use std::collections::BTreeSet;
use std::rc::Rc;

use imagewatch_abi::{Failure, Reference, Strategy, is_loopback_host, parse_duration_ms};

use crate::Host;
use crate::update::UpdatePolicy;

/// A config key, its type with unit, its default, and what it is for.
#[derive(Debug)]
pub struct Key {
    /// As written in the manifest.
    pub name: &'static str,
    /// Type and unit.
    pub kind: &'static str,
    /// What an absent or empty value means.
    pub default: &'static str,
    /// One sentence.
    pub doc: &'static str,
}

const fn key(name: &'static str, kind: &'static str, default: &'static str, doc: &'static str) -> Key {
    Key { name, kind, default, doc }
}

/// What the registry's digest is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Baseline {
    /// The one seen before.
    Seen,
    /// Those of the images that run.
    Running,
}

/// What becomes of a container when nothing reports where its image came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum UnknownOrigin {
    /// It is not updated, and no registry is asked about it.
    Hold,
    /// Its registry is asked whether it has the image that runs; the container is updated only then.
    Ask,
}

/// Every key that this policy reads.
pub const KEYS: &[Key] = &[
    key("enabled", "`true`, or anything else", "true", "Whether polling works; a manual refresh works all the same."),
    key("interval", "duration (`ms`, `s`, `m`, `h`)", "5m", "Time between two polls."),
    key("names", "list", "", "Watch one image for each name, made from `template`."),
    key(
        "template",
        "text",
        "{prefix}/{name}:latest",
        "The reference of a name; `{prefix}` and `{name}` are filled in.",
    ),
    key(
        "prefix",
        "registry host and path",
        "",
        "What `{prefix}` stands for; its registry host is the one that is asked.",
    ),
    key("default_name", "text", "", "The name that stands for a workload that names none; one of `names`."),
    key("images", "list of references", "", "Watch these images."),
    key(
        "containers",
        "`labelled` or `all`",
        "",
        "Watch the running containers with label `imagewatch.enable=true`, or all but those with `imagewatch.enable=false`.",
    ),
    key(
        "baseline",
        "`seen` or `running`",
        "seen",
        "What a digest is compared with: the one seen before, so that the first sight changes nothing; or the image that the containers run, so that one that is behind at the start is updated.",
    ),
    key(
        "unknown_origin",
        "`hold` or `ask`",
        "hold",
        "What to do where nothing reports whether an image was pulled or built on the machine (Docker with the containerd image store before API 1.55, Podman): leave the container alone and ask no registry; or ask its registry whether it has the image that runs, and update the container only then.",
    ),
    key(
        "container_name_contains",
        "text",
        "",
        "Of the containers on a watched image, handle only those whose name contains this.",
    ),
    key(
        "strategy",
        "`replace`, `start-first`, `remove`, `pull-only` or `notify`",
        "replace",
        "`replace`: stop the container, then start a container on the new image. `start-first`: start the new one first if possible. `remove`: force-remove the container, so that a control plane creates it again. `pull-only`: only pull. `notify`: only say that the tag moved. A container's label `imagewatch.strategy` takes precedence. If the manifest lists images or names, `pull-only` and `notify` apply to all their containers.",
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
        "Only tags that match count. The text of the first group is compared. A container's label `imagewatch.tag-filter` takes precedence.",
    ),
    key("platform", "`os/arch[/variant]`", "", "The platform to pull; empty means the engine's default."),
    key(
        "host.insecure_registries",
        "list of hosts, or `loopback`",
        "loopback",
        "Registries that may be asked over plain HTTP; `loopback` stands for every loopback address.",
    ),
];

/// A checked config.
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

/// Where targets come from.
#[derive(Debug)]
pub(crate) enum Watch {
    /// Named by config: a name and its reference.
    Listed(Vec<(String, Reference)>),
    /// Running containers that opted in, or all that did not opt out.
    Containers { all: bool },
}

/// Which registries are asked over plain HTTP.
#[derive(Debug)]
pub(crate) struct Insecure(Vec<String>);

impl Insecure {
    /// None of them.
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
    /// Reads and checks every key.
    ///
    /// # Errors
    /// The first key whose value cannot be used, and why.
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
            // As the seed system has it: on for `true` and off for everything else.
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

/// The seed system's rule: everything follows the prefix, and the registry host is what stands
/// before its first slash. A prefix for which Docker would pull from elsewhere is refused.
fn parse_named(names: &[String], text: &dyn Fn(&str) -> Option<String>) -> Result<Watch, Failure> {
    let prefix = text("prefix").unwrap_or_default();
    let prefix = prefix.trim_end_matches('/');
    let template = text("template").unwrap_or_else(|| "{prefix}/{name}:latest".to_owned());
    if !template.contains("{name}") {
        return Err(Failure::config(
            "template",
            format!("{template:?} has no {{name}}, so all names would be one image"),
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

/// What stands before the first `/` of a prefix; a bare host is returned whole.
fn registry_host(prefix: &str) -> &str {
    prefix.split('/').next().unwrap_or(prefix)
}

/// Splits at commas and blanks; each entry once, in its first place.
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
            format!("{text:?} is no duration: expected for example `30s`, `5m` or `1h`, at most 30 days"),
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
            format!("{other:?} is none of `replace`, `start-first`, `remove`, `pull-only` and `notify`"),
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
        Err(Failure::config("platform", format!("{text:?} is no platform: expected for example `linux/amd64`")))
    }
}

#[cfg(test)]
mod tests;
