//! The tracker under any sequence of answers, and the choice of whom to read.

use cube_replication::consistency::{Level, Unavailable};
use cube_replication::quorum::{CannotAsk, Missing, State, Tracker, ask};
use cube_replication::topology::ReplicaSets;
use cube_storage::model::NodeId;
use proptest::prelude::*;

use super::cases::cases;
use super::sets::{a, level, meets, one, order, replica_sets, set};

#[derive(Clone, Copy, Debug)]
enum Answer {
    Ack(u16),
    Fail(u16),
    HintDurable,
    HintRefused,
}

fn give(tracker: &mut Tracker, answer: Answer) {
    match answer {
        Answer::Ack(node) => tracker.ack(NodeId(node)),
        Answer::Fail(node) => tracker.fail(NodeId(node)),
        Answer::HintDurable => tracker.hint_durable(),
        Answer::HintRefused => tracker.hint_refused(),
    }
}

/// From strangers (nodes 9 to 11) too, and more than once.
fn answers() -> impl Strategy<Value = Vec<Answer>> {
    let answer = prop_oneof![
        8 => (0..12u16).prop_map(Answer::Ack),
        6 => (0..12u16).prop_map(Answer::Fail),
        1 => Just(Answer::HintDurable),
        1 => Just(Answer::HintRefused),
    ];
    prop::collection::vec(answer, 0..30)
}

proptest! {
    #![proptest_config(cases(256))]

    #[test]
    fn met_is_final(level in level(), sets in replica_sets(), answers in answers()) {
        let mut tracker = Tracker::new(level, &sets, a());
        let mut met = tracker.state() == State::Met;
        prop_assert!(!met, "nothing is met before the first answer");
        for answer in answers {
            give(&mut tracker, answer);
            prop_assert!(!met || tracker.state() == State::Met);
            met = tracker.state() == State::Met;
            prop_assert_eq!(met, tracker.missing().is_empty());
        }
    }

    #[test]
    fn how_short_it_is_are_the_fewest_replicas_that_would_do(
        level in level(), sets in replica_sets(), acks in prop::collection::vec(0..9u16, 0..4),
    ) {
        let mut tracker = Tracker::new(level, &sets, a());
        acks.iter().for_each(|node| tracker.ack(NodeId(*node)));
        let would_do = |nodes: &u32| {
            let mut with = tracker.clone();
            (0..9).filter(|node| nodes & (1 << node) != 0).for_each(|node| with.ack(NodeId(node)));
            with.state() == State::Met
        };
        // A level may ask for more than there are.
        if let Some(fewest) = (0..1u32 << 9).filter(would_do).map(u32::count_ones).min() {
            prop_assert_eq!(tracker.short(), fewest as usize);
        }
    }

    #[test]
    fn impossible_is_overturned_by_an_acknowledgement_alone(level in level(), sets in replica_sets(), answers in answers()) {
        let mut tracker = Tracker::new(level, &sets, a());
        for answer in answers {
            let before = tracker.state();
            give(&mut tracker, answer);
            let may_change = matches!(answer, Answer::Ack(_) | Answer::HintDurable);
            prop_assert!(before != State::Impossible || tracker.state() == before || may_change);
        }
    }

    #[test]
    fn the_order_of_answers_does_not_matter(
        level in level(),
        sets in replica_sets(),
        (one, other) in answers().prop_flat_map(|answers| (Just(answers.clone()), Just(answers).prop_shuffle())),
    ) {
        let outcome = |answers: Vec<Answer>| {
            let mut tracker = Tracker::new(level, &sets, a());
            answers.into_iter().for_each(|answer| give(&mut tracker, answer));
            (tracker.state(), tracker.acknowledged().collect::<Vec<_>>(), tracker.failed().collect::<Vec<_>>(), tracker.missing())
        };
        prop_assert_eq!(outcome(one), outcome(other));
    }

    #[test]
    fn duplicates_and_strangers_change_nothing(level in level(), sets in replica_sets(), answers in answers()) {
        let known = |node: u16| sets.contains(NodeId(node));
        let mut plain = Tracker::new(level, &sets, a());
        let mut noisy = Tracker::new(level, &sets, a());
        for answer in answers {
            give(&mut noisy, answer);
            give(&mut noisy, answer);
            if !matches!(answer, Answer::Ack(node) | Answer::Fail(node) if !known(node)) {
                give(&mut plain, answer);
            }
        }
        prop_assert_eq!(plain.state(), noisy.state());
        prop_assert_eq!(plain.missing(), noisy.missing());
        prop_assert!(plain.acknowledged().eq(noisy.acknowledged()));
        prop_assert!(noisy.acknowledged().all(|node| known(node.0)));
    }

    #[test]
    fn every_replica_is_heard_failed_or_silent(level in level(), sets in replica_sets(), answers in answers()) {
        let mut tracker = Tracker::new(level, &sets, a());
        answers.into_iter().for_each(|answer| give(&mut tracker, answer));
        let mut told: Vec<NodeId> = tracker.acknowledged().chain(tracker.failed()).chain(tracker.silent()).collect();
        let mut all: Vec<NodeId> = sets.nodes().collect();
        told.sort();
        all.sort();
        prop_assert_eq!(told, all);
    }

    #[test]
    fn the_state_is_what_counting_says(level in level(), sets in replica_sets(), acks in order(), heard in 0..=9usize, acked in 0..=9usize) {
        let (acked, heard) = (acked.min(heard), heard);
        let mut tracker = Tracker::new(level, &sets, a());
        tracker.hint_refused();
        acks[..acked].iter().for_each(|node| tracker.ack(*node));
        acks[acked..heard].iter().for_each(|node| tracker.fail(*node));
        let hopeful = [&acks[..acked], &acks[heard..]].concat();
        let expected = match (meets(level, &sets, &a(), &acks[..acked]), meets(level, &sets, &a(), &hopeful)) {
            (true, _) => State::Met,
            (false, true) => State::Pending,
            (false, false) => State::Impossible,
        };
        prop_assert_eq!(tracker.state(), expected);
    }

    /// The heart of quorum replication, in one set and in two.
    #[test]
    fn a_write_and_a_read_that_were_met_share_a_replica_in_every_set(
        sets in replica_sets(),
        pair in prop::sample::select(vec![
            (Level::Quorum, Level::Quorum),
            (Level::All, Level::One),
            (Level::One, Level::All),
            (Level::EachQuorum, Level::Quorum),
            (Level::EachQuorum, Level::LocalQuorum),
            (Level::LocalQuorum, Level::LocalQuorum),
            (Level::LocalQuorum, Level::EachQuorum),
            (Level::Quorum, Level::EachQuorum),
        ]),
        acks in order(),
        preferred in order(),
    ) {
        let (write, read) = pair;
        let mut tracker = Tracker::new(write, &sets, a());
        for node in acks {
            if tracker.state() != State::Met {
                tracker.ack(node);
            }
        }
        if tracker.state() == State::Met {
            for set in sets.iter() {
                let Ok(asked) = ask(read, &ReplicaSets::one(set.clone()), &a(), &preferred) else { continue };
                let holds = |node: &NodeId| set.contains(*node) && asked.contains(node);
                prop_assert!(tracker.acknowledged().any(|node| holds(&node)), "{:?} missed by {:?}", tracker, asked);
            }
        }
    }

    #[test]
    fn as_few_replicas_are_asked_as_meet_the_level(level in level(), sets in replica_sets(), preferred in order(), candidates in 0..=9usize) {
        let candidates = &preferred[..candidates];
        let met_by = |choice: u16| {
            let chosen: Vec<NodeId> = (0..9).filter(|node| choice & (1 << node) != 0).map(NodeId).collect();
            (chosen.iter().all(|node| candidates.contains(node)) && meets(level, &sets, &a(), &chosen)).then_some(chosen.len())
        };
        let fewest = (0..512).filter_map(met_by).min();
        match ask(level, &sets, &a(), candidates) {
            Err(CannotAsk::ReadAtAny(_)) => prop_assert_eq!(level, Level::Any),
            Err(CannotAsk::Unavailable(_)) => prop_assert_eq!(fewest, None),
            Ok(asked) => {
                prop_assert!(meets(level, &sets, &a(), &asked));
                prop_assert_eq!(Some(asked.len()), fewest);
            }
        }
    }
}

#[test]
fn the_preferred_replicas_are_asked_first() {
    let nodes = |ids: &[u16]| ids.iter().copied().map(NodeId).collect::<Vec<_>>();
    let sets = one("a0 a1 a2 b3 b4");
    let asked = |level: Level, preferred: &[u16]| ask(level, &sets, &a(), &nodes(preferred)).unwrap();
    assert_eq!(asked(Level::One, &[4, 0, 1]), nodes(&[4]));
    assert_eq!(asked(Level::LocalOne, &[4, 0, 1]), nodes(&[0]));
    assert_eq!(asked(Level::Quorum, &[4, 0, 3, 1, 2]), nodes(&[4, 0, 3]));
    assert_eq!(asked(Level::EachQuorum, &[2, 4, 0, 3, 1]), nodes(&[2, 4, 0, 3]));
    assert_eq!(asked(Level::Quorum, &[9, 4, 0, 3, 1]), nodes(&[4, 0, 3]), "strangers are not asked");
}

#[test]
fn too_few_candidates_are_refused_with_the_numbers() {
    let refused = ask(Level::Quorum, &one("a0 a1 a2"), &a(), &[NodeId(1), NodeId(7)]);
    let unavailable = Unavailable { level: Level::Quorum, required: 2, alive: 1, data_center: None };
    assert_eq!(refused, Err(CannotAsk::Unavailable(unavailable)));
}

#[test]
fn a_durable_hint_is_enough_for_any_and_for_nothing_else() {
    for level in Level::EVERY {
        let mut tracker = Tracker::new(level, &one("a0 a1 a2"), a());
        (0..3).for_each(|node| tracker.fail(NodeId(node)));
        let without_hint = if level == Level::Any { State::Pending } else { State::Impossible };
        assert_eq!(tracker.state(), without_hint, "{level}");
        tracker.hint_durable();
        let with_hint = if level == Level::Any { State::Met } else { State::Impossible };
        assert_eq!(tracker.state(), with_hint, "{level}");
    }
}

#[test]
fn a_write_at_any_that_no_replica_and_no_hint_takes_has_failed() {
    let mut tracker = Tracker::new(Level::Any, &one("a0 a1"), a());
    tracker.hint_refused();
    tracker.fail(NodeId(0));
    assert_eq!(tracker.state(), State::Pending);
    tracker.fail(NodeId(1));
    assert_eq!(tracker.state(), State::Impossible);
}

#[test]
fn an_acknowledgement_outranks_a_failure_of_the_same_replica() {
    for ack_first in [true, false] {
        let mut tracker = Tracker::new(Level::All, &one("a0 a1"), a());
        if ack_first {
            tracker.ack(NodeId(0));
        }
        tracker.fail(NodeId(0));
        assert_eq!(tracker.state(), if ack_first { State::Pending } else { State::Impossible });
        tracker.ack(NodeId(0));
        assert_eq!((tracker.state(), tracker.failed().count()), (State::Pending, 0));
        tracker.ack(NodeId(1));
        assert_eq!(tracker.state(), State::Met);
    }
}

#[test]
fn the_tracker_says_what_is_missing_where() {
    let mut tracker = Tracker::new(Level::EachQuorum, &one("a0 a1 a2 b3 b4"), a());
    tracker.ack(NodeId(0));
    tracker.ack(NodeId(3));
    let missing = |replicas, data_center: &str| Missing { replicas, data_center: Some(data_center.into()) };
    assert_eq!(tracker.missing(), [missing(1, "a"), missing(1, "b")]);
    tracker.ack(NodeId(4));
    assert_eq!(tracker.missing(), [missing(1, "a")]);
}

#[test]
fn during_a_change_a_replica_of_both_sets_counts_in_both() {
    let mut tracker = Tracker::new(Level::Quorum, &ReplicaSets::both(set("a0 a1 a2"), set("a1 a2 a3")), a());
    tracker.ack(NodeId(1));
    tracker.ack(NodeId(0));
    assert_eq!(tracker.state(), State::Pending, "the old majority is no majority of the new");
    tracker.ack(NodeId(2));
    assert_eq!(tracker.state(), State::Met);
}
