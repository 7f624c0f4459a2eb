//! Appendix A, in its order; the hashes that it gives.

use bytes::Bytes;
use crucible_protocol::context::{hash, integrity_hash};
use crucible_protocol::{
    BlockContext, BlockIndex, CrucibleError, EncryptionContext, ExtentSize, ExtentState, JobId,
    Message, NegotiationError, ReadBlockContext, ReadResponseHeader, RegionDefinition, WriteHeader,
};
use uuid::Uuid;

use super::{ZEROS, bytes, check, key};

const HASH_OF_ZEROS: u64 = 0x8bbf_7f68_e8c3_b87c;

fn encryption() -> EncryptionContext {
    EncryptionContext {
        nonce: bytes("00 01 02 03 04 05 06 07 08 09 0a 0b")
            .try_into()
            .unwrap(),
        tag: bytes("5d fc b9 60 d7 13 ae 7c c6 79 99 ba 4b 49 86 bc")
            .try_into()
            .unwrap(),
    }
}

fn write(context: BlockContext, data: &'static [u8]) -> Message {
    Message::Write {
        header: WriteHeader {
            key: key(),
            job: JobId(1000),
            dependencies: vec![],
            start: BlockIndex(0),
            contexts: vec![context],
        },
        data: Bytes::from_static(data),
    }
}

fn read_response(blocks: Result<Vec<ReadBlockContext>, CrucibleError>) -> Message {
    Message::ReadResponse {
        data: Bytes::from_static(if blocks.is_ok() { &ZEROS } else { &[] }),
        header: ReadResponseHeader {
            key: key(),
            job: JobId(1002),
            blocks,
        },
    }
}

#[test]
fn negotiation_is_as_the_reference_says_it() {
    check(&Message::Ruok, "08 00 00 00 09 00 00 00", &[]);
    check(&Message::Imok, "08 00 00 00 0a 00 00 00", &[]);
    check(
        &Message::HereIAm {
            version: 13,
            key: key(),
            generation: 1,
            read_only: false,
            encrypted: false,
            alternate_versions: vec![],
        },
        "4e 00 00 00 00 00 00 00 0d 00 00 00 <UUIDS> 01 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00",
        &[],
    );
    check(
        &Message::YesItsMe {
            version: 13,
            repair_address: "127.0.0.1:7810".parse().unwrap(),
        },
        "16 00 00 00 01 00 00 00 0d 00 00 00 00 00 00 00 7f 00 00 01 82 1e",
        &[],
    );
    check(
        &Message::YesItsMe {
            version: 13,
            repair_address: "[::1]:7810".parse().unwrap(),
        },
        "22 00 00 00 01 00 00 00 0d 00 00 00 01 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 01 82 1e",
        &[],
    );
    check(
        &Message::VersionMismatch { version: 13 },
        "0c 00 00 00 02 00 00 00 0d 00 00 00",
        &[],
    );
    check(
        &Message::ReadOnlyMismatch { expected: true },
        "09 00 00 00 03 00 00 00 01",
        &[],
    );
    check(
        &Message::PromoteToActive {
            key: key(),
            generation: 1,
        },
        "40 00 00 00 05 00 00 00 <UUIDS> 01 00 00 00 00 00 00 00",
        &[],
    );
    check(
        &Message::YouAreNowActive {
            key: key(),
            generation: 1,
        },
        "40 00 00 00 06 00 00 00 <UUIDS> 01 00 00 00 00 00 00 00",
        &[],
    );
}

#[test]
fn what_a_region_says_of_itself_is_as_the_reference_says_it() {
    check(&Message::RegionInfoPlease, "08 00 00 00 19 00 00 00", &[]);
    check(
        &Message::RegionInfo(RegionDefinition {
            block_size: 512,
            extent_size: ExtentSize {
                value: 100,
                shift: 9,
            },
            extent_count: 15,
            uuid: Uuid::from_u128(0x12345678_0000_0000_0000_000000003810),
            encrypted: false,
            database_read_version: 1,
            database_write_version: 1,
        }),
        "49 00 00 00 1a 00 00 00 00 02 00 00 00 00 00 00 64 00 00 00 00 00 00 00 09 00 00 00 0f 00 00 00 10 00 00 00 00 00 00 00 12 34 56 78 00 00 00 00 00 00 00 00 00 00 38 10 00 01 00 00 00 00 00 00 00 01 00 00 00 00 00 00 00",
        &[],
    );
    check(
        &Message::ExtentVersionsPlease,
        "08 00 00 00 1b 00 00 00",
        &[],
    );
    check(
        &Message::ExtentVersions {
            generations: vec![0, 0],
            flushes: vec![0, 0],
            dirty: vec![false, false],
        },
        "42 00 00 00 1c 00 00 00 02 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 02 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 02 00 00 00 00 00 00 00 00 00",
        &[],
    );
    check(
        &Message::LastFlush { last: None },
        "09 00 00 00 1d 00 00 00 00",
        &[],
    );
    check(
        &Message::LastFlush {
            last: Some(JobId(1000)),
        },
        "11 00 00 00 1d 00 00 00 01 e8 03 00 00 00 00 00 00",
        &[],
    );
}

#[test]
fn writes_are_as_the_reference_sends_them() {
    let plain = BlockContext::plain(&ZEROS);
    check(
        &write(plain, &ZEROS),
        "69 02 00 00 1e 00 00 00 <UUIDS> e8 03 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 01 00 00 00 00 00 00 00 7c b8 c3 e8 68 7f bf 8b 00 00 02 00 00 00 00 00 00",
        &ZEROS,
    );
    let sealed = BlockContext {
        hash: 0x83c9_b4e1_dd36_3c27,
        encryption: Some(encryption()),
    };
    check(
        &write(sealed, &ZEROS),
        "85 02 00 00 1e 00 00 00 <UUIDS> e8 03 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 01 00 00 00 00 00 00 00 27 3c 36 dd e1 b4 c9 83 01 00 01 02 03 04 05 06 07 08 09 0a 0b 5d fc b9 60 d7 13 ae 7c c6 79 99 ba 4b 49 86 bc 00 02 00 00 00 00 00 00",
        &ZEROS,
    );
    check(
        &Message::WriteAck {
            key: key(),
            job: JobId(1000),
            result: Ok(()),
        },
        "44 00 00 00 1f 00 00 00 <UUIDS> e8 03 00 00 00 00 00 00 00 00 00 00",
        &[],
    );
    check(
        &Message::WriteAck {
            key: key(),
            job: JobId(1000),
            result: Err(CrucibleError::HashMismatch),
        },
        "48 00 00 00 1f 00 00 00 <UUIDS> e8 03 00 00 00 00 00 00 01 00 00 00 13 00 00 00",
        &[],
    );
}

#[test]
fn flushes_are_as_the_reference_sends_them() {
    let flush = |snapshot| Message::Flush {
        key: key(),
        job: JobId(1001),
        dependencies: vec![JobId(1000)],
        flush: 1,
        generation: 1,
        snapshot,
        extent_limit: None,
    };
    check(
        &flush(None),
        "62 00 00 00 20 00 00 00 <UUIDS> e9 03 00 00 00 00 00 00 01 00 00 00 00 00 00 00 e8 03 00 00 00 00 00 00 01 00 00 00 00 00 00 00 01 00 00 00 00 00 00 00 00 00",
        &[],
    );
    check(
        &flush(Some("s1".to_owned())),
        "6c 00 00 00 20 00 00 00 <UUIDS> e9 03 00 00 00 00 00 00 01 00 00 00 00 00 00 00 e8 03 00 00 00 00 00 00 01 00 00 00 00 00 00 00 01 00 00 00 00 00 00 00 01 02 00 00 00 00 00 00 00 73 31 00",
        &[],
    );
    check(
        &Message::FlushAck {
            key: key(),
            job: JobId(1001),
            result: Ok(()),
        },
        "44 00 00 00 21 00 00 00 <UUIDS> e9 03 00 00 00 00 00 00 00 00 00 00",
        &[],
    );
}

#[test]
fn reads_are_as_the_reference_sends_them() {
    check(
        &Message::ReadRequest {
            key: key(),
            job: JobId(1002),
            dependencies: vec![JobId(1001)],
            start: BlockIndex(0),
            count: 1,
        },
        "60 00 00 00 24 00 00 00 <UUIDS> ea 03 00 00 00 00 00 00 01 00 00 00 00 00 00 00 e9 03 00 00 00 00 00 00 00 00 00 00 00 00 00 00 01 00 00 00 00 00 00 00",
        &[],
    );
    check(
        &read_response(Ok(vec![ReadBlockContext::Unencrypted(HASH_OF_ZEROS)])),
        "60 02 00 00 25 00 00 00 <UUIDS> ea 03 00 00 00 00 00 00 00 00 00 00 01 00 00 00 00 00 00 00 02 00 00 00 7c b8 c3 e8 68 7f bf 8b 00 02 00 00 00 00 00 00",
        &ZEROS,
    );
    check(
        &read_response(Ok(vec![ReadBlockContext::Empty])),
        "58 02 00 00 25 00 00 00 <UUIDS> ea 03 00 00 00 00 00 00 00 00 00 00 01 00 00 00 00 00 00 00 00 00 00 00 00 02 00 00 00 00 00 00",
        &ZEROS,
    );
    check(
        &read_response(Err(CrucibleError::GenericError("test error".to_owned()))),
        "62 00 00 00 25 00 00 00 <UUIDS> ea 03 00 00 00 00 00 00 01 00 00 00 00 00 00 00 0a 00 00 00 00 00 00 00 74 65 73 74 20 65 72 72 6f 72 00 00 00 00 00 00 00 00",
        &[],
    );
}

#[test]
fn failures_and_repair_are_as_the_reference_says_them() {
    check(
        &Message::ErrorReport {
            key: key(),
            job: JobId(1002),
            error: CrucibleError::GenericError("test error".to_owned()),
        },
        "56 00 00 00 28 00 00 00 <UUIDS> ea 03 00 00 00 00 00 00 00 00 00 00 0a 00 00 00 00 00 00 00 74 65 73 74 20 65 72 72 6f 72",
        &[],
    );
    check(
        &Message::ErrorReport {
            key: key(),
            job: JobId(0),
            error: CrucibleError::NegotiationError(NegotiationError::GenerationNumberTooLow {
                requested: 1,
                actual: 5,
            }),
        },
        "58 00 00 00 28 00 00 00 <UUIDS> 00 00 00 00 00 00 00 00 29 00 00 00 02 00 00 00 01 00 00 00 00 00 00 00 05 00 00 00 00 00 00 00",
        &[],
    );
    check(
        &Message::ExtentLiveCloseAck {
            key: key(),
            job: JobId(1003),
            result: Ok(ExtentState {
                generation: 3,
                flush: 7,
                dirty: false,
            }),
        },
        "55 00 00 00 16 00 00 00 <UUIDS> eb 03 00 00 00 00 00 00 00 00 00 00 03 00 00 00 00 00 00 00 07 00 00 00 00 00 00 00 00",
        &[],
    );
}

#[test]
fn hashes_are_those_of_the_reference() {
    assert_eq!(hash(b""), 0xef46_db37_51d8_e999);
    assert_eq!(hash(b"abc"), 0x44bc_2cf5_ad77_0999);
    assert_eq!(hash(&ZEROS), HASH_OF_ZEROS);
    assert_eq!(hash(&[0; 4096]), 0xac86_9b6f_32d8_bbdb);
    let mut sealed = encryption().nonce.to_vec();
    sealed.extend(encryption().tag);
    sealed.extend(b"sealed");
    assert_eq!(
        integrity_hash(Some(&encryption()), b"sealed"),
        hash(&sealed)
    );
    assert_eq!(integrity_hash(None, b"abc"), hash(b"abc"));
}
