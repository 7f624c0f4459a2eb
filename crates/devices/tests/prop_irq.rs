//! Interrupt controllers under arbitrary accesses: nothing panics, and what they promise holds.

use std::sync::Arc;

use devices::bus::BusDevice;
use devices::irq::{IoApic, IoApicConfig, IoApicPorts, IrqFabric, Pic, PicPorts, PirqRouter};
use devices::lifecycle::Lifecycle;
use proptest::prelude::*;
use vm_types::{IrqLine, MsiSink};

#[derive(Clone, Debug)]
enum Step {
    Write(u64, Vec<u8>),
    Read(u64, usize),
    Line(u32, bool),
    Acknowledge,
    End(u8),
}

fn step(ports: &'static [u64]) -> impl Strategy<Value = Step> {
    let port = prop::sample::select(ports);
    prop_oneof![
        (port.clone(), prop::collection::vec(any::<u8>(), 1..=4))
            .prop_map(|(p, d)| Step::Write(p, d)),
        (port, 1usize..=4).prop_map(|(p, n)| Step::Read(p, n)),
        (0u32..34, any::<bool>()).prop_map(|(pin, level)| Step::Line(pin, level)),
        Just(Step::Acknowledge),
        any::<u8>().prop_map(Step::End),
    ]
}

proptest! {
    #[test]
    fn the_pics_output_is_high_exactly_while_they_have_a_request(
        steps in prop::collection::vec(step(&[0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1]), 0..80),
    ) {
        let intr = IrqLine::unconnected();
        let pic = Pic::new(PicPorts { intr: intr.clone() });
        for step in steps {
            match step {
                Step::Write(port, data) => pic.write(port, &data[..1]),
                Step::Read(port, length) => pic.read(port, &mut vec![0; length]),
                Step::Line(pin, level) => pic.set_pin(pin, level),
                Step::Acknowledge => {
                    pic.acknowledge();
                }
                Step::End(_) => {}
            }
            prop_assert_eq!(intr.level(), pic.intr());
        }
        let saved = pic.save().unwrap();
        let other = Pic::new(PicPorts { intr: IrqLine::unconnected() });
        other.restore(&saved).unwrap();
        prop_assert_eq!(other.save().unwrap(), saved);
        prop_assert_eq!(other.intr(), pic.intr());
    }

    #[test]
    fn a_level_interrupt_is_sent_once_until_it_is_ended(
        steps in prop::collection::vec(step(&[0x00, 0x10, 0x12, 0x20, 0x40]), 0..80),
    ) {
        let (msi, sent) = MsiSink::recording();
        let chip = Arc::new(IoApic::new(IoApicPorts { msi }, IoApicConfig { id: 1 }));
        for step in steps {
            match step {
                Step::Write(offset, data) => chip.write(offset, &data),
                Step::Read(offset, length) => chip.read(offset, &mut vec![0; length]),
                Step::Line(pin, level) => chip.set_pin(pin, level),
                Step::Acknowledge => {}
                Step::End(vector) => chip.end_of_interrupt(vector),
            }
        }
        // Whatever the steps left: pin 20 through edge mode, which ends what was pending, to level.
        chip.set_pin(20, false);
        for (index, value) in [(0x38u8, 0x0001_0000u32), (0x39, 0), (0x38, 0x80f7)] {
            chip.write(0, &[index]);
            chip.write(0x10, &value.to_le_bytes());
        }
        sent.take();
        chip.set_pin(20, true);
        chip.set_pin(20, false);
        chip.set_pin(20, true);
        prop_assert_eq!(sent.take().len(), 1);
        let saved = chip.save().unwrap();
        chip.restore(&saved).unwrap();
        prop_assert_eq!(chip.save().unwrap(), saved);
    }

    #[test]
    fn whatever_is_routed_where_all_is_low_when_all_sources_are(
        steps in prop::collection::vec((0usize..5, any::<u8>(), 0u8..32, 0u8..4, any::<bool>()), 0..60),
    ) {
        let intr = IrqLine::unconnected();
        let pic = Arc::new(Pic::new(PicPorts { intr: intr.clone() }));
        // Everything level-triggered that can be, so that a stuck source would be a request.
        pic.write(0x4d0, &[0xff, 0xff]);
        let router = Arc::new(PirqRouter::new(Arc::new(IrqFabric::new(Some(pic), None))));
        let mut lines = Vec::new();
        for (pirq, register, slot, pin, level) in steps {
            // Of the PIC's pins, only level-triggered ones: an edge stays latched by design.
            if register & 0x80 != 0 || matches!(register & 0xf, 3..=7 | 9..=12 | 14 | 15) {
                router.set_register(pirq, register);
            }
            let line = router.line(slot, pin);
            line.set(level);
            lines.push(line);
        }
        for line in lines {
            line.set(false);
        }
        prop_assert!(!intr.level());
    }
}
