//! What reads do about replicas that are behind and that the level did not need: by chance all are asked, and the rest is
//! brought up to date in the background.

use cube_replication::catalog::Hedge;
use cube_replication::consistency::Level;
use cube_replication::coordinator::ReadFigures;
use cube_replication::messages::{RequestBody, WriteRows};
use cube_storage::model::{Expiry, Hlc, Origin, Record, RowKey};

use super::cluster::{BITS, Cluster, START_MS, TABLE_ID};

const KEY: &str = "alice";

fn key() -> RowKey {
    RowKey::of(KEY)
}

/// Nodes 0 and 1 hold version 2, node 2 version 1.
fn founding(percent: u8) -> (Cluster, Record) {
    let cluster = Cluster::of_table("a0 a1 a2", percent, Hedge::Off);
    let newest = Record::value(cluster.version(20), "v2");
    for node in [0, 1] {
        cluster.plant(node, key(), newest.clone());
    }
    cluster.plant(2, key(), Record::value(cluster.version(10), "v1"));
    (cluster, newest)
}

fn figures(cluster: &Cluster, node: u16) -> ReadFigures {
    cluster.node(node).coordinator.read_figures().remove(&TABLE_ID).unwrap_or_default()
}

fn repaired(figures: &ReadFigures) -> u64 {
    figures.blocking_repairs.repaired + figures.chance_repairs.repaired
}

#[test]
fn a_quorum_read_that_includes_the_stale_replica_leaves_the_newest_there_and_counts_one_repair() {
    let (cluster, newest) = founding(0);
    assert_eq!(cluster.get(2, KEY, Level::Quorum).unwrap().record, Some(newest.clone()));
    assert_eq!(cluster.node(2).held(&key()), Some(newest));
    let figures = figures(&cluster, 2);
    assert_eq!((repaired(&figures), figures.digest_mismatches, figures.stale_reads), (1, 1, 1), "{figures:?}");
}

#[test]
fn a_read_at_one_with_a_chance_of_all_leaves_the_newest_there_and_counts_one_repair() {
    let (cluster, newest) = founding(100);
    assert_eq!(cluster.get(0, KEY, Level::One).unwrap().record, Some(newest.clone()));
    assert_eq!(cluster.node(2).held(&key()), Some(newest));
    let figures = figures(&cluster, 0);
    assert_eq!((repaired(&figures), figures.chance_reads, figures.stale_reads), (1, 1, 1), "{figures:?}");
    assert_eq!(figures.chance_repairs.repaired, 1);
}

#[test]
fn a_read_at_one_that_returned_the_older_record_has_all_replicas_hold_the_newer_one() {
    let (cluster, newest) = founding(100);
    assert_eq!(cluster.get(2, KEY, Level::One).unwrap().value().unwrap(), "v1");
    assert!(
        cluster.nodes.values().all(|node| node.held(&key()).as_ref() == Some(&newest)),
        "{:?}",
        cluster.values(KEY)
    );
    cluster.get(2, KEY, Level::All).unwrap();
    assert_eq!(repaired(&figures(&cluster, 2)), 1, "nothing was left to repair");
}

#[test]
fn a_replica_that_holds_nothing_of_the_row_is_repaired_too_and_so_are_tombstones() {
    let (cluster, _) = founding(100);
    let tombstone = Record::tombstone(cluster.version(30));
    cluster.plant(0, key(), tombstone.clone());
    cluster.get(0, KEY, Level::One).unwrap();
    assert!(cluster.nodes.values().all(|node| node.held(&key()).as_ref() == Some(&tombstone)));

    let absent = RowKey::of("bob");
    let record = Record::value(cluster.version(5), "b");
    cluster.plant(1, absent.clone(), record.clone());
    cluster.get(0, "bob", Level::Quorum).unwrap();
    assert!(cluster.nodes.values().all(|node| node.held(&absent).as_ref() == Some(&record)));
}

#[test]
fn an_ended_row_does_not_come_back_on_any_replica() {
    let cluster = Cluster::of_table("a0 a1 a2", 100, Hedge::Off);
    let mut ended = Record::value(cluster.version(10), "gone");
    if let cube_storage::model::Body::Value { expiry, .. } = &mut ended.body {
        *expiry = Some(Expiry(START_MS + 50));
    }
    cluster.plant(1, key(), ended);
    cluster.pass_ms(100);
    for level in [Level::One, Level::Quorum, Level::All] {
        assert_eq!(cluster.get(0, KEY, level).unwrap().value(), None, "{level}");
    }
    assert!(cluster.values(KEY).values().all(Option::is_none), "{:?}", cluster.values(KEY));
}

/// Node 0 purged the deletion, up to its floor. Node 1 slept through that and holds the value that was deleted.
#[test]
fn a_row_that_was_purged_is_not_brought_back_by_a_replica_with_a_lower_floor() {
    let cluster = Cluster::of_table("a0 a1 a2", 100, Hedge::Off);
    cluster.plant(1, key(), Record::value(cluster.version(10), "zombie"));
    let partition = BITS.partition_of(key().token());
    let floor = Hlc::new(START_MS + 50, 0);
    for node in [0, 2] {
        let store = &cluster.node(node).store;
        store.begin_proof(TABLE_ID, partition).unwrap();
        assert!(store.end_proof(TABLE_ID, partition, floor).unwrap());
        store.raise_floor(TABLE_ID, partition, floor).unwrap();
    }
    cluster.get(0, KEY, Level::One).unwrap();
    assert_eq!(cluster.node(0).held(&key()), None);
    assert_eq!(cluster.node(2).held(&key()), None);
    assert_eq!(figures(&cluster, 0).chance_repairs.failed, 2);
    let heard = cluster.node(2).gate.heard.lock();
    let floors = heard.iter().filter_map(|request| match &request.body {
        RequestBody::Write(WriteRows { origin: Origin::Replica { floor }, .. }) => Some(*floor),
        _ => None,
    });
    assert_eq!(floors.collect::<Vec<_>>(), [Hlc::default()], "it is brought with the floor of who held it");
}

#[test]
fn a_read_at_one_of_a_local_level_repairs_nobody_outside_its_data_center() {
    let cluster = Cluster::of_table("a0 a1 b2 b3", 100, Hedge::Off);
    let newest = Record::value(cluster.version(20), "v2");
    cluster.plant(0, key(), newest.clone());
    cluster.get(0, KEY, Level::LocalOne).unwrap();
    assert_eq!(cluster.node(1).held(&key()), Some(newest.clone()));
    assert_eq!((cluster.node(2).held(&key()), cluster.node(3).held(&key())), (None, None));
    cluster.get(0, KEY, Level::One).unwrap();
    assert!(cluster.nodes.values().all(|node| node.held(&key()).as_ref() == Some(&newest)));
}

#[test]
fn the_chance_is_honest() {
    for (percent, reads, expected) in [(0, 1_000, 0..=0), (10, 10_000, 800..=1_200), (100, 1_000, 1_000..=1_000)] {
        let cluster = Cluster::of_table("a0 a1 a2", percent, Hedge::Off);
        for number in 0..reads {
            let key = RowKey::of(format!("row-{number}"));
            cluster.plant(0, key, Record::value(cluster.version(20), "v2"));
        }
        for number in 0..reads {
            cluster.get(0, &format!("row-{number}"), Level::One).unwrap();
        }
        let figures = figures(&cluster, 0);
        assert!(expected.contains(&figures.chance_reads), "{percent} %: {figures:?}");
        assert_eq!(figures.chance_repairs.repaired, 2 * figures.chance_reads, "each had two replicas behind");
        assert_eq!(figures.chance_repairs.skipped, 0);
    }
}

#[test]
fn nobody_waits_for_a_background_repair_and_one_that_cannot_be_done_is_counted() {
    let (cluster, newest) = founding(100);
    cluster.deafen(2);
    let told = cluster.begin_read(0, super::cluster::get(&[KEY], Level::Quorum));
    cluster.settle();
    let row = super::cluster::one(told.now().expect("the level is met without it")).unwrap();
    assert_eq!(row.record, Some(newest));
    cluster.pass_ms(u64::from(super::cluster::TIMEOUT_MS) + 1);
    assert_eq!(cluster.node(0).coordinator.under_way(), 0);
    assert_eq!(repaired(&figures(&cluster, 0)), 0, "it told nothing, so nothing is known of it");
}

#[test]
fn an_answer_at_all_over_replicas_that_differ_is_the_newest_and_leaves_them_equal() {
    let (cluster, newest) = founding(10);
    assert_eq!(cluster.get(1, KEY, Level::All).unwrap().record, Some(newest.clone()));
    assert!(cluster.nodes.values().all(|node| node.held(&key()).as_ref() == Some(&newest)));
    assert_eq!(figures(&cluster, 1).blocking_repairs.repaired, 1);
}
