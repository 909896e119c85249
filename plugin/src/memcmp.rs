//! C's `memcmp`, eight bytes at a time. The version that wasi-libc links into a module compares byte by byte. It took a
//! quarter of a poll's computing time, because maps are searched by names with long common prefixes. The function
//! appears among the module's exports, because the compiler calls it by name. No host calls it.

#![expect(unsafe_code, reason = "a C function has raw pointers")]

use std::ffi::{c_int, c_void};

/// The size of a word in bytes.
const WORD: usize = size_of::<u64>();

/// Compares `length` bytes at `left` with those at `right`. The result is negative, zero or positive if `left` sorts
/// before, equal to or after `right`.
///
/// # Safety
/// As in C: `length` bytes must be readable at both pointers.
#[cfg_attr(target_arch = "wasm32", unsafe(no_mangle))]
unsafe extern "C" fn memcmp(left: *const c_void, right: *const c_void, length: usize) -> c_int {
    let (left, right) = (left.cast::<u8>(), right.cast::<u8>());
    let mut at = 0;
    while length - at >= WORD {
        // SAFETY: at least one whole word remains.
        let (a, b) = unsafe { (word(left.add(at)), word(right.add(at))) };
        if a != b {
            return if a < b { -1 } else { 1 };
        }
        at += WORD;
    }
    while at < length {
        // SAFETY: `at` is less than `length`.
        let (a, b) = unsafe { (*left.add(at), *right.add(at)) };
        if a != b {
            return c_int::from(a) - c_int::from(b);
        }
        at += 1;
    }
    0
}

/// The word at `at` as a big-endian number, so that the first byte is the most significant one.
unsafe fn word(at: *const u8) -> u64 {
    // SAFETY: the caller guarantees that the bytes are readable. They need not be aligned.
    u64::from_be(unsafe { at.cast::<u64>().read_unaligned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_orders_bytes_of_any_length_by_their_first_difference() {
        let text: Vec<u8> = (0..=40).map(|byte: u8| byte.wrapping_mul(37)).collect();
        for length in 0..text.len() {
            let left = &text[..length];
            for at in 0..length {
                for by in [1, 0x7f, 0x80, 0xff] {
                    let mut right = left.to_vec();
                    right[at] = right[at].wrapping_add(by);
                    // The bytes after the first difference must not matter.
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
    fn it_reads_from_unaligned_addresses() {
        let bytes = *b"0123456789abcdef-0123456789abcdef";
        for from in 0..8 {
            let order = unsafe { memcmp(bytes[from..].as_ptr().cast(), bytes[from + 17..].as_ptr().cast(), 16 - from) };
            assert_eq!(order, 0, "from byte {from}");
        }
    }
}
