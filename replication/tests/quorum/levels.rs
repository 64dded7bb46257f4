//! Every level with every number of live replicas, in one and in two data centers.

use cube_replication::consistency::{Level, Unavailable};
use cube_replication::quorum::{State, Tracker};
use cube_replication::topology::{DataCenter, ReplicaSets};
use cube_storage::model::NodeId;

use super::sets::{a, meets, one, set};

/// How many live replicas each level needs, by the number of replicas in the only data center.
#[test]
fn one_data_center() {
    use Level::*;
    let needed_of_1_to_5 = [
        (Any, [0, 0, 0, 0, 0]),
        (One, [1, 1, 1, 1, 1]),
        (Two, [2, 2, 2, 2, 2]),
        (Three, [3, 3, 3, 3, 3]),
        (Quorum, [1, 2, 2, 3, 3]),
        (All, [1, 2, 3, 4, 5]),
        (LocalOne, [1, 1, 1, 1, 1]),
        (LocalQuorum, [1, 2, 2, 3, 3]),
        (EachQuorum, [1, 2, 2, 3, 3]),
    ];
    for (level, needed) in needed_of_1_to_5 {
        for (replicas, needed) in (1..=5u16).zip(needed) {
            let written: Vec<_> = (0..replicas).map(|node| format!("a{node}")).collect();
            let sets = one(&written.join(" "));
            for alive in 0..=replicas {
                let outcome = level.check_alive(&sets, &a(), |node| node.0 < alive);
                let data_center = matches!(level, LocalOne | LocalQuorum | EachQuorum).then(a);
                let alive = usize::from(alive);
                let refused = Unavailable { level, required: needed, alive, data_center };
                let expected = if alive >= needed { Ok(()) } else { Err(refused) };
                assert_eq!(outcome, expected, "{level} with {alive} of {replicas} alive");
            }
        }
    }
}

/// Three replicas in `a`, where the coordinator is, and two in `b`: by how many of each are alive, the levels that can
/// be met, by their first letters (of `ANY ONE TWO THREE QUORUM ALL`), and `lo`, `lq`, `eq`.
#[test]
fn two_data_centers() {
    let reachable = [
        ((0, 0), "N"),
        ((0, 1), "N 1"),
        ((0, 2), "N 1 2"),
        ((1, 0), "N 1 lo"),
        ((1, 1), "N 1 2 lo"),
        ((1, 2), "N 1 2 3 Q lo"),
        ((2, 0), "N 1 2 lo lq"),
        ((2, 1), "N 1 2 3 Q lo lq"),
        ((2, 2), "N 1 2 3 Q lo lq eq"),
        ((3, 0), "N 1 2 3 Q lo lq"),
        ((3, 1), "N 1 2 3 Q lo lq"),
        ((3, 2), "N 1 2 3 Q A lo lq eq"),
    ];
    let letters = ["N", "1", "2", "3", "Q", "A", "lo", "lq", "eq"];
    let sets = one("a0 a1 a2 b3 b4");
    for ((in_a, in_b), levels) in reachable {
        let alive = |node: NodeId| if node.0 < 3 { node.0 < in_a } else { node.0 - 3 < in_b };
        for (level, letter) in Level::EVERY.into_iter().zip(letters) {
            let expected = levels.split(' ').any(|word| word == letter);
            let outcome = level.check_alive(&sets, &a(), alive);
            assert_eq!(outcome.is_ok(), expected, "{level} with {in_a} of 3 and {in_b} of 2 alive: {outcome:?}");
        }
    }
}

/// The same answer from the check, the tracker and plain counting, for every choice of live nodes, in one set and in
/// two, coordinated from either data center or from one without replicas.
#[test]
fn the_check_and_the_tracker_agree_with_plain_counting_everywhere() {
    let shapes = ["", "a0", "a0 a1", "a0 a1 a2", "a0 b3", "a0 a1 b3", "a0 a1 a2 b3 b4", "b3 b4", "a1 a2 b4 b5"];
    let sets = shapes.iter().flat_map(|old| {
        let both = shapes.iter().map(|new| ReplicaSets::both(set(old), set(new)));
        both.chain([one(old)])
    });
    for sets in sets {
        for local in ["a", "b", "c"].map(DataCenter::from) {
            for alive in 0..64u16 {
                let live: Vec<NodeId> = (0..6).filter(|node| alive & (1 << node) != 0).map(NodeId).collect();
                for level in Level::EVERY {
                    let expected = meets(level, &sets, &local, &live);
                    let checked = level.check_alive(&sets, &local, |node| live.contains(&node)).is_ok();
                    assert_eq!(checked, expected || level == Level::Any, "{level} {sets:?} from {local}: {live:?}");

                    let mut tracker = Tracker::new(level, &sets, local.clone());
                    live.iter().for_each(|node| tracker.ack(*node));
                    (0..6).map(NodeId).filter(|node| !live.contains(node)).for_each(|node| tracker.fail(node));
                    tracker.hint_refused();
                    let state = if expected { State::Met } else { State::Impossible };
                    assert_eq!(tracker.state(), state, "{level} {sets:?} from {local}: {live:?}");
                }
            }
        }
    }
}

#[test]
fn a_refusal_says_what_is_missing_and_where() {
    let sets = one("a0 a1 a2 b3 b4");
    let refused = Level::EachQuorum.check_alive(&sets, &a(), |node| node.0 < 4).unwrap_err();
    assert_eq!(refused.to_string(), "EACH_QUORUM needs 2 live replicas in b, and 1 is alive");
    let refused = Level::Quorum.check_alive(&sets, &a(), |node| node.0 == 1).unwrap_err();
    assert_eq!(refused.to_string(), "QUORUM needs 3 live replicas, and 1 is alive");
    assert_eq!((refused.required, refused.alive, refused.data_center), (3, 1, None));
}

#[test]
fn a_level_counts_assigned_replicas_and_not_the_factor() {
    let single = one("a0");
    for level in [Level::One, Level::Quorum, Level::All, Level::LocalQuorum, Level::EachQuorum] {
        assert_eq!(level.check_alive(&single, &a(), |_| true), Ok(()), "{level}");
    }
    let refused = Level::Two.check_alive(&single, &a(), |_| true).unwrap_err();
    assert_eq!((refused.required, refused.alive), (2, 1));
}

#[test]
fn while_replicas_change_the_level_must_be_within_reach_in_both_sets() {
    let sets = ReplicaSets::both(set("a0 a1 a2"), set("a2 a3 a4"));
    let with = |alive: &[u16]| Level::Quorum.check_alive(&sets, &a(), |node| alive.contains(&node.0)).is_ok();
    assert!(with(&[1, 2, 3]));
    assert!(!with(&[0, 1, 2]), "no majority of the new set");
    assert!(!with(&[2, 3, 4]), "no majority of the old set");
}
