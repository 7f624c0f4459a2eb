//! One answer from several: reads laid over each other, writes and commands that must all succeed.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::BytesMut;

use super::composite::Parent;
use crate::core::{Answer, Plain, ReplaceResult, VolumeError, Written};
use crate::store::{Outcome, Reply, Sink};

/// What is joined.
pub(super) enum Kind {
    /// Blocks of the parent, and over them those of the parts that were ever written.
    Read {
        block_size: usize,
        blocks: usize,
        /// To be told when its read is over.
        parent: Option<Arc<Parent>>,
    },
    /// All must have been written.
    Write,
    /// All must have done it; a replacement is that of the one who knew the address.
    All,
}

/// Waits for several answers, to give one.
pub(super) struct Join {
    kind: Kind,
    state: Mutex<State>,
}

struct State {
    left: usize,
    reply: Option<Reply>,
    error: Option<VolumeError>,
    answer: Option<Answer>,
    pieces: Vec<(usize, Plain)>,
    from_parent: Option<Plain>,
}

/// Marks the parent's piece in a tag.
const FROM_PARENT: u64 = 1 << 63;

impl Join {
    /// For `count` answers, and one that is given by [`Join::begin`] when all are asked.
    pub(super) fn new(kind: Kind, count: usize, reply: Reply) -> Arc<Self> {
        Arc::new(Self {
            kind,
            state: Mutex::new(State {
                left: count + 1,
                reply: Some(reply),
                error: None,
                answer: None,
                pieces: Vec::new(),
                from_parent: None,
            }),
        })
    }

    /// Where one of the answers goes. `at`: the place of its blocks in the read.
    pub(super) fn reply(self: &Arc<Self>, at: usize, from_parent: bool) -> Reply {
        let mark = if from_parent { FROM_PARENT } else { 0 };
        Reply::sink(self.clone(), at as u64 | mark, None)
    }

    /// All have been asked.
    pub(super) fn begin(&self) {
        self.finish_one(|_| {});
    }

    fn finish_one(&self, enter: impl FnOnce(&mut State)) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        enter(&mut state);
        state.left = state.left.saturating_sub(1);
        if state.left > 0 {
            return;
        }
        let Some(reply) = state.reply.take() else {
            return;
        };
        let outcome = self.outcome(&mut state);
        drop(state);
        reply.send(outcome);
    }

    fn outcome(&self, state: &mut State) -> Outcome {
        if let Some(error) = state.error.take() {
            return Err(error);
        }
        match &self.kind {
            Kind::Read {
                block_size, blocks, ..
            } => Ok(Answer::Read(lay_over(
                *block_size,
                *blocks,
                state.from_parent.take(),
                &state.pieces,
            ))),
            Kind::Write => Ok(Answer::Written),
            Kind::All => Ok(state.answer.take().unwrap_or(Answer::Flushed)),
        }
    }
}

impl Sink for Join {
    fn complete(&self, tag: u64, outcome: Outcome) {
        if tag & FROM_PARENT != 0
            && let Kind::Read {
                parent: Some(parent),
                ..
            } = &self.kind
        {
            parent.reading.fetch_sub(1, Ordering::SeqCst);
        }
        self.finish_one(|state| match outcome {
            Ok(Answer::Read(plain)) if tag & FROM_PARENT != 0 => state.from_parent = Some(plain),
            Ok(Answer::Read(plain)) => state.pieces.push((tag as usize, plain)),
            Ok(Answer::Replace(ReplaceResult::Missing)) if state.answer.is_some() => {}
            Ok(answer) => state.answer = Some(answer),
            Err(error) => state.error = state.error.take().or(Some(error)),
        });
    }
}

/// Reads laid over each other: the parent's, then the pieces, each at its place in blocks.
pub(super) fn lay_over(
    block_size: usize,
    blocks: usize,
    from_parent: Option<Plain>,
    pieces: &[(usize, Plain)],
) -> Plain {
    let mut data = BytesMut::zeroed(blocks * block_size);
    let mut marks = vec![false; blocks];
    let parent = from_parent.as_ref().map(|plain| (0, plain));
    let pieces = pieces.iter().map(|(at, plain)| (*at, plain));
    for (at, plain) in parent.into_iter().chain(pieces) {
        for (index, block) in plain.data.chunks(block_size).enumerate() {
            let place = (at + index) * block_size;
            if plain.written.has(index)
                && let Some(into) = data.get_mut(place..place + block.len())
            {
                into.copy_from_slice(block);
                if let Some(mark) = marks.get_mut(at + index) {
                    *mark = true;
                }
            }
        }
    }
    Plain {
        data: data.freeze(),
        written: if marks.iter().all(|mark| *mark) {
            Written::All
        } else if marks.iter().any(|mark| *mark) {
            Written::Some(marks.into())
        } else {
            Written::Nothing
        },
    }
}
