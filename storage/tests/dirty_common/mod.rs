//! What the tests of the dirty marks share.

#![allow(dead_code, reason = "each test file uses its part")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use cube_storage::dirty::{Cause, DirtyMarks, DirtyRange, DirtyStore, Mark};
use cube_storage::files::{Files, SimulatedFiles};
use cube_storage::merkle::LeafId;
use cube_storage::model::{Hlc, NodeId, TableId, Version};

use super::hints_common::TARGET;

pub(crate) const ROOT: &str = "dirty";
pub(crate) const TABLE: TableId = TableId(1);
pub(crate) const LOGS_START: u64 = 4096;
pub(crate) const ENTRY_LEN: u64 = 40;
pub(crate) const CHUNK_LEN: u64 = 4096 * ENTRY_LEN;

pub(crate) fn version(n: u64) -> Version {
    Version::new(Hlc(n), NodeId(1))
}

pub(crate) fn open(files: &Arc<dyn Files>) -> DirtyStore {
    let opened = DirtyStore::open(files.clone(), Path::new(ROOT), version(1_000_000)).unwrap();
    assert!(opened.failed.is_empty() && opened.foreign.is_empty(), "{:?} {:?}", opened.failed, opened.foreign);
    opened.store
}

pub(crate) fn open_marks(files: &Arc<dyn Files>) -> Arc<DirtyMarks> {
    let marks = open(files).target(TARGET).unwrap();
    marks.sync().unwrap();
    marks
}

pub(crate) fn simulated() -> (SimulatedFiles, Arc<dyn Files>) {
    let disk = SimulatedFiles::new();
    (disk.clone(), Arc::new(disk))
}

pub(crate) fn path() -> PathBuf {
    Path::new(ROOT).join(format!("{TARGET}.marks"))
}

pub(crate) fn mark(marks: &DirtyMarks, leaf: u32, n: u64) {
    marks.mark(TABLE, LeafId(leaf), version(n), Cause::Cap);
}

pub(crate) fn leaf(leaf: u32) -> DirtyRange {
    DirtyRange::Leaf(TABLE, LeafId(leaf))
}

pub(crate) fn all(marks: &DirtyMarks) -> Vec<(DirtyRange, u64)> {
    let mut all: Vec<Mark> = Vec::new();
    loop {
        let page = marks.marks(all.last().map(|mark| mark.range), 100);
        if page.is_empty() {
            return all.iter().map(|mark| (mark.range, mark.version.hlc.0)).collect();
        }
        all.extend(page);
    }
}

pub(crate) fn covers_all(marks: &DirtyMarks, expected: &[(DirtyRange, u64)]) -> bool {
    expected.iter().all(|(range, n)| {
        let DirtyRange::Leaf(table, leaf) = range else { panic!("{range:?}") };
        marks.covering(*table, *leaf).is_some_and(|mark| mark.version >= version(*n))
    })
}
