//! A page of a table's rows by key prefix, on its way: all partitions at once, each by as many replicas as the level needs.
//!
//! Keys are in one order on every replica, so nodes are asked for the next piece of that order, and their pieces merged up
//! to where the first of them ended (`page.rs`). Rows on which replicas differ are read by themselves, as any client's read
//! would be: that finds the newest, brings those that are behind up to date, and keeps successive quorum scans and reads
//! from going back.
//!
//! Bounds: a page has a limit of rows and bytes, and so has each piece; every node is asked once for all that it is counted
//! for; the time is that of a read, of which a part is kept for the rows that differ. Whoever drops the [`Scanning`] that a
//! page is asked with ends it.

mod page;
mod slow;
mod token;

use std::collections::BTreeSet;
use std::slice;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use cube_storage::model::{Epoch, Hlc, Invalid, NodeId, PartitionId, RowKey};
use cube_storage::scan::Row;
use parking_lot::Mutex;

use self::page::{Ask, Merged, Page, Scope, len_bytes, runs};
use self::slow::Waiting;
use super::admission::Admitted;
use super::answers::failure_of;
use super::deadlines::Deadline;
use super::error::{Failure, Incomplete, RequestError};
use super::explain::{Account, Explained, Kind, Ledger};
use super::figures::Counters;
use super::read::{ReadRow, has_not_heard_of_table};
use super::request::{PrefixRequest, ReadRequest, TableName, Terms};
use super::{Coordinator, Timed};
use crate::catalog::{ClusterState, Target};
use crate::messages::{Reply, ReplyBody, RequestBody, ScanTable};
use crate::transport::PeerError;

/// Of four parts of a page's time so many are for the replicas' pieces; the rest is for the rows on which they differ.
const GATHER_QUARTERS: u64 = 3;
/// Pieces that are read of several nodes hold together so many pages, and each at least so much.
const PIECES_PAGES: usize = 2;
const PIECE_BYTES_MIN: usize = 64 << 10;

/// One page of a table's rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrefixPage {
    /// In the order of their keys, deletions and ended values included: [`PrefixPage::live`] leaves them out.
    pub rows: Vec<Row>,
    /// What the next page is asked with; nothing after the last. A page that is not the last may be empty.
    pub next: Option<Bytes>,
    /// Partitions that did not reach the level: none of their rows is on the page. Asked for again with the same token, it
    /// may be whole.
    pub partial: BTreeSet<PartitionId>,
    /// The greatest clock among the answers, by which expiry is judged.
    pub as_of: Hlc,
    /// What was done for it, where that was asked for.
    pub account: Option<Arc<Account>>,
}

impl PrefixPage {
    /// The rows that are there: neither deleted nor ended.
    pub fn live(&self) -> impl Iterator<Item = (&RowKey, &Bytes)> {
        self.rows.iter().filter_map(|row| Some((&row.key, row.record.live_value(self.as_of)?)))
    }
}

/// Told once what was read.
pub type OnPrefix = Box<dyn FnOnce(Result<PrefixPage, RequestError>) + Send>;

/// A page that is being read, until this is dropped: then nobody is told, and what was read for it is let go.
#[must_use = "a page that nobody waits for is not read"]
pub struct Scanning(Option<Arc<Operation>>);

impl Drop for Scanning {
    fn drop(&mut self) {
        if let Some(operation) = &self.0 {
            let mut state = operation.state.lock();
            let let_go = (state.done.take(), state.admitted.take(), state.stage.take());
            drop(state);
            drop(let_go);
        }
    }
}

struct Operation {
    coordinator: Arc<Coordinator>,
    target: Target,
    table: TableName,
    terms: Terms,
    prefix: Bytes,
    backward: bool,
    rows_max: usize,
    position: Option<Bytes>,
    piece_bytes_max: usize,
    /// Until when pieces are waited for.
    gather_until_ms: u64,
    counters: Arc<Counters>,
    ledger: Option<Arc<Ledger>>,
    deadline: Deadline,
    state: Mutex<State>,
}

struct State {
    stage: Option<Stage>,
    waiting: Vec<Waiting>,
    as_of: Hlc,
    done: Option<OnPrefix>,
    admitted: Option<Admitted>,
}

enum Stage {
    /// Pieces are gathered.
    Gathering(Page),
    /// Rows on which they differ are read by themselves.
    Settling(Page, Merged),
}

/// What is to be done outside the lock.
#[derive(Default)]
struct Actions {
    asks: Vec<Ask>,
    await_state: Option<Epoch>,
    settle: Vec<RowKey>,
    tell: Option<(OnPrefix, Result<PrefixPage, RequestError>)>,
}

impl Coordinator {
    /// Reads one page of a table's rows. `done` is told when every partition has reached the level, or cannot.
    pub fn scan(self: &Arc<Self>, request: PrefixRequest, done: OnPrefix) -> Scanning {
        match self.prepare_scan(request) {
            Err(error) => {
                done(Err(error));
                Scanning(None)
            }
            Ok(operation) => {
                operation.state.lock().done = Some(done);
                let operation = Arc::new(operation);
                let timed: Arc<dyn Timed> = operation.clone();
                operation.deadline.watch(Arc::downgrade(&timed));
                operation.change(|state, actions| operation.go_on(state, actions));
                Scanning(Some(operation))
            }
        }
    }

    fn prepare_scan(self: &Arc<Self>, request: PrefixRequest) -> Result<Operation, RequestError> {
        let PrefixRequest { table, prefix, backward, rows_max, bytes_max, resume, terms } = request;
        let admitted = Admitted::new(self)?;
        let level = terms.level.for_reading()?;
        let cluster = self.parts.catalog.current();
        let target = cluster.schema.find(&table.keyspace, &table.table)?;
        let id = target.table.id;
        let bytes_max = bytes_max.unwrap_or(self.limits.page_bytes_max);
        self.limits.check_page(rows_max, bytes_max)?;
        if prefix.len() > self.limits.key_bytes_max {
            return Err(Invalid::KeyTooLong { bytes: prefix.len(), limit: self.limits.key_bytes_max }.into());
        }
        if !target.table.prefix_index {
            return Err(Invalid::NoPrefixIndex { table: id }.into());
        }
        let position = resume.map(|resume| token::open(id, &prefix, backward, &resume)).transpose()?;
        let scope = Scope {
            table: id,
            bits: cluster.topology.partition_bits(),
            backward,
            rows_max,
            bytes_max,
            uncertain_max: self.limits.batch_rows_max,
            level,
            local: self.data_center(&cluster),
        };
        let page = self.page_of(&cluster, target, scope)?;
        let now_ms = self.parts.clock.monotonic_ms();
        let timeout_ms = u64::from(terms.timeout_ms.unwrap_or(self.settings.read_timeout_ms));
        Ok(Operation {
            coordinator: Arc::clone(self),
            target,
            table,
            prefix,
            backward,
            rows_max,
            position,
            piece_bytes_max: self.piece_bytes_max(&page, bytes_max),
            gather_until_ms: now_ms + timeout_ms * GATHER_QUARTERS / 4,
            counters: self.figures.of(id),
            ledger: self.ledger((Kind::Scan, id), &terms, &cluster),
            terms,
            deadline: self.deadlines.at(now_ms + timeout_ms),
            state: Mutex::new(State {
                stage: Some(Stage::Gathering(page)),
                waiting: Vec::new(),
                as_of: self.parts.clock.peek(),
                done: None,
                admitted: Some(admitted),
            }),
        })
    }

    /// A page of all partitions, unless too few replicas are alive for every one of them.
    fn page_of(&self, cluster: &ClusterState, target: Target, scope: Scope) -> Result<Page, RequestError> {
        let placement = cluster.topology.placement(target.placement).ok_or(RequestError::NoReplicas)?;
        let mut refused = None;
        let mut is_any = false;
        for (_, map) in placement.partitions() {
            match scope.level.check_alive(&map.read_sets(), &scope.local, |node| self.is_alive(node)) {
                Ok(()) => is_any = true,
                Err(unavailable) => refused = refused.or(Some(unavailable)),
            }
        }
        match refused {
            Some(unavailable) if !is_any => return Err(RequestError::ReadUnavailable(unavailable)),
            _ if !is_any => return Err(RequestError::NoReplicas),
            _ => {}
        }
        let mut nodes: BTreeSet<NodeId> = BTreeSet::new();
        placement.partitions().for_each(|(_, map)| nodes.extend(map.serving().nodes()));
        let here = |node: NodeId| {
            let member = cluster.topology.member(node);
            member.is_some_and(|member| member.data_center == scope.local)
        };
        let first = (target.placement, PartitionId(0));
        let preferred = self.preferred(nodes.into_iter().collect(), first, here);
        Ok(Page::new(scope, preferred, placement.partitions()))
    }

    fn piece_bytes_max(&self, page: &Page, bytes_max: usize) -> usize {
        let nodes = page.nodes().max(1);
        (bytes_max * PIECES_PAGES / nodes).max(PIECE_BYTES_MIN).min(bytes_max)
    }
}

impl Operation {
    fn change(self: &Arc<Self>, change: impl FnOnce(&mut State, &mut Actions)) {
        let mut actions = Actions::default();
        let mut state = self.state.lock();
        if state.done.is_some() {
            change(&mut state, &mut actions);
        }
        let now_ms = self.coordinator.parts.clock.monotonic_ms();
        for (node, _) in actions.asks.iter().filter(|(node, _)| *node != self.coordinator.parts.me) {
            state.waiting.push(Waiting { node: *node, sent_ms: now_ms, is_late: false });
        }
        let wake_ms = self.next_look_ms(&state);
        drop(state);
        if !actions.asks.is_empty() {
            self.deadline.wake_at(wake_ms);
        }
        actions.asks.into_iter().for_each(|(node, partitions)| self.ask(node, partitions, (now_ms, 0)));
        if let Some(seen) = actions.await_state {
            self.coordinator.wait_for_state(self.clone(), seen);
        }
        if !actions.settle.is_empty() {
            self.settle(actions.settle);
        }
        if let Some((done, result)) = actions.tell {
            done(result);
        }
    }

    /// Asks whom there is to ask, follows changed maps, and goes on to the merge when every partition is decided.
    fn go_on(&self, state: &mut State, actions: &mut Actions) {
        let Some(Stage::Gathering(page)) = &mut state.stage else { return };
        actions.asks.extend(page.plan());
        let waiting = page.waiting();
        if !waiting.is_empty() {
            let cluster = self.coordinator.parts.catalog.current();
            let placement = cluster.topology.placement(self.target.placement);
            let mut is_rerouted = false;
            for (partition, at_least) in waiting {
                let map = placement.and_then(|placement| placement.partition(partition));
                if let Some(map) = map.filter(|map| map.epoch() >= at_least) {
                    page.reroute(partition, map);
                    is_rerouted = true;
                }
            }
            if is_rerouted {
                return self.go_on(state, actions);
            }
            actions.await_state = Some(cluster.topology.epoch());
        }
        if let Some(Stage::Gathering(page)) = &state.stage
            && page.is_decided()
        {
            self.merge(state, actions);
        }
    }

    fn merge(&self, state: &mut State, actions: &mut Actions) {
        let Some(Stage::Gathering(mut page)) = state.stage.take() else { return };
        if !page.has_any() {
            let incomplete = Incomplete {
                write: false,
                level: page.scope.level,
                acknowledged_by: Vec::new(),
                missing: 1,
                timed_out: Incomplete::any_timed_out(&page.failures) || page.failures.is_empty(),
                failures: std::mem::take(&mut page.failures),
                account: None,
            };
            return self.tell(state, Err(RequestError::ReadIncomplete(Box::new(incomplete))), actions);
        }
        let merged = page.merge();
        if let Some(admitted) = &mut state.admitted {
            admitted.release(admitted.bytes());
            admitted.hold(merged.rows.iter().map(len_bytes).sum());
        }
        if merged.uncertain.is_empty() {
            return self.finish(state, merged, actions);
        }
        actions.settle.clone_from(&merged.uncertain);
        state.stage = Some(Stage::Settling(page, merged));
    }

    fn finish(&self, state: &mut State, merged: Merged, actions: &mut Actions) {
        let id = self.target.table.id;
        let seal = |position: Bytes| token::seal(id, &self.prefix, self.backward, &position);
        if !merged.partial.is_empty() {
            self.counters.partial_page();
        }
        let page = PrefixPage {
            rows: merged.rows,
            next: merged.next.map(seal),
            partial: merged.partial,
            as_of: state.as_of,
            account: None,
        };
        self.tell(state, Ok(page), actions);
    }

    fn tell(&self, state: &mut State, mut result: Result<PrefixPage, RequestError>, actions: &mut Actions) {
        state.admitted = None;
        state.stage = None;
        let Some(done) = state.done.take() else { return };
        self.coordinator.explain(self.ledger.as_ref(), slice::from_mut(&mut result));
        actions.tell = Some((done, result));
    }

    fn ask(self: &Arc<Self>, node: NodeId, partitions: Vec<(PartitionId, Epoch)>, (sent_ms, resends): (u64, u32)) {
        let body = RequestBody::ScanTable(ScanTable {
            table: self.target.table.id,
            prefix: self.prefix.clone(),
            backward: self.backward,
            rows_max: self.rows_max,
            bytes_max: self.piece_bytes_max,
            position: self.position.clone(),
            partitions: runs(&partitions),
        });
        let operation = Arc::downgrade(self);
        self.coordinator.send(node, body, self.deadline.ms(), self.ledger.as_ref(), move |reply| {
            // Whoever asked may have let go of it.
            let Some(operation) = operation.upgrade() else { return };
            let coordinator = &operation.coordinator;
            let again_at = coordinator.resend_at(resends, operation.gather_until_ms);
            match again_at.filter(|_| has_not_heard_of_table(&reply)) {
                None => operation.on_piece((node, sent_ms), &partitions, reply),
                Some(due_ms) => {
                    let again = Arc::clone(&operation);
                    let ask_again = Box::new(move || again.ask(node, partitions, (sent_ms, resends + 1)));
                    coordinator.resend(due_ms, ask_again);
                }
            }
        });
    }

    fn on_piece(
        self: &Arc<Self>,
        (node, sent_ms): (NodeId, u64),
        partitions: &[(PartitionId, Epoch)],
        reply: Result<Reply, PeerError>,
    ) {
        self.change(|state, actions| {
            state.waiting.retain(|waiting| (waiting.node, waiting.sent_ms) != (node, sent_ms));
            if let Ok(reply) = &reply {
                state.as_of = self.coordinator.later(state.as_of, reply.clock);
            }
            let piece = match reply.map_err(Failure::from).and_then(|reply| reply.body.map_err(failure_of)) {
                Ok(ReplyBody::TablePage(piece)) => Ok(piece),
                Ok(_) => Err(Failure::Nonsense),
                Err(failure) => Err(failure),
            };
            let Some(Stage::Gathering(page)) = &mut state.stage else { return };
            page.on_answer(node, partitions, piece);
            if let Some(admitted) = &mut state.admitted {
                let (held, here) = (admitted.bytes(), page.bytes());
                admitted.hold(here.saturating_sub(held));
            }
            self.go_on(state, actions);
        });
    }

    /// Reads the rows on which replicas differ by themselves.
    fn settle(self: &Arc<Self>, keys: Vec<RowKey>) {
        let left_ms = self.deadline.ms().saturating_sub(self.coordinator.parts.clock.monotonic_ms());
        let timeout_ms = Some(u32::try_from(left_ms).unwrap_or(u32::MAX));
        let explain = self.ledger.is_some();
        let terms = Terms { level: self.terms.level, timeout_ms, explain, trace: self.terms.trace };
        let request = ReadRequest { table: self.table.clone(), keys, terms };
        let operation = Arc::downgrade(self);
        let begun_ms = self.ledger.as_ref().map_or(0, |ledger| ledger.passed_ms());
        let read = move |results: Result<Vec<Result<ReadRow, RequestError>>, RequestError>| {
            if let Some(operation) = Weak::upgrade(&operation) {
                operation.account_for(&results, begun_ms);
                operation.on_settled(results);
            }
        };
        self.coordinator.read(request, Box::new(read));
    }

    /// What was done to read those rows was done for this page.
    fn account_for(&self, results: &Result<Vec<Result<ReadRow, RequestError>>, RequestError>, begun_ms: u64) {
        let account = results.iter().flatten().find_map(Explained::account);
        if let (Some(ledger), Some(account)) = (&self.ledger, account) {
            ledger.take_over(account, begun_ms);
        }
    }

    fn on_settled(self: &Arc<Self>, results: Result<Vec<Result<ReadRow, RequestError>>, RequestError>) {
        self.change(|state, actions| {
            let Some(Stage::Settling(page, mut merged)) = state.stage.take() else { return };
            match results {
                Err(error) => self.tell(state, Err(error), actions),
                Ok(rows) => {
                    for row in rows.iter().flatten() {
                        state.as_of = state.as_of.max(row.as_of);
                    }
                    page.settle(&mut merged, rows);
                    self.finish(state, merged, actions);
                }
            }
        });
    }
}

impl Timed for Operation {
    fn on_deadline(self: Arc<Self>) {
        self.change(|state, actions| {
            // The read of rows that differ ends by itself, at the same time.
            if let Some(Stage::Gathering(page)) = &mut state.stage {
                page.give_up();
                self.merge(state, actions);
            }
        });
        self.coordinator.stop_waiting(&*self);
    }

    fn on_early(self: Arc<Self>, now_ms: u64) {
        self.look_at_the_time(now_ms);
    }

    fn on_state(self: Arc<Self>) {
        self.change(|state, actions| self.go_on(state, actions));
    }

    fn deadline(&self) -> &Deadline {
        &self.deadline
    }
}
