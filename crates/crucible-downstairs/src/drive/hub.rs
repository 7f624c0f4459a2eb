//! Where everything meets: events go to the core under one short lock, and its actions to sockets and disk threads.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use crucible_protocol::Message;
use crucible_protocol::wire::Decoder;
use tokio::sync::Notify;
use vm_types::{Clock, Moment};

use super::execute::Executor;
use super::link::{Link, lock};
use super::pool::{Pool, Task, withdrawn};
use crate::core::{Action, ConnectionId, Event, Outcome, Server, Ticket};

/// Small writes that one turn does itself, at most; the disk threads do the rest.
const QUICK_TASKS: usize = 64;

/// The core with its surroundings. Shared by all tasks and threads of one server.
pub(super) struct Hub {
    state: Mutex<State>,
    /// Takes what a session about this region may say.
    pub(super) decoder: Decoder,
    clock: Clock,
    executor: Arc<Executor>,
    /// Set once; the threads need the hub to report to.
    pool: OnceLock<Pool>,
    /// When the core wants to be woken, in nanoseconds of the clock.
    deadline: AtomicU64,
    /// The deadline has come closer.
    pub(super) deadline_moved: Notify,
}

impl std::fmt::Debug for Hub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hub").finish_non_exhaustive()
    }
}

struct State {
    server: Server,
    links: HashMap<ConnectionId, Arc<Link>>,
    actions: Vec<Action>,
    next_connection: u64,
    stopping: bool,
}

impl Hub {
    pub(super) fn new(
        server: Server,
        decoder: Decoder,
        clock: Clock,
        executor: Arc<Executor>,
    ) -> Self {
        Self {
            decoder,
            state: Mutex::new(State {
                server,
                links: HashMap::new(),
                actions: Vec::new(),
                next_connection: 0,
                stopping: false,
            }),
            clock,
            executor,
            pool: OnceLock::new(),
            deadline: AtomicU64::new(u64::MAX),
            deadline_moved: Notify::new(),
        }
    }

    /// The threads that do the work. Called once, before the first connection.
    pub(super) fn set_pool(&self, pool: Pool) {
        let _ = self.pool.set(pool);
    }

    /// Takes in a connection; `None` when the server is stopping.
    pub(super) fn open(&self, link: &Arc<Link>) -> Option<ConnectionId> {
        let id = {
            let mut state = lock(&self.state);
            if state.stopping {
                return None;
            }
            let id = ConnectionId(state.next_connection);
            state.next_connection += 1;
            state.links.insert(id, Arc::clone(link));
            id
        };
        self.tell([Event::Opened(id)]);
        Some(id)
    }

    /// A connection is gone.
    pub(super) fn close(&self, id: ConnectionId) {
        lock(&self.state).links.remove(&id);
        self.tell([Event::Closed(id)]);
    }

    /// Tells the core what has happened and does what it wants. Messages that the core made are sent before this
    /// returns, as far as their sockets take them.
    pub(super) fn tell(&self, events: impl IntoIterator<Item = Event>) {
        let mut turn = Turn::default();
        {
            let mut state = lock(&self.state);
            let now = self.clock.now();
            for event in events {
                self.handle(&mut state, now, event, &mut turn);
            }
        }
        self.finish(turn);
    }

    /// The same for messages of one connection, as many as the core wants; the others stay in `messages`.
    pub(super) fn receive(&self, id: ConnectionId, link: &Link, messages: &mut VecDeque<Message>) {
        let mut turn = Turn::default();
        {
            let mut state = lock(&self.state);
            let now = self.clock.now();
            while !link.is_paused()
                && let Some(message) = messages.pop_front()
            {
                self.handle(&mut state, now, Event::Received(id, message), &mut turn);
            }
        }
        self.finish(turn);
    }

    fn handle(&self, state: &mut State, now: Moment, event: Event, turn: &mut Turn) {
        state.server.handle(now, event, &mut state.actions);
        let State { links, actions, .. } = state;
        for action in actions.drain(..) {
            self.note(action, links, turn);
        }
    }

    /// Everything that keeps its order only under the lock: queues and flags. System calls come later.
    fn note(&self, action: Action, links: &mut HashMap<ConnectionId, Arc<Link>>, turn: &mut Turn) {
        match action {
            Action::Send(id, message) => {
                if let Some(link) = links.get(&id) {
                    link.push(with_real_address(message, link.local));
                    turn.touch(link);
                }
            }
            Action::HangUp(id, reason) => {
                if let Some(link) = links.remove(&id) {
                    tracing::info!(peer = %link.peer, "connection closed: {reason}");
                    turn.ended.push(link);
                }
            }
            Action::Pause(id) => {
                if let Some(link) = links.get(&id) {
                    link.set_paused(true);
                }
            }
            Action::Resume(id) => {
                if let Some(link) = links.get(&id) {
                    link.set_paused(false);
                }
            }
            Action::Run(ticket, operation) => turn.tasks.push((ticket, operation)),
            Action::Cancel(ticket) => turn.cancelled.push(ticket),
            Action::Deadline(at) => {
                self.deadline.store(at.as_nanos(), Ordering::Release);
                turn.deadline = true;
            }
        }
    }

    fn finish(&self, mut turn: Turn) {
        self.do_quick(&mut turn);
        if let Some(pool) = self.pool.get() {
            pool.submit(turn.tasks);
            let mut withdrawals = Vec::new();
            for ticket in turn.cancelled {
                match pool.withdraw(ticket) {
                    Some(operation) => {
                        withdrawals.push(Event::Finished(ticket, withdrawn(operation)));
                    }
                    None => self.executor.cancel(ticket),
                }
            }
            if !withdrawals.is_empty() {
                // What was cancelled belongs to a connection that is gone: nothing more is cancelled by this.
                self.tell(withdrawals);
            }
        }
        for link in turn.touched {
            link.send();
        }
        for link in turn.ended {
            link.send();
            link.end();
        }
        if turn.deadline {
            self.deadline_moved.notify_one();
        }
    }

    /// Does what can be done at once, instead of waking another thread for it: most small writes only go to memory.
    fn do_quick(&self, turn: &mut Turn) {
        let mut left = QUICK_TASKS;
        let (mut scratch, mut done) = (Vec::new(), Vec::new());
        let mut rest = Vec::new();
        while left > 0 && !turn.tasks.is_empty() {
            for (ticket, operation) in turn.tasks.drain(..) {
                let outcome = (left > 0)
                    .then(|| self.executor.quick(&operation, &mut scratch))
                    .flatten();
                match outcome {
                    Some(outcome) => {
                        left -= 1;
                        done.push(Event::Finished(ticket, outcome));
                    }
                    None => rest.push((ticket, operation)),
                }
            }
            if done.is_empty() {
                break;
            }
            // What waited for these may be as quick.
            let mut state = lock(&self.state);
            let now = self.clock.now();
            for event in done.drain(..) {
                self.handle(&mut state, now, event, turn);
            }
        }
        rest.append(&mut turn.tasks);
        turn.tasks = rest;
    }

    /// Work is done.
    pub(super) fn report(&self, done: &mut Vec<(Ticket, Outcome)>) {
        if !done.is_empty() {
            self.tell(
                done.drain(..)
                    .map(|(ticket, outcome)| Event::Finished(ticket, outcome)),
            );
        }
    }

    /// How long until the core wants to be woken.
    pub(super) fn until_deadline(&self) -> std::time::Duration {
        let at = Moment::from_nanos(self.deadline.load(Ordering::Acquire));
        std::time::Duration::from_nanos(at.since(self.clock.now()).as_nanos())
    }

    /// Ends all connections and the threads; what has begun is done to its end.
    pub(super) fn stop(&self) {
        let links: Vec<_> = {
            let mut state = lock(&self.state);
            state.stopping = true;
            state.links.drain().collect()
        };
        for (_, link) in &links {
            link.end();
        }
        self.tell(links.into_iter().map(|(id, _)| Event::Closed(id)));
        self.executor.cancel_all();
        if let Some(pool) = self.pool.get() {
            pool.stop();
        }
    }
}

/// A server that listens on all addresses tells each peer the one that it was reached at: 0.0.0.0 would lead
/// another region server to itself.
fn with_real_address(message: Message, local: SocketAddr) -> Message {
    match message {
        Message::YesItsMe {
            version,
            repair_address,
        } if repair_address.ip().is_unspecified() => Message::YesItsMe {
            version,
            repair_address: SocketAddr::new(local.ip().to_canonical(), repair_address.port()),
        },
        other => other,
    }
}

/// What is to be done once the lock is released.
#[derive(Default)]
struct Turn {
    tasks: Vec<Task>,
    cancelled: Vec<Ticket>,
    touched: Vec<Arc<Link>>,
    ended: Vec<Arc<Link>>,
    deadline: bool,
}

impl Turn {
    fn touch(&mut self, link: &Arc<Link>) {
        if !self.touched.iter().any(|known| Arc::ptr_eq(known, link)) {
            self.touched.push(Arc::clone(link));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_sent_to_all_addresses_for_a_repair() {
        let ask = |repair: &str, local: &str| {
            let message = Message::YesItsMe {
                version: 13,
                repair_address: repair.parse().unwrap(),
            };
            match with_real_address(message, local.parse().unwrap()) {
                Message::YesItsMe { repair_address, .. } => repair_address.to_string(),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(ask("0.0.0.0:7810", "10.0.0.3:3810"), "10.0.0.3:7810");
        assert_eq!(ask("[::]:7810", "[fd00::3]:3810"), "[fd00::3]:7810");
        assert_eq!(ask("[::]:7810", "[::ffff:10.0.0.3]:3810"), "10.0.0.3:7810");
        assert_eq!(ask("10.0.0.4:7810", "10.0.0.3:3810"), "10.0.0.4:7810");
    }
}
