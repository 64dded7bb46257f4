//! What is told when the time is over, and what happens of what comes later.

use cube_replication::consistency::Level;
use cube_replication::coordinator::{Failure, Incomplete, ReadRequest, RequestError, Terms, WriteRequest};
use cube_replication::transport::PeerError;
use cube_storage::model::RowKey;

use super::cluster::{Cluster, TIMEOUT_MS, Told, WriteResult, get, n, one, put};
use super::node::HintFate;

/// Later than any request's time.
const OVER_MS: u64 = TIMEOUT_MS as u64 + 50;

fn unknown(told: &Told<WriteResult>) -> Incomplete {
    match one(told.now().expect("it is told by its deadline")) {
        Err(RequestError::Unknown(incomplete)) => *incomplete,
        other => panic!("not unknown: {other:?}"),
    }
}

#[test]
fn a_write_that_is_not_answered_in_time_is_unknown_and_names_who_has_it() {
    let cluster = Cluster::of("a0 a1 a2");
    cluster.deafen(1);
    cluster.deafen(2);
    let told = cluster.begin_write(0, put("k", "v", Level::Quorum));
    cluster.pass_ms(u64::from(TIMEOUT_MS) - 50);
    assert!(told.now().is_none(), "its time is not over");
    cluster.pass_ms(100);
    let incomplete = unknown(&told);
    assert!(incomplete.timed_out && incomplete.write);
    assert_eq!((incomplete.acknowledged_by.as_slice(), incomplete.missing), (&[n(0)][..], 1));
    assert_eq!(cluster.node(0).coordinator.in_flight(), 0);
    // It did take effect where it arrived: that is why it is not called failed.
    assert!(cluster.node(0).held(&RowKey::of("k")).is_some());
    assert_eq!(cluster.node(0).hints.targets(), [], "nothing was acknowledged, so nothing is owed");
}

#[test]
fn a_write_is_not_unknown_earlier_than_it_must_be() {
    let cluster = Cluster::of("a0 a1 a2");
    // Both others refuse at once, so there is nothing to wait for.
    for node in [1, 2] {
        cluster.network.disconnect(n(node));
    }
    let told = cluster.begin_write(0, put("k", "v", Level::Quorum));
    cluster.settle();
    let incomplete = unknown(&told);
    assert!(!incomplete.timed_out);
    let unreachable = |node| (n(node), Failure::Peer(PeerError::Unreachable { peer: n(node) }));
    assert_eq!(incomplete.failures, [unreachable(1), unreachable(2)]);
}

#[test]
fn a_replica_that_stays_silent_after_success_is_noted_when_the_time_is_over() {
    let cluster = Cluster::of("a0 a1 a2");
    cluster.deafen(2);
    cluster.put(0, "k", "v", Level::Quorum).unwrap();
    assert_eq!(cluster.node(0).hints.targets(), []);
    cluster.pass_ms(OVER_MS);
    assert_eq!(cluster.node(0).hints.targets(), [n(2)]);
    cluster.pass_ms(OVER_MS);
    assert_eq!(cluster.node(0).hints.targets(), [n(2)], "once");
}

#[test]
fn a_replica_that_answers_late_but_in_time_is_not_noted() {
    let cluster = Cluster::of("a0 a1 a2");
    let told = cluster.begin_write(0, put("k", "v", Level::One));
    // Only the coordinator's own store has committed; messages are under way.
    cluster.node(0).store.run_pending();
    assert!(one(told.now().unwrap()).is_ok());
    cluster.settle();
    cluster.pass_ms(OVER_MS);
    assert_eq!(cluster.node(0).hints.targets(), []);
    assert!(cluster.values("k").values().all(Option::is_some));
}

#[test]
fn a_client_is_not_told_before_the_hint_for_a_dead_replica_is_durable() {
    let cluster = Cluster::of("a0 a1 a2");
    cluster.kill(2);
    *cluster.node(0).hints.fate.lock() = HintFate::Slow;
    let told = cluster.begin_write(0, put("k", "v", Level::Quorum));
    cluster.settle();
    assert!(told.now().is_none(), "both replicas have it, the hint is not durable");
    cluster.node(0).hints.sync();
    assert_eq!(one(told.now().unwrap()).unwrap().acknowledged_by, [n(0), n(1)]);
    // And where it never is, the write is unknown.
    let told = cluster.begin_write(0, put("k", "w", Level::Quorum));
    cluster.pass_ms(OVER_MS);
    assert_eq!(unknown(&told).acknowledged_by, [n(0), n(1)]);
}

#[test]
fn a_request_may_bring_its_own_time() {
    let cluster = Cluster::of("a0 a1 a2");
    cluster.deafen(1);
    cluster.deafen(2);
    let terms = Terms { timeout_ms: Some(100), ..Terms::at(Level::All) };
    let told = cluster.begin_write(0, WriteRequest { terms, ..put("k", "v", Level::All) });
    cluster.pass_ms(150);
    assert!(unknown(&told).timed_out);
    let heard = cluster.node(1).gate.heard.lock();
    assert!((1..=100).contains(&heard[0].time_left_ms), "the deadline travels with the request");
}

#[test]
fn work_past_its_deadline_is_not_done() {
    let cluster = Cluster::of("a0 a1 a2");
    let terms = Terms { timeout_ms: Some(0), ..Terms::at(Level::One) };
    let told = cluster.begin_write(0, WriteRequest { terms, ..put("k", "v", Level::One) });
    cluster.settle();
    assert!(one(told.now().unwrap()).is_err());
    assert!(cluster.values("k").values().all(Option::is_none));
}

#[test]
fn a_read_that_is_not_answered_in_time_says_how_far_it_came() {
    let cluster = Cluster::of("a0 a1 a2");
    cluster.deafen(1);
    cluster.deafen(2);
    let told = cluster.begin_read(0, get(&["k"], Level::Quorum));
    cluster.pass_ms(OVER_MS);
    let Err(RequestError::ReadIncomplete(left)) = one(told.now().unwrap()) else { panic!("it was read") };
    assert!(left.timed_out && !left.write);
    assert_eq!((left.acknowledged_by.as_slice(), left.missing), (&[n(0)][..], 1));
    assert_eq!(cluster.node(0).coordinator.in_flight(), 0);
}

#[test]
fn rows_that_were_read_are_told_with_those_that_were_not_in_time() {
    let cluster = Cluster::of("a0 a1 a2");
    cluster.put(0, "k", "v", Level::All).unwrap();
    // One of two replicas hears the read and says nothing; it is the record of neither row.
    cluster.deafen(1);
    let told = cluster.begin_read(0, get(&["k", "absent"], Level::Quorum));
    cluster.pass_ms(OVER_MS);
    let rows = told.now().unwrap().unwrap();
    assert!(rows.iter().all(|row| matches!(row, Err(RequestError::ReadIncomplete(_)))), "{rows:?}");
}

#[test]
fn a_write_that_failed_everywhere_leaves_no_operation_behind() {
    let cluster = Cluster::of("a0 a1 a2");
    for round in 0..5 {
        for node in [1, 2] {
            cluster.deafen(node);
        }
        let told = cluster.begin_write(0, put(&format!("k{round}"), "v", Level::All));
        cluster.pass_ms(OVER_MS);
        unknown(&told);
    }
    assert_eq!(cluster.network.pending(), 0);
    assert_eq!(cluster.node(0).coordinator.in_flight(), 0);
}

#[test]
fn a_request_that_is_done_leaves_nothing_behind_however_late_its_deadline() {
    let cluster = Cluster::of("a0 a1 a2");
    let coordinator = &cluster.node(0).coordinator;
    let holders = std::sync::Arc::strong_count(coordinator);
    let terms = || Terms { timeout_ms: Some(3_600_000), ..Terms::at(Level::Quorum) };
    for round in 0..50 {
        let key = format!("k{round}");
        one(cluster.write(0, WriteRequest { terms: terms(), ..put(&key, "v", Level::Quorum) })).unwrap();
        let read = ReadRequest { terms: terms(), ..get(&[&key], Level::Quorum) };
        one(cluster.read(0, read)).unwrap();
    }
    assert_eq!(coordinator.under_way(), 0, "no operation is waited for");
    assert_eq!(std::sync::Arc::strong_count(coordinator), holders, "and none holds the coordinator");
}

#[test]
fn a_write_that_waits_in_a_replicas_store_past_its_deadline_is_not_done() {
    let cluster = Cluster::of("a0 a1 a2");
    let told = cluster.begin_write(0, put("k", "v", Level::Quorum));
    while cluster.network.deliver() > 0 {}
    assert!(cluster.nodes.values().all(|node| node.store.queue_depth().1 == 1), "it waits for a commit everywhere");
    cluster.stall_ms(OVER_MS);
    cluster.pass_ms(0);
    let incomplete = unknown(&told);
    assert!(incomplete.acknowledged_by.is_empty(), "{incomplete:?}");
    assert!(cluster.values("k").values().all(Option::is_none), "nobody wrote what nobody waits for");
}
