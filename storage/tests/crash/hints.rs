//! The hints that a killed process keeps for other nodes: what it writes, and what of it must be there afterwards.
//!
//! Two threads append for the same target, so that they share syncs, and one of them plays the target now and then: it
//! reads what is there and acknowledges it, so that segments come and go.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use cube_storage::files::RealFiles;
use cube_storage::hints::{Hint, HintBatch, HintError, HintLimits, HintLog, HintStore, ReadLimits};

use crate::work;

/// A name that is escaped on disk.
const TARGET: &str = "node/2";
pub(crate) const KEEPERS: u64 = 2;
/// Hints between two replays.
const REPLAY_EVERY: u64 = 300;
const ALL: ReadLimits = ReadLimits { records: usize::MAX, bytes: usize::MAX };

/// Opens the hint logs of a data directory, and that of the target.
fn open(dir: &Path) -> Result<(HintStore, Arc<HintLog>), String> {
    let limits = HintLimits { segment_bytes: 16 << 10, keys_max: u64::MAX, ..HintLimits::default() };
    let opened = HintStore::open(Arc::new(RealFiles::new(dir)), Path::new("hints"), limits);
    let opened = opened.map_err(|error| error.to_string())?;
    if let Some((target, error)) = opened.failed.first() {
        return Err(format!("the log of {target} does not open: {error}"));
    }
    let log = opened.store.log(TARGET).map_err(|error| error.to_string())?;
    Ok((opened.store, log))
}

/// The n-th hint of a keeper.
fn hint(keeper: u64, n: u64) -> Hint {
    let [key, _] = work::keys(keeper, n);
    Hint { table: work::INDEXED, key, record: work::record(keeper, n), created_ms: n, only_copy: n.is_multiple_of(5) }
}

/// The process's side.
pub(crate) struct Keeper {
    _store: HintStore,
    log: Arc<HintLog>,
    /// Whether a hint is told durable only after its sync.
    pub(crate) syncs: bool,
}

impl Keeper {
    pub(crate) fn open(dir: &Path, syncs: bool) -> Self {
        let (store, log) = open(dir).unwrap();
        Self { _store: store, log, syncs }
    }

    /// Keeps hints until one cannot be kept, or it is to end; tells how far they are durable (`h`), and up to where they
    /// may be gone (`r`).
    pub(crate) fn work(
        &self,
        keeper: u64,
        first: u64,
        goes_on: impl Fn() -> bool,
        tell: impl Fn(std::fmt::Arguments<'_>),
    ) -> Result<(), HintError> {
        for n in (first..).take_while(|_| goes_on()) {
            let appended = self.log.append(&[hint(keeper, n)])?;
            assert_eq!(appended.refused, []);
            if self.syncs {
                self.log.sync(appended.ticket)?;
            }
            tell(format_args!("h {keeper} {n}"));
            if keeper == 0 && self.syncs && n % REPLAY_EVERY == REPLAY_EVERY - 1 {
                self.replay(&tell)?;
            }
        }
        Ok(())
    }

    fn replay(&self, tell: impl Fn(std::fmt::Arguments<'_>)) -> Result<(), HintError> {
        // What a loss of power left of hints that were not synced yet: told as damage, which a node marks dirty.
        self.log.damage().iter().for_each(|damage| self.log.confirm_damage(damage));
        let batch = self.log.read(self.log.start(), ReadLimits { records: 200, ..ALL })?;
        for (keeper, n) in last_of_each(&batch) {
            tell(format_args!("r {keeper} {n}"));
        }
        self.log.acknowledge(batch.next)
    }
}

/// The last hint of each keeper in a batch.
fn last_of_each(batch: &HintBatch) -> BTreeMap<u64, u64> {
    batch.hints.iter().map(|stored| (u64::from(stored.hint.record.version.node.0), stored.hint.created_ms)).collect()
}

/// What was told of a keeper's hints: durable up to here, and maybe gone up to there.
#[derive(Clone, Debug, Default)]
pub(crate) struct Kept {
    pub(crate) durable: Vec<u64>,
    pub(crate) replayed: u64,
}

/// Collects what is wrong with the hints of a data directory.
pub(crate) fn check(dir: &Path, kept: &BTreeMap<u64, Kept>, wrong: &mut Vec<String>) {
    let (_store, log) = match open(dir) {
        Ok(opened) => opened,
        Err(error) => return wrong.push(format!("hints: {error}")),
    };
    let batch = match log.read(log.start(), ALL) {
        Ok(batch) => batch,
        Err(error) => return wrong.push(format!("hints are not read: {error}")),
    };
    // Damage may be told of what was never synced, when its disk kept the end and not the beginning: nobody can know that
    // it was not promised. What was promised is there, and damage or not, that is looked for here.
    let mut found: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    for stored in &batch.hints {
        let (keeper, n) = (u64::from(stored.hint.record.version.node.0), stored.hint.created_ms);
        if stored.hint != hint(keeper, n) {
            wrong.push(format!("hint {n} of keeper {keeper} was never written: {:?}", stored.hint));
        }
        found.entry(keeper).or_default().push(n);
    }
    for (keeper, Kept { durable, replayed }) in kept {
        let found = found.remove(keeper).unwrap_or_default();
        if !found.is_sorted() {
            wrong.push(format!("hints of keeper {keeper} are out of order"));
        }
        let missing = durable.iter().filter(|n| **n > *replayed);
        let missing: Vec<u64> = missing.filter(|n| found.binary_search(n).is_err()).copied().collect();
        if let (Some(first), Some(last)) = (missing.first(), missing.last()) {
            wrong.push(format!("{} hints of keeper {keeper} are gone, from {first} to {last}", missing.len()));
        }
    }
}
