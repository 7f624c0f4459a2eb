//! Serial ports, keyboard controller and the small devices under arbitrary accesses.

use std::sync::{Arc, Mutex};

use devices::bus::BusDevice;
use devices::lifecycle::{Lifecycle, Snapshot};
use devices::misc::{DebugExit, PostCode, Pvpanic, Signal, SystemControl};
use devices::ps2::{Key, Ps2, Ps2Ports};
use devices::serial::{Discard, SerialPeer, Uart, UartConfig, UartPorts};
use proptest::prelude::*;
use vm_types::{Clock, IrqLine, Timers};

fn uart(peer: Arc<dyn SerialPeer>) -> (Arc<Uart>, IrqLine) {
    let irq = IrqLine::unconnected();
    let ports = UartPorts {
        clock: Clock::monotonic(),
        timers: Timers::new(),
        irq: irq.clone(),
        peer,
    };
    let config = UartConfig {
        name: "com1".to_owned(),
    };
    (Uart::new(ports, config), irq)
}

fn get(device: &dyn BusDevice, offset: u64) -> u8 {
    let mut data = [0];
    device.read(offset, &mut data);
    data[0]
}

fn through_text(snapshot: &Snapshot) -> Snapshot {
    serde_json::from_str(&serde_json::to_string(snapshot).unwrap_or_default())
        .unwrap_or_else(|_| snapshot.clone())
}

#[derive(Default)]
struct Heard(Mutex<Vec<u8>>);
impl SerialPeer for Heard {
    fn write(&self, bytes: &[u8]) {
        self.0
            .lock()
            .unwrap_or_else(|e| e.into_inner())
            .extend_from_slice(bytes);
    }
}

proptest! {
    #[test]
    fn the_uart_interrupts_exactly_when_it_has_a_reason(
        steps in prop::collection::vec((0u64..8, prop::collection::vec(any::<u8>(), 0..4), any::<bool>()), 0..80),
    ) {
        let (uart, irq) = uart(Arc::new(Discard));
        for (offset, data, input) in steps {
            if input {
                uart.push_input(&data);
                uart.push_break();
            } else if data.is_empty() {
                get(&*uart, offset);
            } else {
                uart.write(offset, &data);
            }
            // Bit 0 of the identification is clear while the line is up. Looking takes back the
            // transmitter's interrupt, so the line is asked first.
            let level = irq.level();
            let ident = get(&*uart, 2);
            prop_assert_eq!(level, ident & 1 == 0);
        }
        let saved = through_text(&uart.save().unwrap());
        let (other, other_irq) = self::uart(Arc::new(Discard));
        other.restore(&saved).unwrap();
        prop_assert_eq!(other.save().unwrap(), saved);
        prop_assert_eq!(other_irq.level(), irq.level());
    }

    #[test]
    fn nothing_is_lost_on_the_way_in_or_out(
        input in prop::collection::vec(any::<u8>(), 0..200),
        output in prop::collection::vec(any::<u8>(), 0..1200),
        fifo in any::<bool>(),
    ) {
        let heard = Arc::new(Heard::default());
        let (uart, _) = uart(heard.clone());
        uart.write(2, &[u8::from(fifo)]);
        let (mut rest, mut arrived) = (&input[..], Vec::new());
        while arrived.len() < input.len() {
            rest = &rest[uart.push_input(rest)..];
            while get(&*uart, 5) & 1 != 0 {
                arrived.push(get(&*uart, 0));
            }
        }
        prop_assert_eq!(arrived, input);
        for byte in &output {
            uart.write(0, &[*byte]);
        }
        uart.flush();
        prop_assert_eq!(&*heard.0.lock().unwrap(), &output);
    }

    #[test]
    fn the_keyboard_controller_always_drains(
        steps in prop::collection::vec((prop::sample::select(vec![0x60u64, 0x64]), any::<u8>(), 0u8..4), 0..120),
    ) {
        let make = || {
            let lines = (IrqLine::unconnected(), IrqLine::unconnected());
            let ports = Ps2Ports {
                keyboard_irq: lines.0.clone(),
                mouse_irq: lines.1.clone(),
                reset: Signal::unconnected(),
            };
            (Ps2::new(ports), lines)
        };
        let (ps2, (keyboard_irq, mouse_irq)) = make();
        for (port, value, kind) in steps {
            match kind {
                0 | 1 => ps2.write(port, &[value]),
                2 => {
                    get(&*ps2, port);
                }
                _ => {
                    ps2.key(Key { code: value, extended: value & 1 != 0 }, value & 2 != 0);
                    ps2.mouse([i32::from(value), -300, 1], value);
                }
            }
            prop_assert!(!(keyboard_irq.level() && mouse_irq.level()));
        }
        let saved = through_text(&ps2.save().unwrap());
        let (other, _) = make();
        other.restore(&saved).unwrap();
        prop_assert_eq!(other.save().unwrap(), saved);
        // Queues are bounded: a driver that reads until empty comes to an end.
        let mut reads = 0;
        while get(&*ps2, 0x64) & 1 != 0 {
            get(&*ps2, 0x60);
            reads += 1;
            prop_assert!(reads < 200);
        }
        prop_assert!(!keyboard_irq.level() && !mouse_irq.level());
    }

    #[test]
    fn small_devices_take_anything(
        steps in prop::collection::vec((0u64..4, prop::collection::vec(any::<u8>(), 1..=4)), 0..40),
    ) {
        let devices: [Arc<dyn BusDevice>; 4] = [
            DebugExit::new(|_| {}),
            PostCode::new(),
            Pvpanic::new(|_| {}),
            SystemControl::new(Signal::unconnected()),
        ];
        for (offset, mut data) in steps {
            for device in &devices {
                device.write(offset, &data);
                device.read(offset, &mut data);
            }
        }
    }
}
