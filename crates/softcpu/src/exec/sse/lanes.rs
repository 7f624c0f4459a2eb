//! Vectors as lanes: 64 bits at a time, which is an MMX register or half of an XMM register.

/// Lower and upper half.
#[inline(always)]
pub(crate) fn halves(value: u128) -> (u64, u64) {
    (value as u64, (value >> 64) as u64)
}

/// The vector with these halves.
#[inline(always)]
pub(crate) fn join(low: u64, high: u64) -> u128 {
    u128::from(low) | u128::from(high) << 64
}

/// Conversions and lane-wise functions of 64 bits for one lane type.
macro_rules! half {
    ($lane:ty, $count:literal, $split:ident, $merge:ident, $zip:ident) => {
        /// The lanes, lowest first.
        #[inline(always)]
        pub(crate) fn $split(value: u64) -> [$lane; $count] {
            std::array::from_fn(|lane| (value >> (lane as u32 * <$lane>::BITS)) as $lane)
        }

        /// The vector with these lanes.
        #[inline(always)]
        pub(crate) fn $merge(lanes: [$lane; $count]) -> u64 {
            let mut value = 0;
            for (lane, part) in lanes.into_iter().enumerate() {
                let bits = part as u64 & (u64::MAX >> (64 - <$lane>::BITS));
                value |= bits << (lane as u32 * <$lane>::BITS);
            }
            value
        }

        /// `function` of each pair of lanes.
        #[inline(always)]
        pub(crate) fn $zip(a: u64, b: u64, function: impl Fn($lane, $lane) -> $lane) -> u64 {
            let (a, b) = ($split(a), $split(b));
            $merge(std::array::from_fn(|lane| function(a[lane], b[lane])))
        }
    };
}

/// Conversions of 128 bits for one lane type.
macro_rules! whole {
    ($lane:ty, $count:literal, $split:ident, $merge:ident) => {
        /// The lanes, lowest first.
        #[inline(always)]
        pub(crate) fn $split(value: u128) -> [$lane; $count] {
            std::array::from_fn(|lane| (value >> (lane as u32 * <$lane>::BITS)) as $lane)
        }

        /// The vector with these lanes.
        #[inline(always)]
        pub(crate) fn $merge(lanes: [$lane; $count]) -> u128 {
            let mut value = 0;
            for (lane, part) in lanes.into_iter().enumerate() {
                value |= u128::from(part) << (lane as u32 * <$lane>::BITS);
            }
            value
        }
    };
}

half!(u8, 8, bytes, from_bytes, zip_u8);
half!(i8, 8, signed_bytes, from_signed_bytes, zip_i8);
half!(u16, 4, words, from_words, zip_u16);
half!(i16, 4, signed_words, from_signed_words, zip_i16);
half!(u32, 2, dwords, from_dwords, zip_u32);
half!(i32, 2, signed_dwords, from_signed_dwords, zip_i32);
whole!(u8, 16, all_bytes, from_all_bytes);
whole!(u16, 8, all_words, from_all_words);
whole!(u32, 4, all_dwords, from_all_dwords);
