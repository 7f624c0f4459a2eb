//! Who is active: the rules of promotion (spec: 2.2), decided by connection, never by the name of the upstairs.
//!
//! A region served read-write has one active session. A higher generation displaces it; the same generation is
//! accepted only from the same session, which reconnects; a lower one is turned away without a word, as the
//! reference does.
//!
//! The highest generation that was ever promoted is kept on disk. After a restart, or when nobody is connected, a
//! lower one gets nothing to do all the same. But it is told: the reference's upstairs takes an end without a word for
//! a lost link and dials for ever, and refuses by itself when the states of the extents show a generation that is not
//! below its own. So such a session is *fenced*: it is let in as far as these states, which show what is recorded,
//! and no further. An equal one is accepted even from another session: an upstairs that was
//! attached but wrote nothing may come back under its old generation (the reference allows it, and users of its
//! tools do it), one that did write finds its generation in the extents and is refused by its own rule, and two
//! that are alive at once still exclude each other, since only one of them holds the connection.

use std::collections::BTreeMap;

use crucible_protocol::{NegotiationError, SessionKey, UpstairsId};

use super::action::{ConnectionId, Reason};

/// The session that may write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Active {
    pub(super) connection: ConnectionId,
    pub(super) key: SessionKey,
    pub(super) generation: u64,
    /// Whether the promotion has been handed out to be recorded.
    pub(super) recording: bool,
}

/// What becomes of a session that asks for the region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Claim {
    /// It is active, in the place of this connection if there was one.
    Taken(Option<ConnectionId>),
    /// It may only be shown that this generation was here.
    Fenced(u64),
}

/// All that is known about promotions.
#[derive(Debug, Default)]
pub(super) struct Promotions {
    /// Read-write: the active session, from the moment it is accepted.
    pub(super) active: Option<Active>,
    /// Read-only: the connection of each upstairs.
    readers: BTreeMap<UpstairsId, ConnectionId>,
    /// The highest generation that is on disk.
    pub(super) recorded: u64,
    /// A fenced session that went on all the same. Shown once, it is turned away without a word from then on: a
    /// repair that it would begin again and again costs the other region servers more.
    stubborn: Option<SessionKey>,
}

impl Promotions {
    pub(super) fn new(recorded: u64) -> Self {
        Self {
            recorded,
            ..Self::default()
        }
    }

    /// A session asks for the region.
    pub(super) fn claim(
        &mut self,
        connection: ConnectionId,
        key: SessionKey,
        generation: u64,
    ) -> Result<Claim, Reason> {
        let too_low = |actual| {
            Err(Reason::Refused(NegotiationError::GenerationNumberTooLow {
                requested: generation,
                actual,
            }))
        };
        if generation < self.recorded {
            return if self.active.is_none() && self.stubborn != Some(key) {
                Ok(Claim::Fenced(self.recorded))
            } else {
                too_low(self.recorded)
            };
        }
        let mut displaced = None;
        if let Some(active) = self.active {
            if generation < active.generation {
                return too_low(active.generation);
            }
            if generation == active.generation && key != active.key {
                return too_low(active.generation.saturating_add(1));
            }
            displaced = Some(active.connection);
        }
        self.active = Some(Active {
            connection,
            key,
            generation,
            recording: false,
        });
        Ok(Claim::Taken(displaced))
    }

    /// A fenced session did not see that it was.
    pub(super) fn went_on(&mut self, key: SessionKey) {
        self.stubborn = Some(key);
    }

    /// An upstairs asks to read. The connection that it displaces, if there is one.
    pub(super) fn join(
        &mut self,
        connection: ConnectionId,
        upstairs: UpstairsId,
    ) -> Option<ConnectionId> {
        self.readers.insert(upstairs, connection)
    }

    /// A connection is gone. Whoever took its place stays.
    pub(super) fn leave(&mut self, connection: ConnectionId) {
        if self
            .active
            .is_some_and(|active| active.connection == connection)
        {
            self.active = None;
        }
        self.readers.retain(|_, reader| *reader != connection);
    }
}
