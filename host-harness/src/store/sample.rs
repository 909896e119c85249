//! Sample entries for tests.

use imagewatch_abi::{Fault, Quarantined};

/// A quarantine entry of `target` that failed `count` times. Its digest repeats `letter`. All other fields are fixed.
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
