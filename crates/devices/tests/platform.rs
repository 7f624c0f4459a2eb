//! The platform devices together, as an operating system meets them: detection, calibration, interrupts
//! from end to end, power and reset, and a whole board saved and restored.

use std::sync::atomic::Ordering;

use devices::testkit::platform::PlatformRig;
use devices::testkit::platform_fuzz;
use proptest::prelude::*;
use vm_types::Span;

/// Both PICs at vectors 0x20 and 0x28, all masked but those in `open`.
fn set_up_pic(rig: &mut PlatformRig, open: u16) {
    for (port, base, wiring) in [(0x20, 0x20, 4), (0xa0, 0x28, 2)] {
        for (port, value) in [
            (port, 0x11),
            (port + 1, base),
            (port + 1, wiring),
            (port + 1, 1),
        ] {
            rig.outb(port, value);
        }
    }
    let [low, high] = (!open).to_le_bytes();
    rig.outb(0x21, low);
    rig.outb(0xa1, high);
}

#[test]
fn the_pci_bus_has_the_chipset_on_it() {
    let mut rig = PlatformRig::new();
    let mut found = Vec::new();
    for device in 0..32 {
        for function in 0..8 {
            let id = rig.config_read(device, function, 0);
            if id != u32::MAX {
                found.push((device, function, id));
            }
        }
    }
    assert_eq!(
        found,
        [
            (0, 0, 0x1237_8086),
            (1, 0, 0x7000_8086),
            (1, 3, 0x7113_8086)
        ]
    );
    assert_eq!(rig.config_read(1, 0, 0x0c) >> 16 & 0xff, 0x80);
    assert_eq!(rig.config_read(1, 3, 0x40), 0xb001);
    assert_eq!(rig.readl(0xe000_0000 + (1 << 15)), 0x7000_8086);
    // The fields of the chipset's subsystem.
    assert_eq!(rig.config_read(0, 0, 0x2c), 0xfffe_01de);
}

#[test]
fn a_timer_tick_reaches_the_pic_and_the_ioapic() {
    let mut rig = PlatformRig::new();
    set_up_pic(&mut rig, 1);
    rig.route(2, 0x30);
    rig.outb(0x43, 0x34);
    rig.outb(0x40, 0xa9);
    rig.outb(0x40, 0x04);
    rig.pass(Span::from_millis(1), 10);
    assert!(rig.intr.level());
    assert_eq!(rig.pic.acknowledge(), 0x20);
    assert_eq!(rig.messages.take().len(), 1);
    assert!(!rig.intr.level());
}

#[test]
fn the_speaker_gate_calibrates_as_kernels_do_it() {
    let mut rig = PlatformRig::new();
    let gate = rig.inb(0x61) & !2 | 1;
    rig.outb(0x61, gate);
    rig.outb(0x43, 0xb0);
    let count = (1_193_182u32 / 100) as u16;
    for byte in count.to_le_bytes() {
        rig.outb(0x42, byte);
    }
    let mut looked = 0;
    while rig.inb(0x61) & 0x20 == 0 {
        rig.pass(Span::from_micros(100), 10);
        looked += 1;
        assert!(looked < 200);
    }
    assert!((99..=101).contains(&looked), "{looked} times 100 µs");
}

#[test]
fn a_serial_port_is_detected_and_interrupts() {
    let mut rig = PlatformRig::new();
    set_up_pic(&mut rig, 1 << 4 | 1 << 3 | 1 << 2);
    for base in [0x3f8, 0x2f8, 0x3e8, 0x2e8] {
        rig.outb(base + 7, 0x5a);
        assert_eq!(rig.inb(base + 7), 0x5a);
        rig.outb(base + 2, 0x01);
        assert_eq!(rig.inb(base + 2) & 0xc0, 0xc0);
    }
    rig.outb(0x3f9, 1);
    rig.outb(0x3e9, 1);
    rig.serial[0].push_input(b"a");
    rig.serial[2].push_input(b"b");
    assert_eq!(rig.pic.acknowledge(), 0x24);
    assert_eq!((rig.inb(0x3f8), rig.inb(0x3e8)), (b'a', b'b'));
    rig.outb(0x20, 0x20);
    assert!(!rig.intr.level());
}

#[test]
fn the_power_button_becomes_an_interrupt_and_s5_an_end() {
    let rig = PlatformRig::new();
    // The SCI, level-triggered on pin 9.
    rig.route(9, 0x8039);
    rig.ports.write(0xb002, &0x0100u16.to_le_bytes());
    assert!(rig.power.press_power_button());
    assert_eq!(rig.messages.take().len(), 1);
    rig.ports.write(0xb000, &0x0100u16.to_le_bytes());
    rig.ioapic.end_of_interrupt(0x39);
    assert!(rig.messages.take().is_empty());
    rig.ports.write(0xb004, &0x2001u16.to_le_bytes());
    assert_eq!(rig.offs.load(Ordering::SeqCst), 1);
}

#[test]
fn every_way_to_reset_works() {
    let mut rig = PlatformRig::new();
    rig.outb(0xcf9, 0x06);
    rig.outb(0x64, 0xfe);
    rig.outb(0x92, 0x01);
    assert_eq!(rig.resets.load(Ordering::SeqCst), 3);
    // Configuration accesses around the reset register are none of its business.
    rig.outl(0xcf8, 0x8000_0600);
    assert_eq!(rig.inl(0xcf8), 0x8000_0600);
    assert_eq!(rig.resets.load(Ordering::SeqCst), 3);
}

#[test]
fn the_hpet_takes_over_the_timer_interrupt() {
    let mut rig = PlatformRig::new();
    rig.route(2, 0x30);
    rig.outb(0x43, 0x34);
    rig.outb(0x40, 0xff);
    rig.outb(0x40, 0xff);
    rig.writel(0xfed0_0010, 3);
    rig.writel(0xfed0_0100, 0x4c);
    rig.writel(0xfed0_0108, 100_000);
    rig.writel(0xfed0_0108, 100_000);
    rig.pass(Span::from_millis(200), 1000);
    assert_eq!(rig.messages.take().len(), 200);
}

#[test]
fn an_idle_board_wakes_nobody() {
    let rig = PlatformRig::new();
    assert_eq!(rig.timers.next_deadline(), None);
}

#[test]
fn no_window_of_the_board_is_in_the_way_of_another() {
    let rig = PlatformRig::new();
    let names: Vec<String> = rig
        .ports
        .windows()
        .into_iter()
        .map(|(name, ..)| name)
        .collect();
    assert!(names.contains(&"fw-cfg".to_owned()) && names.contains(&"piix4-pm".to_owned()));
    assert!(!rig.ports.is_claimed(0xcf7) && rig.ports.is_claimed(0xcf9));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_board_survives_anything(data in prop::collection::vec(any::<u8>(), 0..3000)) {
        platform_fuzz::platform(&data);
    }

    #[test]
    fn an_image_may_be_anything(data in prop::collection::vec(any::<u8>(), 0..1000)) {
        platform_fuzz::boot_image(&data);
        for magic in [&b"\x7fELF\x02\x01"[..], b"\x7fELF\x01\x01"] {
            platform_fuzz::boot_image(&[magic, &data].concat());
        }
    }
}
