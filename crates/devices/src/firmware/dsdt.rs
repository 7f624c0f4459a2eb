//! The DSDT: the devices that cannot be found by probing, and how PCI interrupts are wired.

use super::acpi::AcpiConfig;
use super::aml::{
    Aml, Resources, and, argument, byte_fields, create_dword_field, device, eisa_id, give, if_true,
    integer, list, method, name, or_into, otherwise, package, path, pci_config_region, scope,
    serialized_method, store, string,
};
use super::layout::ECAM_BASE;
use crate::chipset::lpc::PIRQ_ROUTE;
use crate::chipset::power::{GPE0_BASE, GPE0_LENGTH, PM_BASE, PM_LENGTH, SLEEP_TYPE_S5};
use crate::irq::ioapic::{IOAPIC_BASE, IOAPIC_LENGTH};
use crate::irq::pirq::{PIRQ_COUNT, PIRQ_DISABLED, PIRQ_FIRST_GSI, pirq_of};
use crate::timer::hpet::{HPET_BASE, HPET_LENGTH};

/// ISA interrupts that the link devices may be routed to.
const LINK_IRQS: [u32; 3] = [5, 10, 11];

/// Slots of a PCI bus.
const SLOTS: u8 = 32;

/// The table's body.
pub(super) fn body(config: &AcpiConfig) -> Aml {
    let mut devices: Vec<Aml> = (0..PIRQ_COUNT).map(link).collect();
    devices.push(pci_root(config));
    devices.push(hpet());
    devices.push(reserved(config));
    devices.extend((0..config.cpus).map(cpu));
    list(&[
        // Set by the operating system: 0 with the PIC, 1 with the IOAPIC.
        name("PICF", &integer(0)),
        method("_PIC", 1, &[store(&argument(0), &path("PICF"))]),
        scope("\\_SB_", &devices),
        name("\\_S5_", &sleep_package()),
    ])
}

fn sleep_package() -> Aml {
    let sleep_type = integer(u64::from(SLEEP_TYPE_S5));
    package(&[sleep_type.clone(), sleep_type, integer(0), integer(0)])
}

fn cpu(index: u32) -> Aml {
    device(
        &format!("C{index:03X}"),
        &[
            name("_HID", &string("ACPI0007")),
            name("_UID", &integer(u64::from(index))),
        ],
    )
}

fn hpet() -> Aml {
    let resources = Resources::new().memory(HPET_BASE as u32, HPET_LENGTH as u32);
    device(
        "HPET",
        &[
            name("_HID", &eisa_id("PNP0103")),
            name("_UID", &integer(0)),
            name("_CRS", &resources.finish()),
        ],
    )
}

/// Ports and memory that are taken and belong to no device.
fn reserved(config: &AcpiConfig) -> Aml {
    let mut resources = Resources::new()
        .io(0x20, 2)
        .io(0xa0, 2)
        .io(0x4d0, 2)
        .io(0x40, 4)
        .io(0x61, 1)
        .io(0x80, 1)
        .io(0x92, 1)
        .io(0xb2, 2)
        .io(GPE0_BASE, GPE0_LENGTH)
        .io(PM_BASE, PM_LENGTH as u8)
        .memory(IOAPIC_BASE as u32, IOAPIC_LENGTH as u32)
        .memory(0xfee0_0000, 0x1000);
    if config.layout.ecam_buses > 0 {
        let length = u32::from(config.layout.ecam_buses) << 20;
        resources = resources.memory(ECAM_BASE as u32, length);
    }
    device(
        "RSRC",
        &[
            name("_HID", &eisa_id("PNP0C02")),
            name("_CRS", &resources.finish()),
        ],
    )
}

/// The link device of one PIRQ, which is its route register in the ISA bridge.
fn link(pirq: usize) -> Aml {
    let letter = char::from(b'A' + pirq as u8);
    let register = path(&format!("\\_SB.PCI0.ISA.PIR{letter}"));
    let disabled = integer(u64::from(PIRQ_DISABLED));
    let possible = Resources::new().interrupts(&LINK_IRQS).finish();
    let current = Resources::new().interrupts(&[0]).finish();
    // Where the number stands in the extended interrupt descriptor.
    let number_at = 5;
    device(
        &format!("LNK{letter}"),
        &[
            name("_HID", &eisa_id("PNP0C0F")),
            name("_UID", &integer(pirq as u64 + 1)),
            name("_PRS", &possible),
            method(
                "_STA",
                0,
                &[
                    if_true(&and(&register, &disabled), &[give(&integer(0x09))]),
                    give(&integer(0x0b)),
                ],
            ),
            method("_DIS", 0, &[or_into(&register, &disabled, &register)]),
            serialized_method(
                "_CRS",
                0,
                &[
                    name("BUFF", &current),
                    create_dword_field(&path("BUFF"), number_at, "IRQN"),
                    if_true(&and(&register, &disabled), &[give(&path("BUFF"))]),
                    store(&and(&register, &integer(0x0f)), &path("IRQN")),
                    give(&path("BUFF")),
                ],
            ),
            serialized_method(
                "_SRS",
                1,
                &[
                    create_dword_field(&argument(0), number_at, "IRQN"),
                    store(&path("IRQN"), &register),
                ],
            ),
        ],
    )
}

/// Who serves which pin: each slot's four, either as link devices or as IOAPIC pins.
fn routes(route: impl Fn(u32) -> (Aml, u64)) -> Aml {
    let entries: Vec<Aml> = (0..SLOTS)
        .flat_map(|slot| (0..4).map(move |pin| (slot, pin)))
        .map(|(slot, pin)| {
            let (source, index) = route(pirq_of(slot, pin));
            package(&[
                integer(u64::from(slot) << 16 | 0xffff),
                integer(u64::from(pin)),
                source,
                integer(index),
            ])
        })
        .collect();
    package(&entries)
}

fn pci_root(config: &AcpiConfig) -> Aml {
    let layout = &config.layout;
    let last_bus = layout.ecam_buses.clamp(1, 256) - 1;
    // Without the configuration window all buses can be reached by ports.
    let last_bus = if layout.ecam_buses > 0 { last_bus } else { 255 };
    let mut windows = Resources::new()
        .buses(0, last_bus)
        .io(0xcf8, 8)
        .io_window(0, 0x0cf7)
        .io_window(0x0d00, 0xffff)
        .memory_window_32(
            layout.window_32.start as u32,
            layout.window_32.end.saturating_sub(1) as u32,
        );
    if !layout.window_64.is_empty() {
        windows = windows.memory_window_64(layout.window_64.start, layout.window_64.end - 1);
    }
    let by_links = routes(|pirq| (path(&format!("LNK{}", char::from(b'A' + pirq as u8))), 0));
    let by_pins = routes(|pirq| (integer(0), u64::from(PIRQ_FIRST_GSI + pirq)));
    let mut terms = if layout.ecam_buses > 0 {
        vec![
            name("_HID", &eisa_id("PNP0A08")),
            name("_CID", &eisa_id("PNP0A03")),
        ]
    } else {
        vec![name("_HID", &eisa_id("PNP0A03"))]
    };
    terms.extend([
        name("_UID", &integer(0)),
        name("_BBN", &integer(0)),
        name("_CRS", &windows.finish()),
        name("PRTP", &by_links),
        name("PRTA", &by_pins),
        method(
            "_PRT",
            0,
            &[
                if_true(&path("PICF"), &[give(&path("PRTA"))]),
                otherwise(&[give(&path("PRTP"))]),
            ],
        ),
        isa(config),
    ]);
    device("PCI0", &terms)
}

/// The ISA bridge and what is behind it.
fn isa(config: &AcpiConfig) -> Aml {
    let mut terms = vec![
        name("_ADR", &integer(0x0001_0000)),
        pci_config_region("PIRQ", u64::from(PIRQ_ROUTE), PIRQ_COUNT as u64),
        byte_fields("PIRQ", &["PIRA", "PIRB", "PIRC", "PIRD"]),
        plain("RTC", "PNP0B00", Resources::new().io(0x70, 2).irq(8)),
    ];
    if config.ps2 {
        let keyboard = Resources::new().io(0x60, 1).io(0x64, 1).irq(1);
        terms.push(plain("KBD", "PNP0303", keyboard));
        terms.push(plain("MOU", "PNP0F13", Resources::new().irq(12)));
    }
    for (index, (base, irq)) in (1u64..).zip(&config.serial_ports) {
        let resources = Resources::new().io(*base, 8).irq(*irq);
        terms.push(device(
            &format!("COM{index}"),
            &[
                name("_HID", &eisa_id("PNP0501")),
                name("_UID", &integer(index)),
                name("_STA", &integer(0x0f)),
                name("_CRS", &resources.finish()),
            ],
        ));
    }
    if config.pvpanic {
        terms.push(named("PEVT", "QEMU0001", Resources::new().io(0x505, 1)));
    }
    if config.fw_cfg {
        terms.push(named("FWCF", "QEMU0002", Resources::new().io(0x510, 12)));
    }
    device("ISA_", &terms)
}

fn plain(segment: &str, id: &str, resources: Resources) -> Aml {
    device(
        segment,
        &[
            name("_HID", &eisa_id(id)),
            name("_STA", &integer(0x0f)),
            name("_CRS", &resources.finish()),
        ],
    )
}

/// As `plain`, for ids that are no EISA ids; not shown to users.
fn named(segment: &str, id: &str, resources: Resources) -> Aml {
    device(
        segment,
        &[
            name("_HID", &string(id)),
            name("_STA", &integer(0x0b)),
            name("_CRS", &resources.finish()),
        ],
    )
}
