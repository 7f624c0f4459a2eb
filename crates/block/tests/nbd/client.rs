//! A client of the protocol that says what it is told to, over a unix socket.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use block::Disk;
use block::nbd::{Export, ExportOptions, export};

pub(crate) const READ: u16 = 0;
pub(crate) const WRITE: u16 = 1;
pub(crate) const DISCONNECT: u16 = 2;
pub(crate) const FLUSH: u16 = 3;
pub(crate) const TRIM: u16 = 4;
pub(crate) const WRITE_ZEROES: u16 = 6;

pub(crate) const FUA: u16 = 1;
pub(crate) const NO_HOLE: u16 = 2;

pub(crate) const GO: u32 = 7;
pub(crate) const STRUCTURED_REPLY: u32 = 8;

/// An export of a disk at a path of its own, which goes when this goes.
pub(crate) struct Served {
    pub(crate) export: Export,
    pub(crate) directory: std::path::PathBuf,
}

impl Served {
    pub(crate) fn new(disk: &Disk, options: ExportOptions) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("block-nbd-{}-{number}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir(&directory).unwrap();
        let listener = UnixListener::bind(directory.join("socket")).unwrap();
        let export = export(disk, listener, options).unwrap();
        Self { export, directory }
    }

    pub(crate) fn socket(&self) -> std::path::PathBuf {
        self.directory.join("socket")
    }

    /// A client that has the server's greeting.
    pub(crate) fn dial(&self) -> Client {
        let stream = UnixStream::connect(self.socket()).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        let mut client = Client {
            stream,
            structured: false,
        };
        assert_eq!(client.bytes(18), *b"NBDMAGICIHAVEOPT\0\x03");
        client
    }

    /// A client that has chosen the export; its size and flags.
    pub(crate) fn enter(&self, structured: bool) -> (Client, u64, u16) {
        let mut client = self.dial();
        client.say(&3_u32.to_be_bytes());
        if structured {
            client.option(STRUCTURED_REPLY, &[]);
            assert_eq!(client.answer(STRUCTURED_REPLY).0, 1);
            client.structured = true;
        }
        let (size, flags, _) = client.go("");
        (client, size, flags)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.export.stop();
        drop(std::fs::remove_dir_all(&self.directory));
    }
}

/// A reply: its error, and the data of a read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) error: u32,
    pub(crate) data: Vec<u8>,
}

pub(crate) struct Client {
    pub(crate) stream: UnixStream,
    pub(crate) structured: bool,
}

impl Client {
    pub(crate) fn say(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    pub(crate) fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.stream.read_exact(&mut bytes).unwrap();
        bytes
    }

    fn u32(&mut self) -> u32 {
        u32::from_be_bytes(self.bytes(4).try_into().unwrap())
    }

    fn u64(&mut self) -> u64 {
        u64::from_be_bytes(self.bytes(8).try_into().unwrap())
    }

    /// The server has closed the connection, and said nothing before.
    pub(crate) fn is_closed(&mut self) -> bool {
        // A reset is as good an end: the server may not have read all.
        !matches!(self.stream.read(&mut [0]), Ok(1))
    }

    pub(crate) fn option(&mut self, option: u32, payload: &[u8]) {
        let mut bytes = b"IHAVEOPT".to_vec();
        bytes.extend(option.to_be_bytes());
        bytes.extend((payload.len() as u32).to_be_bytes());
        bytes.extend(payload);
        self.say(&bytes);
    }

    /// Kind and data of an answer to `option`.
    pub(crate) fn answer(&mut self, option: u32) -> (u32, Vec<u8>) {
        assert_eq!(self.u64(), 0x0003_e889_0455_65a9);
        assert_eq!(self.u32(), option);
        let kind = self.u32();
        let length = self.u32() as usize;
        (kind, self.bytes(length))
    }

    /// Asks for `name`; size, flags and block sizes of the export.
    pub(crate) fn go(&mut self, name: &str) -> (u64, u16, [u32; 3]) {
        self.option(GO, &info_payload(name, &[3]));
        let (mut size, mut flags, mut blocks) = (0, 0, [0; 3]);
        loop {
            let (kind, data) = self.answer(GO);
            match (kind, data.get(..2)) {
                (1, _) => return (size, flags, blocks),
                (3, Some([0, 0])) => {
                    size = u64::from_be_bytes(data[2..10].try_into().unwrap());
                    flags = u16::from_be_bytes(data[10..12].try_into().unwrap());
                }
                (3, Some([0, 3])) => {
                    for (place, bytes) in blocks.iter_mut().zip(data[2..].chunks_exact(4)) {
                        *place = u32::from_be_bytes(bytes.try_into().unwrap());
                    }
                }
                other => panic!("unexpected answer {other:?}"),
            }
        }
    }

    pub(crate) fn request(
        &mut self,
        command: u16,
        flags: u16,
        cookie: u64,
        offset: u64,
        length: u32,
    ) {
        self.say(&request_bytes(command, flags, cookie, offset, length));
    }

    /// The next reply, and whose it is. `lengths`: what the reads that are out asked for.
    pub(crate) fn reply(&mut self, lengths: &HashMap<u64, u32>) -> (u64, Reply) {
        match self.u32() {
            0x6744_6698 => {
                let error = self.u32();
                let cookie = self.u64();
                let read = lengths.get(&cookie).filter(|_| error == 0);
                assert!(
                    !(self.structured && read.is_some()),
                    "a simple reply to a read"
                );
                let data = self.bytes(read.map_or(0, |length| *length as usize));
                (cookie, Reply { error, data })
            }
            0x668e_33ef => {
                assert!(self.structured, "a structured reply that nobody wants");
                assert_eq!(self.bytes(2), [0, 1], "one chunk, the last");
                let kind = self.bytes(2);
                let cookie = self.u64();
                let payload = self.u32() as usize;
                let mut data = self.bytes(payload);
                let mut error = 0;
                match kind[..] {
                    [0, 0] => assert!(data.is_empty()),
                    [0, 1] => drop(data.drain(..8)),
                    [0x80, 1] => {
                        error = u32::from_be_bytes(data[..4].try_into().unwrap());
                        let text = usize::from(u16::from_be_bytes([data[4], data[5]]));
                        assert_eq!(data.len(), 6 + text);
                        data.clear();
                    }
                    _ => panic!("chunk of kind {kind:?}"),
                }
                (cookie, Reply { error, data })
            }
            magic => panic!("reply begins with {magic:#x}"),
        }
    }

    /// One request, and its reply.
    pub(crate) fn ask(&mut self, command: u16, flags: u16, offset: u64, length: u32) -> Reply {
        self.request(command, flags, 7, offset, length);
        let lengths = if command == READ {
            vec![(7, length)]
        } else {
            vec![]
        };
        let (cookie, reply) = self.reply(&lengths.into_iter().collect());
        assert_eq!(cookie, 7);
        reply
    }

    /// One write; its error.
    pub(crate) fn write(&mut self, flags: u16, offset: u64, data: &[u8]) -> u32 {
        self.request(WRITE, flags, 8, offset, data.len() as u32);
        self.say(data);
        let (cookie, reply) = self.reply(&HashMap::new());
        assert_eq!(cookie, 8);
        reply.error
    }

    /// One read that succeeds.
    pub(crate) fn read(&mut self, offset: u64, length: u32) -> Vec<u8> {
        let reply = self.ask(READ, 0, offset, length);
        assert_eq!(reply.error, 0);
        reply.data
    }
}

pub(crate) fn request_bytes(
    command: u16,
    flags: u16,
    cookie: u64,
    offset: u64,
    length: u32,
) -> Vec<u8> {
    let mut bytes = 0x2560_9513_u32.to_be_bytes().to_vec();
    bytes.extend(flags.to_be_bytes());
    bytes.extend(command.to_be_bytes());
    bytes.extend(cookie.to_be_bytes());
    bytes.extend(offset.to_be_bytes());
    bytes.extend(length.to_be_bytes());
    bytes
}

/// What INFO and GO carry.
pub(crate) fn info_payload(name: &str, kinds: &[u16]) -> Vec<u8> {
    let mut bytes = (name.len() as u32).to_be_bytes().to_vec();
    bytes.extend(name.bytes());
    bytes.extend((kinds.len() as u16).to_be_bytes());
    kinds
        .iter()
        .for_each(|kind| bytes.extend(kind.to_be_bytes()));
    bytes
}
