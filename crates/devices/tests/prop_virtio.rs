//! Virtio devices under arbitrary guests: registers, rings, and the order of things.

use block::Disk;
use devices::testkit::virtio::{BlockRig, RigOptions};
use devices::testkit::virtio_fuzz;
use devices::virtio::registers::feature;
use proptest::prelude::*;
use vm_types::Execution;

/// With `TRIVET_SLOW` set, a hundred times as many cases.
fn config(cases: u32) -> ProptestConfig {
    let slow = std::env::var_os("TRIVET_SLOW").is_some();
    ProptestConfig {
        cases: if slow { 100 * cases } else { cases },
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config(300))]

    #[test]
    fn no_guest_breaks_a_block_device(data in prop::collection::vec(any::<u8>(), 0..1500)) {
        virtio_fuzz::block(&data);
    }

    #[test]
    fn no_guest_breaks_an_entropy_device(data in prop::collection::vec(any::<u8>(), 0..1500)) {
        virtio_fuzz::entropy(&data);
    }
}

/// What a request of the model is.
#[derive(Clone, Debug)]
enum Op {
    Write {
        sector: u64,
        sectors: usize,
        byte: u8,
    },
    Read {
        sector: u64,
        sectors: usize,
    },
    Zero {
        sector: u64,
        sectors: u32,
    },
    Flush,
}

fn op() -> impl Strategy<Value = Op> {
    let sector = 0..140_u64;
    prop_oneof![
        (sector.clone(), 1..9_usize, any::<u8>()).prop_map(|(sector, sectors, byte)| Op::Write {
            sector,
            sectors,
            byte
        }),
        (sector.clone(), 1..9_usize).prop_map(|(sector, sectors)| Op::Read { sector, sectors }),
        (sector, 1..20_u32).prop_map(|(sector, sectors)| Op::Zero { sector, sectors }),
        Just(Op::Flush),
    ]
}

proptest! {
    #![proptest_config(config(64))]

    #[test]
    fn a_block_device_is_an_array_of_sectors(
        ops in prop::collection::vec((op(), 0..3_u16), 1..40),
        legacy in any::<bool>(),
        msix in any::<bool>(),
        events in any::<bool>(),
        indirect in any::<bool>(),
        threads in prop::bool::weighted(0.1),
    ) {
        const SECTORS: usize = 128;
        let disk = Disk::memory(512, SECTORS as u64 * 512).unwrap();
        let accept = if events { u64::MAX } else { !feature::RING_EVENT_IDX };
        let execution = if threads { Execution::Threads } else { Execution::Inline };
        let options = RigOptions { legacy, msix, accept, queue_size: 8, queues: 3, execution };
        let mut rig = BlockRig::new(&disk, options);
        rig.indirect = indirect;
        let mut model = vec![0_u8; SECTORS * 512];
        for (op, queue) in ops {
            match op {
                Op::Write { sector, sectors, byte } => {
                    let (start, bytes) = (sector as usize * 512, sectors * 512);
                    let status = rig.request(queue, 1, sector, &vec![byte; bytes], 0).0;
                    match model.get_mut(start..start + bytes) {
                        Some(range) => {
                            prop_assert_eq!(status, 0);
                            range.fill(byte);
                        }
                        None => prop_assert_eq!(status, 1),
                    }
                }
                Op::Read { sector, sectors } => {
                    let (start, bytes) = (sector as usize * 512, sectors * 512);
                    let (status, content) = rig.request(queue, 0, sector, &[], bytes as u32);
                    match model.get(start..start + bytes) {
                        Some(range) => {
                            prop_assert_eq!(status, 0);
                            prop_assert!(range == &*content);
                        }
                        None => prop_assert_eq!(status, 1),
                    }
                }
                Op::Zero { sector, sectors } => {
                    let mut range = sector.to_le_bytes().to_vec();
                    range.extend(sectors.to_le_bytes());
                    range.extend([1, 0, 0, 0]);
                    let status = rig.request(queue, 13, 0, &range, 0).0;
                    let start = sector as usize * 512;
                    match model.get_mut(start..start + sectors as usize * 512) {
                        Some(range) => {
                            prop_assert_eq!(status, 0);
                            range.fill(0);
                        }
                        None => prop_assert_eq!(status, 1),
                    }
                }
                Op::Flush => prop_assert_eq!(rig.request(queue, 4, 0, &[], 0).0, 0),
            }
        }
    }
}
