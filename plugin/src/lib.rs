//! The policy as an Extism plugin. It connects the four exports and the host functions to `imagewatch-core`. This crate
//! contains no decisions; they belong in `imagewatch-core`.

#[cfg(target_arch = "wasm32")]
mod guest;
#[cfg(any(target_arch = "wasm32", test))]
mod memcmp;
