//! Reads of single rows: the newest of a quorum, replicas that are behind brought up to date first, and no more than the
//! level asks for.

use cube_replication::consistency::Level;
use cube_replication::coordinator::RequestError;
use cube_replication::messages::{Request, RequestBody, Want};
use cube_storage::model::{Record, RowKey};
use cube_storage::{SyncState, UnsyncedCause};

use super::cluster::{BITS, Cluster, PLACEMENT, get};

const KEY: &str = "k";

fn key() -> RowKey {
    RowKey::of(KEY)
}

fn unsync(cluster: &Cluster, node: u16) {
    let partition = BITS.partition_of(key().token());
    let unsynced = SyncState::Unsynced(UnsyncedCause::DamagedData);
    cluster.node(node).store.set_sync(PLACEMENT, partition, unsynced).unwrap();
}

/// Replica 0 holds the newest, replica 1 an older one, replica 2 nothing.
fn torn() -> (Cluster, Record) {
    let cluster = Cluster::of("a0 a1 a2");
    let newest = Record::value(cluster.version(20), "newest");
    cluster.plant(0, key(), newest.clone());
    cluster.plant(1, key(), Record::value(cluster.version(10), "older"));
    (cluster, newest)
}

#[test]
fn a_quorum_read_brings_stale_and_absent_replicas_that_it_asked_up_to_date() {
    for by in [0, 1, 2] {
        let (cluster, newest) = torn();
        let row = cluster.get(by, KEY, Level::All).unwrap();
        assert_eq!(row.record.as_ref(), Some(&newest), "through {by}");
        for node in cluster.nodes.values() {
            assert_eq!(node.held(&key()).as_ref(), Some(&newest), "through {by}: {}", node.id);
        }
    }
}

#[test]
fn a_quorum_read_never_returns_what_a_later_one_may_miss() {
    // The newest is on one replica alone, as after a write that failed. Whoever sees it makes it stay.
    let (cluster, newest) = torn();
    assert_eq!(cluster.get(1, KEY, Level::Quorum).unwrap().record.as_ref(), Some(&newest));
    cluster.kill(0);
    assert_eq!(cluster.get(2, KEY, Level::Quorum).unwrap().record.as_ref(), Some(&newest));
}

#[test]
fn a_read_at_one_returns_what_it_finds_and_writes_nothing() {
    let (cluster, _) = torn();
    assert_eq!(cluster.get(1, KEY, Level::One).unwrap().value().unwrap(), "older");
    assert_eq!(cluster.get(2, KEY, Level::One).unwrap().record, None);
    assert_eq!(cluster.node(2).held(&key()), None);
}

#[test]
fn a_tombstone_wins_over_the_value_it_deleted_on_every_replica() {
    let (cluster, _) = torn();
    let tombstone = Record::tombstone(cluster.version(30));
    cluster.plant(2, key(), tombstone.clone());
    let row = cluster.get(0, KEY, Level::All).unwrap();
    assert_eq!((row.value(), row.record.as_ref()), (None, Some(&tombstone)));
    assert!(cluster.nodes.values().all(|node| node.held(&key()).as_ref() == Some(&tombstone)));
}

#[test]
fn a_row_that_was_never_written_is_absent_and_not_an_error() {
    let cluster = Cluster::of("a0 a1 a2");
    for level in Level::EVERY.into_iter().filter(|level| *level != Level::Any) {
        assert_eq!(cluster.get(0, KEY, level).unwrap().record, None, "{level}");
    }
}

#[test]
fn only_one_replica_is_asked_for_the_value() {
    let cluster = Cluster::of("a0 a1 a2 (a3)");
    cluster.put(3, KEY, "v", Level::All).unwrap();
    for node in [0, 1, 2] {
        cluster.node(node).gate.heard.lock().clear();
    }
    cluster.get(3, KEY, Level::Quorum).unwrap();
    let wanted = |request: &Request| match &request.body {
        RequestBody::Read(read) => read.want,
        other => panic!("{other:?}"),
    };
    let asked = |node: u16| -> Vec<Want> { cluster.node(node).gate.heard.lock().iter().map(wanted).collect() };
    assert_eq!([asked(0), asked(1), asked(2)], [vec![Want::Record], vec![Want::Header], vec![]]);
}

#[test]
fn a_replica_that_is_not_in_sync_is_not_counted_and_another_one_is_asked() {
    let cluster = Cluster::of("a0 a1 a2");
    cluster.put(0, KEY, "v", Level::All).unwrap();
    unsync(&cluster, 0);
    assert_eq!(cluster.get(0, KEY, Level::Quorum).unwrap().value().unwrap(), "v");
    let Err(RequestError::ReadIncomplete(left)) = cluster.get(0, KEY, Level::All).map(|_| ()) else { panic!() };
    assert!(left.to_string().contains("n0: its replica of the partition is not in sync"), "{left}");
    unsync(&cluster, 1);
    assert!(matches!(cluster.get(2, KEY, Level::Quorum), Err(RequestError::ReadIncomplete(_))));
    assert_eq!(cluster.get(2, KEY, Level::One).unwrap().value().unwrap(), "v");
}

#[test]
fn a_replica_that_is_not_in_sync_still_takes_writes() {
    let cluster = Cluster::of("a0 a1 a2");
    unsync(&cluster, 2);
    let written = cluster.put(0, KEY, "v", Level::All).unwrap();
    assert_eq!(written.acknowledged_by.len(), 3);
}

#[test]
fn many_rows_are_read_at_once_each_with_its_own_result_in_their_order() {
    let cluster = Cluster::of("a0 a1 a2");
    let keys: Vec<String> = (0..40).map(|number| format!("key-{number}")).collect();
    for (number, key) in keys.iter().enumerate().filter(|(number, _)| number % 3 != 0) {
        let stale = (number % 2) as u16;
        let record = |ms| Record::value(cluster.version(ms), number.to_string());
        for node in 0..3 {
            cluster.plant(node, RowKey::of(key.clone()), record(if node == stale { 5 } else { 10 }));
        }
    }
    let asked: Vec<&str> = keys.iter().map(String::as_str).collect();
    let results = cluster.read(0, get(&asked, Level::Quorum)).unwrap();
    assert_eq!(results.len(), 40);
    for (number, result) in results.into_iter().enumerate() {
        let row = result.unwrap();
        let expected = (number % 3 != 0).then(|| number.to_string());
        assert_eq!(row.value().cloned(), expected.map(Into::into), "row {number}");
        let version = row.record.map(|record| record.version);
        assert!(version.is_none_or(|version| version == cluster.version(10)), "row {number} is outdated");
    }
    let messages = cluster.node(1).gate.heard.lock();
    let reads = messages.iter().filter(|request| matches!(request.body, RequestBody::Read(_))).count();
    assert!(reads <= 2, "rows for one replica travel together: {reads} messages");
    let repairs = messages.len() - reads;
    assert!((1..=2).contains(&repairs), "and so do those that it lacks: {repairs} messages");
}

#[test]
fn the_same_row_asked_for_twice_is_told_twice() {
    let cluster = Cluster::of("a0 a1 a2");
    cluster.put(0, KEY, "v", Level::All).unwrap();
    let results = cluster.read(1, get(&[KEY, "other", KEY], Level::Quorum)).unwrap();
    let values: Vec<_> = results.into_iter().map(|row| row.unwrap().value().is_some()).collect();
    assert_eq!(values, [true, false, true]);
}

#[test]
fn two_values_of_one_client_timestamp_end_as_one_everywhere() {
    let cluster = Cluster::of("a0 a1 a2");
    for (node, text) in [(0, "b"), (1, "a"), (2, "c")] {
        cluster.plant(node, key(), Record::value(cluster.version(10), text));
    }
    assert_eq!(cluster.get(0, KEY, Level::All).unwrap().value().unwrap(), "c");
    assert!(cluster.values(KEY).values().all(|value| value.as_deref() == Some(b"c")));
}

#[test]
fn a_local_level_asks_and_repairs_inside_its_data_center() {
    let cluster = Cluster::of("a0 a1 a2 b3 b4 b5");
    let newest = Record::value(cluster.version(20), "newest");
    cluster.plant(1, key(), newest.clone());
    assert_eq!(cluster.get(0, KEY, Level::LocalQuorum).unwrap().record, Some(newest));
    for node in [3, 4, 5] {
        assert_eq!(cluster.node(node).gate.heard.lock().len(), 0, "n{node} is elsewhere");
    }
}

#[test]
fn a_replica_that_dies_while_it_is_brought_up_to_date_is_replaced() {
    let cluster = Cluster::of("a0 a1 a2 (a3)");
    let newest = Record::value(cluster.version(20), "newest");
    cluster.plant(0, key(), newest.clone());
    cluster.node(1).engine.fail_with(cube_storage::engine::EngineError::Io { detail: "a bad sector".into() });
    let row = cluster.get(3, KEY, Level::Quorum).unwrap();
    assert_eq!(row.record, Some(newest.clone()));
    assert_eq!(cluster.node(2).held(&key()), Some(newest), "the third holds it instead");
    assert_eq!(cluster.node(1).held(&key()), None);
}

#[test]
fn many_large_rows_that_a_replica_lacks_come_in_messages_it_can_take() {
    let cluster = Cluster::of("a0 a1 a2");
    let keys: Vec<String> = (0..5).map(|number| format!("key-{number}")).collect();
    for key in &keys {
        let record = Record::value(cluster.version(10), vec![b'x'; 3 << 20]);
        cluster.plant(0, RowKey::of(key.clone()), record);
    }
    let asked: Vec<&str> = keys.iter().map(String::as_str).collect();
    let rows = cluster.read(0, get(&asked, Level::Quorum)).unwrap();
    assert!(rows.iter().all(Result::is_ok), "{rows:?}");
    assert!(keys.iter().all(|key| cluster.node(1).held(&RowKey::of(key.clone())).is_some()));
    let heard = cluster.node(1).gate.heard.lock();
    let repairs = heard.iter().filter(|request| matches!(request.body, RequestBody::Write(_)));
    assert_eq!(repairs.count(), 5, "15 MiB in one message would be more than a page");
}
