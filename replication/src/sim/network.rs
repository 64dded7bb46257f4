//! The simulated network: every message is serialised, delayed, and sometimes lost, doubled or held up by a cut.
//!
//! It keeps a transport's promises whatever happens (`transport/conformance.rs`): a request is told its reply or a failure
//! once, at the latest when its time is over, and each lane between two nodes is bounded by itself. A node that crashed
//! is told nothing any more; its requests die with it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use cube_storage::model::{NodeId, Origin, Outcome, RowKey, TableId, Token};
use parking_lot::Mutex;

use super::batches::{Answered, Batch};
use super::event::Event;
use super::mutants::{Counting, Mutant, Remembered};
use super::report::Messages;
use super::time::Schedule;
use crate::catalog::ClusterState;
use crate::codec::{self, CodecError};
use crate::messages::{Reply, ReplyBody, Request, RequestBody, Want};
use crate::transport::{Lane, OnReply, PeerError, PeerTransport, Serve, unsent};

/// Requests of one lane, from one node to another, that may wait for a reply.
pub(super) const WAITING_MAX: usize = 512;

/// A request under way, by its number.
pub(super) type RequestId = u64;

/// What is wrong with the network at the moment.
#[derive(Clone, Debug, Default)]
pub(super) struct Weather {
    pub(super) loss_percent: u64,
    pub(super) double_percent: u64,
    /// Most messages take up to this long.
    pub(super) delay_us_max: u64,
    /// Some take up to this long.
    pub(super) spike_us_max: u64,
    /// Directed links that carry nothing.
    pub(super) cut: BTreeSet<(NodeId, NodeId)>,
}

struct Pending {
    from: NodeId,
    life: u64,
    to: NodeId,
    lane: Lane,
    reply: OnReply,
}

#[derive(Default)]
struct State {
    next_id: RequestId,
    pending: BTreeMap<RequestId, Pending>,
    /// How many of them each lane between two nodes holds.
    waiting: BTreeMap<(NodeId, NodeId, Lane), usize>,
    weather: Weather,
    /// The life of every process that runs; a message of an earlier life is nobody's.
    lives: BTreeMap<NodeId, u64>,
    /// The newest request that came, by where from and where to.
    newest: BTreeMap<(NodeId, NodeId), RequestId>,
    toll: Messages,
    /// Batches that were answered, until somebody looks.
    batches: Vec<Answered>,
    /// Mistakes that remember something.
    counting: Counting,
    remembered: Remembered,
    /// Hints that were taken, until somebody looks.
    hints_taken: Vec<(NodeId, Token)>,
    /// Whom each node asked for rows the last time.
    asked_last: BTreeMap<NodeId, NodeId>,
}

/// The network all simulated nodes share. Clones are the same network.
#[derive(Clone)]
pub struct SimNetwork {
    schedule: Schedule,
    mutant: Option<Mutant>,
    state: Arc<Mutex<State>>,
}

impl SimNetwork {
    pub(super) fn new(schedule: Schedule, mutant: Option<Mutant>) -> Self {
        let weather = Weather { delay_us_max: 1_000, ..Weather::default() };
        Self { schedule, mutant, state: Arc::new(Mutex::new(State { weather, ..State::default() })) }
    }

    pub(super) fn handle(&self, me: NodeId, life: u64) -> NetworkHandle {
        self.state.lock().lives.insert(me, life);
        NetworkHandle { network: self.clone(), me, life }
    }

    /// A process ends: nobody is told of its requests any more.
    pub(super) fn forget(&self, node: NodeId) {
        let mut state = self.state.lock();
        state.lives.remove(&node);
        // Dropped outside of the lock: what the callbacks hold may use the network.
        let dead: Vec<RequestId> = state.pending.iter().filter(|(_, p)| p.from == node).map(|(id, _)| *id).collect();
        let dropped: Vec<Pending> = dead.into_iter().filter_map(|id| state.remove(id)).collect();
        drop(state);
        drop(dropped);
    }

    pub(super) fn change_weather(&self, change: impl FnOnce(&mut Weather)) {
        change(&mut self.state.lock().weather);
    }

    /// As a mistake, coordinators count by less than a state.
    pub(super) fn learn(&self, state: &ClusterState) {
        if self.mutant == Some(Mutant::OneSetCounted) {
            self.state.lock().counting.learn(state);
        }
    }

    /// What became of messages so far.
    pub(super) fn toll(&self) -> Messages {
        self.state.lock().toll
    }

    fn send(&self, (from, life): (NodeId, u64), to: NodeId, lane: Lane, request: &Request, reply: OnReply) {
        let mut state = self.state.lock();
        if state.lives.get(&from) != Some(&life) {
            return;
        }
        let to = if self.mutant == Some(Mutant::ReplicaCountedTwice) { state.once_more(from, to, request) } else { to };
        let is_up = state.lives.contains_key(&to);
        let is_reached = is_up && !state.weather.cut.contains(&(from, to));
        let waiting = state.waiting.entry((from, to, lane)).or_default();
        if *waiting >= WAITING_MAX {
            let full = PeerError::QueueFull { peer: to, waiting: *waiting, limit: WAITING_MAX };
            drop(state);
            return reply(Err(full));
        }
        if request.time_left_ms == 0 {
            drop(state);
            return reply(Err(PeerError::TimedOut { peer: to }));
        }
        if let Some(answer) = Mutant::forge(self.mutant, &request.body).filter(|_| !is_reached) {
            drop(state);
            let body = Ok(ReplyBody::AntiEntropy(Box::new(answer)));
            return reply(Ok(Reply { from: to, clock: request.clock, body }));
        }
        *waiting += 1;
        let (id, clock) = (state.next_id, request.clock);
        state.next_id += 1;
        state.pending.insert(id, Pending { from, life, to, lane, reply });
        let granted = state.counting.take_for_granted(self.mutant, (from, to), request);
        drop(state);
        if let Some(bytes) = granted.and_then(|reply| codec::encode_reply(reply).ok()) {
            self.schedule.after_us(0, Event::DeliverReply { to: from, id, bytes });
        }
        self.schedule.after_ms(u64::from(request.time_left_ms), Event::RequestTimeout(id));
        match codec::encode(&Mutant::spoil_request(self.mutant, lane, request)) {
            Ok(bytes) if is_up => self.carry(from, to, |bytes| Event::Deliver { to, id, bytes }, bytes),
            // A refused connection, told after a moment.
            Ok(_) => self.schedule.after_us(self.schedule.pick(50, 500), Event::RequestUnreachable(id)),
            Err(error) => self.complete(id, Ok(unsent(from, clock, &error))),
        }
    }

    /// Brings bytes from one node to another, or loses them.
    fn carry(&self, from: NodeId, to: NodeId, event: impl Fn(Vec<u8>) -> Event, bytes: Vec<u8>) {
        let weather = self.state.lock().weather.clone();
        if weather.cut.contains(&(from, to)) || self.schedule.chance(weather.loss_percent) {
            self.state.lock().toll.lost += 1;
            return;
        }
        let delay = || {
            let longest = if self.schedule.chance(3) {
                weather.spike_us_max.max(weather.delay_us_max)
            } else {
                weather.delay_us_max
            };
            self.schedule.pick(50, longest.max(51))
        };
        if self.schedule.chance(weather.double_percent) {
            self.state.lock().toll.doubled += 1;
            self.schedule.after_us(delay(), event(bytes.clone()));
        }
        self.schedule.after_us(delay(), event(bytes));
    }

    /// A request arrives at a process that runs.
    pub(super) fn deliver(
        &self,
        (to, life): (NodeId, u64),
        id: RequestId,
        bytes: &[u8],
        service: &dyn Serve,
    ) -> Result<(), CodecError> {
        let request: Request = codec::decode(bytes)?;
        self.state.lock().note_order((request.from, to), id);
        let network = self.clone();
        let (hinted, read, batches) = (tokens_hinted(&request), rows_read(&request), Batch::all_of(to, &request));
        service.serve(
            request,
            Box::new(move |mut reply| {
                network.recall(to, read, &mut reply);
                network.note_taken(to, &hinted, &reply);
                network.note_answered(batches, &reply);
                network.answer((to, life), id, &reply);
            }),
        );
        Ok(())
    }

    /// As a mistake, rows that are gone are told once more.
    fn recall(&self, by: NodeId, read: Option<(TableId, Vec<RowKey>)>, reply: &mut Reply) {
        if let Some(read) = read.filter(|_| self.mutant == Some(Mutant::PurgedRemembered)) {
            self.state.lock().remembered.recall(by, &read, reply);
        }
    }

    /// Keeps the hints that were taken, until somebody looks.
    fn note_taken(&self, taker: NodeId, hinted: &[Token], reply: &Reply) {
        let holds = |outcome: Option<&Outcome>| outcome.is_some_and(|outcome| outcome.holds());
        let took = |place: usize| match &reply.body {
            Ok(ReplyBody::Wrote(outcomes)) => holds(outcomes.get(place)),
            Ok(ReplyBody::WroteSome(outcomes)) => holds(outcomes.get(place).and_then(|outcome| outcome.as_ref().ok())),
            _ => false,
        };
        let taken = hinted.iter().enumerate().filter(|(place, _)| took(*place)).map(|(_, token)| (taker, *token));
        self.state.lock().hints_taken.extend(taken);
    }

    /// Keeps the batches that were answered, until somebody looks.
    fn note_answered(&self, batches: Vec<Batch>, reply: &Reply) {
        let answered = batches.into_iter().filter_map(|batch| batch.answered(reply));
        self.state.lock().batches.extend(answered);
    }

    /// Batches that were answered since.
    pub(super) fn take_batches(&self) -> Vec<Answered> {
        std::mem::take(&mut self.state.lock().batches)
    }

    /// Hints that were taken since, each with who took it.
    pub(super) fn take_hints_taken(&self) -> Vec<(NodeId, Token)> {
        std::mem::take(&mut self.state.lock().hints_taken)
    }

    /// Sends a reply on its way back.
    fn answer(&self, (from, life): (NodeId, u64), id: RequestId, reply: &Reply) {
        let state = self.state.lock();
        let is_alive = state.lives.get(&from) == Some(&life);
        let asked = state.pending.get(&id).map(|pending| (pending.from, pending.lane));
        drop(state);
        let (true, Some((to, lane))) = (is_alive, asked) else { return };
        // A reply that cannot be told arrives as bytes that are none, which ends the run.
        let bytes = codec::encode_reply(Mutant::spoil_reply(self.mutant, lane, reply)).unwrap_or_default();
        self.carry(from, to, |bytes| Event::DeliverReply { to, id, bytes }, bytes);
    }

    /// A reply arrives.
    pub(super) fn deliver_reply(&self, id: RequestId, bytes: &[u8]) -> Result<(), CodecError> {
        self.complete(id, Ok(codec::decode(bytes)?));
        Ok(())
    }

    /// Who sent a request and to whom, if it still waits for its reply.
    pub(super) fn ends(&self, id: RequestId) -> Option<(NodeId, NodeId)> {
        self.state.lock().pending.get(&id).map(|pending| (pending.from, pending.to))
    }

    pub(super) fn fail(&self, id: RequestId, error: PeerError) {
        self.complete(id, Err(error));
    }

    /// Tells whoever waits for it.
    fn complete(&self, id: RequestId, result: Result<Reply, PeerError>) {
        let mut state = self.state.lock();
        let Some(pending) = state.remove(id) else { return };
        let is_alive = state.lives.get(&pending.from) == Some(&pending.life);
        drop(state);
        if is_alive {
            (pending.reply)(result);
        }
    }
}

/// The rows of a request that brings hints.
fn tokens_hinted(request: &Request) -> Vec<Token> {
    match &request.body {
        RequestBody::Write(write) if write.origin == Origin::Hint => {
            write.mutations.iter().map(|mutation| mutation.key.token()).collect()
        }
        _ => Vec::new(),
    }
}

/// The rows of which a request asks for the records.
fn rows_read(request: &Request) -> Option<(TableId, Vec<RowKey>)> {
    match &request.body {
        RequestBody::Read(read) if read.want == Want::Record => {
            Some((read.table, read.rows.iter().map(|(key, _)| key.clone()).collect()))
        }
        _ => None,
    }
}

impl State {
    /// As a mistake, a digest is asked of whoever was asked the last time.
    fn once_more(&mut self, from: NodeId, to: NodeId, request: &Request) -> NodeId {
        match &request.body {
            RequestBody::Read(read) if read.want == Want::Header => self.asked_last.get(&from).copied().unwrap_or(to),
            RequestBody::Read(_) => {
                self.asked_last.insert(from, to);
                to
            }
            _ => to,
        }
    }

    fn note_order(&mut self, way: (NodeId, NodeId), id: RequestId) {
        let newest = self.newest.entry(way).or_default();
        self.toll.overtaken += u64::from(id < *newest);
        *newest = id.max(*newest);
    }

    fn remove(&mut self, id: RequestId) -> Option<Pending> {
        let pending = self.pending.remove(&id)?;
        if let Some(waiting) = self.waiting.get_mut(&(pending.from, pending.to, pending.lane)) {
            *waiting -= 1;
        }
        Some(pending)
    }
}

/// One process's end of the network.
pub struct NetworkHandle {
    network: SimNetwork,
    me: NodeId,
    life: u64,
}

impl PeerTransport for NetworkHandle {
    fn send(&self, to: NodeId, lane: Lane, request: Request, reply: OnReply) {
        self.network.send((self.me, self.life), to, lane, &request, reply);
    }
}

#[cfg(test)]
mod tests;
