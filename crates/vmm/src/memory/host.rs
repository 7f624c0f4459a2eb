//! The process's own memory.
#![cfg_attr(
    all(target_os = "linux", target_env = "gnu"),
    expect(
        unsafe_code,
        reason = "one call into the C library, which has no safe face"
    )
)]

/// Gives memory that was freed back to the system.
///
/// After kernel and initial ramdisk have been loaded, the allocator keeps their tens of megabytes for later
/// use, and there will be none while the guest runs.
pub(crate) fn release_freed() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: the function takes the allocator's own locks and has no preconditions; what it releases is
    // free by the allocator's own account.
    unsafe {
        libc::malloc_trim(0);
    }
}
