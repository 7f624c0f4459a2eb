//! The handshake: bytes of a client in, bytes for it out, until both know what they will speak.
//!
//! ```text
//!   greeting -> Flags -> Option <-> (answered, again)
//!                          |------ GO, EXPORT_NAME ----> Ready
//!                          |------ ABORT, nonsense ----> Over
//! ```
//!
//! Fixed newstyle only, without TLS. No I/O and no clock: the caller sets the limit in time.

use vm_types::cursor::Reader;

use super::facts::Facts;
use super::wire::{
    GREETING_MAGIC, OPTION_MAGIC, OPTION_REPLY_MAGIC, Put, answer, export_flag, handshake_flag,
    info, option,
};

/// Longest name or text of the protocol, in bytes.
const STRING_MAX: usize = 4096;
/// Longest payload of an option that is looked at. Room for a name and any number of sensible queries.
const OPTION_MAX: usize = 16 << 10;
/// Longest payload of an option that is skipped; a client that sends more is not talking to us.
const SKIPPED_MAX: u32 = 1 << 20;
/// Most options of one handshake. Clients need about five.
const OPTIONS_MAX: u32 = 256;

/// Where a handshake stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// More bytes are needed.
    Haggling,
    /// The next byte belongs to the first request.
    Ready(Agreed),
    /// To be closed when what is to be sent has been sent.
    Over,
}

/// What client and server have agreed upon.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Agreed {
    /// Reads, and errors, are answered with structured replies.
    pub(super) structured: bool,
}

/// The server's side of one handshake.
#[derive(Debug)]
pub(super) struct Handshake {
    /// The client's flags have come.
    greeted: bool,
    no_zeroes: bool,
    options: u32,
    /// Bytes of an oversized option still to be thrown away.
    skip: usize,
    agreed: Agreed,
}

impl Handshake {
    /// A new handshake; its greeting goes to `out`.
    pub(super) fn new(out: &mut Vec<u8>) -> Self {
        out.u64(GREETING_MAGIC);
        out.u64(OPTION_MAGIC);
        out.u16(handshake_flag::FIXED_NEWSTYLE | handshake_flag::NO_ZEROES);
        Self {
            greeted: false,
            no_zeroes: false,
            options: 0,
            skip: 0,
            agreed: Agreed::default(),
        }
    }

    /// Takes what it can from the front of `input`; returns how many bytes that were. Answers go to
    /// `out`. Called again with the rest and more, unless the handshake is over.
    pub(super) fn advance(
        &mut self,
        facts: &Facts,
        input: &[u8],
        out: &mut Vec<u8>,
    ) -> (usize, Progress) {
        let mut reader = Reader::new(input);
        loop {
            let skipped = self.skip.min(reader.remaining());
            reader.take(skipped);
            self.skip -= skipped;
            // What `step` does not take as a whole stays for the next time.
            let mut step = reader;
            match self.step(facts, &mut step, out) {
                None => return (reader.position(), Progress::Haggling),
                Some(Progress::Haggling) => reader = step,
                Some(end) => return (step.position(), end),
            }
        }
    }

    /// One message; `None` if it has not come as a whole.
    fn step(
        &mut self,
        facts: &Facts,
        reader: &mut Reader<'_>,
        out: &mut Vec<u8>,
    ) -> Option<Progress> {
        if !self.greeted {
            let flags = reader.u32_be()?;
            let known = handshake_flag::FIXED_NEWSTYLE | handshake_flag::NO_ZEROES;
            if flags & !u32::from(known) != 0 {
                return Some(Progress::Over);
            }
            self.greeted = true;
            self.no_zeroes = flags & u32::from(handshake_flag::NO_ZEROES) != 0;
            return Some(Progress::Haggling);
        }
        if self.skip > 0 {
            return None;
        }
        if reader.u64_be()? != OPTION_MAGIC {
            return Some(Progress::Over);
        }
        let wanted = reader.u32_be()?;
        let length = reader.u32_be()?;
        if length as usize > OPTION_MAX {
            if wanted == option::EXPORT_NAME || length > SKIPPED_MAX {
                return Some(Progress::Over);
            }
            self.skip = length as usize;
            refuse(out, wanted, answer::TOO_BIG, "option is too long");
            return Some(self.count());
        }
        let payload = reader.sub_reader(length as usize)?;
        let end = self.count();
        if end != Progress::Haggling {
            return Some(end);
        }
        Some(self.answer(facts, wanted, payload, out))
    }

    fn count(&mut self) -> Progress {
        self.options += 1;
        if self.options > OPTIONS_MAX {
            Progress::Over
        } else {
            Progress::Haggling
        }
    }

    fn answer(
        &mut self,
        facts: &Facts,
        wanted: u32,
        mut payload: Reader<'_>,
        out: &mut Vec<u8>,
    ) -> Progress {
        let empty = payload.remaining() == 0;
        match wanted {
            option::EXPORT_NAME => {
                let name = payload.take(payload.remaining()).unwrap_or_default();
                if !facts.is_called(name) {
                    // This option knows no refusal.
                    return Progress::Over;
                }
                out.u64(facts.size);
                out.u16(self.flags(facts));
                if !self.no_zeroes {
                    out.extend_from_slice(&[0; 124]);
                }
                return Progress::Ready(self.agreed);
            }
            option::ABORT => {
                reply(out, wanted, answer::ACK, |_| {});
                return Progress::Over;
            }
            option::GO | option::INFO => return self.info(facts, wanted, payload, out),
            option::LIST | option::STRUCTURED_REPLY if !empty => {
                refuse(out, wanted, answer::INVALID, "option takes no data");
            }
            option::LIST => {
                reply(out, wanted, answer::SERVER, |out| {
                    out.u32(facts.name.len() as u32);
                    out.extend_from_slice(facts.name.as_bytes());
                });
                reply(out, wanted, answer::ACK, |_| {});
            }
            option::STRUCTURED_REPLY => {
                self.agreed.structured = true;
                reply(out, wanted, answer::ACK, |_| {});
            }
            option::SET_META_CONTEXT | option::LIST_META_CONTEXT => {
                self.contexts(facts, wanted, payload, out);
            }
            _ => refuse(out, wanted, answer::UNSUPPORTED, "option is not supported"),
        }
        Progress::Haggling
    }

    fn info(&self, facts: &Facts, wanted: u32, payload: Reader<'_>, out: &mut Vec<u8>) -> Progress {
        let Some((name, kinds)) = parse_info(payload) else {
            refuse(out, wanted, answer::INVALID, "lengths do not match");
            return Progress::Haggling;
        };
        if !facts.is_called(name) {
            refuse(out, wanted, answer::UNKNOWN, "no export of that name");
            return Progress::Haggling;
        }
        reply(out, wanted, answer::INFO, |out| {
            out.u16(info::EXPORT);
            out.u64(facts.size);
            out.u16(self.flags(facts));
        });
        // Told in any case: who does not ask may still heed it.
        reply(out, wanted, answer::INFO, |out| {
            out.u16(info::BLOCK_SIZE);
            out.u32(facts.block_size);
            out.u32(facts.preferred);
            out.u32(facts.request_max);
        });
        let asked = |kind| kinds.chunks_exact(2).any(|k| k == u16::to_be_bytes(kind));
        for (kind, text) in [
            (info::NAME, &facts.name),
            (info::DESCRIPTION, &facts.description),
        ] {
            if asked(kind) {
                reply(out, wanted, answer::INFO, |out| {
                    out.u16(kind);
                    out.extend_from_slice(text.as_bytes());
                });
            }
        }
        reply(out, wanted, answer::ACK, |_| {});
        if wanted == option::GO {
            Progress::Ready(self.agreed)
        } else {
            Progress::Haggling
        }
    }

    /// There are no metadata contexts: a sound query gets an empty list.
    fn contexts(&self, facts: &Facts, wanted: u32, payload: Reader<'_>, out: &mut Vec<u8>) {
        match parse_contexts(payload) {
            _ if !self.agreed.structured => {
                refuse(out, wanted, answer::INVALID, "needs structured replies");
            }
            None => refuse(out, wanted, answer::INVALID, "lengths do not match"),
            Some(name) if !facts.is_called(name) => {
                refuse(out, wanted, answer::UNKNOWN, "no export of that name");
            }
            Some(_) => reply(out, wanted, answer::ACK, |_| {}),
        }
    }

    fn flags(&self, facts: &Facts) -> u16 {
        let unfragmented = if self.agreed.structured {
            export_flag::DONT_FRAGMENT
        } else {
            0
        };
        facts.flags | unfragmented
    }
}

/// Name, and the kinds of information asked for as raw bytes, of INFO and GO.
fn parse_info<'a>(mut payload: Reader<'a>) -> Option<(&'a [u8], &'a [u8])> {
    let name = string(&mut payload)?;
    let count = payload.u16_be()?;
    let kinds = payload.take(usize::from(count) * 2)?;
    (payload.remaining() == 0).then_some((name, kinds))
}

/// Name of the export that metadata contexts are asked for.
fn parse_contexts<'a>(mut payload: Reader<'a>) -> Option<&'a [u8]> {
    let name = string(&mut payload)?;
    let count = payload.u32_be()?;
    for _ in 0..count {
        // Each takes four bytes at least, so the payload bounds the loop.
        string(&mut payload)?;
    }
    (payload.remaining() == 0).then_some(name)
}

fn string<'a>(reader: &mut Reader<'a>) -> Option<&'a [u8]> {
    let length = reader.u32_be()? as usize;
    reader.take(length).filter(|text| text.len() <= STRING_MAX)
}

/// Appends one answer; its length is filled in when `body` is done.
fn reply(out: &mut Vec<u8>, to: u32, kind: u32, body: impl FnOnce(&mut Vec<u8>)) {
    out.u64(OPTION_REPLY_MAGIC);
    out.u32(to);
    out.u32(kind);
    let at = out.len();
    out.u32(0);
    body(out);
    let length = (out.len() - at - 4) as u32;
    if let Some(place) = out.get_mut(at..at + 4) {
        place.copy_from_slice(&length.to_be_bytes());
    }
}

fn refuse(out: &mut Vec<u8>, to: u32, kind: u32, why: &str) {
    reply(out, to, kind, |out| out.extend_from_slice(why.as_bytes()));
}
