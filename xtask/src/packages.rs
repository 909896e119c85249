//! System programs that the tests and the demo need, and the Debian packages they come from. Installs them as root
//! on Debian; anywhere else it says exactly what is missing and for what.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    error::{Result, failed},
    process,
    say::say,
};

/// A program that must be there.
#[derive(Clone, Copy)]
struct Need {
    program: &'static str,
    package: &'static str,
    purpose: &'static str,
    found: fn(&str) -> Option<PathBuf>,
}

const REGISTRY: Need = Need {
    program: "docker-registry",
    package: "docker-registry",
    purpose: "the registry that the tests push to and poll",
    found: process::find_program,
};
const BUSYBOX: Need = Need {
    program: "busybox (statically linked)",
    package: "busybox-static",
    purpose: "the content of the test images",
    found: |_| process::find_program("busybox").filter(|file| is_static(file)),
};
const WASM_OPT: Need = Need {
    program: "wasm-opt",
    package: "binaryen",
    purpose: "makes the built policies a twentieth smaller",
    found: process::find_program,
};
const NODE: Need = Need {
    program: "node",
    package: "nodejs",
    purpose: "runs the decisions' tests as wasm",
    found: process::find_program,
};
const NPM: Need = Need {
    program: "npm",
    package: "npm",
    purpose: "installs what the policy's test under Node needs",
    found: process::find_program,
};
const PYTHON: Need = Need {
    program: "python3",
    package: "python3-venv",
    purpose: "the policy's test as a Python control plane has it",
    found: |name| process::find_program(name).filter(|python| has_venv(python)),
};
/// For the tests on the other engine. Its parts are no programs on PATH.
const PODMAN: [Need; 3] = [
    Need { program: "podman", package: "podman", purpose: "the tests on Podman", found: process::find_program },
    Need { program: "netavark", package: "netavark", purpose: "Podman's networks", found: find_helper },
    Need {
        program: "aardvark-dns",
        package: "aardvark-dns",
        purpose: "names in Podman's networks",
        found: find_helper,
    },
];
/// What an engine of our own needs; not asked for when one answers already.
const ENGINE: [Need; 2] = [
    Need {
        program: "dockerd",
        package: "docker.io",
        purpose: "the container engine, as none answers already",
        found: process::find_program,
    },
    Need { program: "iptables", package: "iptables", purpose: "dockerd's networks", found: process::find_program },
];

/// The programs that are handed to the children.
pub(crate) struct Programs {
    /// A statically linked busybox.
    pub(crate) busybox: PathBuf,
    /// The `distribution` registry.
    pub(crate) docker_registry: PathBuf,
    /// Whether a package was installed; Debian may have started its service.
    pub(crate) is_new: bool,
}

/// Finds every program, after installing the packages of those that are missing.
///
/// `own_engine`: whether dockerd is needed as well.
pub(crate) fn provide(own_engine: bool) -> Result<Programs> {
    let mut needs = vec![REGISTRY, BUSYBOX];
    needs.extend(if own_engine { ENGINE.as_slice() } else { &[] });
    let is_new = install_missing(&needs)?;
    Ok(Programs { busybox: found(&BUSYBOX)?, docker_registry: found(&REGISTRY)?, is_new })
}

/// Finds wasm-opt, after installing its package where it is missing.
pub(crate) fn provide_wasm_opt() -> Result<PathBuf> {
    provide_one(&WASM_OPT)
}

/// Finds Node, after installing its package where it is missing.
pub(crate) fn provide_node() -> Result<PathBuf> {
    provide_one(&NODE)
}

/// Finds npm, likewise.
pub(crate) fn provide_npm() -> Result<PathBuf> {
    provide_one(&NPM)
}

/// Finds a Python that can make virtual environments, likewise.
pub(crate) fn provide_python() -> Result<PathBuf> {
    provide_one(&PYTHON)
}

fn provide_one(need: &Need) -> Result<PathBuf> {
    install_missing(&[*need])?;
    found(need)
}

/// Debian's Python comes without what fills a virtual environment with pip.
fn has_venv(python: &Path) -> bool {
    process::capture(Command::new(python).args(["-c", "import ensurepip, venv"])).is_some()
}

/// Finds Podman, after installing its packages where they are missing.
pub(crate) fn provide_podman() -> Result<()> {
    install_missing(&PODMAN)?;
    PODMAN.iter().try_for_each(|need| found(need).map(drop))
}

/// Whether anything was missing.
fn install_missing(needs: &[Need]) -> Result<bool> {
    let missing: Vec<&Need> = needs.iter().filter(|need| (need.found)(need.program).is_none()).collect();
    if missing.is_empty() {
        return Ok(false);
    }
    say!("xtask: missing:\n{}", list(&missing));
    let packages: Vec<&str> = missing.iter().map(|need| need.package).collect();
    install(&packages).or_else(|error| failed(format!("{error}; missing:\n{}", list(&missing))))?;
    Ok(true)
}

fn find_helper(program: &str) -> Option<PathBuf> {
    Some(Path::new("/usr/lib/podman").join(program)).filter(|file| file.is_file())
}

fn found(need: &Need) -> Result<PathBuf> {
    match (need.found)(need.program) {
        Some(file) => {
            say!("xtask: {}: {}", need.program, file.display());
            Ok(file)
        }
        None => failed(format!("{} is not on PATH even with the package {} installed", need.program, need.package)),
    }
}

fn list(needs: &[&Need]) -> String {
    let line = |need: &&Need| format!("  {} (Debian package {}): {}", need.program, need.package, need.purpose);
    needs.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// Installs Debian packages; an error when this is no Debian or we are not root.
pub(crate) fn install(packages: &[&str]) -> Result<()> {
    let os = fs::read_to_string("/etc/os-release").unwrap_or_default();
    if !is_debian(&os) {
        return failed(format!("not Debian, so install these yourself: {}", packages.join(" ")));
    }
    if !is_root() {
        return failed(format!(
            "not root, so run: sudo apt-get install --no-install-recommends {}",
            packages.join(" ")
        ));
    }
    process::run(apt().arg("update"))?;
    process::run(apt().args(["install", "-y", "--no-install-recommends"]).args(packages))
}

fn apt() -> Command {
    let mut apt = Command::new("apt-get");
    apt.env("DEBIAN_FRONTEND", "noninteractive").arg("-q");
    apt
}

/// Whether we are root, by the owner of our own /proc entry: std does not tell.
pub(crate) fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    fs::metadata("/proc/self").is_ok_and(|meta| meta.uid() == 0)
}

/// Whether an os-release file is of Debian or of something made from it.
fn is_debian(os_release: &str) -> bool {
    let values = |key: &str| {
        let lines = os_release.lines().filter_map(move |line| line.strip_prefix(key)?.strip_prefix('='));
        lines.flat_map(|value| value.trim_matches(['"', '\'']).split_whitespace()).any(|id| id == "debian")
    };
    values("ID") || values("ID_LIKE")
}

/// Whether the file is a 64-bit little-endian ELF program that asks for no interpreter. A dynamic busybox would not
/// start in an image that has nothing else in it.
fn is_static(file: &Path) -> bool {
    fs::read(file).is_ok_and(|bytes| has_interpreter(&bytes) == Some(false))
}

/// Whether an ELF image has a `PT_INTERP` program header; `None` when it is no such image.
fn has_interpreter(elf: &[u8]) -> Option<bool> {
    const PT_INTERP: u32 = 3;
    elf.starts_with(b"\x7fELF\x02\x01").then_some(())?;
    let offset = usize::try_from(u64::from_le_bytes(elf.get(0x20..0x28)?.try_into().ok()?)).ok()?;
    let half = |at: usize| Some(usize::from(u16::from_le_bytes(elf.get(at..at + 2)?.try_into().ok()?)));
    let (size, count) = (half(0x36)?, half(0x38)?);
    let headers = elf.get(offset..)?.chunks(size.max(4)).take(count);
    Some(headers.filter_map(|header| header.get(..4)).any(|kind| kind == PT_INTERP.to_le_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debian_and_its_children_are_told_from_the_others() {
        for (name, text, expected) in [
            ("debian itself", "PRETTY_NAME=\"Debian GNU/Linux 12\"\nID=debian\n", true),
            ("a child", "ID=ubuntu\nID_LIKE=debian\n", true),
            ("a child with two parents", "ID=pop\nID_LIKE=\"ubuntu debian\"\n", true),
            ("quoted", "ID=\"debian\"\n", true),
            ("alpine", "ID=alpine\nHOME_URL=\"https://debian.example/\"\n", false),
            ("a name that begins so", "ID=debianish\n", false),
            ("no such file", "", false),
        ] {
            assert_eq!(is_debian(text), expected, "{name}");
        }
    }

    #[test]
    fn a_program_with_an_interpreter_is_not_static() {
        let mut elf = vec![0; 0x40 + 2 * 0x38];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        elf[0x20] = 0x40;
        elf[0x36] = 0x38;
        elf[0x38] = 2;
        assert_eq!(has_interpreter(&elf), Some(false), "two headers, none of them an interpreter");
        elf[0x40 + 0x38] = 3;
        assert_eq!(has_interpreter(&elf), Some(true), "the second header is one");
        assert_eq!(has_interpreter(b"#!/bin/sh"), None, "a script");
        assert_eq!(has_interpreter(&elf[..0x37]), None, "cut off");
    }
}
