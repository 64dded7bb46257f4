//! A page of the rows of one partition key on its way: pages from as many replicas as the level needs, merged row by
//! row (`merge.rs`), and stale replicas brought up to date before the answer, as for single rows.

mod merge;
mod slow;

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use cube_storage::model::{Epoch, Hlc, Invalid, Mutation, NodeId, Origin, Outcome, PartitionId, RowKey, Token};
use cube_storage::scan::{Row, ScanRequest, Scope};
use parking_lot::Mutex;

use self::merge::{Merged, len_bytes, merge, nodes};
use self::slow::Waiting;
use super::admission::Admitted;
use super::answers::{failure_of, is_behind, outcomes_of};
use super::confirm::{Confirmation, Next};
use super::deadlines::Deadline;
use super::error::{Failure, Incomplete, RequestError};
use super::explain::{Account, Kind, Ledger};
use super::figures::{Counters, RepairCause, RepairOutcome};
use super::read::has_not_heard_of_table;
use super::request::RangeRequest;
use super::{Coordinator, Timed};
use crate::catalog::Target;
use crate::consistency::Level;
use crate::messages::{Reply, ReplyBody, RequestBody, ScanRows, Stamp, WriteRows};
use crate::quorum::{State as Count, Tracker, ask};
use crate::topology::{DataCenter, PartitionMap, ReplicaSets};
use crate::transport::PeerError;

/// How often a range read follows a changed map before it gives up.
const REROUTES_MAX: u32 = 8;

/// One page of the rows of a partition key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangePage {
    /// In the order of their sort keys, deletions and ended values included: the edge leaves them out.
    pub rows: Vec<Row>,
    /// Whether more rows follow: the next page begins behind the last one of this.
    pub more: bool,
    /// The greatest clock among the answers, by which expiry is judged.
    pub as_of: Hlc,
    /// What was done for it, where that was asked for.
    pub account: Option<Arc<Account>>,
}

/// Told once what was read.
pub type OnRange = Box<dyn FnOnce(Result<RangePage, RequestError>) + Send>;

struct RangeOperation {
    coordinator: Arc<Coordinator>,
    target: Target,
    request: RangeRequest,
    partition: PartitionId,
    local: DataCenter,
    counters: Arc<Counters>,
    ledger: Option<Arc<Ledger>>,
    deadline: Deadline,
    state: Mutex<State>,
}

struct State {
    claim: Epoch,
    read_sets: ReplicaSets,
    write_sets: ReplicaSets,
    candidates: Vec<NodeId>,
    asked: Vec<NodeId>,
    waiting: Vec<Waiting>,
    replies: Vec<merge::Reply>,
    floor: Hlc,
    tracker: Tracker,
    merged: Option<(Merged, Confirmation)>,
    failures: Vec<(NodeId, Failure)>,
    fenced: Option<Epoch>,
    reroutes: u32,
    as_of: Hlc,
    done: Option<OnRange>,
    admitted: Option<Admitted>,
}

/// What is to be done outside the lock.
enum Action {
    Ask(NodeId, Epoch),
    Repair(NodeId, Epoch, Vec<Mutation>, Hlc),
    AwaitState { seen: Epoch },
    Tell(OnRange, Result<RangePage, RequestError>),
}

impl Coordinator {
    /// Reads one page of the rows of a partition key. `done` is told when the level has answered for every row on it.
    pub fn range(self: &Arc<Self>, request: RangeRequest, done: OnRange) {
        match self.prepare_range(request) {
            Err(error) => done(Err(error)),
            Ok(operation) => {
                operation.state.lock().done = Some(done);
                let operation = Arc::new(operation);
                let timed: Arc<dyn Timed> = operation.clone();
                operation.deadline.watch(Arc::downgrade(&timed));
                operation.change(|state| operation.ask_more(state));
            }
        }
    }

    fn prepare_range(self: &Arc<Self>, request: RangeRequest) -> Result<RangeOperation, RequestError> {
        let admitted = Admitted::new(self)?;
        let level = request.terms.level.for_reading()?;
        let cluster = self.parts.catalog.current();
        let target = cluster.schema.find(&request.table.keyspace, &request.table.table)?;
        self.limits.check_key(&RowKey::of(request.partition.clone()))?;
        self.limits.check_page(request.rows_max, self.limits.page_bytes_max)?;
        if is_reversed(&request.from, &request.to) {
            return Err(Invalid::RangeReversed.into());
        }
        let local = self.data_center(&cluster);
        let token = Token::of(&request.partition);
        let route = self.route(&cluster, target, token)?;
        let alive = |node| self.is_alive(node);
        level.check_alive(&route.map.read_sets(), &local, alive).map_err(RequestError::Unavailable)?;
        let timeout_ms = request.terms.timeout_ms.unwrap_or(self.settings.read_timeout_ms);
        let state = State {
            admitted: Some(admitted),
            as_of: self.parts.clock.peek(),
            ..State::new(self, route.map, level, &local)
        };
        Ok(RangeOperation {
            coordinator: Arc::clone(self),
            target,
            partition: route.partition,
            local,
            counters: self.figures.of(target.table.id),
            ledger: self.ledger((Kind::Range, target.table.id), &request.terms, &cluster),
            deadline: self.deadlines.at(self.parts.clock.monotonic_ms() + u64::from(timeout_ms)),
            request,
            state: Mutex::new(state),
        })
    }
}

impl State {
    fn new(coordinator: &Coordinator, map: &PartitionMap, level: Level, local: &DataCenter) -> Self {
        let read_sets = map.read_sets();
        let replicas: Vec<NodeId> = read_sets.nodes().collect();
        Self {
            claim: map.epoch(),
            write_sets: map.write_sets(),
            candidates: coordinator.candidates(&replicas),
            asked: Vec::new(),
            waiting: Vec::new(),
            replies: Vec::new(),
            floor: Hlc::default(),
            tracker: Tracker::new(level, &read_sets, local.clone()),
            read_sets,
            merged: None,
            failures: Vec::new(),
            fenced: None,
            reroutes: 0,
            as_of: Hlc::default(),
            done: None,
            admitted: None,
        }
    }

    fn fail(&mut self, node: NodeId, failure: Failure) {
        if let Failure::Fenced(epoch) = failure {
            self.fenced = self.fenced.max(Some(epoch));
        }
        self.candidates.retain(|candidate| *candidate != node);
        self.tracker.fail(node);
        self.failures.push((node, failure));
    }

    fn tell(&mut self, result: Result<RangePage, RequestError>) -> Vec<Action> {
        self.admitted = None;
        self.replies.clear();
        self.done.take().map(|done| Action::Tell(done, result)).into_iter().collect()
    }

    fn finish(&mut self, Merged { rows, more, .. }: Merged) -> Vec<Action> {
        let page = RangePage { rows, more, as_of: self.as_of, account: None };
        self.tell(Ok(page))
    }

    fn give_up(&mut self, timed_out: bool) -> Vec<Action> {
        let incomplete = Incomplete {
            write: false,
            level: self.tracker.level(),
            acknowledged_by: self.tracker.acknowledged().collect(),
            missing: self.tracker.missing().iter().map(|missing| missing.replicas).sum(),
            timed_out: timed_out || Incomplete::any_timed_out(&self.failures),
            failures: self.failures.clone(),
        };
        self.tell(Err(RequestError::ReadIncomplete(Box::new(incomplete))))
    }
}

impl RangeOperation {
    fn change(self: &Arc<Self>, change: impl FnOnce(&mut State) -> Vec<Action>) {
        let mut state = self.state.lock();
        let actions = if state.done.is_some() { change(&mut state) } else { Vec::new() };
        drop(state);
        for action in actions {
            match action {
                Action::Ask(node, claim) => self.ask(node, claim, 0),
                Action::Repair(node, claim, mutations, floor) => self.repair(node, claim, mutations, floor, 0),
                Action::AwaitState { seen } => self.coordinator.wait_for_state(self.clone(), seen),
                Action::Tell(done, mut result) => {
                    if let Some(ledger) = &self.ledger {
                        let account = self.coordinator.close(ledger, result.as_ref().err().map(ToString::to_string));
                        result.iter_mut().for_each(|page| page.account.clone_from(&account));
                    }
                    done(result);
                }
            }
        }
    }

    fn level(&self) -> Level {
        self.request.terms.level
    }

    fn ask_more(&self, state: &mut State) -> Vec<Action> {
        match ask(self.level(), &state.read_sets, &self.local, &state.candidates) {
            Ok(chosen) => {
                let fresh: Vec<NodeId> = chosen.into_iter().filter(|node| !state.asked.contains(node)).collect();
                state.asked.extend(&fresh);
                self.wait_for(state, &fresh);
                fresh.into_iter().map(|node| Action::Ask(node, state.claim)).collect()
            }
            Err(_) => self.reroute_or_give_up(state),
        }
    }

    fn ask(self: &Arc<Self>, node: NodeId, claim: Epoch, resends: u32) {
        let page = ScanRequest {
            table: self.target.table.id,
            scope: Scope::Partition {
                key: self.request.partition.clone(),
                from: self.request.from.clone(),
                to: self.request.to.clone(),
            },
            backward: self.request.backward,
            rows_max: self.request.rows_max,
            bytes_max: self.coordinator.limits.page_bytes_max,
            resume: None,
        };
        let operation = Arc::clone(self);
        let body = RequestBody::Scan(ScanRows { page, claim: Some(claim) });
        self.coordinator.send(node, body, self.deadline.ms(), self.ledger.as_ref(), move |reply| {
            let (coordinator, deadline_ms) = (&operation.coordinator, operation.deadline.ms());
            match coordinator.resend_at(resends, deadline_ms).filter(|_| has_not_heard_of_table(&reply)) {
                None => operation.change(|state| match state.claim == claim {
                    true => operation.on_page(state, node, reply),
                    false => Vec::new(),
                }),
                Some(due_ms) => {
                    let again = Arc::clone(&operation);
                    let ask_again = Box::new(move || {
                        if again.is_waited_for(claim) {
                            again.ask(node, claim, resends + 1);
                        }
                    });
                    coordinator.resend(due_ms, ask_again);
                }
            }
        });
    }

    /// Whether the client still waits, and by this map.
    fn is_waited_for(&self, claim: Epoch) -> bool {
        let state = self.state.lock();
        state.done.is_some() && state.claim == claim
    }

    fn on_page(&self, state: &mut State, node: NodeId, reply: Result<Reply, PeerError>) -> Vec<Action> {
        state.waiting.retain(|waiting| waiting.node != node);
        if let Ok(reply) = &reply {
            state.as_of = self.coordinator.later(state.as_of, reply.clock);
        }
        match reply.map_err(Failure::from).and_then(|reply| reply.body.map_err(failure_of)) {
            Ok(ReplyBody::Page { rows, next, floor }) => {
                if let Some(admitted) = &mut state.admitted {
                    admitted.hold(rows.iter().map(len_bytes).sum());
                }
                state.replies.push(merge::Reply { node, rows, more: next.is_some() });
                // The records may come from any of them: the lowest floor promises least.
                state.floor = if state.replies.len() == 1 { floor } else { state.floor.min(floor) };
                state.tracker.ack(node);
                self.compare(state)
            }
            Ok(_) => self.on_page_failed(state, node, Failure::Nonsense),
            Err(failure) => self.on_page_failed(state, node, failure),
        }
    }

    /// A replica told no page. Once the others' pages are merged nobody waits for it any more.
    fn on_page_failed(&self, state: &mut State, node: NodeId, failure: Failure) -> Vec<Action> {
        if state.merged.is_some() {
            return Vec::new();
        }
        state.fail(node, failure);
        self.ask_more(state)
    }

    /// A replica was brought what it lacks, or could not be.
    fn on_repaired(&self, state: &mut State, node: NodeId, repaired: Result<(), Failure>) -> Vec<Action> {
        let Some((_, confirmation)) = &mut state.merged else { return Vec::new() };
        let next = match repaired {
            Ok(()) => confirmation.on_held(node),
            Err(failure) => {
                let next = confirmation.on_failed(node);
                state.fail(node, failure);
                next
            }
        };
        self.confirm(state, next)
    }

    /// Once the level has answered: merges, and brings up to date who is behind.
    fn compare(&self, state: &mut State) -> Vec<Action> {
        if state.merged.is_some() || state.tracker.state() != Count::Met {
            return Vec::new();
        }
        let bytes_max = self.coordinator.limits.page_bytes_max;
        let merged = merge(&state.replies, self.request.backward, self.request.rows_max, bytes_max);
        let mut stale: BTreeMap<usize, usize> = BTreeMap::new();
        merged.stale.values().flatten().for_each(|place| *stale.entry(*place).or_default() += 1);
        stale.into_values().for_each(|stale| self.counters.mismatch(stale));
        if matches!(self.level(), Level::One | Level::LocalOne) {
            return state.finish(merged);
        }
        let asked = nodes(&state.replies);
        let (behind, holders): (Vec<NodeId>, Vec<NodeId>) =
            asked.into_iter().partition(|node| merged.stale.contains_key(node));
        let sets = (&state.read_sets, &state.write_sets);
        let newcomers: Vec<NodeId> = state.write_sets.nodes().filter(|node| !state.read_sets.contains(*node)).collect();
        let newcomers = self.coordinator.candidates(&newcomers);
        let (confirmation, next) =
            Confirmation::begin(self.level(), sets, &self.local, (&holders, &behind), (&state.candidates, &newcomers));
        state.merged = Some((merged, confirmation));
        self.confirm(state, next)
    }

    /// What brings a node up to date: the rows it was seen to lack, or all of them where it was not asked.
    fn repair_of(&self, state: &State, merged: &Merged, node: NodeId) -> Action {
        let all = || (0..merged.rows.len()).collect();
        let places: Vec<usize> = merged.stale.get(&node).cloned().unwrap_or_else(all);
        let mutation = |place: usize| {
            let Row { key, record } = merged.rows.get(place)?.clone();
            Some(Mutation { table: self.target.table.id, key, record, claim: Some(state.claim) })
        };
        Action::Repair(node, state.claim, places.into_iter().filter_map(mutation).collect(), state.floor)
    }

    fn repair(self: &Arc<Self>, node: NodeId, claim: Epoch, mutations: Vec<Mutation>, floor: Hlc, resends: u32) {
        let body = RequestBody::Write(WriteRows {
            origin: Origin::Replica { floor },
            mutations: mutations.clone(),
            stamp: Stamp::Old,
            seen: None,
            condition: None,
        });
        let operation = Arc::clone(self);
        self.coordinator.send(node, body, self.deadline.ms(), self.ledger.as_ref(), move |reply| {
            let outcomes = outcomes_of(reply, mutations.len());
            let repaired = repaired(&outcomes);
            let (coordinator, deadline_ms) = (&operation.coordinator, operation.deadline.ms());
            match coordinator.resend_at(resends, deadline_ms).filter(|_| is_behind(&repaired)) {
                None => {
                    let counted = outcomes.iter().map(RepairOutcome::of);
                    counted.for_each(|outcome| operation.counters.repair(RepairCause::Blocking, outcome));
                    operation.change(|state| match state.claim == claim {
                        true => operation.on_repaired(state, node, repaired),
                        false => Vec::new(),
                    });
                }
                Some(due_ms) => {
                    let again = Arc::clone(&operation);
                    let repair_again = Box::new(move || {
                        if again.is_waited_for(claim) {
                            again.repair(node, claim, mutations, floor, resends + 1);
                        }
                    });
                    coordinator.resend(due_ms, repair_again);
                }
            }
        });
    }

    fn confirm(&self, state: &mut State, next: Next) -> Vec<Action> {
        match (next, state.merged.take()) {
            (Next::Confirmed, Some((merged, _))) => state.finish(merged),
            (Next::Impossible, _) => self.reroute_or_give_up(state),
            (Next::Bring(targets), Some((merged, confirmation))) => {
                let repairs = targets.into_iter().map(|node| self.repair_of(state, &merged, node)).collect();
                state.merged = Some((merged, confirmation));
                repairs
            }
            (Next::Wait, merged) => {
                state.merged = merged;
                Vec::new()
            }
            (Next::Confirmed | Next::Bring(_), None) => Vec::new(),
        }
    }

    /// Begins again by the partition's newest map, or waits for it until the time is over.
    fn reroute_or_give_up(&self, state: &mut State) -> Vec<Action> {
        let Some(at_least) = state.fenced else { return state.give_up(false) };
        let cluster = self.coordinator.parts.catalog.current();
        let map = cluster.topology.placement(self.target.placement).and_then(|p| p.partition(self.partition));
        match map.filter(|map| map.epoch() >= at_least) {
            None => vec![Action::AwaitState { seen: cluster.topology.epoch() }],
            Some(_) if state.reroutes >= REROUTES_MAX => state.give_up(false),
            Some(map) => {
                let fresh = State::new(&self.coordinator, map, self.level(), &self.local);
                let old = std::mem::replace(state, fresh);
                state.reroutes = old.reroutes + 1;
                (state.as_of, state.done, state.admitted) = (old.as_of, old.done, old.admitted);
                if let Some(admitted) = &mut state.admitted {
                    admitted.release(admitted.bytes());
                }
                self.ask_more(state)
            }
        }
    }
}

impl Timed for RangeOperation {
    fn on_deadline(self: Arc<Self>) {
        self.change(|state| state.give_up(true));
        self.coordinator.stop_waiting(&*self);
    }

    fn on_early(self: Arc<Self>, now_ms: u64) {
        self.look_at_the_time(now_ms);
    }

    fn on_state(self: Arc<Self>) {
        self.change(|state| if state.fenced.is_some() { self.reroute_or_give_up(state) } else { Vec::new() });
    }

    fn deadline(&self) -> &Deadline {
        &self.deadline
    }
}

impl RangePage {
    /// Where the sort keys of the next page begin, or in reverse end; nothing after the last page.
    pub fn next_bound(&self) -> Option<Bound<Bytes>> {
        let last = self.rows.last().filter(|_| self.more)?;
        Some(Bound::Excluded(last.key.sort.clone()))
    }
}

/// Whether a range ends before it begins: nobody means that. One that is merely empty is what is left behind a last row.
fn is_reversed(from: &Bound<Bytes>, to: &Bound<Bytes>) -> bool {
    let sort = |bound: &Bound<Bytes>| match bound {
        Bound::Included(sort) | Bound::Excluded(sort) => Some(sort.clone()),
        Bound::Unbounded => None,
    };
    sort(from).zip(sort(to)).is_some_and(|(from, to)| from > to)
}

/// Whether a replica holds everything it was brought, or something newer.
fn repaired(outcomes: &[Result<Outcome, Failure>]) -> Result<(), Failure> {
    for outcome in outcomes {
        match outcome {
            Ok(Outcome::Applied | Outcome::Present | Outcome::Superseded(_)) => {}
            Ok(Outcome::Fenced(epoch)) => return Err(Failure::Fenced(*epoch)),
            Ok(Outcome::BelowFloor(floor)) => return Err(Failure::BelowFloor(*floor)),
            Err(failure) => return Err(failure.clone()),
        }
    }
    Ok(())
}
