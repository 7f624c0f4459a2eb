//! Frames byte for byte, in both directions: those of the specification's appendix A, which agree with the
//! reference, and one of each message that the appendix leaves out.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod appendix;
mod rest;

use bytes::BytesMut;
use crucible_protocol::{Decoder, Message, SessionId, SessionKey, UpstairsId};
use uuid::Uuid;

pub(crate) const ZEROS: [u8; 512] = [0; 512];

pub(crate) fn key() -> SessionKey {
    SessionKey {
        upstairs: UpstairsId(Uuid::from_u128(0x11111111_2222_3333_4444_555555555555)),
        session: SessionId(Uuid::from_u128(0x66666666_7777_8888_9999_aaaaaaaaaaaa)),
    }
}

/// Text of hexadecimal bytes; `<UUIDS>` stands for [`key`].
pub(crate) fn bytes(text: &str) -> Vec<u8> {
    const UUIDS: &str = "10 00 00 00 00 00 00 00 11 11 11 11 22 22 33 33 44 44 55 55 55 55 55 55 \
                         10 00 00 00 00 00 00 00 66 66 66 66 77 77 88 88 99 99 aa aa aa aa aa aa";
    text.replace("<UUIDS>", UUIDS)
        .split_whitespace()
        .map(|byte| u8::from_str_radix(byte, 16).unwrap())
        .collect()
}

pub(crate) fn check(message: &Message, text: &str, data: &[u8]) {
    let mut expected = bytes(text);
    let head = expected.len();
    expected.extend_from_slice(data);

    let mut whole = BytesMut::new();
    message.encode_into(&mut whole);
    assert_eq!(whole, expected, "{}", message.name());
    assert_eq!(message.encoded_len(), expected.len(), "{}", message.name());

    let mut parts = BytesMut::new();
    let tail = message.encode_head(&mut parts);
    assert_eq!(parts, expected[..head], "{}", message.name());
    assert_eq!(tail, data, "{}", message.name());

    assert_eq!(
        Decoder::default().decode(&mut whole),
        Ok(Some(message.clone()))
    );
    assert!(whole.is_empty());
}
