//! One turn: take in all that is there, decide, seal and open, answer, send; then sleep until something happens.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use crucible_protocol::{ClientId, JobId, ReadBlockContext};
use tokio::time::{Instant, Sleep};
use vm_types::{Clock, Moment, Span};

use super::intake::{Intake, Taken};
use super::link::{Link, News};
use super::region::Known;
use super::tls::TlsClient;
use crate::core::{
    Action, Actions, Answer, BadData, Command, Event, LinkId, Plain, Report, Request, Token,
    Upstairs, VolumeError, Written,
};
use crate::crypt::{Crypt, Done, OpenError, OpenFault, SealError, Sealed};
use crate::store::{Insight, Outcome, Replies, Reply};

/// Most messages of one link that are taken in before something else has its turn.
const MESSAGES_MAX: usize = 256;
/// Most requests that are taken in before something else has its turn.
const REQUESTS_MAX: usize = 256;

/// Names a run of blocks to the cipher.
pub(super) enum Run {
    Seal(JobId),
    Open {
        job: JobId,
        client: ClientId,
        written: Written,
    },
}

/// All that the thread of one region owns.
pub(super) struct Driver {
    core: Upstairs,
    clock: Clock,
    intake: Arc<Intake>,
    known: Arc<Known>,
    tls: Option<TlsClient>,
    lossy: bool,
    crypt: Crypt<Run>,
    /// Of the volume, in bytes, once a write needs it.
    block_size: usize,
    bytes_max: usize,
    /// How long requests wait for room before they fail.
    patience: Span,
    taken: Taken,
    /// Requests for which there was no room when they came, and since when.
    waiting: VecDeque<(Moment, Request, Reply)>,
    /// When a request was last handed to the core.
    took: Moment,
    links: [Option<Link>; 3],
    replies: Slots,
    answers: Replies,
    timer: Pin<Box<Sleep>>,
    timer_at: Option<Moment>,
    actions: Actions,
    performing: Actions,
    done: Vec<Done<Run>>,
    shutting_down: bool,
    finished: bool,
}

/// Replies that wait for their answer; the place of each is its token.
#[derive(Default)]
struct Slots {
    replies: Vec<Option<Reply>>,
    free: Vec<usize>,
}

impl Slots {
    fn enter(&mut self, reply: Option<Reply>) -> Token {
        let place = self.free.pop().unwrap_or(self.replies.len());
        match self.replies.get_mut(place) {
            Some(slot) => *slot = reply,
            None => self.replies.push(reply),
        }
        Token(place as u64)
    }

    fn take(&mut self, token: Token) -> Option<Reply> {
        let place = usize::try_from(token.0).ok()?;
        let reply = self.replies.get_mut(place)?.take()?;
        self.free.push(place);
        Some(reply)
    }
}

impl Driver {
    pub(super) fn new(
        core: Upstairs,
        clock: Clock,
        (intake, known): (Arc<Intake>, Arc<Known>),
        (tls, lossy): (Option<TlsClient>, bool),
        crypt: Crypt<Run>,
        (bytes_max, patience): (usize, Span),
    ) -> Self {
        Self {
            core,
            clock,
            intake,
            known,
            tls,
            lossy,
            crypt,
            block_size: 0,
            bytes_max,
            patience,
            taken: Taken::default(),
            waiting: VecDeque::new(),
            took: Moment::START,
            links: [const { None }; 3],
            replies: Slots::default(),
            answers: Replies::default(),
            timer: Box::pin(tokio::time::sleep(Duration::ZERO)),
            timer_at: None,
            actions: Actions::new(),
            performing: Actions::new(),
            done: Vec::new(),
            shutting_down: false,
            finished: false,
        }
    }

    /// Does what there is to do, in so many rounds at most. Ready when there will never be more: the last handle is
    /// gone, or the volume was shut down.
    pub(super) fn turn(&mut self, rounds: usize, cx: &mut Context<'_>) -> Poll<()> {
        if self.finished {
            return Poll::Ready(());
        }
        for _ in 0..rounds {
            let now = self.clock.now();
            let mut any = self.hear_handles(now, cx);
            any |= self.hear_crypt(now);
            any |= self.hear_links(now, cx);
            any |= self.perform(now);
            // Whoever waits for an answer goes on while the sockets are served.
            self.answers.rest();
            any |= self.send(now, cx);
            any |= self.keep_time(now, cx);
            if self.finished {
                return Poll::Ready(());
            }
            if !any {
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// The first part of a turn: what needs no socket.
    pub(super) fn begin(&mut self, cx: &Context<'_>) {
        let now = self.clock.now();
        self.hear_handles(now, cx);
        self.perform(now);
        self.answers.rest();
    }

    fn event(&mut self, now: Moment, event: Event) {
        self.core.handle(now, event, &mut self.actions);
    }

    fn hear_handles(&mut self, now: Moment, cx: &Context<'_>) -> bool {
        let mut any = self.intake.take(&mut self.taken, cx.waker());
        for (command, reply) in std::mem::take(&mut self.taken.commands) {
            self.shutting_down |= command == Command::ShutDown;
            let token = self.replies.enter(Some(reply));
            self.event(now, Event::Command { token, command });
        }
        if self.taken.abandoned && !self.shutting_down {
            self.shutting_down = true;
            let (reply, _) = Reply::channel(None);
            let token = self.replies.enter(Some(reply));
            let command = Command::ShutDown;
            self.event(now, Event::Command { token, command });
        }
        any |= self.hear_requests(now);
        for question in std::mem::take(&mut self.taken.questions) {
            let (work, retired) = self.core.work();
            let status = self.core.status();
            // Whoever does not wait any more does not want to know.
            let _ = question.send(Box::new(Insight {
                status,
                work,
                retired,
            }));
        }
        any
    }

    fn hear_requests(&mut self, now: Moment) -> bool {
        let mut any = false;
        for _ in 0..REQUESTS_MAX {
            let first = match self.waiting.front() {
                Some((_, request, _)) => Some(request),
                None => self.taken.requests.front().map(|(request, _)| request),
            };
            if !first.is_some_and(|request| self.has_room(request)) {
                break;
            }
            let waited = self.waiting.pop_front();
            let next = match waited {
                Some((_, request, reply)) => Some((request, reply)),
                None => self.taken.requests.pop_front(),
            };
            let Some((request, reply)) = next else { break };
            let token = self.replies.enter(Some(reply));
            self.event(now, Event::Request { token, request });
            self.took = now;
            any = true;
        }
        if !any {
            // No room: from now on they wait, but not for ever.
            for (request, reply) in self.taken.requests.drain(..) {
                self.waiting.push_back((now, request, reply));
            }
        }
        while self.waiting_due().is_some_and(|due| due <= now) {
            let Some((since, _, reply)) = self.waiting.pop_front() else {
                break;
            };
            let waited = now.since(since);
            self.answers
                .send(reply, Err(VolumeError::Unavailable { waited }));
            any = true;
        }
        any
    }

    /// When the first request that waits for room fails. As long as others before it find room, it is merely slow.
    fn waiting_due(&self) -> Option<Moment> {
        let (since, ..) = self.waiting.front()?;
        Some((*since).max(self.took).after(self.patience))
    }

    /// Whether the core would take it. What could never be taken goes through, to be refused.
    fn has_room(&self, request: &Request) -> bool {
        let room = self.core.room();
        let bytes = match request {
            Request::Read { count, .. } => {
                usize::try_from(*count).map_or(usize::MAX, |c| c.saturating_mul(self.block_size))
            }
            Request::Write { data, .. } | Request::WriteUnwritten { data, .. } => data.len(),
            Request::Flush { .. } => 0,
        };
        room.jobs > 0 && (bytes <= room.bytes || bytes > self.bytes_max)
    }

    fn hear_crypt(&mut self, now: Moment) -> bool {
        let mut done = std::mem::take(&mut self.done);
        self.crypt.take_done(&mut done);
        let any = !done.is_empty();
        for done in done.drain(..) {
            match done {
                Done::Sealed(run, result) => self.sealed(now, run, result),
                Done::Opened(run, result) => self.opened(now, run, result),
            }
        }
        self.done = done;
        any
    }

    fn sealed(&mut self, now: Moment, run: Run, result: Result<Sealed, SealError>) {
        if let Run::Seal(write) = run {
            self.event(
                now,
                match result {
                    Ok(Sealed { data, contexts }) => Event::Sealed {
                        write,
                        contexts,
                        data,
                    },
                    Err(error) => Event::SealFailed {
                        write,
                        reason: error.to_string(),
                    },
                },
            );
        }
    }

    fn opened(&mut self, now: Moment, run: Run, result: Result<Bytes, OpenError>) {
        if let Run::Open {
            job,
            client,
            written,
        } = run
        {
            let result = match result {
                Ok(data) => Ok(Plain { data, written }),
                Err(error) => Err(match error.fault {
                    OpenFault::Tag => BadData::Tag,
                    OpenFault::Hash => BadData::Hash,
                    OpenFault::Context => BadData::Context,
                    OpenFault::Length => BadData::Length,
                }),
            };
            self.event(
                now,
                Event::Opened {
                    job,
                    client,
                    result,
                },
            );
        }
    }

    fn hear_links(&mut self, now: Moment, cx: &mut Context<'_>) -> bool {
        let mut any = false;
        for (client, place) in ClientId::ALL.into_iter().zip(0..) {
            for _ in 0..MESSAGES_MAX {
                let Some(at) = self.links.get_mut(place) else {
                    break;
                };
                let Some(link) = at else { break };
                let Poll::Ready(news) = link.poll_news(cx) else {
                    break;
                };
                any = true;
                let link = link.id;
                if matches!(news, News::Lost(_)) {
                    *at = None;
                }
                let event = match news {
                    News::Up => Event::LinkUp { client, link },
                    News::Message(message) => Event::Frame {
                        client,
                        link,
                        message,
                    },
                    News::Lost(loss) => Event::LinkDown { client, link, loss },
                };
                self.event(now, event);
                // A hang-up, or a ping, must not wait behind what else this peer says.
                if self.actions.len() > MESSAGES_MAX {
                    break;
                }
            }
        }
        any
    }

    fn perform(&mut self, now: Moment) -> bool {
        let mut any = false;
        // Sealing at once brings events, and these bring actions; each write is sealed once, so this ends.
        while !self.actions.is_empty() {
            any = true;
            let mut performing = std::mem::take(&mut self.performing);
            std::mem::swap(&mut performing, &mut self.actions);
            for action in performing.drain(..) {
                self.perform_one(now, action);
            }
            self.performing = performing;
        }
        any
    }

    fn link(&mut self, client: ClientId, id: LinkId) -> Option<&mut Link> {
        let at = self.links.get_mut(usize::from(client.0))?;
        at.as_mut().filter(|link| link.id == id)
    }

    fn perform_one(&mut self, now: Moment, action: Action) {
        match action {
            Action::Send {
                client,
                link,
                message,
            } => {
                if let Some(link) = self.link(client, link) {
                    link.send(&message);
                }
            }
            Action::Seal { write, data } => self.seal(now, write, data),
            Action::Open {
                job,
                client,
                contexts,
                data,
                ..
            } => self.open(now, job, client, &contexts, data),
            Action::Cancel { .. } => {}
            Action::Answer { token, result } => self.answer(token, result),
            Action::Dial {
                client,
                link,
                address,
                not_before,
            } => {
                let delay = Duration::from_nanos(not_before.since(now).as_nanos());
                let tls = self.tls.clone();
                if let Some(at) = self.links.get_mut(usize::from(client.0)) {
                    *at = Some(Link::dial(link, client, address, delay, tls, self.lossy));
                }
            }
            Action::HangUp { client, link } => {
                if let Some(at) = self.links.get_mut(usize::from(client.0)) {
                    *at = at.take().filter(|known| known.id != link);
                }
            }
            Action::Report(report) => tell(&report),
        }
    }

    fn seal(&mut self, now: Moment, write: JobId, data: BytesMut) {
        if self.block_size == 0 {
            self.learn_block_size();
        }
        let sealed = self.crypt.seal(Run::Seal(write), self.block_size, data);
        if let Some((run, result)) = sealed {
            self.sealed(now, run, result);
        }
    }

    fn learn_block_size(&mut self) {
        let geometry = self.core.status().geometry;
        self.block_size = geometry.map_or(0, |geometry| geometry.block_size() as usize);
    }

    fn open(
        &mut self,
        now: Moment,
        job: JobId,
        client: ClientId,
        contexts: &[ReadBlockContext],
        data: Bytes,
    ) {
        let run = Run::Open {
            job,
            client,
            written: written(contexts),
        };
        let block_size = data.len().checked_div(contexts.len()).unwrap_or(0);
        if let Some((run, result)) = self.crypt.open(run, block_size, contexts, data) {
            self.opened(now, run, result);
        }
    }

    fn answer(&mut self, token: Token, result: Outcome) {
        match &result {
            Ok(Answer::Activated(geometry)) => {
                self.block_size = geometry.block_size() as usize;
                self.known.activated(*geometry);
            }
            Ok(Answer::ShutDown) => self.finished = true,
            _ => {}
        }
        if let Some(reply) = self.replies.take(token) {
            self.answers.send(reply, result);
        }
    }

    fn send(&mut self, now: Moment, cx: &mut Context<'_>) -> bool {
        let mut any = false;
        for (client, place) in ClientId::ALL.into_iter().zip(0..) {
            let Some(at) = self.links.get_mut(place) else {
                continue;
            };
            let Some(link) = at else { continue };
            let id = link.id;
            if link.poll_send(cx) {
                any = true;
                self.event(now, Event::Drained { client, link: id });
            }
        }
        any
    }

    fn keep_time(&mut self, now: Moment, cx: &mut Context<'_>) -> bool {
        let due = [self.core.deadline(), self.waiting_due()];
        let deadline = due.into_iter().flatten().min();
        let Some(at) = deadline else { return false };
        if at <= now {
            self.event(now, Event::Time);
            return true;
        }
        // One that fires early makes one more round; to set it anew for each request would wake the runtime each time.
        if self.timer_at.is_none_or(|set| at < set) {
            self.timer_at = deadline;
            let left = Duration::from_nanos(at.since(now).as_nanos());
            self.timer.as_mut().reset(Instant::now() + left);
        }
        let fired = self.timer.as_mut().poll(cx).is_ready();
        if fired {
            self.timer_at = None;
        }
        fired
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.intake.close();
        let left: VecDeque<_> = std::mem::take(&mut self.taken.requests);
        let waiting = std::mem::take(&mut self.waiting);
        let waiting = waiting.into_iter().map(|(_, _, reply)| reply);
        for reply in waiting.chain(left.into_iter().map(|(_, reply)| reply)) {
            reply.send(Err(VolumeError::ShutDown));
        }
    }
}

/// Which of the blocks were ever written.
fn written(contexts: &[ReadBlockContext]) -> Written {
    let empty = |context: &ReadBlockContext| *context == ReadBlockContext::Empty;
    if !contexts.iter().any(empty) {
        Written::All
    } else if contexts.iter().all(empty) {
        Written::Nothing
    } else {
        Written::Some(contexts.iter().map(|context| !empty(context)).collect())
    }
}

/// Passes on what an operator may want to know, at the level that fits who is to act.
fn tell(report: &Report) {
    match report {
        Report::Integrity { .. } => tracing::error!("{report}"),
        report if report.is_trouble() => tracing::warn!("{report}"),
        report => tracing::info!("{report}"),
    }
}
