//! Greeting and options.

use block::nbd::ExportOptions;
use block::testkit::fuzz_nbd;
use block::{Disk, NullReads};
use proptest::prelude::*;

use crate::client::{GO, STRUCTURED_REPLY, Served, info_payload};

const EXPORT_NAME: u32 = 1;
const ABORT: u32 = 2;
const LIST: u32 = 3;
const STARTTLS: u32 = 5;
const INFO: u32 = 6;
const LIST_META_CONTEXT: u32 = 9;
const SET_META_CONTEXT: u32 = 10;

const ACK: u32 = 1;
const UNSUPPORTED: u32 = 0x8000_0001;
const INVALID: u32 = 0x8000_0003;
const UNKNOWN: u32 = 0x8000_0006;
const TOO_BIG: u32 = 0x8000_0009;

fn served() -> Served {
    let options = ExportOptions {
        name: "vol".to_owned(),
        description: "a volume".to_owned(),
        ..ExportOptions::default()
    };
    Served::new(&Disk::memory(4096, 1 << 20).unwrap(), options)
}

#[test]
fn go_tells_size_flags_and_block_sizes() {
    let served = served();
    for name in ["", "vol"] {
        let mut client = served.dial();
        client.say(&3_u32.to_be_bytes());
        let (size, flags, blocks) = client.go(name);
        assert_eq!(size, 1 << 20);
        // Flags, flush, FUA, trim, write zeroes, several connections.
        assert_eq!(flags, 0b1_0110_1101);
        assert_eq!(blocks, [4096, 4096, 32 << 20]);
    }
}

#[test]
fn a_read_only_disk_offers_no_writes() {
    let disk = Disk::memory(512, 1 << 20).unwrap().read_only();
    let served = Served::new(&disk, ExportOptions::default());
    let (_client, _, flags) = served.enter(true);
    // Flags, read-only, flush, reads in one piece, several connections.
    assert_eq!(flags, 0b1_1000_0111);
}

#[test]
fn a_disk_that_cannot_forget_offers_no_trim() {
    let disk = Disk::null(512, 1 << 20, NullReads::Zero).unwrap();
    let offered = disk.info().discard;
    let served = Served::new(&disk, ExportOptions::default());
    let (_client, _, flags) = served.enter(false);
    assert_eq!(flags & 1 << 5 != 0, offered);
}

#[test]
fn info_tells_what_is_asked_and_goes_on() {
    let served = served();
    let mut client = served.dial();
    client.say(&3_u32.to_be_bytes());
    client.option(INFO, &info_payload("vol", &[1, 2]));
    let mut told = Vec::new();
    while let (3, data) = client.answer(INFO) {
        told.push((data[1], data[2..].to_vec()));
    }
    let kinds: Vec<u8> = told.iter().map(|(kind, _)| *kind).collect();
    assert_eq!(kinds, [0, 3, 1, 2]);
    assert_eq!(told[2].1, b"vol");
    assert_eq!(told[3].1, b"a volume");
    assert_eq!(client.go("vol").0, 1 << 20);
}

#[test]
fn the_old_way_in_works_with_and_without_padding() {
    let served = served();
    for (flags, length) in [(3_u32, 10), (1, 134), (0, 134)] {
        let mut client = served.dial();
        client.say(&flags.to_be_bytes());
        client.option(EXPORT_NAME, b"vol");
        let told = client.bytes(length);
        assert_eq!(told[..8], (1_u64 << 20).to_be_bytes());
        assert!(told[10..].iter().all(|byte| *byte == 0));
        assert_eq!(client.read(0, 10), [0; 10]);
    }
}

#[test]
fn the_list_has_one_entry() {
    let served = served();
    let mut client = served.dial();
    client.say(&3_u32.to_be_bytes());
    client.option(LIST, &[]);
    assert_eq!(client.answer(LIST), (2, b"\0\0\0\x03vol".to_vec()));
    assert_eq!(client.answer(LIST), (ACK, vec![]));
}

#[test]
fn what_is_wrong_or_unknown_is_refused_and_the_handshake_goes_on() {
    let served = served();
    let mut client = served.dial();
    client.say(&3_u32.to_be_bytes());
    let contexts = [&info_payload("vol", &[])[..7], &[0, 0, 0, 0]].concat();
    let queries = [&contexts[..7], b"\0\0\0\x01\0\0\0\x0fbase:allocation"].concat();
    for (option, payload, expected) in [
        (STARTTLS, vec![], UNSUPPORTED),
        (0x1234_5678, vec![1; 100], UNSUPPORTED),
        (LIST, vec![0], INVALID),
        (STRUCTURED_REPLY, vec![0], INVALID),
        (GO, vec![], INVALID),
        (GO, vec![0xff; 6], INVALID),
        (GO, [info_payload("vol", &[]), vec![0]].concat(), INVALID),
        (GO, info_payload("other", &[]), UNKNOWN),
        (INFO, info_payload("vo", &[0]), UNKNOWN),
        (LIST, vec![0; 20 << 10], TOO_BIG),
        (GO, info_payload(&"x".repeat(5000), &[]), INVALID),
        (SET_META_CONTEXT, queries.clone(), INVALID),
        (STRUCTURED_REPLY, vec![], ACK),
        (SET_META_CONTEXT, queries.clone(), ACK),
        (LIST_META_CONTEXT, contexts, ACK),
        (
            SET_META_CONTEXT,
            queries[..queries.len() - 1].to_vec(),
            INVALID,
        ),
        (
            SET_META_CONTEXT,
            vec![0, 0, 0, 1, b'x', 0, 0, 0, 0],
            UNKNOWN,
        ),
    ] {
        client.option(option, &payload);
        assert_eq!(client.answer(option).0, expected, "{option} {payload:?}");
    }
    assert_eq!(client.go("vol").0, 1 << 20);
}

#[test]
fn abort_is_acknowledged() {
    let served = served();
    let mut client = served.dial();
    client.say(&3_u32.to_be_bytes());
    client.option(ABORT, &[]);
    assert_eq!(client.answer(ABORT), (ACK, vec![]));
    assert!(client.is_closed());
}

#[test]
fn those_who_speak_otherwise_are_hung_up_on() {
    let served = served();
    for beginning in [
        // Unknown flags, no option, a name that nobody has, an option of four gigabytes.
        b"\0\0\0\x07".to_vec(),
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        b"\0\0\0\x03GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        b"\0\0\0\x03IHAVEOPT\0\0\0\x01\0\0\0\x03abc".to_vec(),
        b"\0\0\0\x03IHAVEOPT\0\0\0\x03\xff\xff\xff\xff".to_vec(),
    ] {
        let mut client = served.dial();
        client.say(&beginning);
        assert!(client.is_closed(), "{beginning:?}");
    }
}

#[test]
fn nobody_haggles_for_ever() {
    let served = served();
    let mut client = served.dial();
    client.say(&3_u32.to_be_bytes());
    for _ in 0..256 {
        client.option(STARTTLS, &[]);
        assert_eq!(client.answer(STARTTLS).0, UNSUPPORTED);
    }
    client.option(STARTTLS, &[]);
    assert!(client.is_closed());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_keep_to_the_rules(data in prop::collection::vec(any::<u8>(), 0..600)) {
        prop_assert!(fuzz_nbd(&data).is_ok());
    }

    #[test]
    fn arbitrary_requests_keep_to_the_rules(
        shape in any::<u8>(),
        requests in prop::collection::vec(
            (0_u16..9, 0_u16..8, 0_u64..(80 << 10), 0_u32..5000, any::<bool>()), 0..20)
    ) {
        let mut data = vec![shape];
        data.extend(b"\0\0\0\x03IHAVEOPT\0\0\0\x01\0\0\0\0");
        let mut count = 0;
        for (command, flags, offset, length, round) in requests {
            let mask = if round { !511 } else { u64::MAX };
            let (offset, length) = (offset & mask, length & mask as u32);
            data.extend(crate::client::request_bytes(command, flags, 9, offset, length));
            if command == 1 {
                data.extend(vec![0x55; length as usize]);
            }
            if command == 2 {
                break;
            }
            count += 1;
        }
        prop_assert_eq!(fuzz_nbd(&data), Ok(count));
    }
}
