//! The worker that follows the hard state: adopts every newer one, then does this node's part of the moves under way.
//!
//! Its part of a move: to report that it has fenced the map, and, where it is to hold the partition afterwards, to copy
//! it, to mark it in sync, and to report that too. A replica that lost something heals the same way, without a move: it
//! reports that, is given a newer map, and copies behind its fence ([`Store::lost_at`] says why not behind the present one). Reports are sent again until the map has moved on, because whoever
//! collects them may change; copies are made again until they are complete. At most [`COPIES_AT_ONCE`] run side by side,
//! so that live requests keep most of the node.
//!
//! Invariant: `CaughtUp` is reported only after the mark "in sync" is durable, and the mark is only set after a complete
//! copy behind the fence of the map that the report names. A mark that is set while the copy is made stays: the store takes
//! the older one away only if there is no newer one. The tables of the copy are those of a state that has the map.
//! A table that is not among them was created later, so whoever knows it knows the map too, and writes its rows to the
//! new replicas as well: there is nothing of it to copy.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use cube_storage::model::{Epoch, NodeId, PartitionId, PlacementId, TableId};
use cube_storage::{MarkGeneration, Store, StoreError, SyncState, UnsyncedCause};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::adopt::{AdoptStep, adopt_step};
use super::leftovers::Leftovers;
use super::{Backfill, BackfillParts, GivenUp};
use crate::catalog::{Catalog, ClusterState};
use crate::clock::NodeClock;
use crate::consistency::Level;
use crate::coordinator::Coordinator;
use crate::quorum::{State as Count, Tracker};
use crate::topology::{DataCenter, MoveDone, MoveReport, PartitionMap, ReplicaSets, Step as MapStep};
use crate::transport::PeerTransport;
use crate::worker::{Step, StepError, Worker};

/// Copies that run side by side.
pub const COPIES_AT_ONCE: usize = 4;
/// How often reports are sent again while a move is under way.
const REPORT_EVERY_MS: u64 = 1_000;
/// After which a copy that failed is tried again.
const COPY_AGAIN_MS: u64 = 1_000;
/// How often it looks when nobody woke it: only a guard against a lost wake-up.
const LOOK_EVERY_MS: u64 = 5_000;

/// The worker's name, by which it is woken.
pub const FOLLOWER: &str = "topology";

/// What the follower works with.
pub struct FollowParts {
    /// The node.
    pub me: NodeId,
    /// Its store.
    pub store: Arc<Store>,
    /// Its clocks.
    pub clock: Arc<NodeClock>,
    /// What requests work by; the follower advances it.
    pub catalog: Arc<Catalog>,
    /// Told when the catalog has advanced.
    pub coordinator: Arc<Coordinator>,
    /// The way to the sources of copies.
    pub transport: Arc<dyn PeerTransport>,
    /// The newest hard state.
    pub newest: Box<dyn Fn() -> Newest + Send>,
    /// Takes reports to whoever drives the moves. May lose them.
    pub report: Box<dyn Fn(Vec<MoveReport>) + Send>,
    /// Has the worker step soon: a copy has ended.
    pub wake: Arc<dyn Fn() + Send + Sync>,
}

/// The newest hard state, as the follower needs it.
pub struct Newest {
    /// What requests are to work by.
    pub state: Arc<ClusterState>,
    /// Ids of tables below this one have been given out: a table that is below it and not in the schema was dropped. One
    /// that is not below it is only not known yet, as on a node that starts from an older copy of the state.
    pub next_table: TableId,
}

/// How far this node has come with its copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct CopyProgress {
    /// Partitions that it is still to copy, those under way included.
    pub waiting: usize,
    /// Copies under way.
    pub under_way: usize,
    /// Copies completed since the start.
    pub completed: u64,
    /// Copies that failed since the start, each of which is made again.
    pub failed: u64,
    /// Rows that sources told since the start, each as often as it was told.
    pub rows: u64,
    /// Pages that sources were asked for again since the start.
    pub retries: u64,
    /// Rows of partitions that it does not hold any more, removed since the start.
    pub removed: u64,
}

/// A copy is made for one map of one partition.
type CopyKey = (PlacementId, PartitionId, Epoch);

#[derive(Default)]
struct Copies {
    under_way: BTreeSet<CopyKey>,
    complete: BTreeSet<CopyKey>,
    /// Failed, and not before this time again.
    again_ms: BTreeMap<CopyKey, u64>,
    progress: CopyProgress,
    /// One has ended since the worker looked.
    has_ended: bool,
}

/// Follows the hard state. Shared with whoever shows its progress.
pub struct Follower {
    parts: FollowParts,
    copies: Arc<Mutex<Copies>>,
    under_way: BTreeMap<CopyKey, Arc<Backfill>>,
    leftovers: Leftovers,
    given_up: GivenUp,
    /// Something of the newest state is still to be adopted.
    is_behind: bool,
    reported: BTreeSet<MoveReport>,
    report_all_ms: u64,
}

/// Shows how far a follower has come.
#[derive(Clone)]
pub struct FollowerProgress(Arc<Mutex<Copies>>);

impl FollowerProgress {
    /// How far it has come.
    pub fn get(&self) -> CopyProgress {
        let copies = self.0.lock();
        CopyProgress { under_way: copies.under_way.len(), ..copies.progress }
    }
}

impl Follower {
    /// A follower that has done nothing yet.
    pub fn new(parts: FollowParts) -> Self {
        Self {
            parts,
            copies: Arc::default(),
            under_way: BTreeMap::new(),
            leftovers: Leftovers::default(),
            given_up: GivenUp::default(),
            is_behind: false,
            reported: BTreeSet::new(),
            report_all_ms: 0,
        }
    }

    /// Shows how far it has come.
    pub fn progress(&self) -> FollowerProgress {
        FollowerProgress(Arc::clone(&self.copies))
    }

    /// Adopts a newer state, a bounded part of it in a step, and lets requests work by it. Schema changes leave the epoch as
    /// it is, so states are compared whole. Whether that got on, and what could not be adopted and is tried again.
    fn adopt_newest(&mut self, state: &Arc<ClusterState>) -> (bool, Result<(), StoreError>) {
        let is_other = *self.parts.catalog.current() != **state;
        if !is_other && !self.is_behind {
            return (false, Ok(()));
        }
        let AdoptStep { adopted, is_complete, error } = adopt_step(&self.parts.store, self.parts.me, state);
        self.is_behind = !is_complete;
        // Requests work by it even while partitions are being cleared: this replica has those come again meanwhile.
        let is_newer = is_other && self.parts.catalog.advance(state.as_ref().clone());
        if is_newer {
            self.parts.coordinator.on_state();
        }
        let got_on = is_newer || !adopted.fenced.is_empty() || (!is_complete && error.is_none());
        (got_on, error.map_or(Ok(()), Err))
    }

    /// Removes the rows of tables that were dropped, once no request works by a schema that has them.
    fn drop_tables(&self, state: &ClusterState, next_table: TableId) -> Result<(), StoreError> {
        let present: BTreeSet<TableId> = state.schema.table_options().map(|(table, _)| table).collect();
        for (table, _) in self.parts.store.tables() {
            if table < next_table && !present.contains(&table) {
                self.parts.store.drop_table(table)?;
                tracing::info!(%table, "a dropped table's rows are removed");
            }
        }
        Ok(())
    }

    /// What is to be reported and copied by this state.
    fn survey(&self, state: &ClusterState) -> (BTreeSet<MoveReport>, Vec<Copy>) {
        let mut reports = BTreeSet::new();
        let mut wanted = Vec::new();
        for (placement, maps) in state.topology.placements() {
            for (partition, map) in maps.partitions() {
                self.survey_map((placement, partition, map.epoch()), map, &mut reports, &mut wanted);
            }
        }
        (reports, wanted)
    }

    fn survey_map(
        &self,
        key @ (placement, partition, epoch): CopyKey,
        map: &PartitionMap,
        reports: &mut BTreeSet<MoveReport>,
        wanted: &mut Vec<Copy>,
    ) {
        let me = self.parts.me;
        let report = |done| MoveReport { node: me, placement, partition, map: epoch, done };
        if !map.write_sets().contains(me) {
            return;
        }
        let held = self.parts.store.partition(placement, partition);
        if held.epoch < epoch {
            // It is not adopted yet.
            return;
        }
        let is_synced = held.sync == SyncState::Synced;
        let sources = match map.step() {
            MapStep::Stable { .. } if is_synced => return,
            MapStep::Stable { replicas } => replicas,
            MapStep::WriteBoth { old, .. } => {
                reports.insert(report(MoveDone::Fenced));
                old
            }
            MapStep::ReadNew { .. } => {
                reports.insert(report(MoveDone::Fenced));
                return;
            }
        };
        if !map.goal().contains(me) {
            return;
        }
        if is_synced && self.copies.lock().complete.contains(&key) {
            reports.insert(report(MoveDone::CaughtUp));
        } else if self.parts.store.lost_at(placement, partition).is_some_and(|lost_at| lost_at >= epoch) {
            reports.insert(report(MoveDone::Lost));
        } else {
            wanted.push(Copy { key, sources: ReplicaSets::one(Arc::clone(sources)) });
        }
    }

    fn copy_some(&mut self, state: &ClusterState, wanted: Vec<Copy>, now_ms: u64) {
        let mut copies = self.copies.lock();
        copies.progress.waiting = wanted.len();
        let current: BTreeSet<CopyKey> = wanted.iter().map(|copy| copy.key).collect();
        copies.again_ms.retain(|key, _| current.contains(key));
        let mut begun = Vec::new();
        for copy in wanted {
            let is_due = copies.again_ms.get(&copy.key).is_none_or(|again_ms| *again_ms <= now_ms);
            if copies.under_way.len() < COPIES_AT_ONCE && is_due && copies.under_way.insert(copy.key) {
                begun.push(copy);
            }
        }
        drop(copies);
        for copy in begun {
            self.copy(state, copy);
        }
    }

    fn copy(&mut self, state: &ClusterState, copy: Copy) {
        let me = self.parts.me;
        let Copy { key: key @ (placement, partition, map), sources } = copy;
        let local = state.topology.member(me).map_or_else(|| DataCenter::from(""), |me| me.data_center.clone());
        let mut sources = Tracker::new(Level::EachQuorum, &sources, local);
        let (held, marks) = self.parts.store.partition_marks(placement, partition);
        // A holder that is in sync has all that it ever acknowledged: it is one of the quorum itself. One that is not may
        // have lost a write that only a quorum with it held, so it copies from a quorum of the others.
        if held.sync == SyncState::Synced {
            sources.ack(me);
        } else {
            sources.fail(me);
        }
        let tables = state.schema.table_options().filter(|(_, options)| options.placement == placement);
        let tables = tables.map(|(table, _)| table).collect();
        let ended = Ended {
            store: Arc::clone(&self.parts.store),
            clock: Arc::clone(&self.parts.clock),
            copies: Arc::clone(&self.copies),
            wake: Arc::clone(&self.parts.wake),
            key,
            marks,
            was_damaged: matches!(held.sync, SyncState::Unsynced(cause) if cause != UnsyncedCause::New),
        };
        match sources.state() {
            Count::Pending => {}
            Count::Met => return ended.tell(true),
            // The others are no quorum, as where it is the only replica there was: nobody can say what it lost, so this
            // move does not make it whole. The move waits, until it is healed by other means or the move is taken back.
            Count::Impossible => return ended.look_later(),
        }
        let goal = state.topology.placement(placement).and_then(|of| of.partition(partition)).map(|map| map.goal());
        let goes = |node: &NodeId| {
            let is_gone = state.topology.member(*node).is_none_or(|member| member.state.is_gone());
            *node != me && !is_gone && goal.is_some_and(|goal| !goal.contains(*node))
        };
        let going = sources.silent().filter(goes).collect();
        let parts = BackfillParts {
            me,
            store: Arc::clone(&self.parts.store),
            clock: Arc::clone(&self.parts.clock),
            transport: Arc::clone(&self.parts.transport),
            given_up: self.given_up.clone(),
        };
        let done = Box::new(move |complete| ended.tell(complete));
        let backfill = Backfill::start(parts, (partition, map), tables, (sources, going), done);
        self.under_way.insert(key, backfill);
    }

    /// Has copies under way ask again where a source failed, and lets go of those that ended. When the next one is to ask.
    fn tend_copies(&mut self, now_ms: u64) -> Option<u64> {
        let next_ms = self.under_way.values().filter_map(|backfill| backfill.try_again(now_ms)).min();
        let mut copies = self.copies.lock();
        self.under_way.retain(|key, backfill| {
            let goes_on = copies.under_way.contains(key);
            if !goes_on {
                let counts = backfill.counts();
                copies.progress.rows += counts.rows;
                copies.progress.retries += counts.retries;
            }
            goes_on
        });
        next_ms
    }

    /// Tells what was not told yet, and all of it again now and then.
    fn tell(&mut self, reports: BTreeSet<MoveReport>, now_ms: u64) {
        let again = now_ms >= self.report_all_ms;
        let told: Vec<MoveReport> =
            reports.iter().filter(|report| again || !self.reported.contains(report)).copied().collect();
        if again {
            self.report_all_ms = now_ms + REPORT_EVERY_MS;
        }
        self.reported = reports;
        if !told.is_empty() {
            (self.parts.report)(told);
        }
    }
}

/// A copy to be made.
struct Copy {
    key: CopyKey,
    sources: ReplicaSets,
}

/// What happens when a copy ends.
struct Ended {
    store: Arc<Store>,
    clock: Arc<NodeClock>,
    copies: Arc<Mutex<Copies>>,
    wake: Arc<dyn Fn() + Send + Sync>,
    key: CopyKey,
    /// What was known to be wrong with the partition when the copy began.
    marks: MarkGeneration,
    /// Rows may have been lost without their leaves.
    was_damaged: bool,
}

/// Rows read under one lock while leaves are derived anew.
const DERIVE_ROWS_PER_STEP: usize = 1_000;

impl Ended {
    fn tell(self, complete: bool) {
        let (placement, partition, map) = self.key;
        // A copy for a map that was taken back meanwhile says nothing of the present one, and one that was under way when
        // damage was found nothing of what was damaged.
        let is_sound = complete
            && self.derive_leaves().inspect_err(|error| {
                tracing::warn!(%error, %partition, "the leaves of a copied partition cannot be derived");
            }) == Ok(());
        let marked = is_sound
            && self.store.mark_synced_if(placement, partition, map, self.marks).unwrap_or_else(|error| {
                tracing::warn!(%error, %partition, "a copied partition cannot be marked");
                false
            });
        let mut copies = self.copies.lock();
        copies.under_way.remove(&self.key);
        copies.has_ended = true;
        if marked {
            copies.complete.insert(self.key);
            copies.progress.completed += 1;
        } else {
            copies.again_ms.insert(self.key, self.clock.monotonic_ms() + COPY_AGAIN_MS);
            copies.progress.failed += 1;
        }
        drop(copies);
        (self.wake)();
    }

    /// Makes the leaves those of the rows again: a row that was lost without its leaf and came again is in it twice.
    fn derive_leaves(&self) -> Result<(), StoreError> {
        let (placement, partition, _) = self.key;
        if !self.was_damaged {
            return Ok(());
        }
        for (table, _) in self.store.tables().into_iter().filter(|(_, options)| options.placement == placement) {
            let mut from = None;
            loop {
                from = self.store.derive_leaves_step(table, partition, from, DERIVE_ROWS_PER_STEP)?;
                if from.is_none() {
                    break;
                }
            }
        }
        Ok(())
    }

    /// There is nobody to copy from.
    fn look_later(self) {
        let mut copies = self.copies.lock();
        copies.under_way.remove(&self.key);
        copies.again_ms.insert(self.key, self.clock.monotonic_ms() + COPY_AGAIN_MS);
    }
}

impl Worker for Follower {
    fn name(&self) -> &str {
        FOLLOWER
    }

    fn step(&mut self, now_ms: u64) -> Result<Step, StepError> {
        let Newest { state, next_table } = (self.parts.newest)();
        let (got_on, adopted) = self.adopt_newest(&state);
        let dropped = self.drop_tables(&state, next_table);
        let (reports, wanted) = self.survey(&state);
        if reports.is_empty() {
            self.copies.lock().complete.clear();
        }
        let is_moving = !reports.is_empty() || !wanted.is_empty();
        self.copy_some(&state, wanted, now_ms);
        let ask_again_ms = self.tend_copies(now_ms);
        let removed = self.leftovers.remove_some(&self.parts.store, self.parts.me, &state, now_ms);
        self.copies.lock().progress.removed += removed.rows;
        self.tell(reports, now_ms);
        // What failed is told at the end: it keeps nothing else from being done.
        adopted?;
        dropped?;
        removed.error.map_or(Ok(()), Err)?;
        if std::mem::take(&mut self.copies.lock().has_ended) || got_on || removed.goes_on {
            return Ok(Step::Busy);
        }
        let every_ms = if is_moving { REPORT_EVERY_MS } else { LOOK_EVERY_MS };
        let until_ms = now_ms + every_ms;
        Ok(Step::Idle { until_ms: ask_again_ms.map_or(until_ms, |ask_again_ms| until_ms.min(ask_again_ms)) })
    }
}
