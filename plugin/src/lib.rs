//! The policy as an Extism plugin: hands the four exports to `imagewatch-core` and the host
//! functions back to it. Glue only; a line that decides something belongs into `core`.

#[cfg(target_arch = "wasm32")]
mod guest;
#[cfg(any(target_arch = "wasm32", test))]
mod memcmp;
