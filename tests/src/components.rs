//! Locates the components that no crate provides: programs, the engine, and build results of this repository. A
//! function panics with instructions when its component is missing. Nothing is started here.

use std::env;
use std::path::{Path, PathBuf};

/// The registry program: `$IMAGEWATCH_DOCKER_REGISTRY`, or else `docker-registry` on `PATH`.
pub(crate) fn docker_registry() -> PathBuf {
    let on_path = env::var_os("PATH").map(|path| env::split_paths(&path).collect::<Vec<_>>()).unwrap_or_default();
    let candidates = on_path.into_iter().map(|folder| folder.join("docker-registry"));
    find("docker-registry", "IMAGEWATCH_DOCKER_REGISTRY", candidates)
}

/// The busybox program: `$IMAGEWATCH_BUSYBOX`, or else `/bin/busybox` or `/usr/bin/busybox`. It must be linked
/// statically, because the test images contain no libraries.
pub fn busybox() -> PathBuf {
    find("static busybox", "IMAGEWATCH_BUSYBOX", ["/bin/busybox", "/usr/bin/busybox"].map(PathBuf::from))
}

/// The program under test: `$IMAGEWATCH_BIN`, or else `imagewatch` from the build profile of this executable.
pub fn imagewatch() -> PathBuf {
    find("imagewatch program", "IMAGEWATCH_BIN", [profile_folder().join("imagewatch")])
}

/// The built-in policy: `$IMAGEWATCH_PLUGIN_WASM`, or else `plugin/imagewatch.wasm` in this executable's target folder.
pub fn plugin_wasm() -> PathBuf {
    let built = profile_folder().with_file_name("plugin").join("imagewatch.wasm");
    find("plugin (build it with `cargo xtask plugin`)", "IMAGEWATCH_PLUGIN_WASM", [built])
}

/// The tests' own policy: `$IMAGEWATCH_WEEKDAYS_WASM`, or else `plugin/weekdays.wasm` in this executable's target
/// folder.
pub fn weekdays_wasm() -> PathBuf {
    let built = profile_folder().with_file_name("plugin").join("weekdays.wasm");
    find("weekdays policy (build it with `cargo xtask plugin`)", "IMAGEWATCH_WEEKDAYS_WASM", [built])
}

/// The engine's address from `$DOCKER_HOST`. There is no default, so that no test uses an engine by accident.
pub(crate) fn docker_host() -> String {
    env::var("DOCKER_HOST").unwrap_or_else(|_| {
        panic!("DOCKER_HOST is not set, so there is no engine to test on; run `cargo xtask test`, which starts one")
    })
}

fn find(what: &str, variable: &str, candidates: impl IntoIterator<Item = PathBuf>) -> PathBuf {
    let candidates: Vec<PathBuf> = match env::var_os(variable) {
        Some(path) => vec![path.into()],
        None => candidates.into_iter().collect(),
    };
    candidates.iter().find(|path| path.is_file()).cloned().unwrap_or_else(|| {
        let tried = candidates.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ");
        panic!("no {what} at {tried}; run `cargo xtask test`, which provides it, or set {variable}")
    })
}

/// Returns `target/debug` or `target/release`. Test executables are in its folder `deps`, examples in `examples`.
fn profile_folder() -> PathBuf {
    let executable = env::current_exe().expect("the running executable has a path");
    let folder = executable.parent().expect("an executable is in a folder");
    let is_below = ["deps", "examples"].iter().any(|name| folder.ends_with(name));
    if is_below { folder.parent().unwrap_or(Path::new("/")).to_owned() } else { folder.to_owned() }
}
