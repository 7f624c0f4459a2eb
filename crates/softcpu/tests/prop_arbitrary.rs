//! Arbitrary bytes as guest code in every mode: the CPU comes back within its budget, and host memory beside guest
//! memory stays as it was.
#![expect(
    clippy::expect_used,
    reason = "a rig that cannot be set up fails the test that wants it"
)]

use std::time::{Duration, Instant};

use proptest::prelude::*;
use softcpu::testkit::{Mode, run_arbitrary};
use vm_types::{GuestAddress, GuestMemory};

const BUDGET: u64 = 4000;
/// A slice may run over by what one string instruction does before it lets go: up to 64 KiB, and each element counts.
const SLACK: u64 = 16 * 0x1_0000;
/// Far more than it takes, and far less than a loop over an address space.
const PATIENCE: Duration = Duration::from_secs(10);
const CANARY: u64 = 0x1_0000;

/// Bytes that look like code more often than chance has it: prefixes, two-byte opcodes, string instructions, far
/// transfers, accesses to control registers.
fn code() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        4 => any::<u8>().prop_map(|byte| vec![byte]),
        2 => any::<[u8; 2]>().prop_map(|bytes| vec![0x0f, bytes[0], bytes[1]]),
        1 => any::<[u8; 3]>().prop_map(|bytes| vec![0x66, 0x0f, bytes[0] & 1 | 0x38, bytes[1], bytes[2]]),
        1 => prop::sample::select(vec![0xa4u8, 0xa5, 0xaa, 0xab, 0xac, 0xae, 0xa6, 0x6c, 0x6e])
            .prop_map(|opcode| vec![0xf3, opcode]),
        1 => any::<u8>().prop_map(|byte| vec![0x0f, 0x20 | byte & 3, 0xc0 | byte >> 2]),
        1 => any::<[u8; 8]>().prop_map(|bytes| [&[0xea], &bytes[..6]].concat()),
        1 => any::<u8>().prop_map(|byte| vec![0xcd, byte]),
        1 => prop::sample::select(vec![0xcfu8, 0xcb, 0xf4, 0xfb, 0xfa, 0x9d, 0x9c, 0xc9, 0xc3])
            .prop_map(|opcode| vec![opcode]),
        1 => any::<[u8; 4]>().prop_map(|bytes| vec![0xb9, bytes[0], bytes[1], bytes[2], bytes[3]]),
        1 => any::<u8>().prop_map(|byte| vec![0xe2 + byte % 2 * 9, byte | 0x80]),
        1 => any::<[u8; 3]>().prop_map(|bytes| vec![0xd8 | bytes[0] & 7, bytes[1], bytes[2]]),
        1 => prop::sample::select(vec![vec![0x0fu8, 0x01], vec![0x0f, 0x00], vec![0x0f, 0xae], vec![0x0f, 0xc7], vec![0x0f, 0x30]]),
    ];
    prop::collection::vec(piece, 1..64).prop_map(|pieces| pieces.concat())
}

fn check(mode: Mode, bytes: &[u8]) -> Result<(), TestCaseError> {
    // The kernel puts mappings below one another: what overruns guest memory meets this.
    let canary = GuestMemory::flat(CANARY).expect("64 KiB");
    canary
        .fill(GuestAddress(0), 0x5a, CANARY)
        .expect("in range");
    let start = Instant::now();
    let executed = run_arbitrary(mode, bytes, BUDGET).expect("2 MiB of memory");
    prop_assert!(
        start.elapsed() < PATIENCE,
        "{mode:?} took {:?}",
        start.elapsed()
    );
    prop_assert!(
        executed <= BUDGET + SLACK,
        "{mode:?} executed {executed} of {BUDGET}"
    );
    let mut beside = vec![0; CANARY as usize];
    canary.read(GuestAddress(0), &mut beside).expect("in range");
    prop_assert!(
        beside.iter().all(|byte| *byte == 0x5a),
        "{mode:?} wrote beside its memory"
    );
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150,
        failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_code_comes_back(bytes in code()) {
        for mode in Mode::ALL {
            check(mode, &bytes)?;
        }
    }
}

#[test]
fn slow_much_arbitrary_code_comes_back() {
    if std::env::var_os("TRIVET_SLOW").is_none() {
        return;
    }
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 5000,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    runner
        .run(&code(), |bytes| {
            for mode in Mode::ALL {
                check(mode, &bytes)?;
            }
            Ok(())
        })
        .expect("no counterexample");
}

/// Device memory is everything beyond RAM: a string instruction over gigabytes of it must let go in between.
#[test]
fn string_instructions_over_device_memory_let_go() {
    // mov ecx, -1; mov edi, 0x40000000; rep stosb
    let bytes = [
        0xb9, 0xff, 0xff, 0xff, 0xff, 0xbf, 0, 0, 0, 0x40, 0xf3, 0xaa,
    ];
    for mode in [Mode::Protected32, Mode::Long] {
        check(mode, &bytes).expect("comes back");
    }
}
