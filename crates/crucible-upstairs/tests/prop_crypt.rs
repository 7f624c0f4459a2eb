//! Sealing and opening of any run of blocks, and what becomes of it when one bit is changed anywhere.

use crucible_protocol::ReadBlockContext;
use crucible_upstairs::crypt::{CipherKind, Envelope, Key, Nonces};
use proptest::collection::vec;
use proptest::prelude::*;

fn envelopes() -> impl Strategy<Value = (Envelope, Envelope)> {
    // A run is sealed by one implementation and opened by another under the same key.
    let kinds = || proptest::sample::select(CipherKind::ALL);
    (proptest::option::of(any::<[u8; 32]>()), kinds(), kinds()).prop_map(|(key, one, other)| {
        let key = key.map(Key::from);
        (
            Envelope::with(key.as_ref(), one),
            Envelope::with(key.as_ref(), other),
        )
    })
}

proptest! {
    #[test]
    fn any_run_comes_back_and_no_changed_bit_goes_unseen(
        (sealer, opener) in envelopes(),
        shift in 9..13_u32,
        seed in vec(any::<u8>(), 1..64),
        count in 1..9_usize,
        flip in any::<prop::sample::Index>(),
    ) {
        let size = 1_usize << shift;
        let data: Vec<u8> = seed.iter().copied().cycle().take(count * size).collect();
        let (mut sealed, mut contexts) = (data.clone(), Vec::new());
        sealer.seal(size, &mut sealed, &mut Nonces::new(), &mut contexts).unwrap();
        let blocks = sealed.chunks(size).zip(&contexts);
        prop_assert!(blocks.clone().all(|(block, context)| context.fits(block)));
        let contexts: Vec<ReadBlockContext> = contexts.into_iter().map(Into::into).collect();
        let mut into = vec![0; data.len()];
        opener.open(size, &contexts, &sealed, &mut into).unwrap();
        let back = if opener.transforms() { &into } else { &sealed };
        prop_assert_eq!(back, &data);

        let bit = flip.index(sealed.len() * 8);
        sealed[bit / 8] ^= 1 << (bit % 8);
        let error = opener.open(size, &contexts, &sealed, &mut into).unwrap_err();
        prop_assert_eq!(error.block, bit / 8 / size);
    }
}
