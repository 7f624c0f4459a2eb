//! Direct boot: from a kernel image to bytes in memory and the state of the first CPU.
//!
//! [`load`] looks at the image and chooses: a Linux bzImage ([`linux`]), an ELF image with a PVH entry
//! ([`pvh`]) or a multiboot header ([`multiboot`]), a Linux `vmlinux` without either ([`linux`]). Images are
//! foreign: whatever is wrong with one is an error that names the field.
//!
//! Low memory during boot:
//!
//! ```text
//!  0x00500  GDT                      0x09000  page tables (64-bit entry only), up to 0x0f000
//!  0x06000  start info, maps         0x20000  command line, at most 64 KiB
//!  0x07000  Linux's zero page        0xe0000  ACPI tables, 0xf0000 SMBIOS (the machine's, not ours)
//!  0x08ff0  stack, downwards
//! ```

use std::borrow::Cow;

use thiserror::Error;

use super::layout::{EXTENDED_START, MemoryLayout};

pub mod elf;
pub mod linux;
pub mod multiboot;
pub mod pvh;
pub mod state;

pub use state::{BootState, Segment};

/// Where the structures are that tell the kernel about the machine.
pub const INFO_AT: u64 = 0x6000;
/// Where Linux's zero page is.
pub const ZERO_PAGE_AT: u64 = 0x7000;
/// Where the command line is.
pub const COMMAND_LINE_AT: u64 = 0x2_0000;
/// Longest command line, with its zero.
pub const COMMAND_LINE_MAX: u64 = 0x1_0000;

/// What there is to boot.
#[derive(Clone, Copy, Debug)]
pub struct BootInput<'a> {
    /// The kernel's file.
    pub kernel: &'a [u8],
    /// The initial RAM disk, or the first multiboot module.
    pub initrd: Option<&'a [u8]>,
    /// The command line, without a zero.
    pub command_line: &'a str,
    /// The machine's memory.
    pub layout: &'a MemoryLayout,
    /// Where the ACPI root pointer is, if the machine has ACPI.
    pub rsdp_at: Option<u64>,
}

/// Something to be put into guest memory before the start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Load<'a> {
    /// These bytes.
    Bytes {
        /// First guest physical address.
        at: u64,
        /// What goes there.
        data: Cow<'a, [u8]>,
    },
    /// Zeroes, which memory after a reset may not hold.
    Zeroes {
        /// First guest physical address.
        at: u64,
        /// How many.
        length: u64,
    },
}

impl Load<'_> {
    /// First address and number of bytes.
    pub fn range(&self) -> (u64, u64) {
        match self {
            Self::Bytes { at, data } => (*at, data.len() as u64),
            Self::Zeroes { at, length } => (*at, *length),
        }
    }
}

/// How an image wants to be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BootProtocol {
    /// Linux, 64-bit entry.
    Linux64,
    /// Linux, 32-bit entry.
    Linux32,
    /// The PVH entry of an ELF image.
    Pvh,
    /// Multiboot 1.
    Multiboot,
}

/// A kernel that is ready to go.
#[derive(Clone, Debug)]
pub struct BootImage<'a> {
    /// How it will be started.
    pub protocol: BootProtocol,
    /// What to put into memory, in this order. All of it is RAM of the layout and disjoint, but for
    /// zeroes that bytes follow into.
    pub loads: Vec<Load<'a>>,
    /// The first CPU's state.
    pub state: BootState,
}

/// Why an image cannot be booted.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BootError {
    /// Nothing that any of the protocols would know.
    #[error("the kernel is no bzImage, ELF image or multiboot image")]
    Unknown,
    /// The file ends before a field.
    #[error("{image}: the file ends in {field} (at byte {end:#x} of {length:#x})")]
    Truncated {
        /// The image's kind.
        image: &'static str,
        /// What is cut off.
        field: &'static str,
        /// Where the field ends.
        end: u64,
        /// How long the file is.
        length: u64,
    },
    /// A field has a value that makes no sense or is not supported.
    #[error("{image}: {field} is {found:#x}, expected {expected}")]
    Field {
        /// The image's kind.
        image: &'static str,
        /// The field.
        field: &'static str,
        /// Its value.
        found: u64,
        /// What it may be.
        expected: &'static str,
    },
    /// Something is larger than the memory there is for it.
    #[error("{what} needs {bytes:#x} bytes at {at:#x}, which are not free memory of this machine")]
    NoRoom {
        /// What is to be loaded.
        what: &'static str,
        /// Where it wants to be (or the lowest place where it may be).
        at: u64,
        /// How long it is.
        bytes: u64,
    },
    /// The command line is too long or has a zero in it.
    #[error("the command line has {bytes} bytes, and this kernel takes {most} without a zero")]
    CommandLine {
        /// Its length.
        bytes: u64,
        /// What the kernel takes.
        most: u64,
    },
}

/// Prepares `input` for its start.
pub fn load<'a>(input: &BootInput<'a>) -> Result<BootImage<'a>, BootError> {
    if linux::is_bzimage(input.kernel) {
        return linux::load_bzimage(input);
    }
    if elf::is_elf(input.kernel) {
        let image = elf::Elf::parse(input.kernel)?;
        if let Some(entry) = pvh::entry(&image)? {
            return pvh::load(input, &image, entry);
        }
        if let Some(header) = multiboot::Header::find(input.kernel)? {
            return multiboot::load(input, header);
        }
        return linux::load_vmlinux(input, &image);
    }
    match multiboot::Header::find(input.kernel)? {
        Some(header) => multiboot::load(input, header),
        None => Err(BootError::Unknown),
    }
}

/// The loads so far, and the memory that they leave.
struct Placement<'a, 'l> {
    layout: &'l MemoryLayout,
    loads: Vec<Load<'a>>,
    /// Ranges that are taken: start and end.
    taken: Vec<(u64, u64)>,
}

impl<'a, 'l> Placement<'a, 'l> {
    fn new(layout: &'l MemoryLayout) -> Self {
        Self {
            layout,
            loads: Vec::new(),
            // Boot structures below 64 KiB, the command line, the end of conventional memory with
            // everything that is no memory or the machine's tables.
            taken: vec![
                (0, 0x1_0000),
                (COMMAND_LINE_AT, COMMAND_LINE_AT + COMMAND_LINE_MAX),
                (0x9_fc00, EXTENDED_START),
            ],
        }
    }

    /// Whether the range is RAM that nothing has taken.
    fn is_free(&self, at: u64, length: u64) -> bool {
        let end = at.saturating_add(length);
        self.layout.is_ram(at, length)
            && !self
                .taken
                .iter()
                .any(|(start, taken_end)| at < *taken_end && *start < end)
    }

    /// Takes `length` bytes at `at` for `what`.
    fn take(&mut self, what: &'static str, at: u64, length: u64) -> Result<(), BootError> {
        if !self.is_free(at, length) {
            return Err(BootError::NoRoom {
                what,
                at,
                bytes: length,
            });
        }
        self.taken.push((at, at + length));
        Ok(())
    }

    /// Loads `data` into memory that was taken, or into the boot structures.
    fn bytes(&mut self, at: u64, data: impl Into<Cow<'a, [u8]>>) {
        let data = data.into();
        if !data.is_empty() {
            self.loads.push(Load::Bytes { at, data });
        }
    }

    fn zeroes(&mut self, at: u64, length: u64) {
        if length > 0 {
            self.loads.push(Load::Zeroes { at, length });
        }
    }

    /// The segments of an ELF image, at their physical addresses.
    fn segments(&mut self, image: &elf::Elf<'a>) -> Result<(), BootError> {
        for segment in image.segments()? {
            self.take("an ELF segment", segment.at, segment.memory_bytes)?;
            let file_bytes = segment.data.len() as u64;
            self.bytes(segment.at, segment.data);
            self.zeroes(segment.at + file_bytes, segment.memory_bytes - file_bytes);
        }
        Ok(())
    }

    /// The initial RAM disk, page-aligned, as high as it goes below `limit`. Returns its address.
    fn initrd(&mut self, data: &'a [u8], limit: u64) -> Result<u64, BootError> {
        let length = data.len() as u64;
        // Just below something that is taken, or at the end of the memory.
        let highest = self
            .taken
            .iter()
            .map(|(start, _)| *start)
            .chain([self.layout.low_bytes])
            .filter_map(|end| end.min(limit).checked_sub(length))
            .map(|at| at & !0xfff)
            .filter(|at| *at >= EXTENDED_START && self.is_free(*at, length))
            .max();
        let at = highest.ok_or(BootError::NoRoom {
            what: "the initial RAM disk",
            at: EXTENDED_START,
            bytes: length,
        })?;
        self.take("the initial RAM disk", at, length)?;
        self.bytes(at, data);
        Ok(at)
    }

    /// The command line with its zero; `most` is what the kernel takes, without the zero.
    fn command_line(&mut self, line: &str, most: u64) -> Result<(), BootError> {
        let most = most.min(COMMAND_LINE_MAX - 1);
        let bytes = line.len() as u64;
        if bytes > most || line.contains('\0') {
            return Err(BootError::CommandLine { bytes, most });
        }
        let mut data = line.as_bytes().to_vec();
        data.push(0);
        self.bytes(COMMAND_LINE_AT, data);
        Ok(())
    }

    fn finish(self, protocol: BootProtocol, state: BootState) -> BootImage<'a> {
        BootImage {
            protocol,
            loads: self.loads,
            state,
        }
    }
}

/// Puts `value` at `offset` of a structure that is long enough by construction.
fn put(bytes: &mut [u8], offset: usize, value: &[u8]) {
    if let Some(field) = bytes.get_mut(offset..offset + value.len()) {
        field.copy_from_slice(value);
    }
}
