//! The socket's server: output to everybody, input from one.
//!
//! Each client has two threads, for its two directions. The guest's side never waits for any of them:
//! output goes into the scrollback, from which clients read at their own pace; input waits in a bounded
//! queue until the UART has room.

use std::collections::{BTreeMap, VecDeque};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use devices::serial::SerialPeer;

use super::scrollback::{SCROLLBACK_BYTES, Scrollback};
use super::socket::{BoundSocket, Purpose, SocketError};

/// Input that waits for the guest, in bytes; past that, the client has to wait.
const INPUT_BYTES_MAX: usize = 4096;

/// Bytes offered to the UART at a time.
const OFFER_BYTES: usize = 64;

/// Bytes sent to a client at a time.
const CHUNK_BYTES: usize = 16 << 10;

/// Clients at a time; each has two threads.
const CLIENTS_MAX: usize = 32;

/// What an acceptor that nothing wakes may cost.
const ACCEPTOR_ENDS_WITHIN: Duration = Duration::from_secs(1);

/// What happens on the console.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConsoleEvent {
    /// Somebody is there now, for the first time.
    FirstClient,
}

/// Takes the console's input; returns how much of it. The rest is offered again.
pub type Input = Box<dyn Fn(&[u8]) -> usize + Send + Sync>;

/// The console of one machine.
pub struct ConsoleServer {
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
    /// The listening socket. The type is a container: what is called on it is the same for all sockets.
    listening: UnixStream,
}

struct Shared {
    state: Mutex<State>,
    /// New output, or the end.
    output: Condvar,
    /// Room for input, or the end.
    room: Condvar,
    /// A client has caught up or left, or the acceptor has ended.
    drained: Condvar,
    input: OnceLock<Input>,
    path: std::path::PathBuf,
}

struct State {
    scrollback: Scrollback,
    clients: BTreeMap<u64, Client>,
    next_client: u64,
    waiting: VecDeque<u8>,
    /// Somebody offers input to the UART now.
    offering: bool,
    /// The UART asked for more meanwhile.
    offer_again: bool,
    closing: bool,
    /// The acceptor has ended.
    deaf: bool,
}

struct Client {
    stream: UnixStream,
    /// Scrollback position that it has been sent.
    position: u64,
    /// It may still type.
    types: bool,
}

impl ConsoleServer {
    /// Listens at `path` and serves clients. `notify` is called on the server's thread.
    ///
    /// Errors: the socket cannot be made, or there is no thread.
    pub fn bind(
        path: &Path,
        notify: impl Fn(ConsoleEvent) + Send + 'static,
    ) -> Result<Self, SocketError> {
        let socket = BoundSocket::bind(Purpose::Serial, path)?;
        let system = |source| SocketError::System {
            purpose: Purpose::Serial,
            path: path.to_owned(),
            source,
        };
        let listening =
            UnixStream::from(OwnedFd::from(socket.listener.try_clone().map_err(system)?));
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                scrollback: Scrollback::new(SCROLLBACK_BYTES),
                clients: BTreeMap::new(),
                next_client: 0,
                waiting: VecDeque::new(),
                offering: false,
                offer_again: false,
                closing: false,
                deaf: false,
            }),
            output: Condvar::new(),
            room: Condvar::new(),
            drained: Condvar::new(),
            input: OnceLock::new(),
            path: path.to_owned(),
        });
        let acceptor = {
            let shared = shared.clone();
            std::thread::Builder::new()
                .name("console".to_owned())
                .spawn(move || accept(&shared, &socket, &notify))
        };
        Ok(Self {
            shared,
            acceptor: Some(acceptor.map_err(system)?),
            listening,
        })
    }

    /// The guest's side, to be plugged into a UART.
    pub fn peer(&self) -> Arc<dyn SerialPeer> {
        Arc::new(Peer(self.shared.clone()))
    }

    /// Sets where input goes; until then it waits.
    pub fn connect(&self, input: Input) {
        self.shared.input.get_or_init(|| input);
        self.shared.offer();
    }

    /// Clients at the moment.
    pub fn clients(&self) -> usize {
        self.shared.lock().clients.len()
    }

    /// Waits until every client has all output, or for `limit`.
    pub fn drain(&self, limit: Duration) {
        let end = Instant::now() + limit;
        let mut state = self.shared.lock();
        loop {
            let target = state.scrollback.end();
            let behind = state.clients.values().any(|it| it.position < target);
            let left = end.saturating_duration_since(Instant::now());
            if !behind || left.is_zero() {
                return;
            }
            state = self
                .shared
                .drained
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

impl Drop for ConsoleServer {
    fn drop(&mut self) {
        {
            let mut state = self.shared.lock();
            state.closing = true;
            for client in state.clients.values() {
                // A client that is gone already need not be told.
                client.stream.shutdown(std::net::Shutdown::Both).ok();
            }
        }
        self.shared.output.notify_all();
        self.shared.room.notify_all();
        self.end_acceptor();
    }
}

impl ConsoleServer {
    /// Wakes the acceptor and waits for its end. The socket's path is of no help where another process
    /// has taken it over, so the listening socket itself is shut down. Where the system does not wake
    /// the acceptor then, the path is tried, and the wait has a limit.
    fn end_acceptor(&mut self) {
        let Some(acceptor) = self.acceptor.take() else {
            return;
        };
        if self.listening.shutdown(std::net::Shutdown::Both).is_err() {
            UnixStream::connect(&self.shared.path).ok();
        }
        let state = self.shared.lock();
        let waited = self
            .shared
            .drained
            .wait_timeout_while(state, ACCEPTOR_ENDS_WITHIN, |state| !state.deaf)
            .unwrap_or_else(PoisonError::into_inner);
        let deaf = waited.0.deaf;
        drop(waited);
        if deaf {
            drop(acceptor.join());
        }
    }
}

impl std::fmt::Debug for ConsoleServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConsoleServer")
            .field("path", &self.shared.path)
            .finish_non_exhaustive()
    }
}

/// The UART's end.
struct Peer(Arc<Shared>);

impl SerialPeer for Peer {
    fn write(&self, bytes: &[u8]) {
        self.0.lock().scrollback.write(bytes);
        self.0.output.notify_all();
    }

    fn input_wanted(&self) {
        self.0.offer();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Offers waiting input to the UART. The lock is not held meanwhile, because the UART may call back;
    /// only one thread offers at a time, so that bytes stay in order.
    fn offer(&self) {
        let Some(input) = self.input.get() else {
            return;
        };
        let mut state = self.lock();
        if state.offering {
            state.offer_again = true;
            return;
        }
        state.offering = true;
        loop {
            state.offer_again = false;
            let chunk: Vec<u8> = state.waiting.iter().take(OFFER_BYTES).copied().collect();
            if chunk.is_empty() {
                break;
            }
            drop(state);
            let taken = input(&chunk).min(chunk.len());
            state = self.lock();
            state.waiting.drain(..taken);
            self.room.notify_all();
            if taken < chunk.len() && !state.offer_again {
                break;
            }
        }
        state.offering = false;
    }
}

fn accept(shared: &Arc<Shared>, socket: &BoundSocket, notify: &impl Fn(ConsoleEvent)) {
    let mut first = true;
    loop {
        let accepted = socket.listener.accept();
        {
            let mut state = shared.lock();
            if state.closing {
                state.deaf = true;
                shared.drained.notify_all();
                return;
            }
        }
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, path = ?socket.path(), "console: cannot accept");
                // Out of descriptors, most likely; others may go.
                std::thread::sleep(Duration::from_millis(100));
                continue;
            }
        };
        match welcome(shared, stream) {
            Ok(()) if first => {
                first = false;
                notify(ConsoleEvent::FirstClient);
            }
            Ok(()) => {}
            Err(error) => tracing::warn!(%error, "console: client turned away"),
        }
    }
}

fn welcome(shared: &Arc<Shared>, mut stream: UnixStream) -> std::io::Result<()> {
    let (reading, writing) = (stream.try_clone()?, stream.try_clone()?);
    let id = {
        let mut state = shared.lock();
        if state.clients.len() >= CLIENTS_MAX {
            drop(state);
            stream.write_all(b"too many clients on this console\r\n")?;
            return Err(std::io::Error::other("too many clients"));
        }
        let id = state.next_client;
        state.next_client += 1;
        let position = state.scrollback.start();
        let client = Client {
            stream,
            position,
            types: true,
        };
        state.clients.insert(id, client);
        id
    };
    let spawn = |name: &str, body: Box<dyn FnOnce() + Send>| {
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(body)
            .map(drop)
    };
    let (reader, writer) = (shared.clone(), shared.clone());
    let started =
        spawn("console-out", Box::new(move || send(&writer, id, writing))).and_then(|()| {
            spawn(
                "console-in",
                Box::new(move || receive(&reader, id, reading)),
            )
        });
    if started.is_err() {
        leave(shared, id);
    }
    started
}

/// Sends output to one client until it is gone.
fn send(shared: &Shared, id: u64, mut stream: UnixStream) {
    loop {
        let piece = {
            let mut state = shared.lock();
            loop {
                let closing = state.closing;
                let end = state.scrollback.end();
                match state.clients.get(&id) {
                    None => return,
                    Some(client) if client.position < end => {
                        break state.scrollback.read(client.position, CHUNK_BYTES);
                    }
                    Some(_) if closing => return,
                    Some(_) => {}
                }
                state = shared
                    .output
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
            }
        };
        let mut sent = Ok(());
        if piece.lost > 0 {
            let note = format!("\r\n[{} bytes of output lost]\r\n", piece.lost);
            sent = stream.write_all(note.as_bytes());
        }
        sent = sent.and_then(|()| stream.write_all(&piece.bytes));
        if sent.is_err() {
            leave(shared, id);
            return;
        }
        if let Some(client) = shared.lock().clients.get_mut(&id) {
            client.position = piece.next;
        }
        shared.drained.notify_all();
    }
}

/// Takes input from one client until it says that there is no more.
fn receive(shared: &Shared, id: u64, mut stream: UnixStream) {
    let mut buffer = [0; 512];
    loop {
        let count = match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(_) => {
                leave(shared, id);
                return;
            }
        };
        let mut rest = &buffer[..count];
        while !rest.is_empty() {
            let mut state = shared.lock();
            if state.closing {
                return;
            }
            // The one that has been there longest may type; what others type is dropped.
            let typist = state.clients.iter().find(|(_, it)| it.types);
            if typist.map(|(typist, _)| *typist) != Some(id) {
                break;
            }
            let room = INPUT_BYTES_MAX - state.waiting.len();
            if room == 0 {
                drop(
                    shared
                        .room
                        .wait(state)
                        .unwrap_or_else(PoisonError::into_inner),
                );
                continue;
            }
            let (now, later) = rest.split_at(room.min(rest.len()));
            state.waiting.extend(now);
            rest = later;
            drop(state);
            shared.offer();
        }
    }
    // It may have closed one direction only, and still want to see the output; if not, the next write
    // fails.
    if let Some(client) = shared.lock().clients.get_mut(&id) {
        client.types = false;
    }
    shared.room.notify_all();
}

fn leave(shared: &Shared, id: u64) {
    let client = shared.lock().clients.remove(&id);
    if let Some(client) = client {
        client.stream.shutdown(std::net::Shutdown::Both).ok();
    }
    shared.output.notify_all();
    shared.room.notify_all();
    shared.drained.notify_all();
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;
    use std::sync::mpsc;

    fn place(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("trivet-console-{name}-{}", std::process::id()))
    }

    fn read_exactly(stream: &mut UnixStream, length: usize) -> String {
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        let mut bytes = vec![0; length];
        stream.read_exact(&mut bytes).unwrap();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_late_client_sees_what_was_said_before() {
        let path = place("late");
        let (sender, events) = mpsc::channel();
        let server = ConsoleServer::bind(&path, move |event| sender.send(event).unwrap()).unwrap();
        let guest = server.peer();
        guest.write(b"early ");
        let mut first = UnixStream::connect(&path).unwrap();
        assert_eq!(events.recv().unwrap(), ConsoleEvent::FirstClient);
        assert_eq!(read_exactly(&mut first, 6), "early ");
        drop(first);
        guest.write(b"later");
        let mut second = UnixStream::connect(&path).unwrap();
        assert_eq!(read_exactly(&mut second, 11), "early later");
        server.drain(Duration::from_secs(20));
        drop(server);
        assert!(!path.exists());
        let mut rest = Vec::new();
        second.read_to_end(&mut rest).unwrap();
        assert!(rest.is_empty());
    }

    #[test]
    fn a_path_that_another_took_over_does_not_hold_up_the_end() {
        let path = place("taken");
        let server = ConsoleServer::bind(&path, |_| {}).unwrap();
        std::fs::remove_file(&path).unwrap();
        let other = std::os::unix::net::UnixListener::bind(&path).unwrap();
        other.set_nonblocking(true).unwrap();
        let (sender, ended) = mpsc::channel();
        std::thread::spawn(move || {
            drop(server);
            sender.send(()).unwrap();
        });
        ended.recv_timeout(Duration::from_secs(20)).unwrap();
        // Nobody knocked there, and what is not ours is still in its place.
        if cfg!(target_os = "linux") {
            let knocked = other.accept().map(drop).map_err(|error| error.kind());
            assert_eq!(knocked, Err(std::io::ErrorKind::WouldBlock));
        }
        assert!(path.exists());
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn one_types_and_the_next_takes_over() {
        let path = place("types");
        let server = ConsoleServer::bind(&path, |_| {}).unwrap();
        let (sender, typed) = mpsc::channel();
        server.connect(Box::new(move |bytes| {
            bytes.iter().for_each(|byte| sender.send(*byte).unwrap());
            bytes.len()
        }));
        let mut first = UnixStream::connect(&path).unwrap();
        server.peer().write(b"x");
        assert_eq!(read_exactly(&mut first, 1), "x");
        let mut second = UnixStream::connect(&path).unwrap();
        assert_eq!(read_exactly(&mut second, 1), "x");
        first.write_all(b"ab").unwrap();
        assert_eq!((typed.recv().unwrap(), typed.recv().unwrap()), (b'a', b'b'));
        drop(first);
        // What the second types is dropped until the server has seen that the first is gone.
        second
            .set_read_timeout(Some(Duration::from_millis(1)))
            .unwrap();
        loop {
            second.write_all(b"c").unwrap();
            if let Ok(byte) = typed.recv_timeout(Duration::from_millis(5)) {
                assert_eq!(byte, b'c');
                break;
            }
        }
    }

    #[test]
    fn input_waits_until_the_uart_has_room() {
        let path = place("room");
        let server = ConsoleServer::bind(&path, |_| {}).unwrap();
        let taken = Arc::new(Mutex::new((Vec::new(), 0)));
        let seen = taken.clone();
        server.connect(Box::new(move |bytes| {
            let mut taken = seen.lock().unwrap();
            let count = bytes.len().min(taken.1);
            taken.1 -= count;
            taken.0.extend_from_slice(&bytes[..count]);
            count
        }));
        let mut client = UnixStream::connect(&path).unwrap();
        let text: Vec<u8> = (0..10_000u32).map(|number| number as u8).collect();
        let sent = text.clone();
        let typist = std::thread::spawn(move || client.write_all(&sent).map(|()| client));
        let guest = server.peer();
        while taken.lock().unwrap().0.len() < text.len() {
            taken.lock().unwrap().1 = 16;
            guest.input_wanted();
            std::thread::yield_now();
        }
        assert_eq!(taken.lock().unwrap().0, text);
        drop(typist.join().unwrap().unwrap());
    }

    #[test]
    fn a_client_that_never_reads_holds_nobody_up() {
        let path = place("stuck");
        let server = ConsoleServer::bind(&path, |_| {}).unwrap();
        let _stuck = UnixStream::connect(&path).unwrap();
        let guest = server.peer();
        for _ in 0..64 {
            guest.write(&[b'.'; 16 << 10]);
        }
        server.drain(Duration::from_millis(10));
        drop(server);
    }
}
