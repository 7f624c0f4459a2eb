//! Frames: the length, the head, the data (spec: wire 1.2 and 1.5).

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::error::WireError;
use super::field::{Field, Reader, put_list};
use super::{FRAME_MAX, FRAME_MIN};
use crate::context::BlockContext;
use crate::ids::{BlockIndex, JobId};
use crate::message::{Message, SessionKey};

/// Bytes of the length word; it counts itself.
const LENGTH_LEN: usize = 4;
/// A context with nonce and tag.
const CONTEXT_LEN_MAX: usize = 37;
/// Length word, number, session key, job and the count of the dependencies.
const WRITE_START_LEN: usize = LENGTH_LEN + 4 + 48 + 8 + 8;

impl Message {
    /// Bytes of the whole frame. Peers refuse one over [`FRAME_MAX`]: whoever makes a message as large as somebody
    /// else wants it asks here before it is sent.
    pub fn encoded_len(&self) -> usize {
        LENGTH_LEN + self.length() + self.data().map_or(0, Bytes::len)
    }

    /// Appends the whole frame. Copies the data; see [`Message::encode_head`].
    pub fn encode_into(&self, out: &mut BytesMut) {
        out.reserve(self.encoded_len());
        let data = self.put_head(out);
        out.put_slice(&data);
    }

    /// Appends the frame up to its data and returns the data, which is to be sent right after; empty where the
    /// message has none.
    pub fn encode_head(&self, out: &mut BytesMut) -> Bytes {
        out.reserve(LENGTH_LEN + self.length());
        self.put_head(out)
    }

    /// The data of a write, of the answer to a read, of an unknown message.
    pub const fn data(&self) -> Option<&Bytes> {
        match self {
            Self::Write { data, .. }
            | Self::WriteUnwritten { data, .. }
            | Self::ReadResponse { data, .. }
            | Self::Unknown { body: data, .. } => Some(data),
            _ => None,
        }
    }

    const fn data_mut(&mut self) -> Option<&mut Bytes> {
        match self {
            Self::Write { data, .. }
            | Self::WriteUnwritten { data, .. }
            | Self::ReadResponse { data, .. }
            | Self::Unknown { body: data, .. } => Some(data),
            _ => None,
        }
    }

    fn put_head(&self, out: &mut BytesMut) -> Bytes {
        let data = self.data().cloned().unwrap_or_default();
        put_frame_length(LENGTH_LEN + self.length() + data.len(), out);
        self.put(out);
        data
    }
}

/// A frame whose length does not even fit its length word is one that every peer refuses: so is this word.
fn put_frame_length(length: usize, out: &mut BytesMut) {
    out.put_u32_le(u32::try_from(length).unwrap_or(u32::MAX));
}

/// Which of the two kinds of write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteKind {
    /// [`Message::Write`].
    All,
    /// [`Message::WriteUnwritten`].
    Unwritten,
}

impl WriteKind {
    const fn number(self) -> u32 {
        match self {
            Self::All => 30,
            Self::Unwritten => 38,
        }
    }
}

/// A write that goes to several region servers: all that is the same for each of them, encoded once. What differs
/// is the list of dependencies.
#[derive(Clone, Debug)]
pub struct SharedWrite {
    kind: WriteKind,
    key: SessionKey,
    job: JobId,
    /// Start, contexts and the length of the data: what follows the dependencies.
    tail: Bytes,
    data: Bytes,
}

impl SharedWrite {
    /// The write of `data`, whole blocks, one context for each.
    pub fn new(
        kind: WriteKind,
        key: SessionKey,
        job: JobId,
        start: BlockIndex,
        contexts: &[BlockContext],
        data: Bytes,
    ) -> Self {
        let mut tail = BytesMut::with_capacity(24 + CONTEXT_LEN_MAX * contexts.len());
        start.put(&mut tail);
        put_list(contexts, &mut tail);
        data.put(&mut tail);
        Self {
            kind,
            key,
            job,
            tail: tail.freeze(),
            data,
        }
    }

    /// What [`Message::encode_head`] does for the same write with these dependencies.
    pub fn encode_head(&self, dependencies: &[JobId], out: &mut BytesMut) -> Bytes {
        let head = WRITE_START_LEN + 8 * dependencies.len() + self.tail.len();
        out.reserve(head);
        put_frame_length(head + self.data.len(), out);
        self.kind.number().put(out);
        self.key.put(out);
        self.job.put(out);
        put_list(dependencies, out);
        out.put_slice(&self.tail);
        self.data.clone()
    }

    /// Bytes of the whole frame with so many dependencies.
    pub fn encoded_len(&self, dependencies: usize) -> usize {
        WRITE_START_LEN + 8 * dependencies + self.tail.len() + self.data.len()
    }

    /// The data that each head is followed by.
    pub const fn data(&self) -> &Bytes {
        &self.data
    }
}

/// Takes messages off a buffer that a connection is read into. Has no state of its own.
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

    /// The longest frame that is taken, in bytes.
    pub const fn limit(&self) -> u32 {
        self.limit
    }

    /// Takes the next message off the front of `buffer`; `None` while it is not all there. Data is not copied: the
    /// message shares the buffer's memory.
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
            (Some(data), Some(length)) => {
                let mut frame = buffer.split_to(front.length);
                frame.advance(front.length.saturating_sub(length));
                *data = frame.freeze();
            }
            _ => buffer.advance(front.length),
        }
        Ok(Some(message))
    }

    /// How many bytes are missing from the frame at the front of `buffer`, as far as its beginning tells; 0 when it
    /// is complete. For readers that want to make room: at most [`Decoder::limit`].
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
