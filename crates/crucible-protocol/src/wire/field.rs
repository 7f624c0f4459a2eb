//! What fields are made of: numbers, flags, lists, identifiers, in the layout of bincode 1.3 (spec: wire 1.3).

use std::mem::take;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

use bytes::{Bytes, BytesMut};
use uuid::Uuid;

use super::error::{FieldFault, WireError};
use crate::ids::{BlockIndex, ClientId, ExtentId, JobId, ReconciliationId, SessionId, UpstairsId};

/// A value on the wire. `length`, `put` and `take` agree with each other; the property tests see to it.
pub(super) trait Field: Sized {
    /// Bytes of a frame that one value takes up at the least. A count of values that would need more than there
    /// is, is refused before anything is allocated for it.
    const LEAST: usize;

    /// Bytes that [`Field::put`] appends.
    fn length(&self) -> usize;

    /// Appends the value.
    fn put(&self, out: &mut Writer<'_>);

    /// Reads a value.
    fn take(reader: &mut Reader<'_>) -> Result<Self, WireError>;
}

/// Room for a head, to be filled from the front. The room is made from [`Field::length`], with which `put` agrees.
#[derive(Debug)]
pub(super) struct Writer<'a> {
    room: &'a mut [u8],
}

impl<'a> Writer<'a> {
    /// Appends `length` bytes to `out`, to be filled.
    pub(super) fn append(out: &'a mut BytesMut, length: usize) -> Self {
        let start = out.len();
        out.resize(start + length, 0);
        Self {
            room: out.get_mut(start..).unwrap_or_default(),
        }
    }

    #[inline]
    pub(super) fn array<const N: usize>(&mut self, value: &[u8; N]) {
        if let Some((place, room)) = take(&mut self.room).split_first_chunk_mut() {
            *place = *value;
            self.room = room;
        }
    }

    pub(super) fn slice(&mut self, value: &[u8]) {
        if let Some((place, room)) = take(&mut self.room).split_at_mut_checked(value.len()) {
            place.copy_from_slice(value);
            self.room = room;
        }
    }
}

/// Where in a frame we are, and what to call it when something is wrong there.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
    /// Named in errors.
    pub(super) message: &'static str,
    /// Named in errors.
    pub(super) field: &'static str,
    /// How many bytes at the end of the frame are data.
    pub(super) bulk: Option<usize>,
}

impl<'a> Reader<'a> {
    pub(super) const fn new(body: &'a [u8], message: &'static str) -> Self {
        Self {
            rest: body,
            message,
            field: "number",
            bulk: None,
        }
    }

    #[cold]
    pub(super) const fn fault(&self, fault: FieldFault) -> WireError {
        WireError::Field {
            message: self.message,
            field: self.field,
            fault,
        }
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        match self.rest.split_first_chunk() {
            Some((value, rest)) => {
                self.rest = rest;
                Ok(*value)
            }
            None => Err(self.fault(FieldFault::Truncated {
                needed: N,
                left: self.rest.len(),
            })),
        }
    }

    /// A count of elements, each of which takes up `least` bytes or more, that fits into what is left.
    #[inline]
    fn count(&mut self, least: usize) -> Result<usize, WireError> {
        let count = u64::take(self)?;
        let left = self.rest.len();
        match usize::try_from(count) {
            Ok(count) if count <= left / least.max(1) => Ok(count),
            _ => Err(self.fault(FieldFault::Count { count, left })),
        }
    }
}

macro_rules! integer {
    ($($type:ty),*) => {$(
        impl Field for $type {
            const LEAST: usize = size_of::<$type>();

            #[inline]
            fn length(&self) -> usize {
                Self::LEAST
            }

            #[inline]
            fn put(&self, out: &mut Writer<'_>) {
                out.array(&self.to_le_bytes());
            }

            #[inline]
            fn take(reader: &mut Reader<'_>) -> Result<Self, WireError> {
                Ok(Self::from_le_bytes(reader.array()?))
            }
        }
    )*};
}

integer!(u8, u16, u32, u64);

macro_rules! newtype {
    ($($type:ident($inner:ty)),*) => {$(
        impl Field for $type {
            const LEAST: usize = <$inner as Field>::LEAST;

            #[inline]
            fn length(&self) -> usize {
                self.0.length()
            }

            #[inline]
            fn put(&self, out: &mut Writer<'_>) {
                self.0.put(out);
            }

            #[inline]
            fn take(reader: &mut Reader<'_>) -> Result<Self, WireError> {
                Ok(Self(Field::take(reader)?))
            }
        }
    )*};
}

newtype!(
    JobId(u64),
    ReconciliationId(u64),
    BlockIndex(u64),
    ExtentId(u32),
    ClientId(u8),
    UpstairsId(Uuid),
    SessionId(Uuid)
);

impl Field for () {
    const LEAST: usize = 0;

    #[inline]
    fn length(&self) -> usize {
        0
    }

    fn put(&self, _out: &mut Writer<'_>) {}

    #[inline]
    fn take(_reader: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(())
    }
}

impl Field for bool {
    const LEAST: usize = 1;

    #[inline]
    fn length(&self) -> usize {
        1
    }

    #[inline]
    fn put(&self, out: &mut Writer<'_>) {
        u8::from(*self).put(out);
    }

    #[inline]
    fn take(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        match u8::take(reader)? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(reader.fault(FieldFault::Flag(other))),
        }
    }
}

impl<const N: usize> Field for [u8; N] {
    const LEAST: usize = N;

    #[inline]
    fn length(&self) -> usize {
        N
    }

    #[inline]
    fn put(&self, out: &mut Writer<'_>) {
        out.array(self);
    }

    #[inline]
    fn take(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        reader.array()
    }
}

/// A byte buffer of 16 bytes: the length comes first.
impl Field for Uuid {
    const LEAST: usize = 24;

    #[inline]
    fn length(&self) -> usize {
        Self::LEAST
    }

    #[inline]
    fn put(&self, out: &mut Writer<'_>) {
        16_u64.put(out);
        out.array(self.as_bytes());
    }

    #[inline]
    fn take(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        match u64::take(reader)? {
            16 => Ok(Self::from_bytes(reader.array()?)),
            other => Err(reader.fault(FieldFault::UuidLength(other))),
        }
    }
}

impl<T: Field> Field for Option<T> {
    const LEAST: usize = 1;

    #[inline]
    fn length(&self) -> usize {
        1 + self.as_ref().map_or(0, Field::length)
    }

    #[inline]
    fn put(&self, out: &mut Writer<'_>) {
        self.is_some().put(out);
        if let Some(value) = self {
            value.put(out);
        }
    }

    #[inline]
    fn take(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        bool::take(reader)?.then(|| T::take(reader)).transpose()
    }
}

impl<T: Field, E: Field> Field for Result<T, E> {
    const LEAST: usize = 4;

    #[inline]
    fn length(&self) -> usize {
        4 + match self {
            Ok(value) => value.length(),
            Err(error) => error.length(),
        }
    }

    #[inline]
    fn put(&self, out: &mut Writer<'_>) {
        match self {
            Ok(value) => {
                0_u32.put(out);
                value.put(out);
            }
            Err(error) => {
                1_u32.put(out);
                error.put(out);
            }
        }
    }

    #[inline]
    fn take(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        match u32::take(reader)? {
            0 => Ok(Ok(T::take(reader)?)),
            1 => Ok(Err(E::take(reader)?)),
            other => Err(reader.fault(FieldFault::Variant(other))),
        }
    }
}

impl<T: Field> Field for Vec<T> {
    const LEAST: usize = 8;

    #[inline]
    fn length(&self) -> usize {
        list_length(self)
    }

    #[inline]
    fn put(&self, out: &mut Writer<'_>) {
        put_list(self, out);
    }

    #[inline]
    fn take(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let count = reader.count(T::LEAST)?;
        let mut list = Self::with_capacity(count);
        for _ in 0..count {
            list.push(T::take(reader)?);
        }
        Ok(list)
    }
}

/// Bytes that [`put_list`] appends.
#[inline]
pub(super) fn list_length<T: Field>(list: &[T]) -> usize {
    8 + list.iter().map(Field::length).sum::<usize>()
}

/// Appends the number of the elements, then the elements.
pub(super) fn put_list<T: Field>(list: &[T], out: &mut Writer<'_>) {
    (list.len() as u64).put(out);
    for element in list {
        element.put(out);
    }
}

impl Field for String {
    const LEAST: usize = 8;

    #[inline]
    fn length(&self) -> usize {
        8 + self.len()
    }

    #[inline]
    fn put(&self, out: &mut Writer<'_>) {
        (self.len() as u64).put(out);
        out.slice(self.as_bytes());
    }

    #[inline]
    fn take(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let length = reader.count(1)?;
        let (text, rest) = reader.rest.split_at(length);
        match std::str::from_utf8(text) {
            Ok(text) => {
                reader.rest = rest;
                Ok(text.to_owned())
            }
            Err(_) => Err(reader.fault(FieldFault::Text)),
        }
    }
}

/// Bulk data: the last field of its message. Here only its length is put and taken; the bytes themselves stay
/// where they are and follow the head (spec: wire 1.5).
impl Field for Bytes {
    const LEAST: usize = 8;

    #[inline]
    fn length(&self) -> usize {
        8
    }

    #[inline]
    fn put(&self, out: &mut Writer<'_>) {
        (self.len() as u64).put(out);
    }

    #[inline]
    fn take(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let length = u64::take(reader)?;
        let left = reader.rest.len();
        if usize::try_from(length) == Ok(left) {
            reader.bulk = Some(left);
            Ok(Self::new())
        } else {
            Err(reader.fault(FieldFault::DataLength { length, left }))
        }
    }
}

impl Field for SocketAddr {
    const LEAST: usize = 10;

    #[inline]
    fn length(&self) -> usize {
        match self {
            Self::V4(_) => 10,
            Self::V6(_) => 22,
        }
    }

    #[inline]
    fn put(&self, out: &mut Writer<'_>) {
        match self {
            Self::V4(address) => {
                0_u32.put(out);
                out.array(&address.ip().octets());
            }
            Self::V6(address) => {
                1_u32.put(out);
                out.array(&address.ip().octets());
            }
        }
        self.port().put(out);
    }

    #[inline]
    fn take(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        match u32::take(reader)? {
            0 => {
                let ip = Ipv4Addr::from(reader.array::<4>()?);
                Ok(Self::V4(SocketAddrV4::new(ip, u16::take(reader)?)))
            }
            1 => {
                let ip = Ipv6Addr::from(reader.array::<16>()?);
                Ok(Self::V6(SocketAddrV6::new(ip, u16::take(reader)?, 0, 0)))
            }
            other => Err(reader.fault(FieldFault::Variant(other))),
        }
    }
}
