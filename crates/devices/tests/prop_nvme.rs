//! The NVMe controller under arbitrary accesses, commands and sequences. The same functions are fuzz
//! targets.

use devices::testkit::nvme_fuzz;
use proptest::collection::vec;
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 96,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Accesses of 1, 2, 4 and 8 bytes at any offset of both windows and configuration space.
    #[test]
    fn arbitrary_register_accesses(bytes in vec(any::<u8>(), 0..1500)) {
        nvme_fuzz::registers(&bytes);
    }

    /// Arbitrary submission queue entries, some of them nearly right.
    #[test]
    fn arbitrary_commands(bytes in vec(any::<u8>(), 0..4000)) {
        nvme_fuzz::commands(&bytes);
    }

    /// Queues made and deleted, I/O, stalls, aborts, resets, saved states, against an oracle.
    #[test]
    fn random_sequences_agree_with_the_oracle(bytes in vec(any::<u8>(), 0..1500)) {
        nvme_fuzz::model(&bytes);
    }
}
