//! Entries for tests.

use imagewatch_abi::{Fault, Quarantined};

/// An entry that says little more than its key and how often it failed.
pub(crate) fn quarantined(target: &str, letter: &str, count: u32) -> Quarantined {
    Quarantined {
        target: target.to_owned(),
        reference: "r.io/app:v1".parse().expect("a reference"),
        digest: format!("sha256:{}", letter.repeat(64)).parse().expect("a digest"),
        fault: Fault::Image,
        cause: None,
        reason: format!("{target}: exited with code 1"),
        count,
        first_ms: 1_000,
        last_ms: 2_000,
        until_ms: None,
    }
}
