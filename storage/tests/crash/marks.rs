//! The dirty marks that a killed process keeps for another node: what it marks, and what of it must be there afterwards.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cube_storage::dirty::{Cause, DirtyError, DirtyMarks, DirtyStore};
use cube_storage::files::RealFiles;
use cube_storage::merkle::LeafId;
use cube_storage::model::{Hlc, NodeId, Version};

use crate::common::pause;
use crate::work;

/// A name that is escaped on disk.
const TARGET: &str = "node/2";
/// Leaves that are marked round and round: few enough that the marks are never made coarser.
const LEAVES: u64 = 500;
/// Marks that share a sync, and what passes from one sync to the next: the recorder copies the whole file each time.
const SYNC_EVERY: u64 = 20;
const PAUSE: Duration = Duration::from_millis(20);

fn version(n: u64) -> Version {
    Version::new(Hlc(n), NodeId(0))
}

/// Opens the marks of a data directory, and those of the target.
fn open(dir: &Path) -> Result<(DirtyStore, Arc<DirtyMarks>), String> {
    let opened = DirtyStore::open(Arc::new(RealFiles::new(dir)), Path::new("dirty"), version(u64::MAX / 2));
    let opened = opened.map_err(|error| error.to_string())?;
    if let Some((target, error)) = opened.failed.first() {
        return Err(format!("the marks of {target} do not open: {error}"));
    }
    let marks = opened.store.target(TARGET).map_err(|error| error.to_string())?;
    Ok((opened.store, marks))
}

/// The process's side.
pub(crate) struct Marker {
    _store: DirtyStore,
    marks: Arc<DirtyMarks>,
}

impl Marker {
    pub(crate) fn open(dir: &Path) -> Self {
        let (store, marks) = open(dir).unwrap();
        Self { _store: store, marks }
    }

    /// Marks leaves until it is to end; tells how far the marks are durable (`d`).
    pub(crate) fn work(
        &self,
        first: u64,
        goes_on: impl Fn() -> bool,
        tell: impl Fn(std::fmt::Arguments<'_>),
    ) -> Result<(), DirtyError> {
        for n in (first..).take_while(|_| goes_on()) {
            self.marks.mark(work::INDEXED, LeafId((n % LEAVES) as u32), version(n), Cause::Cap);
            if n % SYNC_EVERY == SYNC_EVERY - 1 {
                self.marks.sync()?;
                (n + 1 - SYNC_EVERY..=n).for_each(|n| tell(format_args!("d {n}")));
                pause(PAUSE);
            }
        }
        Ok(())
    }
}

/// The last durable mark of each leaf.
#[derive(Clone, Debug, Default)]
pub(crate) struct Marked(BTreeMap<u64, u64>);

impl Marked {
    pub(crate) fn take(&mut self, n: u64) {
        self.0.insert(n % LEAVES, n);
    }
}

/// Collects what is wrong with the marks of a data directory.
pub(crate) fn check(dir: &Path, marked: &Marked, wrong: &mut Vec<String>) {
    let (_store, marks) = match open(dir) {
        Ok(opened) => opened,
        Err(error) => return wrong.push(format!("marks: {error}")),
    };
    if marks.totals().everything {
        wrong.push("marks: taken for damaged".into());
    }
    for (&leaf, &n) in &marked.0 {
        let mark = marks.covering(work::INDEXED, LeafId(leaf as u32));
        if mark.is_none_or(|mark| mark.version < version(n)) {
            wrong.push(format!("marks: leaf {leaf} is {mark:?}, {n} was made durable"));
        }
    }
}
