//! A simulated node's part in changes of replicas: the real follower, stepped when it wants to be or was woken.

use std::sync::Arc;

use cube_storage::model::{NodeId, PartitionId};
use cube_storage::{PartitionState, Store, StoreError, SyncState, UnsyncedCause};
use parking_lot::Mutex;

use super::control::{News, PLACEMENT, TABLE_ID};
use super::event::Event;
use super::mutants::Mutant;
use super::node::SimNode;
use super::time::Schedule;
use crate::catalog::ClusterState;
use crate::lifecycle::{Follower, Newest};
use crate::topology::{MoveDone, MoveReport};
use crate::worker::{Step, Worker as _};

/// How often a report is lost.
const REPORT_LOST_PERCENT: u64 = 10;
/// After a wake-up it steps within so long.
const WAKE_US_MAX: u64 = 5_000;
/// After an error it steps again behind this.
const AGAIN_MS: u64 = 50;

pub(super) const DAMAGED: SyncState = SyncState::Unsynced(UnsyncedCause::DamagedData);

/// When a follower steps next. Shared with what wakes it.
pub(super) struct Bell {
    schedule: Schedule,
    node: NodeId,
    life: u64,
    due_us: Mutex<Option<u64>>,
}

impl Bell {
    pub(super) fn new(schedule: Schedule, node: NodeId, life: u64) -> Arc<Self> {
        Arc::new(Self { schedule, node, life, due_us: Mutex::new(None) })
    }

    /// Has it step soon.
    pub(super) fn ring(&self) {
        self.step_in_us(self.schedule.pick(50, WAKE_US_MAX));
    }

    fn step_in_us(&self, delay_us: u64) {
        let at_us = self.schedule.now_us() + delay_us;
        let mut due_us = self.due_us.lock();
        if due_us.is_none_or(|due_us| due_us > at_us) {
            *due_us = Some(at_us);
            self.schedule.after_us(delay_us, Event::Follow { node: self.node, life: self.life });
        }
    }

    /// Whether it is to step by now. Then nothing is due any more.
    fn take_due(&self) -> bool {
        let now_us = self.schedule.now_us();
        self.due_us.lock().take_if(|due_us| *due_us <= now_us).is_some()
    }
}

/// What a process follows with.
pub(super) struct Following {
    pub(super) follower: Follower,
    pub(super) newest: Arc<Mutex<Arc<News>>>,
    pub(super) bell: Arc<Bell>,
}

/// The newest state that a node has heard of last, as its follower asks for it.
pub(super) fn newest_of(heard: &Arc<Mutex<Arc<News>>>, mutant: Option<Mutant>) -> Box<dyn Fn() -> Newest + Send> {
    let heard = Arc::clone(heard);
    Box::new(move || {
        let news = Arc::clone(&heard.lock());
        let forgets = mutant == Some(Mutant::DroppedTableKept);
        Newest { state: Arc::clone(&news.state), next_table: if forgets { TABLE_ID } else { news.next_table } }
    })
}

/// Brings reports to the control plane some time, most of them.
pub(super) fn report_to(schedule: &Schedule, mutant: Option<Mutant>) -> Box<dyn Fn(Vec<MoveReport>) + Send> {
    let schedule = schedule.clone();
    Box::new(move |mut reports| {
        if mutant == Some(Mutant::CaughtUpTooEarly) {
            let fenced = reports.iter().filter(|report| report.done == MoveDone::Fenced);
            let early: Vec<_> = fenced.map(|report| MoveReport { done: MoveDone::CaughtUp, ..*report }).collect();
            reports.extend(early);
        }
        let unreported = match mutant {
            Some(Mutant::LossUnreported) => Some(MoveDone::Lost),
            Some(Mutant::CatchingUpUnreported) => Some(MoveDone::CaughtUp),
            _ => None,
        };
        reports.retain(|report| Some(report.done) != unreported);
        if !schedule.chance(REPORT_LOST_PERCENT) {
            schedule.after_ms(schedule.pick(1, 100), Event::Report(reports));
        }
    })
}

impl SimNode {
    /// Hears of a state, be it an older one than it knows, by which its follower steps once: only a newer one is
    /// remembered on its disk.
    pub(super) fn learn(&mut self, news: Arc<News>, mutant: Option<Mutant>) {
        let mut news = news;
        let has_guests = self.known.state.schema.keyspaces.len() > 1;
        let is_missed = has_guests && mutant == Some(Mutant::SchemaNotLearned);
        if news.number < self.known.number || is_missed {
            // Nobody tells of an older schema by mistake: a map has its epoch, by which one is seen to be older.
            let schema = self.known.state.schema.clone();
            let state = ClusterState { topology: news.state.topology.clone(), schema };
            let next_table = news.next_table.max(self.known.next_table);
            news = Arc::new(News { number: news.number, state: Arc::new(state), next_table });
        }
        if news.number > self.known.number {
            self.known = Arc::clone(&news);
        }
        if let Some(process) = &self.process {
            process.hints.prepare_marks(&self.known.state);
            *process.following.newest.lock() = news;
            process.following.bell.ring();
        }
    }

    /// Its follower steps, if that is due.
    pub(super) fn follow(&mut self, life: u64, schedule: &Schedule, mutant: Option<Mutant>) -> Result<(), StoreError> {
        let Some(process) = self.process.as_mut().filter(|process| process.life == life) else { return Ok(()) };
        if !process.following.bell.take_due() {
            return Ok(());
        }
        let store = Arc::clone(&process.store);
        let before = partitions(&store);
        let now_ms = schedule.now_us() / 1_000;
        let next_us = match process.following.follower.step(now_ms) {
            Ok(Step::Busy) => 100,
            Ok(Step::Idle { until_ms } | Step::Throttled { until_ms }) => {
                1_000 * until_ms.saturating_sub(now_ms).max(1)
            }
            Ok(Step::Done) => return Ok(()),
            Err(error) => {
                tracing::debug!(%error, "a follower is to step again");
                1_000 * AGAIN_MS
            }
        };
        process.following.bell.step_in_us(next_us);
        // An older state is told by mistake, once.
        let newest = std::mem::replace(&mut *process.following.newest.lock(), Arc::clone(&self.known));
        if newest.number < self.known.number {
            process.following.bell.ring();
        }
        self.note_cleared(&before, schedule.now_us());
        if mutant == Some(Mutant::MarkForgotten) {
            let lost = |state: &PartitionState| state.sync == DAMAGED;
            for (partition, _) in partitions(&store).iter().filter(|(_, state)| lost(state)) {
                store.set_sync(PLACEMENT, *partition, SyncState::Synced)?;
            }
        }
        Ok(())
    }

    /// Whether it copies a partition.
    pub(super) fn copies(&self) -> bool {
        self.process.as_ref().is_some_and(|process| process.following.follower.progress().get().under_way > 0)
    }

    /// Loses all it holds of a partition, and finds out.
    pub(super) fn lose(&mut self, partition: PartitionId, now_us: u64) -> Result<(), StoreError> {
        let Some(process) = &self.process else { return Ok(()) };
        process.store.set_sync(PLACEMENT, partition, DAMAGED)?;
        for (table, _) in process.store.tables() {
            while process.store.clear_step(table, partition, usize::MAX)?.next.is_some() {}
        }
        process.following.bell.ring();
        self.cleared_us.insert(partition, now_us);
        Ok(())
    }

    /// Takes note of the partitions that it cleared, or gave up, since they were `before`.
    pub(super) fn note_cleared(&mut self, before: &[(PartitionId, PartitionState)], now_us: u64) {
        let Some(process) = &self.process else { return };
        let after = partitions(&process.store);
        let new = SyncState::Unsynced(UnsyncedCause::New);
        let cleared = before.iter().zip(after).filter(|(before, after)| before.1 != after.1 && after.1.sync == new);
        for (_, (partition, state)) in cleared {
            self.cleared_us.insert(partition, now_us);
            self.cleared_at.insert(partition, state.epoch);
        }
    }
}

/// What a node knows of every partition.
pub(super) fn partitions(store: &Store) -> Vec<(PartitionId, PartitionState)> {
    store.bits().all().map(|partition| (partition, store.partition(PLACEMENT, partition))).collect()
}
