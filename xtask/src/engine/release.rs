//! Which Docker Engine the tests run on, and how its daemon is started.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use super::modern;
use crate::error::Result;

/// A Docker Engine with one of its image stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Release {
    /// The system's `docker.io` package, with a graph driver.
    System,
    /// A modern Docker Engine with a graph driver.
    Modern,
    /// A modern Docker Engine with the containerd image store, the default from Docker 29 on.
    ModernContainerd,
}

impl Release {
    /// All releases, in the order in which a full run uses them.
    pub(crate) const ALL: [Self; 3] = [Self::System, Self::Modern, Self::ModernContainerd];

    /// As `--engine` names it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::Modern => "modern",
            Self::ModernContainerd => "modern-containerd",
        }
    }

    /// The release that `--engine` names.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|release| release.name() == name)
    }

    /// The daemon's options that choose the image store.
    pub(crate) fn store_options(self) -> &'static [&'static str] {
        match self {
            Self::System => &["--storage-driver", "overlay2"],
            Self::Modern => &["--feature", "containerd-snapshotter=false", "--storage-driver", "overlay2"],
            Self::ModernContainerd => &["--feature", "containerd-snapshotter=true"],
        }
    }

    /// The search path on which `dockerd` and `containerd` of this release come first. Fetches a modern release, once,
    /// to a folder below `target`.
    pub(crate) fn search_path(self, target: &Path) -> Result<OsString> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        if self == Self::System {
            return Ok(path);
        }
        let root = modern::provide(target)?;
        let folders: Vec<PathBuf> = ["usr/sbin", "usr/bin"]
            .iter()
            .map(|folder| root.join(folder))
            .chain(std::env::split_paths(&path))
            .collect();
        Ok(std::env::join_paths(folders).unwrap_or(path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_release_is_found_by_its_name_and_no_other_name_is() {
        for release in Release::ALL {
            assert_eq!(Release::parse(release.name()), Some(release));
        }
        assert_eq!(Release::parse("podman"), None);
    }
}
