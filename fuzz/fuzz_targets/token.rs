//! See [`imagewatch_core::fuzzing::token`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| imagewatch_core::fuzzing::token(bytes));
