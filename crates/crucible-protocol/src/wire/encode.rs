//! Messages to frames: the length, the head, the data (spec: wire 1.2 and 1.5).

use bytes::{BufMut, Bytes, BytesMut};

use super::LENGTH_LEN;
use super::field::{Field, Writer, list_length, put_list};
use crate::context::BlockContext;
use crate::ids::{BlockIndex, JobId};
use crate::message::{Message, SessionKey};

/// Length word, number, session key, job and the count of the dependencies.
const WRITE_START_LEN: usize = LENGTH_LEN + 4 + 48 + 8 + 8;

impl Message {
    /// Bytes of the whole frame. Peers refuse one over [`FRAME_MAX`](super::FRAME_MAX): whoever makes a message as
    /// large as somebody else wants it asks here before it is sent.
    pub fn encoded_len(&self) -> usize {
        LENGTH_LEN + self.length() + self.data().map_or(0, Bytes::len)
    }

    /// Appends the whole frame. Copies the data; see [`Message::encode_head`].
    pub fn encode_into(&self, out: &mut BytesMut) {
        let head = LENGTH_LEN + self.length();
        let data = self.data().map_or(&[][..], |data| data);
        out.reserve(head + data.len());
        self.put_head(head, data.len(), out);
        out.put_slice(data);
    }

    /// Appends the frame up to its data and returns the data, which is to be sent right after; empty where the
    /// message has none.
    pub fn encode_head(&self, out: &mut BytesMut) -> Bytes {
        let data = self.data().cloned().unwrap_or_default();
        self.put_head(LENGTH_LEN + self.length(), data.len(), out);
        data
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

    fn put_head(&self, head: usize, data: usize, out: &mut BytesMut) {
        let mut writer = Writer::append(out, head);
        frame_length(head + data).put(&mut writer);
        self.put(&mut writer);
    }
}

/// A frame whose length does not even fit its length word is one that every peer refuses: so is this word.
fn frame_length(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
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
        let length = start.length() + list_length(contexts) + data.length();
        let mut tail = BytesMut::with_capacity(length);
        let mut writer = Writer::append(&mut tail, length);
        start.put(&mut writer);
        put_list(contexts, &mut writer);
        data.put(&mut writer);
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
        let mut writer = Writer::append(out, head);
        frame_length(head + self.data.len()).put(&mut writer);
        self.kind.number().put(&mut writer);
        self.key.put(&mut writer);
        self.job.put(&mut writer);
        put_list(dependencies, &mut writer);
        writer.slice(&self.tail);
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
