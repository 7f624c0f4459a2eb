//! What appendix A leaves out: the bytes are made from the tables of the specification, by other code than ours, with
//! a value of its own for each field, so that none can stand for another.

use bytes::Bytes;
use crucible_protocol::{
    BlockContext, BlockIndex, ClientId, CrucibleError, EncryptionContext, ExtentId, JobId, Message,
    ReadBlockContext, ReadResponseHeader, ReconciliationId, WriteHeader,
};

use super::{ZEROS, check, key};

const JOB: JobId = JobId(1003);
const EXTENT: ExtentId = ExtentId(5);
const REPAIR: ReconciliationId = ReconciliationId(9);

fn dependencies() -> Vec<JobId> {
    vec![JobId(1001), JobId(1002)]
}

#[test]
fn the_rest_of_negotiation_is_laid_out_as_specified() {
    check(
        &Message::HereIAm {
            version: 13,
            key: key(),
            generation: 3,
            read_only: true,
            encrypted: true,
            alternate_versions: vec![12, 14],
        },
        "56 00 00 00 00 00 00 00 0d 00 00 00 <UUIDS> 03 00 00 00 00 00 00 00 01 01 02 00 00 00 00 00 00 00 0c 00 00 00 0e 00 00 00",
        &[],
    );
    check(
        &Message::EncryptedMismatch { expected: true },
        "09 00 00 00 04 00 00 00 01",
        &[],
    );
    check(
        &Message::YouAreNoLongerActive {
            new_key: key(),
            new_generation: 4,
        },
        "40 00 00 00 07 00 00 00 <UUIDS> 04 00 00 00 00 00 00 00",
        &[],
    );
    check(
        &Message::UuidMismatch {
            expected: key().upstairs.0,
        },
        "20 00 00 00 08 00 00 00 10 00 00 00 00 00 00 00 11 11 11 11 22 22 33 33 44 44 55 55 55 55 55 55",
        &[],
    );
    check(
        &Message::ExtentVersions {
            generations: vec![1, 2],
            flushes: vec![3, 4],
            dirty: vec![true, false],
        },
        "42 00 00 00 1c 00 00 00 02 00 00 00 00 00 00 00 01 00 00 00 00 00 00 00 02 00 00 00 00 00 00 00 02 00 00 00 00 00 00 00 03 00 00 00 00 00 00 00 04 00 00 00 00 00 00 00 02 00 00 00 00 00 00 00 01 00",
        &[],
    );
}

#[test]
fn reconciliation_is_laid_out_as_specified() {
    check(
        &Message::ExtentClose {
            repair: REPAIR,
            extent: EXTENT,
        },
        "14 00 00 00 0b 00 00 00 09 00 00 00 00 00 00 00 05 00 00 00",
        &[],
    );
    check(
        &Message::ExtentReopen {
            repair: REPAIR,
            extent: EXTENT,
        },
        "14 00 00 00 0c 00 00 00 09 00 00 00 00 00 00 00 05 00 00 00",
        &[],
    );
    check(
        &Message::ExtentFlush {
            repair: REPAIR,
            extent: EXTENT,
            client: ClientId(1),
            flush: 7,
            generation: 3,
        },
        "25 00 00 00 0d 00 00 00 09 00 00 00 00 00 00 00 05 00 00 00 01 07 00 00 00 00 00 00 00 03 00 00 00 00 00 00 00",
        &[],
    );
    check(
        &Message::ExtentRepair {
            repair: REPAIR,
            extent: EXTENT,
            source: ClientId(2),
            source_address: "10.1.2.3:23810".parse().unwrap(),
            destinations: vec![ClientId(0), ClientId(1)],
        },
        "29 00 00 00 0e 00 00 00 09 00 00 00 00 00 00 00 05 00 00 00 02 00 00 00 00 0a 01 02 03 02 5d 02 00 00 00 00 00 00 00 00 01",
        &[],
    );
    check(
        &Message::RepairAckId { repair: REPAIR },
        "10 00 00 00 0f 00 00 00 09 00 00 00 00 00 00 00",
        &[],
    );
    check(
        &Message::ExtentError {
            repair: REPAIR,
            extent: EXTENT,
            error: CrucibleError::MissingContextSlot {
                block: BlockIndex(6),
                extent: EXTENT,
            },
        },
        "24 00 00 00 10 00 00 00 09 00 00 00 00 00 00 00 05 00 00 00 24 00 00 00 06 00 00 00 00 00 00 00 05 00 00 00",
        &[],
    );
}

#[test]
fn live_repair_is_laid_out_as_specified() {
    check(
        &Message::ExtentLiveClose {
            key: key(),
            job: JOB,
            dependencies: dependencies(),
            extent: EXTENT,
        },
        "5c 00 00 00 11 00 00 00 <UUIDS> eb 03 00 00 00 00 00 00 02 00 00 00 00 00 00 00 e9 03 00 00 00 00 00 00 ea 03 00 00 00 00 00 00 05 00 00 00",
        &[],
    );
    check(
        &Message::ExtentLiveFlushClose {
            key: key(),
            job: JOB,
            dependencies: dependencies(),
            extent: EXTENT,
            flush: 7,
            generation: 3,
        },
        "6c 00 00 00 12 00 00 00 <UUIDS> eb 03 00 00 00 00 00 00 02 00 00 00 00 00 00 00 e9 03 00 00 00 00 00 00 ea 03 00 00 00 00 00 00 05 00 00 00 07 00 00 00 00 00 00 00 03 00 00 00 00 00 00 00",
        &[],
    );
    check(
        &Message::ExtentLiveRepair {
            key: key(),
            job: JOB,
            dependencies: dependencies(),
            extent: EXTENT,
            source: ClientId(2),
            source_address: "[fd00::7]:23810".parse().unwrap(),
        },
        "73 00 00 00 13 00 00 00 <UUIDS> eb 03 00 00 00 00 00 00 02 00 00 00 00 00 00 00 e9 03 00 00 00 00 00 00 ea 03 00 00 00 00 00 00 05 00 00 00 02 01 00 00 00 fd 00 00 00 00 00 00 00 00 00 00 00 00 00 00 07 02 5d",
        &[],
    );
    check(
        &Message::ExtentLiveReopen {
            key: key(),
            job: JOB,
            dependencies: dependencies(),
            extent: EXTENT,
        },
        "5c 00 00 00 14 00 00 00 <UUIDS> eb 03 00 00 00 00 00 00 02 00 00 00 00 00 00 00 e9 03 00 00 00 00 00 00 ea 03 00 00 00 00 00 00 05 00 00 00",
        &[],
    );
    check(
        &Message::ExtentLiveNoOp {
            key: key(),
            job: JOB,
            dependencies: dependencies(),
        },
        "58 00 00 00 15 00 00 00 <UUIDS> eb 03 00 00 00 00 00 00 02 00 00 00 00 00 00 00 e9 03 00 00 00 00 00 00 ea 03 00 00 00 00 00 00",
        &[],
    );
    check(
        &Message::ExtentLiveCloseAck {
            key: key(),
            job: JOB,
            result: Err(CrucibleError::IoError("disk".to_owned())),
        },
        "54 00 00 00 16 00 00 00 <UUIDS> eb 03 00 00 00 00 00 00 01 00 00 00 01 00 00 00 04 00 00 00 00 00 00 00 64 69 73 6b",
        &[],
    );
    check(
        &Message::ExtentLiveRepairAckId {
            key: key(),
            job: JOB,
            result: Ok(()),
        },
        "44 00 00 00 17 00 00 00 <UUIDS> eb 03 00 00 00 00 00 00 00 00 00 00",
        &[],
    );
    check(
        &Message::ExtentLiveAckId {
            key: key(),
            job: JOB,
            result: Ok(()),
        },
        "44 00 00 00 18 00 00 00 <UUIDS> eb 03 00 00 00 00 00 00 00 00 00 00",
        &[],
    );
}

#[test]
fn the_rest_of_the_jobs_is_laid_out_as_specified() {
    check(
        &Message::Flush {
            key: key(),
            job: JOB,
            dependencies: dependencies(),
            flush: 7,
            generation: 3,
            snapshot: Some("\u{e9}".to_owned()),
            extent_limit: Some(EXTENT),
        },
        "78 00 00 00 20 00 00 00 <UUIDS> eb 03 00 00 00 00 00 00 02 00 00 00 00 00 00 00 e9 03 00 00 00 00 00 00 ea 03 00 00 00 00 00 00 07 00 00 00 00 00 00 00 03 00 00 00 00 00 00 00 01 02 00 00 00 00 00 00 00 c3 a9 01 05 00 00 00",
        &[],
    );
    check(
        &Message::Barrier {
            key: key(),
            job: JOB,
            dependencies: dependencies(),
        },
        "58 00 00 00 22 00 00 00 <UUIDS> eb 03 00 00 00 00 00 00 02 00 00 00 00 00 00 00 e9 03 00 00 00 00 00 00 ea 03 00 00 00 00 00 00",
        &[],
    );
    check(
        &Message::BarrierAck {
            key: key(),
            job: JOB,
            result: Ok(()),
        },
        "44 00 00 00 23 00 00 00 <UUIDS> eb 03 00 00 00 00 00 00 00 00 00 00",
        &[],
    );
    check(
        &Message::ReadRequest {
            key: key(),
            job: JOB,
            dependencies: dependencies(),
            start: BlockIndex(17),
            count: 4,
        },
        "68 00 00 00 24 00 00 00 <UUIDS> eb 03 00 00 00 00 00 00 02 00 00 00 00 00 00 00 e9 03 00 00 00 00 00 00 ea 03 00 00 00 00 00 00 11 00 00 00 00 00 00 00 04 00 00 00 00 00 00 00",
        &[],
    );
    check(
        &Message::ReadResponse {
            header: ReadResponseHeader {
                key: key(),
                job: JOB,
                blocks: Ok(vec![ReadBlockContext::Encrypted(EncryptionContext {
                    nonce: std::array::from_fn(|at| at as u8),
                    tag: std::array::from_fn(|at| 16 + at as u8),
                })]),
            },
            data: Bytes::from_static(&ZEROS),
        },
        "74 02 00 00 25 00 00 00 <UUIDS> eb 03 00 00 00 00 00 00 00 00 00 00 01 00 00 00 00 00 00 00 01 00 00 00 00 01 02 03 04 05 06 07 08 09 0a 0b 10 11 12 13 14 15 16 17 18 19 1a 1b 1c 1d 1e 1f 00 02 00 00 00 00 00 00",
        &ZEROS,
    );
    check(
        &Message::WriteUnwritten {
            header: WriteHeader {
                key: key(),
                job: JOB,
                dependencies: dependencies(),
                start: BlockIndex(17),
                contexts: vec![BlockContext {
                    hash: 0x0102_0304_0506_0708,
                    encryption: None,
                }],
            },
            data: Bytes::from_static(&ZEROS),
        },
        "79 02 00 00 26 00 00 00 <UUIDS> eb 03 00 00 00 00 00 00 02 00 00 00 00 00 00 00 e9 03 00 00 00 00 00 00 ea 03 00 00 00 00 00 00 11 00 00 00 00 00 00 00 01 00 00 00 00 00 00 00 08 07 06 05 04 03 02 01 00 00 02 00 00 00 00 00 00",
        &ZEROS,
    );
    check(
        &Message::WriteUnwrittenAck {
            key: key(),
            job: JOB,
            result: Ok(()),
        },
        "44 00 00 00 27 00 00 00 <UUIDS> eb 03 00 00 00 00 00 00 00 00 00 00",
        &[],
    );
    check(
        &Message::Unknown {
            number: 77,
            body: Bytes::from_static(b"abc"),
        },
        "17 00 00 00 29 00 00 00 4d 00 00 00 03 00 00 00 00 00 00 00",
        b"abc",
    );
}
