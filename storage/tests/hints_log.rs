//! The hint log without faults of the disk: what is kept, counted, refused, replayed and dropped.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod hints_common;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use cube_storage::clock::{Clock, SystemClock};
use cube_storage::files::{Files, FilesError, SimulatedFiles};
use cube_storage::hints::{Full, Hint, HintError, HintLimits, HintStore, Position, ReadLimits};
use cube_storage::model::{Expiry, Hlc, NodeId, Record, RowKey, TableId, Version};
use hints_common::*;
use proptest::prelude::*;

fn small(limits: impl FnOnce(&mut HintLimits)) -> HintLimits {
    let mut all = HintLimits::default();
    limits(&mut all);
    all
}

#[test]
fn the_founding_story_three_keys_four_writes_three_hints_and_no_files_in_the_end() {
    on_both(|files| {
        let log = open_log(&files);
        assert_eq!(file_names(&*files), [""; 0], "no files before the first hint");
        keep(&log, &[hint("user:alice", 1), hint("user:bob", 2)]);
        keep(&log, &[hint("user:charlie", 3), hint("user:alice", 4)]);
        let totals = log.totals();
        assert_eq!((totals.keys, totals.records), (3, 4), "updating a hinted key adds none");
        assert_eq!(ids_of(&log), [1, 2, 3, 4], "all records are replayed, oldest first");

        let (all, end) = read_all(&log);
        log.acknowledge(all[0].after).unwrap();
        assert_eq!(log.totals().keys, 3, "alice is still hinted by the update");
        log.acknowledge(all[1].after).unwrap();
        assert_eq!((log.totals().keys, log.totals().records), (2, 2));
        log.acknowledge(end).unwrap();
        assert_eq!((log.totals().keys, log.totals().bytes, log.totals().counters.acknowledged), (0, 0, 4));
        assert_eq!(file_names(&*files), [""; 0], "the hint files are gone");
        assert_eq!(files.list(Path::new(ROOT)).unwrap(), [], "and their folder");

        keep(&log, &[hint("user:dora", 5)]);
        assert_eq!(ids_of(&log), [5], "the log goes on after it was drained");
        assert_eq!(ids_of(&open_log(&files)), [5]);
    });
}

#[test]
fn every_kind_of_record_and_key_comes_back_as_it_was() {
    on_both(|files| {
        let version = Version::new(Hlc(77), NodeId(9));
        let keys = [
            RowKey::of("user:alice"),
            RowKey::of("user_alice"),
            RowKey::with_sort("user", ":alice"),
            RowKey::with_sort("user:", "alice"),
            RowKey::of(&b"\0\x01\xff"[..]),
            RowKey::with_sort(&b"\0"[..], &b"\xc7\x1b\xe4\x0d"[..]),
            RowKey::with_sort(vec![0xc7; 4096], ""),
        ];
        let records = [
            Record::value(version, ""),
            Record::value(version, vec![7; 3 << 20]),
            Record::expiring(version, "soon", Expiry(123)),
            Record::tombstone(version),
        ];
        let mut hints = Vec::new();
        for (table, key) in (1..).zip(keys) {
            for record in &records {
                for only_copy in [false, true] {
                    let (key, record) = (key.clone(), record.clone());
                    hints.push(Hint { table: TableId(table), key, record, created_ms: 5, only_copy });
                }
            }
        }
        let log = open_log(&files);
        for hints in hints.chunks(4) {
            keep(&log, hints);
        }
        assert_eq!(hints_of(&log), hints);
        assert!(log.totals().segments > 3, "segments are rolled");
        let reopened = open_log(&files);
        assert_eq!(hints_of(&reopened), hints);
        assert_eq!(reopened.totals().keys, 7);
        assert_eq!(reopened.totals().only_copies, 28);
        assert_eq!(reopened.totals().oldest_hlc, Some(Hlc(77)));
    });
}

#[test]
fn rows_that_look_alike_are_different_hints() {
    let log = open_log(&(Arc::new(SimulatedFiles::new()) as Arc<dyn Files>));
    let row = |table, key: RowKey| Hint { table: TableId(table), key, ..hint("", 1) };
    let rows = [
        row(1, RowKey::of("user:alice")),
        row(1, RowKey::of("user_alice")),
        row(2, RowKey::of("user:alice")),
        row(1, RowKey::with_sort("user:alice", "")),
        row(1, RowKey::with_sort("user:", "alice")),
        row(1, RowKey::with_sort("user", ":alice")),
        row(1, RowKey::of("User:alice")),
        row(1, RowKey::of("user:alice\0")),
        row(1, RowKey::of("user:alice\0\0")),
        row(1, RowKey::with_sort("user:alice", "\0")),
    ];
    keep(&log, &rows);
    assert_eq!(log.totals().keys, 9, "only the empty sort key is the same row as none");
}

#[test]
fn targets_that_look_alike_have_logs_of_their_own() {
    on_both(|files| {
        let names = ["user:alice", "user_alice", "USER:alice", "user/alice", "..", ".", "a.b", "%", "ü"];
        let store = open(&files, HintLimits::default());
        for (name, id) in names.into_iter().zip(1..) {
            keep(&store.log(name).unwrap(), &[hint("k", id)]);
        }
        let store = open(&files, HintLimits::default());
        assert_eq!(store.totals().len(), names.len());
        for (name, id) in names.into_iter().zip(1..) {
            assert_eq!(ids_of(&store.log(name).unwrap()), [id], "{name}");
        }
        assert!(matches!(store.log(&"X".repeat(100)), Err(HintError::Name(_))));
    });
}

#[test]
fn the_cap_on_keys_refuses_new_keys_and_lets_hinted_ones_in() {
    on_both(|files| {
        let store = open(&files, small(|limits| limits.keys_max = 2));
        let log = store.log(TARGET).unwrap();
        let hints = [hint("a", 1), hint("b", 2), hint("c", 3), hint("a", 4), hint("c", 5)];
        let appended = log.append(&hints).unwrap();
        assert_eq!(appended.refused, [(2, Full::Keys), (4, Full::Keys)]);
        log.sync(appended.ticket).unwrap();
        assert_eq!(ids_of(&log), [1, 2, 4], "nothing of a refused hint is written");
        assert_eq!(log.totals().counters.refused_keys, 2);

        let log = open(&files, small(|limits| limits.keys_max = 2)).log(TARGET).unwrap();
        assert_eq!(log.append(&[hint("c", 6)]).unwrap().refused, [(0, Full::Keys)], "counted anew after reopening");
        let (all, _) = read_all(&log);
        log.acknowledge(all[1].after).unwrap();
        assert_eq!(log.append(&[hint("c", 7)]).unwrap().refused, [], "b is delivered, there is room");
        assert_eq!(log.append(&[hint("b", 8)]).unwrap().refused, [(0, Full::Keys)]);
        store.set_limits(small(|limits| limits.keys_max = 1));
    });
}

#[test]
fn the_caps_on_bytes_hold_for_a_target_and_for_all_and_can_be_raised_while_running() {
    on_both(|files| {
        let tight = small(|limits| (limits.bytes_max, limits.total_bytes_max) = (3_000, 5_000));
        let store = open(&files, tight);
        let (one, two) = (store.log("one").unwrap(), store.log("two").unwrap());
        let large = |id| Hint { record: Record::value(Version::ZERO, vec![1; 800]), ..hint("k", id) };
        assert_eq!(one.append(&[large(1), large(2), large(3)]).unwrap().refused, [(2, Full::Bytes)]);
        assert_eq!(two.append(&[large(1), large(2)]).unwrap().refused, [(1, Full::Global)]);
        assert!(one.totals().bytes <= 3_000 && store.used_bytes() <= 5_000);
        assert_eq!(store.used_bytes(), one.totals().bytes + two.totals().bytes);
        assert_eq!(one.append(&[large(1)]).unwrap().refused, [(0, Full::Bytes)], "also for a key that is hinted");

        store.set_limits(HintLimits::default());
        keep(&one, &[large(3)]);
        keep(&two, &[large(2)]);
        let used = store.used_bytes();
        assert_eq!(open(&files, tight).used_bytes(), used, "what is there counts, whatever the caps are");
        for log in store.logs() {
            log.acknowledge(read_all(&log).1).unwrap();
        }
        assert_eq!(store.used_bytes(), 0);
    });
}

#[test]
fn an_append_larger_than_a_segment_takes_is_refused_before_anything_is_written() {
    let log = open_log(&(Arc::new(SimulatedFiles::new()) as Arc<dyn Files>));
    let large = Hint { record: Record::value(Version::ZERO, vec![1; 33 << 20]), ..hint("k", 1) };
    let error = log.append(&[large.clone(), large]).unwrap_err();
    assert!(matches!(error, HintError::TooLarge { limit: 67_108_864, .. }), "{error}");
    assert_eq!(log.totals(), Default::default());
}

#[test]
fn a_replay_resumes_where_the_target_had_acknowledged() {
    on_both(|files| {
        let limits = small(|limits| limits.segment_bytes = 2_000);
        let log = open(&files, limits).log(TARGET).unwrap();
        for id in 1..=60 {
            keep(&log, &[hint(&format!("k{id}"), id)]);
        }
        assert!(log.totals().segments > 4);
        let batch = log.read(log.start(), ReadLimits { records: 25, bytes: usize::MAX }).unwrap();
        assert_eq!(batch.hints.len(), 25);
        log.acknowledge(batch.hints[19].after).unwrap();

        let log = open(&files, limits).log(TARGET).unwrap();
        assert_eq!(ids_of(&log), (21..=60).collect::<Vec<_>>());
        assert_eq!((log.totals().keys, log.damage().len()), (40, 0));
        assert!(!file_names(&*files).contains(&"00000001.hints".to_owned()), "a delivered segment is removed");
        keep(&log, &[hint("k61", 61)]);
        assert_eq!(ids_of(&log), (21..=61).collect::<Vec<_>>());
    });
}

#[test]
fn a_segment_is_removed_only_when_all_of_it_is_acknowledged() {
    on_both(|files| {
        let log = open(&files, small(|limits| limits.segment_bytes = 1_500)).log(TARGET).unwrap();
        for id in 1..=20 {
            keep(&log, &[hint(&format!("k{id}"), id)]);
        }
        let (all, end) = read_all(&log);
        let segments: BTreeSet<u32> = all.iter().map(|stored| stored.after.segment).collect();
        for stored in &all {
            log.acknowledge(stored.after).unwrap();
            let left: BTreeSet<u32> =
                all.iter().filter(|other| other.after > stored.after).map(|other| other.after.segment).collect();
            let names = file_names(&*files);
            for segment in &segments {
                let there = names.contains(&format!("{segment:08}.hints"));
                assert_eq!(there, left.contains(segment), "segment {segment} after {:?}", stored.after);
            }
        }
        assert_eq!(log.start(), end);
        log.acknowledge(all[3].after).unwrap();
        assert_eq!(log.start(), end, "an acknowledgement that comes late changes nothing");
    });
}

#[test]
fn a_read_is_bounded_by_count_and_bytes_and_always_lets_one_through() {
    let log = open_log(&(Arc::new(SimulatedFiles::new()) as Arc<dyn Files>));
    for id in 1..=10 {
        keep(&log, &[hint(&format!("k{id}"), id)]);
    }
    let read = |records, bytes| log.read(log.start(), ReadLimits { records, bytes }).unwrap().hints.len();
    assert_eq!(read(3, usize::MAX), 3);
    assert_eq!(read(100, 1), 1);
    assert_eq!(read(100, 50), 2);
    assert_eq!(read(0, 0), 1);
}

#[test]
fn only_durable_hints_are_read_and_only_read_hints_are_acknowledged() {
    let log = open_log(&(Arc::new(SimulatedFiles::new()) as Arc<dyn Files>));
    keep(&log, &[hint("a", 1)]);
    let appended = log.append(&[hint("b", 2)]).unwrap();
    assert_eq!(ids_of(&log), [1]);
    let past = Position { segment: 1, offset: 1 << 40, sequence: 9 };
    assert!(matches!(log.acknowledge(past), Err(HintError::PastEnd { .. })));
    log.sync(appended.ticket).unwrap();
    assert_eq!(ids_of(&log), [1, 2]);
    assert_eq!(log.durable_through(), read_all(&log).1);
}

#[test]
fn one_sync_serves_all_who_appended_before_it_began() {
    let simulated = SimulatedFiles::new();
    let log = open_log(&(Arc::new(simulated.clone()) as Arc<dyn Files>));
    let tickets: Vec<_> = (1..=9).map(|id| log.append(&[hint("k", id)]).unwrap().ticket).collect();
    log.sync(tickets[4]).unwrap();
    simulated.fail_syncs(u32::MAX);
    for ticket in tickets {
        log.sync(ticket).expect("the first sync covered it, the disk is not asked again");
    }
}

#[test]
fn all_who_wait_for_a_sync_share_the_next_one() {
    on_both(|files| {
        let (files, syncs) = HeldSyncs::over(files);
        let log = open_log(&files);
        keep(&log, &[hint("first", 1)]);
        let before = syncs.begun();
        keep(&log, &[hint("alone", 2)]);
        let (one, before) = (syncs.begun() - before, syncs.begun());
        syncs.hold();
        std::thread::scope(|threads| {
            let log = &log;
            threads.spawn(move || keep(log, &[hint("under way", 3)]));
            syncs.wait_past(before);
            let (appended, is_appended) = std::sync::mpsc::channel();
            for id in 4..12 {
                let appended = appended.clone();
                threads.spawn(move || {
                    let ticket = log.append(&[hint("waiting", id)]).unwrap().ticket;
                    appended.send(()).unwrap();
                    log.sync(ticket).unwrap();
                });
            }
            (4..12).for_each(|_| is_appended.recv().unwrap());
            syncs.let_go();
        });
        assert_eq!(syncs.begun() - before, 2 * one, "the one under way, and one for all who waited");
        assert_eq!(open_log(&files).totals().records, 11);
    });
}

#[test]
fn threads_that_keep_hints_at_once_lose_none() {
    on_both(|files| {
        let log = open_log(&files);
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let log = &log;
                scope.spawn(move || {
                    for n in 0..50 {
                        keep(log, &[hint(&format!("k{thread}-{n}"), thread * 1000 + n)]);
                    }
                });
            }
            let clock = SystemClock::new(0);
            let mut acknowledged = 0;
            while acknowledged < 60 {
                assert!(clock.monotonic_ms() < 120_000, "{acknowledged} hints came");
                let batch = log.read(log.start(), ReadLimits { records: 10, bytes: usize::MAX }).unwrap();
                log.acknowledge(batch.next).unwrap();
                acknowledged += batch.hints.len();
            }
        });
        let totals = log.totals();
        assert_eq!((totals.counters.appended, totals.records), (200, 200 - totals.counters.acknowledged));
        assert_eq!(open_log(&files).totals().keys, totals.keys);
        assert_eq!(log.damage(), []);
    });
}

#[test]
fn hints_past_the_window_are_told_and_dropped_once_confirmed() {
    on_both(|files| {
        let log = open(&files, small(|limits| limits.segment_bytes = 1_500)).log(TARGET).unwrap();
        for id in 1..=30 {
            keep(&log, &[hint(&format!("k{id}"), id * 100)]);
        }
        assert!(log.expired(1_099, 1_000, ALL).unwrap().is_empty(), "none is that old");
        let expired = log.expired(2_000, 1_000, ALL).unwrap();
        let versions: Vec<u64> = expired.hints.iter().map(|hint| hint.version.hlc.millis()).collect();
        assert_eq!(versions, (1..=10).map(|n| n * 100).collect::<Vec<_>>());
        assert_eq!((&expired.hints[0].key, expired.hints[0].table), (&RowKey::of("k1"), TableId(1)));
        assert_eq!(log.totals().keys, 30, "nothing is dropped before the marks are durable");
        assert_eq!(log.expired(2_000, 1_000, ALL).unwrap(), expired);

        log.drop_expired(&expired).unwrap();
        assert_eq!((log.totals().keys, log.totals().counters.expired), (20, 10));
        assert_eq!(open_log(&files).totals().keys, 20);

        let mut rounds = 0;
        loop {
            let expired = log.expired(9_999, 1_000, ReadLimits { records: 6, bytes: usize::MAX }).unwrap();
            if expired.is_empty() {
                break;
            }
            log.drop_expired(&expired).unwrap();
            rounds += 1;
        }
        assert_eq!((rounds, log.totals().keys, log.totals().counters.acknowledged), (4, 0, 0));
        assert_eq!(file_names(&*files), [""; 0]);
    });
}

#[test]
fn a_writes_only_copy_never_expires() {
    on_both(|files| {
        let log = open_log(&files);
        let only = [only_copy("a", 1), only_copy("b", 2)];
        keep(&log, &[only[0].clone(), hint("c", 3), only[1].clone(), hint("d", 4), hint("e", 5_000)]);
        let expired = log.expired(5_000, 1_000, ALL).unwrap();
        assert_eq!(expired.hints.len(), 2);
        log.drop_expired(&expired).unwrap();
        assert_eq!(hints_of(&log), [hint("e", 5_000), only[0].clone(), only[1].clone()]);
        assert_eq!((log.totals().keys, log.totals().only_copies > 0), (3, true));
        assert!(log.expired(5_000, 1_000, ALL).unwrap().is_empty());

        log.drop_expired(&log.expired(9_000, 1_000, ALL).unwrap()).unwrap();
        assert_eq!((ids_of(&log), log.totals().only_copies), (vec![1, 2], 2), "each counts once, though it moved");
        assert!(log.expired(u64::MAX, 1_000, ALL).unwrap().is_empty(), "alone they stay where they are");
        assert_eq!(hints_of(&open_log(&files)), only);

        keep(&log, &[hint("f", 6_000)]);
        let one = ReadLimits { records: 1, bytes: usize::MAX };
        let mut dropped = 0;
        for _ in 0..10 {
            let expired = log.expired(9_000, 1_000, one).unwrap();
            dropped += expired.hints.len();
            log.drop_expired(&expired).unwrap();
        }
        assert_eq!((dropped, ids_of(&log)), (1, vec![1, 2]), "also where they fill the reads before what is old");
    });
}

#[test]
fn a_target_is_removed_only_when_no_write_has_its_only_copy_there() {
    on_both(|files| {
        let store = open(&files, HintLimits::default());
        let log = store.log(TARGET).unwrap();
        keep(&log, &[hint("a", 1), only_copy("b", 2), hint("c", 3)]);
        assert!(matches!(store.remove_target(TARGET), Err(HintError::OnlyCopies { count: 1, .. })));
        let (all, _) = read_all(&log);
        log.acknowledge(all[1].after).unwrap();
        let removed = store.remove_target(TARGET).unwrap();
        assert_eq!((removed.keys, removed.records), (1, 1));
        assert_eq!((file_names(&*files), store.used_bytes()), (vec![], 0));
        assert!(matches!(log.append(&[hint("d", 4)]), Err(HintError::Removed { .. })));
        assert!(store.totals().is_empty());
        keep(&store.log(TARGET).unwrap(), &[hint("e", 5)]);
        assert_eq!(ids_of(&open_log(&files)), [5], "a node of that name may come again");
    });
}

#[test]
fn folders_that_are_no_log_are_told_and_left_alone() {
    on_both(|files| {
        files.create_folder(Path::new(ROOT)).unwrap();
        files.create_folder(&Path::new(ROOT).join("Node-3")).unwrap();
        files.create(&Path::new(ROOT).join("notes.txt")).unwrap();
        let opened = HintStore::open(files.clone(), Path::new(ROOT), HintLimits::default()).unwrap();
        assert_eq!(opened.foreign, [Path::new(ROOT).join("Node-3")]);
        assert!(opened.failed.is_empty() && opened.store.totals().is_empty());
        assert!(matches!(
            HintStore::open(files, Path::new("no/hints"), HintLimits::default()),
            Err(FilesError::NotFound { .. })
        ));
    });
}

#[derive(Clone, Debug)]
enum Step {
    Keep(Vec<u8>),
    Acknowledge(prop::sample::Index),
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => prop::collection::vec(0u8..12, 1..5).prop_map(Step::Keep),
        2 => any::<prop::sample::Index>().prop_map(Step::Acknowledge),
        1 => Just(Step::Reopen),
    ];
    prop::collection::vec(step, 1..40)
}

proptest! {
    #![proptest_config(cases(256))]

    /// Whatever is kept, acknowledged and reopened: the log holds what was not acknowledged, in order, and counts its
    /// distinct keys and its bytes.
    #[test]
    fn the_log_holds_exactly_what_was_not_acknowledged(steps in steps()) {
        let files: Arc<dyn Files> = Arc::new(SimulatedFiles::new());
        let limits = small(|limits| limits.segment_bytes = 1_600);
        let mut store = open(&files, limits);
        let mut held: Vec<(u8, u64)> = Vec::new();
        let mut next = 1;
        for step in steps {
            let log = store.log(TARGET).unwrap();
            match step {
                Step::Keep(keys) => {
                    let new: Vec<(u8, u64)> = keys.into_iter().zip(next..).collect();
                    next += new.len() as u64;
                    keep(&log, &new.iter().map(|(key, id)| hint(&format!("k{key}"), *id)).collect::<Vec<_>>());
                    held.extend(new);
                }
                Step::Acknowledge(upto) => {
                    let (all, _) = read_all(&log);
                    if !all.is_empty() {
                        let upto = upto.index(all.len());
                        log.acknowledge(all[upto].after).unwrap();
                        held.drain(..=upto);
                    }
                }
                Step::Reopen => store = open(&files, limits),
            }
            let log = store.log(TARGET).unwrap();
            prop_assert_eq!(ids_of(&log), held.iter().map(|(_, id)| *id).collect::<Vec<_>>());
            let totals = log.totals();
            prop_assert_eq!(totals.keys, held.iter().map(|(key, _)| key).collect::<BTreeSet<_>>().len() as u64);
            prop_assert_eq!(totals.records, held.len() as u64);
            prop_assert_eq!(totals.bytes, store.used_bytes());
            prop_assert!(log.damage().is_empty());
            if held.is_empty() {
                prop_assert!(file_names(&*files).is_empty());
            }
        }
    }
}
