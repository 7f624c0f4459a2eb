//! What goes out on one connection: messages in order, many of them in one system call, sent by whichever thread
//! has made one if the socket takes it, and by the connection's own task if it does not.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

use bytes::{Buf, Bytes, BytesMut};
use crucible_protocol::Message;
use tokio::net::TcpStream;
use tokio::sync::Notify;

/// Buffers handed to one system call.
const SLICES: usize = 128;
/// Data up to this length travels in the same buffer as the head before it.
const COPIED: usize = 512;
/// No more of this connection is read while so many bytes wait to be sent.
pub(super) const OUTBOX_BYTES: usize = 4 << 20;

/// One connection, as the other threads see it.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) peer: SocketAddr,
    /// The address of ours that the peer has reached.
    pub(super) local: SocketAddr,
    /// Where to send from any thread. Absent on TLS: only the connection's own task may.
    socket: Option<std::sync::Arc<TcpStream>>,
    queue: Mutex<VecDeque<Message>>,
    wire: Mutex<Wire>,
    /// Bytes that wait in `queue` and `wire`.
    waiting: AtomicUsize,
    /// The core wants no more messages for now.
    paused: AtomicBool,
    /// Nothing more is to be read; what waits is to be sent, then the connection ends.
    ending: AtomicBool,
    /// For the reader: one of the above has changed, or there is room again.
    pub(super) reader: Notify,
    /// For the writer: there is something to send that no other thread could, or the end has come.
    pub(super) writer: Notify,
}

/// What has been encoded and not been sent.
#[derive(Debug, Default)]
struct Wire {
    scratch: BytesMut,
    segments: VecDeque<Bytes>,
    /// The socket took no more; its own task waits for room.
    blocked: bool,
}

/// How far sending came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// Everything is out.
    All,
    /// The socket is full.
    Blocked,
    /// The socket is dead.
    Failed,
}

impl Link {
    pub(super) fn new(
        peer: SocketAddr,
        local: SocketAddr,
        socket: Option<std::sync::Arc<TcpStream>>,
    ) -> Self {
        Self {
            peer,
            local,
            socket,
            queue: Mutex::default(),
            wire: Mutex::default(),
            waiting: AtomicUsize::new(0),
            paused: AtomicBool::new(false),
            ending: AtomicBool::new(false),
            reader: Notify::new(),
            writer: Notify::new(),
        }
    }

    /// Puts a message at the end of what is to be sent. [`Link::send`] sends it.
    pub(super) fn push(&self, message: Message) {
        self.waiting
            .fetch_add(message.encoded_len(), Ordering::Relaxed);
        lock(&self.queue).push_back(message);
    }

    pub(super) fn set_paused(&self, paused: bool) {
        self.paused.store(paused, Ordering::Release);
        if !paused {
            self.reader.notify_one();
        }
    }

    /// Whether the core wants no more messages for now.
    pub(super) fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Acquire)
    }

    /// Whether the peer has to take answers before it may ask for more.
    pub(super) fn is_crowded(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > OUTBOX_BYTES
    }

    pub(super) fn end(&self) {
        self.ending.store(true, Ordering::Release);
        self.reader.notify_one();
        self.writer.notify_one();
    }

    pub(super) fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Acquire)
    }

    /// Sends what waits, from any thread, without waiting for the peer.
    pub(super) fn send(&self) {
        let Some(socket) = &self.socket else {
            self.writer.notify_one();
            return;
        };
        loop {
            let mut wire = match self.wire.try_lock() {
                Ok(wire) => wire,
                Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
                // Somebody is sending, and looks again after letting go.
                Err(TryLockError::WouldBlock) => return,
            };
            if wire.blocked {
                return;
            }
            if self.push_out(&mut wire, socket) != Sent::All {
                wire.blocked = true;
                self.writer.notify_one();
                return;
            }
            drop(wire);
            if lock(&self.queue).is_empty() {
                return;
            }
        }
    }

    /// The same, from the connection's own task, also when another thread has found the socket full.
    pub(super) fn send_from_own_task(&self, socket: &TcpStream) -> Sent {
        loop {
            let mut wire = lock(&self.wire);
            let sent = self.push_out(&mut wire, socket);
            wire.blocked = sent != Sent::All;
            drop(wire);
            if sent != Sent::All || lock(&self.queue).is_empty() {
                return sent;
            }
        }
    }

    /// Takes the next buffer to be sent, for a connection that only its own task may send on.
    #[cfg(feature = "tls")]
    pub(super) fn next_segment(&self) -> Option<Bytes> {
        let mut wire = lock(&self.wire);
        self.encode(&mut wire);
        wire.segments.front().cloned()
    }

    /// A buffer that was taken has been sent.
    #[cfg(feature = "tls")]
    pub(super) fn sent_segment(&self, bytes: usize) {
        self.advance(&mut lock(&self.wire), bytes);
    }

    fn push_out(&self, wire: &mut Wire, socket: &TcpStream) -> Sent {
        loop {
            self.encode(wire);
            if wire.segments.is_empty() {
                return Sent::All;
            }
            let sent = {
                let mut slices = [IoSlice::new(&[]); SLICES];
                let count = wire.slices(&mut slices);
                socket.try_write_vectored(slices.get(..count).unwrap_or_default())
            };
            match sent {
                Ok(0) => return Sent::Failed,
                Ok(bytes) => self.advance(wire, bytes),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Sent::Blocked,
                Err(_) => return Sent::Failed,
            }
        }
    }

    /// Turns the messages that wait into bytes.
    fn encode(&self, wire: &mut Wire) {
        if !wire.segments.is_empty() {
            return;
        }
        let messages = std::mem::take(&mut *lock(&self.queue));
        for message in messages {
            let data = message.encode_head(&mut wire.scratch);
            if data.len() <= COPIED {
                wire.scratch.extend_from_slice(&data);
            } else {
                wire.segments.push_back(wire.scratch.split().freeze());
                wire.segments.push_back(data);
            }
        }
        if !wire.scratch.is_empty() {
            wire.segments.push_back(wire.scratch.split().freeze());
        }
    }

    /// Notes that so many bytes are out.
    fn advance(&self, wire: &mut Wire, bytes: usize) {
        let mut left = bytes;
        while let Some(front) = wire.segments.front_mut() {
            if front.len() > left {
                front.advance(left);
                break;
            }
            left -= front.len();
            wire.segments.pop_front();
        }
        let before = self.waiting.fetch_sub(bytes, Ordering::Relaxed);
        if before > OUTBOX_BYTES && before.saturating_sub(bytes) <= OUTBOX_BYTES {
            self.reader.notify_one();
        }
    }
}

impl Wire {
    /// Fills `slices` with what comes next; answers how many there are.
    fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>; SLICES]) -> usize {
        let mut count = 0;
        for (slice, segment) in slices.iter_mut().zip(&self.segments) {
            *slice = IoSlice::new(segment);
            count += 1;
        }
        count
    }
}

/// No code under these locks panics half-way; if some ever does, what is left is still a queue.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
