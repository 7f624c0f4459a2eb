//! The protocol without sockets or threads, for fuzzing: bytes of a client, and what the rules promise
//! whatever they are.

use crate::info::DiskInfo;
use crate::request::{Operation, Outcome};

use super::facts::Facts;
use super::handshake::{Agreed, Handshake, Progress};
use super::request::{Incoming, Order, errno, failure, parse, success};
use super::wire::REQUEST_BYTES;

/// Size of the disk that is talked about.
const DISK_BYTES: u64 = 64 << 10;

/// What a conversation came to.
#[derive(Debug, Default, PartialEq, Eq)]
struct Talk {
    out: Vec<u8>,
    requests: usize,
    replies: usize,
}

/// Plays the server of a small disk to a client that says `input`, in pieces of two different lengths.
/// Returns how many requests were understood and answered. Errors: the promise that was broken.
pub(crate) fn converse(input: &[u8]) -> Result<usize, String> {
    let Some((&shape, input)) = input.split_first() else {
        return Ok(0);
    };
    let mut disk = DiskInfo::new(512 << (shape & 3), DISK_BYTES);
    disk.read_only = shape & 4 != 0;
    disk.discard = shape & 8 != 0;
    let facts = Facts::new(&disk, "disk", "a disk to be probed", 4096);
    let at_once = talk(&facts, input, input.len().max(1))?;
    let in_pieces = talk(&facts, input, usize::from(shape >> 4) * 7 + 1)?;
    if at_once != in_pieces {
        return Err("the answer depends on how the bytes come in".to_owned());
    }
    Ok(at_once.requests)
}

fn talk(facts: &Facts, input: &[u8], piece: usize) -> Result<Talk, String> {
    let mut talk = Talk::default();
    let mut handshake = Handshake::new(&mut talk.out);
    let mut agreed = None;
    let mut inbox: Vec<u8> = Vec::new();
    for bytes in input.chunks(piece) {
        inbox.extend_from_slice(bytes);
        if agreed.is_none() {
            let before = talk.out.len();
            let (taken, progress) = handshake.advance(facts, &inbox, &mut talk.out);
            inbox.drain(..taken.min(inbox.len()));
            // Each option takes 16 bytes and gets one refusal, or what is told of the export.
            if talk.out.len() - before > 256 + taken * 32 {
                return Err("a short question with a long answer".to_owned());
            }
            match progress {
                Progress::Haggling => continue,
                Progress::Over => return Ok(talk),
                Progress::Ready(how) => agreed = Some(how),
            }
        }
        if let Some(agreed) = agreed
            && !transmit(facts, agreed, &mut inbox, &mut talk)?
        {
            break;
        }
    }
    if talk.requests == talk.replies {
        Ok(talk)
    } else {
        Err("a request without a reply, or with several".to_owned())
    }
}

/// Takes the requests that are there as a whole, with their payload. `false`: the client has left.
fn transmit(
    facts: &Facts,
    agreed: Agreed,
    inbox: &mut Vec<u8>,
    talk: &mut Talk,
) -> Result<bool, String> {
    while let Some(incoming) = parse(facts, inbox) {
        let payload = match &incoming {
            Incoming::Goodbye | Incoming::Nonsense => return Ok(false),
            Incoming::Order(order) => order.payload(),
            Incoming::Refusal(refusal) => refusal.payload,
        };
        let length = REQUEST_BYTES + payload as usize;
        if inbox.len() < length {
            break;
        }
        inbox.drain(..length);
        talk.requests += 1;
        talk.replies += 1;
        match incoming {
            Incoming::Order(order) => {
                check(facts, &order)?;
                success(agreed, &order, &mut talk.out);
            }
            Incoming::Refusal(refusal) => failure(agreed, &refusal, &mut talk.out),
            Incoming::Goodbye | Incoming::Nonsense => {}
        }
    }
    Ok(true)
}

/// What every order keeps to.
fn check(facts: &Facts, order: &Order) -> Result<(), String> {
    let (start, length) = order.range(facts);
    let unit = u64::from(facts.block_size);
    let end = order.offset.saturating_add(order.length.into());
    let flush = order.operation == Operation::Flush;
    let writes = !matches!(order.operation, Operation::Read | Operation::Flush);
    let kept = (start | length) & (unit - 1) == 0
        && start
            .checked_add(length)
            .is_some_and(|end| end <= DISK_BYTES)
        && (flush || (start <= order.offset && end <= start + length))
        && !(writes && (facts.read_only || (start, length) != (order.offset, order.length.into())))
        && !(order.carries() && order.length > facts.request_max)
        && errno(Outcome::Ok).is_none();
    if kept {
        Ok(())
    } else {
        Err(format!("an order against the rules: {order:?}"))
    }
}
