//! Hints in the simulator: the real keeper on a simulated disk, flushed a moment after it is woken, so that a crash may
//! come before; and the real replay, stepped by the node's clock.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cube_storage::files::{Files, FilesError, SimulatedFiles};
use cube_storage::hints::{HintLimits, Position, ReadLimits};
use cube_storage::merkle::LeafId;
use cube_storage::model::{NodeId, RowKey, TableId, Version};
use parking_lot::Mutex;

use super::control::member_name;
use super::event::Event;
use super::mutants::Mutant;
use super::time::Schedule;
use crate::catalog::ClusterState;
use crate::handoff::{
    HandoffParts, HandoffSettings, HintKeeper, HintReplay, HintWorker, HintedHandoff, Kept, Missed, OnKept,
    TargetStatus, Wake,
};
use crate::topology::{Member, MemberState};
use crate::worker::{Step, Worker as _};

/// The newest version hinted for each target and row.
pub(super) type Newest = BTreeMap<(String, TableId, RowKey), Version>;

/// One process's hints.
pub(super) struct SimHints {
    handoff: Arc<HintedHandoff>,
    mutant: Option<Mutant>,
    replay: Mutex<Option<Replaying>>,
    woken: Arc<AtomicBool>,
    /// What was read of the logs the last time, and where they stood then.
    known: Mutex<(Vec<Place>, Arc<Newest>)>,
}

struct Replaying {
    replay: Arc<HintReplay>,
    worker: HintWorker,
    due_ms: u64,
}

type Place = (String, Position, Position);

/// Few enough that some runs reach the cap: then what is missed is marked.
const KEYS_MAX: u64 = 6;
/// So short that a log has several segments.
const SEGMENT_BYTES: u64 = 1_400;
/// Runs last for seconds.
const CHECK_INTERVAL_MS: u64 = 500;

/// What an operator chooses at the start.
pub(super) fn usual() -> HandoffSettings {
    let limits = HintLimits { keys_max: KEYS_MAX, segment_bytes: SEGMENT_BYTES, ..HintLimits::default() };
    HandoffSettings { limits, check_interval_ms: CHECK_INTERVAL_MS, ..HandoffSettings::default() }
}

/// What an operator may come to choose.
pub(super) fn others(schedule: &Schedule) -> HandoffSettings {
    let keys_max = schedule.one_of(&[0, 1, 3, KEYS_MAX, 1_000]).unwrap_or(KEYS_MAX);
    let window_ms = schedule.one_of(&[50, 400, 2_000, 3_600_000]).unwrap_or(3_600_000);
    let usual = usual();
    let limits = HintLimits { keys_max, ..usual.limits };
    HandoffSettings { enabled: schedule.chance(80), window_ms, limits, ..usual }
}

/// Damages a segment that is not the newest of its log: of the newest, the very last bytes may be damaged unnoticed when
/// power is lost in the same moment. Whether there was one.
pub(super) fn damage(files: &SimulatedFiles, schedule: &Schedule) -> bool {
    let mut segments: Vec<PathBuf> = Vec::new();
    let root = PathBuf::from("hints");
    for folder in files.list(&root).unwrap_or_default() {
        let path = root.join(&folder.name);
        let entries = files.list(&path).unwrap_or_default().into_iter();
        let mut names: Vec<String> = entries.map(|entry| entry.name).filter(|name| name.ends_with(".hints")).collect();
        names.sort();
        names.pop();
        segments.extend(names.into_iter().map(|name| path.join(name)));
    }
    let places: Vec<usize> = (0..segments.len()).collect();
    let Some(path) = schedule.one_of(&places).and_then(|place| segments.get(place)) else { return false };
    let len = files.open(path, cube_storage::files::Access::Read).and_then(|file| file.len()).unwrap_or_default();
    let at = schedule.pick(0, len.max(1) - 1);
    if schedule.chance(50) { files.flip(path, at, 3) } else { files.cut(path, at.max(1_024)) }
}

impl SimHints {
    pub(super) fn open(parts: HandoffParts, mutant: Option<Mutant>) -> Result<Arc<Self>, FilesError> {
        let handoff = Arc::new(HintedHandoff::open(HandoffParts { settings: usual(), ..parts })?);
        let (replay, woken, known) = (Mutex::default(), Arc::default(), Mutex::default());
        Ok(Arc::new(Self { handoff, mutant, replay, woken, known }))
    }

    /// Files for dirty marks are set aside before they are needed, as a node does whenever it hears of a member: a full disk
    /// keeps nobody from marking.
    pub(super) fn prepare_marks(&self, state: &ClusterState) {
        let members = state.topology.members().values().filter(|member| member.state != MemberState::Left);
        for Member { name, .. } in members {
            if let Err(error) = self.handoff.marks().target(name).and_then(|marks| marks.sync()) {
                tracing::warn!(%error, name, "the file for dirty marks cannot be made yet");
            }
        }
    }

    pub(super) fn handoff(&self) -> &Arc<HintedHandoff> {
        &self.handoff
    }

    /// What wakes the flush.
    pub(super) fn wake(node: NodeId, life: u64, schedule: Schedule) -> Wake {
        Box::new(move || {
            let delay_us = schedule.pick(100, 5_000);
            schedule.after_us(delay_us, Event::SyncHints { node, life });
        })
    }

    /// What wakes the replay: it steps with the next tick.
    pub(super) fn waker(&self) -> Arc<dyn Fn() + Send + Sync> {
        let woken = Arc::clone(&self.woken);
        Arc::new(move || woken.store(true, Ordering::Relaxed))
    }

    /// From now on hints are delivered.
    pub(super) fn begin(&self, replay: Arc<HintReplay>) {
        let worker = HintWorker::new(Arc::clone(&replay));
        *self.replay.lock() = Some(Replaying { replay, worker, due_ms: 0 });
    }

    /// Does what is due.
    pub(super) fn tick(&self, now_ms: u64) {
        if self.mutant == Some(Mutant::HintsNeverReplayed) {
            return;
        }
        let mut replaying = self.replay.lock();
        let Some(Replaying { worker, due_ms, .. }) = replaying.as_mut() else { return };
        if self.woken.swap(false, Ordering::Relaxed) || *due_ms <= now_ms {
            *due_ms = match worker.step(now_ms) {
                Ok(Step::Idle { until_ms } | Step::Throttled { until_ms }) => until_ms,
                _ => now_ms,
            };
        }
    }

    pub(super) fn on_alive(&self, node: NodeId, alive: bool) {
        if let Some(replaying) = self.replay.lock().as_ref() {
            replaying.replay.on_alive(node, alive);
        }
    }

    /// From now on others are to keep what it keeps: its node leaves.
    pub(super) fn hand_over(&self) {
        if let Some(replaying) = self.replay.lock().as_ref() {
            replaying.replay.begin_handover();
        }
    }

    /// The same of a node that left already when it started.
    pub(super) fn resume_handover(&self) {
        if let Some(replaying) = self.replay.lock().as_ref() {
            replaying.replay.resume_handover();
        }
    }

    /// Everything that was queued by now becomes durable.
    pub(super) fn flush(&self) {
        self.handoff.flush();
    }

    /// What was queued is lost.
    pub(super) fn abandon(&self) {
        self.handoff.abandon();
        let replaying = self.replay.lock().take();
        drop(replaying);
    }

    /// Hints that are still to be delivered, by target.
    pub(super) fn left(&self) -> BTreeMap<String, u64> {
        let totals = self.handoff.hints().totals().into_iter();
        totals.filter(|(_, totals)| totals.records > 0).map(|(name, totals)| (name, totals.records)).collect()
    }

    /// How the delivery of what is left stands.
    pub(super) fn stands(&self) -> String {
        let replaying = self.replay.lock();
        let Some(Replaying { replay, .. }) = replaying.as_ref() else { return "nothing delivers them".into() };
        let left = replay.status().targets.into_iter().filter(|(_, target)| target.hints.records > 0);
        let told = |(name, target): (String, TargetStatus)| {
            format!("{} for {name}, {:?}, {:?}", target.hints.records, target.replay, target.last_error)
        };
        left.map(told).collect::<Vec<_>>().join("; ")
    }

    /// What is hinted.
    pub(super) fn newest(&self) -> Arc<Newest> {
        let logs = self.handoff.hints().logs();
        let places = logs.iter().map(|log| (log.target().to_owned(), log.start(), log.durable_through()));
        let places: Vec<Place> = places.collect();
        let mut known = self.known.lock();
        if known.0 == places {
            return Arc::clone(&known.1);
        }
        let limits = ReadLimits { records: usize::MAX, bytes: usize::MAX };
        let mut newest = Newest::new();
        for log in logs {
            let mut from = log.start();
            while let Ok(batch) = log.read(from, limits) {
                if batch.next == from {
                    break;
                }
                from = batch.next;
                for stored in batch.hints {
                    let row = (log.target().to_owned(), stored.hint.table, stored.hint.key);
                    let version = newest.entry(row).or_insert(Version::ZERO);
                    *version = stored.hint.record.version.max(*version);
                }
            }
        }
        *known = (places, Arc::new(newest));
        Arc::clone(&known.1)
    }

    /// Whether what `target` missed of a row up to `version` is marked dirty.
    pub(super) fn is_marked(&self, target: NodeId, table: TableId, leaf: LeafId, version: Version) -> bool {
        let marks = self.handoff.marks().target(&member_name(target));
        marks.is_ok_and(|marks| marks.covering(table, leaf).is_some_and(|mark| mark.version >= version))
    }

    /// Whether hints for `target` are known to be damaged and what they lost is still to be marked: nobody passes that.
    pub(super) fn is_damaged(&self, target: NodeId) -> bool {
        self.handoff.hints().log(&member_name(target)).is_ok_and(|log| !log.damage().is_empty())
    }
}

impl HintKeeper for SimHints {
    fn keep(&self, missed: Missed, kept: OnKept) {
        if self.mutant == Some(Mutant::HintSkipped) {
            return kept(Ok(Kept::Hint));
        }
        self.handoff.keep(missed, kept);
    }
}
