//! C's `memcmp`, eight bytes at a time. The one that wasi-libc links into a module goes byte by byte, and was a quarter
//! of what a poll computes: maps are searched by names that share long beginnings. It shows among the module's exports,
//! since whatever the compiler calls by name does; no host calls it. Knows nothing of policies.

#![expect(unsafe_code, reason = "a function of C")]

use std::ffi::{c_int, c_void};

/// Bytes of a word.
const WORD: usize = size_of::<u64>();

/// Below, at or above zero as the `length` bytes at `left` come before, are, or come after those at `right`.
///
/// # Safety
/// As C has it: both can be read for `length` bytes.
#[cfg_attr(target_arch = "wasm32", unsafe(no_mangle))]
unsafe extern "C" fn memcmp(left: *const c_void, right: *const c_void, length: usize) -> c_int {
    let (left, right) = (left.cast::<u8>(), right.cast::<u8>());
    let mut at = 0;
    while length - at >= WORD {
        // SAFETY: a whole word is left of what can be read.
        let (a, b) = unsafe { (word(left.add(at)), word(right.add(at))) };
        if a != b {
            return if a < b { -1 } else { 1 };
        }
        at += WORD;
    }
    while at < length {
        // SAFETY: `at` is within what can be read.
        let (a, b) = unsafe { (*left.add(at), *right.add(at)) };
        if a != b {
            return c_int::from(a) - c_int::from(b);
        }
        at += 1;
    }
    0
}

/// The bytes from `at` on; the first one counts most.
unsafe fn word(at: *const u8) -> u64 {
    // SAFETY: the caller can read them, and they need not be aligned.
    u64::from_be(unsafe { at.cast::<u64>().read_unaligned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_tells_the_order_of_bytes_at_any_length_and_wherever_they_differ() {
        let text: Vec<u8> = (0..=40).map(|byte: u8| byte.wrapping_mul(37)).collect();
        for length in 0..text.len() {
            let left = &text[..length];
            for at in 0..length {
                for by in [1, 0x7f, 0x80, 0xff] {
                    let mut right = left.to_vec();
                    right[at] = right[at].wrapping_add(by);
                    // What comes later counts no more.
                    let later = if left[at] < right[at] { 0 } else { 0xff };
                    right[at + 1..].fill(later);
                    let order = unsafe { memcmp(left.as_ptr().cast(), right.as_ptr().cast(), length) };
                    assert_eq!(order.cmp(&0), left.cmp(&right), "{length} bytes, {by:#x} more at {at}");
                }
            }
            let same = left.to_vec();
            assert_eq!(unsafe { memcmp(left.as_ptr().cast(), same.as_ptr().cast(), length) }, 0, "{length} bytes");
        }
    }

    #[test]
    fn it_reads_from_any_address() {
        let bytes = *b"0123456789abcdef-0123456789abcdef";
        for from in 0..8 {
            let order = unsafe { memcmp(bytes[from..].as_ptr().cast(), bytes[from + 17..].as_ptr().cast(), 16 - from) };
            assert_eq!(order, 0, "from {from} on");
        }
    }
}
