//! The requests of one queue that are in flight: a slab, allocated at attach.
//!
//! Engines see tokens of this table, not the device's. So an answer that comes twice, or after the
//! request was given up, finds a slot of another generation and goes nowhere.

use vm_types::Moment;

use crate::request::Token;
use crate::stats::Class;

/// One request in flight.
#[derive(Clone, Copy, Debug)]
pub(crate) struct InFlight {
    /// The device's token.
    pub(crate) token: Token,
    pub(crate) class: Class,
    pub(crate) bytes: u64,
    pub(crate) started: Moment,
}

#[derive(Debug)]
struct Slot {
    generation: u32,
    content: Option<InFlight>,
}

/// A fixed number of slots.
#[derive(Debug)]
pub(crate) struct Slots {
    slots: Vec<Slot>,
    free: Vec<u32>,
}

impl Slots {
    pub(crate) fn new(depth: u32) -> Self {
        Self {
            slots: (0..depth)
                .map(|_| Slot {
                    generation: 0,
                    content: None,
                })
                .collect(),
            free: (0..depth).rev().collect(),
        }
    }

    pub(crate) fn free(&self) -> usize {
        self.free.len()
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Enters a request; the token for the engine, or `None` when all slots are taken.
    pub(crate) fn start(&mut self, request: InFlight) -> Option<Token> {
        let index = self.free.pop()?;
        let slot = self.slots.get_mut(index as usize)?;
        slot.content = Some(request);
        Some(Token {
            slot: index,
            generation: slot.generation,
        })
    }

    /// Takes a request out; `None` for a token that is not in flight (any more).
    pub(crate) fn finish(&mut self, token: Token) -> Option<InFlight> {
        let slot = self.slots.get_mut(token.slot as usize)?;
        if slot.generation != token.generation {
            return None;
        }
        let request = slot.content.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(token.slot);
        Some(request)
    }

    /// Takes out one request that is in flight, whichever it is.
    pub(crate) fn take_any(&mut self) -> Option<InFlight> {
        let index = self.slots.iter().position(|slot| slot.content.is_some())?;
        let generation = self.slots.get(index)?.generation;
        self.finish(Token {
            slot: u32::try_from(index).ok()?,
            generation,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(slot: u32) -> InFlight {
        InFlight {
            token: Token {
                slot,
                generation: 9,
            },
            class: Class::Read,
            bytes: 1,
            started: Moment::START,
        }
    }

    #[test]
    fn each_request_comes_out_once() {
        let mut slots = Slots::new(2);
        let first = slots.start(request(70)).unwrap();
        let second = slots.start(request(71)).unwrap();
        assert!(slots.start(request(72)).is_none());
        assert_eq!(slots.finish(first).unwrap().token.slot, 70);
        assert!(slots.finish(first).is_none());
        let third = slots.start(request(73)).unwrap();
        assert_ne!(first, third);
        assert!(slots.finish(first).is_none());
        assert_eq!(slots.take_any().unwrap().token.slot, 73);
        assert_eq!(slots.finish(second).unwrap().token.slot, 71);
        assert!(slots.take_any().is_none());
        assert_eq!((slots.in_flight(), slots.free()), (0, 2));
    }

    #[test]
    fn invented_tokens_are_ignored() {
        let mut slots = Slots::new(1);
        for slot in [0, 1, u32::MAX] {
            assert!(
                slots
                    .finish(Token {
                        slot,
                        generation: 0
                    })
                    .is_none()
            );
        }
    }
}
