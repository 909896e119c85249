//! Finds the policy module to embed: `IMAGEWATCH_PLUGIN_WASM`, or the output of `cargo xtask plugin`.

use std::path::PathBuf;

fn main() {
    println!("cargo::rerun-if-env-changed=IMAGEWATCH_PLUGIN_WASM");
    let root = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default()).join("../..");
    let built = root.join("target/plugin/imagewatch.wasm");
    let wasm = std::env::var_os("IMAGEWATCH_PLUGIN_WASM").map_or(built, PathBuf::from);
    println!("cargo::rerun-if-changed={}", wasm.display());
    match wasm.canonicalize() {
        Ok(wasm) => println!("cargo::rustc-env=IMAGEWATCH_PLUGIN_WASM={}", wasm.display()),
        Err(error) => println!(
            "cargo::error=no policy module to embed at {}: {error}; run `cargo xtask plugin` first",
            wasm.display()
        ),
    }
}
