//! Link arguments of the module.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_ARCH").as_deref() == Ok("wasm32") {
        // The sections that declare the ABI version and the capabilities: `strip` would drop every custom section.
        for section in ["imagewatch.abi", "imagewatch.capabilities"] {
            println!("cargo::rustc-link-arg-cdylib=--keep-section={section}");
        }
        // Indices in the code are padded to five bytes for the linker; a twelfth of the module is such padding.
        println!("cargo::rustc-link-arg-cdylib=--compress-relocations");
    }
}
