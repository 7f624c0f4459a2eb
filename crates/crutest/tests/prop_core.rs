//! Workloads stay within their volume; the write log takes what a disk may hold after a crash, and nothing else.

use crutest::core::log::WriteLog;
use crutest::core::pattern::{self, Found};
use crutest::core::workload::IO_BYTES_MAX;
use crutest::core::{Demand, Field, Kind, Lineage, Step};
use proptest::prelude::*;

fn field() -> impl Strategy<Value = Field> {
    let sizes = (9..16u32, 1..300u64, 1..40u64);
    sizes.prop_map(|(shift, blocks_per_extent, extents)| Field {
        block_size: 1 << shift,
        blocks: blocks_per_extent * extents,
        blocks_per_extent,
    })
}

fn kind() -> impl Strategy<Value = Kind> {
    proptest::sample::select(&Kind::ALL[..])
}

proptest! {
    #[test]
    fn every_operation_lies_within_the_volume(
        field in field(),
        kind in kind(),
        seed in any::<u64>(),
        count in proptest::option::of(0..200u64),
        io_blocks in proptest::option::of(0..5000u64),
    ) {
        let demand = Demand { seed, count, io_blocks };
        for step in kind.steps(field, demand).take(3000) {
            let (Step::Read { start, count } | Step::Write { start, count }) = step else {
                continue;
            };
            prop_assert!(count > 0, "{step:?}");
            prop_assert!(start + count <= field.blocks, "{step:?}");
            prop_assert!(count * u64::from(field.block_size) <= IO_BYTES_MAX, "{step:?}");
            let writes = matches!(step, Step::Write { .. });
            prop_assert!(kind.writes() || !writes);
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_operations(kind in kind(), seed in any::<u64>()) {
        let field = Field { block_size: 512, blocks: 1000, blocks_per_extent: 100 };
        let demand = Demand { seed, count: Some(20), io_blocks: None };
        let once: Vec<Step> = kind.steps(field, demand).take(500).collect();
        let again: Vec<Step> = kind.steps(field, demand).take(500).collect();
        prop_assert_eq!(once, again);
    }

    #[test]
    fn sweeps_touch_every_block_once(field in field()) {
        let demand = Demand { seed: 0, count: None, io_blocks: None };
        let mut next = 0;
        for step in Kind::FastFill.steps(field, demand) {
            if let Step::Write { start, count } = step {
                prop_assert_eq!(start, next);
                next += count;
            }
        }
        prop_assert_eq!(next, field.blocks);
    }

    #[test]
    fn one_changed_bit_is_noticed(
        block in any::<u64>(), number in 1..u32::MAX, lineage in any::<u64>(),
        byte in 0..512usize, bit in 0..8u8,
    ) {
        let mut data = [0; 512];
        pattern::fill(&mut data, block, number, Lineage(lineage));
        prop_assert_eq!(pattern::identify(&data, block, Lineage(lineage)), Found::Write(number));
        data[byte] ^= 1 << bit;
        let found = pattern::identify(&data, block, Lineage(lineage));
        prop_assert!(!matches!(found, Found::Write(_)), "{found}");
    }
}

#[derive(Clone, Debug)]
enum Act {
    Write {
        start: u64,
        count: u64,
    },
    Flush {
        fails: bool,
    },
    Read {
        start: u64,
        count: u64,
    },
    /// Each write since the last flush is on disk or not, block by block; the log goes through its file.
    Crash {
        kept: u64,
    },
}

const BLOCKS: u64 = 16;
const SIZE: usize = 512;

fn act() -> impl Strategy<Value = Act> {
    let range = || (0..BLOCKS, 1..5u64).prop_map(|(start, n)| (start, n.min(BLOCKS - start)));
    prop_oneof![
        5 => range().prop_map(|(start, count)| Act::Write { start, count }),
        2 => any::<bool>().prop_map(|fails| Act::Flush { fails }),
        4 => range().prop_map(|(start, count)| Act::Read { start, count }),
        1 => any::<u64>().prop_map(|kept| Act::Crash { kept }),
    ]
}

/// A disk that remembers every write since the last flush.
struct Disk {
    now: Vec<Vec<u8>>,
    /// What a crash may leave, oldest first.
    may: Vec<Vec<Vec<u8>>>,
}

proptest! {
    #[test]
    fn no_legal_disk_is_called_wrong_and_no_lost_flush_right(
        acts in proptest::collection::vec(act(), 0..80),
        victim in 0..BLOCKS,
    ) {
        let mut log = WriteLog::new(SIZE as u32, BLOCKS, Lineage(3));
        let zero = vec![0; SIZE];
        let mut disk = Disk {
            now: vec![zero.clone(); BLOCKS as usize],
            may: vec![vec![zero]; BLOCKS as usize],
        };
        for act in acts {
            match act {
                Act::Write { start, count } => {
                    let mut data = vec![0; SIZE * count as usize];
                    log.write(start, &mut data);
                    for (block, data) in (start as usize..).zip(data.chunks(SIZE)) {
                        disk.now[block] = data.to_vec();
                        disk.may[block].push(data.to_vec());
                    }
                }
                Act::Flush { fails } => {
                    let flushing = log.flush();
                    if fails {
                        log.flush_failed(flushing);
                    } else {
                        log.flushed(flushing);
                        for (may, now) in disk.may.iter_mut().zip(&disk.now) {
                            *may = vec![now.clone()];
                        }
                    }
                }
                Act::Read { start, count } => {
                    let range = start as usize..(start + count) as usize;
                    let data = disk.now[range].concat();
                    if let Some(expected) = log.expectations(start, count) {
                        let verdict = log.check(start, &data, &expected);
                        prop_assert!(verdict.bad.is_empty(), "{:?}", verdict.bad);
                    }
                }
                Act::Crash { kept } => {
                    for (block, (now, may)) in disk.now.iter_mut().zip(&mut disk.may).enumerate() {
                        *now = may[(kept >> (block * 4)) as usize % 16 % may.len()].clone();
                        *may = vec![now.clone()];
                    }
                    log = WriteLog::from_file(&log.file(), SIZE as u32, BLOCKS).unwrap();
                    // Coming back makes what is there durable; the log learns by reading.
                    let expected: Vec<_> = (0..BLOCKS).map(|b| log.expected(b)).collect();
                    let verdict = log.check(0, &disk.now.concat(), &expected);
                    prop_assert!(verdict.bad.is_empty(), "{:?}", verdict.bad);
                }
            }
        }
        // What a flush covered must not be gone.
        let flushing = log.flush();
        log.flushed(flushing);
        let expected = log.expected(victim);
        let verdict = log.check(victim, &[0; SIZE], &[expected]);
        prop_assert_eq!(verdict.bad.is_empty(), expected.low == 0);
    }
}
