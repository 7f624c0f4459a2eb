//! Asynchronous events: requests that wait, events that wait, and types that are masked until the guest
//! has read the log page.
//!
//! Source: NVM Express Base 1.4, 5.2.

use super::super::status::Status;

/// AERL, from zero: this many requests and one more can wait.
pub const EVENT_REQUESTS_MAX: usize = 4;

/// OAES and the Asynchronous Event Configuration feature: namespace attribute notices.
pub(in super::super) const NAMESPACE_NOTICES: u32 = 1 << 8;
/// Asynchronous Event Configuration: a bit for each SMART critical warning.
const SMART_WARNINGS: u32 = 0xff;
/// What a guest can set in the feature.
pub(in super::super) const CONFIGURABLE: u32 = NAMESPACE_NOTICES | SMART_WARNINGS;

/// What can happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(in super::super) enum Event {
    /// A write to the doorbell of a queue that does not exist.
    InvalidDoorbellRegister,
    /// A doorbell value past the end of the queue.
    InvalidDoorbellValue,
    /// The temperature has passed a threshold.
    Temperature,
    /// The namespace's identify data have changed.
    NamespaceAttributes,
}

impl Event {
    /// Type, information and log page, as in word 0 of the answer.
    const fn parts(self) -> (u8, u8, u8) {
        match self {
            Self::InvalidDoorbellRegister => (0, 0, super::logs::ERROR),
            Self::InvalidDoorbellValue => (0, 1, super::logs::ERROR),
            Self::Temperature => (1, 1, super::logs::SMART),
            Self::NamespaceAttributes => (2, 0, super::logs::CHANGED_NAMESPACES),
        }
    }

    const fn result(self) -> u32 {
        let (kind, information, page) = self.parts();
        kind as u32 | (information as u32) << 8 | (page as u32) << 16
    }

    const fn kind(self) -> u8 {
        self.parts().0
    }
}

/// Requests and events that wait for each other.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub(in super::super) struct Events {
    /// Commands, oldest first.
    parked: Vec<u16>,
    /// At most one of each kind of event.
    pending: Vec<Event>,
    /// Bit `n`: events of type `n` wait until their log page is read.
    masked: u8,
}

impl Events {
    /// Parks a request.
    pub(in super::super) fn park(&mut self, command: u16) -> Result<(), Status> {
        if self.parked.len() >= EVENT_REQUESTS_MAX {
            return Err(Status::EVENT_LIMIT_EXCEEDED);
        }
        self.parked.push(command);
        Ok(())
    }

    /// Takes a parked request out, for Abort.
    pub(in super::super) fn abort(&mut self, command: u16) -> bool {
        match self.parked.iter().position(|parked| *parked == command) {
            Some(index) => {
                self.parked.remove(index);
                true
            }
            None => false,
        }
    }

    pub(in super::super) fn add(&mut self, event: Event) {
        if !self.pending.contains(&event) {
            self.pending.push(event);
        }
    }

    /// The guest has read the log page of these events.
    pub(in super::super) fn log_page_read(&mut self, page: u8) {
        for event in [
            Event::InvalidDoorbellRegister,
            Event::Temperature,
            Event::NamespaceAttributes,
        ] {
            let (kind, _, of_page) = event.parts();
            if of_page == page {
                self.masked &= !(1 << kind);
            }
        }
    }

    pub(in super::super) fn can_deliver(&self) -> bool {
        !self.parked.is_empty() && self.next().is_some()
    }

    /// The oldest request and the oldest event, brought together: command and word 0.
    pub(in super::super) fn deliver(&mut self) -> Option<(u16, u32)> {
        let index = self.next()?;
        if self.parked.is_empty() {
            return None;
        }
        let command = self.parked.remove(0);
        let event = self.pending.remove(index);
        self.masked |= 1 << event.kind();
        Some((command, event.result()))
    }

    /// A saved state comes from outside.
    pub(in super::super) fn is_sane(&self) -> bool {
        self.parked.len() <= EVENT_REQUESTS_MAX && self.pending.len() <= 4
    }

    fn next(&self) -> Option<usize> {
        self.pending
            .iter()
            .position(|event| self.masked & 1 << event.kind() == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_is_masked_until_its_log_page_is_read() {
        let mut events = Events::default();
        events.park(10).unwrap();
        events.park(11).unwrap();
        events.add(Event::InvalidDoorbellValue);
        assert_eq!(events.deliver(), Some((10, 0x01_0100)));
        events.add(Event::InvalidDoorbellRegister);
        assert!(!events.can_deliver());
        events.add(Event::NamespaceAttributes);
        assert_eq!(events.deliver(), Some((11, 0x04_0002)));
        events.park(12).unwrap();
        events.log_page_read(super::super::logs::ERROR);
        assert_eq!(events.deliver(), Some((12, 0x01_0000)));
    }

    #[test]
    fn requests_are_limited_and_can_be_aborted() {
        let mut events = Events::default();
        for command in 0..4 {
            events.park(command).unwrap();
        }
        assert_eq!(events.park(4), Err(Status::EVENT_LIMIT_EXCEEDED));
        assert!(events.abort(2));
        assert!(!events.abort(2));
        events.park(4).unwrap();
    }
}
