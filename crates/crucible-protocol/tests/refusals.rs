//! Bytes that are no message: each is refused, as early as can be, with words that name what is wrong.

use bytes::BytesMut;
use crucible_protocol::{Decoder, Geometry, Message, WireError};

const KEY: [u8; 48] = {
    let mut key = [7; 48];
    key[0] = 16;
    key[24] = 16;
    let mut at = 1;
    while at < 8 {
        key[at] = 0;
        key[24 + at] = 0;
        at += 1;
    }
    key
};

/// A frame with the right length.
fn frame(number: u32, body: &[&[u8]]) -> Vec<u8> {
    let body = body.concat();
    let length = 8 + body.len() as u32;
    [&length.to_le_bytes()[..], &number.to_le_bytes(), &body].concat()
}

fn check(bytes: &[u8], words: &str) {
    let mut buffer = BytesMut::from(bytes);
    let found = Decoder::default().decode(&mut buffer);
    assert_eq!(
        found.map_err(|error| error.to_string()),
        Err(words.to_owned())
    );
    assert_eq!(buffer, bytes, "the buffer is as it was");
}

fn number(value: u64) -> [u8; 8] {
    value.to_le_bytes()
}

#[test]
fn lengths_that_cannot_be_are_refused_before_anything_else_comes() {
    for length in 0_u32..8 {
        check(
            &length.to_le_bytes(),
            &format!("frame of {length} bytes: the shortest has 8"),
        );
    }
    check(
        &(100_u32 << 20 | 1).to_le_bytes(),
        "frame of 104857601 bytes: at most 104857600 are taken here, 104857600 anywhere",
    );
    let mut largest = BytesMut::from(&(100_u32 << 20).to_le_bytes()[..]);
    assert_eq!(Decoder::default().decode(&mut largest), Ok(None));
    // Not before the number is known.
    assert_eq!(Decoder::default().missing(&largest), Ok(4));
}

#[test]
fn a_connection_may_take_less() {
    let frame = frame(41, &[&[0; 4], &number(88), &[0; 88]]);
    let mut buffer = BytesMut::from(&frame[..]);
    let tight = Decoder::with_limit(107);
    assert_eq!(
        tight.decode(&mut buffer),
        Err(WireError::FrameLong {
            length: 108,
            limit: 107
        })
    );
    assert_eq!(tight.missing(&buffer), tight.decode(&mut buffer).map(|_| 0));
    let enough = Decoder::with_limit(108);
    assert!(matches!(
        enough.decode(&mut buffer),
        Ok(Some(Message::Unknown { .. }))
    ));
    assert_eq!(Decoder::with_limit(u32::MAX), Decoder::default());
}

#[test]
fn a_small_region_takes_all_of_itself_and_no_more() {
    let limit = |blocks, extents| {
        let geometry = Geometry::new(4096, blocks, extents).unwrap();
        Decoder::for_region(&geometry).limit()
    };
    assert_eq!(limit(10, 10), (1 << 20) + 100 * (4096 + 37));
    assert_eq!(limit(1, 0), 1 << 20);
    assert_eq!(limit(1 << 17, 100), 100 << 20);
    assert_eq!(limit(1 << 17, u32::MAX), 100 << 20);
}

#[test]
fn a_number_that_no_message_has_is_refused_before_its_body_comes() {
    for number in [42, 1000, u32::MAX] {
        let mut bytes = 1_000_000_u32.to_le_bytes().to_vec();
        bytes.extend(number.to_le_bytes());
        check(&bytes, &format!("message number {number}: the last is 41"));
    }
}

#[test]
fn counts_are_not_believed() {
    let job = number(1000);
    for count in [4, 1 << 32, 1 << 61, u64::MAX] {
        check(
            &frame(34, &[&KEY, &job, &number(count), &[0; 24]]),
            &format!(
                "Barrier: dependencies: {count} elements do not fit into the 24 bytes that are left"
            ),
        );
        check(
            &frame(28, &[&number(count), &[0; 24]]),
            &format!(
                "ExtentVersions: generations: {count} elements do not fit into the 24 bytes that are left"
            ),
        );
    }
    check(
        &frame(
            32,
            &[
                &KEY,
                &job,
                &number(0),
                &number(1),
                &number(1),
                &[1],
                &number(3),
                b"ab",
            ],
        ),
        "Flush: snapshot: 3 elements do not fit into the 2 bytes that are left",
    );
}

#[test]
fn contexts_without_their_blocks_are_not_believed() {
    // 20 of the smallest contexts are there, but not the data of so many blocks.
    let contexts = [0; 20 * 9];
    check(
        &frame(
            30,
            &[
                &KEY,
                &number(1000),
                &number(0),
                &number(0),
                &number(20),
                &contexts,
                &number(0),
            ],
        ),
        "Write: contexts: 20 elements do not fit into the 188 bytes that are left",
    );
    check(
        &frame(
            37,
            &[
                &KEY,
                &number(1000),
                &[0; 4],
                &number(20),
                &[0; 80],
                &number(512),
                &[0; 512],
            ],
        ),
        "ReadResponse: blocks: 20 elements do not fit into the 600 bytes that are left",
    );
}

#[test]
fn data_is_what_is_left_of_the_frame_and_nothing_else() {
    let head = [&KEY[..], &number(1000), &number(0), &number(0), &number(0)].concat();
    for length in [0, 511, 513, u64::MAX] {
        check(
            &frame(38, &[&head, &number(length), &[0; 512]]),
            &format!("WriteUnwritten: data: {length} bytes of data where 512 are left"),
        );
    }
}

#[test]
fn truth_is_0_or_1_and_so_is_presence() {
    check(
        &frame(3, &[&[2]]),
        "ReadOnlyMismatch: expected: flag of 2: must be 0 or 1",
    );
    check(
        &frame(29, &[&[255]]),
        "LastFlush: last: flag of 255: must be 0 or 1",
    );
}

#[test]
fn variants_that_do_not_exist_are_named() {
    let job = number(1000);
    check(
        &frame(31, &[&KEY, &job, &[2, 0, 0, 0]]),
        "WriteAck: result: no variant 2",
    );
    check(
        &frame(40, &[&KEY, &job, &[42, 0, 0, 0]]),
        "ErrorReport: error: no variant 42",
    );
    check(
        &frame(40, &[&KEY, &job, &[41, 0, 0, 0, 8, 0, 0, 0]]),
        "ErrorReport: negotiation: no variant 8",
    );
    check(
        &frame(1, &[&[13, 0, 0, 0, 2, 0, 0, 0]]),
        "YesItsMe: repair_address: no variant 2",
    );
}

#[test]
fn a_uuid_has_16_bytes_and_text_is_utf_8() {
    check(
        &frame(8, &[&number(17), &[0; 17]]),
        "UuidMismatch: expected: uuid of 17 bytes: must be 16",
    );
    check(
        &frame(40, &[&KEY, &number(0), &[0; 4], &number(2), &[0xc3, 0x28]]),
        "ErrorReport: text: text is not UTF-8",
    );
}

#[test]
fn a_frame_that_ends_too_early_names_what_it_ends_in() {
    check(
        &frame(2, &[&[13, 0]]),
        "VersionMismatch: version: needs 4 more bytes where 2 are left",
    );
    check(
        &frame(5, &[&KEY, &[0; 7]]),
        "PromoteToActive: generation: needs 8 more bytes where 7 are left",
    );
    check(
        &frame(5, &[&KEY[..30]]),
        "PromoteToActive: session: needs 8 more bytes where 6 are left",
    );
}
