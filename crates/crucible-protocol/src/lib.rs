//! The Crucible wire protocol, version 13, and the layout of its region directories: what both sides of the
//! replicated store agree on, and nothing of what either side does with it.
//!
//! Reading order: [`ids`] (the numbers that everything is named by), [`geometry`] (how blocks make extents and
//! extents a region), [`context`] (hash, nonce and tag of a block), [`error`] (what one side tells the other when
//! something fails), [`message`] (all that is said on a connection), [`wire`] (messages as bytes and back),
//! [`layout`] (extent files and region.json as bytes and back).
//!
//! Nothing here opens a socket or a file. Decoders believe no length before they have checked it against the
//! bytes that are there, and answer malformed input with an error that names the field.
//!
//! A question and its answer, as they travel:
//!
//! ```
//! use bytes::BytesMut;
//! use crucible_protocol::{Decoder, Message};
//!
//! let mut wire = BytesMut::new();
//! Message::Ruok.encode_into(&mut wire);
//! assert_eq!(wire[..], [8, 0, 0, 0, 9, 0, 0, 0]);
//!
//! let decoder = Decoder::default();
//! while let Some(message) = decoder.decode(&mut wire)? {
//!     assert_eq!(message.name(), "Ruok");
//! }
//! # Ok::<(), crucible_protocol::WireError>(())
//! ```
//!
//! And a region, as it lies on a disk:
//!
//! ```
//! use crucible_protocol::layout::{ExtentLayout, Slot, encode_region, names};
//! use crucible_protocol::{ExtentId, Geometry, RegionDefinition};
//! use uuid::Uuid;
//!
//! let geometry = Geometry::new(4096, 64, 10)?;
//! let region = RegionDefinition::new(geometry, Uuid::nil(), true);
//! assert!(encode_region(&region).contains("\"extent_count\": 10"));
//!
//! let layout = ExtentLayout::new(&geometry);
//! assert_eq!(names::extent_path(ExtentId(9)), "00/000/009");
//! assert_eq!(layout.data(63, 1), Some(258_048..262_144));
//! assert_eq!(layout.slots(Slot::B, 0, 1), Some(265_216..265_264));
//! assert_eq!(layout.file_len(), 268_328);
//! # Ok::<(), crucible_protocol::GeometryError>(())
//! ```

#![forbid(unsafe_code)]

pub mod context;
pub mod error;
pub mod geometry;
pub mod ids;
pub mod layout;
pub mod message;
pub mod wire;

pub use context::{BlockContext, EncryptionContext, ReadBlockContext};
pub use error::{CrucibleError, NegotiationError};
pub use geometry::{ExtentSize, Geometry, GeometryError, RegionDefinition};
pub use ids::{BlockIndex, ClientId, ExtentId, JobId, ReconciliationId, SessionId, UpstairsId};
pub use message::{ExtentState, Message, ReadResponseHeader, SessionKey, WriteHeader};
pub use wire::{Decoder, WireError};

/// The version of the messages that this crate speaks.
pub const MESSAGE_VERSION: u32 = 13;

/// The repair server of a region server listens this far above its data port.
pub const REPAIR_PORT_OFFSET: u16 = 4000;
