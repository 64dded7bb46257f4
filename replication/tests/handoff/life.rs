//! Hints whose holder or target leaves the cluster, or whose target is no replica of the row any more.

use cube_replication::handoff::Kept;
use cube_replication::messages::{HandedHint, Refusal, ReplyBody, RequestBody, TakeHints, TakeMarks};
use cube_storage::dirty::DirtyRange;
use cube_storage::hints::HintLimits;
use cube_storage::model::{Mutation, TableId};

use crate::cluster::{Cluster, TABLE, at, n, state, value};

#[test]
fn hints_of_a_node_that_left_are_dropped_and_counted_and_its_only_copies_go_to_a_replica() {
    let cluster = Cluster::new();
    cluster.kill(2);
    for (key, only_copy) in [("a", false), ("only", true), ("b", false)] {
        assert_eq!(cluster.keep(3, 2, vec![value(key, 1)], only_copy), Ok(Kept::Hint));
    }
    let left = state(&[0, 1], &[2]);
    cluster.node(3).catalog.advance(left.clone());
    (0..3).for_each(|_| cluster.pass_ms(10_000));
    assert!(cluster.hints(3, 2) > 0, "nobody takes a row by a map that it has not adopted");
    assert!((0..2).all(|node| cluster.held(node, "only").is_none()));
    [0, 1].into_iter().for_each(|node| cluster.adopt(node, &left));
    (0..5).for_each(|_| cluster.pass_ms(10_000));
    assert!(cluster.held(0, "only").is_some() || cluster.held(1, "only").is_some());
    let counts = cluster.counts(3);
    assert_eq!((counts.dropped_target_left, counts.rerouted, cluster.hints(3, 2)), (2, 1, 0));
    assert!(!cluster.node(3).handoff.hints().totals().contains_key("node-2"), "its log is gone");
}

#[test]
fn hints_for_rows_that_their_target_holds_no_more_are_dropped_but_for_only_copies() {
    let cluster = Cluster::new();
    cluster.kill(2);
    for (key, only_copy) in [("a", false), ("only", true), ("b", false)] {
        cluster.keep(0, 2, vec![value(key, 1)], only_copy).unwrap();
    }
    cluster.node(0).catalog.advance(state(&[0, 1], &[]));
    cluster.revive(2);
    (0..3).for_each(|_| cluster.pass_ms(10_000));
    assert!(cluster.held(0, "only").is_some(), "this node is a replica itself");
    assert!(["a", "b", "only"].iter().all(|key| cluster.held(2, key).is_none()));
    let counts = cluster.counts(0);
    assert_eq!((counts.dropped_not_replica, counts.rerouted, cluster.hints(0, 2)), (2, 1, 0));
}

#[test]
fn hints_of_a_dropped_table_are_counted_once_however_often_what_comes_with_them_has_to_be_sent() {
    let cluster = Cluster::new();
    cluster.kill(2);
    let dropped = Mutation { table: TableId(TABLE.0 + 1), ..value("gone", 1) };
    for row in [value("a", 1), dropped, value("b", 1)] {
        cluster.keep(0, 2, vec![row], false).unwrap();
    }
    // It grants leases, and takes no rows by a map that it has not adopted.
    let newer = state(&[0, 1, 2], &[3]);
    cluster.node(0).catalog.advance(newer.clone());
    cluster.revive(2);
    (0..20).for_each(|_| cluster.pass_ms(10_000));
    let counts = cluster.counts(0);
    assert!(counts.failures > 3, "{counts:?}");
    assert_eq!((counts.dropped_table, cluster.hints(0, 2)), (0, 3), "they have not left the log");
    cluster.adopt(2, &newer);
    cluster.pass_ms(60_000);
    let counts = cluster.counts(0);
    assert_eq!((counts.dropped_table, counts.replayed, cluster.hints(0, 2)), (1, 2, 0));
}

#[test]
fn a_node_that_leaves_hands_its_hints_to_another_one_which_delivers_them() {
    let cluster = Cluster::new();
    cluster.kill(2);
    for (key, only_copy) in [("a", false), ("only", true), ("b", false)] {
        cluster.keep(3, 2, vec![value(key, 1)], only_copy).unwrap();
    }
    cluster.node(3).replay.begin_handover();
    (0..3).for_each(|_| cluster.pass_ms(10_000));
    assert_eq!((cluster.node(3).replay.hints_left(), cluster.counts(3).handed_over), (0, 3));
    assert_eq!((cluster.hints(0, 2), cluster.counts(0).taken_over), (3, 3));
    cluster.revive(2);
    cluster.settle();
    assert!(["a", "b", "only"].iter().all(|key| cluster.held(2, key).is_some()));
    assert_eq!(cluster.hints(0, 2), 0);
}

/// Node 3 has marked all of these for node 2, which is dead.
fn marked(cluster: &Cluster, keys: &[&str]) {
    cluster.node(3).handoff.set_limits(HintLimits { keys_max: 0, ..HintLimits::default() });
    for key in keys {
        assert_eq!(cluster.keep(3, 2, vec![value(key, 1)], false), Ok(Kept::Mark));
    }
}

#[test]
fn a_node_that_leaves_hands_its_dirty_marks_to_another_one_before_it_drops_them() {
    let cluster = Cluster::new();
    cluster.kill(2);
    marked(&cluster, &["a", "b", "c"]);
    cluster.keep(3, 1, vec![value("d", 1)], false).unwrap();
    assert_eq!(cluster.node(3).replay.marks_left(), 4);
    // Who is asked first does not answer: another one takes what it can, and the rest stays.
    cluster.network.disconnect(n(0));
    cluster.node(3).replay.begin_handover();
    cluster.pass_ms(60_000);
    assert_eq!((cluster.node(3).replay.marks_left(), cluster.counts(3).marks_handed_over), (4, 0));
    (0..4).for_each(|_| cluster.pass_ms(60_000));
    assert_eq!((cluster.node(3).replay.marks_left(), cluster.counts(3).marks_handed_over), (1, 3));
    assert!(["a", "b", "c"].iter().all(|key| cluster.is_marked(1, 2, key) && !cluster.is_marked(3, 2, key)));
    cluster.revive(0);
    (0..4).for_each(|_| cluster.pass_ms(60_000));
    assert_eq!((cluster.node(3).replay.marks_left(), cluster.counts(3).marks_handed_over), (0, 4));
    assert!(cluster.is_marked(0, 1, "d"), "those of nodes that are alive too");
    assert_eq!((cluster.counts(0).marked["handover"], cluster.counts(1).marked["handover"]), (1, 3));
    // A write that comes while it leaves is no exception.
    marked(&cluster, &["late"]);
    cluster.pass_ms(60_000);
    assert!(cluster.node(3).replay.marks_left() == 0 && cluster.is_marked(0, 2, "late"));
}

#[test]
fn dirty_marks_that_were_handed_over_are_there_after_both_sides_crashed() {
    let mut cluster = Cluster::new();
    cluster.kill(2);
    marked(&cluster, &["a", "b"]);
    cluster.node(3).replay.begin_handover();
    // As far as the question, which is answered when the marks are durable.
    cluster.step(3);
    cluster.network.deliver();
    cluster.node(0).handoff.flush();
    cluster.restart(0);
    cluster.restart(3);
    assert!(["a", "b"].iter().all(|key| cluster.is_marked(0, 2, key) && cluster.is_marked(3, 2, key)));
    cluster.kill(2);
    cluster.node(3).replay.begin_handover();
    (0..4).for_each(|_| cluster.pass_ms(30_000));
    assert_eq!(cluster.node(3).replay.marks_left(), 0, "twice is no harm");
    assert!(["a", "b"].iter().all(|key| cluster.is_marked(0, 2, key)));
    cluster.restart(3);
    assert_eq!(cluster.node(3).replay.marks_left(), 0);
}

#[test]
fn a_node_that_leaves_keeps_nothing_for_others_that_leave() {
    let cluster = Cluster::new();
    cluster.kill(2);
    cluster.node(0).replay.begin_handover();
    let hint = HandedHint { mutation: value("a", 1), created_ms: 1, only_copy: false };
    let hints = RequestBody::TakeHints(TakeHints { target: n(2), hints: vec![hint] });
    let marks = RequestBody::TakeMarks(TakeMarks { target: n(2), marks: vec![(DirtyRange::Everything, at(1))] });
    for body in [hints, marks] {
        assert!(matches!(cluster.ask(0, body), Err(Refusal::Unsupported(_))));
    }
    let replay = &cluster.node(0).replay;
    assert_eq!((replay.hints_left(), replay.marks_left(), replay.is_taking_over()), (0, 0, false));
}

#[test]
fn the_dirty_marks_of_a_node_that_left_are_dropped_without_hints_for_it_too() {
    let cluster = Cluster::new();
    cluster.kill(2);
    marked(&cluster, &["a"]);
    cluster.node(3).catalog.advance(state(&[0, 1], &[2]));
    cluster.pass_ms(20_000);
    assert_eq!(cluster.node(3).replay.marks_left(), 0);
    assert!(!cluster.node(3).handoff.marks().totals().contains_key("node-2"));
}

#[test]
fn nothing_is_kept_for_a_member_that_is_newer_than_the_map_so_that_its_holder_keeps_it() {
    let cluster = Cluster::new();
    let hint = HandedHint { mutation: value("a", 1), created_ms: 1, only_copy: false };
    let take = |target: u16| {
        let hints = RequestBody::TakeHints(TakeHints { target: n(target), hints: vec![hint.clone()] });
        let marks =
            RequestBody::TakeMarks(TakeMarks { target: n(target), marks: vec![(DirtyRange::Everything, at(1))] });
        [cluster.ask(0, hints), cluster.ask(0, marks)]
    };
    assert!(take(9).iter().all(|answer| matches!(answer, Err(Refusal::Unsupported(_)))));
    assert_eq!(take(2), [Ok(ReplyBody::TookHints), Ok(ReplyBody::TookMarks)]);
    cluster.node(0).catalog.advance(state(&[0, 1], &[2]));
    assert_eq!(
        take(2),
        [Ok(ReplyBody::TookHints), Ok(ReplyBody::TookMarks)],
        "nobody misses what one that left missed"
    );
    assert_eq!(cluster.counts(0).dropped_target_left, 1);
}
