//! All mailboxes of one machine, and the way of a message to those it means.

use std::sync::Arc;

use vm_types::{MsiMessage, MsiSink};

use super::destination::{Destination, Identity};
use super::mailbox::Mailbox;
use super::message::{DeliveryMode, Message, Target};

/// The bus between local APICs, IOAPICs and devices. Any thread may send; nobody blocks.
#[derive(Debug)]
pub struct Interconnect {
    mailboxes: Box<[Arc<Mailbox>]>,
}

impl Interconnect {
    /// For `processors` processors; number 0 is the bootstrap processor.
    pub fn new(processors: usize) -> Arc<Self> {
        Arc::new(Self {
            mailboxes: (0..processors).map(|_| Arc::default()).collect(),
        })
    }

    /// The mailbox of one processor.
    pub fn mailbox(&self, processor: usize) -> Option<&Arc<Mailbox>> {
        self.mailboxes.get(processor)
    }

    /// How many processors there are.
    pub fn processors(&self) -> usize {
        self.mailboxes.len()
    }

    /// Sends `message`; `sender` is the processor it comes from, if it is an IPI. Returns how many
    /// processors got it.
    pub fn send(&self, sender: Option<usize>, message: &Message) -> usize {
        let means = |index: usize, identity: Identity| match message.target {
            Target::Matching(destination) => destination.matches(identity),
            Target::All => identity.present(),
            Target::Others => identity.present() && sender != Some(index),
        };
        if message.mode == DeliveryMode::LowestPriority {
            return usize::from(self.send_to_lowest(message, means));
        }
        let mut receivers = 0;
        for (index, mailbox) in self.mailboxes.iter().enumerate() {
            if means(index, mailbox.identity()) {
                deliver(mailbox, message);
                receivers += 1;
            }
        }
        receivers
    }

    /// Sends what a device or an IOAPIC writes into the interrupt range. Whether anybody got it.
    pub fn send_msi(&self, msi: MsiMessage) -> bool {
        Message::from_msi(msi).is_some_and(|message| self.send(None, &message) != 0)
    }

    /// A sink for devices that sends here.
    pub fn msi_sink(self: &Arc<Self>) -> MsiSink {
        let interconnect = self.clone();
        MsiSink::new(Arc::new(move |msi| {
            // A message to nobody vanishes, as on the bus.
            let _received = interconnect.send_msi(msi);
        }))
    }

    /// Drives the 8259's INTR, which is wired to LINT0 of the bootstrap processor.
    pub fn set_intr(&self, level: bool) {
        if let Some(mailbox) = self.mailboxes.first() {
            mailbox.set_lint0(level);
        }
    }

    /// One edge on the machine's NMI, which is wired to LINT1 of all processors.
    pub fn pulse_nmi(&self) {
        for mailbox in &self.mailboxes {
            mailbox.pulse_lint1();
        }
    }

    /// The processor whose APIC matches a physical identifier.
    pub fn find(&self, id: u32) -> Option<usize> {
        let destination = Destination {
            field: id,
            logical: false,
            wide: true,
        };
        self.mailboxes
            .iter()
            .position(|mailbox| destination.matches(mailbox.identity()))
    }

    /// One receiver: the enabled one of lowest task priority class. Equals share by vector, so that a
    /// vector stays with one processor (warm caches) and a run can be repeated.
    fn send_to_lowest(&self, message: &Message, means: impl Fn(usize, Identity) -> bool) -> bool {
        let candidates = || {
            self.mailboxes
                .iter()
                .enumerate()
                .map(|(index, mailbox)| (index, mailbox, mailbox.identity()))
                .filter(|(index, _, identity)| identity.enabled() && means(*index, *identity))
        };
        let Some(lowest) = candidates().map(|(.., id)| id.priority() >> 4).min() else {
            return false;
        };
        let equals = || candidates().filter(|(.., id)| id.priority() >> 4 == lowest);
        // Identities may change between the passes; then the last resort is the first that is left.
        let count = equals().count().max(1);
        let chosen = equals()
            .nth(usize::from(message.vector) % count)
            .or_else(|| equals().next());
        match chosen {
            Some((_, mailbox, _)) => {
                mailbox.post_vector(message.vector, message.trigger);
                true
            }
            None => false,
        }
    }
}

fn deliver(mailbox: &Mailbox, message: &Message) {
    match message.mode {
        DeliveryMode::Fixed | DeliveryMode::LowestPriority => {
            mailbox.post_vector(message.vector, message.trigger);
        }
        DeliveryMode::Nmi => mailbox.post_nmi(),
        DeliveryMode::Init => mailbox.post_init(),
        DeliveryMode::Startup => mailbox.post_startup(message.vector),
        DeliveryMode::ExtInt => mailbox.post_external(),
        // There is no system management mode.
        DeliveryMode::Smi | DeliveryMode::Reserved => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apic::message::Trigger;

    fn machine(priorities: &[u8]) -> Arc<Interconnect> {
        let interconnect = Interconnect::new(priorities.len());
        for (index, priority) in priorities.iter().enumerate() {
            interconnect.mailbox(index).unwrap().publish(
                Identity::xapic(index as u32, 1 << index)
                    .with_enabled(true)
                    .with_priority(*priority),
            );
        }
        interconnect
    }

    fn receivers(interconnect: &Interconnect) -> Vec<usize> {
        (0..interconnect.processors())
            .filter(|index| interconnect.mailbox(*index).unwrap().attention())
            .collect()
    }

    fn message(target: Target, mode: DeliveryMode, vector: u8) -> Message {
        Message {
            target,
            mode,
            vector,
            trigger: Trigger::Edge,
        }
    }

    #[test]
    fn shorthands() {
        let others = machine(&[0; 4]);
        let sent = others.send(Some(1), &message(Target::Others, DeliveryMode::Init, 0));
        assert_eq!((sent, receivers(&others)), (3, vec![0, 2, 3]));
        let all = machine(&[0; 4]);
        all.send(Some(1), &message(Target::All, DeliveryMode::Fixed, 0x40));
        assert_eq!(receivers(&all), [0, 1, 2, 3]);
    }

    #[test]
    fn lowest_priority_goes_to_one() {
        let target = Target::Matching(Destination::logical(0b1110));
        let interconnect = machine(&[0x00, 0x40, 0x20, 0x30]);
        interconnect.send(None, &message(target, DeliveryMode::LowestPriority, 0x41));
        assert_eq!(receivers(&interconnect), [2]);
        // Equals: 0x41 modulo 3 is 2, the third of those that match.
        let equals = machine(&[0; 4]);
        equals.send(None, &message(target, DeliveryMode::LowestPriority, 0x41));
        assert_eq!(receivers(&equals), [3]);
    }

    #[test]
    fn a_message_to_nobody_vanishes() {
        let interconnect = machine(&[0; 2]);
        assert!(!interconnect.send_msi(MsiMessage {
            address: 0xfee0_7000,
            data: 0x41
        }));
        assert!(!interconnect.send_msi(MsiMessage {
            address: 0x1000,
            data: 0x41
        }));
        assert_eq!(receivers(&interconnect), [0usize; 0]);
        interconnect.msi_sink().send(MsiMessage {
            address: 0xfee0_1000,
            data: 0x41,
        });
        assert_eq!(receivers(&interconnect), [1]);
        assert_eq!(interconnect.find(1), Some(1));
        assert_eq!(interconnect.find(2), None);
    }

    #[test]
    fn intr_and_nmi_wires() {
        let interconnect = machine(&[0; 3]);
        interconnect.set_intr(true);
        assert_eq!(receivers(&interconnect), [0]);
        interconnect.pulse_nmi();
        assert_eq!(receivers(&interconnect), [0, 1, 2]);
    }
}
