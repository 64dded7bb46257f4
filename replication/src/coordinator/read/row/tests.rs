//! The decisions of a read, told as short scripts; what holds of every script is in `any_order.rs`.

mod any_order;

use super::*;
use crate::coordinator::testing::{changing, n, stable, version};
use crate::transport::PeerError;

fn row_by(map: &PartitionMap, level: Level, candidates: &[u16]) -> (Row, Step) {
    let mut row = Row::new(TableId(1), RowKey::of("k"), PartitionId(0), map, level, &"a".into());
    let newcomers = row.newcomers();
    let step = row.begin(candidates.iter().copied().map(NodeId).collect(), newcomers);
    (row, step)
}

/// A read of a row with three replicas, of which the first is liked best.
fn row(level: Level) -> (Row, Step) {
    row_by(&stable("a1 a2 a3", 5), level, &[1, 2, 3])
}

fn value(hlc: u64, value: &'static str) -> Record {
    Record::value(version(hlc), value)
}

/// What a replica holds, with its record or only its digest. The checksum is one of the record alone, as in storage.
fn found(record: Option<&Record>, want: Want) -> Found {
    let header = record.map(|record| RecordHeader::of(record, xxhash_rust::xxh3::xxh3_64(&record.encode(b"k")) as u32));
    let record = record.filter(|_| want == Want::Record).cloned();
    Found { header, record, floor: Hlc(3) }
}

fn tell(row: &mut Row, node: u16, record: Option<&Record>, want: Want) -> Step {
    row.on_found(n(node), found(record, want))
}

fn ask(asked: &[(u16, Want)]) -> Step {
    Step::Ask(asked.iter().map(|(node, want)| (n(*node), *want)).collect())
}

fn repair(record: &Record, targets: &[u16]) -> Step {
    Step::Repair { record: record.clone(), floor: Hlc(3), targets: targets.iter().copied().map(NodeId).collect() }
}

fn returned(record: &Record) -> Step {
    Step::Done(Ok(Some(record.clone())))
}

fn timed_out(node: u16) -> Failure {
    Failure::Peer(PeerError::TimedOut { peer: n(node) })
}

fn incomplete(step: Step) -> Incomplete {
    match step {
        Step::Done(Err(RequestError::ReadIncomplete(incomplete))) => *incomplete,
        other => panic!("not incomplete: {other:?}"),
    }
}

#[test]
fn one_replica_is_asked_for_the_record_and_the_others_for_its_digest() {
    let (mut row, step) = row(Level::Quorum);
    assert_eq!(step, ask(&[(1, Want::Record), (2, Want::Header)]));
    let record = value(9, "v");
    assert_eq!(tell(&mut row, 2, Some(&record), Want::Header), Step::Nothing);
    assert_eq!(tell(&mut row, 1, Some(&record), Want::Record), returned(&record));
    assert_eq!(tell(&mut row, 1, Some(&record), Want::Record), Step::Nothing, "it is told once");
}

#[test]
fn a_row_that_nobody_holds_is_absent() {
    let (mut row, _) = row(Level::Quorum);
    tell(&mut row, 1, None, Want::Record);
    assert_eq!(tell(&mut row, 2, None, Want::Header), Step::Done(Ok(None)));
}

#[test]
fn a_stale_replica_is_brought_up_to_date_before_a_quorum_read_answers() {
    let (mut row, _) = row(Level::Quorum);
    let (old, new) = (value(8, "old"), value(9, "new"));
    assert_eq!(tell(&mut row, 1, Some(&new), Want::Record), Step::Nothing);
    assert_eq!(tell(&mut row, 2, Some(&old), Want::Header), repair(&new, &[2]));
    assert_eq!(row.on_repaired(n(2), Ok(Outcome::Applied)), returned(&new));
}

#[test]
fn the_newest_record_is_fetched_from_who_has_it_and_an_absent_replica_gets_it_too() {
    let (mut row, _) = row(Level::Quorum);
    let new = Record::tombstone(version(9));
    assert_eq!(tell(&mut row, 1, None, Want::Record), Step::Nothing);
    assert_eq!(tell(&mut row, 2, Some(&new), Want::Header), ask(&[(2, Want::Record)]));
    assert_eq!(tell(&mut row, 2, Some(&new), Want::Record), repair(&new, &[1]));
    assert_eq!(row.on_repaired(n(1), Ok(Outcome::Superseded(version(10)))), returned(&new), "something newer will do");
}

#[test]
fn a_record_that_a_reply_had_no_room_for_is_asked_for_again() {
    let (mut row, _) = row(Level::Quorum);
    let record = value(9, "v");
    assert_eq!(tell(&mut row, 1, Some(&record), Want::Header), Step::Nothing);
    assert_eq!(tell(&mut row, 2, Some(&record), Want::Header), ask(&[(1, Want::Record)]));
    assert_eq!(tell(&mut row, 1, Some(&record), Want::Header), ask(&[(1, Want::Record)]), "and again");
    assert_eq!(tell(&mut row, 1, Some(&record), Want::Record), returned(&record));
}

#[test]
fn a_record_that_a_reply_had_no_room_for_is_not_asked_for_where_it_lost() {
    let (mut row, _) = row(Level::Quorum);
    let (old, new) = (value(8, "old"), value(9, "new"));
    assert_eq!(tell(&mut row, 1, Some(&old), Want::Header), Step::Nothing);
    assert_eq!(tell(&mut row, 2, Some(&new), Want::Header), ask(&[(2, Want::Record)]));
    assert_eq!(tell(&mut row, 2, Some(&new), Want::Record), repair(&new, &[1]));
}

#[test]
fn a_read_at_one_answers_at_once_and_brings_nobody_up_to_date() {
    for level in [Level::One, Level::LocalOne] {
        let (mut row, step) = row(level);
        assert_eq!(step, ask(&[(1, Want::Record)]));
        let record = value(8, "old");
        assert_eq!(tell(&mut row, 1, Some(&record), Want::Record), returned(&record));
    }
}

#[test]
fn of_one_version_with_two_values_the_one_that_storage_keeps_is_returned() {
    let (smaller, greater) = (value(9, "a"), value(9, "b"));
    for (first, second) in [(&smaller, &greater), (&greater, &smaller)] {
        let (mut row, _) = row(Level::Quorum);
        tell(&mut row, 1, Some(first), Want::Record);
        assert_eq!(tell(&mut row, 2, Some(second), Want::Header), ask(&[(2, Want::Record)]));
        let loser = if first == &greater { 2 } else { 1 };
        assert_eq!(tell(&mut row, 2, Some(second), Want::Record), repair(&greater, &[loser]));
        assert_eq!(row.on_repaired(n(loser), Ok(Outcome::Applied)), returned(&greater));
    }
}

#[test]
fn a_replica_that_refuses_is_replaced_while_there_is_another() {
    let unsynced = Failure::Refused(crate::messages::Refusal::Unsynced(cube_storage::UnsyncedCause::New));
    let (mut row, _) = row(Level::Quorum);
    let record = value(9, "v");
    tell(&mut row, 1, Some(&record), Want::Record);
    assert_eq!(row.on_failure(n(2), unsynced.clone()), ask(&[(3, Want::Header)]));
    let left = incomplete(row.on_failure(n(3), Failure::Down));
    assert_eq!(left.acknowledged_by, [n(1)]);
    assert_eq!(left.failures, [(n(2), unsynced), (n(3), Failure::Down)]);
    assert!(!left.timed_out && !left.write && left.missing == 1);
}

#[test]
fn a_replica_that_cannot_be_brought_up_to_date_is_replaced_too() {
    let (mut row, _) = row(Level::Quorum);
    let (old, new) = (value(8, "old"), value(9, "new"));
    tell(&mut row, 1, Some(&new), Want::Record);
    assert_eq!(tell(&mut row, 2, Some(&old), Want::Header), repair(&new, &[2]));
    assert_eq!(row.on_repaired(n(2), Err(timed_out(2))), repair(&new, &[3]), "not waiting for the deadline");
    assert_eq!(row.on_repaired(n(3), Ok(Outcome::Present)), returned(&new));
}

#[test]
fn a_record_that_can_no_longer_be_fetched_counts_for_nothing() {
    let (mut row, _) = row_by(&stable("a1 a2 a3 a4 a5", 5), Level::Quorum, &[1, 2, 3, 4, 5]);
    let (old, newer, newest) = (value(7, "old"), value(9, "b"), value(9, "c"));
    tell(&mut row, 1, Some(&old), Want::Record);
    tell(&mut row, 2, Some(&newer), Want::Header);
    assert_eq!(tell(&mut row, 3, Some(&newest), Want::Header), ask(&[(2, Want::Record), (3, Want::Record)]));
    assert_eq!(row.on_failure(n(2), timed_out(2)), ask(&[(4, Want::Header)]));
    assert_eq!(row.on_failure(n(3), timed_out(3)), ask(&[(5, Want::Header)]));
    assert_eq!(tell(&mut row, 4, Some(&old), Want::Header), Step::Nothing, "two of five are no quorum");
    assert_eq!(tell(&mut row, 5, Some(&old), Want::Header), ask(&[(1, Want::Record)]), "it was not kept");
    assert_eq!(tell(&mut row, 1, Some(&old), Want::Record), returned(&old));
}

#[test]
fn a_record_that_is_no_longer_needed_may_fail_to_come() {
    let (mut row, _) = row_by(&stable("a1 a2 a3 a4", 5), Level::Three, &[1, 2, 3, 4]);
    let (old, a, b) = (value(7, "old"), value(9, "a"), value(9, "b"));
    tell(&mut row, 1, Some(&old), Want::Record);
    tell(&mut row, 2, Some(&a), Want::Header);
    assert_eq!(tell(&mut row, 3, Some(&b), Want::Header), ask(&[(2, Want::Record), (3, Want::Record)]));
    // By now the third one holds something newer than both.
    let newest = value(10, "newest");
    assert_eq!(tell(&mut row, 3, Some(&newest), Want::Record), repair(&newest, &[1, 2]));
    assert_eq!(row.on_failure(n(2), timed_out(2)), Step::Nothing, "it is still brought up to date");
    assert_eq!(row.on_repaired(n(2), Ok(Outcome::Applied)), Step::Nothing);
    assert_eq!(row.on_repaired(n(1), Ok(Outcome::Applied)), returned(&newest));
}

#[test]
fn while_replicas_change_what_is_returned_is_held_by_the_level_in_both_sets() {
    let (mut row, step) = row_by(&changing("a1 a2 a3", "a4 a5 a6", 6), Level::Quorum, &[1, 2, 3]);
    assert_eq!(step, ask(&[(1, Want::Record), (2, Want::Header)]), "new replicas are not read");
    let record = value(9, "v");
    tell(&mut row, 1, Some(&record), Want::Record);
    assert_eq!(tell(&mut row, 2, Some(&record), Want::Header), repair(&record, &[4, 5, 6]));
    assert_eq!(row.on_repaired(n(4), Ok(Outcome::Present)), Step::Nothing);
    assert_eq!(row.on_repaired(n(5), Err(timed_out(5))), Step::Nothing);
    assert_eq!(row.on_repaired(n(6), Ok(Outcome::Applied)), returned(&record));
}

#[test]
fn of_the_other_set_the_live_confirm_and_the_dead_are_the_last_hope() {
    let map = changing("a1 a2 a3", "a1 a2 a4 a5 a6", 6);
    let begun = |newcomers: &[u16]| {
        let mut row = Row::new(TableId(1), RowKey::of("k"), PartitionId(0), &map, Level::Quorum, &"a".into());
        row.begin(vec![n(1), n(2)], newcomers.iter().copied().map(NodeId).collect());
        row
    };
    let record = value(9, "v");
    let confirms = |row: &mut Row| {
        tell(row, 1, Some(&record), Want::Record);
        tell(row, 2, Some(&record), Want::Header)
    };
    let mut row = begun(&[5, 6]);
    assert_eq!(confirms(&mut row), repair(&record, &[5, 6]), "a silent one keeps nobody waiting");
    assert_eq!(row.on_repaired(n(6), Ok(Outcome::Applied)), returned(&record));
    let mut row = begun(&[5]);
    assert_eq!(confirms(&mut row), repair(&record, &[5]));
    assert_eq!(row.on_repaired(n(5), Err(timed_out(5))), repair(&record, &[4]), "believed dead, and all that is left");
}

#[test]
fn only_records_that_may_win_are_kept() {
    let (mut row, _) = row(Level::Quorum);
    let (old, new) = (value(8, "old"), value(9, "new"));
    let bytes = new.encoded_len();
    tell(&mut row, 1, Some(&old), Want::Record);
    assert_eq!(row.record_bytes(), old.encoded_len());
    tell(&mut row, 2, Some(&new), Want::Header);
    assert_eq!(row.record_bytes(), 0, "what lost gives its room back");
    assert_eq!(row.bytes_of(&found(Some(&old), Want::Record)), 0, "and takes none when it comes again");
    tell(&mut row, 2, Some(&new), Want::Record);
    assert_eq!(row.record_bytes(), bytes, "the winner counts once while it is confirmed");
    assert_eq!(row.on_repaired(n(1), Ok(Outcome::Applied)), returned(&new));
    assert_eq!(row.record_bytes(), bytes, "and in the answer");
    let (mut row, _) = self::row(Level::Quorum);
    tell(&mut row, 1, Some(&old), Want::Record);
    row.on_deadline();
    assert_eq!(row.record_bytes(), 0, "a read that failed holds nothing");
}

#[test]
fn replicas_that_stay_confirm_for_both_sets() {
    let (mut row, _) = row_by(&changing("a1 a2 a3", "a1 a2 a4", 6), Level::Quorum, &[1, 2, 3]);
    let record = value(9, "v");
    tell(&mut row, 1, Some(&record), Want::Record);
    assert_eq!(tell(&mut row, 2, Some(&record), Want::Header), returned(&record), "two of either set hold it");
}

#[test]
fn a_level_of_one_data_center_asks_and_confirms_inside_of_it() {
    let (mut row, step) = row_by(&stable("a1 a2 a3 b4 b5 b6", 5), Level::LocalQuorum, &[4, 1, 2, 3, 5, 6]);
    assert_eq!(step, ask(&[(1, Want::Record), (2, Want::Header)]));
    let (old, new) = (value(8, "old"), value(9, "new"));
    tell(&mut row, 1, Some(&new), Want::Record);
    assert_eq!(tell(&mut row, 2, Some(&old), Want::Header), repair(&new, &[2]));
    assert_eq!(row.on_repaired(n(2), Ok(Outcome::Applied)), returned(&new));
}

#[test]
fn a_read_by_an_old_map_begins_again_by_the_new_one() {
    let (mut row, _) = row(Level::Quorum);
    let record = value(9, "v");
    tell(&mut row, 1, Some(&record), Want::Record);
    assert_eq!(row.on_failure(n(2), Failure::Fenced(Epoch(7))), ask(&[(3, Want::Header)]));
    assert_eq!(row.on_failure(n(3), Failure::Fenced(Epoch(8))), Step::Reroute(Epoch(8)));
    assert!(row.reroute(&stable("a2 a3 a4", 8)));
    assert_eq!((row.claim, row.replicas()), (Epoch(8), vec![n(2), n(3), n(4)]));
    assert_eq!(row.begin(vec![n(4), n(2), n(3)], Vec::new()), ask(&[(4, Want::Record), (2, Want::Header)]));
    tell(&mut row, 4, Some(&record), Want::Record);
    assert_eq!(tell(&mut row, 2, Some(&record), Want::Header), returned(&record));
}

#[test]
fn a_repair_that_is_fenced_begins_the_read_again() {
    let (mut row, _) = row_by(&stable("a1 a2", 5), Level::Quorum, &[1, 2]);
    let (old, new) = (value(8, "old"), value(9, "new"));
    tell(&mut row, 1, Some(&new), Want::Record);
    assert_eq!(tell(&mut row, 2, Some(&old), Want::Header), repair(&new, &[2]));
    assert_eq!(row.repair(&new).claim, Some(Epoch(5)), "a repair is counted, so it names its map");
    assert_eq!(row.on_repaired(n(2), Ok(Outcome::Fenced(Epoch(6)))), Step::Reroute(Epoch(6)));
}

#[test]
fn a_read_does_not_follow_changing_maps_forever() {
    let (mut row, _) = row(Level::All);
    for epoch in 6..6 + u64::from(REROUTES_MAX) {
        assert_eq!(row.on_failure(n(1), Failure::Fenced(Epoch(epoch))), Step::Reroute(Epoch(epoch)));
        assert!(row.reroute(&stable("a1 a2 a3", epoch)));
        row.begin(vec![n(1), n(2), n(3)], Vec::new());
    }
    row.on_failure(n(1), Failure::Fenced(Epoch(99)));
    assert!(!row.reroute(&stable("a1 a2 a3", 99)));
    assert_eq!(incomplete(row.give_up(false)).failures, [(n(1), Failure::Fenced(Epoch(99)))], "it says why");
}

#[test]
fn a_read_whose_time_is_over_says_how_far_it_came() {
    let (mut row, _) = row(Level::All);
    tell(&mut row, 2, None, Want::Header);
    let left = incomplete(row.on_deadline());
    assert!(left.timed_out);
    assert_eq!((left.acknowledged_by, left.missing), (vec![n(2)], 2));
    assert_eq!(row.on_deadline(), Step::Nothing);
    assert_eq!(tell(&mut row, 1, None, Want::Record), Step::Nothing);
}
