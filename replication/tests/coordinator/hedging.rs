//! Reads that get past a replica that stands still, at the time the table says, and never count anybody twice.

use cube_replication::catalog::Hedge;
use cube_replication::consistency::Level;
use cube_replication::coordinator::{RangeRequest, ReadFigures, Terms};
use cube_replication::messages::{Request, RequestBody};
use cube_storage::model::{Record, RowKey};
use cube_storage::{SyncState, UnsyncedCause};

use super::cluster::{BITS, Cluster, PLACEMENT, TABLE_ID, TIMEOUT_MS, get, one, table};

const KEY: &str = "k";

fn figures(cluster: &Cluster, node: u16) -> ReadFigures {
    cluster.node(node).coordinator.read_figures().remove(&TABLE_ID).unwrap_or_default()
}

/// Node 3 only coordinates. All hold the row.
fn cluster(hedge: Hedge) -> Cluster {
    let cluster = Cluster::of_table("a0 a1 a2 (a3)", 0, hedge);
    for node in 0..3 {
        cluster.plant(node, RowKey::of(KEY), Record::value(cluster.version(10), "v"));
    }
    cluster
}

fn reads_heard(cluster: &Cluster, node: u16) -> usize {
    let is_read = |request: &&Request| matches!(request.body, RequestBody::Read(_));
    cluster.node(node).gate.heard.lock().iter().filter(is_read).count()
}

#[test]
fn a_quorum_read_goes_on_without_a_replica_that_stands_still() {
    for paused in [0, 1] {
        let cluster = cluster(Hedge::After { ms: 10 });
        cluster.deafen(paused);
        let told = cluster.begin_read(3, get(&[KEY], Level::Quorum));
        cluster.pass_ms(9);
        assert!(told.now().is_none(), "its time is not over");
        assert_eq!(reads_heard(&cluster, 2), 0);
        cluster.pass_ms(1);
        let row = one(told.now().expect("another one answered")).unwrap();
        assert_eq!(row.value().unwrap(), "v");
        let figures = figures(&cluster, 3);
        assert_eq!((figures.hedges_sent, figures.hedges_helped), (1, 1), "replica {paused} is paused: {figures:?}");
    }
}

#[test]
fn a_read_at_one_gets_its_record_from_another_replica() {
    let cluster = cluster(Hedge::After { ms: 10 });
    cluster.deafen(0);
    let told = cluster.begin_read(3, get(&[KEY], Level::One));
    cluster.pass_ms(10);
    assert_eq!(one(told.now().expect("another one answered")).unwrap().value().unwrap(), "v");
}

#[test]
fn without_hedging_a_read_waits_for_whom_it_asked() {
    let cluster = cluster(Hedge::Off);
    cluster.deafen(0);
    let told = cluster.begin_read(3, get(&[KEY], Level::Quorum));
    cluster.pass_ms(u64::from(TIMEOUT_MS) - 1);
    assert!(told.now().is_none());
    assert_eq!(figures(&cluster, 3).hedges_sent, 0);
}

#[test]
fn patience_is_learnt_from_recent_answers() {
    let cluster = cluster(Hedge::P99);
    for _ in 0..200 {
        cluster.get(3, KEY, Level::All).unwrap();
    }
    cluster.deafen(0);
    let told = cluster.begin_read(3, get(&[KEY], Level::Quorum));
    // Answers took no time that the clock shows: two milliseconds are far past the usual.
    cluster.pass_ms(2);
    assert!(one(told.now().expect("another one answered")).is_ok());
}

#[test]
fn a_replica_that_stood_still_is_asked_last_afterwards_and_tried_again_later() {
    let cluster = cluster(Hedge::After { ms: 10 });
    cluster.deafen(0);
    let told = cluster.begin_read(3, get(&[KEY], Level::Quorum));
    cluster.pass_ms(10);
    assert!(told.now().is_some());
    for _ in 0..20 {
        assert!(cluster.get(3, KEY, Level::Quorum).is_ok(), "no read after it waits");
    }
    assert_eq!(reads_heard(&cluster, 0), 1);
    cluster.pass_ms(20_000);
    let told = cluster.begin_read(3, get(&[KEY], Level::Quorum));
    cluster.pass_ms(10);
    assert!(told.now().is_some());
    assert_eq!(reads_heard(&cluster, 0), 2);
}

/// The slow answer and the hedge's are two replicas; the slow one twice would be one.
#[test]
fn an_answer_that_comes_late_counts_once() {
    let cluster = cluster(Hedge::After { ms: 10 });
    cluster.deafen(0);
    cluster.deafen(1);
    let told = cluster.begin_read(3, get(&[KEY], Level::Quorum));
    cluster.pass_ms(10);
    assert!(told.now().is_none(), "one answer is no quorum");
    cluster.node(0).gate.release();
    cluster.settle();
    assert!(one(told.now().expect("two of them have told")).is_ok());
}

#[test]
fn a_read_at_all_has_nobody_else_to_ask_and_waits() {
    let cluster = cluster(Hedge::After { ms: 10 });
    cluster.deafen(1);
    let told = cluster.begin_read(3, get(&[KEY], Level::All));
    cluster.pass_ms(100);
    assert!(told.now().is_none());
    cluster.node(1).gate.release();
    cluster.settle();
    assert!(one(told.now().expect("it answered at last")).is_ok());
    assert_eq!(figures(&cluster, 3).hedges_sent, 0);
}

#[test]
fn a_local_level_asks_nobody_outside_its_data_center() {
    let cluster = Cluster::of_table("a0 a1 b2 b3", 0, Hedge::After { ms: 10 });
    cluster.deafen(1);
    let told = cluster.begin_read(0, get(&[KEY], Level::LocalQuorum));
    cluster.pass_ms(100);
    assert!(told.now().is_none());
    assert_eq!((reads_heard(&cluster, 2), reads_heard(&cluster, 3)), (0, 0));
}

#[test]
fn a_replica_that_is_not_in_sync_is_asked_last() {
    let cluster = cluster(Hedge::P99);
    let partition = BITS.partition_of(RowKey::of(KEY).token());
    let unsynced = SyncState::Unsynced(UnsyncedCause::DamagedData);
    cluster.node(0).store.set_sync(PLACEMENT, partition, unsynced).unwrap();
    for _ in 0..5 {
        cluster.get(3, KEY, Level::Quorum).unwrap();
    }
    assert_eq!(reads_heard(&cluster, 0), 1, "it said so once");
    // Its own copy is no exception.
    cluster.get(0, KEY, Level::Quorum).unwrap();
    assert_eq!((reads_heard(&cluster, 1), reads_heard(&cluster, 2)), (7, 6), "once for the record that 0 did not tell");
}

#[test]
fn many_rows_that_wait_for_one_replica_are_asked_of_others_together() {
    let cluster = cluster(Hedge::After { ms: 10 });
    let keys: Vec<String> = (0..100).map(|number| format!("key-{number}")).collect();
    let asked: Vec<&str> = keys.iter().map(String::as_str).collect();
    cluster.deafen(0);
    let told = cluster.begin_read(3, get(&asked, Level::Quorum));
    cluster.pass_ms(10);
    let rows = told.now().expect("the others answered").unwrap();
    assert!(rows.iter().all(Result::is_ok));
    assert_eq!(reads_heard(&cluster, 2), 1);
    assert_eq!(figures(&cluster, 3).hedges_helped, 100);
}

#[test]
fn a_page_of_a_range_goes_on_without_a_replica_that_stands_still() {
    let cluster = cluster(Hedge::After { ms: 10 });
    cluster.deafen(1);
    let range = RangeRequest {
        table: table(),
        partition: KEY.into(),
        from: std::ops::Bound::Unbounded,
        to: std::ops::Bound::Unbounded,
        backward: false,
        rows_max: 10,
        terms: Terms::at(Level::Quorum),
    };
    let told = cluster.begin_range(3, range);
    cluster.pass_ms(9);
    assert!(told.now().is_none());
    cluster.pass_ms(1);
    assert_eq!(told.now().expect("another one answered").unwrap().rows.len(), 1);
    assert_eq!(figures(&cluster, 3).hedges_sent, 1);
}
