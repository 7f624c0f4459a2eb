//! A small builder of ACPI machine language (ACPI 6.3, chapter 20) and of resource descriptors (6.4).
//!
//! Each function gives the bytes of one term; terms are put together by nesting the calls:
//!
//! ```
//! use devices::firmware::aml::{self, device, name, scope};
//! let code = scope("\\_SB_", &[device("HPET", &[name("_HID", &aml::eisa_id("PNP0103"))])]);
//! assert_eq!(&code[..7], b"\x10\x17\\_SB_");
//! ```
//!
//! Names are as in the specification: segments of up to four characters, dots between them, `\` for the
//! root. They come from our own tables, so what is wrong with one is caught by the tests.

/// The bytes of a term.
pub type Aml = Vec<u8>;

/// Opcodes (20.3).
mod op {
    pub(super) const ZERO: u8 = 0x00;
    pub(super) const ONE: u8 = 0x01;
    pub(super) const NAME: u8 = 0x08;
    pub(super) const BYTE: u8 = 0x0a;
    pub(super) const WORD: u8 = 0x0b;
    pub(super) const DWORD: u8 = 0x0c;
    pub(super) const STRING: u8 = 0x0d;
    pub(super) const QWORD: u8 = 0x0e;
    pub(super) const SCOPE: u8 = 0x10;
    pub(super) const BUFFER: u8 = 0x11;
    pub(super) const PACKAGE: u8 = 0x12;
    pub(super) const METHOD: u8 = 0x14;
    pub(super) const DUAL_NAME: u8 = 0x2e;
    pub(super) const MULTI_NAME: u8 = 0x2f;
    pub(super) const EXTENDED: u8 = 0x5b;
    pub(super) const LOCAL_0: u8 = 0x60;
    pub(super) const ARGUMENT_0: u8 = 0x68;
    pub(super) const STORE: u8 = 0x70;
    pub(super) const AND: u8 = 0x7b;
    pub(super) const OR: u8 = 0x7d;
    pub(super) const CREATE_DWORD_FIELD: u8 = 0x8a;
    pub(super) const IF: u8 = 0xa0;
    pub(super) const ELSE: u8 = 0xa1;
    pub(super) const RETURN: u8 = 0xa4;
    /// After the extension prefix.
    pub(super) const REGION: u8 = 0x80;
    pub(super) const FIELD: u8 = 0x81;
    pub(super) const DEVICE: u8 = 0x82;
}

/// The terms one after the other.
pub fn list(terms: &[Aml]) -> Aml {
    terms.concat()
}

/// A length that counts itself, before `body`: one byte up to 63, then more of them (20.2.4).
fn package_length(body: usize) -> Aml {
    if body < 63 {
        return vec![body as u8 + 1];
    }
    let extra = match body {
        0..0xffd => 1,
        0xffd..0xf_fffc => 2,
        _ => 3,
    };
    let length = body + 1 + extra;
    let mut bytes = vec![(extra as u8) << 6 | (length & 0xf) as u8];
    bytes.extend((0..extra).map(|index| (length >> (4 + 8 * index)) as u8));
    bytes
}

fn block(opcode: &[u8], head: &[u8], body: &[Aml]) -> Aml {
    let mut content = head.to_vec();
    for term in body {
        content.extend_from_slice(term);
    }
    let mut bytes = opcode.to_vec();
    bytes.extend(package_length(content.len()));
    bytes.extend(content);
    bytes
}

/// A reference to a name.
pub fn path(name: &str) -> Aml {
    let rest = name.trim_start_matches(['\\', '^']);
    let mut bytes = name.as_bytes()[..name.len() - rest.len()].to_vec();
    let segments: Vec<&str> = rest
        .split('.')
        .filter(|segment| !segment.is_empty())
        .collect();
    match segments.len() {
        0 => bytes.push(op::ZERO),
        1 => {}
        2 => bytes.push(op::DUAL_NAME),
        count => bytes.extend([op::MULTI_NAME, count as u8]),
    }
    for segment in segments {
        // Short segments are filled up with underscores.
        bytes.extend(segment.bytes().chain(*b"____").take(4));
    }
    bytes
}

/// An integer, in as few bytes as it fits.
pub fn integer(value: u64) -> Aml {
    match value {
        0 => vec![op::ZERO],
        1 => vec![op::ONE],
        2..=0xff => vec![op::BYTE, value as u8],
        0x100..=0xffff => [&[op::WORD][..], &(value as u16).to_le_bytes()].concat(),
        0x1_0000..=0xffff_ffff => [&[op::DWORD][..], &(value as u32).to_le_bytes()].concat(),
        _ => [&[op::QWORD][..], &value.to_le_bytes()].concat(),
    }
}

/// A string.
pub fn string(text: &str) -> Aml {
    [&[op::STRING][..], text.as_bytes(), &[0]].concat()
}

/// The compressed form of an EISA id such as `PNP0A03` (19.3.4).
pub fn eisa_id(id: &str) -> Aml {
    let (letters, digits) = id.split_at_checked(3).unwrap_or((id, ""));
    let vendor = letters.bytes().fold(0u16, |vendor, letter| {
        vendor << 5 | u16::from(letter & 0x1f)
    });
    let product = u16::from_str_radix(digits, 16).unwrap_or(0);
    let number = u32::from(vendor) << 16 | u32::from(product);
    integer(u64::from(number.swap_bytes()))
}

/// A buffer with these bytes.
pub fn buffer(bytes: &[u8]) -> Aml {
    block(
        &[op::BUFFER],
        &integer(bytes.len() as u64),
        &[bytes.to_vec()],
    )
}

/// A package of up to 255 elements.
pub fn package(elements: &[Aml]) -> Aml {
    block(&[op::PACKAGE], &[elements.len() as u8], elements)
}

/// `Name (name, value)`.
pub fn name(name: &str, value: &Aml) -> Aml {
    [&[op::NAME][..], &path(name), value].concat()
}

/// `Scope (name) {...}`.
pub fn scope(name: &str, body: &[Aml]) -> Aml {
    block(&[op::SCOPE], &path(name), body)
}

/// `Device (name) {...}`.
pub fn device(name: &str, body: &[Aml]) -> Aml {
    block(&[op::EXTENDED, op::DEVICE], &path(name), body)
}

/// `Method (name, arguments, NotSerialized) {...}`.
pub fn method(name: &str, arguments: u8, body: &[Aml]) -> Aml {
    let head = [path(name), vec![arguments & 7]].concat();
    block(&[op::METHOD], &head, body)
}

/// `Method (name, arguments, Serialized) {...}`, for those that create names.
pub fn serialized_method(name: &str, arguments: u8, body: &[Aml]) -> Aml {
    let head = [path(name), vec![(arguments & 7) | 8]].concat();
    block(&[op::METHOD], &head, body)
}

/// Local variable `index`, 0 to 7.
pub fn local(index: u8) -> Aml {
    vec![op::LOCAL_0 + (index & 7)]
}

/// Argument `index`, 0 to 6.
pub fn argument(index: u8) -> Aml {
    vec![op::ARGUMENT_0 + index.min(6)]
}

/// `Store (value, target)`.
pub fn store(value: &Aml, target: &Aml) -> Aml {
    [&[op::STORE][..], value, target].concat()
}

/// `And (left, right)`, without a target.
pub fn and(left: &Aml, right: &Aml) -> Aml {
    [&[op::AND][..], left, right, &[op::ZERO]].concat()
}

/// `Or (left, right, target)`.
pub fn or_into(left: &Aml, right: &Aml, target: &Aml) -> Aml {
    [&[op::OR][..], left, right, target].concat()
}

/// `If (condition) {...}`.
pub fn if_true(condition: &Aml, body: &[Aml]) -> Aml {
    block(&[op::IF], condition, body)
}

/// `Else {...}`, after an `If`.
pub fn otherwise(body: &[Aml]) -> Aml {
    block(&[op::ELSE], &[], body)
}

/// `Return (value)`.
pub fn give(value: &Aml) -> Aml {
    [&[op::RETURN][..], value].concat()
}

/// `CreateDWordField (buffer, offset, name)`.
pub fn create_dword_field(buffer: &Aml, offset: u64, field: &str) -> Aml {
    [
        &[op::CREATE_DWORD_FIELD][..],
        buffer,
        &integer(offset),
        &path(field),
    ]
    .concat()
}

/// `OperationRegion (name, PCI_Config, offset, length)`.
pub fn pci_config_region(region: &str, offset: u64, length: u64) -> Aml {
    const PCI_CONFIG: u8 = 2;
    [
        &[op::EXTENDED, op::REGION][..],
        &path(region),
        &[PCI_CONFIG],
        &integer(offset),
        &integer(length),
    ]
    .concat()
}

/// `Field (region, ByteAcc, NoLock, Preserve) {...}` of fields of one byte each.
pub fn byte_fields(region: &str, names: &[&str]) -> Aml {
    const BYTE_ACCESS: u8 = 1;
    let fields: Vec<Aml> = names
        .iter()
        .map(|field| [path(field), vec![8]].concat())
        .collect();
    let head = [path(region), vec![BYTE_ACCESS]].concat();
    block(&[op::EXTENDED, op::FIELD], &head, &fields)
}

/// A resource template, from its descriptors.
#[derive(Clone, Debug, Default)]
pub struct Resources(Vec<u8>);

/// Kinds of an address space descriptor.
const MEMORY: u8 = 0;
const IO: u8 = 1;
const BUS: u8 = 2;
/// Flags of a window that the bridge produces: fixed at both ends, decoded positively.
const FIXED_BOTH: u8 = 0x0c;

impl Resources {
    /// No resources.
    pub fn new() -> Self {
        Self::default()
    }

    /// `length` ports from `base`, decoded with 16 bits.
    #[must_use]
    pub fn io(mut self, base: u16, length: u8) -> Self {
        self.0.extend([0x47, 0x01]);
        self.0.extend(base.to_le_bytes());
        self.0.extend(base.to_le_bytes());
        self.0.extend([0x01, length]);
        self
    }

    /// ISA interrupt `irq`: edge-triggered, active high.
    #[must_use]
    pub fn irq(mut self, irq: u8) -> Self {
        self.0.push(0x22);
        self.0.extend((1u16 << (irq & 15)).to_le_bytes());
        self
    }

    /// One of `numbers`: level-triggered, active high, shared.
    #[must_use]
    pub fn interrupts(mut self, numbers: &[u32]) -> Self {
        self.0.push(0x89);
        self.0.extend((2 + 4 * numbers.len() as u16).to_le_bytes());
        self.0.extend([0x09, numbers.len() as u8]);
        for number in numbers {
            self.0.extend(number.to_le_bytes());
        }
        self
    }

    /// `length` bytes of memory at `base`, fixed, writable.
    #[must_use]
    pub fn memory(mut self, base: u32, length: u32) -> Self {
        self.0.extend([0x86, 9, 0, 1]);
        self.0.extend(base.to_le_bytes());
        self.0.extend(length.to_le_bytes());
        self
    }

    /// Bus numbers `first` to `last`.
    #[must_use]
    pub fn buses(mut self, first: u16, last: u16) -> Self {
        self.words(BUS, 0, first, last);
        self
    }

    /// A window of ports `first` to `last`.
    #[must_use]
    pub fn io_window(mut self, first: u16, last: u16) -> Self {
        // Both ISA and other ranges.
        self.words(IO, 3, first, last);
        self
    }

    fn words(&mut self, kind: u8, specific: u8, first: u16, last: u16) {
        self.0.extend([0x88, 13, 0, kind, FIXED_BOTH, specific]);
        let length = last.wrapping_sub(first).wrapping_add(1);
        for word in [0, first, last, 0, length] {
            self.0.extend(word.to_le_bytes());
        }
    }

    /// A window of memory `first` to `last` below 4 GiB, not cacheable, writable.
    #[must_use]
    pub fn memory_window_32(mut self, first: u32, last: u32) -> Self {
        self.0.extend([0x87, 23, 0, MEMORY, FIXED_BOTH, 1]);
        let length = last.wrapping_sub(first).wrapping_add(1);
        for word in [0, first, last, 0, length] {
            self.0.extend(word.to_le_bytes());
        }
        self
    }

    /// A window of memory `first` to `last`, prefetchable, writable.
    #[must_use]
    pub fn memory_window_64(mut self, first: u64, last: u64) -> Self {
        self.0.extend([0x8a, 43, 0, MEMORY, FIXED_BOTH, 7]);
        let length = last.wrapping_sub(first).wrapping_add(1);
        for word in [0, first, last, 0, length] {
            self.0.extend(word.to_le_bytes());
        }
        self
    }

    /// The template as a buffer.
    pub fn finish(mut self) -> Aml {
        // End tag; a checksum of zero means that there is none.
        self.0.extend([0x79, 0]);
        buffer(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_filled_up_and_counted() {
        assert_eq!(path("PCI0"), b"PCI0");
        assert_eq!(path("\\_SB"), b"\\_SB_");
        assert_eq!(path("\\_SB.PCI0"), b"\\\x2e_SB_PCI0");
        assert_eq!(path("^A.B.C"), b"^\x2f\x03A___B___C___");
        assert_eq!(path("\\"), b"\\\0");
    }

    #[test]
    fn lengths_count_themselves() {
        assert_eq!(package_length(62), [63]);
        assert_eq!(package_length(63), [0x41, 0x04]);
        assert_eq!(package_length(0xffc), [0x4e, 0xff]);
        assert_eq!(package_length(0xffd), [0x80, 0x00, 0x01]);
        assert_eq!(package_length(0xf_fffc), [0xc0, 0x00, 0x00, 0x01]);
    }

    #[test]
    fn integers_take_as_few_bytes_as_they_can() {
        assert_eq!(integer(0), [0]);
        assert_eq!(integer(1), [1]);
        assert_eq!(integer(0xff), [0x0a, 0xff]);
        assert_eq!(integer(0x100), [0x0b, 0, 1]);
        assert_eq!(integer(0x1_0000), [0x0c, 0, 0, 1, 0]);
        assert_eq!(integer(1 << 32), [0x0e, 0, 0, 0, 0, 1, 0, 0, 0]);
    }

    #[test]
    fn an_eisa_id_is_compressed() {
        assert_eq!(eisa_id("PNP0A03"), [0x0c, 0x41, 0xd0, 0x0a, 0x03]);
    }

    #[test]
    fn a_resource_template_ends_with_its_tag() {
        let template = Resources::new().io(0x70, 2).irq(8).finish();
        let expected = [
            0x11, 0x10, 0x0a, 0x0d, 0x47, 1, 0x70, 0, 0x70, 0, 1, 2, 0x22, 0, 1, 0x79, 0,
        ];
        assert_eq!(template, expected);
    }

    #[test]
    fn blocks_nest() {
        let code = method("_STA", 0, &[give(&integer(15))]);
        assert_eq!(code, b"\x14\x09_STA\x00\xa4\x0a\x0f");
    }
}
