//! See [`imagewatch_registry::credentials::fuzzing::docker_config`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| imagewatch_registry::credentials::fuzzing::docker_config(bytes));
