//! From the first word on a connection to the first job: the table of spec 2.2, without memory of other
//! connections.
//!
//! ```text
//! Open --HereIAm--> Greeted --PromoteToActive--> Promoting --(recorded)--> Promoted --RegionInfoPlease--> Told
//! Told --ExtentVersionsPlease--> Listing --(states known)--> Running
//! Told --LastFlush--> Running
//! ```

use std::net::SocketAddr;

use crucible_protocol::{
    JobId, MESSAGE_VERSION, Message, NegotiationError, RegionDefinition, SessionKey,
};

use super::action::Reason;

/// How a region is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// To one session that may write.
    ReadWrite,
    /// To any number of sessions that may not.
    ReadOnly,
}

/// What a server says of itself.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// The region.
    pub definition: RegionDefinition,
    /// How it is served.
    pub mode: Mode,
    /// Where its extents can be fetched.
    pub repair_address: SocketAddr,
}

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Nothing has been said.
    Open,
    /// It has said who it is.
    Greeted(SessionKey),
    /// It has asked to be active, and waits for the region to be free and the promotion to be on disk.
    Promoting(SessionKey),
    /// It is active.
    Promoted(SessionKey),
    /// It knows the region.
    Told(SessionKey),
    /// It waits for the states of the extents.
    Listing(SessionKey),
    /// It sends jobs.
    Running(SessionKey),
}

/// What a message leads to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Answer, and go on in the new phase.
    Reply(Message),
    /// Answer if there is an answer, then close.
    Refuse(Option<Message>, Reason),
    /// Not for now: as if it had not come.
    Ignore,
    /// Ask the promotion rules.
    Promote(u64),
    /// Collect the states of the extents.
    List,
    /// Begin with jobs; this one counts as done.
    Run(Option<JobId>),
}

impl Phase {
    pub(super) fn is_running(self) -> bool {
        matches!(self, Self::Running(_))
    }

    /// Whether an answer is being worked on, so that the next message has to wait.
    pub(super) fn is_pending(self) -> bool {
        matches!(self, Self::Promoting(_) | Self::Listing(_))
    }

    fn name(self) -> &'static str {
        match self {
            Self::Open => "nothing but HereIAm is expected",
            Self::Greeted(_) => "PromoteToActive is expected",
            Self::Promoting(_) => "the promotion is under way",
            Self::Promoted(_) => "RegionInfoPlease is expected",
            Self::Told(_) => "ExtentVersionsPlease or LastFlush is expected",
            Self::Listing(_) => "the extents are being listed",
            Self::Running(_) => "jobs are expected",
        }
    }

    /// One message before the first job. Pings are answered elsewhere.
    pub(super) fn judge(&mut self, facts: &Facts, message: &Message) -> Verdict {
        match (*self, message) {
            (
                Self::Open,
                Message::HereIAm {
                    version,
                    key,
                    read_only,
                    encrypted,
                    alternate_versions,
                    ..
                },
            ) => {
                let spoken =
                    *version == MESSAGE_VERSION || alternate_versions.contains(&MESSAGE_VERSION);
                let verdict = greet(facts, *version, spoken, *read_only, *encrypted);
                if matches!(verdict, Verdict::Reply(_)) {
                    *self = Self::Greeted(*key);
                }
                verdict
            }
            (Self::Greeted(own), Message::PromoteToActive { key, generation }) => {
                if own != *key {
                    let expected = own.upstairs.0;
                    return Verdict::Refuse(
                        Some(Message::UuidMismatch { expected }),
                        Reason::Refused(mismatch(own, *key)),
                    );
                }
                *self = Self::Promoting(own);
                Verdict::Promote(*generation)
            }
            (Self::Promoted(key), Message::RegionInfoPlease) => {
                *self = Self::Told(key);
                Verdict::Reply(Message::RegionInfo(facts.definition))
            }
            (Self::Told(key), Message::ExtentVersionsPlease) => {
                *self = Self::Listing(key);
                Verdict::List
            }
            (Self::Told(key), Message::LastFlush { last }) => {
                *self = Self::Running(key);
                Verdict::Run(*last)
            }
            (
                _,
                Message::HereIAm { .. }
                | Message::PromoteToActive { .. }
                | Message::RegionInfoPlease
                | Message::ExtentVersionsPlease
                | Message::LastFlush { .. },
            ) => Verdict::Refuse(None, self.unexpected(message)),
            _ => Verdict::Ignore,
        }
    }

    pub(super) fn unexpected(self, message: &Message) -> Reason {
        Reason::Unexpected {
            message: message.name(),
            while_: self.name(),
        }
    }
}

/// The three checks of a HereIAm, in the order of the spec.
fn greet(facts: &Facts, version: u32, spoken: bool, read_only: bool, encrypted: bool) -> Verdict {
    let ours = facts.mode == Mode::ReadOnly;
    let sealed = facts.definition.encrypted;
    let (message, error) = if !spoken {
        (
            Message::VersionMismatch {
                version: MESSAGE_VERSION,
            },
            NegotiationError::IncompatibleVersion {
                expected: MESSAGE_VERSION,
                actual: version,
            },
        )
    } else if read_only != ours {
        (
            Message::ReadOnlyMismatch { expected: ours },
            NegotiationError::ReadOnlyMismatch {
                expected: ours,
                actual: read_only,
            },
        )
    } else if encrypted != sealed {
        (
            Message::EncryptedMismatch { expected: sealed },
            NegotiationError::EncryptionMismatch {
                expected: sealed,
                actual: encrypted,
            },
        )
    } else {
        return Verdict::Reply(Message::YesItsMe {
            version: MESSAGE_VERSION,
            repair_address: facts.repair_address,
        });
    };
    Verdict::Refuse(Some(message), Reason::Refused(error))
}

fn mismatch(own: SessionKey, other: SessionKey) -> NegotiationError {
    if own.upstairs == other.upstairs {
        NegotiationError::SessionIdMismatch {
            expected: own.session.0,
            actual: other.session.0,
        }
    } else {
        NegotiationError::UpstairsIdMismatch {
            expected: own.upstairs.0,
            actual: other.upstairs.0,
        }
    }
}

/// For messages about jobs: what to answer to one of another session, `None` if it is of this one.
pub(super) fn stranger(own: SessionKey, other: SessionKey) -> Option<Message> {
    let expected = if own.upstairs != other.upstairs {
        own.upstairs.0
    } else if own.session != other.session {
        own.session.0
    } else {
        return None;
    };
    Some(Message::UuidMismatch { expected })
}
