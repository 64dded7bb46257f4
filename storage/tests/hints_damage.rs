//! The hint log on files that are not what was written: what is damaged is told, the rest is delivered.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod hints_common;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cube_storage::files::{Access, Files, SimulatedFiles};
use cube_storage::hints::{Damage, Hint, HintError, HintLimits, HintLog, HintStore, Lost, ReadLimits};
use cube_storage::model::Record;
use hints_common::*;
use proptest::prelude::*;

const FRAMES_START: u64 = 1024;

fn segment(number: u32) -> PathBuf {
    Path::new(ROOT).join(TARGET).join(format!("{number:08}.hints"))
}

fn cursor() -> PathBuf {
    Path::new(ROOT).join(TARGET).join("cursor")
}

fn disk_with(hints: &[Hint], limits: HintLimits) -> (SimulatedFiles, Arc<dyn Files>) {
    let disk = SimulatedFiles::new();
    let files: Arc<dyn Files> = Arc::new(disk.clone());
    let log = open(&files, limits).log(TARGET).unwrap();
    for hint in hints {
        keep(&log, std::slice::from_ref(hint));
    }
    (disk, files)
}

fn len(files: &dyn Files, path: &Path) -> u64 {
    files.open(path, Access::Read).unwrap().len().unwrap()
}

/// Five hints in segment 1, and after it.
fn five() -> Vec<Hint> {
    (1..=5).map(|id| hint(&format!("k{id}"), id)).collect()
}

/// Of the hints written, every one is delivered, or covered by the damage told: the marks made of it cover its leaf.
fn assert_accounted(log: &HintLog, written: &[Hint]) -> (BTreeSet<u64>, Vec<Damage>) {
    let delivered: BTreeSet<u64> = ids_of(log).into_iter().collect();
    let damage = log.damage();
    let known: BTreeSet<_> = damage
        .iter()
        .filter_map(|damage| match damage.lost {
            Lost::Hint { table, token, version, .. } => Some((table, token, version)),
            _ => None,
        })
        .collect();
    let unknown: u64 = damage.iter().filter(|d| matches!(d.lost, Lost::Unknown { .. })).map(Damage::records).sum();
    let missing = written.iter().filter(|hint| !delivered.contains(&id(hint)));
    let uncovered = missing.filter(|hint| !known.contains(&(hint.table, hint.key.token(), hint.record.version)));
    assert!(uncovered.count() as u64 <= unknown, "delivered {delivered:?}, told {damage:?}");
    for hint in hints_of(log) {
        assert!(written.contains(&hint), "never written: {hint:?}");
    }
    (delivered, damage)
}

#[test]
fn a_flipped_byte_anywhere_in_a_segment_is_told_and_costs_at_most_the_hint_it_is_in() {
    let (disk, files) = disk_with(&five(), HintLimits::default());
    let path = segment(1);
    let frame = (len(&*files, &path) - FRAMES_START) / 5;
    for offset in 0..len(&*files, &path) {
        let bit = (offset % 8) as u8;
        assert!(disk.flip(&path, offset, bit));
        let log = open_log(&files);
        let (delivered, damage) = assert_accounted(&log, &five());
        assert_eq!(damage.len(), 1, "offset {offset}: told once: {damage:?}");
        assert!(damage[0].bytes.contains(&offset) && damage[0].segment == 1, "offset {offset}: {}", damage[0]);
        if offset < FRAMES_START {
            assert_eq!((delivered.len(), &damage[0].lost), (5, &Lost::Nothing), "offset {offset}");
        } else {
            let hit = (offset - FRAMES_START) / frame;
            let in_payload = (56..frame - 56).contains(&((offset - FRAMES_START) % frame));
            assert_eq!(delivered.len(), if in_payload { 4 } else { 5 }, "offset {offset}");
            assert_eq!(delivered.contains(&(hit + 1)), !in_payload, "offset {offset}");
            assert_eq!(matches!(damage[0].lost, Lost::Hint { .. }), in_payload, "offset {offset}: {}", damage[0]);
        }
        let totals = log.totals();
        assert_eq!(totals.counters.damaged, damage[0].records(), "counted once, however often it is read");
        assert_eq!(totals.records, delivered.len() as u64);
        assert!(disk.flip(&path, offset, bit));
    }
    assert_eq!(open_log(&files).damage(), []);
}

#[test]
fn damage_is_in_the_way_of_acknowledging_until_it_is_confirmed() {
    let (disk, files) = disk_with(&five(), HintLimits::default());
    let frame = (len(&*files, &segment(1)) - FRAMES_START) / 5;
    disk.flip(&segment(1), FRAMES_START + 2 * frame + 60, 0);
    let log = open_log(&files);
    let (all, end) = read_all(&log);
    log.acknowledge(all[1].after).expect("it is not in the way of what comes before");
    let error = log.acknowledge(end).unwrap_err();
    assert!(matches!(&error, HintError::Unconfirmed { damage, .. } if damage.sequence == 3), "{error}");
    let reopened = open_log(&files);
    assert_eq!((ids_of(&reopened), reopened.damage().len()), (vec![4, 5], 1), "it is told again after a restart");
    confirm_all(&log);
    assert_eq!(log.damage(), []);
    read_all(&log);
    assert_eq!(log.damage(), [], "once confirmed it is not told again");
    log.acknowledge(end).unwrap();
    assert_eq!(log.totals().counters.acknowledged, 4);
    assert_eq!(file_names(&*files), [""; 0]);
}

#[test]
fn damage_that_comes_while_the_log_is_open_is_told_when_it_is_read() {
    let (disk, files) = disk_with(&five(), HintLimits::default());
    let log = open_log(&files);
    disk.flip(&segment(1), FRAMES_START + 60, 0);
    let (delivered, damage) = assert_accounted(&log, &five());
    assert_eq!((delivered.len(), damage.len()), (4, 1));
    disk.cut(&segment(1), FRAMES_START + 300);
    assert_accounted(&log, &five());
    files.remove(&segment(1)).unwrap();
    let (delivered, _) = assert_accounted(&log, &five());
    assert!(delivered.is_empty());
}

#[test]
fn a_segment_cut_anywhere_is_told_when_more_of_it_was_durable() {
    for cut_segment in [1, 2] {
        let limits = HintLimits { segment_bytes: 1_600, ..HintLimits::default() };
        let written: Vec<Hint> = (1..=8).map(|id| hint(&format!("k{id}"), id)).collect();
        let (_, files) = disk_with(&written, limits);
        for cut in 0..len(&*files, &segment(cut_segment)) {
            let (disk, files) = disk_with(&written, limits);
            assert!(disk.cut(&segment(cut_segment), cut));
            let log = open_log(&files);
            let (delivered, damage) = assert_accounted(&log, &written);
            assert!(delivered.len() >= 3 && delivered.len() < 8, "segment {cut_segment} cut at {cut}");
            let lost: u64 = damage.iter().map(Damage::records).sum();
            assert_eq!(lost + delivered.len() as u64, 8, "segment {cut_segment} cut at {cut}: every one is counted");
            let frame = (len(&*files, &segment(3 - cut_segment)) - FRAMES_START) / 4;
            let known = damage.iter().filter(|damage| matches!(damage.lost, Lost::Hint { .. })).count();
            let has_head = cut >= FRAMES_START && (cut - FRAMES_START) % frame >= 56;
            assert_eq!(known, usize::from(has_head), "segment {cut_segment} cut at {cut}: known by its head");

            confirm_all(&log);
            keep(&log, &[hint("k9", 9)]);
            assert!(ids_of(&log).contains(&9));
            let damage: Vec<Damage> = log.damage();
            assert_eq!(damage, [], "segment {cut_segment} cut at {cut}: told once");
            let (_, end) = read_all(&log);
            log.acknowledge(end).unwrap();
            assert_eq!(file_names(&*files), [""; 0], "segment {cut_segment} cut at {cut}");
        }
    }
}

#[test]
fn a_segment_that_is_gone_is_told() {
    for gone in [vec![1], vec![2], vec![3], vec![2, 3], vec![1, 2, 3]] {
        let limits = HintLimits { segment_bytes: 1_600, ..HintLimits::default() };
        let written: Vec<Hint> = (1..=12).map(|id| hint(&format!("k{id}"), id)).collect();
        let (_, files) = disk_with(&written, limits);
        let log = open_log(&files);
        log.acknowledge(read_all(&log).0[0].after).unwrap();
        let before = ids_of(&log).len();
        for number in &gone {
            files.remove(&segment(*number)).unwrap();
        }
        let log = open_log(&files);
        let (delivered, damage) = assert_accounted(&log, &written[1..]);
        let lost: u64 = damage.iter().map(Damage::records).sum();
        assert!(lost > 0 && lost + delivered.len() as u64 == before as u64, "{gone:?}: {damage:?}");
        confirm_all(&log);
        log.acknowledge(read_all(&log).1).unwrap();
        assert_eq!(file_names(&*files), [""; 0], "{gone:?}");
    }
}

#[test]
fn sectors_that_cannot_be_read_do_not_strand_what_comes_after() {
    let written: Vec<Hint> = (1..=200).map(|id| hint(&format!("k{id}"), id)).collect();
    let (disk, files) = disk_with(&written, HintLimits::default());
    disk.fail_reads(&segment(1), 8_192..8_300);
    disk.fail_reads(&segment(1), 20_000..20_001);
    let log = open_log(&files);
    let (delivered, damage) = assert_accounted(&log, &written);
    assert!(delivered.contains(&1) && delivered.contains(&200) && delivered.len() > 130, "{}", delivered.len());
    assert!(damage.iter().any(|damage| matches!(damage.lost, Lost::Unknown { .. })));
    assert_eq!(delivered.len() as u64 + damage.iter().map(Damage::records).sum::<u64>(), 200);
    disk.fail_reads(&segment(1), 0..1);
    disk.fail_reads(&cursor(), 0..1);
    assert_accounted(&open_log(&files), &written);
}

#[test]
fn a_damaged_cursor_costs_a_replay_and_nothing_else() {
    let (disk, files) = disk_with(&five(), HintLimits::default());
    let log = open_log(&files);
    log.acknowledge(read_all(&log).0[2].after).unwrap();
    for offset in 0..3072 {
        disk.flip(&cursor(), offset, 1);
        let log = open_log(&files);
        assert!(ids_of(&log).ends_with(&[4, 5]), "offset {offset}");
        assert_eq!(log.damage(), [], "offset {offset}");
        disk.flip(&cursor(), offset, 1);
    }
    disk.cut(&cursor(), 100);
    assert_eq!(ids_of(&open_log(&files)), [1, 2, 3, 4, 5]);
    files.remove(&cursor()).unwrap();
    let log = open_log(&files);
    keep(&log, &[hint("k6", 6)]);
    let log = open_log(&files);
    assert_eq!(ids_of(&log), [1, 2, 3, 4, 5, 6], "a cursor that is made anew leaves the segments before it alone");
    log.acknowledge(read_all(&log).0[2].after).unwrap();
    assert_eq!(ids_of(&open_log(&files)), [4, 5, 6]);
}

#[test]
fn a_value_that_holds_a_copy_of_a_segment_is_never_read_as_hints() {
    // Frames of the same target, the same segment and numbers that are due, from a log of another time.
    let later: Vec<Hint> = (101..=120).map(|id| hint(&format!("k{id}"), id)).collect();
    let (_, files) = disk_with(&later, HintLimits::default());
    let copy = files.open(&segment(1), Access::Read).unwrap().read_at(0, 1 << 20).unwrap();

    let disk = SimulatedFiles::new();
    let files: Arc<dyn Files> = Arc::new(disk.clone());
    let log = open_log(&files);
    let trojan = Hint { record: Record::value(hint("t", 1).record.version, copy), ..hint("t", 1) };
    keep(&log, &[trojan]);
    let end = len(&*files, &segment(1));
    keep(&log, &[hint("k2", 2)]);
    // Head and tail, so that the search goes through the value.
    disk.flip(&segment(1), FRAMES_START, 0);
    disk.flip(&segment(1), end - 1, 0);
    let log = open_log(&files);
    assert_eq!(ids_of(&log), [2]);
    assert!(matches!(log.damage()[..], [Damage { lost: Lost::Unknown { records: 1 }, .. }]), "{:?}", log.damage());
}

#[test]
fn a_segment_of_a_newer_format_is_refused_and_both_formats_named() {
    let (disk, files) = disk_with(&five(), HintLimits::default());
    for at in [8, 520] {
        disk.overwrite(&segment(1), at, &[2]);
    }
    let opened = HintStore::open(files, Path::new(ROOT), HintLimits::default()).unwrap();
    let [(target, error)] = opened.failed.as_slice() else { panic!("{:?}", opened.failed) };
    assert_eq!(target, TARGET);
    assert!(matches!(error, HintError::Format { found: 2, supported: 1, .. }), "{error}");
    let message = error.to_string();
    assert!(message.contains("format 2") && message.contains("formats up to 1") && message.contains("00000001.hints"));
    assert!(matches!(opened.store.log(TARGET), Err(HintError::Format { .. })), "asking for it tries again");
}

#[test]
fn hints_for_another_node_are_not_taken_for_this_ones() {
    let (_, files) = disk_with(&five(), HintLimits::default());
    let bytes = files.open(&segment(1), Access::Read).unwrap().read_at(0, 1 << 20).unwrap();
    let folder = Path::new(ROOT).join("node-4");
    files.create_folder(&folder).unwrap();
    files.create(&folder.join("00000001.hints")).unwrap().append(&bytes).unwrap();
    let opened = HintStore::open(files, Path::new(ROOT), HintLimits::default()).unwrap();
    assert!(matches!(&opened.failed[..], [(target, HintError::WrongTarget { .. })] if target == "node-4"));
    assert_eq!(opened.store.totals().len(), 1);
}

#[derive(Clone, Debug)]
enum Harm {
    Flip(u64, u8),
    Overwrite(u64, Vec<u8>),
    Cut(u64),
    Append(Vec<u8>),
    Remove,
    Swap,
}

fn harm() -> impl Strategy<Value = (u8, Harm)> {
    let harm = prop_oneof![
        6 => (any::<u64>(), 0u8..8).prop_map(|(at, bit)| Harm::Flip(at, bit)),
        3 => (any::<u64>(), prop::collection::vec(any::<u8>(), 1..700)).prop_map(|(at, bytes)| Harm::Overwrite(at, bytes)),
        1 => any::<u64>().prop_map(Harm::Cut),
        1 => prop::collection::vec(any::<u8>(), 1..300).prop_map(Harm::Append),
        1 => Just(Harm::Remove),
        1 => Just(Harm::Swap),
    ];
    (0u8..5, harm)
}

proptest! {
    #![proptest_config(cases(1_000))]

    /// Whatever is done to the files behind its back: the log opens or says why not, delivers nothing that was not
    /// written, and accounts for what is missing; and it goes on.
    #[test]
    fn arbitrary_damage_is_accounted_for(harms in prop::collection::vec(harm(), 1..6), acknowledged in 0usize..10) {
        let limits = HintLimits { segment_bytes: 1_700, ..HintLimits::default() };
        let written: Vec<Hint> = (1..=14).map(|id| hint(&format!("k{id}"), id)).collect();
        let (disk, files) = disk_with(&written, limits);
        let log = open(&files, limits).log(TARGET).unwrap();
        let (all, _) = read_all(&log);
        if acknowledged > 0 {
            log.acknowledge(all[acknowledged - 1].after).unwrap();
        }
        let mut cursor_harmed = false;
        for (which, harm) in harms {
            let path = if which == 0 { cursor() } else { segment(u32::from(which)) };
            cursor_harmed |= which == 0;
            let Ok(file) = files.open(&path, Access::Write) else { continue };
            let len = file.len().unwrap().max(1);
            match harm {
                Harm::Flip(at, bit) => drop(disk.flip(&path, at % len, bit)),
                Harm::Overwrite(at, bytes) => file.write_at(at % len, &bytes).unwrap(),
                Harm::Cut(at) => drop(disk.cut(&path, at % len)),
                Harm::Append(bytes) => file.append(&bytes).unwrap(),
                Harm::Remove => files.remove(&path).unwrap(),
                Harm::Swap => {
                    let other = segment(9);
                    files.rename(&path, &other).unwrap();
                }
            }
        }
        let opened = HintStore::open(files.clone(), Path::new(ROOT), limits).unwrap();
        let Ok(log) = opened.store.log(TARGET) else {
            prop_assert_eq!(opened.failed.len(), 1);
            return Ok(());
        };
        if cursor_harmed {
            // Without the cursor nobody knows how far the log went; what is there is sound all the same.
            for hint in hints_of(&log) {
                prop_assert!(written.contains(&hint));
            }
        } else {
            assert_accounted(&log, &written[acknowledged..]);
        }
        log.expired(u64::MAX, 0, ReadLimits { records: 3, bytes: 100 }).unwrap();
        confirm_all(&log);
        keep(&log, &[hint("after", 99)]);
        prop_assert!(ids_of(&log).contains(&99));
        confirm_all(&log);
        log.acknowledge(read_all(&log).1).unwrap();
        prop_assert_eq!(log.totals().records, 0);
        prop_assert_eq!(opened.store.used_bytes(), 0);
    }

    /// A folder full of arbitrary bytes under the right names.
    #[test]
    fn arbitrary_files_never_panic(
        contents in prop::collection::vec((0u8..4, prop::collection::vec(any::<u8>(), 0..3000)), 1..4),
        magic in any::<bool>(),
    ) {
        let disk = SimulatedFiles::new();
        let files: Arc<dyn Files> = Arc::new(disk);
        let folder = Path::new(ROOT).join(TARGET);
        files.create_folder(Path::new(ROOT)).unwrap();
        files.create_folder(&folder).unwrap();
        for (which, bytes) in contents {
            let path = if which == 0 { cursor() } else { segment(u32::from(which)) };
            if let Ok(file) = files.create(&path) {
                if magic {
                    file.append(b"CUBEHINT\x01").unwrap();
                }
                file.append(&bytes).unwrap();
            }
        }
        let opened = HintStore::open(files, Path::new(ROOT), HintLimits::default()).unwrap();
        if let Ok(log) = opened.store.log(TARGET) {
            prop_assert!(hints_of(&log).is_empty());
            keep(&log, &[hint("k", 1)]);
            prop_assert_eq!(ids_of(&log), [1]);
        }
    }
}
