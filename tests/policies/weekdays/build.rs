//! Keeps the sections that declare the ABI version and the capabilities. `strip` would otherwise remove all custom
//! sections.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_ARCH").as_deref() == Ok("wasm32") {
        for section in ["imagewatch.abi", "imagewatch.capabilities"] {
            println!("cargo::rustc-link-arg-cdylib=--keep-section={section}");
        }
    }
}
