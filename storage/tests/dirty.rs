//! Dirty marks: what is marked, raised, made coarser and cleared, on a sound disk and on a full one.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod dirty_common;
mod hints_common;

use std::collections::BTreeMap;
use std::path::Path;

use cube_storage::dirty::{Cause, DirtyError, DirtyRange};
use cube_storage::files::FilesError;
use cube_storage::merkle::LeafId;
use cube_storage::model::{PartitionId, TableId};
use dirty_common::*;
use hints_common::{HeldSyncs, TARGET, on_both};

#[test]
fn marks_are_raised_listed_in_order_and_there_after_reopening() {
    on_both(|files| {
        let marks = open_marks(&files);
        mark(&marks, 9, 5);
        mark(&marks, 2, 7);
        mark(&marks, 9, 3);
        mark(&marks, 2, 8);
        marks.mark(TableId(0), LeafId(4_000_000_000), version(1), Cause::Window);
        marks.sync().unwrap();
        let expected = vec![(DirtyRange::Leaf(TableId(0), LeafId(4_000_000_000)), 1), (leaf(2), 8), (leaf(9), 5)];
        assert_eq!(all(&marks), expected, "the greatest version, in order");
        let totals = marks.totals();
        assert_eq!((totals.marks, totals.leaves, totals.everything), (3, 3, false));
        assert_eq!(totals.by_cause, BTreeMap::from([(Cause::Cap, 4), (Cause::Window, 1)]));
        let reopened = open_marks(&files);
        assert_eq!(all(&reopened), expected);
        assert_eq!(reopened.totals().file_bytes, 4096 + 2 * 163_840);
    });
}

#[test]
fn a_mark_is_cleared_only_if_nothing_more_was_missed() {
    on_both(|files| {
        let marks = open_marks(&files);
        mark(&marks, 1, 5);
        mark(&marks, 2, 5);
        let read = marks.marks(None, 10);
        mark(&marks, 1, 4);
        assert!(!marks.clear(read[0].range, read[0].generation), "an older write was missed meanwhile");
        assert!(marks.clear(read[1].range, read[1].generation));
        assert!(!marks.clear(read[1].range, read[1].generation), "it is gone");
        mark(&marks, 2, 5);
        assert!(!marks.clear(read[1].range, read[1].generation), "made again, it is another one");
        let read = marks.marks(None, 10);
        assert!(marks.clear(read[1].range, read[1].generation));
        marks.sync().unwrap();
        assert_eq!(all(&open_marks(&files)), [(leaf(1), 5)]);
        let read = marks.marks(None, 10);
        assert!(marks.clear(read[0].range, read[0].generation));
        marks.sync().unwrap();
        assert_eq!(all(&open_marks(&files)), []);
    });
}

#[test]
fn coarser_marks_take_in_finer_ones_with_their_versions() {
    on_both(|files| {
        let marks = open_marks(&files);
        let (first, _) = LeafId::of_partition(PartitionId(3));
        for (at, n) in [(first.0, 9), (first.0 + 4095, 2), (first.0 + 4096, 4), (first.0 - 1, 3)] {
            mark(&marks, at, n);
        }
        marks.sync().unwrap();
        let partition = DirtyRange::Partition(TABLE, PartitionId(3));
        marks.mark_range(partition, version(5), Cause::Corrupt);
        mark(&marks, first.0 + 7, 11);
        let expected = vec![(partition, 11), (leaf(first.0 - 1), 3), (leaf(first.0 + 4096), 4)];
        assert_eq!(all(&marks), expected);
        marks.sync().unwrap();
        assert_eq!(all(&open_marks(&files)), expected);
        assert_eq!(marks.covering(TABLE, first).map(|mark| mark.range), Some(partition));
        assert_eq!(marks.covering(TableId(2), first), None);

        marks.mark_range(DirtyRange::Table(TABLE), version(1), Cause::Corrupt);
        marks.mark(TableId(2), LeafId(1), version(12), Cause::Cap);
        let expected = vec![(DirtyRange::Table(TABLE), 11), (DirtyRange::Leaf(TableId(2), LeafId(1)), 12)];
        assert_eq!(all(&marks), expected);
        marks.mark_range(DirtyRange::Everything, version(1), Cause::Corrupt);
        assert_eq!(all(&marks), [(DirtyRange::Everything, 12)]);
        marks.sync().unwrap();
        assert_eq!(all(&open_marks(&files)), [(DirtyRange::Everything, 12)]);
        let everything = marks.marks(None, 1)[0];
        assert!(marks.clear(everything.range, everything.generation));
        marks.sync().unwrap();
        assert_eq!(all(&open_marks(&files)), [], "what was taken in is cleared with it");
    });
}

#[test]
fn a_leaf_marked_again_and_again_needs_no_more_room() {
    on_both(|files| {
        let marks = open_marks(&files);
        let len = marks.totals().file_bytes;
        for round in 0..300 {
            for at in 0..64 {
                mark(&marks, at, round);
            }
            marks.sync().unwrap();
        }
        assert_eq!(marks.totals().file_bytes, len);
        let expected: Vec<_> = (0..64).map(|at| (leaf(at), 299)).collect();
        assert_eq!(all(&open_marks(&files)), expected);
    });
}

#[test]
fn the_file_grows_with_the_marks_while_there_is_space() {
    on_both(|files| {
        let marks = open_marks(&files);
        for at in 0..20_000 {
            mark(&marks, at * 50, u64::from(at));
            if at % 3_000 == 0 {
                marks.sync().unwrap();
            }
        }
        marks.sync().unwrap();
        let expected: Vec<_> = (0..20_000).map(|at| (leaf(at * 50), u64::from(at))).collect();
        let reopened = open_marks(&files);
        assert_eq!(all(&reopened), expected);
        let capacity = (reopened.totals().file_bytes - LOGS_START) / (2 * ENTRY_LEN);
        assert!((20_000..=65_536).contains(&capacity), "{capacity}");
    });
}

#[test]
fn on_a_full_disk_marks_become_coarser_and_none_is_lost() {
    for room in [0, 400_000] {
        let (disk, files) = simulated();
        let marks = open_marks(&files);
        disk.set_capacity(Some(disk.used_bytes() + room));
        // 300 partitions of three tables, 40 leaves of each.
        let leaves: Vec<(TableId, LeafId)> =
            (0..36_000).map(|n| (TableId(n % 3), LeafId(((n / 3) % 300) * 4096 + n / 900 * 7))).collect();
        for (n, &(table, leaf)) in leaves.iter().enumerate() {
            marks.mark(table, leaf, version(n as u64), Cause::Disk);
            if n % 500 == 0 {
                marks.sync().unwrap();
            }
        }
        marks.sync().unwrap();
        disk.crash(room);
        let marks = open_marks(&files);
        for (n, &(table, leaf)) in leaves.iter().enumerate() {
            let mark = marks.covering(table, leaf).expect("covered");
            assert!(mark.version >= version(n as u64));
        }
        let totals = marks.totals();
        assert!(!totals.everything && totals.tables == 0 && totals.partitions > 0, "{totals:?}");
        assert!(totals.marks < 8_000);
        if room > 0 {
            assert!(totals.file_bytes > LOGS_START + 2 * CHUNK_LEN, "it has grown by what there was");
        }
    }
}

#[test]
fn the_number_of_marks_is_bounded_and_everything_stays_covered() {
    let (_, files) = simulated();
    let marks = open_marks(&files);
    for n in 0..400_000_u32 {
        mark(&marks, n.wrapping_mul(2_654_435_761) >> 12, u64::from(n));
    }
    marks.sync().unwrap();
    let reopened = open_marks(&files);
    let totals = reopened.totals();
    assert!(totals.marks <= 200_000 && totals.partitions > 0 && totals.tables == 0, "{totals:?}");
    assert!(totals.file_bytes <= 21 << 20);
    for n in 0..400_000_u32 {
        let mark = reopened.covering(TABLE, LeafId(n.wrapping_mul(2_654_435_761) >> 12)).expect("covered");
        assert!(mark.version >= version(u64::from(n)));
    }
}

#[test]
fn marks_of_a_new_target_on_a_full_disk_stay_in_memory_until_there_is_room() {
    let (disk, files) = simulated();
    disk.set_capacity(Some(1000));
    let store = open(&files);
    let marks = store.target(TARGET).unwrap();
    marks.mark(TABLE, LeafId(7), version(3), Cause::Disk);
    let error = marks.sync().unwrap_err();
    assert!(matches!(&error, DirtyError::Files { source: FilesError::NoSpace { .. }, .. }), "{error}");
    assert!(error.to_string().contains("node-3"), "{error}");
    assert_eq!((disk.used_bytes(), files.list(Path::new(ROOT)).unwrap()), (0, vec![]), "nothing is left behind");
    assert!(marks.needs_sync() && marks.covering(TABLE, LeafId(7)).is_some());
    disk.set_capacity(None);
    marks.sync().unwrap();
    assert!(!marks.needs_sync());
    let reopened = open(&files).target(TARGET).unwrap();
    assert_eq!(reopened.covering(TABLE, LeafId(7)).map(|mark| mark.version), Some(version(3)));
}

#[test]
fn all_who_wait_for_a_sync_share_the_next_one() {
    on_both(|files| {
        let (files, syncs) = HeldSyncs::over(files);
        let marks = open_marks(&files);
        let keep = |n| {
            mark(&marks, n, 1);
            marks.sync().unwrap();
        };
        keep(1);
        let before = syncs.begun();
        keep(2);
        let (one, before) = (syncs.begun() - before, syncs.begun());
        syncs.hold();
        std::thread::scope(|threads| {
            let marks = &marks;
            threads.spawn(|| keep(3));
            syncs.wait_past(before);
            let (marked, is_marked) = std::sync::mpsc::channel();
            for n in 4..12 {
                let marked = marked.clone();
                threads.spawn(move || {
                    mark(marks, n, 1);
                    marked.send(()).unwrap();
                    marks.sync().unwrap();
                });
            }
            (4..12).for_each(|_| is_marked.recv().unwrap());
            syncs.let_go();
        });
        assert_eq!(syncs.begun() - before, 2 * one, "the one under way, and one for all who waited");
        assert_eq!(all(&open_marks(&files)).len(), 11);
    });
}

#[test]
fn threads_that_mark_at_once_lose_nothing() {
    on_both(|files| {
        let marks = open_marks(&files);
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let marks = &marks;
                scope.spawn(move || {
                    for n in 0..60 {
                        mark(marks, thread * 100 + n, 1);
                        marks.sync().unwrap();
                    }
                });
            }
        });
        assert_eq!(all(&open_marks(&files)).len(), 240);
    });
}

#[test]
fn targets_that_look_alike_have_marks_of_their_own() {
    on_both(|files| {
        let names = ["user:alice", "user_alice", "USER:alice", "user/alice", "..", "a.b", "a.b.marks", "a.new", "ü"];
        let store = open(&files);
        for (name, n) in names.into_iter().zip(1..) {
            let marks = store.target(name).unwrap();
            mark(&marks, n, 1);
            marks.sync().unwrap();
        }
        let store = open(&files);
        assert_eq!(store.totals().len(), names.len());
        for (name, n) in names.into_iter().zip(1..) {
            assert_eq!(all(&store.target(name).unwrap()), [(leaf(n), 1)], "{name}");
        }
        assert!(matches!(store.target(""), Err(DirtyError::Name(_))));
        let marks = store.target("a.b").unwrap();
        assert_eq!(store.remove_target("a.b").unwrap().marks, 1);
        assert!(matches!(marks.sync(), Err(DirtyError::Removed { .. })));
        assert_eq!(open(&files).totals().len(), names.len() - 1);
        assert_eq!(all(&store.target("a.b").unwrap()), [], "a node of that name may come again");
    });
}
