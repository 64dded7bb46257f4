//! What is kept for other nodes on a real device that is full: hints that were told durable are there, half of one is not,
//! and what frees space or needs none goes on.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use cube_storage::dirty::{Cause, DirtyMarks, DirtyStore};
use cube_storage::files::RealFiles;
use cube_storage::hints::{Hint, HintError, HintLimits, HintLog, HintStore, ReadLimits};
use cube_storage::merkle::LeafId;
use cube_storage::model::{Hlc, NodeId, Record, RowKey, Version};

use crate::TABLE;
use crate::common::at;
use crate::device::{free, noise, take_the_rest};

const TARGET: &str = "node-2";
const ALL: ReadLimits = ReadLimits { records: usize::MAX, bytes: usize::MAX };
const MARKS: u32 = 3_000;

/// Hints and marks for a target, and the stores that they belong to.
struct Kept {
    _stores: (HintStore, DirtyStore),
    hints: Arc<HintLog>,
    marks: Arc<DirtyMarks>,
}

fn version(n: u64) -> Version {
    Version::new(Hlc(n), NodeId(1))
}

fn hint(n: u64) -> Hint {
    let value = noise(n, 30_000 + (n % 7) as usize * 1_000);
    Hint {
        table: TABLE,
        key: RowKey::of(format!("row {n}")),
        record: Record::value(at(n), value),
        created_ms: n,
        only_copy: false,
    }
}

impl Kept {
    fn open(dir: &Path) -> Self {
        let files = Arc::new(RealFiles::new(dir));
        let limits = HintLimits { segment_bytes: 1 << 20, ..HintLimits::default() };
        let hints = HintStore::open(files.clone(), Path::new("hints"), limits).unwrap();
        let marks = DirtyStore::open(files, Path::new("dirty"), version(u64::MAX / 2)).unwrap();
        assert!(hints.failed.is_empty() && marks.failed.is_empty(), "{:?}, {:?}", hints.failed, marks.failed);
        let (log, marked) = (hints.store.log(TARGET).unwrap(), marks.store.target(TARGET).unwrap());
        marked.sync().expect("the space of the first marks is set aside");
        Self { _stores: (hints.store, marks.store), hints: log, marks: marked }
    }

    fn keep(&self, n: u64) -> Result<(), HintError> {
        let appended = self.hints.append(&[hint(n)])?;
        assert_eq!(appended.refused, []);
        self.hints.sync(appended.ticket)
    }

    fn mark_all(&self, n: u64) {
        (0..MARKS).for_each(|leaf| self.marks.mark(TABLE, LeafId(leaf), version(n), Cause::Disk));
        self.marks.sync().expect("the space of the first marks is set aside");
    }

    /// These hints and no others, each as it was kept, and all marks.
    fn assert_holds(&self, hints: std::ops::Range<u64>, marked: u64, when: &str) {
        assert_eq!(self.hints.damage(), [], "{when}");
        let held = self.hints.read(self.hints.start(), ALL).unwrap().hints;
        let held: Vec<Hint> = held.into_iter().map(|stored| stored.hint).collect();
        assert!(held.iter().cloned().eq(hints.clone().map(hint)), "{when}: {} hints, not {hints:?}", held.len());
        for leaf in 0..MARKS {
            let mark = self.marks.covering(TABLE, LeafId(leaf));
            assert!(mark.is_some_and(|mark| mark.version >= version(marked)), "{when}: leaf {leaf}");
        }
        assert!(!self.marks.totals().everything, "{when}");
    }
}

fn is_no_space(error: &HintError) -> bool {
    matches!(error, HintError::Files { source, .. } if source.is_no_space())
}

/// Each round begins with another file in the way, so that space ends in another place of a hint.
pub(crate) fn goes_on(dir: &Path, round: u64) {
    fs::create_dir_all(dir.join("data")).unwrap();
    let data = dir.join("data");
    fs::write(dir.join("ballast"), vec![1; (4 << 20) + round as usize * 7_777]).unwrap();
    let kept = Kept::open(&data);
    let mut durable = 0;
    let error = loop {
        match kept.keep(durable) {
            Ok(()) => durable += 1,
            Err(error) => break error,
        }
    };
    assert!(is_no_space(&error), "{error}");
    assert!(durable > 100, "{durable} hints fit");
    take_the_rest(dir);
    kept.mark_all(1);
    kept.assert_holds(0..durable, 1, "when the device was full");
    drop(kept);

    let kept = Kept::open(&data);
    kept.assert_holds(0..durable, 1, "opened while the device was full");
    kept.mark_all(2);
    // Acknowledging needs no space, and frees some.
    let half = kept.hints.read(kept.hints.start(), ReadLimits { records: (durable / 2) as usize, ..ALL }).unwrap();
    kept.hints.acknowledge(half.next).unwrap();
    kept.keep(durable).expect("what was acknowledged has made room");
    kept.assert_holds(durable / 2..durable + 1, 2, "after half was acknowledged");

    free(dir);
    (durable + 1..durable + 50).for_each(|n| kept.keep(n).unwrap());
    drop(kept);
    Kept::open(&data).assert_holds(durable / 2..durable + 50, 2, "with space, and after a restart");
    fs::remove_dir_all(dir).unwrap();
}
