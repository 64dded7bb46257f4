//! A write on its way: stamp, send to all replicas, decide by their answers, keep listening, note who missed it.
//!
//! The decisions stand in `group.rs`, one for each partition key of the request. Here they are carried out: messages to
//! one node go together, the client is told when every group is decided, and the operation lives until every replica
//! has answered or its time is over.

mod group;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use cube_storage::clock::ClockError;
use cube_storage::model::{
    Batch, Body, Epoch, Expiry, Hlc, Mutation, NodeId, Origin, Outcome, Record, RowKey, Token, Version,
};
use parking_lot::Mutex;

pub use self::group::Written;
use self::group::{Answer, Group, Source, Step};
use super::admission::Admitted;
use super::answers::{is_behind, outcomes_of};
use super::deadlines::Deadline;
use super::error::{Failure, RequestError};
use super::explain::{Kind, Ledger};
use super::request::{Change, WriteRequest};
use super::{Coordinator, Timed};
use crate::catalog::{ClusterState, Target};
use crate::consistency::Level;
use crate::handoff::{Kept, Missed, NotKept};
use crate::messages::{Reply, RequestBody, Stamp, WriteRows};
use crate::replica::refuse_clock;
use crate::topology::PartitionMap;
use crate::transport::PeerError;
use crate::watermark::Held;

/// Told once what came of a write: for each partition key of the request, in the order they first appear.
pub type OnWritten = Box<dyn FnOnce(Result<Vec<Result<Written, RequestError>>, RequestError>) + Send>;

/// What goes to one node in one message.
struct Parcel {
    stamp: Stamp,
    groups: Vec<SentGroup>,
    mutations: Vec<Mutation>,
    /// How often it was sent again.
    resends: u32,
}

/// A group's place, the round and the number of rows.
type SentGroup = (usize, u32, usize);

struct WriteOperation {
    coordinator: Arc<Coordinator>,
    target: Target,
    seen: Option<Version>,
    ledger: Option<Arc<Ledger>>,
    deadline: Deadline,
    state: Mutex<State>,
    /// Keeps this node's watermark below the write as long as anything of it is under way.
    _held: Held,
}

struct State {
    groups: Vec<Group>,
    results: Vec<Option<Result<Written, RequestError>>>,
    undecided: usize,
    done: Option<OnWritten>,
    /// A place among the requests until the client is told, and the bytes until the last replica has answered.
    admitted: Option<Admitted>,
    /// Groups that wait for a newer map.
    rerouting: Vec<usize>,
}

/// What is to be done outside the lock.
enum Action {
    Send(NodeId, Parcel),
    Note { group: usize, round: u32, missed: Missed },
    AwaitState { seen: Epoch },
    Tell(OnWritten, Vec<Result<Written, RequestError>>),
}

impl Coordinator {
    /// Writes rows. `done` is told when the level is met for every partition key, or why it is not.
    pub fn write(self: &Arc<Self>, request: WriteRequest, done: OnWritten) {
        match self.prepare_write(request) {
            Err(error) => done(Err(error)),
            Ok(operation) => {
                operation.state.lock().done = Some(done);
                let operation = Arc::new(operation);
                let timed: Arc<dyn Timed> = operation.clone();
                operation.deadline.watch(Arc::downgrade(&timed));
                operation.start();
            }
        }
    }

    /// Everything that can be refused is refused here, before anything is written.
    fn prepare_write(self: &Arc<Self>, request: WriteRequest) -> Result<WriteOperation, RequestError> {
        let mut admitted = Admitted::new(self)?;
        if request.condition.is_some() {
            return Err(RequestError::ConditionUnsupported);
        }
        let state = self.parts.catalog.current();
        let target = state.schema.find(&request.table.keyspace, &request.table.table)?;
        let (source, held) = self.source(&request)?;
        let batch = self.batch(&request, target, source.version())?;
        admitted.reserve(batch.len_bytes())?;
        let local = self.data_center(&state);
        let mut groups = Vec::with_capacity(batch.mutations.len().min(64));
        for (partition_key, mutations) in by_partition_key(batch.mutations) {
            let token = Token::of(&partition_key);
            let route = self.route(&state, target, token)?;
            let (level, alive) = (request.terms.level, |node| self.is_alive(node));
            level.check_alive(&route.map.write_sets(), &local, alive).map_err(RequestError::Unavailable)?;
            groups.push(Group::new(route.partition, route.map, mutations, source, level, &local));
        }
        let timeout_ms = request.terms.timeout_ms.unwrap_or(self.settings.write_timeout_ms);
        Ok(WriteOperation {
            coordinator: Arc::clone(self),
            target,
            seen: request.seen,
            _held: held,
            ledger: self.ledger((Kind::Write, target.table.id), &request.terms, &state),
            deadline: self.deadlines.at(self.parts.clock.monotonic_ms() + u64::from(timeout_ms)),
            state: Mutex::new(State {
                results: groups.iter().map(|_| None).collect(),
                undecided: groups.len(),
                groups,
                done: None,
                admitted: Some(admitted),
                rerouting: Vec::new(),
            }),
        })
    }

    fn source(&self, request: &WriteRequest) -> Result<(Source, Held), ClockError> {
        let (clock, writes) = (&self.parts.clock, &self.writes);
        Ok(match (request.timestamp, request.seen) {
            (Some(timestamp), _) => {
                clock.check(timestamp)?;
                let (version, held) = writes.begin(|| Ok::<_, ClockError>(Version::new(timestamp, NodeId::CLIENT)))?;
                (Source::Client(version), held)
            }
            // Out of bound it is not taken at its word, or a client could stamp as it likes: where it is true, the
            // replicas say so.
            (None, Some(seen)) if clock.check(seen.hlc).is_ok() => {
                let (version, held) = writes.begin(|| clock.stamp_after(seen))?;
                (Source::After { version, seen }, held)
            }
            (None, _) => {
                let (version, held) = writes.begin(|| clock.stamp())?;
                (Source::Clock(version), held)
            }
        })
    }

    /// The rows with their first version, within the limits.
    fn batch(&self, request: &WriteRequest, target: Target, version: Version) -> Result<Batch, RequestError> {
        let now = self.parts.clock.peek();
        let mut mutations = Vec::with_capacity(request.rows.len());
        for (key, change) in &request.rows {
            let record = Record { version, body: self.body(change, target, now)? };
            mutations.push(Mutation { table: target.table.id, key: key.clone(), record, claim: None });
        }
        let batch = Batch { origin: Origin::Client, mutations };
        batch.check(&self.limits)?;
        Ok(batch)
    }

    /// A value's end is fixed here, once: it is the same on all replicas, and stays when the row is stamped again.
    fn body(&self, change: &Change, target: Target, now: Hlc) -> Result<Body, RequestError> {
        let Change::Put { value, ttl_ms } = change else { return Ok(Body::Tombstone) };
        let expiry = match ttl_ms.or(target.table.settings.default_ttl_ms) {
            None => None,
            Some(ttl_ms) => Some(Expiry(now.millis().saturating_add(self.limits.check_ttl_ms(ttl_ms)?))),
        };
        Ok(Body::Value { value: value.clone(), expiry })
    }
}

/// The rows of each partition key, in the order the keys first appear; of rows named twice the last.
fn by_partition_key(mutations: Vec<Mutation>) -> Vec<(Bytes, Vec<Mutation>)> {
    let mut groups: Vec<(Bytes, Vec<Mutation>)> = Vec::new();
    let mut places: BTreeMap<Bytes, usize> = BTreeMap::new();
    for mutation in mutations {
        let key = mutation.key.partition.clone();
        match places.get(&key).and_then(|place| groups.get_mut(*place)) {
            Some((_, rows)) => rows.push(mutation),
            None => {
                places.insert(key.clone(), groups.len());
                groups.push((key, vec![mutation]));
            }
        }
    }
    groups.iter_mut().for_each(|(_, rows)| keep_last(rows));
    groups
}

/// Of rows named twice the last stays, where the first stood. By a map: a batch may have thousands of rows of one key.
fn keep_last(rows: &mut Vec<Mutation>) {
    if rows.len() < 2 {
        return;
    }
    let mut places: BTreeMap<RowKey, usize> = BTreeMap::new();
    let mut kept: Vec<Mutation> = Vec::with_capacity(rows.len());
    for row in rows.drain(..) {
        match places.get(&row.key).and_then(|place| kept.get_mut(*place)) {
            Some(earlier) => *earlier = row,
            None => {
                places.insert(row.key.clone(), kept.len());
                kept.push(row);
            }
        }
    }
    *rows = kept;
}

impl WriteOperation {
    fn start(self: &Arc<Self>) {
        let mut state = self.state.lock();
        let all: Vec<usize> = (0..state.groups.len()).collect();
        let mut actions = self.dispatch(&mut state, &all);
        if all.is_empty() {
            actions.extend(state.tell());
        }
        drop(state);
        self.carry_out(actions);
    }

    /// Sends groups to all their replicas: those believed dead are noted instead.
    fn dispatch(&self, state: &mut State, groups: &[usize]) -> Vec<Action> {
        let mut parcels: BTreeMap<NodeId, Parcel> = BTreeMap::new();
        let mut actions = Vec::new();
        for &place in groups {
            let Some(group) = state.groups.get_mut(place) else { continue };
            // A write at ANY may end with this hint alone.
            let only_copy = group.level() == Level::Any;
            for node in group.replicas() {
                if self.coordinator.is_alive(node) {
                    let parcel = parcels.entry(node).or_insert_with(|| Parcel::of(group.stamp));
                    parcel.groups.push((place, group.round(), group.mutations.len()));
                    parcel.mutations.extend(group.mutations.iter().cloned());
                } else {
                    group.skip(node);
                    actions.push(note(place, group, node, only_copy));
                }
            }
        }
        actions.extend(parcels.into_iter().map(|(node, parcel)| Action::Send(node, parcel)));
        actions
    }

    fn carry_out(self: &Arc<Self>, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Send(node, parcel) => self.send(node, parcel),
                Action::Note { group, round, missed } => self.note(group, round, missed),
                Action::AwaitState { seen } => self.coordinator.wait_for_state(self.clone(), seen),
                Action::Tell(done, mut results) => {
                    self.coordinator.explain(self.ledger.as_ref(), &mut results);
                    done(Ok(results));
                }
            }
        }
    }

    fn send(self: &Arc<Self>, node: NodeId, parcel: Parcel) {
        let body = RequestBody::Write(WriteRows {
            origin: Origin::Client,
            mutations: parcel.mutations,
            stamp: parcel.stamp,
            seen: self.seen,
            condition: None,
        });
        let (operation, resends) = (Arc::clone(self), parcel.resends);
        self.coordinator.send(node, body, self.deadline.ms(), self.ledger.as_ref(), move |reply| {
            operation.on_reply(node, parcel.groups, resends, reply);
        });
    }

    /// Sends groups once more to a replica that was behind, unless nobody needs them there any more.
    fn resend(self: &Arc<Self>, node: NodeId, groups: &[SentGroup], resends: u32) {
        let state = self.state.lock();
        let mut parcel: Option<Parcel> = None;
        for &(place, round, rows) in groups {
            let is_wanted = |group: &&Group| group.round() == round && !group.has_failed();
            let Some(group) = state.groups.get(place).filter(is_wanted) else { continue };
            let parcel = parcel.get_or_insert_with(|| Parcel { resends, ..Parcel::of(group.stamp) });
            parcel.groups.push((place, round, rows));
            parcel.mutations.extend(group.mutations.iter().cloned());
        }
        drop(state);
        if let Some(parcel) = parcel {
            self.send(node, parcel);
        }
    }

    fn note(self: &Arc<Self>, group: usize, round: u32, missed: Missed) {
        let operation = Arc::clone(self);
        let (node, only_copy) = (missed.target, missed.only_copy);
        let may_be_lost = |row: &Mutation| self.coordinator.writes.may_be_lost(row.record.version);
        if only_copy && missed.mutations.iter().any(may_be_lost) {
            let cause = "its timestamp is so old that a hint alone might be refused later".into();
            return self.on_noted((group, round), node, only_copy, Err(NotKept { target: node, cause }));
        }
        let kept = Box::new(move |kept| operation.on_noted((group, round), node, only_copy, kept));
        self.coordinator.parts.hints.keep(missed, kept);
    }

    /// Partition keys succeed or fail each for itself: those that the replica is not ready for are sent again alone.
    fn on_reply(self: &Arc<Self>, node: NodeId, sent: Vec<SentGroup>, resends: u32, reply: Result<Reply, PeerError>) {
        let mut outcomes = outcomes_of(reply, sent.iter().map(|(_, _, rows)| rows).sum()).into_iter();
        let resend_at = self.coordinator.resend_at(resends, self.deadline.ms());
        let mut behind = Vec::new();
        let mut actions = Vec::new();
        let mut state = self.state.lock();
        for (place, round, rows) in sent {
            let mine: Result<Vec<Outcome>, Failure> =
                outcomes.by_ref().take(rows).collect::<Vec<_>>().into_iter().collect();
            let Some(group) = state.groups.get_mut(place).filter(|group| group.round() == round) else { continue };
            if resend_at.is_some() && is_behind(&mine) {
                behind.push((place, round, rows));
                continue;
            }
            let step = match mine {
                Ok(outcomes) => group.on_answer(node, Answer::Outcomes(&outcomes)),
                Err(failure) => group.on_answer(node, Answer::Failed(failure)),
            };
            self.take(&mut state, place, step, &mut actions);
        }
        drop(state);
        if let Some(due_ms) = resend_at.filter(|_| !behind.is_empty()) {
            let again = Arc::clone(self);
            self.coordinator.resend(due_ms, Box::new(move || again.resend(node, &behind, resends + 1)));
        }
        self.carry_out(actions);
    }

    fn on_noted(
        self: &Arc<Self>,
        (place, round): (usize, u32),
        node: NodeId,
        only_copy: bool,
        kept: Result<Kept, NotKept>,
    ) {
        if let Err(error) = &kept {
            let now_ms = self.coordinator.parts.clock.monotonic_ms();
            if self.coordinator.unnoted.lock().begins(node, now_ms) {
                tracing::error!(%error, "what a replica missed is not noted");
            }
        }
        self.ledger.iter().for_each(|ledger| ledger.noted(node, &kept));
        let mut actions = Vec::new();
        let mut state = self.state.lock();
        if let Some(group) = state.groups.get_mut(place).filter(|group| group.round() == round) {
            let step = group.on_noted(node, only_copy, kept);
            self.take(&mut state, place, step, &mut actions);
        }
        drop(state);
        self.carry_out(actions);
    }

    /// Turns a group's next step into actions.
    fn take(&self, state: &mut State, place: usize, step: Step, actions: &mut Vec<Action>) {
        let Some(group) = state.groups.get_mut(place) else { return };
        match step {
            Step::Nothing => {}
            Step::Note { node, only_copy } => {
                actions.push(note(place, group, node, only_copy));
            }
            Step::Restamp(newer) => match self.coordinator.parts.clock.stamp_after(newer) {
                Ok(version) => {
                    group.restamp(version, newer);
                    actions.extend(self.dispatch(state, &[place]));
                }
                Err(error) => {
                    // Nothing more is sent, and the client is told which node could not go on, and why.
                    group.fail(self.coordinator.parts.me, Failure::Refused(refuse_clock(error)));
                    let step = group.give_up();
                    self.take(state, place, step, actions);
                }
            },
            Step::Reroute(at_least) => self.reroute(state, place, at_least.0, actions),
            Step::Done(result) => {
                let notes = if result.is_ok() { group.note_failed() } else { Vec::new() };
                state.decide(place, result);
                actions.extend(state.tell());
                for note in notes {
                    self.take(state, place, note, actions);
                }
            }
        }
    }

    /// Goes on by the partition's newest map, or waits for it until the time is over.
    fn reroute(&self, state: &mut State, place: usize, at_least: u64, actions: &mut Vec<Action>) {
        let cluster = self.coordinator.parts.catalog.current();
        let Some(group) = state.groups.get_mut(place) else { return };
        let Some(map) = map_of(&cluster, self.target, group).filter(|map| map.epoch().0 >= at_least) else {
            state.rerouting.push(place);
            actions.push(Action::AwaitState { seen: cluster.topology.epoch() });
            return;
        };
        let sets = map.write_sets();
        let local = self.coordinator.data_center(&cluster);
        let refused = group.level().check_alive(&sets, &local, |node| self.coordinator.is_alive(node)).is_err();
        if refused {
            // By the newer map too few are alive: the client is told who is not.
            let dead = sets.nodes().filter(|node| !self.coordinator.is_alive(*node));
            dead.for_each(|node| group.fail(node, Failure::Down));
        }
        if refused || !group.reroute(map) {
            let step = group.give_up();
            return self.take(state, place, step, actions);
        }
        actions.extend(self.dispatch(state, &[place]));
    }
}

impl Timed for WriteOperation {
    fn on_deadline(self: Arc<Self>) {
        let mut actions = Vec::new();
        let mut state = self.state.lock();
        for place in 0..state.groups.len() {
            let steps = state.groups.get_mut(place).map(Group::on_deadline).unwrap_or_default();
            for step in steps {
                self.take(&mut state, place, step, &mut actions);
            }
        }
        drop(state);
        self.coordinator.stop_waiting(&*self);
        self.carry_out(actions);
    }

    fn on_state(self: Arc<Self>) {
        let mut actions = Vec::new();
        let mut state = self.state.lock();
        for place in std::mem::take(&mut state.rerouting) {
            let at_least = state.groups.get(place).filter(|group| !group.is_decided()).and_then(Group::fenced);
            if let Some(at_least) = at_least {
                self.reroute(&mut state, place, at_least.0, &mut actions);
            }
        }
        drop(state);
        self.carry_out(actions);
    }

    fn deadline(&self) -> &Deadline {
        &self.deadline
    }
}

impl State {
    fn decide(&mut self, place: usize, result: Result<Written, RequestError>) {
        if let Some(slot @ None) = self.results.get_mut(place) {
            *slot = Some(result);
            self.undecided -= 1;
        }
    }

    /// The client's answer, once every group is decided.
    fn tell(&mut self) -> Option<Action> {
        if self.undecided > 0 {
            return None;
        }
        let done = self.done.take()?;
        if let Some(admitted) = &mut self.admitted {
            admitted.end_request();
        }
        Some(Action::Tell(done, std::mem::take(&mut self.results).into_iter().flatten().collect()))
    }
}

impl Parcel {
    fn of(stamp: Stamp) -> Self {
        Self { stamp, groups: Vec::new(), mutations: Vec::new(), resends: 0 }
    }
}

fn note(place: usize, group: &Group, target: NodeId, only_copy: bool) -> Action {
    // A hint is welcome under any map.
    let mutations = group.mutations.iter().map(|mutation| Mutation { claim: None, ..mutation.clone() });
    let missed = Missed { target, mutations: mutations.collect(), only_copy };
    Action::Note { group: place, round: group.round(), missed }
}

fn map_of<'a>(cluster: &'a ClusterState, target: Target, group: &Group) -> Option<&'a PartitionMap> {
    cluster.topology.placement(target.placement)?.partition(group.partition)
}
