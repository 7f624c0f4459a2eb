//! Messages to frames: the length, the head, the data (spec: wire 1.2 and 1.5).

use bytes::{BufMut, Bytes, BytesMut};

use super::LENGTH_LEN;
use super::field::{Field, Writer};
use crate::message::Message;

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
