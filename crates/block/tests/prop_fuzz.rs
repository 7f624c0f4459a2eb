//! The fuzz entry on arbitrary bytes, as a quick property.

use block::testkit::fuzz_requests;
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_are_requests_that_are_all_answered(
        data in prop::collection::vec(any::<u8>(), 0..600)
    ) {
        let (fetched, answered) = fuzz_requests(&data);
        prop_assert_eq!(fetched, answered);
    }
}
