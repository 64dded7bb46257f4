//! Dirty marks in a file that is not what was written: either what was marked is known, or everything is marked.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod dirty_common;
mod hints_common;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use cube_storage::dirty::{Cause, DirtyError, DirtyRange, DirtyStore};
use cube_storage::files::{Access, Files, SimulatedFiles};
use cube_storage::model::Version;
use dirty_common::*;
use hints_common::{TARGET, cases};
use proptest::prelude::*;

type Marks = Vec<(DirtyRange, u64)>;

/// A file with marks in both logs, of which the odd one is current, and what it marks.
static WRITTEN: LazyLock<(Vec<u8>, Marks)> = LazyLock::new(|| {
    let (_, files) = simulated();
    let marks = open_marks(&files);
    for round in 0..45 {
        for at in 0..200 {
            mark(&marks, at, round);
        }
        marks.sync().unwrap();
    }
    let two = marks.marks(None, 2);
    assert!(two.iter().all(|mark| marks.clear(mark.range, mark.generation)));
    mark(&marks, 7, 500);
    marks.sync().unwrap();
    let all = all(&marks);
    assert_eq!(all.len(), 198);
    (files.open(&path(), Access::Read).unwrap().read_at(0, 1 << 20).unwrap(), all)
});

/// A disk with that file.
fn written() -> (SimulatedFiles, Arc<dyn Files>, Marks) {
    let (disk, files) = simulated();
    files.create_folder(Path::new(ROOT)).unwrap();
    let file = files.create(&path()).unwrap();
    file.append(&WRITTEN.0).unwrap();
    file.sync().unwrap();
    (disk, files, WRITTEN.1.clone())
}

#[test]
fn a_flipped_byte_anywhere_loses_no_mark() {
    let (disk, files, expected) = written();
    let logs = [LOGS_START, LOGS_START + CHUNK_LEN];
    let offsets = (0..2048).step_by(5).chain(logs.into_iter().flat_map(|log| log..log + 12 * ENTRY_LEN));
    // The end of the current log, and what is behind it.
    let more = logs.into_iter().flat_map(|log| (log..log + CHUNK_LEN).step_by(4999));
    let (mut exact, mut everything) = (0, 0);
    for offset in offsets.chain(more) {
        assert!(disk.flip(&path(), offset, (offset % 8) as u8));
        let marks = open_marks(&files);
        assert!(covers_all(&marks, &expected), "offset {offset}: {:?}", all(&marks));
        if all(&marks) == expected {
            exact += 1;
        } else {
            assert_eq!(all(&marks), [(DirtyRange::Everything, 1_000_000)], "offset {offset}");
            assert_eq!(marks.totals().by_cause, BTreeMap::from([(Cause::Corrupt, 1)]));
            everything += 1;
            let again = open_marks(&files);
            assert_eq!(all(&again), all(&marks));
            assert_eq!(again.totals().by_cause, BTreeMap::new(), "it is repaired, and counted once");
        }
        assert!(disk.overwrite(&path(), 0, &WRITTEN.0));
    }
    assert!(exact > 700 && everything > 450, "{exact} without effect, {everything} noticed");
}

#[test]
fn a_file_cut_anywhere_loses_no_mark() {
    let len = WRITTEN.0.len() as u64;
    for cut in (0..len).step_by(3001).chain(0..60).chain(LOGS_START..LOGS_START + 60) {
        let (disk, files, expected) = written();
        assert!(disk.cut(&path(), cut));
        let marks = open_marks(&files);
        assert!(covers_all(&marks, &expected), "cut at {cut}");
        assert!(covers_all(&open_marks(&files), &expected), "cut at {cut}, opened again");
    }
}

#[test]
fn sectors_that_cannot_be_read_mark_everything() {
    let (disk, files, expected) = written();
    disk.fail_reads(&path(), LOGS_START..LOGS_START + 2 * CHUNK_LEN);
    let marks = open_marks(&files);
    assert!(covers_all(&marks, &expected));
    disk.heal_reads();
    disk.fail_reads(&path(), 0..2048);
    assert!(covers_all(&open_marks(&files), &expected));

    let (disk, files, expected) = written();
    disk.fail_reads(&path(), 0..LOGS_START + 2 * CHUNK_LEN);
    assert!(covers_all(&open_marks(&files), &expected));
    disk.heal_reads();
    assert!(covers_all(&open_marks(&files), &expected), "what could not be read then does not count now");
}

/// Without the slots beside the logs, the entries themselves tell how far they were durable.
#[test]
fn damage_to_any_but_the_last_entries_is_noticed_without_the_slots() {
    for entry in 0..=100 {
        let (disk, files) = simulated();
        let marks = open_marks(&files);
        for at in 0..100 {
            mark(&marks, at, 1);
            if at % 10 == 9 {
                marks.sync().unwrap();
            }
        }
        let expected = all(&marks);
        assert!(disk.overwrite(&path(), 1024, &[0; 1024]));
        assert!(disk.flip(&path(), LOGS_START + CHUNK_LEN + entry * ENTRY_LEN + 20, 1));
        let marks = open_marks(&files);
        let is_noticed = entry <= 90;
        assert_eq!(marks.totals().everything, is_noticed, "entry {entry}");
        assert_eq!(covers_all(&marks, &expected), is_noticed, "entry {entry}");
    }
}

/// Power is lost right after a log was rewritten, and the entry that began it is damaged at once: nobody can tell, and
/// what it holds is taken all the same.
#[test]
fn a_log_whose_first_entry_is_lost_still_marks_what_it_says() {
    let (disk, files) = simulated();
    let marks = open_marks(&files);
    for at in 0..3000 {
        mark(&marks, at, 1);
    }
    marks.sync().unwrap();
    for at in 0..1000 {
        mark(&marks, at, 2);
    }
    marks.sync().unwrap();
    for at in 2950..3070 {
        mark(&marks, at, 3);
    }
    marks.sync().unwrap();
    let expected = all(&marks);
    assert!(disk.overwrite(&path(), 1024, &[0; 1024]));
    assert!(disk.flip(&path(), LOGS_START + 8, 0), "the even log was written second");
    let marks = open_marks(&files);
    assert_eq!(all(&marks), expected);
    assert_eq!(all(&open_marks(&files)), expected);
}

#[test]
fn newer_and_foreign_files_are_refused_and_named() {
    let (disk, files, _) = written();
    for at in [8, 520] {
        disk.overwrite(&path(), at, &[7]);
    }
    let opened = DirtyStore::open(files.clone(), Path::new(ROOT), Version::ZERO).unwrap();
    let [(target, error)] = &opened.failed[..] else { panic!("{:?}", opened.failed) };
    let message = error.to_string();
    assert!(target == TARGET && matches!(error, DirtyError::Format { found: 7, supported: 1, .. }), "{error}");
    assert!(message.contains("format 7") && message.contains("formats up to 1") && message.contains("node-3.marks"));

    let (_, files, _) = written();
    files.rename(&path(), &Path::new(ROOT).join("node-4.marks")).unwrap();
    files.create(&Path::new(ROOT).join("notes.txt")).unwrap();
    let opened = DirtyStore::open(files, Path::new(ROOT), Version::ZERO).unwrap();
    assert!(matches!(&opened.failed[..], [(_, DirtyError::WrongTarget { found, .. })] if found == TARGET));
    assert_eq!(opened.foreign, [Path::new(ROOT).join("notes.txt")]);
}

proptest! {
    #![proptest_config(cases(256))]

    #[test]
    fn arbitrary_files_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..9000), header in any::<bool>()) {
        let (_, files) = simulated();
        files.create_folder(Path::new(ROOT)).unwrap();
        let file = files.create(&path()).unwrap();
        if header {
            file.append(b"CUBEMARK\x01").unwrap();
        }
        file.append(&bytes).unwrap();
        let marks = open_marks(&files);
        prop_assert_eq!(all(&marks), [(DirtyRange::Everything, 1_000_000)]);
        prop_assert_eq!(all(&open_marks(&files)), [(DirtyRange::Everything, 1_000_000)]);
    }

    /// Several bytes flipped: either what was marked is known, or everything is marked.
    #[test]
    fn arbitrary_damage_loses_no_mark(at in prop::collection::vec((0u64..3000, 0u8..8, any::<bool>()), 1..12)) {
        let (disk, files, expected) = written();
        for (at, bit, odd) in at {
            let log = if odd { CHUNK_LEN } else { 0 };
            disk.flip(&path(), if at < 500 { at * 4 } else { LOGS_START + log + at - 500 }, bit);
        }
        if let Ok(marks) = DirtyStore::open(files, Path::new(ROOT), version(1_000_000)).unwrap().store.target(TARGET) {
            prop_assert!(covers_all(&marks, &expected));
        }
    }
}
