//! Hints on their way to their target.

use std::path::Path;

use cube_replication::handoff::replay::ReplayState;
use cube_replication::handoff::{HandoffSettings, Kept};
use cube_storage::model::{Limits, Record};

use crate::cluster::{Cluster, at, n, row, value};

fn keys(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("key {n}")).collect()
}

#[test]
fn a_node_that_is_back_gets_what_it_missed_from_every_coordinator_and_nothing_is_left() {
    let cluster = Cluster::new();
    cluster.kill(2);
    for (count, key) in keys(1_000).iter().enumerate() {
        assert_eq!(cluster.keep(count as u16 % 2, 2, vec![value(key, 1)], false), Ok(Kept::Hint));
    }
    assert_eq!(cluster.status(0, 2).replay.state, ReplayState::TargetDown);
    cluster.settle();
    assert_eq!(cluster.status(0, 2).replay.state, ReplayState::TargetDown);
    cluster.revive(2);
    (0..60).for_each(|_| cluster.pass_ms(1_000));
    assert!(keys(1_000).iter().all(|key| cluster.held(2, key).is_some()));
    for by in [0, 1] {
        assert_eq!((cluster.hints(by, 2), cluster.counts(by).replayed), (0, 500));
        assert_eq!(cluster.status(by, 2).replay.state, ReplayState::Idle);
    }
    let incoming = cluster.node(2).replay.status().incoming;
    assert_eq!((incoming.taken, incoming.senders.len()), (1_000, 0));
}

#[test]
fn an_older_hint_changes_nothing_and_a_deletion_stays() {
    let cluster = Cluster::new();
    cluster.kill(2);
    for key in ["changed", "deleted"] {
        cluster.keep(0, 2, vec![value(key, 1)], false).unwrap();
    }
    for row in [value("changed", 9), row("deleted", Record::tombstone(at(9)))] {
        cluster.node(2).store.submit(cube_storage::model::Batch::of(row), Box::new(|_| ()));
    }
    cluster.revive(2);
    cluster.settle();
    assert_eq!(cluster.hints(0, 2), 0);
    assert_eq!(cluster.held(2, "changed").unwrap().version, at(9));
    assert!(cluster.held(2, "deleted").unwrap().is_tombstone());
}

#[test]
fn what_was_not_acknowledged_before_a_crash_is_sent_again() {
    let mut cluster = Cluster::new();
    cluster.kill(2);
    for key in keys(700) {
        cluster.keep(0, 2, vec![value(&key, 1)], false).unwrap();
    }
    cluster.revive(2);
    // Some batches are taken and not acknowledged yet.
    for _ in 0..6 {
        cluster.network.deliver();
        cluster.node(2).store.run_pending();
    }
    cluster.restart(0);
    (0..30).for_each(|_| cluster.pass_ms(1_000));
    assert_eq!(cluster.hints(0, 2), 0);
    assert!(keys(700).iter().all(|key| cluster.held(2, key).is_some()));
}

#[test]
fn a_row_that_its_target_never_takes_is_marked_and_strands_none_of_the_others() {
    // The target's limits are smaller than those the row was written under.
    let limits = Limits { value_bytes_max: 100, ..Limits::default() };
    let cluster = Cluster::with(HandoffSettings::default(), limits);
    cluster.kill(2);
    for key in keys(20) {
        cluster.keep(0, 2, vec![value(&key, 1)], false).unwrap();
    }
    cluster.keep(0, 2, vec![row("huge", Record::value(at(1), vec![b'x'; 500]))], false).unwrap();
    cluster.keep(0, 2, vec![value("last", 1)], false).unwrap();
    cluster.revive(2);
    (0..40).for_each(|_| cluster.pass_ms(10_000));
    assert!(keys(20).iter().all(|key| cluster.held(2, key).is_some()));
    assert!(cluster.held(2, "last").is_some() && cluster.is_marked(0, 2, "huge"));
    assert_eq!((cluster.hints(0, 2), cluster.counts(0).marked["refused"]), (0, 1));
}

#[test]
fn unreadable_hints_are_skipped_to_the_next_good_one_and_marked() {
    let cluster = Cluster::new();
    cluster.kill(2);
    for key in keys(9) {
        cluster.keep(0, 2, vec![row(&key, Record::value(at(1), vec![b'x'; 200]))], false).unwrap();
    }
    // In the value of the first hint.
    assert!(cluster.node(0).files.flip(Path::new("hints/node-2/00000001.hints"), 1_024 + 56 + 100, 3));
    cluster.revive(2);
    (0..3).for_each(|_| cluster.pass_ms(10_000));
    let held: Vec<bool> = keys(9).iter().map(|key| cluster.held(2, key).is_some()).collect();
    assert_eq!(held.iter().filter(|held| **held).count(), 8, "{held:?}");
    assert!(cluster.is_marked(0, 2, "key 0") && !held[0]);
    assert_eq!((cluster.hints(0, 2), cluster.counts(0).damaged, cluster.counts(0).marked["corrupt"]), (0, 1, 1));
}

#[test]
fn an_operator_stops_the_delivery_and_lets_it_go_on() {
    let cluster = Cluster::new();
    cluster.kill(2);
    cluster.node(0).replay.pause(Some("node-2"), true).unwrap();
    assert!(cluster.node(0).replay.pause(Some("node-9"), true).is_err());
    cluster.keep(0, 2, vec![value("a", 1)], false).unwrap();
    cluster.revive(2);
    cluster.pass_ms(60_000);
    assert_eq!((cluster.hints(0, 2), cluster.status(0, 2).replay.state), (1, ReplayState::Paused));
    let refused = cluster.node(0).replay.replay_now(Some("node-2")).unwrap_err();
    assert!(refused.to_string().contains("paused"), "{refused}");
    cluster.node(0).replay.replay_now(None).unwrap();
    cluster.settle();
    assert_eq!(cluster.hints(0, 2), 1, "those of all others are meant");
    cluster.node(0).replay.pause(None, false).unwrap();
    cluster.settle();
    assert_eq!(cluster.hints(0, 2), 0);
}

#[test]
fn a_pause_outlives_the_process_and_ends_for_one_node_without_ending_for_the_others() {
    let mut cluster = Cluster::new();
    cluster.kill(2);
    cluster.keep(0, 2, vec![value("a", 1)], false).unwrap();
    cluster.keep(0, 1, vec![value("b", 1)], false).unwrap();
    cluster.node(0).replay.pause(None, true).unwrap();
    cluster.revive(2);
    cluster.restart(0);
    assert_eq!(cluster.status(0, 2).replay.state, ReplayState::Paused, "before it was looked at too");
    cluster.pass_ms(60_000);
    assert_eq!((cluster.hints(0, 1), cluster.hints(0, 2)), (1, 1));
    assert_eq!(cluster.node(0).replay.status().paused, ["node-1", "node-2", "node-3"]);
    cluster.node(0).replay.pause(Some("node-2"), false).unwrap();
    cluster.pass_ms(60_000);
    assert_eq!((cluster.hints(0, 1), cluster.hints(0, 2)), (1, 0));
    cluster.restart(0);
    cluster.pass_ms(60_000);
    assert_eq!((cluster.hints(0, 1), cluster.node(0).replay.status().paused.len()), (1, 2));
    cluster.node(0).replay.pause(None, false).unwrap();
    cluster.settle();
    assert_eq!((cluster.hints(0, 1), cluster.node(0).replay.status().paused.len()), (0, 0));
}

#[test]
fn a_pause_that_cannot_be_kept_is_refused_and_changes_nothing() {
    let cluster = Cluster::new();
    cluster.keep(0, 2, vec![value("a", 1)], false).unwrap();
    let files = &cluster.node(0).files;
    files.set_capacity(Some(files.used_bytes()));
    assert!(cluster.node(0).replay.pause(Some("node-2"), true).is_err());
    assert!(cluster.node(0).replay.status().paused.is_empty());
    cluster.settle();
    assert_eq!(cluster.hints(0, 2), 0);
}

#[test]
fn a_target_that_does_not_answer_is_tried_again_ever_more_rarely_and_at_once_when_asked_to() {
    let cluster = Cluster::new();
    cluster.kill(2);
    cluster.keep(0, 2, vec![value("a", 1)], false).unwrap();
    // Believed alive, and not there.
    for node in [0, 1, 3] {
        cluster.node(node).view.revive(n(2));
        cluster.node(node).replay.on_alive(n(2), true);
    }
    (0..600).for_each(|_| cluster.pass_ms(1_000));
    let failures = cluster.counts(0).failures;
    assert!((10..60).contains(&failures), "{failures} in ten minutes");
    assert!(cluster.status(0, 2).last_error.is_some());
    cluster.revive(2);
    cluster.settle();
    assert_eq!(cluster.hints(0, 2), 0);
}
