//! A volume as a file, under any reads and writes, against a list of bytes.

use std::io::{Read, Seek, SeekFrom, Write};

use crucible_upstairs::volume::{MemoryLeaf, Volume, VolumeFile};
use proptest::collection::vec;
use proptest::prelude::*;

const BYTES: usize = 16 * 512;

#[derive(Clone, Debug)]
enum Step {
    Read { at: usize, length: usize },
    Write { at: usize, bytes: Vec<u8> },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..BYTES + 100, 0..3000_usize).prop_map(|(at, length)| Step::Read { at, length }),
        (0..BYTES + 100, vec(any::<u8>(), 0..3000))
            .prop_map(|(at, bytes)| Step::Write { at, bytes }),
        // Whole blocks, too.
        (0..16_usize, 1..5_usize, any::<u8>()).prop_map(|(block, count, byte)| Step::Write {
            at: block * 512,
            bytes: vec![byte; count * 512],
        }),
    ]
}

proptest! {
    #[test]
    fn a_volume_is_a_file(steps in vec(step(), 1..40)) {
        let volume = Volume::in_memory(MemoryLeaf::new(512, 16).unwrap());
        let mut file = VolumeFile::new(volume).unwrap();
        let mut model = vec![0_u8; BYTES];
        for step in steps {
            match step {
                Step::Read { at, length } => {
                    file.seek(SeekFrom::Start(at as u64)).unwrap();
                    let mut into = vec![0; length];
                    let count = file.read(&mut into).unwrap();
                    let expected = &model[at.min(BYTES)..(at + length).min(BYTES)];
                    prop_assert_eq!(&into[..count], expected);
                }
                Step::Write { at, bytes } => {
                    file.seek(SeekFrom::Start(at as u64)).unwrap();
                    let count = file.write(&bytes).unwrap();
                    let (from, to) = (at.min(BYTES), (at + bytes.len()).min(BYTES));
                    prop_assert_eq!(count, to - from);
                    model[from..to].copy_from_slice(&bytes[..count]);
                }
            }
        }
        file.flush().unwrap();
        let mut all = Vec::new();
        file.seek(SeekFrom::Start(0)).unwrap();
        file.read_to_end(&mut all).unwrap();
        prop_assert_eq!(all, model);
    }
}
