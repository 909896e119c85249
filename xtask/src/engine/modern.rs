//! A modern Docker Engine from the packages of a newer Debian suite, unpacked beside the system. The system itself
//! does not change: apt gets its own configuration, and nothing is installed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use super::lease::remove;
use crate::{
    error::{Context as _, Error, Result, failed},
    process::{capture, run},
    say::say,
};

/// Newest first. Packages of `sid` may stop running on an older Debian one day; then `trixie` serves.
const SUITES: [&str; 2] = ["sid", "trixie"];
/// They need nothing newer than glibc 2.34. `runc` stays the system's: newer ones need a newer glibc.
const PACKAGES: [&str; 2] = ["docker.io", "containerd"];
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// Where Debian keeps the address of its mirror: the present format and the one before.
const SOURCES: [&str; 2] = ["/etc/apt/sources.list.d/debian.sources", "/etc/apt/sources.list"];

/// The folder that holds `usr/sbin/dockerd`. Fetched once; later calls find it.
pub(super) fn provide(target: &Path) -> Result<PathBuf> {
    let folder = target.join("modern-engine");
    let mut problems = Vec::new();
    for suite in SUITES {
        let home = folder.join(suite);
        let root = home.join("root");
        if version(&root).is_none() {
            match fetch(&home, suite) {
                Err(Error::Failed(reason)) => problems.push(format!("{suite}: {reason}")),
                other => other?,
            }
        }
        if let Some(version) = version(&root) {
            say!("xtask: engine: {version}, from Debian {suite}, in {}", root.display());
            return Ok(root);
        }
        problems.push(format!("{suite}: its dockerd does not run on this machine"));
    }
    failed(format!(
        "no modern Docker Engine could be fetched ({}); set DOCKER_HOST to one that runs already",
        problems.join("; ")
    ))
}

/// What the unpacked `dockerd` says of itself, if it runs.
fn version(root: &Path) -> Option<String> {
    capture(Command::new(root.join("usr/sbin/dockerd")).arg("--version")).map(|line| line.trim().to_owned())
}

fn fetch(home: &Path, suite: &str) -> Result<()> {
    remove(home);
    let packages = home.join("packages");
    for folder in [home.join("lists/partial"), home.join("cache/archives/partial"), packages.clone()] {
        fs::create_dir_all(&folder).context(|| format!("create {}", folder.display()))?;
    }
    let mirror = mirror()?;
    let list = home.join("sources.list");
    let line = format!("deb [signed-by={KEYRING}] {mirror} {suite} main\n");
    fs::write(&list, line).context(|| format!("write {}", list.display()))?;
    run(apt(home).arg("update"))?;
    let wanted = PACKAGES.map(|package| format!("{package}/{suite}"));
    run(apt(home).arg("download").args(wanted).current_dir(&packages))?;
    for entry in fs::read_dir(&packages).context(|| format!("list {}", packages.display()))? {
        let package = entry.context(|| format!("list {}", packages.display()))?.path();
        run(Command::new("dpkg").arg("-x").arg(package).arg(home.join("root")))?;
    }
    remove(&packages);
    Ok(())
}

/// An `apt-get` that reads and writes only below `home`.
fn apt(home: &Path) -> Command {
    let mut apt = Command::new("apt-get");
    apt.arg("-q");
    for (key, value) in [
        ("Dir::Etc::sourcelist", home.join("sources.list").display().to_string()),
        ("Dir::Etc::sourceparts", "-".to_owned()),
        ("Dir::State::lists", home.join("lists").display().to_string()),
        ("Dir::Cache", home.join("cache").display().to_string()),
        // The download runs as the caller: apt's own user may not write to this folder.
        ("APT::Sandbox::User", "root".to_owned()),
    ] {
        apt.arg("-o").arg(format!("{key}={value}"));
    }
    apt
}

/// The address of the Debian mirror that the system uses.
fn mirror() -> Result<String> {
    let found = SOURCES.iter().find_map(|file| mirror_in(&fs::read_to_string(file).ok()?));
    found.map_or_else(|| failed(format!("no Debian mirror in {}", SOURCES.join(" or "))), Ok)
}

/// The first mirror in a list of sources, in either format.
fn mirror_in(sources: &str) -> Option<String> {
    sources.lines().find_map(|line| {
        let mut words = line.split_whitespace().filter(|word| !word.starts_with('[') && !word.ends_with(']'));
        match words.next()? {
            "URIs:" | "deb" => words.next().map(str::to_owned),
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_read_from_both_formats() {
        for (name, text, expected) in [
            (
                "deb822",
                "Types: deb\n# a comment\nURIs: http://mirror.test/debian\nSuites: bookworm\n",
                Some("http://mirror.test/debian"),
            ),
            ("one line", "# main\ndeb http://mirror.test/debian bookworm main\n", Some("http://mirror.test/debian")),
            (
                "with options",
                "deb [signed-by=/k.gpg] http://mirror.test/debian bookworm main\n",
                Some("http://mirror.test/debian"),
            ),
            ("sources only", "deb-src http://mirror.test/debian bookworm main\n", None),
            ("nothing", "", None),
        ] {
            assert_eq!(mirror_in(text).as_deref(), expected, "{name}");
        }
    }
}
