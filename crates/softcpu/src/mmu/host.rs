//! Loads, stores and read-modify-write on guest bytes through host pointers. The only file that
//! touches them.
//!
//! Other vCPUs and devices read and write the same bytes at the same time, as on real hardware. No
//! reference to them is ever made; plain accesses are volatile, locked ones go through atomics.
#![expect(
    unsafe_code,
    reason = "guest memory is shared with other threads and reached by pointer"
)]

use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use portable_atomic::AtomicU128;

use crate::state::Width;

/// Guest words may have any alignment.
#[repr(C, packed)]
#[derive(Clone, Copy)]
struct Unaligned<T: Copy>(T);

/// Held by locked accesses that are not aligned to their size. They exclude each other, not the
/// aligned ones: a guest that mixes the two on one word gets what split locks are known for.
static SPLIT_LOCK: Mutex<()> = Mutex::new(());

/// Reads a value of any alignment.
///
/// # Safety
/// `size_of::<T>()` bytes at `at` are mapped guest memory, and every bit pattern is a `T`.
#[inline(always)]
pub(super) unsafe fn read<T: Copy>(at: *const u8) -> T {
    // SAFETY: mapped, as the caller promises; the packed wrapper needs no alignment, and volatile
    // keeps the access to one read of bytes that others may be writing.
    unsafe { at.cast::<Unaligned<T>>().read_volatile() }.0
}

/// Writes a value of any alignment.
///
/// # Safety
/// `size_of::<T>()` bytes at `at` are mapped, writable guest memory.
#[inline(always)]
pub(super) unsafe fn write<T: Copy>(at: *mut u8, value: T) {
    // SAFETY: mapped and writable, as the caller promises; see `read` for alignment and sharing.
    unsafe { at.cast::<Unaligned<T>>().write_volatile(Unaligned(value)) }
}

/// What the host moves 16 bytes in. Halves would go to our registers one by one, and the next load of a
/// whole register would have to wait until both have left the store buffer.
#[cfg(target_arch = "x86_64")]
type Vector = std::arch::x86_64::__m128i;
#[cfg(not(target_arch = "x86_64"))]
type Vector = [u64; 2];

/// Reads 16 bytes of any alignment, in one piece where the host can.
///
/// # Safety
/// 16 bytes at `at` are mapped guest memory.
#[inline(always)]
pub(super) unsafe fn read_16(at: *const u8) -> u128 {
    // SAFETY: as the caller promises.
    let vector: Vector = unsafe { read(at) };
    // SAFETY: both are 16 bytes without padding, and every bit pattern is either.
    unsafe { std::mem::transmute::<Vector, u128>(vector) }
}

/// Writes 16 bytes of any alignment, in one piece where the host can.
///
/// # Safety
/// 16 bytes at `at` are mapped, writable guest memory.
#[inline(always)]
pub(super) unsafe fn write_16(at: *mut u8, value: u128) {
    // SAFETY: both are 16 bytes without padding, and every bit pattern is either.
    let vector = unsafe { std::mem::transmute::<u128, Vector>(value) };
    // SAFETY: as the caller promises.
    unsafe { write(at, vector) }
}

/// Replaces the value at `at` by `change(value)` and returns the old one. With `locked` nothing comes
/// between; `change` may then be called more than once.
///
/// # Safety
/// `W::BYTES` bytes at `at` are mapped, writable guest memory.
#[inline(always)]
pub(super) unsafe fn modify<W: Width>(
    at: *mut u8,
    locked: bool,
    mut change: impl FnMut(W) -> W,
) -> W {
    if !locked {
        // SAFETY: as the caller promises.
        let old: W = unsafe { read(at) };
        let new = change(old);
        // SAFETY: as the caller promises.
        unsafe { write(at, new) };
        return old;
    }
    if !(at.addr() as u64).is_multiple_of(W::BYTES) {
        let _split = SPLIT_LOCK.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: as the caller promises.
        let old: W = unsafe { read(at) };
        let new = change(old);
        // SAFETY: as the caller promises.
        unsafe { write(at, new) };
        return old;
    }
    // SAFETY: as the caller promises; aligned, as just tested.
    let mut old: W = unsafe { read(at) };
    loop {
        let new = change(old);
        // SAFETY: as the caller promises; aligned, as tested above.
        match unsafe { compare_exchange(at, old, new) } {
            Ok(()) => return old,
            Err(seen) => old = seen,
        }
    }
}

/// Reads `size` (1, 2, 4 or 8) bytes, zero-extended.
///
/// # Safety
/// `size` bytes at `at` are mapped guest memory.
pub(super) unsafe fn read_sized(at: *const u8, size: u64) -> u64 {
    match size {
        // SAFETY: as the caller promises.
        1 => unsafe { read::<u8>(at) }.into(),
        // SAFETY: as the caller promises.
        2 => unsafe { read::<u16>(at) }.into(),
        // SAFETY: as the caller promises.
        4 => unsafe { read::<u32>(at) }.into(),
        // SAFETY: as the caller promises.
        _ => unsafe { read::<u64>(at) },
    }
}

/// Writes the low `size` (1, 2, 4 or 8) bytes of `value`.
///
/// # Safety
/// `size` bytes at `at` are mapped, writable guest memory.
pub(super) unsafe fn write_sized(at: *mut u8, size: u64, value: u64) {
    match size {
        // SAFETY: as the caller promises.
        1 => unsafe { write(at, value as u8) },
        // SAFETY: as the caller promises.
        2 => unsafe { write(at, value as u16) },
        // SAFETY: as the caller promises.
        4 => unsafe { write(at, value as u32) },
        // SAFETY: as the caller promises.
        _ => unsafe { write(at, value) },
    }
}

/// [`modify`] of `size` (1, 2, 4 or 8) bytes.
///
/// # Safety
/// `size` bytes at `at` are mapped, writable guest memory.
pub(super) unsafe fn modify_sized(
    at: *mut u8,
    size: u64,
    locked: bool,
    change: &mut dyn FnMut(u64) -> u64,
) -> u64 {
    match size {
        // SAFETY: as the caller promises.
        1 => unsafe { modify::<u8>(at, locked, |old| change(old.into()) as u8) }.into(),
        // SAFETY: as the caller promises.
        2 => unsafe { modify::<u16>(at, locked, |old| change(old.into()) as u16) }.into(),
        // SAFETY: as the caller promises.
        4 => unsafe { modify::<u32>(at, locked, |old| change(old.into()) as u32) }.into(),
        // SAFETY: as the caller promises.
        _ => unsafe { modify::<u64>(at, locked, change) },
    }
}

/// One compare-and-swap; gives the value seen when it was not `old`.
///
/// # Safety
/// `W::BYTES` bytes at `at` are mapped, writable guest memory, and `at` is aligned to that.
#[inline(always)]
unsafe fn compare_exchange<W: Width>(at: *mut u8, old: W, new: W) -> Result<(), W> {
    let (old, new) = (old.zero_extend(), new.zero_extend());
    let (success, failure) = (Ordering::SeqCst, Ordering::SeqCst);
    let result = match W::BYTES {
        1 => {
            // SAFETY: mapped as the caller promises, and accessed by atomics or volatile only.
            let cell = unsafe { AtomicU8::from_ptr(at) };
            cell.compare_exchange(old as u8, new as u8, success, failure)
                .map_err(u64::from)
                .map(u64::from)
        }
        2 => {
            // SAFETY: as above; aligned as the caller promises.
            let cell = unsafe { AtomicU16::from_ptr(at.cast()) };
            cell.compare_exchange(old as u16, new as u16, success, failure)
                .map_err(u64::from)
                .map(u64::from)
        }
        4 => {
            // SAFETY: as above; aligned as the caller promises.
            let cell = unsafe { AtomicU32::from_ptr(at.cast()) };
            cell.compare_exchange(old as u32, new as u32, success, failure)
                .map_err(u64::from)
                .map(u64::from)
        }
        _ => {
            // SAFETY: as above; aligned as the caller promises.
            let cell = unsafe { AtomicU64::from_ptr(at.cast()) };
            cell.compare_exchange(old, new, success, failure)
        }
    };
    result.map(|_| ()).map_err(W::truncate)
}

/// Compare-and-swap of 16 bytes; gives the value that was there.
///
/// # Safety
/// 16 bytes at `at` are mapped, writable guest memory, and `at` is aligned to 16.
pub(super) unsafe fn compare_exchange_16(at: *mut u8, old: u128, new: u128) -> u128 {
    // SAFETY: mapped and aligned as the caller promises, accessed by atomics or volatile only.
    let cell = unsafe { AtomicU128::from_ptr(at.cast()) };
    match cell.compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst) {
        Ok(seen) | Err(seen) => seen,
    }
}

/// Sets bits of a page-table entry of 8 bytes without losing what others set.
///
/// # Safety
/// 8 bytes at `at` are mapped guest memory, and `at` is aligned to 8.
pub(super) unsafe fn set_bits_8(at: *mut u8, bits: u64) {
    // SAFETY: mapped and aligned as the caller promises, accessed by atomics or volatile only.
    unsafe { AtomicU64::from_ptr(at.cast()) }.fetch_or(bits, Ordering::SeqCst);
}

/// Sets bits of a page-table entry of 4 bytes without losing what others set.
///
/// # Safety
/// 4 bytes at `at` are mapped guest memory, and `at` is aligned to 4.
pub(super) unsafe fn set_bits_4(at: *mut u8, bits: u32) {
    // SAFETY: mapped and aligned as the caller promises, accessed by atomics or volatile only.
    unsafe { AtomicU32::from_ptr(at.cast()) }.fetch_or(bits, Ordering::SeqCst);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sixteen_bytes_go_whole_and_in_order_at_any_place() {
        for offset in 0..16 {
            let mut bytes = [0xee_u8; 48];
            let at = bytes[offset..].as_mut_ptr();
            let value = 0x0f0e_0d0c_0b0a_0908_0706_0504_0302_0100;
            // SAFETY: 32 bytes and more of the array begin at `at`.
            unsafe { write_16(at, value) };
            // SAFETY: as above.
            assert_eq!(unsafe { read_16(at) }, value);
            let expected: Vec<u8> = (0..16).collect();
            assert_eq!(bytes[offset..offset + 16], expected);
            assert!(bytes[offset + 16..].iter().all(|byte| *byte == 0xee));
        }
    }
}
