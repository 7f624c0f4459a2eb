//! Frames to messages (spec: wire 1.2 and 1.5).

use bytes::{Buf, Bytes, BytesMut};

use super::error::WireError;
use super::field::{Field, Reader};
use super::{FRAME_MAX, FRAME_MIN, LENGTH_LEN};
use crate::geometry::Geometry;
use crate::message::Message;

/// Bytes of a context with nonce and tag.
const CONTEXT_LEN_MAX: u64 = 37;
/// Bytes of generation, flush number and dirty flag of an extent.
const EXTENT_STATE_LEN: u64 = 8 + 8 + 1;
/// Room for all that does not follow from the size of a region: dependencies (of a hundred thousand jobs), names,
/// explanations.
const LISTS_LEN_MAX: u64 = 1 << 20;

impl Message {
    const fn data_mut(&mut self) -> Option<&mut Bytes> {
        match self {
            Self::Write { data, .. }
            | Self::WriteUnwritten { data, .. }
            | Self::ReadResponse { data, .. }
            | Self::Unknown { body: data, .. } => Some(data),
            _ => None,
        }
    }
}

/// Takes messages off a buffer that a connection is read into. Has no state of its own.
///
/// Data is not copied: it shares the memory of the buffer, and keeps all of that alive.
///
/// ```
/// # use bytes::BytesMut;
/// # use crucible_protocol::{Message, wire::Decoder};
/// let mut buffer = BytesMut::new();
/// Message::Ruok.encode_into(&mut buffer);
/// let rest = buffer.split_off(5);
///
/// let decoder = Decoder::default();
/// assert_eq!(decoder.decode(&mut buffer), Ok(None));
/// assert_eq!(decoder.missing(&buffer), Ok(3));
/// buffer.unsplit(rest);
/// assert_eq!(decoder.decode(&mut buffer), Ok(Some(Message::Ruok)));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decoder {
    limit: u32,
}

impl Default for Decoder {
    fn default() -> Self {
        Self::with_limit(FRAME_MAX)
    }
}

impl Decoder {
    /// A decoder that refuses frames of more than `limit` bytes, and of more than [`FRAME_MAX`] in any case.
    pub const fn with_limit(limit: u32) -> Self {
        Self {
            limit: if limit < FRAME_MAX { limit } else { FRAME_MAX },
        }
    }

    /// A decoder for either side of a connection about this region: takes what moves all of it at once, and no
    /// more.
    pub fn for_region(geometry: &Geometry) -> Self {
        let block = u64::from(geometry.block_size()) + CONTEXT_LEN_MAX;
        let blocks = geometry.block_count().saturating_mul(block);
        let states = EXTENT_STATE_LEN * u64::from(geometry.extent_count());
        let limit = blocks.max(states).saturating_add(LISTS_LEN_MAX);
        Self::with_limit(u32::try_from(limit).unwrap_or(FRAME_MAX))
    }

    /// The longest frame that is taken, in bytes.
    pub const fn limit(&self) -> u32 {
        self.limit
    }

    /// Takes the next message off the front of `buffer`; `None` while it is not all there.
    ///
    /// After an error the buffer is as it was, and the connection should be closed.
    pub fn decode(&self, buffer: &mut BytesMut) -> Result<Option<Message>, WireError> {
        let Some(front) = self.front(buffer)? else {
            return Ok(None);
        };
        let Some(body) = buffer.get(LENGTH_LEN..front.length) else {
            return Ok(None);
        };
        let mut reader = Reader::new(body, front.name);
        let mut message = Message::take(&mut reader)?;
        match (message.data_mut(), reader.bulk) {
            // A message without data should not keep the buffer alive.
            (Some(data), Some(length)) if length > 0 => {
                let mut frame = buffer.split_to(front.length);
                frame.advance(front.length.saturating_sub(length));
                *data = frame.freeze();
            }
            _ => buffer.advance(front.length),
        }
        Ok(Some(message))
    }

    /// How many bytes are missing from the frame at the front of `buffer`, as far as its beginning tells; 0 when it
    /// is complete. For readers that want to make room: at most [`Decoder::limit`], but a peer may announce what
    /// it never sends, so room for much more than a usual message is better made while its bytes come.
    pub fn missing(&self, buffer: &[u8]) -> Result<usize, WireError> {
        let length = self
            .front(buffer)?
            .map_or(FRAME_MIN as usize, |front| front.length);
        Ok(length.saturating_sub(buffer.len()))
    }

    /// Looks at length and number as soon as they are there.
    fn front(&self, buffer: &[u8]) -> Result<Option<Front>, WireError> {
        let Some((length, body)) = buffer.split_first_chunk() else {
            return Ok(None);
        };
        let length = u32::from_le_bytes(*length);
        if length < FRAME_MIN {
            return Err(WireError::FrameShort { length });
        }
        if length > self.limit {
            return Err(WireError::FrameLong {
                length,
                limit: self.limit,
            });
        }
        let Some(number) = body.first_chunk() else {
            return Ok(None);
        };
        let number = u32::from_le_bytes(*number);
        let name = Message::name_of(number).ok_or(WireError::UnknownMessage(number))?;
        Ok(Some(Front {
            length: length as usize,
            name,
        }))
    }
}

struct Front {
    length: usize,
    name: &'static str,
}
