//! One connection to one region server: dialing, many frames by one read, one vectored write for all there is.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use crucible_protocol::{ClientId, Decoder, Message};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::Sleep;

use super::tls::TlsClient;
use crate::core::{LinkId, LinkLoss};

/// How long connecting may take, TLS included (spec: crucible 3.5).
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// Room that is made before a read; a larger frame makes room for itself.
const READ_BYTES: usize = 256 << 10;
/// Of a frame that was only announced, so much room is made before it comes.
const BELIEVED_BYTES: usize = 4 << 20;
/// Data up to this size is copied behind its head; larger data goes out from where it is.
const COPY_BYTES: usize = 2 << 10;
/// Room for heads that is made at once. It is given out piece by piece, and used again when all of it has been sent.
const HEADS_BYTES: usize = 16 << 10;
/// Most pieces of one vectored write.
const PIECES_MAX: usize = 128;
/// A lossy link holds its tongue so long, in one of four turns.
const LOSSY_HOLD: Duration = Duration::from_millis(100);
/// With less than this to send, there is room for more.
const NEARLY_EMPTY: usize = 256 << 10;

/// What connections are made of.
pub(in crate::drive) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

type Dialing = Pin<Box<dyn Future<Output = Result<Box<dyn Stream>, String>> + Send>>;

/// A link, from the wish to have it to its end.
pub(super) struct Link {
    pub(super) id: LinkId,
    state: State,
    lossy: Option<Lossy>,
}

/// The test mode of a link that is slow now and then, as the reference has it for region servers.
struct Lossy {
    dice: u64,
    hold: Option<Pin<Box<Sleep>>>,
}

impl Lossy {
    /// Whether nothing is to be sent now.
    fn holds(&mut self, cx: &mut Context<'_>) -> bool {
        if let Some(hold) = &mut self.hold {
            if hold.as_mut().poll(cx).is_pending() {
                return true;
            }
            self.hold = None;
            return false;
        }
        // A linear congruence (Knuth's) is chance enough.
        self.dice = self
            .dice
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        if self.dice >> 62 != 0 {
            return false;
        }
        let hold = self.hold.insert(Box::pin(tokio::time::sleep(LOSSY_HOLD)));
        hold.as_mut().poll(cx).is_pending()
    }
}

enum State {
    Dialing(Dialing),
    Up(Connection),
}

/// What a link has to tell.
pub(super) enum News {
    Up,
    Message(Message),
    Lost(LinkLoss),
}

struct Connection {
    stream: Box<dyn Stream>,
    decoder: Decoder,
    received: BytesMut,
    /// Heads that nothing has been put after.
    tail: BytesMut,
    outgoing: VecDeque<Bytes>,
    outgoing_bytes: usize,
    /// Something was sent since the queue was last said to be empty.
    undrained: bool,
    /// Nothing can be sent any more. What the peer said before is still to be heard: it may say why.
    broken: Option<LinkLoss>,
}

impl Link {
    /// Begins to connect to `address`, not before `delay` is over.
    pub(super) fn dial(
        id: LinkId,
        client: ClientId,
        address: SocketAddr,
        delay: Duration,
        tls: Option<TlsClient>,
        lossy: bool,
    ) -> Self {
        let dialing = async move {
            if !delay.is_zero() {
                tokio::time::sleep(delay).await;
            }
            match tokio::time::timeout(CONNECT_WITHIN, connect(client, address, tls)).await {
                Ok(Ok(stream)) => Ok(stream),
                Ok(Err(error)) => Err(error.to_string()),
                Err(_) => Err(format!(
                    "no connection within {} s",
                    CONNECT_WITHIN.as_secs()
                )),
            }
        };
        Self {
            id,
            state: State::Dialing(Box::pin(dialing)),
            lossy: lossy.then_some(Lossy {
                dice: id.0 << 8 | u64::from(client.0),
                hold: None,
            }),
        }
    }

    /// The next thing that happened.
    pub(super) fn poll_news(&mut self, cx: &mut Context<'_>) -> Poll<News> {
        match &mut self.state {
            State::Dialing(dialing) => match ready!(dialing.as_mut().poll(cx)) {
                Ok(stream) => {
                    self.state = State::Up(Connection::new(stream));
                    Poll::Ready(News::Up)
                }
                Err(why) => Poll::Ready(News::Lost(LinkLoss::Failed(why))),
            },
            State::Up(connection) => connection.poll_message(cx).map(|news| match news {
                Ok(message) => News::Message(message),
                Err(loss) => News::Lost(loss),
            }),
        }
    }

    /// Appends to the transmit queue.
    pub(super) fn send(&mut self, message: &Message) {
        if let State::Up(connection) = &mut self.state {
            connection.send(message);
        }
    }

    /// Sends what there is. True: the queue is nearly empty, and was not before. An error is told by
    /// [`Link::poll_news`], after all that has been received.
    pub(super) fn poll_send(&mut self, cx: &mut Context<'_>) -> bool {
        match &mut self.state {
            State::Up(connection)
                if connection.has_something()
                    && self.lossy.as_mut().is_some_and(|lossy| lossy.holds(cx)) =>
            {
                false
            }
            State::Up(connection) => match connection.poll_send(cx) {
                Ok(drained) => drained,
                Err(error) => {
                    connection.breaks(&error);
                    cx.waker().wake_by_ref();
                    false
                }
            },
            State::Dialing(_) => false,
        }
    }
}

async fn connect(
    client: ClientId,
    address: SocketAddr,
    tls: Option<TlsClient>,
) -> io::Result<Box<dyn Stream>> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    match tls {
        None => Ok(Box::new(stream)),
        Some(tls) => tls.connect(client, stream).await,
    }
}

impl Connection {
    fn new(stream: Box<dyn Stream>) -> Self {
        Self {
            stream,
            decoder: Decoder::default(),
            received: BytesMut::new(),
            tail: BytesMut::with_capacity(HEADS_BYTES),
            outgoing: VecDeque::new(),
            outgoing_bytes: 0,
            undrained: false,
            broken: None,
        }
    }

    fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Result<Message, LinkLoss>> {
        loop {
            match self.decoder.decode(&mut self.received) {
                Ok(Some(message)) => return Poll::Ready(Ok(message)),
                Ok(None) => {}
                Err(error) => {
                    return Poll::Ready(Err(LinkLoss::Malformed(error.to_string())));
                }
            }
            let missing = self.decoder.missing(&self.received).unwrap_or(0);
            // A long frame gets room for all of it at once, so that it is moved once; a very long one as it comes.
            if self.received.capacity() - self.received.len() < READ_BYTES / 4 {
                let believed = missing.min(self.received.len().max(BELIEVED_BYTES));
                self.received.reserve(believed.max(READ_BYTES));
            }
            let read = pin!(self.stream.read_buf(&mut self.received));
            let read = match (read.poll(cx), self.broken.take()) {
                (Poll::Pending, Some(loss)) => return Poll::Ready(Err(loss)),
                (read, broken) => {
                    self.broken = broken;
                    ready!(read)
                }
            };
            match read {
                Ok(0) => return Poll::Ready(Err(LinkLoss::Closed)),
                Ok(_) => {}
                Err(error) => return Poll::Ready(Err(LinkLoss::Failed(error.to_string()))),
            }
        }
    }

    fn send(&mut self, message: &Message) {
        if self.broken.is_some() {
            return;
        }
        let before = self.tail.len();
        let data = message.encode_head(&mut self.tail);
        if !data.is_empty() && data.len() <= COPY_BYTES {
            self.tail.extend_from_slice(&data);
        }
        self.outgoing_bytes += self.tail.len() - before;
        if data.len() > COPY_BYTES {
            self.outgoing.push_back(self.tail.split().freeze());
            self.outgoing_bytes += data.len();
            self.outgoing.push_back(data);
        }
        self.undrained = true;
    }

    fn has_something(&self) -> bool {
        !self.tail.is_empty() || !self.outgoing.is_empty()
    }

    /// What is still to be sent never will be.
    fn breaks(&mut self, error: &io::Error) {
        self.broken = Some(LinkLoss::Failed(error.to_string()));
        self.tail.clear();
        self.outgoing.clear();
        self.outgoing_bytes = 0;
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        if !self.tail.is_empty() {
            self.outgoing.push_back(self.tail.split().freeze());
        }
        let mut sent = false;
        while !self.outgoing.is_empty() {
            let mut pieces = [IoSlice::new(&[]); PIECES_MAX];
            let count = self.outgoing.len().min(PIECES_MAX);
            for (piece, bytes) in pieces.iter_mut().zip(&self.outgoing) {
                *piece = IoSlice::new(bytes);
            }
            let stream = Pin::new(&mut *self.stream);
            match stream.poll_write_vectored(cx, &pieces[..count])? {
                Poll::Ready(0) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(written) => {
                    sent = true;
                    self.took(written);
                }
                Poll::Pending => break,
            }
        }
        if sent {
            // Over TLS, written is not yet sent.
            let _ = Pin::new(&mut *self.stream).poll_flush(cx)?;
        }
        let drained = self.undrained && self.outgoing_bytes < NEARLY_EMPTY;
        self.undrained &= !drained;
        Ok(drained)
    }

    fn took(&mut self, mut written: usize) {
        self.outgoing_bytes = self.outgoing_bytes.saturating_sub(written);
        while let Some(first) = self.outgoing.front_mut() {
            if written < first.len() {
                first.advance(written);
                return;
            }
            written -= first.len();
            self.outgoing.pop_front();
        }
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let up = matches!(self.state, State::Up(_));
        f.debug_struct("Link")
            .field("id", &self.id)
            .field("up", &up)
            .finish_non_exhaustive()
    }
}
