//! Debian's own Rust, for machines where rustup cannot fetch. It ships no standard library for wasm, so wasm builds
//! make one from its sources, with the C library from `wasi-libc` and a linker from any rustup toolchain at hand.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use super::{BARE, OLDEST, WASI, version_of};
use crate::{
    error::{Result, failed},
    packages,
    process::{self, capture},
    say::say,
};

const PACKAGES: [&str; 6] = ["rustc-web", "cargo-web", "rust-web-src", "wasi-libc", "rust-web-clippy", "rustfmt-web"];
/// For when there is no `rust-lld`: Debian links that name to this version's lld.
const LINKER_PACKAGES: [&str; 2] = ["rust-web-llvm", "lld-22"];

const RUSTC: &str = "/usr/bin/rustc";
const CARGO: &str = "/usr/bin/cargo";
const RUSTDOC: &str = "/usr/bin/rustdoc";
/// One file of each package that a wasm build reads, beside the compiler itself.
const SOURCES: &str = "/usr/lib/rustlib/src/rust/library/std/Cargo.toml";
const REACTOR: &str = "/usr/lib/wasm32-wasi/crt1-reactor.o";
const CLIPPY: &str = "/usr/bin/cargo-clippy";
const RUSTFMT: &str = "/usr/bin/rustfmt";

/// Debian's Rust, with the linker that it lacks for wasm.
pub(super) struct Debian {
    linker: PathBuf,
}

impl Debian {
    /// Its cargo, with its own compiler whatever is on PATH.
    pub(super) fn cargo() -> Command {
        let mut cargo = Command::new(CARGO);
        cargo.env("RUSTC", RUSTC).env("RUSTDOC", RUSTDOC).env("RUSTFMT", RUSTFMT).env_remove("RUSTUP_TOOLCHAIN");
        // cargo looks for its subcommands (cargo-clippy, cargo-fmt) in ~/.cargo/bin and on PATH.
        cargo.env("PATH", path_with_debian_first());
        cargo
    }

    /// What a wasm build needs on top.
    pub(super) fn add_wasm(&self, cargo: &mut Command) {
        cargo.arg("-Zbuild-std=std,panic_abort");
        cargo.env("RUSTC_BOOTSTRAP", "1"); // -Z on a stable compiler
        for target in [WASI, BARE] {
            cargo.env(target_key(target, "LINKER"), &self.linker);
        }
        let folder = Path::new(REACTOR).parent().expect("an absolute file has a folder").display();
        let flags = format!("-L{folder} -Clink-arg={REACTOR} -Clink-arg=--export=_initialize -Clink-self-contained=no");
        cargo.env(target_key(WASI, "RUSTFLAGS"), flags);
    }
}

/// `CARGO_TARGET_WASM32_WASIP1_LINKER` for `wasm32-wasip1` and `LINKER`.
fn target_key(target: &str, key: &str) -> String {
    format!("CARGO_TARGET_{}_{key}", target.to_uppercase().replace('-', "_"))
}

fn path_with_debian_first() -> std::ffi::OsString {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::iter::once(PathBuf::from("/usr/bin")).chain(std::env::split_paths(&path));
    std::env::join_paths(folders).unwrap_or(path)
}

/// Finds Debian's Rust, after installing what is missing of it.
pub(super) fn provide() -> Result<Debian> {
    let linker = find_linker();
    let mut wanted = Vec::new();
    if [RUSTC, CARGO, SOURCES, REACTOR, CLIPPY, RUSTFMT].iter().any(|file| !Path::new(file).exists()) {
        wanted.extend(PACKAGES);
    }
    if linker.is_none() {
        wanted.extend(LINKER_PACKAGES);
    }
    if !wanted.is_empty() {
        packages::install(&wanted)?;
    }
    let version = version_of(&mut Command::new(RUSTC))?;
    if version < OLDEST {
        return failed(format!("{RUSTC} is {version}, {OLDEST} or newer is needed"));
    }
    let Some(linker) = linker.or_else(find_linker) else {
        return failed("found no rust-lld, which links wasm");
    };
    say!("xtask: toolchain: Debian's {version}; wasm is linked by {}", linker.display());
    Ok(Debian { linker })
}

/// The `rust-lld` of the active toolchain, of any that rustup has, or on PATH.
fn find_linker() -> Option<PathBuf> {
    let active = capture(Command::new("rustc").args(["--print", "sysroot"])).map(|root| PathBuf::from(root.trim()));
    let home =
        std::env::var_os("RUSTUP_HOME").map(PathBuf::from).or_else(|| Some(std::env::home_dir()?.join(".rustup")));
    let installed = home.and_then(|home| fs::read_dir(home.join("toolchains")).ok());
    let installed = installed.into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
    let in_sysroot = active.into_iter().chain(installed).find_map(|sysroot| linker_in(&sysroot));
    in_sysroot.or_else(|| process::find_program("rust-lld"))
}

/// `lib/rustlib/<host>/bin/rust-lld` of a sysroot, whatever the host is called.
fn linker_in(sysroot: &Path) -> Option<PathBuf> {
    let hosts = fs::read_dir(sysroot.join("lib/rustlib")).ok()?;
    hosts.filter_map(|host| Some(host.ok()?.path().join("bin/rust-lld"))).find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargos_names_for_a_targets_settings() {
        assert_eq!(target_key("wasm32-unknown-unknown", "LINKER"), "CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER");
    }

    #[test]
    fn the_linker_is_found_under_the_hosts_name() {
        let sysroot = std::env::temp_dir().join(format!("xtask-sysroot-{}", std::process::id()));
        let file = sysroot.join("lib/rustlib/x86_64-unknown-linux-gnu/bin/rust-lld");
        fs::create_dir_all(sysroot.join("lib/rustlib/etc")).expect("a folder of ours");
        assert_eq!(linker_in(&sysroot), None);
        fs::create_dir_all(file.parent().expect("it has one")).expect("a folder of ours");
        fs::write(&file, "").expect("a file of ours");
        assert_eq!(linker_in(&sysroot).as_ref(), Some(&file));
        fs::remove_dir_all(sysroot).expect("it is ours");
    }
}
