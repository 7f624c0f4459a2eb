//! Properties of the wire: what is encoded is decoded, in pieces too; what is not whole or not sound is refused.

use std::net::SocketAddr;

use bytes::{Bytes, BytesMut};
use crucible_protocol::{
    BlockContext, BlockIndex, ClientId, CrucibleError, Decoder, EncryptionContext, ExtentId,
    ExtentSize, ExtentState, JobId, Message, NegotiationError, ReadBlockContext,
    ReadResponseHeader, ReconciliationId, RegionDefinition, SessionId, SessionKey, UpstairsId,
    WireError, WriteHeader,
};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use uuid::Uuid;

const MESSAGES: u32 = 42;
const ERRORS: u32 = 42;
const NEGOTIATION_ERRORS: u32 = 8;

fn uuid() -> impl Strategy<Value = Uuid> {
    any::<u128>().prop_map(Uuid::from_u128)
}

fn key() -> impl Strategy<Value = SessionKey> {
    (uuid(), uuid()).prop_map(|(upstairs, session)| SessionKey {
        upstairs: UpstairsId(upstairs),
        session: SessionId(session),
    })
}

fn job() -> impl Strategy<Value = JobId> {
    any::<u64>().prop_map(JobId)
}

fn extent() -> impl Strategy<Value = ExtentId> {
    any::<u32>().prop_map(ExtentId)
}

fn client() -> impl Strategy<Value = ClientId> {
    any::<u8>().prop_map(ClientId)
}

fn repair() -> impl Strategy<Value = ReconciliationId> {
    any::<u64>().prop_map(ReconciliationId)
}

fn dependencies() -> impl Strategy<Value = Vec<JobId>> {
    vec(job(), 0..5)
}

fn address() -> impl Strategy<Value = SocketAddr> {
    prop_oneof![
        any::<([u8; 4], u16)>().prop_map(SocketAddr::from),
        any::<([u8; 16], u16)>().prop_map(SocketAddr::from),
    ]
}

fn encryption() -> impl Strategy<Value = EncryptionContext> {
    any::<([u8; 12], [u8; 16])>().prop_map(|(nonce, tag)| EncryptionContext { nonce, tag })
}

/// Some blocks, each with its context.
fn blocks<T: std::fmt::Debug>(
    context: impl Strategy<Value = T>,
) -> impl Strategy<Value = (Vec<T>, Bytes)> {
    (
        vec(context, 0..4),
        any::<u8>(),
        prop_oneof![Just(512), Just(1024)],
    )
        .prop_map(|(contexts, byte, size)| {
            let data = vec![byte; contexts.len() * size];
            (contexts, data.into())
        })
}

fn write() -> impl Strategy<Value = (WriteHeader, Bytes)> {
    let context = (any::<u64>(), option::of(encryption()))
        .prop_map(|(hash, encryption)| BlockContext { hash, encryption });
    (key(), job(), dependencies(), any::<u64>(), blocks(context)).prop_map(
        |(key, job, dependencies, start, (contexts, data))| {
            let header = WriteHeader {
                key,
                job,
                dependencies,
                start: BlockIndex(start),
                contexts,
            };
            (header, data)
        },
    )
}

fn read_response() -> impl Strategy<Value = Message> {
    let context = prop_oneof![
        Just(ReadBlockContext::Empty),
        encryption().prop_map(ReadBlockContext::Encrypted),
        any::<u64>().prop_map(ReadBlockContext::Unencrypted),
    ];
    let blocks = prop_oneof![
        blocks(context).prop_map(|(blocks, data)| (Ok(blocks), data)),
        error().prop_map(|error| (Err(error), Bytes::new())),
    ];
    (key(), job(), blocks).prop_map(|(key, job, (blocks, data))| Message::ReadResponse {
        header: ReadResponseHeader { key, job, blocks },
        data,
    })
}

fn result<T: Clone + std::fmt::Debug + 'static>(
    value: impl Strategy<Value = T> + 'static,
) -> impl Strategy<Value = Result<T, CrucibleError>> {
    prop_oneof![value.prop_map(Ok), error().prop_map(Err)]
}

fn negotiation_error_of(number: u32) -> BoxedStrategy<NegotiationError> {
    use NegotiationError as E;
    match number {
        0 => Just(E::OutOfOrder).boxed(),
        1 => Just(E::GenerationZeroIsIllegal).boxed(),
        2 => any::<(u64, u64)>()
            .prop_map(|(requested, actual)| E::GenerationNumberTooLow { requested, actual })
            .boxed(),
        3 => any::<(u32, u32)>()
            .prop_map(|(expected, actual)| E::IncompatibleVersion { expected, actual })
            .boxed(),
        4 => any::<(bool, bool)>()
            .prop_map(|(expected, actual)| E::EncryptionMismatch { expected, actual })
            .boxed(),
        5 => any::<(bool, bool)>()
            .prop_map(|(expected, actual)| E::ReadOnlyMismatch { expected, actual })
            .boxed(),
        6 => (uuid(), uuid())
            .prop_map(|(expected, actual)| E::UpstairsIdMismatch { expected, actual })
            .boxed(),
        _ => (uuid(), uuid())
            .prop_map(|(expected, actual)| E::SessionIdMismatch { expected, actual })
            .boxed(),
    }
}

fn error_of(number: u32) -> BoxedStrategy<CrucibleError> {
    use CrucibleError as E;
    let text = |make: fn(String) -> E| "\\PC{0,12}".prop_map(make).boxed();
    match number {
        0 => text(E::GenericError),
        1 => text(E::IoError),
        2 => text(E::Unsupported),
        3 => Just(E::Disconnect).boxed(),
        4 => Just(E::DataLockError).boxed(),
        5 => text(E::RwLockError),
        6 => Just(E::RecvDisconnected).boxed(),
        7 => text(E::SendError),
        8 => Just(E::OffsetUnaligned).boxed(),
        9 => Just(E::DataLenUnaligned).boxed(),
        10 => Just(E::BlockSizeMismatch).boxed(),
        11 => text(E::InvalidNumberOfBlocks),
        12 => Just(E::OffsetInvalid).boxed(),
        13 => Just(E::UpstairsActivateInProgress).boxed(),
        14 => Just(E::UpstairsDeactivating).boxed(),
        15 => Just(E::UpstairsInactive).boxed(),
        16 => Just(E::UuidMismatch).boxed(),
        17 => text(E::EncryptionError),
        18 => Just(E::DecryptionError).boxed(),
        19 => Just(E::HashMismatch).boxed(),
        20 => Just(E::LbaRangeOverlap).boxed(),
        21 => Just(E::SubvolumeSizeMismatch).boxed(),
        22 => Just(E::SubvolumeTypeMismatch).boxed(),
        23 => text(E::CannotServeBlocks),
        24 => text(E::CannotReceiveBlocks),
        25 => text(E::SnapshotFailed),
        26 => Just(E::ModifyingReadOnlyRegion).boxed(),
        27 => Just(E::InvalidExtent).boxed(),
        28 => text(E::RepairRequestError),
        29 => text(E::RepairFilesInvalid),
        30 => text(E::RepairStreamError),
        31 => Just(E::GenerationNumberInvalid).boxed(),
        32 => Just(E::NoLongerActive).boxed(),
        33 => Just(E::RegionAssembleError).boxed(),
        34 => text(E::PropertyNotAvailable),
        35 => text(E::ReplaceRequestInvalid),
        36 => (any::<u64>(), extent())
            .prop_map(|(block, extent)| E::MissingContextSlot {
                block: BlockIndex(block),
                extent,
            })
            .boxed(),
        37 => text(E::BadMetadata),
        38 => text(E::BadContextSlot),
        39 => Just(E::MissingBlockContext).boxed(),
        40 => text(E::RegionIncompatible),
        _ => (0..NEGOTIATION_ERRORS)
            .prop_flat_map(negotiation_error_of)
            .prop_map(E::NegotiationError)
            .boxed(),
    }
}

fn error() -> impl Strategy<Value = CrucibleError> {
    (0..ERRORS).prop_flat_map(error_of)
}

fn region() -> impl Strategy<Value = RegionDefinition> {
    let numbers = any::<(u64, u64, u32, u32, bool, u64, u64)>();
    (numbers, uuid()).prop_map(
        |((block_size, value, shift, extent_count, encrypted, read, write), uuid)| {
            RegionDefinition {
                block_size,
                extent_size: ExtentSize { value, shift },
                extent_count,
                uuid,
                encrypted,
                database_read_version: read,
                database_write_version: write,
            }
        },
    )
}

/// Acknowledgements: all of the same form.
fn ack(
    make: fn(SessionKey, JobId, Result<(), CrucibleError>) -> Message,
) -> BoxedStrategy<Message> {
    (key(), job(), result(Just(())))
        .prop_map(move |(key, job, result)| make(key, job, result))
        .boxed()
}

fn message_of(number: u32) -> BoxedStrategy<Message> {
    use Message as M;
    match number {
        0 => (
            key(),
            any::<(u32, u64, bool, bool)>(),
            vec(any::<u32>(), 0..4),
        )
            .prop_map(|(key, numbers, alternate_versions)| {
                let (version, generation, read_only, encrypted) = numbers;
                M::HereIAm {
                    version,
                    key,
                    generation,
                    read_only,
                    encrypted,
                    alternate_versions,
                }
            })
            .boxed(),
        1 => (any::<u32>(), address())
            .prop_map(|(version, repair_address)| M::YesItsMe {
                version,
                repair_address,
            })
            .boxed(),
        2 => any::<u32>()
            .prop_map(|version| M::VersionMismatch { version })
            .boxed(),
        3 => any::<bool>()
            .prop_map(|expected| M::ReadOnlyMismatch { expected })
            .boxed(),
        4 => any::<bool>()
            .prop_map(|expected| M::EncryptedMismatch { expected })
            .boxed(),
        5 => (key(), any::<u64>())
            .prop_map(|(key, generation)| M::PromoteToActive { key, generation })
            .boxed(),
        6 => (key(), any::<u64>())
            .prop_map(|(key, generation)| M::YouAreNowActive { key, generation })
            .boxed(),
        7 => (key(), any::<u64>())
            .prop_map(|(new_key, new_generation)| M::YouAreNoLongerActive {
                new_key,
                new_generation,
            })
            .boxed(),
        8 => uuid()
            .prop_map(|expected| M::UuidMismatch { expected })
            .boxed(),
        9 => Just(M::Ruok).boxed(),
        10 => Just(M::Imok).boxed(),
        11 => (repair(), extent())
            .prop_map(|(repair, extent)| M::ExtentClose { repair, extent })
            .boxed(),
        12 => (repair(), extent())
            .prop_map(|(repair, extent)| M::ExtentReopen { repair, extent })
            .boxed(),
        13 => (repair(), extent(), client(), any::<(u64, u64)>())
            .prop_map(
                |(repair, extent, client, (flush, generation))| M::ExtentFlush {
                    repair,
                    extent,
                    client,
                    flush,
                    generation,
                },
            )
            .boxed(),
        14 => (repair(), extent(), client(), address(), vec(client(), 0..4))
            .prop_map(
                |(repair, extent, source, source_address, destinations)| M::ExtentRepair {
                    repair,
                    extent,
                    source,
                    source_address,
                    destinations,
                },
            )
            .boxed(),
        15 => repair()
            .prop_map(|repair| M::RepairAckId { repair })
            .boxed(),
        16 => (repair(), extent(), error())
            .prop_map(|(repair, extent, error)| M::ExtentError {
                repair,
                extent,
                error,
            })
            .boxed(),
        17 => (key(), job(), dependencies(), extent())
            .prop_map(|(key, job, dependencies, extent)| M::ExtentLiveClose {
                key,
                job,
                dependencies,
                extent,
            })
            .boxed(),
        18 => (key(), job(), dependencies(), extent(), any::<(u64, u64)>())
            .prop_map(|(key, job, dependencies, extent, (flush, generation))| {
                M::ExtentLiveFlushClose {
                    key,
                    job,
                    dependencies,
                    extent,
                    flush,
                    generation,
                }
            })
            .boxed(),
        19 => (key(), job(), dependencies(), extent(), client(), address())
            .prop_map(|(key, job, dependencies, extent, source, source_address)| {
                M::ExtentLiveRepair {
                    key,
                    job,
                    dependencies,
                    extent,
                    source,
                    source_address,
                }
            })
            .boxed(),
        20 => (key(), job(), dependencies(), extent())
            .prop_map(|(key, job, dependencies, extent)| M::ExtentLiveReopen {
                key,
                job,
                dependencies,
                extent,
            })
            .boxed(),
        21 => (key(), job(), dependencies())
            .prop_map(|(key, job, dependencies)| M::ExtentLiveNoOp {
                key,
                job,
                dependencies,
            })
            .boxed(),
        22 => {
            let state =
                any::<(u64, u64, bool)>().prop_map(|(generation, flush, dirty)| ExtentState {
                    generation,
                    flush,
                    dirty,
                });
            (key(), job(), result(state))
                .prop_map(|(key, job, result)| M::ExtentLiveCloseAck { key, job, result })
                .boxed()
        }
        23 => ack(|key, job, result| M::ExtentLiveRepairAckId { key, job, result }),
        24 => ack(|key, job, result| M::ExtentLiveAckId { key, job, result }),
        25 => Just(M::RegionInfoPlease).boxed(),
        26 => region().prop_map(M::RegionInfo).boxed(),
        27 => Just(M::ExtentVersionsPlease).boxed(),
        28 => {
            let numbers = || vec(any::<u64>(), 0..5);
            (numbers(), numbers(), vec(any::<bool>(), 0..5))
                .prop_map(|(generations, flushes, dirty)| M::ExtentVersions {
                    generations,
                    flushes,
                    dirty,
                })
                .boxed()
        }
        29 => option::of(job())
            .prop_map(|last| M::LastFlush { last })
            .boxed(),
        30 => write()
            .prop_map(|(header, data)| M::Write { header, data })
            .boxed(),
        31 => ack(|key, job, result| M::WriteAck { key, job, result }),
        32 => {
            let limits = (option::of("\\PC{0,12}"), option::of(extent()));
            (key(), job(), dependencies(), any::<(u64, u64)>(), limits)
                .prop_map(
                    |(key, job, dependencies, (flush, generation), limits)| M::Flush {
                        key,
                        job,
                        dependencies,
                        flush,
                        generation,
                        snapshot: limits.0,
                        extent_limit: limits.1,
                    },
                )
                .boxed()
        }
        33 => ack(|key, job, result| M::FlushAck { key, job, result }),
        34 => (key(), job(), dependencies())
            .prop_map(|(key, job, dependencies)| M::Barrier {
                key,
                job,
                dependencies,
            })
            .boxed(),
        35 => ack(|key, job, result| M::BarrierAck { key, job, result }),
        36 => (key(), job(), dependencies(), any::<(u64, u64)>())
            .prop_map(|(key, job, dependencies, (start, count))| M::ReadRequest {
                key,
                job,
                dependencies,
                start: BlockIndex(start),
                count,
            })
            .boxed(),
        37 => read_response().boxed(),
        38 => write()
            .prop_map(|(header, data)| M::WriteUnwritten { header, data })
            .boxed(),
        39 => ack(|key, job, result| M::WriteUnwrittenAck { key, job, result }),
        40 => (key(), job(), error())
            .prop_map(|(key, job, error)| M::ErrorReport { key, job, error })
            .boxed(),
        _ => (any::<u32>(), vec(any::<u8>(), 0..40))
            .prop_map(|(number, body)| M::Unknown {
                number,
                body: body.into(),
            })
            .boxed(),
    }
}

fn message() -> impl Strategy<Value = Message> {
    (0..MESSAGES).prop_flat_map(message_of)
}

fn encoded(message: &Message) -> BytesMut {
    let mut bytes = BytesMut::new();
    message.encode_into(&mut bytes);
    bytes
}

fn decode(bytes: &[u8]) -> Result<Option<Message>, WireError> {
    Decoder::default().decode(&mut BytesMut::from(bytes))
}

#[test]
fn every_message_and_every_error_makes_the_round_trip() {
    let mut runner = TestRunner::default();
    for _ in 0..16 {
        for number in 0..MESSAGES {
            let message = message_of(number).new_tree(&mut runner).unwrap().current();
            assert_eq!(message.number(), number);
            assert_eq!(Message::name_of(number), Some(message.name()));
            assert_eq!(decode(&encoded(&message)), Ok(Some(message)));
        }
        let with_error = |error| Message::ExtentError {
            repair: ReconciliationId(0),
            extent: ExtentId(0),
            error,
        };
        for number in 0..ERRORS {
            let error = error_of(number).new_tree(&mut runner).unwrap().current();
            assert_eq!(error.number(), number);
            let message = with_error(error);
            assert_eq!(decode(&encoded(&message)), Ok(Some(message)));
        }
        for number in 0..NEGOTIATION_ERRORS {
            let error = negotiation_error_of(number)
                .new_tree(&mut runner)
                .unwrap()
                .current();
            assert_eq!(error.number(), number);
            let message = with_error(CrucibleError::NegotiationError(error));
            assert_eq!(decode(&encoded(&message)), Ok(Some(message)));
        }
    }
    assert_eq!(Message::name_of(MESSAGES), None);
}

proptest! {
    #[test]
    fn messages_in_a_row_are_decoded_however_they_are_cut(
        messages in vec(message(), 1..6),
        pieces in vec(1_usize..200, 1..30),
    ) {
        let mut stream = BytesMut::new();
        for message in &messages {
            let start = stream.len();
            let data = message.encode_head(&mut stream);
            stream.extend_from_slice(&data);
            prop_assert_eq!(stream.len() - start, message.encoded_len());
        }
        let (decoder, mut buffer, mut found) = (Decoder::default(), BytesMut::new(), Vec::new());
        let mut pieces = pieces.into_iter().cycle();
        while !stream.is_empty() {
            let length = pieces.next().unwrap().min(stream.len());
            buffer.extend_from_slice(&stream.split_to(length));
            while let Some(message) = decoder.decode(&mut buffer).unwrap() {
                found.push(message);
            }
        }
        prop_assert!(buffer.is_empty());
        prop_assert_eq!(found, messages);
    }

    #[test]
    fn a_message_that_is_cut_short_is_no_message(message in message()) {
        let whole = encoded(&message);
        let decoder = Decoder::default();
        for length in 0..whole.len() {
            // The rest has not come yet.
            let mut buffer = BytesMut::from(&whole[..length]);
            prop_assert_eq!(decoder.decode(&mut buffer), Ok(None));
            let missing = decoder.missing(&buffer).unwrap();
            prop_assert!((1..=whole.len() - length).contains(&missing));
            if length >= 8 {
                prop_assert_eq!(missing, whole.len() - length);
            }
            // There is no rest, says the length.
            if let Some(word) = buffer.first_chunk_mut() {
                *word = (length as u32).to_le_bytes();
                prop_assert!(decoder.decode(&mut buffer).is_err(), "{} bytes", length);
                prop_assert_eq!(buffer.len(), length);
            }
        }
        prop_assert_eq!(decoder.missing(&whole), Ok(0));
    }

    #[test]
    fn bytes_after_a_message_are_tolerated_where_nothing_else_could_be_meant(
        message in message(),
        after in vec(any::<u8>(), 1..20),
    ) {
        let mut frame = encoded(&message);
        frame.extend_from_slice(&after);
        let length = (frame.len() as u32).to_le_bytes();
        frame[..4].copy_from_slice(&length);
        if message.data().is_none() {
            prop_assert_eq!(decode(&frame), Ok(Some(message)));
        } else {
            prop_assert!(decode(&frame).is_err());
        }
    }

    #[test]
    fn what_is_decoded_from_damaged_frames_is_encoded_and_decoded_to_the_same(
        message in message(),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        number in any::<prop::sample::Index>(),
        lie in prop_oneof![0_u64..1000, any::<u64>(), (u64::MAX - 600)..=u64::MAX],
    ) {
        let mut frame = encoded(&message);
        // The length word stays: a frame that never comes is another matter.
        for (index, byte) in damage {
            let at = 4 + index.index(frame.len() - 4);
            frame[at] = byte;
        }
        if frame.len() >= 16 {
            let at = 4 + number.index(frame.len() - 12);
            frame[at..at + 8].copy_from_slice(&lie.to_le_bytes());
        }
        if let Ok(Some(message)) = decode(&frame) {
            prop_assert!(message.encoded_len() <= frame.len());
            prop_assert_eq!(decode(&encoded(&message)), Ok(Some(message)));
        }
    }

    #[test]
    fn arbitrary_bytes_are_no_danger(bytes in vec(any::<u8>(), 0..300), number in 0..MESSAGES) {
        let mut buffer = BytesMut::from(&bytes[..]);
        while let Ok(Some(_)) = Decoder::default().decode(&mut buffer) {}
        let mut frame = BytesMut::from(&(bytes.len() as u32 + 8).to_le_bytes()[..]);
        frame.extend_from_slice(&number.to_le_bytes());
        frame.extend_from_slice(&bytes);
        if let Ok(found) = Decoder::default().decode(&mut frame) {
            prop_assert_eq!(found.map(|message| message.number()), Some(number));
        }
    }
}
