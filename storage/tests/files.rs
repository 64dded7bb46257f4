//! The conformance suite of the `Files` seam, on both implementations, and the faults of the simulated one.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::path::Path;
use std::sync::Arc;

use cube_storage::files::{Access, Entry, File, Files, FilesError, RealFiles, SimulatedFiles};

fn path(path: &str) -> &Path {
    Path::new(path)
}

fn read_all(file: &dyn File) -> Vec<u8> {
    file.read_at(0, usize::MAX).unwrap()
}

/// Runs a test on a real and on a simulated file system.
fn on_both(test: impl Fn(&dyn Files)) {
    let folder = tempfile::tempdir().unwrap();
    test(&RealFiles::new(folder.path()));
    test(&SimulatedFiles::new());
}

#[test]
fn what_is_appended_and_overwritten_reads_back_by_offset() {
    on_both(|files| {
        let file = files.create(path("a")).unwrap();
        assert!(file.is_empty().unwrap());
        file.append(b"hello ").unwrap();
        file.append(b"world").unwrap();
        file.write_at(6, b"W").unwrap();
        file.append(b"!").unwrap();
        assert_eq!(read_all(&*file), b"hello World!");
        assert_eq!(file.read_at(6, 5).unwrap(), b"World");
        assert_eq!(file.read_at(10, 100).unwrap(), b"d!", "fewer bytes where the file ends");
        assert_eq!(file.read_at(12, 1).unwrap(), b"");
        assert_eq!(file.read_at(u64::MAX, 1).unwrap(), b"");
        assert_eq!(file.len().unwrap(), 12);
        file.sync().unwrap();

        file.write_at(14, b"z").unwrap();
        assert_eq!(file.read_at(11, 9).unwrap(), b"!\0\0z", "a gap is zeros");
        file.truncate(5).unwrap();
        file.truncate(9).unwrap();
        assert_eq!(read_all(&*file), b"hello");
        file.append(b"").unwrap();
        file.append(b"?").unwrap();
        assert_eq!(read_all(&*files.open(path("a"), Access::Read).unwrap()), b"hello?");
    });
}

#[test]
fn preallocation_adds_zeros_and_never_shrinks() {
    on_both(|files| {
        let file = files.create(path("a")).unwrap();
        file.append(b"xy").unwrap();
        file.preallocate(5000).unwrap();
        assert_eq!(file.len().unwrap(), 5000);
        file.preallocate(10).unwrap();
        let bytes = read_all(&*file);
        assert!(bytes.len() == 5000 && bytes.starts_with(b"xy") && bytes[2..].iter().all(|byte| *byte == 0));
        file.write_at(4990, b"z").unwrap();
        assert_eq!(file.len().unwrap(), 5000);
    });
}

#[test]
fn a_name_is_created_once_and_opened_only_if_it_exists() {
    on_both(|files| {
        assert_eq!(files.open(path("a"), Access::Write).unwrap_err(), FilesError::NotFound { path: "a".into() });
        files.create(path("a")).unwrap();
        assert_eq!(files.create(path("a")).unwrap_err(), FilesError::Exists { path: "a".into() });
        assert_eq!(files.create(path("no/a")).unwrap_err(), FilesError::NotFound { path: "no/a".into() });
        files.remove(path("a")).unwrap();
        assert_eq!(files.remove(path("a")).unwrap_err(), FilesError::NotFound { path: "a".into() });
        assert!(files.create(path("a")).is_ok());
    });
}

#[test]
fn folders_are_listed_in_order_and_removed_when_empty() {
    on_both(|files| {
        assert!(files.create_folder(path("f")).unwrap());
        assert!(!files.create_folder(path("f")).unwrap(), "it is there already");
        for name in ["f/b", "f/a", "f/10"] {
            files.create(path(name)).unwrap();
        }
        assert!(files.create_folder(path("f/c")).unwrap());
        let entries = files.list(path("f")).unwrap();
        let names: Vec<(&str, bool)> = entries.iter().map(|Entry { name, is_folder }| (&**name, *is_folder)).collect();
        assert_eq!(names, [("10", false), ("a", false), ("b", false), ("c", true)]);
        assert_eq!(files.list(path("")).unwrap(), [Entry { name: "f".into(), is_folder: true }]);
        assert!(files.remove_folder(path("f")).is_err(), "it is not empty");
        for name in ["f/b", "f/a", "f/10"] {
            files.remove(path(name)).unwrap();
        }
        files.remove_folder(path("f/c")).unwrap();
        files.sync_folder(path("f")).unwrap();
        files.remove_folder(path("f")).unwrap();
        assert_eq!(files.list(path("f")).unwrap_err(), FilesError::NotFound { path: "f".into() });
        assert!(files.sync_folder(path("f")).is_err());
        files.sync_folder(path("")).unwrap();
    });
}

#[test]
fn a_rename_replaces_in_one_step() {
    on_both(|files| {
        files.create(path("a")).unwrap().append(b"new").unwrap();
        files.create(path("b")).unwrap().append(b"old").unwrap();
        files.rename(path("a"), path("b")).unwrap();
        assert_eq!(read_all(&*files.open(path("b"), Access::Read).unwrap()), b"new");
        assert!(matches!(files.open(path("a"), Access::Read), Err(FilesError::NotFound { .. })));
        assert!(matches!(files.rename(path("a"), path("b")), Err(FilesError::NotFound { .. })));
    });
}

#[test]
fn a_file_that_is_removed_while_open_can_be_read_to_its_end() {
    on_both(|files| {
        let file = files.create(path("a")).unwrap();
        file.append(b"still here").unwrap();
        files.remove(path("a")).unwrap();
        files.sync_folder(path("")).unwrap();
        assert_eq!(read_all(&*file), b"still here");
    });
}

#[test]
fn no_path_leaves_the_root() {
    on_both(|files| {
        for outside in ["/etc/passwd", "../a", "f/../../a", "."] {
            let error = FilesError::Outside { path: outside.into() };
            assert_eq!(files.create(path(outside)).unwrap_err(), error, "{outside}");
            assert_eq!(files.open(path(outside), Access::Read).unwrap_err(), error, "{outside}");
        }
    });
}

#[test]
fn a_file_opened_for_reading_cannot_be_written() {
    on_both(|files| {
        files.create(path("a")).unwrap().append(b"x").unwrap();
        let file = files.open(path("a"), Access::Read).unwrap();
        assert!(file.append(b"y").is_err());
        assert!(file.write_at(0, b"y").is_err());
        file.sync().unwrap();
        assert_eq!(read_all(&*file), b"x");
    });
}

fn simulated() -> (SimulatedFiles, Arc<dyn File>) {
    let files = SimulatedFiles::new();
    let file = files.create(path("a")).unwrap();
    (files, file)
}

fn after_crash(files: &SimulatedFiles, seed: u64) -> Option<Vec<u8>> {
    files.crash(seed);
    files.open(path("a"), Access::Read).ok().map(|file| read_all(&*file))
}

#[test]
fn a_crash_keeps_what_was_synced_and_any_part_of_the_rest() {
    let mut lengths = std::collections::BTreeSet::new();
    let mut garbage = 0;
    for seed in 0..400 {
        let (files, file) = simulated();
        file.append(b"synced ").unwrap();
        file.sync().unwrap();
        files.sync_folder(path("")).unwrap();
        file.append(b"not synced").unwrap();
        let left = after_crash(&files, seed).expect("its name was synced");
        assert!(left.starts_with(b"synced "), "seed {seed}");
        lengths.insert(left.len());
        garbage += usize::from(!b"synced not synced".starts_with(&left));
        assert!(file.append(b"x").is_err(), "the process that had it open is gone");
        assert_eq!(after_crash(&files, seed + 1), Some(left), "what a crash left is on the medium");
    }
    assert!(lengths.contains(&7) && lengths.contains(&17) && lengths.len() > 5, "{lengths:?}");
    assert!(garbage > 0, "some tails are torn with garbage");
}

#[test]
fn a_crash_may_forget_names_whose_folder_was_not_synced() {
    let (mut lost, mut kept) = (0, 0);
    for seed in 0..100 {
        let (files, file) = simulated();
        file.append(b"x").unwrap();
        file.sync().unwrap();
        match after_crash(&files, seed) {
            None => lost += 1,
            Some(bytes) => {
                assert_eq!(bytes, b"x");
                kept += 1;
            }
        }
    }
    assert!(lost > 10 && kept > 10, "{lost} lost, {kept} kept");
}

#[test]
fn a_crash_never_splits_a_rename_and_may_bring_a_removed_file_back() {
    let (mut old, mut new, mut back) = (0, 0, 0);
    for seed in 0..100 {
        let (files, file) = simulated();
        file.append(b"old").unwrap();
        file.sync().unwrap();
        let next = files.create(path("a.new")).unwrap();
        next.append(b"new").unwrap();
        next.sync().unwrap();
        files.sync_folder(path("")).unwrap();
        files.rename(path("a.new"), path("a")).unwrap();
        match after_crash(&files, seed).as_deref() {
            Some(b"old") => old += 1,
            Some(b"new") => new += 1,
            other => panic!("seed {seed}: {other:?}"),
        }
        files.remove(path("a")).unwrap();
        back += usize::from(after_crash(&files, seed).is_some());
    }
    assert!(old > 10 && new > 10 && back > 10, "{old} {new} {back}");
}

#[test]
fn a_full_disk_takes_what_fits_and_reading_goes_on() {
    let (files, file) = simulated();
    files.set_capacity(Some(10));
    file.append(b"12345678").unwrap();
    assert_eq!(file.append(b"abcd"), Err(FilesError::NoSpace { path: "a".into() }));
    assert_eq!(read_all(&*file), b"12345678ab", "the caller has to cut it back");
    file.truncate(8).unwrap();
    assert!(file.preallocate(11).unwrap_err().is_no_space());
    assert_eq!(file.len().unwrap(), 8, "preallocation is all or nothing");
    file.write_at(0, b"x").unwrap();
    files.set_capacity(None);
    file.append(b"abcd").unwrap();
    assert_eq!(files.used_bytes(), 12);
}

#[test]
fn what_a_failed_sync_gave_up_is_not_made_durable_by_the_next() {
    let (mut lost, mut kept) = (0, 0);
    let (files, file) = simulated();
    files.sync_folder(path("")).unwrap();
    for seed in 0..60 {
        file_round(&files, seed, &mut lost, &mut kept);
    }
    assert!(lost > 5 && kept > 5, "{lost} lost, {kept} kept");
    drop(file);
}

fn file_round(files: &SimulatedFiles, seed: u64, lost: &mut u32, kept: &mut u32) {
    let file = files.open(path("a"), Access::Write).unwrap();
    file.truncate(0).unwrap();
    file.sync().unwrap();
    file.append(b"12345").unwrap();
    files.fail_syncs(1);
    assert!(matches!(file.sync(), Err(FilesError::Io { operation: "sync", .. })));
    file.append(b"6").unwrap();
    file.sync().unwrap();
    assert_eq!(read_all(&*file), b"123456", "until the crash nothing shows");
    let left = after_crash(files, seed).unwrap();
    assert_eq!(left.last(), Some(&b'6'));
    if left == b"123456" { *kept += 1 } else { *lost += 1 }
}

#[test]
fn flipped_cut_unreadable_and_unwritable_are_what_they_say() {
    let (files, file) = simulated();
    file.append(b"abc").unwrap();
    assert!(files.flip(path("a"), 1, 0) && !files.flip(path("a"), 3, 0) && !files.flip(path("b"), 0, 0));
    assert_eq!(read_all(&*file), b"acc");
    assert!(files.cut(path("a"), 2) && !files.cut(path("a"), 2));
    assert_eq!(read_all(&*file), b"ac");
    assert!(files.overwrite(path("a"), 0, b"zz") && !files.overwrite(path("a"), 1, b"zz"));

    files.fail_reads(path("a"), 1..2);
    assert_eq!(file.read_at(0, 1).unwrap(), b"z");
    assert!(matches!(file.read_at(0, 2), Err(FilesError::Io { operation: "read", .. })));
    files.heal_reads();
    assert_eq!(read_all(&*file), b"zz");

    files.set_unwritable(path(""), true);
    for error in [
        files.create(path("b")).unwrap_err(),
        files.remove(path("a")).unwrap_err(),
        files.create_folder(path("f")).unwrap_err(),
    ] {
        assert!(matches!(error, FilesError::Denied { .. }), "{error}");
    }
    file.append(b"a file that is open can be written").unwrap();
    files.set_unwritable(path(""), false);
    files.create(path("b")).unwrap();
}

#[test]
fn when_the_power_goes_nothing_changes_any_more() {
    let (files, file) = simulated();
    files.sync_folder(path("")).unwrap();
    files.fail_after(3);
    file.append(b"a").unwrap();
    file.sync().unwrap();
    files.create(path("b")).unwrap();
    assert!(file.append(b"b").is_err() && file.sync().is_err() && file.truncate(0).is_err());
    assert!(files.remove(path("a")).is_err() && files.rename(path("b"), path("a")).is_err());
    assert!(files.sync_folder(path("")).is_err());
    assert_eq!(read_all(&*file), b"a");
    assert_eq!(after_crash(&files, 1), Some(b"a".to_vec()));
    files.create(path("c")).unwrap();
}

#[test]
fn the_same_seed_gives_the_same_disk() {
    let run = |seed| {
        let (files, file) = simulated();
        files.sync_folder(path("")).unwrap();
        for n in 0..20_u8 {
            file.append(&[n; 30]).unwrap();
        }
        after_crash(&files, seed)
    };
    for seed in 0..20 {
        assert_eq!(run(seed), run(seed));
    }
}
