//! Aligned host memory for direct I/O where guest memory does not suit the device.

use vm_types::GuestSlice;

/// What every direct transfer's memory and length can be aligned to: a page suits all devices.
const ALIGNMENT: usize = 4096;

/// A buffer that begins on a page.
pub(super) struct Bounce {
    /// Longer than asked for, so that some aligned run fits.
    space: Vec<u8>,
    start: usize,
    length: usize,
}

impl Bounce {
    pub(super) fn new(length: usize) -> Self {
        let space = vec![0; length + ALIGNMENT];
        let start = space.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
        Self {
            space,
            start,
            length,
        }
    }

    fn bytes(&mut self) -> &mut [u8] {
        &mut self.space[self.start..self.start + self.length]
    }

    /// The whole buffer, for the host's vectored I/O.
    pub(super) fn slice(&mut self) -> GuestSlice<'_> {
        GuestSlice::from(self.bytes())
    }

    /// The first `length` bytes, of which there are that many.
    pub(super) fn prefix(&mut self, length: usize) -> GuestSlice<'_> {
        let length = length.min(self.length);
        GuestSlice::from(&mut self.bytes()[..length])
    }

    /// Fills the buffer from the slices, as far as both go.
    pub(super) fn gather(&mut self, from: &[GuestSlice<'_>]) {
        let mut rest = self.bytes();
        for slice in from {
            let count = slice.copy_to(rest);
            rest = &mut rest[count..];
        }
    }

    /// Fills the slices from the buffer, as far as both go.
    pub(super) fn scatter(&mut self, into: &[GuestSlice<'_>]) {
        let mut rest: &[u8] = self.bytes();
        for slice in into {
            let count = slice.len().min(rest.len());
            slice.copy_from(&rest[..count]);
            rest = &rest[count..];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_aligned_and_keeps_order() {
        let mut bounce = Bounce::new(10);
        assert_eq!(bounce.slice().ptr_guard().as_ptr() as usize % ALIGNMENT, 0);
        let (mut a, mut b) = ([1, 2, 3], [4, 5, 6, 7, 8, 9, 10]);
        bounce.gather(&[GuestSlice::from(&mut a[..]), GuestSlice::from(&mut b[..])]);
        let (mut c, mut d) = ([0; 6], [0; 4]);
        bounce.scatter(&[GuestSlice::from(&mut c[..]), GuestSlice::from(&mut d[..])]);
        assert_eq!((c, d), ([1, 2, 3, 4, 5, 6], [7, 8, 9, 10]));
    }
}
