//! Clocks that differ: no update is lost, a client's timestamp is kept or refused, and time does not run away.

use cube_replication::consistency::Level;
use cube_replication::coordinator::{Failure, RequestError, WriteRequest};
use cube_replication::messages::Refusal;
use cube_storage::clock::ClockError;
use cube_storage::model::{Hlc, NodeId, Record, RowKey, Version};
use cube_storage::{Store, SyncState, UnsyncedCause};

use super::cluster::{BITS, Cluster, PLACEMENT, START_MS, TABLE_ID, n, one, put};
use super::node::MAX_DRIFT_MS;

fn stamped(ms: u64) -> WriteRequest {
    WriteRequest { timestamp: Some(Hlc::new(START_MS + ms, 0)), ..put("k", "client", Level::Quorum) }
}

#[test]
fn a_write_through_a_slow_clock_wins_over_one_through_a_fast_clock_before_it() {
    for level in [Level::Quorum, Level::All, Level::EachQuorum] {
        let cluster = Cluster::of("a0 a1 a2");
        cluster.node(0).machine.skew_ms(300_000);
        cluster.node(2).machine.skew_ms(-300_000);
        let first = cluster.put(0, "k", "first", level).unwrap();
        let second = cluster.put(2, "k", "second", level).unwrap();
        assert!(second.version > first.version, "{level}");
        assert_eq!(second.superseded_by, None);
        assert_eq!(cluster.get(1, "k", level).unwrap().value().unwrap(), "second", "{level}");
    }
}

/// The only replica that could say *superseded* has lost what it acknowledged, and knows that.
#[test]
fn a_write_through_a_slow_clock_wins_over_one_that_its_replica_acknowledged_and_lost() {
    for restarts in [false, true] {
        let mut cluster = Cluster::of("a0 a1 a2");
        cluster.node(2).machine.skew_ms(300_000);
        cluster.kill(1);
        let first = cluster.put(2, "k", "first", Level::Quorum).unwrap();
        assert_eq!(first.acknowledged_by, [n(0), n(2)]);
        lose(&cluster.node(0).store, &RowKey::of("k"));
        cluster.kill(2);
        cluster.revive(1);
        if restarts {
            // Its clock does not remember how far it was pulled along.
            cluster.restart(0);
        }
        let second = cluster.put(1, "k", "second", Level::Quorum).unwrap();
        assert_eq!(second.acknowledged_by, [n(0), n(1)], "it takes writes on");
        assert!(second.version > first.version, "{} after {}", second.version, first.version);
        assert_eq!(second.superseded_by, None, "nobody holds anything newer");
    }
}

fn lose(store: &Store, key: &RowKey) {
    let partition = BITS.partition_of(key.token());
    store.set_sync(PLACEMENT, partition, SyncState::Unsynced(UnsyncedCause::DamagedData)).unwrap();
    while store.clear_step(TABLE_ID, partition, 100).unwrap().next.is_some() {}
    assert_eq!(store.get(TABLE_ID, key).unwrap(), None);
}

#[test]
fn a_whole_batch_is_stamped_again_when_one_of_its_rows_is_superseded() {
    let cluster = Cluster::of("a0 a1 a2");
    cluster.plant(1, RowKey::with_sort("p", "2"), Record::value(cluster.version(60_000), "newer"));
    let rows = (1..=3).map(|sort| (RowKey::with_sort("p", sort.to_string()), super::cluster::value("v"))).collect();
    let written = one(cluster.write(0, super::cluster::write(rows, Level::All))).unwrap();
    assert!(written.version > cluster.version(60_000));
    for node in cluster.nodes.values() {
        for sort in 1..=3 {
            let held = node.held(&RowKey::with_sort("p", sort.to_string())).unwrap();
            assert_eq!(held.version, written.version, "{}: row {sort}", node.id);
        }
    }
}

#[test]
fn a_clients_timestamp_is_kept_and_loses_to_what_is_newer() {
    let cluster = Cluster::of("a0 a1 a2");
    cluster.pass_ms(10);
    let newer = cluster.put(0, "k", "newer", Level::All).unwrap();
    let written = one(cluster.write(1, stamped(0))).unwrap();
    assert_eq!(written.version, Version::new(Hlc::new(START_MS, 0), NodeId::CLIENT));
    assert_eq!(written.superseded_by, Some(newer.version), "the client is told that it will not be read");
    assert_eq!(cluster.get(2, "k", Level::All).unwrap().value().unwrap(), "newer");
}

#[test]
fn a_write_with_a_clients_timestamp_is_the_same_version_through_every_node() {
    let cluster = Cluster::of("a0 a1 a2");
    cluster.pass_ms(10);
    let first = one(cluster.write(0, stamped(5))).unwrap();
    let again = one(cluster.write(2, stamped(5))).unwrap();
    assert_eq!((again.version, again.superseded_by), (first.version, None));
    let newer = cluster.put(1, "k", "newer", Level::Quorum).unwrap();
    let late = one(cluster.write(2, stamped(5))).unwrap();
    assert_eq!((late.version, late.superseded_by), (first.version, Some(newer.version)));
    assert_eq!(cluster.get(0, "k", Level::Quorum).unwrap().value().unwrap(), "newer");
}

#[test]
fn a_clients_timestamp_is_refused_past_the_drift_bound_and_taken_up_to_it() {
    let cluster = Cluster::of("a0 a1 a2");
    let refused = cluster.write(0, stamped(MAX_DRIFT_MS + 1)).unwrap_err();
    let drift = ClockError::Drift { ahead_ms: MAX_DRIFT_MS + 1, max_drift_ms: MAX_DRIFT_MS };
    assert_eq!(refused, RequestError::Clock(drift));
    assert!(cluster.values("k").values().all(Option::is_none));
    let written = one(cluster.write(0, stamped(MAX_DRIFT_MS))).unwrap();
    assert_eq!(written.version.hlc, Hlc::new(START_MS + MAX_DRIFT_MS, 0));
}

#[test]
fn a_stamp_that_is_out_of_bound_for_a_replica_is_refused_there_and_hinted() {
    let cluster = Cluster::of("a0 a1 a2");
    cluster.node(2).machine.skew_ms(-1_000_000);
    let written = cluster.put(0, "k", "v", Level::Quorum).unwrap();
    assert_eq!(written.acknowledged_by, [n(0), n(1)]);
    assert_eq!(cluster.node(0).hints.targets(), [n(2)]);
    let error = cluster.put(0, "k", "v", Level::All).unwrap_err();
    let RequestError::Unknown(incomplete) = &error else { panic!("{error}") };
    let refusals: Vec<NodeId> = incomplete.failures.iter().map(|(node, _)| *node).collect();
    assert_eq!(refusals, [n(2)]);
    assert!(matches!(incomplete.failures[0].1, Failure::Refused(Refusal::Drift { .. })), "{error}");
}

#[test]
fn a_write_that_succeeds_a_version_out_of_bound_is_not_refused_for_it() {
    let cluster = Cluster::of("a0 a1 a2");
    // Somehow a row got a version of next year.
    let far = cluster.version(365 * 24 * 3_600_000);
    for node in 0..3 {
        cluster.plant(node, RowKey::of("k"), Record::value(far, "far"));
    }
    let written = cluster.put(0, "k", "v", Level::Quorum).unwrap();
    assert!(written.version > far);
    assert_eq!(cluster.get(1, "k", Level::All).unwrap().value().unwrap(), "v");
    let other = cluster.put(0, "other", "v", Level::Quorum).unwrap();
    assert!(other.version.hlc.millis() < START_MS + 1_000, "the clocks stay where they were");
}

#[test]
fn a_write_succeeds_the_version_that_its_client_saw_even_where_no_replica_tells_of_it() {
    let cluster = Cluster::of("a0 a1 a2");
    let seen = cluster.version(60_000);
    let written = one(cluster.write(0, WriteRequest { seen: Some(seen), ..put("k", "v", Level::One) })).unwrap();
    assert!(written.version > seen);
}

#[test]
fn a_client_cannot_stamp_as_it_likes_by_pretending_to_have_seen_it() {
    let cluster = Cluster::of("a0 a1 a2");
    let pretended = cluster.version(365 * 24 * 3_600_000);
    let request = WriteRequest { seen: Some(pretended), ..put("k", "v", Level::Quorum) };
    let written = one(cluster.write(0, request)).unwrap();
    assert!(written.version.hlc.millis() < START_MS + 1_000, "{}", written.version);
}

#[test]
fn nodes_move_past_the_clocks_of_those_they_hear_from() {
    let cluster = Cluster::of("a0 a1 a2");
    cluster.node(0).machine.skew_ms(120_000);
    cluster.put(0, "k", "v", Level::All).unwrap();
    let written = cluster.put(1, "other", "v", Level::Quorum).unwrap();
    assert!(written.version.hlc.millis() >= START_MS + 120_000);
}

#[test]
fn a_clock_that_is_out_of_bound_ends_nobodys_rows() {
    let cluster = Cluster::of("a0 a1 a2");
    let change = cube_replication::coordinator::Change::Put { value: "v".into(), ttl_ms: Some(3_600_000) };
    let rows = vec![(RowKey::of("k"), change)];
    one(cluster.write(0, super::cluster::write(rows, Level::All))).unwrap();
    cluster.node(2).machine.skew_ms(365 * 24 * 3_600_000);
    assert_eq!(cluster.get(0, "k", Level::All).unwrap().value().unwrap(), "v");
}

#[test]
fn no_version_is_given_twice_through_one_coordinator() {
    let cluster = Cluster::of("a0 a1 a2");
    let mut versions: Vec<Version> =
        (0..100).map(|number| cluster.put(0, &format!("k{number}"), "v", Level::One).unwrap().version).collect();
    let all = versions.len();
    versions.dedup();
    assert_eq!(versions.len(), all);
    assert!(versions.is_sorted());
}

#[test]
fn a_late_answer_to_the_first_stamp_does_not_count_for_the_second() {
    let cluster = Cluster::of("a0 a1 a2");
    for node in [0, 1] {
        cluster.plant(node, RowKey::of("k"), Record::value(cluster.version(60_000), "newer"));
    }
    // Replica 1 answers once, replica 2 only when it is told to.
    *cluster.node(1).gate.lets_through.lock() = 1;
    cluster.deafen(2);
    let told = cluster.begin_write(0, put("k", "v", Level::Quorum));
    cluster.settle();
    assert_eq!(cluster.node(2).gate.heard.lock().len(), 2, "it was stamped again and sent once more");
    cluster.node(2).gate.release();
    cluster.settle();
    let first = cluster.node(2).held(&RowKey::of("k")).unwrap().version;
    assert!(first < cluster.version(60_000), "it holds the first stamp, which nobody will read");
    assert!(told.now().is_none(), "and that is no acknowledgement of the second");
    cluster.node(2).gate.release();
    cluster.settle();
    assert_eq!(one(told.now().unwrap()).unwrap().acknowledged_by, [n(0), n(2)]);
}
