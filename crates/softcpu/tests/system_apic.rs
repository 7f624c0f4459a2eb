//! Behaviour of the local APIC as tables: registers, modes, priorities, IPIs, timer.
//!
//! Source: SDM vol. 3A, chapter "Advanced Programmable Interrupt Controller".
#![expect(
    clippy::unwrap_used,
    reason = "a rig that cannot be set up fails the test that wants it"
)]

use softcpu::apic::{
    DeliveryMode, Destination, Effect, LocalApic, LocalApicConfig, Message, Pending, Refused,
    Target, Trigger,
};
use vm_types::Moment;

const START: Moment = Moment::START;

fn apic_of(bootstrap: bool) -> LocalApic {
    LocalApic::new(LocalApicConfig {
        id: 2,
        bootstrap,
        timer_hz: 1_000_000_000,
        tsc_hz: 1_000_000_000,
        physical_address_bits: 40,
    })
}

fn enabled() -> LocalApic {
    let mut apic = apic_of(false);
    assert_eq!(apic.write(START, 0xf0, 0x1ff), Effect::None);
    apic
}

fn x2apic() -> LocalApic {
    let mut apic = apic_of(false);
    apic.set_base(0xfee0_0c00).unwrap();
    assert_eq!(apic.write_msr(START, 0x80f, 0x1ff), Ok(Effect::None));
    apic
}

#[test]
fn registers_after_reset() {
    for (offset, value) in [
        (0x020, 0x0200_0000),
        (0x030, 0x0105_0014),
        (0x080, 0),
        (0x0a0, 0),
        (0x0d0, 0),
        (0x0e0, 0xffff_ffff),
        (0x0f0, 0xff),
        (0x100, 0),
        (0x270, 0),
        (0x280, 0),
        (0x300, 0),
        (0x310, 0),
        (0x320, 0x1_0000),
        (0x330, 0x1_0000),
        (0x340, 0x1_0000),
        (0x350, 0x1_0000),
        (0x360, 0x1_0000),
        (0x370, 0x1_0000),
        (0x380, 0),
        (0x390, 0),
        (0x3e0, 0),
    ] {
        assert_eq!(apic_of(false).read(START, offset), value, "{offset:#x}");
    }
    assert_eq!(apic_of(true).base(), 0xfee0_0900);
    assert_eq!(apic_of(false).base(), 0xfee0_0800);
    assert_eq!(apic_of(true).read(START, 0x350), 0x700);
}

#[test]
fn registers_keep_their_writable_bits() {
    for (offset, kept) in [
        (0x020, 0x0200_0000),
        (0x030, 0x0105_0014),
        (0x080, 0xff),
        (0x0d0, 0xff00_0000),
        (0x0e0, 0xffff_ffff),
        (0x0f0, 0x11ff),
        (0x310, 0xff00_0000),
        (0x320, 0x7_00ff),
        (0x350, 0x1_a7ff),
        (0x370, 0x1_00ff),
        (0x390, 0),
        (0x3e0, 0xb),
    ] {
        let mut apic = enabled();
        let _effect = apic.write(START, offset, u32::MAX);
        assert_eq!(apic.read(START, offset), kept, "{offset:#x}");
    }
}

#[test]
fn unknown_registers_are_errors() {
    let mut apic = enabled();
    assert_eq!(apic.write(START, 0x370, 0x40), Effect::None);
    assert_eq!(apic.read(START, 0x2f0), 0);
    assert_eq!(apic.pending(), Some(Pending::Vector(0x40)));
    assert_eq!(apic.read(START, 0x280), 0, "not latched yet");
    assert_eq!(apic.write(START, 0x280, 0), Effect::None);
    assert_eq!(apic.read(START, 0x280), 0x80);
    assert_eq!(apic.write(START, 0x280, 0), Effect::None);
    assert_eq!(apic.read(START, 0x280), 0);
}

#[test]
fn base_transitions() {
    let disabled = 0xfee0_0000;
    let xapic = 0xfee0_0800;
    let x2 = 0xfee0_0c00;
    for (from, to, allowed) in [
        (xapic, xapic, true),
        (xapic, x2, true),
        (xapic, disabled, true),
        (x2, x2, true),
        (x2, disabled, true),
        (x2, xapic, false),
        (disabled, xapic, true),
        (disabled, x2, false),
        (xapic, 0xfee0_0400, false),
        (xapic, 0xfee0_0801, false),
        (xapic, 1 << 40 | 0x800, false),
        (xapic, 0x12_3456_7800, true),
    ] {
        let mut apic = apic_of(false);
        apic.set_base(from).unwrap();
        let result = apic.set_base(to);
        assert_eq!(result.is_ok(), allowed, "{from:#x} to {to:#x}");
        assert_eq!(apic.base(), if allowed { to } else { from });
    }
    let mut bootstrap = apic_of(true);
    bootstrap.set_base(xapic).unwrap();
    assert_eq!(bootstrap.base(), xapic | 0x100, "the flag is read-only");
    assert_eq!(bootstrap.window(), Some(0xfee0_0000));
    bootstrap.set_base(x2).unwrap();
    assert_eq!(bootstrap.window(), None);
}

#[test]
fn x2apic_refuses_what_is_reserved() {
    for (msr, value) in [
        (0x802, 0),
        (0x803, 0),
        (0x808, 0x100),
        (0x809, 0),
        (0x80a, 0),
        (0x80b, 1),
        (0x80c, 0),
        (0x80d, 1),
        (0x80e, 0),
        (0x80f, 0x400),
        (0x80f, 1 << 32),
        (0x810, 0),
        (0x828, 1),
        (0x82f, 0x1_0000),
        (0x830, 1 << 13),
        (0x830, 1 << 20),
        (0x831, 0),
        (0x832, 1 << 8),
        (0x835, 1 << 11),
        (0x839, 0),
        (0x83e, 1 << 2),
        (0x83f, 0x100),
        (0x840, 0),
        (0x8ff, 0),
    ] {
        assert_eq!(
            x2apic().write_msr(START, msr, value),
            Err(Refused),
            "{msr:#x} {value:#x}"
        );
    }
    for msr in [0x80b, 0x83f, 0x809, 0x80c, 0x80e, 0x831, 0x840, 0x801] {
        assert_eq!(x2apic().read_msr(START, msr), Err(Refused), "{msr:#x}");
    }
    assert_eq!(enabled().read_msr(START, 0x802), Err(Refused), "xAPIC mode");
    assert_eq!(x2apic().read_msr(START, 0x802), Ok(2));
    assert_eq!(x2apic().read_msr(START, 0x80d), Ok(4));
}

#[test]
fn the_icr_says_what_is_sent() {
    let fixed = |target, vector| {
        Effect::Send(Message {
            target,
            mode: DeliveryMode::Fixed,
            vector,
            trigger: Trigger::Edge,
        })
    };
    let to = |mode, vector| {
        Effect::Send(Message {
            target: Target::Matching(Destination::physical(5)),
            mode,
            vector,
            trigger: Trigger::Edge,
        })
    };
    for (low, effect) in [
        (0x0000_4041, to(DeliveryMode::Fixed, 0x41)),
        (
            0x0000_4841,
            fixed(Target::Matching(Destination::logical(5)), 0x41),
        ),
        (0x0000_4141, to(DeliveryMode::LowestPriority, 0x41)),
        (0x0000_4400, to(DeliveryMode::Nmi, 0)),
        (0x0000_c500, to(DeliveryMode::Init, 0)),
        (0x0000_8500, Effect::None),
        (0x0000_469a, to(DeliveryMode::Startup, 0x9a)),
        (0x0000_4200, Effect::None),
        (0x0000_4700, Effect::None),
        (0x0000_400f, Effect::None),
        (0x0008_4041, fixed(Target::All, 0x41)),
        (0x000c_4041, fixed(Target::Others, 0x41)),
        (0x0004_4041, Effect::None),
    ] {
        let mut apic = enabled();
        assert_eq!(apic.write(START, 0x310, 0x0500_0000), Effect::None);
        assert_eq!(apic.write(START, 0x300, low), effect, "{low:#x}");
        assert_eq!(apic.read(START, 0x300), low & !(1 << 12));
        let own = (low >> 18 & 3 == 1).then_some(Pending::Vector(0x41));
        assert_eq!(apic.pending(), own, "{low:#x}");
    }
}

#[test]
fn x2apic_commands_in_one_write() {
    let mut apic = x2apic();
    assert_eq!(
        apic.write_msr(START, 0x830, 0x0001_0003_0000_0841),
        Ok(Effect::Send(Message {
            target: Target::Matching(Destination {
                field: 0x0001_0003,
                logical: true,
                wide: true
            }),
            mode: DeliveryMode::Fixed,
            vector: 0x41,
            trigger: Trigger::Edge,
        }))
    );
    assert_eq!(apic.read_msr(START, 0x830), Ok(0x0001_0003_0000_0841));
    assert_eq!(apic.write_msr(START, 0x83f, 0x77), Ok(Effect::None));
    assert_eq!(apic.pending(), Some(Pending::Vector(0x77)));
}

#[test]
fn priorities() {
    let mut apic = enabled();
    apic.accept(0x45, Trigger::Edge);
    apic.accept(0x4c, Trigger::Edge);
    apic.accept(0x31, Trigger::Edge);
    assert_eq!(apic.acknowledge(), 0x4c);
    assert_eq!(apic.processor_priority(), 0x40);
    assert_eq!(apic.pending(), None, "same class waits");
    apic.accept(0x81, Trigger::Edge);
    assert_eq!(apic.acknowledge(), 0x81, "a higher class nests");
    assert_eq!(apic.write(START, 0xb0, 0), Effect::None);
    assert_eq!(apic.processor_priority(), 0x40);
    assert_eq!(apic.write(START, 0xb0, 0), Effect::None);
    apic.set_cr8(4);
    assert_eq!(apic.pending(), None, "task priority 0x40 holds class 4");
    apic.set_cr8(3);
    assert_eq!(apic.acknowledge(), 0x45);
    assert_eq!(apic.cr8(), 3);
    assert_eq!(apic.read(START, 0x80), 0x30);
    assert_eq!(apic.acknowledge(), 0xff, "spurious");
}

#[test]
fn end_of_interrupt_is_broadcast_for_level_triggered_vectors() {
    for (spurious, trigger, effect) in [
        (0x1ff, Trigger::Level, Effect::EndOfInterrupt(0x51)),
        (0x1ff, Trigger::Edge, Effect::None),
        (0x11ff, Trigger::Level, Effect::None),
    ] {
        let mut apic = apic_of(false);
        assert_eq!(apic.write(START, 0xf0, spurious), Effect::None);
        apic.accept(0x51, trigger);
        assert_eq!(apic.acknowledge(), 0x51);
        assert_eq!(apic.write(START, 0xb0, 0), effect);
        assert_eq!(apic.write(START, 0xb0, 0), Effect::None);
    }
}

#[test]
fn software_disabling_masks_and_drops() {
    let mut apic = enabled();
    assert_eq!(apic.write(START, 0x320, 0x31), Effect::None);
    apic.accept(0x41, Trigger::Edge);
    assert_eq!(apic.write(START, 0xf0, 0xff), Effect::None);
    assert_eq!(apic.read(START, 0x320), 0x1_0031);
    assert_eq!(apic.write(START, 0x320, 0x31), Effect::None);
    assert_eq!(apic.read(START, 0x320), 0x1_0031, "stays masked");
    apic.accept(0x51, Trigger::Edge);
    assert_eq!(
        apic.pending(),
        Some(Pending::Vector(0x41)),
        "what was requested before is held"
    );
}

#[test]
fn illegal_vectors_are_errors() {
    let mut apic = enabled();
    apic.accept(0x0f, Trigger::Edge);
    assert_eq!(apic.write(START, 0x300, 0x4008), Effect::None);
    assert_eq!(apic.write(START, 0x280, 0), Effect::None);
    assert_eq!(apic.read(START, 0x280), 0x60);
    assert_eq!(apic.pending(), None);
}

#[test]
fn timer_interrupts_and_masks() {
    let at = Moment::from_nanos;
    let mut apic = enabled();
    let _none = apic.write(START, 0x3e0, 0xb);
    let _none = apic.write(START, 0x320, 0x2_0031);
    let _none = apic.write(START, 0x380, 1000);
    assert_eq!(apic.deadline(), Some(at(1000)));
    apic.advance(at(999));
    assert_eq!(apic.pending(), None);
    apic.advance(at(1000));
    assert_eq!(apic.acknowledge(), 0x31);
    assert_eq!(apic.deadline(), Some(at(2000)));
    assert_eq!(apic.read(at(1400), 0x390), 600);
    let _none = apic.write(at(1400), 0x320, 0x3_0031);
    assert_eq!(apic.deadline(), None, "masked: nobody needs to look");
    let _none = apic.write(at(2500), 0x320, 0x2_0031);
    assert_eq!(
        apic.read(START, 0x210) & 1 << 17,
        0,
        "an end under the mask is lost"
    );
    assert_eq!(apic.deadline(), Some(at(3000)), "and the phase is kept");
}

#[test]
fn tsc_deadline_mode_is_armed_by_the_msr() {
    let at = Moment::from_nanos;
    let mut apic = enabled();
    apic.set_tsc_deadline(START, 500, 0);
    assert_eq!(apic.deadline(), None, "not in TSC-deadline mode");
    let _none = apic.write(START, 0x320, 0x4_0031);
    apic.set_tsc_deadline(at(100), 500, 200);
    assert_eq!(apic.deadline(), Some(at(400)));
    assert_eq!(apic.tsc_deadline(at(100)), 500);
    apic.tsc_moved(at(100), 400);
    assert_eq!(apic.deadline(), Some(at(200)));
    apic.advance(at(200));
    assert_eq!(apic.tsc_deadline(at(200)), 0);
    assert_eq!(apic.acknowledge(), 0x31);
    apic.set_tsc_deadline(at(300), 100, 600);
    assert_eq!(apic.acknowledge(), 0xff, "same class is in service");
    let _none = apic.write(at(300), 0xb0, 0);
    assert_eq!(apic.acknowledge(), 0x31, "a past target fires at once");
}

#[test]
fn level_triggered_lint0_asks_again_until_it_is_low() {
    let mut apic = enabled();
    let _none = apic.write(START, 0x350, 0x8041);
    apic.set_lint0(true);
    assert_eq!(apic.read(START, 0x350), 0xc041, "remote IRR");
    assert_eq!(apic.acknowledge(), 0x41);
    let _broadcast = apic.write(START, 0xb0, 0);
    assert_eq!(apic.acknowledge(), 0x41, "still high");
    apic.set_lint0(false);
    let _broadcast = apic.write(START, 0xb0, 0);
    assert_eq!(apic.pending(), None);
    assert_eq!(apic.read(START, 0x350), 0x8041);
}

#[test]
fn a_globally_disabled_apic_passes_the_pins_on() {
    let mut apic = enabled();
    apic.set_base(0xfee0_0000).unwrap();
    apic.accept(0x41, Trigger::Edge);
    assert_eq!(apic.pending(), None);
    apic.set_lint0(true);
    assert_eq!(apic.pending(), Some(Pending::External));
    apic.set_lint1(true);
    assert!(apic.take_nmi());
    assert!(!apic.identity().present());
}

#[test]
fn init_keeps_identifier_mode_and_base() {
    let mut apic = x2apic();
    apic.accept(0x41, Trigger::Edge);
    apic.init();
    assert_eq!(apic.base(), 0xfee0_0c00);
    assert_eq!(apic.read_msr(START, 0x802), Ok(2));
    assert_eq!(apic.read_msr(START, 0x80f), Ok(0xff));
    assert_eq!(apic.pending(), None);
}
