//! Several stores as one: sub-volumes one after the other, over a read-only parent that shows through where they
//! were never written (spec: crucible 7). All that one request touches is asked at once.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use bytes::BytesMut;
use crucible_protocol::BlockIndex;

use super::join::{Join, Kind};
use crate::core::{Command, Request, VolumeError};
use crate::store::{Ask, Outline, Reply, Shape, Store, Submission};

/// Sub-volumes over a parent.
pub struct Composite {
    block_size: u32,
    parts: Vec<Arc<dyn Store>>,
    parent: Option<Arc<Parent>>,
}

/// What shows through.
pub(super) struct Parent {
    pub(super) store: Arc<dyn Store>,
    /// Blocks below have been copied; reads that lie below do not ask the parent.
    pub(super) copied: AtomicU64,
    /// Reads of the parent that are under way.
    pub(super) reading: AtomicUsize,
}

/// Part of a request that falls to one store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Piece {
    part: usize,
    /// Within that store.
    start: u64,
    count: u64,
}

impl Composite {
    /// Parts one after the other, over a parent that covers the volume from its first block on.
    pub fn new(
        block_size: u32,
        parts: Vec<Arc<dyn Store>>,
        parent: Option<Arc<dyn Store>>,
    ) -> Self {
        let parent = parent.map(|store| {
            Arc::new(Parent {
                store,
                copied: AtomicU64::new(0),
                reading: AtomicUsize::new(0),
            })
        });
        Self {
            block_size,
            parts,
            parent,
        }
    }

    /// What it is nothing but.
    pub(super) fn only_part(&self) -> Option<Arc<dyn Store>> {
        match (self.parts.as_slice(), &self.parent) {
            ([part], None) => Some(part.clone()),
            _ => None,
        }
    }

    pub(super) fn parent(&self) -> Option<&Arc<Parent>> {
        self.parent.as_ref()
    }

    /// The parts that `start..start + count` falls to. `None`: past the end, or a size is not known yet.
    fn pieces(&self, start: u64, count: u64) -> Option<Vec<Piece>> {
        let end = start.checked_add(count)?;
        let mut pieces = Vec::new();
        let mut begin = 0_u64;
        for (part, store) in self.parts.iter().enumerate() {
            let last = begin.checked_add(store.shape()?.blocks)?;
            let (from, to) = (start.max(begin), end.min(last));
            if from < to {
                pieces.push(Piece {
                    part,
                    start: from - begin,
                    count: to - from,
                });
            }
            begin = last;
        }
        (end <= begin).then_some(pieces)
    }

    fn check(&self, start: BlockIndex, count: u64) -> Result<(), VolumeError> {
        let shape = self.shape().ok_or(VolumeError::Inactive)?;
        shape.check(start, count)
    }

    /// Blocks of a read that the parent is to be asked for.
    fn shown_through(&self, start: u64, count: u64) -> Option<(&Arc<Parent>, Range<u64>)> {
        let parent = self.parent.as_ref()?;
        let size = parent.store.shape()?.blocks;
        let end = start.checked_add(count)?.min(size);
        let needed = start < end && end > parent.copied.load(Ordering::SeqCst);
        needed.then_some((parent, start..end))
    }

    fn read(&self, start: BlockIndex, count: u64, reply: Reply, out: &mut Outgoing) {
        if let Err(error) = self.check(start, count) {
            return reply.send(Err(error));
        }
        let parent = self.shown_through(start.0, count);
        let pieces = if self.parts.is_empty() {
            Vec::new()
        } else {
            self.pieces(start.0, count).unwrap_or_default()
        };
        if let (None, [piece]) = (&parent, pieces.as_slice()) {
            let (start, count) = (BlockIndex(piece.start), piece.count);
            return out.push(piece.part, Request::Read { start, count }, reply);
        }
        let join = Join::new(
            Kind::Read {
                block_size: self.block_size as usize,
                blocks: count as usize,
                parent: parent.as_ref().map(|(parent, _)| (*parent).clone()),
            },
            pieces.len() + usize::from(parent.is_some()),
            reply,
        );
        let mut at = 0;
        for piece in &pieces {
            let request = Request::Read {
                start: BlockIndex(piece.start),
                count: piece.count,
            };
            out.push(piece.part, request, join.reply(at, false));
            at += piece.count as usize;
        }
        if let Some((parent, range)) = parent {
            parent.reading.fetch_add(1, Ordering::SeqCst);
            let request = Request::Read {
                start: BlockIndex(range.start),
                count: range.end - range.start,
            };
            let submission = Submission {
                ask: Ask::Request(request),
                reply: join.reply(0, true),
            };
            parent.store.submit(&mut vec![submission]);
        }
        join.begin();
    }

    fn write(
        &self,
        start: BlockIndex,
        mut data: BytesMut,
        unwritten: bool,
        reply: Reply,
        out: &mut Outgoing,
    ) {
        let request = |start, data| {
            if unwritten {
                Request::WriteUnwritten { start, data }
            } else {
                Request::Write { start, data }
            }
        };
        if self.parts.is_empty() {
            return reply.send(Err(VolumeError::ReadOnly));
        }
        let count = match self.shape().map(|shape| shape.whole_blocks(data.len())) {
            Some(Ok(count)) => count,
            Some(Err(error)) => return reply.send(Err(error)),
            None => return reply.send(Err(VolumeError::Inactive)),
        };
        if let Err(error) = self.check(start, count) {
            return reply.send(Err(error));
        }
        let pieces = self.pieces(start.0, count).unwrap_or_default();
        if let [piece] = pieces.as_slice() {
            return out.push(piece.part, request(BlockIndex(piece.start), data), reply);
        }
        let join = Join::new(Kind::Write, pieces.len(), reply);
        for piece in &pieces {
            let bytes = piece.count as usize * self.block_size as usize;
            let data = data.split_to(bytes.min(data.len()));
            out.push(
                piece.part,
                request(BlockIndex(piece.start), data),
                join.reply(0, false),
            );
        }
        join.begin();
    }

    /// To all parts, and to the parent where it is about connections.
    fn to_all(&self, ask: &dyn Fn() -> Ask, with_parent: bool, reply: Reply, out: &mut Outgoing) {
        let parent = self.parent.as_ref().filter(|_| with_parent);
        let join = Join::new(
            Kind::All,
            self.parts.len() + usize::from(parent.is_some()),
            reply,
        );
        for part in 0..self.parts.len() {
            out.push_ask(part, ask(), join.reply(0, false));
        }
        if let Some(parent) = parent {
            let submission = Submission {
                ask: ask(),
                reply: join.reply(0, false),
            };
            parent.store.submit(&mut vec![submission]);
        }
        join.begin();
    }
}

/// What a batch becomes: one batch for each part.
struct Outgoing(Vec<Vec<Submission>>);

impl Outgoing {
    fn push(&mut self, part: usize, request: Request, reply: Reply) {
        self.push_ask(part, Ask::Request(request), reply);
    }

    fn push_ask(&mut self, part: usize, ask: Ask, reply: Reply) {
        if let Some(batch) = self.0.get_mut(part) {
            batch.push(Submission { ask, reply });
        }
    }
}

impl Store for Composite {
    fn submit(&self, batch: &mut Vec<Submission>) {
        let mut out = Outgoing(self.parts.iter().map(|_| Vec::new()).collect());
        for Submission { ask, reply } in batch.drain(..) {
            match ask {
                Ask::Request(Request::Read { start, count }) => {
                    self.read(start, count, reply, &mut out);
                }
                Ask::Request(Request::Write { start, data }) => {
                    self.write(start, data, false, reply, &mut out);
                }
                Ask::Request(Request::WriteUnwritten { start, data }) => {
                    self.write(start, data, true, reply, &mut out);
                }
                Ask::Request(Request::Flush { snapshot }) => {
                    let ask = || {
                        Ask::Request(Request::Flush {
                            snapshot: snapshot.clone(),
                        })
                    };
                    self.to_all(&ask, false, reply, &mut out);
                }
                Ask::Command(command) => {
                    let with_parent = command == Command::ShutDown || self.is_reading();
                    self.to_all(&|| Ask::Command(command), with_parent, reply, &mut out);
                }
            }
        }
        for (part, mut batch) in self.parts.iter().zip(out.0) {
            if !batch.is_empty() {
                part.submit(&mut batch);
            }
        }
    }

    fn shape(&self) -> Option<Shape> {
        let mut shape = Shape {
            block_size: self.block_size,
            blocks: 0,
            read_only: self.parts.is_empty(),
            encrypted: false,
        };
        for part in &self.parts {
            let part = part.shape()?;
            shape.blocks = shape.blocks.checked_add(part.blocks)?;
            shape.read_only |= part.read_only;
            shape.encrypted |= part.encrypted;
        }
        if self.parts.is_empty() {
            shape.blocks = self.parent.as_ref()?.store.shape()?.blocks;
        }
        Some(shape)
    }

    fn outline(&self) -> Outline {
        let parent = self.parent.as_ref();
        Outline::Volume {
            parts: self.parts.iter().map(|part| part.outline()).collect(),
            parent: parent.map(|parent| Box::new(parent.store.outline())),
        }
    }
}

impl Composite {
    /// Whether the parent is still in use: not once all of it was copied, and it was let go.
    fn is_reading(&self) -> bool {
        self.parent
            .as_ref()
            .is_some_and(|parent| parent.copied.load(Ordering::SeqCst) != u64::MAX)
    }
}

impl fmt::Debug for Composite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Composite")
            .field("parts", &self.parts)
            .field("parent", &self.parent.as_ref().map(|parent| &parent.store))
            .finish_non_exhaustive()
    }
}
