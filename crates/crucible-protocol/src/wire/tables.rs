//! The fields of each structure and the variants of each enumeration, in the order in which they travel.
//!
//! One table serves both directions: what is put is what is taken.

use super::error::{FieldFault, WireError};
use super::field::{Field, Reader, Writer};
use crate::context::{BlockContext, EncryptionContext, ReadBlockContext};
use crate::error::{CrucibleError, NegotiationError};
use crate::geometry::{BLOCK_SIZE_MIN, ExtentSize, RegionDefinition};
use crate::message::{ExtentState, Message, ReadResponseHeader, SessionKey, WriteHeader};

macro_rules! structure {
    ($type:ident, $least:expr, { $($field:ident),* }) => {
        impl Field for $type {
            const LEAST: usize = $least;

            #[inline]
            fn length(&self) -> usize {
                0 $(+ self.$field.length())*
            }

            #[inline]
            fn put(&self, out: &mut Writer<'_>) {
                $(self.$field.put(out);)*
            }

            #[inline]
            fn take(reader: &mut Reader<'_>) -> Result<Self, WireError> {
                $(
                    reader.field = stringify!($field);
                    let $field = Field::take(reader)?;
                )*
                Ok(Self { $($field),* })
            }
        }
    };
}

macro_rules! enumeration {
    ($type:ident {
        $($number:literal $name:ident $(($inner:ident))? $({ $($field:ident),* })?),* $(,)?
    }) => {
        impl $type {
            /// The name in the protocol.
            pub const fn name(&self) -> &'static str {
                match self {
                    $(Self::$name { .. } => stringify!($name),)*
                }
            }

            /// The number on the wire.
            pub const fn number(&self) -> u32 {
                match self {
                    $(Self::$name { .. } => $number,)*
                }
            }

            /// The name that goes with a number on the wire.
            pub const fn name_of(number: u32) -> Option<&'static str> {
                match number {
                    $($number => Some(stringify!($name)),)*
                    _ => None,
                }
            }
        }

        impl Field for $type {
            const LEAST: usize = 4;

            fn length(&self) -> usize {
                match self {
                    $(Self::$name $(($inner))? $({ $($field),* })? => {
                        4 $(+ $inner.length())? $($(+ $field.length())*)?
                    })*
                }
            }

            fn put(&self, out: &mut Writer<'_>) {
                match self {
                    $(Self::$name $(($inner))? $({ $($field),* })? => {
                        u32::put(&$number, out);
                        $($inner.put(out);)?
                        $($($field.put(out);)*)?
                    })*
                }
            }

            fn take(reader: &mut Reader<'_>) -> Result<Self, WireError> {
                match u32::take(reader)? {
                    $($number => {
                        $(
                            reader.field = stringify!($inner);
                            let $inner = Field::take(reader)?;
                        )?
                        $($(
                            reader.field = stringify!($field);
                            let $field = Field::take(reader)?;
                        )*)?
                        Ok(Self::$name $(($inner))? $({ $($field),* })?)
                    })*
                    other => Err(reader.fault(FieldFault::Variant(other))),
                }
            }
        }
    };
}

structure!(SessionKey, 48, { upstairs, session });
structure!(ExtentState, 17, { generation, flush, dirty });
structure!(ExtentSize, 12, { value, shift });
structure!(RegionDefinition, 65, {
    block_size, extent_size, extent_count, uuid, encrypted, database_read_version,
    database_write_version
});
structure!(EncryptionContext, 28, { nonce, tag });
// A block does not come without its data, which is counted here: so a frame full of the smallest contexts and of
// no data does not unfold to ten times its size.
structure!(BlockContext, 9 + BLOCK_SIZE_MIN as usize, { hash, encryption });
structure!(WriteHeader, 80, { key, job, dependencies, start, contexts });
structure!(ReadResponseHeader, 60, { key, job, blocks });

impl Field for ReadBlockContext {
    const LEAST: usize = 4 + BLOCK_SIZE_MIN as usize;

    #[inline]
    fn length(&self) -> usize {
        match self {
            Self::Empty => 4,
            Self::Encrypted(context) => 4 + context.length(),
            Self::Unencrypted(hash) => 4 + hash.length(),
        }
    }

    #[inline]
    fn put(&self, out: &mut Writer<'_>) {
        match self {
            Self::Empty => 0_u32.put(out),
            Self::Encrypted(context) => {
                1_u32.put(out);
                context.put(out);
            }
            Self::Unencrypted(hash) => {
                2_u32.put(out);
                hash.put(out);
            }
        }
    }

    #[inline]
    fn take(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        match u32::take(reader)? {
            0 => Ok(Self::Empty),
            1 => Ok(Self::Encrypted(Field::take(reader)?)),
            2 => Ok(Self::Unencrypted(Field::take(reader)?)),
            other => Err(reader.fault(FieldFault::Variant(other))),
        }
    }
}

// Spec: wire 1.7.
enumeration!(Message {
    0 HereIAm { version, key, generation, read_only, encrypted, alternate_versions },
    1 YesItsMe { version, repair_address },
    2 VersionMismatch { version },
    3 ReadOnlyMismatch { expected },
    4 EncryptedMismatch { expected },
    5 PromoteToActive { key, generation },
    6 YouAreNowActive { key, generation },
    7 YouAreNoLongerActive { new_key, new_generation },
    8 UuidMismatch { expected },
    9 Ruok,
    10 Imok,
    11 ExtentClose { repair, extent },
    12 ExtentReopen { repair, extent },
    13 ExtentFlush { repair, extent, client, flush, generation },
    14 ExtentRepair { repair, extent, source, source_address, destinations },
    15 RepairAckId { repair },
    16 ExtentError { repair, extent, error },
    17 ExtentLiveClose { key, job, dependencies, extent },
    18 ExtentLiveFlushClose { key, job, dependencies, extent, flush, generation },
    19 ExtentLiveRepair { key, job, dependencies, extent, source, source_address },
    20 ExtentLiveReopen { key, job, dependencies, extent },
    21 ExtentLiveNoOp { key, job, dependencies },
    22 ExtentLiveCloseAck { key, job, result },
    23 ExtentLiveRepairAckId { key, job, result },
    24 ExtentLiveAckId { key, job, result },
    25 RegionInfoPlease,
    26 RegionInfo(region),
    27 ExtentVersionsPlease,
    28 ExtentVersions { generations, flushes, dirty },
    29 LastFlush { last },
    30 Write { header, data },
    31 WriteAck { key, job, result },
    32 Flush { key, job, dependencies, flush, generation, snapshot, extent_limit },
    33 FlushAck { key, job, result },
    34 Barrier { key, job, dependencies },
    35 BarrierAck { key, job, result },
    36 ReadRequest { key, job, dependencies, start, count },
    37 ReadResponse { header, data },
    38 WriteUnwritten { header, data },
    39 WriteUnwrittenAck { key, job, result },
    40 ErrorReport { key, job, error },
    41 Unknown { number, body },
});

// Spec: wire 1.8.
enumeration!(CrucibleError {
    0 GenericError(text),
    1 IoError(text),
    2 Unsupported(text),
    3 Disconnect,
    4 DataLockError,
    5 RwLockError(text),
    6 RecvDisconnected,
    7 SendError(text),
    8 OffsetUnaligned,
    9 DataLenUnaligned,
    10 BlockSizeMismatch,
    11 InvalidNumberOfBlocks(text),
    12 OffsetInvalid,
    13 UpstairsActivateInProgress,
    14 UpstairsDeactivating,
    15 UpstairsInactive,
    16 UuidMismatch,
    17 EncryptionError(text),
    18 DecryptionError,
    19 HashMismatch,
    20 LbaRangeOverlap,
    21 SubvolumeSizeMismatch,
    22 SubvolumeTypeMismatch,
    23 CannotServeBlocks(text),
    24 CannotReceiveBlocks(text),
    25 SnapshotFailed(text),
    26 ModifyingReadOnlyRegion,
    27 InvalidExtent,
    28 RepairRequestError(text),
    29 RepairFilesInvalid(text),
    30 RepairStreamError(text),
    31 GenerationNumberInvalid,
    32 NoLongerActive,
    33 RegionAssembleError,
    34 PropertyNotAvailable(text),
    35 ReplaceRequestInvalid(text),
    36 MissingContextSlot { block, extent },
    37 BadMetadata(text),
    38 BadContextSlot(text),
    39 MissingBlockContext,
    40 RegionIncompatible(text),
    41 NegotiationError(negotiation),
});

enumeration!(NegotiationError {
    0 OutOfOrder,
    1 GenerationZeroIsIllegal,
    2 GenerationNumberTooLow { requested, actual },
    3 IncompatibleVersion { expected, actual },
    4 EncryptionMismatch { expected, actual },
    5 ReadOnlyMismatch { expected, actual },
    6 UpstairsIdMismatch { expected, actual },
    7 SessionIdMismatch { expected, actual },
});
