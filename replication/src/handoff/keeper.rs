//! Keeping what replicas missed: on this node's disk, as hints, or as dirty marks where hints cannot be.
//!
//! `keep` only queues; [`HintedHandoff::flush`] writes everything that waits, target by target, with one sync of the
//! hints and one of the marks for all of it, and then tells. Its owner (some threads, or the simulator's clock) calls it
//! when it is woken; each thread writes another target. What waits is bounded in bytes: past the bound only marks are
//! taken, which are small, and only copies are refused.
//!
//! Rows that are no hints are marked by `keeper/marking.rs`.

mod marking;
mod waiting;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;
use cube_storage::dirty::{Cause, DirtyError, DirtyRange, DirtyStore};
use cube_storage::files::{Files, FilesError};
use cube_storage::hints::{Hint, HintError, HintLimits, HintLog, HintStore, PauseError, Pauses, Ticket};
use cube_storage::merkle::LeafId;
use cube_storage::model::{Hlc, Mutation, NodeId, PartitionBits, TableId, Version};
use parking_lot::{Mutex, MutexGuard};

use self::waiting::Waiting;
use super::{HandoffCounters, HandoffSettings, HintKeeper, Kept, Missed, NotKept, OnKept};
use crate::bursts::Bursts;
use crate::catalog::Catalog;
use crate::clock::NodeClock;
use crate::topology::MemberState;

/// Calls whoever flushes.
pub type Wake = Box<dyn Fn() + Send + Sync>;

/// Hints and dirty marks of one node.
pub struct HintedHandoff {
    hints: HintStore,
    marks: DirtyStore,
    bits: PartitionBits,
    catalog: Arc<Catalog>,
    clock: Arc<NodeClock>,
    settings: ArcSwap<HandoffSettings>,
    counters: HandoffCounters,
    bursts: Mutex<Bursts<(String, Cause)>>,
    /// Since when targets are away, by this node's clock for deadlines.
    away_since_ms: Mutex<BTreeMap<NodeId, u64>>,
    /// The oldest version of the hints that were handed over to another node.
    pub(super) handed_over: Mutex<Option<Hlc>>,
    waiting: Mutex<Waiting>,
    wake: Wake,
    files: Arc<dyn Files>,
    pauses: ArcSwap<Pauses>,
    /// One change of who is paused at a time: it is made durable meanwhile, and nobody else waits for that.
    pausing: Mutex<()>,
}

/// Bytes of rows that may wait to be written. A disk that is slower than that is not helped by more.
const WAITING_BYTES_MAX: usize = 64 << 20;
/// Bytes of rows that are appended at once: all that waits is more than one append takes.
const APPEND_BYTES: usize = 8 << 20;

/// What one target missed of one write, and who is told how it was kept.
struct Entry {
    target: NodeId,
    rows: Rows,
    only_copy: bool,
    kept: OnKept,
}

enum Rows {
    /// To be hinted. When the first hint of them was made, if another node made it.
    Whole(Vec<Mutation>, Option<u64>),
    /// Rows that found no room to wait in: only where they are.
    Leaves(Vec<Leaf>),
    /// What another node had marked.
    Marks(Vec<(DirtyRange, Version)>),
}

/// Where a row is, and the version that was missed.
pub(super) type Leaf = (TableId, LeafId, Version);

/// Why something is no hint.
#[derive(Clone, Debug)]
struct Refused {
    cause: Cause,
    detail: String,
}

/// What a hinted handoff works with.
pub struct HandoffParts {
    /// The node's files; hints stand under `hints`, marks under `dirty`.
    pub files: Arc<dyn Files>,
    /// What the operator chose.
    pub settings: HandoffSettings,
    /// The number of partitions, as bits.
    pub bits: PartitionBits,
    /// Where members have their names from.
    pub catalog: Arc<Catalog>,
    /// The node's clocks.
    pub clock: Arc<NodeClock>,
    /// Called when something waits that was nothing before.
    pub wake: Wake,
}

impl HintedHandoff {
    /// Opens what the files hold. A log that cannot be opened is marked: all that its target missed is unknown. Where that
    /// cannot be made durable, nothing is opened.
    pub fn open(parts: HandoffParts) -> Result<Self, FilesError> {
        let HandoffParts { files, settings, bits, catalog, clock, wake } = parts;
        let opened = HintStore::open(Arc::clone(&files), Path::new("hints"), settings.limits)?;
        let horizon = Version::new(clock.peek(), NodeId(u16::MAX));
        let marks = DirtyStore::open(Arc::clone(&files), Path::new("dirty"), horizon)?;
        let pauses = Pauses::read(&*files).unwrap_or_else(|error| {
            tracing::error!(%error, "it is unknown for whom hints were paused: they are delivered to all");
            Pauses::default()
        });
        for (target, error) in &marks.failed {
            tracing::error!(%target, %error, "the dirty marks of a target cannot be opened: nothing can be marked for it");
        }
        let handoff = Self {
            hints: opened.store,
            marks: marks.store,
            bits,
            catalog,
            clock,
            settings: ArcSwap::from_pointee(settings),
            counters: HandoffCounters::default(),
            bursts: Mutex::default(),
            away_since_ms: Mutex::default(),
            handed_over: Mutex::default(),
            waiting: Mutex::default(),
            wake,
            files,
            pauses: ArcSwap::from_pointee(pauses),
            pausing: Mutex::default(),
        };
        for (target, error) in &opened.failed {
            tracing::error!(%target, %error, "a hint log cannot be opened: all of its target is marked dirty");
            // What its target missed would be noted nowhere: a node does not start like that.
            handoff.mark_everything(target).map_err(unmarked)?;
        }
        Ok(handoff)
    }

    /// The hints.
    pub fn hints(&self) -> &HintStore {
        &self.hints
    }

    /// The dirty marks.
    pub fn marks(&self) -> &DirtyStore {
        &self.marks
    }

    /// What happened so far.
    pub fn counters(&self) -> &HandoffCounters {
        &self.counters
    }

    /// The settings in force.
    pub fn settings(&self) -> HandoffSettings {
        **self.settings.load()
    }

    /// Changes the settings. Those of storing hold from the next hint on, the others from the next check on; what is
    /// held already stays.
    pub fn set_settings(&self, settings: HandoffSettings) {
        self.hints.set_limits(settings.limits);
        self.settings.store(Arc::new(settings));
    }

    /// Changes only how much hints may hold.
    pub fn set_limits(&self, limits: HintLimits) {
        self.set_settings(HandoffSettings { limits, ..self.settings() });
    }

    /// Whether this node's map of the cluster names a target, present or left.
    pub(super) fn knows(&self, target: NodeId) -> bool {
        self.catalog.current().topology.member(target).is_some()
    }

    /// Whether an operator wants no hints delivered to a node.
    pub fn is_paused(&self, target: NodeId) -> bool {
        self.pauses.load().holds(target)
    }

    /// Pauses the delivery to a node, or to all, or lets it go on. It lasts until the opposite is said, and is durable when
    /// this returns.
    pub(super) fn pause(&self, target: Option<NodeId>, paused: bool) -> Result<(), PauseError> {
        let _only = self.pausing.lock();
        let mut next = Pauses::clone(&self.pauses.load());
        next.set(target, paused);
        next.keep(&*self.files)?;
        self.pauses.store(Arc::new(next));
        Ok(())
    }

    /// The time by which hints grow old.
    pub(super) fn now_ms(&self) -> u64 {
        self.clock.peek().millis()
    }

    pub(super) fn bits(&self) -> PartitionBits {
        self.bits
    }

    /// Whether a target is alive: from how long it is away follows what becomes of what it misses.
    pub fn observe(&self, target: NodeId, alive: bool) {
        let mut away = self.away_since_ms.lock();
        if alive {
            away.remove(&target);
        } else {
            away.entry(target).or_insert_with(|| self.clock.monotonic_ms());
        }
    }

    /// Drops what waits without telling anyone, as the end of the process would.
    pub fn abandon(&self) {
        let waiting = self.waiting.lock().take_all();
        drop(waiting);
    }

    /// Writes everything that waits and that nobody else writes, and tells.
    pub fn flush(&self) {
        loop {
            let mut waiting = self.waiting.lock();
            let Some((target, entries)) = waiting.next() else { return };
            let has_more = waiting.has_more();
            drop(waiting);
            if has_more {
                // Another thread need not wait for this one's sync.
                (self.wake)();
            }
            let results = self.keep_all(target, &entries);
            for (entry, result) in entries.into_iter().zip(results) {
                (entry.kept)(result);
            }
            self.waiting.lock().done(target);
        }
    }

    fn keep_all(&self, target: NodeId, entries: &[Entry]) -> Vec<Result<Kept, NotKept>> {
        let state = self.catalog.current();
        let Some(member) = state.topology.member(target).filter(|member| member.state != MemberState::Left) else {
            return entries.iter().map(|entry| self.without_target(entry)).collect();
        };
        let log = self.hints.log(&member.name);
        let general = self.refusal(target, log.as_deref());
        let mut refused: BTreeMap<(usize, usize), Refused> = BTreeMap::new();
        let mut rows = Vec::new();
        for (place, entry) in entries.iter().enumerate() {
            match (&entry.rows, &general) {
                (Rows::Whole(mutations, _), Some(refusal)) if !entry.only_copy || refusal.cause != Cause::Window => {
                    refused.extend((0..mutations.len()).map(|row| ((place, row), refusal.clone())));
                }
                (Rows::Whole(mutations, created_ms), _) => {
                    rows.extend(
                        mutations.iter().enumerate().map(|(row, m)| (place, row, m, *created_ms, entry.only_copy)),
                    );
                }
                (Rows::Leaves(leaves), _) => {
                    let detail = format!("rows of {WAITING_BYTES_MAX} bytes wait to be written already");
                    let refusal = Refused { cause: Cause::Overload, detail };
                    refused.extend((0..leaves.len()).map(|row| ((place, row), refusal.clone())));
                }
                (Rows::Marks(_), _) => {}
            }
        }
        if let Ok(log) = &log {
            refused.extend(self.hint(log, &rows));
        }
        let marked = self.mark_refused(&member.name, entries, &refused);
        let taken = self.mark_taken(&member.name, entries);
        entries
            .iter()
            .enumerate()
            .map(|(place, entry)| {
                let first = refused.range((place, 0)..(place + 1, 0)).next().map(|(_, refusal)| refusal);
                let not_kept = |cause: String| {
                    HandoffCounters::add(&self.counters.not_kept, entry.rows.len() as u64);
                    Err(NotKept { target, cause })
                };
                match (first, &marked) {
                    // Whoever had marked it keeps it, and tries again.
                    _ if matches!(entry.rows, Rows::Marks(_)) => {
                        taken.clone().map(|()| Kept::Mark).map_err(|cause| NotKept { target, cause })
                    }
                    (None, _) => Ok(Kept::Hint),
                    (Some(refusal), _) if entry.only_copy => not_kept(refusal.detail.clone()),
                    (Some(_), Ok(())) => Ok(Kept::Mark),
                    (Some(refusal), Err(mark)) => not_kept(format!("{}; {mark}", refusal.detail)),
                }
            })
            .collect()
    }

    /// Nobody misses it any more, unless it is all there is of the write.
    fn without_target(&self, entry: &Entry) -> Result<Kept, NotKept> {
        if entry.only_copy {
            return Err(NotKept { target: entry.target, cause: "it has left the cluster".into() });
        }
        if !matches!(entry.rows, Rows::Marks(_)) {
            HandoffCounters::add(&self.counters.dropped_target_left, entry.rows.len() as u64);
        }
        Ok(Kept::Left)
    }

    /// Why nothing is hinted for a target at the moment.
    fn refusal(&self, target: NodeId, log: Result<&HintLog, &HintError>) -> Option<Refused> {
        let settings = self.settings();
        if !settings.enabled {
            return Some(Refused { cause: Cause::Disabled, detail: "hints are switched off".into() });
        }
        let log = match log {
            Ok(log) => log,
            Err(error) => return Some(Refused { cause: cause_of(error), detail: error.to_string() }),
        };
        let since_ms = self.away_since_ms.lock().get(&target).copied()?;
        let away_ms = self.clock.monotonic_ms().saturating_sub(since_ms);
        // A target may have been away before this process began: its hints know since when.
        let oldest_ms = log.totals().oldest_created_ms;
        let hinted_ms = oldest_ms.map_or(0, |oldest_ms| self.now_ms().saturating_sub(oldest_ms));
        let detail = || format!("it is away for longer than hints.window ({} s)", settings.window_ms / 1_000);
        (away_ms.max(hinted_ms) >= settings.window_ms).then(|| Refused { cause: Cause::Window, detail: detail() })
    }

    /// Keeps rows as hints; those that are not kept, by their place, and why.
    fn hint(
        &self,
        log: &HintLog,
        rows: &[(usize, usize, &Mutation, Option<u64>, bool)],
    ) -> BTreeMap<(usize, usize), Refused> {
        let now_ms = self.now_ms();
        let mut refused = BTreeMap::new();
        let mut newest: Option<Ticket> = None;
        let mut appended = Vec::new();
        for part in parts(rows) {
            let hints = part.iter().map(|&(_, _, Mutation { table, key, record, .. }, created_ms, only_copy)| Hint {
                table: *table,
                key: key.clone(),
                record: record.clone(),
                created_ms: created_ms.unwrap_or(now_ms),
                only_copy,
            });
            let places = part.iter().map(|(place, row, ..)| (*place, *row));
            match log.append(&hints.collect::<Vec<_>>()) {
                Ok(result) => {
                    let places: Vec<(usize, usize)> = places.collect();
                    for (hint, full) in result.refused {
                        let place = places.get(hint).copied().unwrap_or_default();
                        refused.insert(place, Refused { cause: Cause::Cap, detail: full.to_string() });
                    }
                    newest = Some(result.ticket);
                    appended.extend(places);
                }
                Err(error) => {
                    let refusal = Refused { cause: cause_of(&error), detail: error.to_string() };
                    refused.extend(places.map(|place| (place, refusal.clone())));
                }
            }
        }
        if let Some(Err(error)) = newest.map(|ticket| log.sync(ticket)) {
            let refusal = Refused { cause: cause_of(&error), detail: error.to_string() };
            refused.extend(appended.iter().map(|place| (*place, refusal.clone())));
        }
        HandoffCounters::add(&self.counters.hinted, (rows.len().saturating_sub(refused.len())) as u64);
        refused
    }

    /// Keeps hints that another node hands over, with the time at which it made them.
    pub(super) fn take_over(&self, missed: Missed, created_ms: u64, kept: OnKept) {
        HandoffCounters::add(&self.counters.taken_over, missed.mutations.len() as u64);
        self.enqueue(missed, Some(created_ms), kept);
    }

    /// Keeps marks that another node hands over.
    pub(super) fn take_over_marks(&self, target: NodeId, marks: Vec<(DirtyRange, Version)>, kept: OnKept) {
        self.push(self.waiting.lock(), Entry { target, rows: Rows::Marks(marks), only_copy: false, kept });
    }

    fn enqueue(&self, missed: Missed, created_ms: Option<u64>, kept: OnKept) {
        let Missed { target, mutations, only_copy } = missed;
        let bytes: usize = mutations.iter().map(bytes_of).sum();
        let waiting = self.waiting.lock();
        let has_room = waiting.bytes() == 0 || waiting.bytes() + bytes <= WAITING_BYTES_MAX;
        if !has_room && only_copy {
            drop(waiting);
            let cause = format!("rows of {WAITING_BYTES_MAX} bytes wait to be written already");
            return kept(Err(NotKept { target, cause }));
        }
        let rows = if has_room {
            Rows::Whole(mutations, created_ms)
        } else {
            Rows::Leaves(mutations.iter().map(|row| self.leaf_of(row)).collect())
        };
        self.push(waiting, Entry { target, rows, only_copy, kept });
    }

    fn push(&self, mut waiting: MutexGuard<'_, Waiting>, entry: Entry) {
        let wakes = waiting.push(entry);
        drop(waiting);
        if wakes {
            (self.wake)();
        }
    }
}

impl Rows {
    fn len(&self) -> usize {
        match self {
            Self::Whole(mutations, _) => mutations.len(),
            Self::Leaves(leaves) => leaves.len(),
            Self::Marks(marks) => marks.len(),
        }
    }

    /// Bytes that count while they wait: those of whole rows.
    fn bytes(&self) -> usize {
        match self {
            Self::Whole(mutations, _) => mutations.iter().map(bytes_of).sum(),
            Self::Leaves(_) | Self::Marks(_) => 0,
        }
    }
}

pub(super) fn bytes_of(row: &Mutation) -> usize {
    row.key.len_bytes() + row.record.encoded_len()
}

type Row<'a> = (usize, usize, &'a Mutation, Option<u64>, bool);

/// Rows in parts that one append takes each.
fn parts<'a, 'b>(rows: &'b [Row<'a>]) -> Vec<&'b [Row<'a>]> {
    let mut parts = Vec::new();
    let (mut rest, mut len, mut bytes) = (rows, 0, 0);
    for (_, _, mutation, ..) in rows {
        if len > 0 && bytes + bytes_of(mutation) > APPEND_BYTES {
            let (part, next) = rest.split_at(len);
            parts.push(part);
            (rest, len, bytes) = (next, 0, 0);
        }
        len += 1;
        bytes += bytes_of(mutation);
    }
    if !rest.is_empty() {
        parts.push(rest);
    }
    parts
}

fn cause_of(error: &HintError) -> Cause {
    match error {
        HintError::Format { .. } | HintError::WrongTarget { .. } | HintError::Unconfirmed { .. } => Cause::Corrupt,
        HintError::TooLarge { .. } => Cause::Cap,
        HintError::Name(_)
        | HintError::Files { .. }
        | HintError::NotKept { .. }
        | HintError::PastEnd { .. }
        | HintError::OnlyCopies { .. }
        | HintError::Removed { .. } => Cause::Disk,
    }
}

/// Why a mark could not be made durable.
fn unmarked(error: DirtyError) -> FilesError {
    match error {
        DirtyError::Files { source, .. } => source,
        other => FilesError::Io { operation: "mark", path: "dirty".into(), detail: other.to_string() },
    }
}

impl HintKeeper for HintedHandoff {
    fn keep(&self, missed: Missed, kept: OnKept) {
        self.enqueue(missed, None, kept);
    }
}

#[cfg(test)]
mod tests;
