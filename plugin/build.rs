//! Link arguments of the module.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_ARCH").as_deref() == Ok("wasm32") {
        // The section that declares the ABI version: `strip` would drop every custom section.
        println!("cargo::rustc-link-arg-cdylib=--keep-section=imagewatch.abi");
        // Indices in the code are padded to five bytes for the linker; a twelfth of the module is such padding.
        println!("cargo::rustc-link-arg-cdylib=--compress-relocations");
    }
}
