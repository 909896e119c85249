//! For which platform an order pulls and creates: what its containers run stays what they run.

use std::collections::BTreeSet;

use imagewatch_abi::{Container, Failure, Order, Strategy};

use super::{OrderContext, list_containers};

/// The platforms of an order.
#[derive(Debug)]
pub(super) struct Platforms {
    /// The engine's own, `os/arch`.
    default: String,
    /// What to pull for; absent: the engine's default.
    pub(super) wanted: Option<String>,
    /// Whether the manifest's key `platform` asks for it.
    is_explicit: bool,
}

impl Platforms {
    /// The platform that the manifest asks for, else the one that all containers of `order` run, unless it is the
    /// engine's own: then nothing is asked for, as with `docker run` without `--platform`.
    /// Containers that cannot be listed now are listed again, and looked at, when they are to be replaced.
    ///
    /// With strategy `remove`, somebody else creates the next container and chooses its platform. Containers are then
    /// listed after the pull, as in the seed system.
    ///
    /// # Errors
    /// The engine does not name its platform.
    pub(super) async fn of(ctx: &OrderContext, order: &Order) -> Result<Self, Failure> {
        if order.platform.is_some() || !order.recreate || order.strategy == Strategy::Remove {
            return Ok(Self { default: String::new(), wanted: order.platform.clone(), is_explicit: true });
        }
        let containers = list_containers(ctx, order).await.unwrap_or_default();
        let default = ctx.rollout.engine.platform().await.map_err(|error| error.failure())?;
        let mut own =
            containers.iter().map(|container| foreign(container, &default)).collect::<BTreeSet<_>>().into_iter();
        let wanted = match (own.next(), own.next()) {
            (Some(only), None) => only.map(str::to_owned),
            _ => None,
        };
        Ok(Self { default, wanted, is_explicit: false })
    }

    /// Why `container` is not replaced, a lowercase fragment: it would get another platform than it has.
    pub(super) fn reason_against(&self, container: &Container) -> Option<String> {
        let own =
            foreign(container, &self.default).filter(|own| !self.is_explicit && self.wanted.as_deref() != Some(own))?;
        Some(format!(
            "it runs {own}, and other containers on this image run another platform: watch it with a manifest of its own \
             that sets config key `platform` to {own}"
        ))
    }
}

/// The platform that `container` runs, if it is not the engine's own. Variants do not make it another one: an image for
/// amd64/v2 is an update of one for amd64.
fn foreign<'a>(container: &'a Container, default: &str) -> Option<&'a str> {
    let platform = container.platform.as_deref()?;
    let is_default = platform.strip_prefix(default).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    (!is_default).then_some(platform)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_platform_is_foreign_by_system_and_architecture() {
        for (platform, default, expected) in [
            ("linux/386", "linux/amd64", Some("linux/386")),
            ("linux/arm64/v8", "linux/amd64", Some("linux/arm64/v8")),
            ("linux/arm/v6", "linux/arm64", Some("linux/arm/v6")),
            ("linux/amd64", "linux/amd64", None),
            ("linux/amd64/v3", "linux/amd64", None),
            ("linux/arm/v6", "linux/arm", None),
            ("windows/amd64", "linux/amd64", Some("windows/amd64")),
        ] {
            let container = Container { platform: Some(platform.to_owned()), ..Container::default() };
            assert_eq!(foreign(&container, default), expected, "{platform} on {default}");
        }
        assert_eq!(foreign(&Container::default(), "linux/amd64"), None, "not reported");
    }
}
