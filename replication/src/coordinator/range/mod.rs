//! A page of the rows of one partition key on its way: what `page.rs` decides is carried out here, through messages,
//! deadlines and maps that change, as for single rows.

mod merge;
mod page;
mod slow;

use std::ops::Bound;
use std::slice;
use std::sync::Arc;

use bytes::Bytes;
use cube_storage::model::{Epoch, Hlc, Invalid, Mutation, NodeId, Origin, Outcome, PartitionId, RowKey, Token};
use cube_storage::scan::{Row, ScanRequest, Scope};
use parking_lot::Mutex;

use self::merge::len_bytes;
use self::page::{Bounds, Mismatch, Page, Step};
use self::slow::Waiting;
use super::admission::Admitted;
use super::answers::{failure_of, is_behind, outcomes_of};
use super::deadlines::Deadline;
use super::error::{Failure, RequestError};
use super::explain::{Account, Kind, Ledger, Reason, Stale, Verdict};
use super::figures::{Counters, RepairCause, RepairOutcome};
use super::read::has_not_heard_of_table;
use super::request::RangeRequest;
use super::{Coordinator, Timed};
use crate::catalog::Target;
use crate::messages::{Reply, ReplyBody, RequestBody, ScanRows, Stamp, WriteRows};
use crate::transport::PeerError;

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
    counters: Arc<Counters>,
    ledger: Option<Arc<Ledger>>,
    deadline: Deadline,
    state: Mutex<State>,
}

struct State {
    page: Page,
    waiting: Vec<Waiting>,
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
                operation.change(|state| operation.begin(state));
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
        level.check_alive(&route.map.read_sets(), &local, alive).map_err(RequestError::ReadUnavailable)?;
        let timeout_ms = request.terms.timeout_ms.unwrap_or(self.settings.read_timeout_ms);
        let bounds =
            Bounds { backward: request.backward, rows_max: request.rows_max, bytes_max: self.limits.page_bytes_max };
        let state = State {
            page: Page::new(route.map, level, &local, bounds),
            waiting: Vec::new(),
            as_of: self.parts.clock.peek(),
            done: None,
            admitted: Some(admitted),
        };
        Ok(RangeOperation {
            coordinator: Arc::clone(self),
            target,
            partition: route.partition,
            counters: self.figures.of(target.table.id),
            ledger: self.ledger((Kind::Range, target.table.id), &request.terms, &cluster),
            deadline: self.deadlines.at(self.parts.clock.monotonic_ms() + u64::from(timeout_ms)),
            request,
            state: Mutex::new(state),
        })
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
                    self.coordinator.explain(self.ledger.as_ref(), slice::from_mut(&mut result));
                    done(result);
                }
            }
        }
    }

    /// Asks as many as the level needs, the best liked first.
    fn begin(&self, state: &mut State) -> Vec<Action> {
        let (page, here) = (&mut state.page, (self.target.placement, self.partition));
        let candidates = self.coordinator.preferred(page.replicas(), here, |node| page.is_near(node));
        let newcomers = self.coordinator.candidates(&page.newcomers());
        let step = page.begin(candidates, newcomers);
        self.take(state, step)
    }

    /// Carries a decision out.
    fn take(&self, state: &mut State, step: Step) -> Vec<Action> {
        for mismatch in state.page.take_mismatches() {
            self.counters.mismatch(mismatch.behind.len());
            if let Some(ledger) = &self.ledger {
                ledger.verdict(self.verdict(mismatch));
            }
        }
        match step {
            Step::Nothing => Vec::new(),
            Step::Ask(nodes) => {
                self.wait_for(state, &nodes);
                nodes.into_iter().map(|node| Action::Ask(node, state.page.claim)).collect()
            }
            Step::Repair { floor, targets } => {
                let claim = state.page.claim;
                let table = self.target.table.id;
                let mutation = |Row { key, record }| Mutation { table, key, record, claim: Some(claim) };
                let repair = |(node, rows): (NodeId, Vec<Row>)| {
                    Action::Repair(node, claim, rows.into_iter().map(mutation).collect(), floor)
                };
                targets.into_iter().map(repair).collect()
            }
            Step::Reroute(at_least) => self.reroute(state, at_least),
            Step::Done(result) => {
                state.admitted = None;
                let as_of = state.as_of;
                let told = result.map(|(rows, more)| RangePage { rows, more, as_of, account: None });
                state.done.take().map(|done| Action::Tell(done, told)).into_iter().collect()
            }
        }
    }

    fn verdict(&self, Mismatch { sort, winner, behind }: Mismatch) -> Verdict {
        let is_tie = behind.iter().any(|(_, version)| *version == Some(winner));
        let stale = |(node, version)| Stale::new(node, version, Some(winner));
        Verdict {
            key: RowKey::with_sort(self.request.partition.clone(), sort),
            winner: Some(winner),
            reason: if is_tie { Reason::Tie } else { Reason::Newest },
            stale: behind.into_iter().map(stale).collect(),
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
                None => operation.change(|state| match state.page.claim == claim {
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
        state.done.is_some() && state.page.claim == claim
    }

    fn on_page(&self, state: &mut State, node: NodeId, reply: Result<Reply, PeerError>) -> Vec<Action> {
        state.waiting.retain(|waiting| waiting.node != node);
        if let Ok(reply) = &reply {
            state.as_of = self.coordinator.later(state.as_of, reply.clock);
        }
        let step = match reply.map_err(Failure::from).and_then(|reply| reply.body.map_err(failure_of)) {
            Ok(ReplyBody::Page { rows, next, floor }) => {
                if let Some(admitted) = state.admitted.as_mut().filter(|_| state.page.is_asking()) {
                    admitted.hold(rows.iter().map(len_bytes).sum());
                }
                state.page.on_page(node, (rows, next.is_some()), floor)
            }
            Ok(_) => state.page.on_failure(node, Failure::Nonsense),
            Err(failure) => state.page.on_failure(node, failure),
        };
        self.take(state, step)
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
                    operation.change(|state| match state.page.claim == claim {
                        true => {
                            let step = state.page.on_repaired(node, repaired);
                            operation.take(state, step)
                        }
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

    /// Begins again by the partition's newest map, or waits for it until the time is over.
    fn reroute(&self, state: &mut State, at_least: Epoch) -> Vec<Action> {
        let cluster = self.coordinator.parts.catalog.current();
        let map = cluster.topology.placement(self.target.placement).and_then(|p| p.partition(self.partition));
        let Some(map) = map.filter(|map| map.epoch() >= at_least) else {
            return vec![Action::AwaitState { seen: cluster.topology.epoch() }];
        };
        if !state.page.reroute(map) {
            let step = state.page.give_up(false);
            return self.take(state, step);
        }
        state.waiting.clear();
        if let Some(admitted) = &mut state.admitted {
            admitted.release(admitted.bytes());
        }
        self.begin(state)
    }
}

impl Timed for RangeOperation {
    fn on_deadline(self: Arc<Self>) {
        self.change(|state| {
            let step = state.page.give_up(true);
            self.take(state, step)
        });
        self.coordinator.stop_waiting(&*self);
    }

    fn on_early(self: Arc<Self>, now_ms: u64) {
        self.look_at_the_time(now_ms);
    }

    fn on_state(self: Arc<Self>) {
        self.change(|state| match state.page.fenced() {
            Some(at_least) => self.reroute(state, at_least),
            None => Vec::new(),
        });
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
            Ok(Outcome::Applied | Outcome::Present | Outcome::Superseded(_) | Outcome::LostUpTo(_)) => {}
            Ok(Outcome::Fenced(epoch)) => return Err(Failure::Fenced(*epoch)),
            Ok(Outcome::BelowFloor(floor)) => return Err(Failure::BelowFloor(*floor)),
            Err(failure) => return Err(failure.clone()),
        }
    }
    Ok(())
}
