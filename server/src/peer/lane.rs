//! The asking side of one lane to one peer: what waits to be sent, what waits for its reply, and whether there is a
//! connection. Plain state behind one lock; the connection (`link.rs`) and the tick (`transport.rs`) move it.
//!
//! Invariants: a request is in `pending` until it is told, and whoever takes it out tells it, so each is told once. None is
//! sent that needs what the peer has not announced, also if it waited for the connection before that was known. No
//! lock is held while somebody is told: they may send at once. The bounds count what is pending, so a peer that is slow
//! to answer fills its own lane and nobody else's.

use std::collections::{HashMap, VecDeque};
use std::mem;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use cube_proto::peer::v1 as wire;
use cube_replication::messages::{Features, Refusal, Reply};
use cube_replication::transport::{OnReply, PeerError};
use cube_storage::clock::Clock;
use cube_storage::model::{Hlc, NodeId};
use parking_lot::Mutex;

use super::identity::Negotiated;
use super::settings::{FRAME_BYTES, FRAME_MESSAGES_MAX, PeerSettings};

/// Whether requests are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// There is a connection.
    Open,
    /// There will be one in a moment, as far as is known: requests may wait for it.
    Opening,
    /// There is none, and the last attempt failed, or the peer said that it leaves.
    Closed,
    /// There will be none any more.
    Gone,
}

/// One lane to one peer.
pub(super) struct Lane {
    peer: NodeId,
    clock: Arc<dyn Clock>,
    waiting_max: usize,
    waiting_bytes_max: usize,
    state: Mutex<State>,
}

struct State {
    access: Access,
    /// What was agreed on, as long as the access is open.
    agreed: Option<Negotiated>,
    /// Which connection may take messages. A stream of an earlier one ends as soon as it is polled.
    connection: u64,
    control: VecDeque<wire::Frame>,
    ping: Option<u64>,
    /// Nothing more is sent on this connection.
    ended: bool,
    next_id: u64,
    /// What waits to be sent, in its order. An id that is no longer pending is passed over.
    queue: VecDeque<u64>,
    queue_bytes: usize,
    pending: HashMap<u64, Pending>,
    /// No pending request ends before this.
    earliest_deadline_ms: u64,
    waker: Option<Waker>,
    frames: u64,
    messages: u64,
}

struct Pending {
    deadline_ms: u64,
    needs: Features,
    /// The request, until it is sent.
    body: Option<Bytes>,
    reply: OnReply,
}

/// How full a lane is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    pub(super) queued: usize,
    pub(super) queued_bytes: usize,
    pub(super) in_flight: usize,
    pub(super) frames: u64,
    pub(super) messages: u64,
}

/// What a request is told instead of the peer's reply.
pub(super) type Instead = Result<Reply, PeerError>;

/// Requests that are to be told of a failure, which has to be done without any lock.
#[must_use]
pub(super) struct Failed(Vec<(OnReply, Instead)>);

impl Failed {
    pub(super) fn tell(self) {
        for (reply, instead) in self.0 {
            reply(instead);
        }
    }
}

/// What the peer itself would answer, if it could read the request.
fn unsupported(peer: NodeId, lacking: Features) -> Reply {
    Reply { from: peer, clock: Hlc::default(), body: Err(Refusal::Unsupported(lacking.to_string())) }
}

impl Lane {
    pub(super) fn new(peer: NodeId, clock: Arc<dyn Clock>, settings: &PeerSettings) -> Self {
        let state = State {
            access: Access::Opening,
            agreed: None,
            connection: 0,
            control: VecDeque::new(),
            ping: None,
            ended: false,
            next_id: 1,
            queue: VecDeque::new(),
            queue_bytes: 0,
            pending: HashMap::new(),
            earliest_deadline_ms: u64::MAX,
            waker: None,
            frames: 0,
            messages: 0,
        };
        let PeerSettings { waiting_max, waiting_bytes_max, .. } = *settings;
        Self { peer, clock, waiting_max, waiting_bytes_max, state: Mutex::new(state) }
    }

    /// What was agreed on with the peer, if that is known, or why a request that needs this would be refused now, whatever
    /// its size: told before it is serialised.
    pub(super) fn agreed(&self, needs: Features) -> Result<Option<Negotiated>, Instead> {
        let state = self.state.lock();
        state.refusal(self, 0, needs).map_or(Ok(state.agreed), Err)
    }

    /// Queues a request, and says when its time is over. It comes back with what it is to be told if it is refused.
    pub(super) fn push(
        &self,
        body: Bytes,
        needs: Features,
        time_left_ms: u32,
        reply: OnReply,
    ) -> Result<u64, (Instead, OnReply)> {
        let deadline_ms = self.clock.monotonic_ms().saturating_add(u64::from(time_left_ms));
        let mut state = self.state.lock();
        if let Some(instead) = state.refusal(self, body.len(), needs) {
            drop(state);
            return Err((instead, reply));
        }
        let id = state.next_id;
        state.next_id += 1;
        state.queue.push_back(id);
        state.queue_bytes += body.len();
        state.earliest_deadline_ms = state.earliest_deadline_ms.min(deadline_ms);
        state.pending.insert(id, Pending { deadline_ms, needs, body: Some(body), reply });
        let waker = state.waker.take();
        drop(state);
        wake(waker);
        Ok(deadline_ms)
    }

    /// No request's time is over before this; nothing while there may be none.
    pub(super) fn first_due_ms(&self) -> Option<u64> {
        Some(self.state.lock().earliest_deadline_ms).filter(|due_ms| *due_ms != u64::MAX)
    }

    /// The next frame of a connection, with everything that waits as far as there is room; the end, when the connection
    /// is not the present one any more.
    pub(super) fn poll_frame(&self, connection: u64, context: &Context<'_>) -> Poll<Option<wire::Frame>> {
        let mut state = self.state.lock();
        if state.connection != connection {
            return Poll::Ready(None);
        }
        let mut frame = state.control.pop_front().unwrap_or_default();
        if frame.hello.is_none() {
            frame.ping = state.ping.take().map(|number| wire::Ping { number, wall_ms: self.clock.wall_ms() });
            if state.access == Access::Open {
                frame.messages = state.next_messages(self.clock.monotonic_ms());
            }
        }
        if frame != wire::Frame::default() {
            state.frames += 1;
            state.messages += frame.messages.len() as u64;
            return Poll::Ready(Some(frame));
        }
        if state.ended {
            return Poll::Ready(None);
        }
        if !state.waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
            state.waker = Some(context.waker().clone());
        }
        Poll::Pending
    }

    /// Takes out those that were answered, each with the reply's bytes.
    pub(super) fn answered(&self, messages: Vec<wire::Message>) -> Vec<(OnReply, Bytes)> {
        let mut state = self.state.lock();
        // A late reply finds nobody.
        let told = messages.into_iter().filter_map(|message| Some((state.remove(message.id)?.reply, message.body)));
        told.collect()
    }

    /// Takes out the requests whose time is over.
    pub(super) fn expired(&self) -> Failed {
        let now_ms = self.clock.monotonic_ms();
        let mut state = self.state.lock();
        if state.earliest_deadline_ms > now_ms {
            return Failed(Vec::new());
        }
        let overdue: Vec<u64> =
            state.pending.iter().filter(|(_, pending)| pending.deadline_ms <= now_ms).map(|(id, _)| *id).collect();
        let failed = state.fail(overdue, |_| Err(PeerError::TimedOut { peer: self.peer }));
        state.earliest_deadline_ms =
            state.pending.values().map(|pending| pending.deadline_ms).min().unwrap_or(u64::MAX);
        let State { queue, pending, .. } = &mut *state;
        queue.retain(|id| pending.contains_key(id));
        failed
    }

    /// Begins a connection with its hello, and tells its number.
    pub(super) fn begin(&self, hello: wire::Hello) -> u64 {
        let mut state = self.state.lock();
        state.connection += 1;
        state.ended = false;
        state.ping = None;
        state.control.clear();
        state.control.push_back(wire::Frame { hello: Some(hello), ..wire::Frame::default() });
        let connection = state.connection;
        let waker = state.waker.take();
        drop(state);
        wake(waker);
        connection
    }

    /// The two know each other: requests may go, but for those that the peer cannot read.
    pub(super) fn open(&self, agreed: Negotiated) -> Failed {
        let mut state = self.state.lock();
        state.access = Access::Open;
        state.agreed = Some(agreed);
        let lacking = |pending: &Pending| agreed.features.lacks(pending.needs);
        let beyond =
            state.pending.iter().filter(|(_, pending)| lacking(pending).is_some()).map(|(id, _)| *id).collect();
        let failed = state.fail(beyond, |pending| Ok(unsupported(self.peer, lacking(pending).unwrap_or_default())));
        let waker = state.waker.take();
        drop(state);
        wake(waker);
        failed
    }

    /// Somebody heard that the peer is alive: requests may wait for the connection that is being made.
    pub(super) fn expect(&self) {
        self.change(|state| {
            if state.access == Access::Closed {
                state.access = Access::Opening;
            }
        });
    }

    /// Asks for the peer's clock.
    pub(super) fn ping(&self, number: u64) {
        self.change(|state| state.ping = Some(number));
    }

    /// Refuses the peer, and says nothing more.
    pub(super) fn refuse(&self, refused: wire::Refused) {
        self.change(|state| {
            state.control.push_back(wire::Frame { refused: Some(refused), ..wire::Frame::default() });
            state.ended = true;
        });
    }

    /// The peer said goodbye: nothing more is sent, what was sent may still be answered.
    pub(super) fn finish(&self) -> Failed {
        let mut state = self.state.lock();
        state.ended = true;
        state.access = Access::Closed;
        let waker = state.waker.take();
        let failed = state.fail_unsent(self.peer);
        drop(state);
        wake(waker);
        failed
    }

    /// The connection is no more, or could not be made. What was sent is broken; what was not waits for the next one
    /// if that is at hand.
    pub(super) fn lost(&self, next: Access) -> Failed {
        let mut state = self.state.lock();
        state.connection += 1;
        state.access = next;
        state.agreed = None;
        let waker = state.waker.take();
        let sent = state.pending.iter().filter(|(_, pending)| pending.body.is_none()).map(|(id, _)| *id).collect();
        let mut failed = state.fail(sent, |_| Err(PeerError::Broken { peer: self.peer }));
        if next != Access::Opening {
            failed.0.extend(state.fail_unsent(self.peer).0);
        }
        drop(state);
        wake(waker);
        failed
    }

    pub(super) fn load(&self) -> Load {
        let state = self.state.lock();
        let queued = state.pending.values().filter(|pending| pending.body.is_some()).count();
        let in_flight = state.pending.len() - queued;
        let State { queue_bytes: queued_bytes, frames, messages, .. } = *state;
        Load { queued, queued_bytes, in_flight, frames, messages }
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state.lock();
        change(&mut state);
        let waker = state.waker.take();
        drop(state);
        wake(waker);
    }
}

impl State {
    fn refusal(&self, lane: &Lane, bytes: usize, needs: Features) -> Option<Instead> {
        let peer = lane.peer;
        if matches!(self.access, Access::Closed | Access::Gone) {
            return Some(Err(PeerError::Unreachable { peer }));
        }
        if let Some(lacking) = self.agreed.and_then(|agreed| agreed.features.lacks(needs)) {
            return Some(Ok(unsupported(peer, lacking)));
        }
        let waiting = self.pending.len();
        let too_long = self.queue_bytes > 0 && self.queue_bytes + bytes > lane.waiting_bytes_max;
        let is_full = waiting >= lane.waiting_max || too_long;
        is_full.then_some(Err(PeerError::QueueFull { peer, waiting, limit: lane.waiting_max }))
    }

    fn next_messages(&mut self, now_ms: u64) -> Vec<wire::Message> {
        let mut messages = Vec::with_capacity(self.queue.len().min(FRAME_MESSAGES_MAX));
        let mut bytes = 0;
        while let Some(&id) = self.queue.front() {
            if let Some(pending) = self.pending.get_mut(&id)
                // Without time it would be sent in vain: the tick ends it.
                && pending.deadline_ms > now_ms
                && let Some(body) = pending.body.take()
            {
                if !messages.is_empty() && (messages.len() >= FRAME_MESSAGES_MAX || bytes + body.len() > FRAME_BYTES) {
                    pending.body = Some(body);
                    break;
                }
                let time_left_ms = u32::try_from(pending.deadline_ms - now_ms).unwrap_or(u32::MAX);
                bytes += body.len();
                messages.push(wire::Message { id, body, time_left_ms });
            }
            self.queue.pop_front();
        }
        self.queue_bytes = self.queue_bytes.saturating_sub(bytes);
        messages
    }

    fn remove(&mut self, id: u64) -> Option<Pending> {
        let pending = self.pending.remove(&id)?;
        if let Some(body) = &pending.body {
            self.queue_bytes = self.queue_bytes.saturating_sub(body.len());
        }
        Some(pending)
    }

    /// Takes requests out, in the order in which they were sent.
    fn fail(&mut self, mut ids: Vec<u64>, instead: impl Fn(&Pending) -> Instead) -> Failed {
        ids.sort_unstable();
        let failed = ids.into_iter().filter_map(|id| self.remove(id)).map(|pending| {
            let instead = instead(&pending);
            (pending.reply, instead)
        });
        Failed(failed.collect())
    }

    fn fail_unsent(&mut self, peer: NodeId) -> Failed {
        let queued = mem::take(&mut self.queue);
        let unsent = queued.into_iter().filter(|id| self.pending.get(id).is_some_and(|one| one.body.is_some()));
        let unsent: Vec<u64> = unsent.collect();
        self.fail(unsent, |_| Err(PeerError::Unreachable { peer }))
    }
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}
