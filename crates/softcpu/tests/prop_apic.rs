//! The local APIC under arbitrary accesses: no panic, and its invariants hold after each step.

use proptest::prelude::*;
use softcpu::apic::{Effect, LocalApic, LocalApicConfig, Pending, Trigger};
use vm_types::Moment;

#[derive(Clone, Debug)]
enum Step {
    Read(u16),
    Write(u16, u32),
    ReadMsr(u32),
    WriteMsr(u32, u64),
    Base(u64),
    Accept(u8, bool),
    Acknowledge,
    EndOfInterrupt,
    Lint0(bool),
    Lint1(bool),
    Cr8(u8),
    Deadline(u64),
    Wait(u32),
    Init,
    SaveAndLoad,
}

fn step() -> impl Strategy<Value = Step> {
    let register = prop_oneof![(0u16..0x40).prop_map(|index| index << 4), 0u16..0x1000];
    let msr = prop_oneof![0x800u32..0x840, 0x800u32..0x900];
    let word = prop_oneof![
        any::<u32>(),
        0u32..0x200,
        (0u32..32).prop_map(|bit| 1 << bit)
    ];
    let base = prop_oneof![
        Just(0xfee0_0000u64),
        Just(0xfee0_0800u64),
        Just(0xfee0_0c00u64),
        any::<u64>()
    ];
    prop_oneof![
        register.clone().prop_map(Step::Read),
        (register, word.clone()).prop_map(|(offset, value)| Step::Write(offset, value)),
        msr.clone().prop_map(Step::ReadMsr),
        (msr.clone(), word).prop_map(|(msr, value)| Step::WriteMsr(msr, value.into())),
        (msr, any::<u64>()).prop_map(|(msr, value)| Step::WriteMsr(msr, value)),
        base.prop_map(Step::Base),
        (any::<u8>(), any::<bool>()).prop_map(|(vector, level)| Step::Accept(vector, level)),
        Just(Step::Acknowledge),
        Just(Step::EndOfInterrupt),
        any::<bool>().prop_map(Step::Lint0),
        any::<bool>().prop_map(Step::Lint1),
        any::<u8>().prop_map(Step::Cr8),
        (0u64..100_000).prop_map(Step::Deadline),
        any::<u32>().prop_map(Step::Wait),
        Just(Step::Init),
        Just(Step::SaveAndLoad),
    ]
}

fn config() -> LocalApicConfig {
    LocalApicConfig {
        id: 5,
        bootstrap: true,
        timer_hz: 1_000_000_000,
        tsc_hz: 2_100_000_000,
        physical_address_bits: 40,
    }
}

fn apply(apic: &mut LocalApic, now: &mut Moment, step: &Step) -> Result<(), TestCaseError> {
    match *step {
        Step::Read(offset) => {
            apic.read(*now, offset);
        }
        Step::Write(offset, value) => {
            if let Effect::EndOfInterrupt(vector) = apic.write(*now, offset, value) {
                prop_assert!(vector >= 16);
            }
        }
        Step::ReadMsr(msr) => {
            if apic.read_msr(*now, msr).is_ok() {
                prop_assert!(apic.is_x2apic());
            }
        }
        Step::WriteMsr(msr, value) => {
            if apic.write_msr(*now, msr, value).is_ok() {
                prop_assert!(apic.is_x2apic());
            }
        }
        Step::Base(value) => {
            let before = apic.base();
            if apic.set_base(value).is_err() {
                prop_assert_eq!(apic.base(), before);
            }
        }
        Step::Accept(vector, level) => {
            let trigger = if level { Trigger::Level } else { Trigger::Edge };
            apic.accept(vector, trigger);
        }
        Step::Acknowledge => match apic.pending() {
            Some(Pending::Vector(expected)) => {
                prop_assert_eq!(apic.acknowledge(), expected);
                prop_assert_eq!(apic.processor_priority() & 0xf0, expected & 0xf0);
            }
            Some(Pending::External) => apic.acknowledge_external(),
            None => {
                apic.acknowledge();
            }
        },
        Step::EndOfInterrupt => {
            apic.end_of_interrupt();
        }
        Step::Lint0(level) => apic.set_lint0(level),
        Step::Lint1(level) => apic.set_lint1(level),
        Step::Cr8(value) => {
            apic.set_cr8(value.into());
            prop_assert_eq!(apic.cr8(), u64::from(value & 0xf));
        }
        Step::Deadline(target) => apic.set_tsc_deadline(*now, target, now.as_nanos() * 2),
        Step::Wait(ns) => {
            *now = Moment::from_nanos(now.as_nanos() + u64::from(ns));
            apic.advance(*now);
            prop_assert!(apic.deadline().is_none_or(|next| next > *now));
        }
        Step::Init => apic.init(),
        Step::SaveAndLoad => {
            let saved = apic.save(*now);
            let mut copy = LocalApic::new(config());
            prop_assert_eq!(copy.load(*now, &saved), Ok(()));
            let again = copy.save(*now);
            // A count that has stopped on a fraction of a tick may differ in the count alone.
            let mut expected = saved.clone();
            expected.registers[0x39] = again.registers[0x39];
            prop_assert_eq!(again, expected);
            prop_assert_eq!(copy.pending(), apic.pending());
            prop_assert_eq!(copy.deadline(), apic.deadline());
        }
    }
    Ok(())
}

fn check_invariants(apic: &mut LocalApic, now: Moment) -> Result<(), TestCaseError> {
    if let Some(vector) = apic.pending_vector() {
        prop_assert!(vector >= 16);
        prop_assert!(vector >> 4 > apic.processor_priority() >> 4);
    }
    prop_assert!(apic.processor_priority() >> 4 >= apic.cr8() as u8);
    let identity = apic.identity();
    prop_assert_eq!(identity.present(), apic.is_present());
    if identity.present() {
        prop_assert_eq!(identity.id(), 5);
        prop_assert_eq!(identity.enabled(), apic.is_enabled());
    }
    if apic.is_present() && !apic.is_x2apic() {
        for offset in [0x100, 0x200] {
            prop_assert_eq!(apic.read(now, offset) & 0xffff, 0, "vectors below 16");
        }
        if !apic.is_enabled() {
            // LINT0 may be open from reset.
            for offset in [0x320, 0x330, 0x340, 0x360, 0x370] {
                prop_assert!(apic.read(now, offset) & 1 << 16 != 0);
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn arbitrary_accesses_keep_the_invariants(steps in prop::collection::vec(step(), 1..80)) {
        let mut apic = LocalApic::new(config());
        let mut now = Moment::START;
        let _enable = apic.write(now, 0xf0, 0x1ff);
        for step in &steps {
            apply(&mut apic, &mut now, step)?;
            check_invariants(&mut apic, now)?;
        }
    }
}
