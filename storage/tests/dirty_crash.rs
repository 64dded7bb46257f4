//! Dirty marks under loss of power, kills, full disks and failing syncs: what was marked durably stays covered.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod dirty_common;
mod hints_common;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use cube_storage::dirty::{Cause, DirtyError, DirtyMarks, DirtyRange, DirtyStore};
use cube_storage::files::{Files, SimulatedFiles};
use cube_storage::merkle::LeafId;
use cube_storage::model::PartitionId;
use dirty_common::*;
use hints_common::{NoSync, TARGET, cases};
use proptest::prelude::*;

#[test]
fn a_failed_sync_keeps_the_marks_for_the_next_one() {
    for failing in 1..4 {
        for seed in 0..40 {
            let (disk, files) = simulated();
            let marks = open_marks(&files);
            mark(&marks, 1, 1);
            marks.sync().unwrap();
            mark(&marks, 2, 2);
            disk.fail_syncs(failing);
            let mut failures = 0;
            while let Err(error) = marks.sync() {
                assert!(error.to_string().contains("node-3.marks"), "{error}");
                failures += 1;
            }
            assert_eq!(failures, failing, "each says so");
            disk.crash(seed);
            assert_eq!(all(&open_marks(&files)), [(leaf(1), 1), (leaf(2), 2)], "seed {seed}");
        }
    }
}

#[test]
fn power_lost_at_any_moment_of_rewriting_the_log_loses_nothing_and_looks_like_no_damage() {
    for changes in 0..6 {
        for seed in 0..25 {
            let (disk, files) = simulated();
            let marks = open_marks(&files);
            let mut expected: Vec<_> = (0..3000).map(|at| (leaf(at), 1)).collect();
            (0..3000).for_each(|at| mark(&marks, at, 1));
            marks.sync().unwrap();
            (0..1000).for_each(|at| mark(&marks, at, 2));
            marks.sync().unwrap();
            expected.iter_mut().take(1000).for_each(|(_, n)| *n = 2);
            // One more, and the log is full.
            (2990..3070).for_each(|at| mark(&marks, at, 3));
            (500..520).for_each(|at| mark(&marks, at, 3));
            disk.fail_after(changes);
            if marks.sync().is_ok() {
                expected = all(&marks);
            }
            disk.crash(seed);
            let marks = open_marks(&files);
            assert!(covers_all(&marks, &expected), "{changes} changes, seed {seed}");
            assert!(!marks.totals().everything, "{changes} changes, seed {seed}");
            assert!(covers_all(&open_marks(&files), &expected), "{changes} changes, seed {seed}");
        }
    }
}

/// A mark that is taken into a coarser one stays in the file until the coarser one is there.
#[test]
fn power_lost_while_marks_become_coarser_loses_nothing() {
    for seed in 0..600 {
        let (disk, files) = simulated();
        let marks = open_marks(&files);
        // Up to the end of a sector, so that what is written next can be torn after its first entry, and before.
        (0..10).for_each(|at| mark(&marks, at * 4096, 1));
        mark(&marks, 4095, 5);
        marks.sync().unwrap();
        mark(&marks, 4095, 6);
        marks.mark_range(DirtyRange::Partition(TABLE, PartitionId(0)), version(1), Cause::Cap);
        disk.fail_after(1);
        assert!(marks.sync().is_err());
        disk.crash(seed);
        assert!(covers_all(&open_marks(&files), &[(leaf(4095), 5)]), "seed {seed}");
    }
}

/// A batch that was torn in the middle leaves a hole, which must not be taken for damage later.
#[test]
fn a_torn_batch_is_not_taken_for_damage_ever_after() {
    for seed in 0..200 {
        let (disk, files) = simulated();
        let marks = open_marks(&files);
        mark(&marks, 1, 1);
        marks.sync().unwrap();
        (100..200).for_each(|at| mark(&marks, at, 1));
        disk.fail_after(1);
        assert!(marks.sync().is_err());
        disk.crash(seed);
        for round in 2..4 {
            let marks = open_marks(&files);
            assert!(covers_all(&marks, &[(leaf(1), round - 1)]) && !marks.totals().everything, "seed {seed}");
            mark(&marks, 1, round);
            marks.sync().unwrap();
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Mark(u32, u64),
    MarkPartition(u16, u64),
    MarkMany(u32),
    Sync,
    Clear(prop::sample::Index),
    FailSyncs(u32),
    FillDisk,
    FreeDisk,
    FailAfter(u64),
    Kill,
    Crash(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => (0u32..40, 0u64..50).prop_map(|(leaf, n)| Step::Mark(leaf * 700, n)),
        1 => (0u16..7, 0u64..50).prop_map(|(partition, n)| Step::MarkPartition(partition, n)),
        1 => (0u32..5000).prop_map(Step::MarkMany),
        6 => Just(Step::Sync),
        3 => any::<prop::sample::Index>().prop_map(Step::Clear),
        1 => (1u32..3).prop_map(Step::FailSyncs),
        1 => Just(Step::FillDisk),
        1 => Just(Step::FreeDisk),
        2 => (0u64..6).prop_map(Step::FailAfter),
        1 => Just(Step::Kill),
        2 => any::<u64>().prop_map(Step::Crash),
    ];
    prop::collection::vec(step, 1..50)
}

/// Marks on a simulated disk, and what must be covered.
struct World {
    disk: SimulatedFiles,
    files: Arc<dyn Files>,
    marks: Arc<DirtyMarks>,
    /// Marked since the last sync.
    waiting: BTreeMap<u32, u64>,
    promised: BTreeMap<u32, u64>,
    syncs_failed: bool,
    /// The power goes before the next crash.
    is_failing: bool,
    /// The power went while the marks were being opened.
    is_down: bool,
}

impl World {
    fn new(wrap: impl Fn(SimulatedFiles) -> Arc<dyn Files>) -> Self {
        let disk = SimulatedFiles::new();
        let marks = open_marks(&(Arc::new(disk.clone()) as Arc<dyn Files>));
        drop(marks);
        let files = wrap(disk.clone());
        let marks = open_marks(&files);
        let (waiting, promised) = (BTreeMap::new(), BTreeMap::new());
        Self { disk, files, marks, waiting, promised, syncs_failed: false, is_failing: false, is_down: false }
    }

    fn run(&mut self, step: &Step) {
        if self.is_down && !matches!(step, Step::Crash(_)) {
            return;
        }
        match step {
            Step::Mark(leaf, n) => self.mark(*leaf, *n),
            Step::MarkPartition(partition, n) => {
                let range = DirtyRange::Partition(TABLE, PartitionId(*partition));
                self.marks.mark_range(range, version(*n), Cause::Corrupt);
                self.note(u32::from(*partition) * 4096 + 17, *n);
            }
            Step::MarkMany(from) => (0..700).for_each(|n| self.mark(from + n * 30, 1)),
            Step::Sync => {
                if self.marks.sync().is_ok() {
                    for (leaf, n) in std::mem::take(&mut self.waiting) {
                        let promised = self.promised.entry(leaf).or_insert(n);
                        *promised = n.max(*promised);
                    }
                }
            }
            Step::Clear(which) => {
                let all = self.marks.marks(None, usize::MAX);
                if !all.is_empty() {
                    let mark = all[which.index(all.len())];
                    assert!(self.marks.clear(mark.range, mark.generation));
                    let cleared = |leaf: &u32| mark.range.covers(TABLE, LeafId(*leaf));
                    self.waiting.retain(|leaf, _| !cleared(leaf));
                    self.promised.retain(|leaf, _| !cleared(leaf));
                }
            }
            Step::FailSyncs(count) => {
                self.syncs_failed = true;
                self.disk.fail_syncs(*count);
            }
            Step::FillDisk => self.disk.set_capacity(Some(self.disk.used_bytes())),
            Step::FreeDisk => self.disk.set_capacity(None),
            // Once the power is gone, it stays so.
            Step::FailAfter(_) if self.is_failing => {}
            Step::FailAfter(changes) => {
                self.disk.fail_after(*changes);
                self.is_failing = true;
            }
            Step::Kill => self.reopen(),
            Step::Crash(seed) => {
                (self.is_failing, self.is_down) = (false, false);
                self.disk.crash(*seed);
                self.reopen();
            }
        }
        if self.is_down {
            return;
        }
        for (leaf, n) in &self.promised {
            let mark = self.marks.covering(TABLE, LeafId(*leaf));
            let mark = mark.unwrap_or_else(|| panic!("leaf {leaf} is not covered after {step:?}"));
            assert!(mark.version >= version(*n), "leaf {leaf}: {mark:?} is older than {n}");
        }
        if !self.syncs_failed {
            assert!(!self.marks.totals().everything, "no torn write is taken for damage");
        }
    }

    fn mark(&mut self, leaf: u32, n: u64) {
        mark(&self.marks, leaf, n);
        self.note(leaf, n);
    }

    fn note(&mut self, leaf: u32, n: u64) {
        let waiting = self.waiting.entry(leaf).or_insert(n);
        *waiting = n.max(*waiting);
    }

    fn reopen(&mut self) {
        self.disk.fail_syncs(0);
        self.waiting.clear();
        let opened = DirtyStore::open(self.files.clone(), Path::new(ROOT), version(1_000_000));
        match opened
            .map_err(|source| DirtyError::Files { target: TARGET.to_owned(), source })
            .and_then(|o| o.store.target(TARGET))
        {
            Ok(marks) => self.marks = marks,
            Err(error) => {
                assert!(self.is_failing, "{error}");
                self.is_down = true;
            }
        }
    }
}

proptest! {
    #![proptest_config(cases(256))]

    #[test]
    fn what_was_marked_durably_stays_covered(steps in steps()) {
        let mut world = World::new(|disk| Arc::new(disk));
        for step in &steps {
            world.run(step);
        }
    }

    /// Without faults and without coarser marks: exactly what was marked and not cleared, before and after reopening.
    #[test]
    fn without_faults_the_marks_are_exactly_those_made(
        steps in prop::collection::vec(prop_oneof![
            5 => (0u32..30, 0u64..50).prop_map(|(leaf, n)| Step::Mark(leaf, n)),
            2 => any::<prop::sample::Index>().prop_map(Step::Clear),
            2 => Just(Step::Sync),
            1 => Just(Step::Kill),
        ], 1..60)
    ) {
        let mut world = World::new(|disk| Arc::new(disk));
        for step in &steps {
            if matches!(step, Step::Kill) {
                world.run(&Step::Sync);
            }
            world.run(step);
            let mut expected = world.promised.clone();
            for (leaf, n) in &world.waiting {
                let greatest = expected.entry(*leaf).or_insert(*n);
                *greatest = (*greatest).max(*n);
            }
            let expected: Vec<_> = expected.into_iter().map(|(at, n)| (leaf(at), n)).collect();
            prop_assert_eq!(all(&world.marks), expected);
        }
    }
}

#[test]
fn the_check_fails_when_the_sync_is_taken_out() {
    let caught = (0..20).filter(|seed| {
        let run = std::panic::AssertUnwindSafe(|| {
            let mut world = World::new(|disk| Arc::new(NoSync(Arc::new(disk))));
            for step in [Step::Mark(1, 1), Step::Sync, Step::Mark(2, 2), Step::Sync, Step::Crash(*seed)] {
                world.run(&step);
            }
        });
        std::panic::catch_unwind(run).is_err()
    });
    assert!(caught.count() > 5, "marks that are not synced are lost, and this must show");
}
