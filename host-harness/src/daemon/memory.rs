//! Gives memory back to the system. Knows nothing of who used it.

/// Returns what the allocator keeps after a burst. Compiling a policy takes some 30 MiB for a
/// moment, which glibc would hold on to for the life of the process.
pub(super) fn release_unused() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    #[expect(unsafe_code, reason = "glibc has no other way; the call takes no pointer and may be made at any time")]
    // SAFETY: `malloc_trim` takes the allocator's own locks and touches free memory only.
    unsafe {
        libc::malloc_trim(0);
    }
}
