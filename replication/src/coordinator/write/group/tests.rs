//! The decisions of a write, told as short scripts; what holds of every script is in `any_order.rs`.

mod any_order;

use cube_storage::model::{Record, RowKey, TableId};

use super::*;
use crate::coordinator::testing::{changing, n, stable, version};
use crate::messages::Refusal;

const FLOOR: Hlc = Hlc(500);

fn mutation() -> Mutation {
    Mutation { table: TableId(1), key: RowKey::of("k"), record: Record::value(version(10), "v"), claim: None }
}

fn group_by(map: &PartitionMap, level: Level, source: Source) -> Group {
    Group::new(PartitionId(0), map, vec![mutation()], source, level, &"a".into())
}

/// A write of version 10 to three replicas, stamped by the coordinator.
fn group(level: Level) -> Group {
    group_by(&stable("a1 a2 a3", 5), level, Source::Clock(version(10)))
}

/// The same, stamped by the client.
fn stamped_by_client(level: Level) -> Group {
    group_by(&stable("a1 a2 a3", 5), level, Source::Client(version(10)))
}

fn answer(group: &mut Group, node: u16, outcome: Outcome) -> Step {
    group.on_answer(n(node), Answer::Outcomes(&[outcome]))
}

fn applied(group: &mut Group, node: u16) -> Step {
    answer(group, node, Outcome::Applied)
}

fn superseded(group: &mut Group, node: u16, hlc: u64) -> Step {
    answer(group, node, Outcome::Superseded(version(hlc)))
}

fn timed_out(group: &mut Group, node: u16) -> Step {
    group.on_answer(n(node), Answer::Failed(Failure::Peer(PeerError::TimedOut { peer: n(node) })))
}

fn fenced(group: &mut Group, node: u16, epoch: u64) -> Step {
    answer(group, node, Outcome::Fenced(Epoch(epoch)))
}

fn written(step: Step) -> Written {
    match step {
        Step::Done(Ok(written)) => written,
        other => panic!("not a success: {other:?}"),
    }
}

fn unknown(step: Step) -> Incomplete {
    match step {
        Step::Done(Err(RequestError::Unknown(incomplete))) => *incomplete,
        other => panic!("not unknown: {other:?}"),
    }
}

#[test]
fn a_quorum_write_succeeds_with_the_second_acknowledgement_and_names_who_gave_them() {
    let mut group = group(Level::Quorum);
    assert_eq!(applied(&mut group, 3), Step::Nothing);
    assert_eq!(answer(&mut group, 3, Outcome::Present), Step::Nothing, "a doubled answer counts once");
    let written = written(answer(&mut group, 1, Outcome::Present));
    assert_eq!(written.version, version(10));
    assert_eq!(written.acknowledged_by, [n(1), n(3)]);
    assert_eq!(written.superseded_by, None);
    assert_eq!(applied(&mut group, 2), Step::Nothing, "a late answer changes nothing");
    assert_eq!(group.on_deadline(), []);
}

#[test]
fn a_superseded_write_is_stamped_above_everything_seen_and_sent_once_more() {
    let mut group = group(Level::Quorum);
    assert_eq!(superseded(&mut group, 1, 30), Step::Nothing);
    assert_eq!(superseded(&mut group, 2, 40), Step::Restamp(version(40)));
    group.restamp(version(41), version(40));
    assert_eq!(group.stamp, Stamp::Succeeds(version(40)));
    assert_eq!(group.mutations[0].record.version, version(41));
    assert_eq!(group.mutations[0].claim, Some(Epoch(5)));
    assert_eq!(applied(&mut group, 1), Step::Nothing);
    // A third writer was faster. This write was newer than all that had been acknowledged when it began.
    let written = written(superseded(&mut group, 3, 99));
    assert_eq!((written.version, written.superseded_by), (version(41), Some(version(99))));
    assert_eq!(written.acknowledged_by, [n(1), n(3)]);
}

#[test]
fn a_write_that_may_be_older_than_what_a_replica_lost_is_stamped_above_that_and_superseded_by_nothing() {
    let mut group = group(Level::Quorum);
    let lost = Outcome::LostUpTo(version(40).hlc);
    assert_eq!(answer(&mut group, 1, lost), Step::Nothing);
    let Step::Restamp(seen) = applied(&mut group, 2) else { panic!("not stamped again") };
    assert!(seen >= version(40));
    group.restamp(version(41), seen);
    assert_eq!(answer(&mut group, 1, Outcome::LostUpTo(version(50).hlc)), Step::Nothing, "it lost more meanwhile");
    let written = written(applied(&mut group, 2));
    assert_eq!((written.version, written.superseded_by), (version(41), None));
    assert_eq!(written.acknowledged_by, [n(1), n(2)]);
}

#[test]
fn a_loss_does_not_touch_a_timestamp_that_the_client_chose() {
    let mut group = stamped_by_client(Level::Quorum);
    assert_eq!(answer(&mut group, 1, Outcome::LostUpTo(version(40).hlc)), Step::Nothing);
    let written = written(applied(&mut group, 2));
    assert_eq!((written.version, written.superseded_by), (version(10), None));
}

#[test]
fn one_superseded_answer_among_those_that_met_the_level_is_enough_to_stamp_again() {
    let mut group = group(Level::All);
    assert_eq!(superseded(&mut group, 1, 30), Step::Nothing);
    assert_eq!(applied(&mut group, 2), Step::Nothing);
    assert_eq!(applied(&mut group, 3), Step::Restamp(version(30)));
}

#[test]
fn an_answer_to_an_earlier_round_is_known_as_such() {
    let mut group = group(Level::One);
    let first = group.round();
    assert_eq!(superseded(&mut group, 1, 30), Step::Restamp(version(30)));
    group.restamp(version(31), version(30));
    assert_ne!(group.round(), first);
    let second = group.round();
    assert!(group.reroute(&stable("a1 a2 a3", 6)));
    assert_ne!(group.round(), second, "also when the version is the same, but the map is not");
}

#[test]
fn a_timestamp_that_the_client_chose_is_never_replaced() {
    let mut group = stamped_by_client(Level::Quorum);
    assert_eq!(superseded(&mut group, 1, 30), Step::Nothing);
    let written = written(superseded(&mut group, 2, 40));
    assert_eq!((written.version, written.superseded_by), (version(10), Some(version(40))));
}

#[test]
fn below_the_purge_floor_the_coordinator_stamps_again_and_a_client_is_refused() {
    let below = Outcome::BelowFloor(FLOOR);
    let mut group = group(Level::Quorum);
    assert_eq!(answer(&mut group, 1, below), Step::Nothing);
    let Step::Restamp(floor) = applied(&mut group, 2) else { panic!("not stamped again") };
    assert!(floor >= Version::new(FLOOR, n(0)), "any version above this one is above the floor");

    let mut group = stamped_by_client(Level::Quorum);
    assert_eq!(answer(&mut group, 1, below), Step::Nothing);
    assert_eq!(answer(&mut group, 2, below), Step::Nothing, "the third was sent it, and may take it");
    assert_eq!(answer(&mut group, 3, below), Step::Done(Err(RequestError::BelowFloor { floor: FLOOR })));
}

#[test]
fn below_the_purge_floor_a_write_that_somebody_may_hold_is_unknown() {
    let below = Outcome::BelowFloor(FLOOR);
    let refused = || {
        let mut group = stamped_by_client(Level::Quorum);
        answer(&mut group, 1, below);
        assert_eq!(answer(&mut group, 2, below), Step::Nothing);
        group
    };
    assert_eq!(unknown(applied(&mut refused(), 3)).acknowledged_by, [n(3)]);
    assert_eq!(unknown(timed_out(&mut refused(), 3)).acknowledged_by, []);
    let broke = Failure::Peer(PeerError::Broken { peer: n(3) });
    unknown(refused().on_answer(n(3), Answer::Failed(broke)));
    let failed_disk = Failure::Refused(Refusal::Stopped);
    unknown(refused().on_answer(n(3), Answer::Failed(failed_disk)));
    let [deadline] = refused().on_deadline().try_into().unwrap();
    assert!(unknown(deadline).timed_out);

    let unsent = Failure::Peer(PeerError::Unreachable { peer: n(3) });
    let told = refused().on_answer(n(3), Answer::Failed(unsent));
    assert_eq!(told, Step::Done(Err(RequestError::BelowFloor { floor: FLOOR })), "who was not asked holds nothing");

    // What is kept for a replica that is down comes to it when it is back.
    let mut group = stamped_by_client(Level::Quorum);
    group.skip(n(3));
    group.on_noted(n(3), false, Ok(Kept::Hint));
    unknown(answer(&mut group, 1, below));
}

#[test]
fn rows_that_a_replica_took_before_its_floor_passed_them_are_not_told_as_refused() {
    let source = Source::Client(version(10));
    let rows = vec![mutation(), mutation()];
    let mut group = Group::new(PartitionId(0), &stable("a1", 5), rows, source, Level::One, &"a".into());
    // The message came twice; meanwhile one row was purged.
    let answered = [Outcome::Present, Outcome::BelowFloor(FLOOR)];
    unknown(group.on_answer(n(1), Answer::Outcomes(&answered)));
}

#[test]
fn who_may_have_taken_a_write_by_an_older_map_keeps_it_from_being_refused() {
    let below = Outcome::BelowFloor(FLOOR);
    let rerouted = |first: &dyn Fn(&mut Group)| {
        let mut group = stamped_by_client(Level::Quorum);
        first(&mut group);
        fenced(&mut group, 1, 6);
        assert_eq!(fenced(&mut group, 2, 6), Step::Reroute(Epoch(6)));
        assert!(group.reroute(&stable("a1 a2 a4", 6)));
        answer(&mut group, 1, below);
        match answer(&mut group, 2, below) {
            Step::Nothing => answer(&mut group, 4, below),
            told => told,
        }
    };
    let refused = Step::Done(Err(RequestError::BelowFloor { floor: FLOOR }));
    assert_eq!(rerouted(&|group| drop(answer(group, 3, below))), refused);
    unknown(rerouted(&|_| {}));
    unknown(rerouted(&|group| drop(timed_out(group, 3))));
    assert_eq!(unknown(rerouted(&|group| drop(applied(group, 3)))).acknowledged_by, [n(3)]);
}

#[test]
fn an_unknown_write_names_who_acknowledged_it_by_an_older_map() {
    let mut group = group(Level::Quorum);
    applied(&mut group, 3);
    fenced(&mut group, 1, 6);
    assert_eq!(fenced(&mut group, 2, 6), Step::Reroute(Epoch(6)));
    assert!(group.reroute(&stable("a1 a2 a3", 6)));
    applied(&mut group, 1);
    let [deadline] = group.on_deadline().try_into().unwrap();
    let incomplete = unknown(deadline);
    assert_eq!((incomplete.acknowledged_by, incomplete.missing), (vec![n(1), n(3)], 1));
}

#[test]
fn an_unknown_write_that_was_stamped_again_names_nobody_who_only_has_its_first_version() {
    let mut group = group(Level::Quorum);
    applied(&mut group, 3);
    assert_eq!(superseded(&mut group, 1, 30), Step::Restamp(version(30)));
    group.restamp(version(31), version(30));
    let [deadline] = group.on_deadline().try_into().unwrap();
    assert_eq!(unknown(deadline).acknowledged_by, []);
}

#[test]
fn a_replica_that_only_told_its_floor_is_not_said_to_hold_the_write() {
    let mut group = group(Level::All);
    answer(&mut group, 1, Outcome::BelowFloor(FLOOR));
    applied(&mut group, 2);
    let [deadline] = group.on_deadline().try_into().unwrap();
    assert_eq!(unknown(deadline).acknowledged_by, [n(2)]);
}

#[test]
fn who_misses_an_acknowledged_write_is_noted_once_whenever_that_is_found_out() {
    let mut group = group(Level::One);
    assert_eq!(timed_out(&mut group, 1), Step::Nothing, "before success nothing is owed");
    let done = applied(&mut group, 2);
    written(done);
    assert_eq!(group.note_failed(), [Step::Note { node: n(1), only_copy: false }]);
    assert_eq!(timed_out(&mut group, 3), Step::Note { node: n(3), only_copy: false });
    assert_eq!(timed_out(&mut group, 3), Step::Nothing);
    assert_eq!(group.on_deadline(), []);
    assert_eq!(group.on_noted(n(3), false, Ok(Kept::Mark)), Step::Nothing);
}

#[test]
fn a_replica_that_says_nothing_until_the_deadline_is_noted_then() {
    let mut group = group(Level::Quorum);
    applied(&mut group, 1);
    written(applied(&mut group, 2));
    assert_eq!(group.on_deadline(), [Step::Note { node: n(3), only_copy: false }]);
    assert_eq!(timed_out(&mut group, 3), Step::Nothing);
}

#[test]
fn a_replica_known_to_be_down_is_noted_before_the_client_is_told() {
    let mut group = group(Level::Quorum);
    group.skip(n(3));
    applied(&mut group, 1);
    assert_eq!(applied(&mut group, 2), Step::Nothing, "the note is not durable yet");
    let written = written(group.on_noted(n(3), false, Ok(Kept::Mark)));
    assert_eq!(written.noted_for, [(n(3), Kept::Mark)]);
    assert_eq!(written.acknowledged_by, [n(1), n(2)]);
}

#[test]
fn a_write_whose_miss_cannot_be_noted_is_not_called_a_success() {
    let mut group = group(Level::Quorum);
    group.skip(n(3));
    applied(&mut group, 1);
    let refused = NotKept { target: n(3), cause: "the disk is full".into() };
    let step = group.on_noted(n(3), false, Err(refused));
    let Step::Done(Err(error)) = step else { panic!("{step:?}") };
    assert_eq!(error, RequestError::NotNoted { target: n(3), cause: "the disk is full".into() });
    assert_eq!(applied(&mut group, 2), Step::Nothing, "it is told once");
}

#[test]
fn any_is_content_with_one_durable_hint_that_will_not_end() {
    let mut group = group(Level::Any);
    for node in [1, 2, 3] {
        group.skip(n(node));
    }
    assert_eq!(group.on_noted(n(1), true, Ok(Kept::Hint)), Step::Nothing, "the others are not noted yet");
    assert_eq!(group.on_noted(n(2), true, Ok(Kept::Hint)), Step::Nothing);
    let written = written(group.on_noted(n(3), true, Ok(Kept::Hint)));
    assert_eq!(written.acknowledged_by, []);
    assert_eq!(written.noted_for.len(), 3);
}

#[test]
fn any_asks_for_a_hint_when_a_live_replica_fails() {
    let mut group = group(Level::Any);
    assert_eq!(timed_out(&mut group, 1), Step::Note { node: n(1), only_copy: true });
    written(group.on_noted(n(1), true, Ok(Kept::Hint)));
    assert_eq!(applied(&mut group, 2), Step::Nothing);
}

#[test]
fn any_goes_on_hoping_while_another_hint_may_be_kept() {
    let no_room = |node| Err(NotKept { target: n(node), cause: "no room".into() });
    let mut group = group(Level::Any);
    for node in [1, 2, 3] {
        group.skip(n(node));
    }
    assert_eq!(group.on_noted(n(1), true, no_room(1)), Step::Note { node: n(1), only_copy: false });
    assert_eq!(group.on_noted(n(1), false, Ok(Kept::Mark)), Step::Nothing, "a mark holds no row");
    assert_eq!(group.on_noted(n(2), true, Ok(Kept::Hint)), Step::Nothing);
    written(group.on_noted(n(3), true, Ok(Kept::Hint)));
}

#[test]
fn any_is_refused_when_no_hint_finds_room() {
    let mut group = group(Level::Any);
    for node in [1, 2, 3] {
        group.skip(n(node));
    }
    let mut last = Step::Nothing;
    for node in [1, 2, 3] {
        let no_room = NotKept { target: n(node), cause: "no room".into() };
        assert_eq!(group.on_noted(n(node), true, Err(no_room)), Step::Note { node: n(node), only_copy: false });
        last = group.on_noted(n(node), false, Ok(Kept::Mark));
    }
    assert_eq!(unknown(last).acknowledged_by, []);
}

#[test]
fn a_write_by_an_old_map_is_sent_again_by_the_new_one_with_its_version() {
    let mut group = group(Level::Quorum);
    assert_eq!(fenced(&mut group, 1, 6), Step::Nothing, "the others may still make it");
    assert_eq!(fenced(&mut group, 2, 8), Step::Reroute(Epoch(8)));
    assert!(group.reroute(&changing("a1 a2 a3", "a1 a2 a4", 8)));
    assert_eq!(group.version, version(10));
    assert_eq!(group.mutations[0].claim, Some(Epoch(8)));
    assert_eq!(group.replicas(), [n(1), n(2), n(3), n(4)]);
    // Both sets must meet the level.
    assert_eq!(applied(&mut group, 3), Step::Nothing);
    assert_eq!(applied(&mut group, 1), Step::Nothing, "two of the old, one of the new");
    assert_eq!(written(applied(&mut group, 4)).acknowledged_by, [n(1), n(3), n(4)]);
}

#[test]
fn a_write_does_not_follow_changing_maps_forever() {
    let mut group = group(Level::All);
    for epoch in 6..6 + u64::from(REROUTES_MAX) {
        assert_eq!(fenced(&mut group, 1, epoch), Step::Reroute(Epoch(epoch)));
        assert!(group.reroute(&stable("a1 a2 a3", epoch)));
    }
    assert!(!group.reroute(&stable("a1 a2 a3", 99)));
    assert_eq!(unknown(group.give_up()).acknowledged_by, []);
}

#[test]
fn a_write_whose_time_is_over_is_unknown_and_says_who_has_it() {
    let mut group = group(Level::All);
    applied(&mut group, 2);
    let [deadline] = group.on_deadline().try_into().unwrap();
    let incomplete = unknown(deadline);
    assert!(incomplete.write && incomplete.timed_out);
    assert_eq!((incomplete.acknowledged_by, incomplete.missing), (vec![n(2)], 2));
    assert_eq!(applied(&mut group, 1), Step::Nothing, "what comes later is not told");
    assert_eq!(group.on_deadline(), []);
}

#[test]
fn an_answer_to_another_number_of_rows_is_nonsense_and_no_acknowledgement() {
    let mut group = group(Level::One);
    assert_eq!(group.on_answer(n(1), Answer::Outcomes(&[])), Step::Nothing);
    assert_eq!(group.on_answer(n(2), Answer::Outcomes(&[Outcome::Applied, Outcome::Applied])), Step::Nothing);
    let incomplete = unknown(timed_out(&mut group, 3));
    assert_eq!(incomplete.failures[..2], [(n(1), Failure::Nonsense), (n(2), Failure::Nonsense)]);
}
