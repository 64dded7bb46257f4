//! Reads of single rows on their way: ask as few replicas as the level needs, one for the record and the others for its
//! digest, and bring those that are behind up to date before answering.
//!
//! The decisions stand in `row.rs`, one for each row of the request. Here they are carried out: what goes to one node
//! goes in one message, and the client is told when every row is decided.
//!
//! An answer is bounded. A replica that has more records than one reply may hold tells of the rest only what identifies
//! them, and is asked again for those that won; once the records that are here fill the answer to the client, the rows that
//! are left say so ([`RequestError::AnswerFull`]). Rows are read a window at a time, so that those that will find no room
//! are not read by anybody.

mod mend;
mod mending;
mod repair;
mod row;
mod slow;
mod told;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use cube_storage::model::{Epoch, Hlc, Invalid, NodeId, Record, RowKey};
use parking_lot::Mutex;

use self::mend::Event;
use self::mending::Mending;
pub(super) use self::mending::Mends;
use self::repair::Repairs;
use self::row::{Row, Step};
use self::slow::Waiting;
use self::told::found_by;
pub(super) use self::told::has_not_heard_of_table;
use super::admission::Admitted;
use super::deadlines::Deadline;
use super::error::{Failure, RequestError};
use super::explain::{Account, Kind, Ledger};
use super::figures::{Counters, RepairCause, RepairOutcome};
use super::request::ReadRequest;
use super::{Coordinator, Timed};
use crate::catalog::Target;
use crate::messages::{ReadRows, Reply, RequestBody, Want};
use crate::transport::PeerError;

/// Rows of a request that are read at once. Few enough that replicas do not read gigabytes for an answer of megabytes, many
/// enough that messages are full.
const WINDOW_ROWS: usize = 256;

/// A row as a read found it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadRow {
    /// The newest record: a value, a tombstone, or nothing.
    pub record: Option<Record>,
    /// The greatest clock among the answers, by which expiry is judged.
    pub as_of: Hlc,
    /// What was done for the whole request, where that was asked for.
    pub account: Option<Arc<Account>>,
}

impl ReadRow {
    /// The value, if there is one that has not ended.
    pub fn value(&self) -> Option<&Bytes> {
        self.record.as_ref()?.live_value(self.as_of)
    }
}

/// Told once what was read: for each row of the request, in its order.
pub type OnRead = Box<dyn FnOnce(Result<Vec<Result<ReadRow, RequestError>>, RequestError>) + Send>;

struct ReadOperation {
    coordinator: Arc<Coordinator>,
    target: Target,
    counters: Arc<Counters>,
    ledger: Option<Arc<Ledger>>,
    deadline: Deadline,
    state: Mutex<State>,
}

struct State {
    rows: Vec<Row>,
    /// The first row that nobody was asked for yet.
    next: usize,
    results: Vec<Option<Result<Option<Record>, RequestError>>>,
    undecided: usize,
    done: Option<OnRead>,
    as_of: Hlc,
    /// Until the client is told: it holds the bytes of the keys, and of the records that are here.
    admitted: Option<Admitted>,
    /// Bytes of the records that are here, row by row and together.
    row_bytes: Vec<usize>,
    record_bytes: usize,
    /// A record found no room in the answer: no more are asked for.
    is_full: bool,
    /// Rows that wait for a newer map.
    rerouting: Vec<usize>,
    /// Messages that wait for their replies.
    waiting: Vec<Waiting>,
    /// Rows of which all replicas are asked, which goes on when the client was told.
    mends: BTreeMap<usize, Arc<Mending>>,
}

/// What is to be done outside the lock. Places name rows by where they stand, with the epoch that they are read by: what
/// was asked under an earlier map is no answer under a later one.
#[derive(Default)]
struct Actions {
    asks: BTreeMap<(NodeId, bool), Vec<(usize, Epoch)>>,
    repairs: Repairs,
    mends: Vec<(Arc<Mending>, Event)>,
    /// A newer state than this is waited for.
    await_state: Option<Epoch>,
    tell: Option<Telling>,
}

/// The client's answer, and who it is told to.
type Telling = (OnRead, Vec<Result<ReadRow, RequestError>>);

impl Coordinator {
    /// Reads rows. `done` is told when every row is decided.
    pub fn read(self: &Arc<Self>, request: ReadRequest, done: OnRead) {
        match self.prepare_read(request) {
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

    fn prepare_read(self: &Arc<Self>, request: ReadRequest) -> Result<ReadOperation, RequestError> {
        let mut admitted = Admitted::new(self)?;
        let level = request.terms.level.for_reading()?;
        let state = self.parts.catalog.current();
        let target = state.schema.find(&request.table.keyspace, &request.table.table)?;
        admitted.reserve(self.check_keys(&request.keys)?)?;
        let local = self.data_center(&state);
        let mut rows = Vec::with_capacity(request.keys.len());
        for key in request.keys {
            self.limits.check_key(&key)?;
            let route = self.route(&state, target, key.token())?;
            let alive = |node| self.is_alive(node);
            level.check_alive(&route.map.read_sets(), &local, alive).map_err(RequestError::ReadUnavailable)?;
            rows.push(Row::new(target.table.id, key, route.partition, route.map, level, &local));
        }
        let timeout_ms = request.terms.timeout_ms.unwrap_or(self.settings.read_timeout_ms);
        Ok(ReadOperation {
            coordinator: Arc::clone(self),
            target,
            counters: self.figures.of(target.table.id),
            ledger: self.ledger((Kind::Read, target.table.id), &request.terms, &state),
            deadline: self.deadlines.at(self.parts.clock.monotonic_ms() + u64::from(timeout_ms)),
            state: Mutex::new(State {
                results: rows.iter().map(|_| None).collect(),
                undecided: rows.len(),
                row_bytes: vec![0; rows.len()],
                rows,
                next: 0,
                done: None,
                as_of: self.parts.clock.peek(),
                admitted: Some(admitted),
                record_bytes: 0,
                is_full: false,
                rerouting: Vec::new(),
                waiting: Vec::new(),
                mends: BTreeMap::new(),
            }),
        })
    }

    /// Keys and rows are bounded as those of a batch are. How many bytes the keys are.
    fn check_keys(&self, keys: &[RowKey]) -> Result<usize, Invalid> {
        let (rows, limit) = (keys.len(), self.limits.batch_rows_max);
        if rows > limit {
            return Err(Invalid::BatchTooManyRows { rows, limit });
        }
        let (bytes, limit) = (keys.iter().map(RowKey::len_bytes).sum(), self.limits.batch_bytes_max);
        if bytes > limit {
            return Err(Invalid::BatchTooLong { bytes, limit });
        }
        Ok(bytes)
    }
}

impl ReadOperation {
    fn start(self: &Arc<Self>) {
        self.change(|state, actions| {
            self.begin_window(state, actions);
            if state.rows.is_empty() {
                actions.tell = actions.tell.take().or_else(|| self.tell(state));
            }
        });
    }

    /// Begins the next rows; where the answer is full already, all that are left have no room in it.
    fn begin_window(&self, state: &mut State, actions: &mut Actions) {
        let first = state.next;
        let window = if state.is_full { usize::MAX } else { WINDOW_ROWS };
        state.next = first.saturating_add(window).min(state.rows.len());
        for place in first..state.next {
            let everybody = self.coordinator.by_chance(self.target.table.settings.read_repair_percent);
            self.begin(state, place, everybody, actions);
        }
    }

    /// Changes the state under the lock, and carries out what follows outside of it.
    fn change(self: &Arc<Self>, change: impl FnOnce(&mut State, &mut Actions)) {
        let mut actions = Actions::default();
        let mut state = self.state.lock();
        change(&mut state, &mut actions);
        let asks = actions.asks.into_iter().filter_map(|((node, record), places)| {
            let want = if record { Want::Record } else { Want::Header };
            let rows = self.rows_at(&state, &places, want);
            (!rows.rows.is_empty()).then_some((node, places, rows))
        });
        let asks: Vec<_> = asks.collect();
        let now_ms = if asks.is_empty() { 0 } else { self.coordinator.parts.clock.monotonic_ms() };
        let mut late_ms = None;
        for (node, ..) in asks.iter().filter(|(node, ..)| *node != self.coordinator.parts.me) {
            state.wait_for(*node, now_ms);
            late_ms = [late_ms, self.late_ms(*node, now_ms)].into_iter().flatten().min();
        }
        drop(state);
        if let Some(late_ms) = late_ms {
            self.deadline.wake_at(late_ms);
        }
        asks.into_iter().for_each(|(node, places, rows)| self.ask(node, places, rows, (now_ms, 0)));
        actions.repairs.into_parcels().into_iter().for_each(|parcel| self.bring(parcel));
        actions.mends.into_iter().for_each(|(mending, event)| mending.on(event));
        if let Some(seen) = actions.await_state {
            self.coordinator.wait_for_state(self.clone(), seen);
        }
        if let Some((done, rows)) = actions.tell {
            done(Ok(rows));
        }
    }

    /// Asks for a row: as many as the level needs, or everybody.
    fn begin(&self, state: &mut State, place: usize, everybody: bool, actions: &mut Actions) {
        let Some(row) = state.rows.get_mut(place) else { return };
        let here = (self.target.placement, row.partition);
        let candidates = self.coordinator.preferred(row.replicas(), here, |node| row.is_near(node));
        let newcomers = self.coordinator.candidates(&row.newcomers());
        let mut step = row.begin(candidates, newcomers);
        if let (true, Step::Ask(asks)) = (everybody, &mut step) {
            if Mending::may_begin(&self.coordinator) {
                self.counters.chance_read();
                let rest = row.ask_rest();
                self.ledger.iter().for_each(|ledger| rest.iter().for_each(|(node, _)| ledger.by_chance(*node)));
                asks.extend(rest);
                let what = (row.table, row.key.clone(), row.claim);
                let mending = Mending::begin(&self.coordinator, &self.counters, what, row.asked().to_vec());
                state.mends.insert(place, mending);
            } else {
                self.counters.repair(RepairCause::Chance, RepairOutcome::Skipped);
            }
        }
        self.take(state, place, step, actions);
    }

    fn rows_at(&self, state: &State, places: &[(usize, Epoch)], want: Want) -> ReadRows {
        let rows = places.iter().filter_map(|(place, epoch)| Some((state.rows.get(*place)?.key.clone(), *epoch)));
        ReadRows { table: self.target.table.id, rows: rows.collect(), want }
    }

    fn ask(
        self: &Arc<Self>,
        node: NodeId,
        places: Vec<(usize, Epoch)>,
        rows: ReadRows,
        (sent_ms, resends): (u64, u32),
    ) {
        let (operation, want) = (Arc::clone(self), rows.want);
        self.coordinator.send(node, RequestBody::Read(rows), self.deadline.ms(), self.ledger.as_ref(), move |reply| {
            let (coordinator, deadline_ms) = (&operation.coordinator, operation.deadline.ms());
            match coordinator.resend_at(resends, deadline_ms).filter(|_| has_not_heard_of_table(&reply)) {
                None => operation.on_reply((node, want, sent_ms), &places, reply),
                Some(due_ms) => {
                    let again = Arc::clone(&operation);
                    let ask_again = Box::new(move || again.ask_again((node, want), places, resends + 1));
                    coordinator.resend(due_ms, ask_again);
                }
            }
        });
    }

    /// Asks a replica that was behind for those rows that are still undecided.
    fn ask_again(self: &Arc<Self>, (node, want): (NodeId, Want), mut places: Vec<(usize, Epoch)>, resends: u32) {
        let state = self.state.lock();
        let is_waited_for = |row: &Row, epoch| row.claim == epoch && !row.is_decided();
        places.retain(|(place, epoch)| state.rows.get(*place).is_some_and(|row| is_waited_for(row, *epoch)));
        let rows = self.rows_at(&state, &places, want);
        drop(state);
        if !places.is_empty() {
            let now_ms = self.coordinator.parts.clock.monotonic_ms();
            self.ask(node, places, rows, (now_ms, resends));
        }
    }

    fn on_reply(
        self: &Arc<Self>,
        (node, want, sent_ms): (NodeId, Want, u64),
        places: &[(usize, Epoch)],
        reply: Result<Reply, PeerError>,
    ) {
        if reply.is_ok() {
            self.coordinator.note_answer(node, sent_ms);
        }
        self.change(|state, actions| {
            state.end_wait(node, sent_ms);
            if let Ok(reply) = &reply {
                state.as_of = self.coordinator.later(state.as_of, reply.clock);
            }
            let mut found = found_by(reply, places.len(), want).into_iter();
            for &(place, epoch) in places {
                let found = found.next().unwrap_or(Err(Failure::Nonsense));
                if let Some(mending) = state.mends.get(&place).filter(|mending| mending.claim() == epoch) {
                    let told = found.as_ref().map(|found| Event::Found(node, found.clone()));
                    actions.mends.push((Arc::clone(mending), told.unwrap_or(Event::Failed(node))));
                }
                let Some(row) = state.rows.get_mut(place).filter(|row| row.claim == epoch) else { continue };
                // What is here of the row itself gives way to what wins.
                let others = state.record_bytes.saturating_sub(row.record_bytes());
                let bytes = found.as_ref().map_or(0, |found| row.bytes_of(found));
                let has_room = bytes == 0 || others == 0 || others + bytes <= self.coordinator.limits.batch_bytes_max;
                state.is_full |= !has_room;
                let step = match found {
                    Ok(_) if !has_room => row.refuse(self.answer_full()),
                    Ok(found) => row.on_found(node, found),
                    Err(failure) => {
                        self.note_failure((node, row.partition), &failure);
                        row.on_failure(node, failure)
                    }
                };
                self.take(state, place, step, actions);
            }
        });
    }

    fn answer_full(&self) -> RequestError {
        RequestError::AnswerFull { limit_bytes: self.coordinator.limits.batch_bytes_max }
    }

    /// Turns a row's next step into actions.
    fn take(&self, state: &mut State, place: usize, step: Step, actions: &mut Actions) {
        state.count_records(place);
        let Some(row) = state.rows.get_mut(place) else { return };
        match step {
            Step::Nothing => {}
            Step::Ask(asks) if state.is_full && asks.iter().any(|(_, want)| *want == Want::Record) => {
                let step = row.refuse(self.answer_full());
                self.take(state, place, step, actions);
            }
            Step::Ask(asks) => {
                for (node, want) in asks {
                    actions.asks.entry((node, want == Want::Record)).or_default().push((place, row.claim));
                }
            }
            Step::Repair { record, floor, targets } => {
                targets.into_iter().for_each(|node| actions.repairs.add(node, floor, place, row.repair(&record)));
            }
            Step::Reroute(at_least) => self.reroute(state, place, at_least, actions),
            Step::Done(result) => {
                self.count(row);
                if let Some(mending) = state.mends.get(&place) {
                    actions.mends.push((Arc::clone(mending), Event::Decided(std::mem::take(&mut row.holders))));
                }
                if let Some(slot @ None) = state.results.get_mut(place) {
                    *slot = Some(result);
                    state.undecided -= 1;
                }
                if state.undecided == 0 {
                    actions.tell = actions.tell.take().or_else(|| self.tell(state));
                } else if state.undecided == state.rows.len() - state.next {
                    self.begin_window(state, actions);
                }
            }
        }
    }

    /// Begins again by the partition's newest map, or waits for it until the time is over.
    fn reroute(&self, state: &mut State, place: usize, at_least: Epoch, actions: &mut Actions) {
        // What was told by the older map is the rest of nothing.
        state.mends.remove(&place);
        let cluster = self.coordinator.parts.catalog.current();
        let Some(row) = state.rows.get_mut(place) else { return };
        let map = cluster.topology.placement(self.target.placement).and_then(|p| p.partition(row.partition));
        match map.filter(|map| map.epoch() >= at_least) {
            None => {
                state.rerouting.push(place);
                actions.await_state = Some(cluster.topology.epoch());
            }
            Some(map) => {
                if row.reroute(map) {
                    return self.begin(state, place, false, actions);
                }
                let step = row.give_up(false);
                self.take(state, place, step, actions);
            }
        }
    }
}

impl Timed for ReadOperation {
    fn on_deadline(self: Arc<Self>) {
        self.change(|state, actions| {
            // Nobody is asked any more.
            state.next = state.rows.len();
            for place in 0..state.rows.len() {
                let Some(step) = state.rows.get_mut(place).map(Row::on_deadline) else { continue };
                self.take(state, place, step, actions);
            }
        });
        self.coordinator.stop_waiting(&*self);
    }

    fn on_state(self: Arc<Self>) {
        self.change(|state, actions| {
            for place in std::mem::take(&mut state.rerouting) {
                let at_least = state.rows.get(place).filter(|row| !row.is_decided()).and_then(Row::fenced);
                if let Some(at_least) = at_least {
                    self.reroute(state, place, at_least, actions);
                }
            }
        });
    }

    fn on_early(self: Arc<Self>, now_ms: u64) {
        self.look_at_the_time(now_ms);
    }

    fn deadline(&self) -> &Deadline {
        &self.deadline
    }
}

impl State {
    /// Counts the records of a row anew, after any step of it.
    fn count_records(&mut self, place: usize) {
        let (Some(row), Some(counted)) = (self.rows.get(place), self.row_bytes.get_mut(place)) else { return };
        let before = std::mem::replace(counted, row.record_bytes());
        self.record_bytes = self.record_bytes.saturating_sub(before) + *counted;
        if let Some(admitted) = &mut self.admitted {
            admitted.hold(counted.saturating_sub(before));
            admitted.release(before.saturating_sub(*counted));
        }
    }

    /// The client's answer.
    fn tell(&mut self) -> Option<Telling> {
        let done = self.done.take()?;
        // What comes later is for nobody: nothing is kept for it.
        self.admitted = None;
        let as_of = self.as_of;
        let results = std::mem::take(&mut self.results).into_iter().flatten();
        Some((done, results.map(|result| Ok(ReadRow { record: result?, as_of, account: None })).collect()))
    }
}

#[cfg(test)]
mod tests;
