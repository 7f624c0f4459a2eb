//! Between a machine and one of its region servers: passes bytes on, and cuts the connection in the middle of a frame
//! when it is told to.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

/// A frame shorter than this is not worth cutting: it has a header and little else.
const SHORTEST: u32 = 64;
const BUFFER_BYTES: usize = 64 << 10;

/// What threads and owner share.
#[derive(Debug, Default)]
struct Orders {
    cut: AtomicBool,
    cuts: AtomicU64,
}

/// A listener that stands for a region server. Its threads end with their connections, and with the program.
#[derive(Debug)]
pub(super) struct Proxy {
    address: String,
    orders: Arc<Orders>,
}

impl Proxy {
    /// Listens on a free port and passes on to `target`.
    pub(super) fn start(target: &str) -> Result<Proxy, String> {
        let said = |error: io::Error| format!("a listener for the proxy: {error}");
        let listener = TcpListener::bind(("127.0.0.1", 0)).map_err(said)?;
        let address = listener.local_addr().map_err(said)?.to_string();
        let orders = Arc::new(Orders::default());
        let (shared, target) = (Arc::clone(&orders), target.to_owned());
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                // A server that is away refuses, and so do we, by hanging up.
                if let Ok(server) = TcpStream::connect(&target) {
                    let _started = connect(&client, &server, &shared);
                }
            }
        });
        Ok(Proxy { address, orders })
    }

    /// Where it listens.
    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// Cuts the connection within the next frame towards the server.
    pub(super) fn cut(&self) {
        self.orders.cut.store(true, Ordering::SeqCst);
    }

    /// How often it has done so.
    pub(super) fn cuts(&self) -> u64 {
        self.orders.cuts.load(Ordering::SeqCst)
    }
}

fn connect(client: &TcpStream, server: &TcpStream, orders: &Arc<Orders>) -> io::Result<()> {
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (up, down) = (client.try_clone()?, server.try_clone()?);
    let orders = Arc::clone(orders);
    thread::spawn(move || pass(up, down, Some(&orders)));
    let (up, down) = (server.try_clone()?, client.try_clone()?);
    thread::spawn(move || pass(up, down, None));
    Ok(())
}

/// Copies until either side ends, then ends both.
fn pass(mut from: TcpStream, mut to: TcpStream, orders: Option<&Orders>) {
    let mut buffer = vec![0_u8; BUFFER_BYTES];
    let mut frames = Frames::default();
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        let bytes = &buffer[..count];
        let is_asked = orders.is_some_and(|orders| orders.cut.load(Ordering::SeqCst));
        let place = frames.walk(bytes).filter(|_| is_asked);
        if let (Some(place), Some(orders)) = (place, orders) {
            let _last = to.write_all(&bytes[..place]);
            orders.cut.store(false, Ordering::SeqCst);
            orders.cuts.fetch_add(1, Ordering::SeqCst);
            break;
        }
        if to.write_all(bytes).is_err() {
            break;
        }
    }
    let _closed = from.shutdown(Shutdown::Both);
    let _closed = to.shutdown(Shutdown::Both);
}

/// Where frames begin in a stream: each with its length in four bytes, little end first, which counts itself.
#[derive(Debug, Default)]
struct Frames {
    header: [u8; 4],
    /// How much of the header is there.
    have: usize,
    /// What is missing of the frame behind its header.
    left: usize,
}

impl Frames {
    /// Takes in what came, and returns a place in it that lies within a frame that begins in it.
    fn walk(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut place = None;
        let mut at = 0;
        while at < bytes.len() {
            if self.have < self.header.len() {
                self.header[self.have] = bytes[at];
                self.have += 1;
                at += 1;
                if self.have < self.header.len() {
                    continue;
                }
                let length = u32::from_le_bytes(self.header);
                self.left = (length as usize).saturating_sub(self.header.len());
                let half = at + self.left / 2;
                if place.is_none() && length >= SHORTEST {
                    place = Some(half.min(bytes.len()));
                }
            }
            let taken = self.left.min(bytes.len() - at);
            self.left -= taken;
            at += taken;
            if self.left == 0 {
                self.have = 0;
            }
        }
        place
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(length: u32) -> Vec<u8> {
        let mut frame = length.to_le_bytes().to_vec();
        frame.resize(length as usize, 7);
        frame
    }

    #[test]
    fn the_cut_lies_within_a_frame_that_is_long_enough() {
        let mut stream = frame(8);
        stream.extend(frame(1000));
        let place = Frames::default().walk(&stream).unwrap();
        assert!(place > 8 + 4 && place < 1008, "{place}");
    }

    #[test]
    fn frames_are_followed_through_any_pieces() {
        let stream: Vec<u8> = [8, 100, 9, 200].into_iter().flat_map(frame).collect();
        let mut frames = Frames::default();
        let mut found = Vec::new();
        for (index, byte) in stream.iter().enumerate() {
            if frames.walk(std::slice::from_ref(byte)).is_some() {
                found.push(index);
            }
        }
        // Where the headers of the long ones end.
        assert_eq!(found, [8 + 3, 117 + 3]);
        assert_eq!((frames.have, frames.left), (0, 0));
    }

    #[test]
    fn the_other_side_gets_half_a_frame_and_then_the_end() {
        let server = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let proxy = Proxy::start(&server.local_addr().unwrap().to_string()).unwrap();
        let mut client = TcpStream::connect(proxy.address()).unwrap();
        let (mut accepted, _) = server.accept().unwrap();
        client.write_all(&frame(100)).unwrap();
        let mut whole = [0; 100];
        accepted.read_exact(&mut whole).unwrap();
        accepted.write_all(b"answer").unwrap();
        let mut answer = [0; 6];
        client.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"answer");
        proxy.cut();
        client.write_all(&frame(100)).unwrap();
        let mut rest = Vec::new();
        accepted.read_to_end(&mut rest).unwrap();
        assert!(rest.len() > 4 && rest.len() < 100, "{}", rest.len());
        assert_eq!(proxy.cuts(), 1);
    }
}
