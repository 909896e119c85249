//! Keeps the section that declares the ABI version: `strip` would drop every custom section.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_ARCH").as_deref() == Ok("wasm32") {
        println!("cargo::rustc-link-arg-cdylib=--keep-section=imagewatch.abi");
    }
}
