//! Where the components are that no crate can bring: programs, the engine, our own build results.
//! Finds them or panics with what to do; starts nothing.

use std::env;
use std::path::{Path, PathBuf};

/// `$IMAGEWATCH_DOCKER_REGISTRY`, else `docker-registry` on `PATH`.
pub(crate) fn docker_registry() -> PathBuf {
    let on_path = env::var_os("PATH").map(|path| env::split_paths(&path).collect::<Vec<_>>()).unwrap_or_default();
    let candidates = on_path.into_iter().map(|folder| folder.join("docker-registry"));
    find("docker-registry", "IMAGEWATCH_DOCKER_REGISTRY", candidates)
}

/// `$IMAGEWATCH_BUSYBOX`, else the usual places; linked statically, since the images hold nothing else.
pub fn busybox() -> PathBuf {
    find("static busybox", "IMAGEWATCH_BUSYBOX", ["/bin/busybox", "/usr/bin/busybox"].map(PathBuf::from))
}

/// `$IMAGEWATCH_BIN`, else `imagewatch` of the same build profile as this executable.
pub fn imagewatch() -> PathBuf {
    find("imagewatch program", "IMAGEWATCH_BIN", [profile_folder().join("imagewatch")])
}

/// `$IMAGEWATCH_PLUGIN_WASM`, else `plugin/imagewatch.wasm` in this executable's target folder.
pub fn plugin_wasm() -> PathBuf {
    let built = profile_folder().with_file_name("plugin").join("imagewatch.wasm");
    find("plugin (build it with `cargo xtask plugin`)", "IMAGEWATCH_PLUGIN_WASM", [built])
}

/// `$IMAGEWATCH_WEEKDAYS_WASM`, else `plugin/weekdays.wasm` in this executable's target folder: the tests' own policy.
pub fn weekdays_wasm() -> PathBuf {
    let built = profile_folder().with_file_name("plugin").join("weekdays.wasm");
    find("weekdays policy (build it with `cargo xtask plugin`)", "IMAGEWATCH_WEEKDAYS_WASM", [built])
}

/// `$DOCKER_HOST`. No default: a test never lands on an engine that nobody named.
pub(crate) fn docker_host() -> String {
    env::var("DOCKER_HOST")
        .unwrap_or_else(|_| panic!("DOCKER_HOST names no engine to test on; run `cargo xtask test`, which starts one"))
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

/// `target/debug` or `target/release`: test executables lie in `deps` below it, examples in `examples`.
fn profile_folder() -> PathBuf {
    let executable = env::current_exe().expect("the running executable has a path");
    let folder = executable.parent().expect("an executable lies in a folder");
    let is_below = ["deps", "examples"].iter().any(|name| folder.ends_with(name));
    if is_below { folder.parent().unwrap_or(Path::new("/")).to_owned() } else { folder.to_owned() }
}
