//! What the workers do when nobody does anything.

use std::collections::{BTreeSet, VecDeque};

use cube_replication::anti_entropy::Settings;
use cube_replication::anti_entropy::answer::Attendant as _;
use cube_storage::dirty::Cause;
use cube_storage::merkle::LeafId;
use cube_storage::model::{Expiry, NodeId, PartitionBits, PartitionId, Record, RowKey};

use super::cluster::{Cluster, GRACE_MS, HORIZON_MS, ROUND_MS, settings};
use super::pair::TABLE;

fn scattered(cluster: &Cluster) {
    for n in 0..300u16 {
        let record = Record::value(cluster.now(), format!("value {n}"));
        cluster.plant(&[n % 3], &format!("key {n}"), record.clone());
        cluster.plant(&[(n / 3) % 3], &format!("key {n}"), record);
    }
}

#[test]
fn replicas_become_equal_by_themselves_and_the_in_sync_time_tells_it() {
    let mut cluster = Cluster::of(3, settings());
    scattered(&cluster);
    assert!(!cluster.all_hold_the_same());
    cluster.pass_ms(HORIZON_MS + 8_000);
    assert!(cluster.all_hold_the_same());
    for node in 0..3 {
        assert!(cluster.age_ms(node) <= HORIZON_MS + 2_500, "node {node}: {} ms", cluster.age_ms(node));
        let state = cluster.nodes[usize::from(node)].store.range_state(TABLE, PartitionId(1));
        assert!(state.synced_through > cluster.nodes[0].shared.in_sync().unwrap().min(state.floor));
    }
    let listed: u64 = cluster.nodes.iter().map(|node| node.shared.status().tally.listed).sum();
    cluster.pass_ms(10_000);
    let later: u64 = cluster.nodes.iter().map(|node| node.shared.status().tally.listed).sum();
    assert_eq!(listed, later, "equal replicas list no key, however often they are compared");
}

#[test]
fn the_in_sync_time_stands_still_while_a_replica_is_away_and_goes_on_at_once_when_it_is_back() {
    let mut cluster = Cluster::of(3, settings());
    cluster.pass_ms(5_000);
    cluster.kill(2);
    let before = cluster.nodes[0].shared.in_sync();
    for n in 0..500u16 {
        cluster.plant(&[0, 1], &format!("missed {n}"), Record::value(cluster.now(), vec![3; 100]));
    }
    cluster.pass_ms(20_000);
    assert_eq!(cluster.nodes[0].shared.in_sync(), before);
    assert!(cluster.age_ms(0) > 20_000);
    cluster.revive(2);
    cluster.pass_ms(4_000);
    assert!(cluster.all_hold_the_same());
    assert!(cluster.age_ms(0) < HORIZON_MS + 2_500, "{} ms", cluster.age_ms(0));
}

#[test]
fn what_was_missed_is_sent_once_though_both_sides_look_for_it() {
    let mut cluster = Cluster::of(2, settings());
    for n in 0..1_000u16 {
        cluster.plant(&[0], &format!("key {n}"), Record::value(cluster.now(), vec![3; 100]));
    }
    cluster.pass_ms(HORIZON_MS + 5_000);
    assert!(cluster.all_hold_the_same());
    let moved = |node: usize| {
        let tally = cluster.nodes[node].shared.status().tally;
        tally.rows_sent + tally.rows_fetched
    };
    assert!(moved(0) + moved(1) <= 1_100, "{} and {} rows", moved(0), moved(1));
}

/// Rounds of messages until two replicas of many rows, each of which lacks half of them, are equal, while clients write
/// and wait so long for it as soon as rows are exchanged.
fn rounds_to_mend(waited_ms: u64) -> usize {
    const ROUNDS_MAX: usize = 20_000;
    let mut cluster = Cluster::of(2, settings());
    for n in 0..6_000u16 {
        cluster.plant(&[n % 2], &format!("key {n}"), Record::value(cluster.now(), vec![3; 100]));
    }
    let mut begun_at = None;
    for round in 0..ROUNDS_MAX {
        cluster.rounds(1);
        if begun_at.is_none() && cluster.exchanged.rows() > 0 {
            begun_at = Some(round);
        }
        let took_ms = if begun_at.is_some() { waited_ms } else { 2 };
        cluster.nodes.iter().for_each(|node| node.shared.wrote(took_ms));
        if let Some(begun_at) = begun_at.filter(|_| round % 10 == 0 && cluster.all_hold_the_same()) {
            return round - begun_at;
        }
    }
    panic!("they do not become equal");
}

#[test]
fn comparisons_yield_to_clients_that_wait_for_them_and_get_on_all_the_same() {
    let (calm, strained) = (rounds_to_mend(2), rounds_to_mend(300));
    assert!(strained > 2 * calm, "{strained} rounds, {calm} where nobody waits");
    assert!(strained < 40 * calm, "{strained} rounds, {calm} where nobody waits");
}

#[test]
fn nothing_is_compared_while_it_is_switched_off_and_the_status_says_so() {
    let mut cluster = Cluster::of(3, Settings { enabled: false, ..settings() });
    scattered(&cluster);
    cluster.pass_ms(10_000);
    assert!(!cluster.all_hold_the_same());
    assert!(!cluster.nodes[0].shared.status().enabled);
}

#[test]
fn a_dirty_mark_goes_only_after_its_target_was_compared_with_all_others() {
    let mut cluster = Cluster::of(3, settings());
    cluster.pass_ms(5_000);
    cluster.kill(2);
    let (key, version) = (RowKey::of("missed"), cluster.now());
    cluster.plant(&[0, 1], "missed", Record::value(version, "v"));
    let marks = cluster.nodes[0].marks.target("node-2").unwrap();
    marks.mark(TABLE, LeafId::of(key.token(), PartitionBits::new(2).unwrap()), version, Cause::Cap);
    marks.sync().unwrap();
    cluster.pass_ms(10_000);
    assert_eq!(marks.totals().marks, 1);
    cluster.kill(1);
    cluster.revive(2);
    cluster.pass_ms(10_000);
    assert!(cluster.held(2, "missed").is_some());
    assert_eq!(marks.totals().marks, 1, "node 1 may hold more that node 2 has missed");
    cluster.revive(1);
    cluster.pass_ms(10_000);
    assert_eq!(marks.totals().marks, 0);
    assert_eq!(cluster.nodes[0].shared.status().marks_cleared, 1);
}

#[test]
fn the_dead_are_purged_everywhere_once_they_are_past_the_grace_and_never_before() {
    let mut cluster = Cluster::of(3, settings());
    let (version, ends_ms) = (cluster.now(), cluster.now().hlc.millis() + 10_000);
    for n in 0..60u16 {
        cluster.plant(&[0, 1, 2], &format!("live {n}"), Record::value(version, "v"));
        cluster.plant(&[0, 1, 2], &format!("dead {n}"), Record::tombstone(version));
        cluster.plant(&[n % 3], &format!("ended {n}"), Record::expiring(version, "v", Expiry(ends_ms)));
    }
    cluster.pass_ms(GRACE_MS - 5_000);
    assert_eq!(cluster.held(1, "dead 7"), Some(Record::tombstone(version)), "not before the grace is over");
    cluster.pass_ms(40_000);
    for node in 0..3 {
        let left = super::pair::rows(&cluster.nodes[node].store);
        assert_eq!(left.len(), 60, "node {node}: {:?}", left.keys().next());
    }
    let purged: u64 = cluster.nodes.iter().map(|node| node.shared.status().purged_rows).sum();
    assert_eq!(purged, 3 * 120);
}

#[test]
fn a_replica_that_is_away_blocks_the_purge_visibly_and_brings_nothing_back() {
    let mut cluster = Cluster::of(3, settings());
    let version = cluster.now();
    cluster.plant(&[0, 1, 2], "key", Record::value(version, "v"));
    cluster.pass_ms(5_000);
    cluster.kill(2);
    let deleted = cluster.now();
    cluster.plant(&[0, 1], "key", Record::tombstone(deleted));
    cluster.pass_ms(2 * GRACE_MS);
    assert_eq!(cluster.held(0, "key"), Some(Record::tombstone(deleted)), "node 2 has not seen the deletion");
    let blocked = cluster.nodes[0].shared.status().purge_blocked;
    assert!(blocked.values().all(|by| by.contains(&NodeId(2))) && !blocked.is_empty());
    cluster.revive(2);
    cluster.pass_ms(3_000);
    assert!((0..3).all(|node| cluster.held(node, "key").is_none_or(|record| record.is_tombstone())));
    cluster.pass_ms(30_000);
    assert!((0..3).all(|node| cluster.held(node, "key").is_none()), "then all of them purge it");
    assert!(cluster.nodes[0].shared.status().purge_blocked.is_empty());
}

#[test]
fn a_replica_that_has_not_heard_of_a_member_purges_nothing_until_it_has() {
    let mut cluster = Cluster::of(2, settings());
    cluster.plant(&[0, 1], "dead", Record::tombstone(cluster.now()));
    cluster.join_empty(&[0]);
    // What the member that joined may have in flight, nobody has asked it.
    cluster.pass_ms(GRACE_MS + 30_000);
    let of_first = || PartitionBits::new(2).unwrap().partition_of(RowKey::of("dead").token());
    let blocked = cluster.nodes[0].shared.status().purge_blocked;
    assert!(cluster.held(0, "dead").is_some() && cluster.held(1, "dead").is_some());
    assert_eq!(blocked.get(&(TABLE, of_first())), Some(&BTreeSet::from([NodeId(1)])), "{blocked:?}");

    cluster.hear(0);
    cluster.pass_ms(30_000);
    assert_eq!((cluster.held(0, "dead"), cluster.held(1, "dead")), (None, None));
    assert!(cluster.nodes[0].shared.status().purge_blocked.is_empty());
}

#[test]
fn a_replica_that_is_removed_is_in_the_way_of_purging_no_more() {
    let mut cluster = Cluster::of(3, settings());
    cluster.pass_ms(5_000);
    cluster.kill(2);
    let deleted = cluster.now();
    cluster.plant(&[0, 1], "key", Record::tombstone(deleted));
    cluster.pass_ms(2 * GRACE_MS);
    assert_eq!(cluster.held(0, "key"), Some(Record::tombstone(deleted)), "node 2 may come back");
    cluster.remove(2);
    cluster.pass_ms(20_000);
    assert!((0..2).all(|node| cluster.held(node, "key").is_none()));
    assert!(cluster.nodes[0].shared.status().purge_blocked.is_empty());
}

#[test]
fn a_replica_that_is_replaced_is_in_the_way_of_purging_no_more_and_brings_nothing_back_when_it_returns() {
    let mut cluster = Cluster::of(3, settings());
    let written = cluster.now();
    for n in 0..40u16 {
        cluster.plant(&[0, 1, 2], &format!("deleted {n}"), Record::value(written, "v"));
        cluster.plant(&[0, 1, 2], &format!("kept {n}"), Record::value(written, "v"));
    }
    cluster.pass_ms(5_000);
    cluster.kill(2);
    let deleted = cluster.now();
    (0..40u16).for_each(|n| cluster.plant(&[0, 1], &format!("deleted {n}"), Record::tombstone(deleted)));
    cluster.pass_ms(2 * GRACE_MS);
    assert_eq!(cluster.held(0, "deleted 7"), Some(Record::tombstone(deleted)), "node 2 may come back");
    let blocked = cluster.nodes[0].shared.status().purge_blocked;
    assert!(!blocked.is_empty() && blocked.values().all(|by| by.contains(&NodeId(2))), "{blocked:?}");

    let fresh = cluster.replace(2);
    cluster.pass_ms(30_000);
    let replicas = [0, 1, fresh];
    let left = |cluster: &Cluster, node: u16| super::pair::rows(&cluster.nodes[usize::from(node)].store).len();
    assert_eq!(replicas.map(|node| left(&cluster, node)), [40; 3], "what was deleted is purged everywhere");
    for node in replicas {
        let status = cluster.nodes[usize::from(node)].shared.status();
        assert!(status.purge_blocked.is_empty(), "{:?}", status.purge_blocked);
        assert!(cluster.age_ms(node) <= HORIZON_MS + 2_500, "node {node}: {} ms", cluster.age_ms(node));
    }

    // It still holds what was deleted, believes that it is a replica, and compares with the others.
    cluster.revive(2);
    cluster.pass_ms(20_000);
    assert_eq!(left(&cluster, 2), 80);
    assert_eq!(replicas.map(|node| left(&cluster, node)), [40; 3], "nothing comes back by way of it");
}

#[test]
fn purging_and_expiry_under_a_write_load_never_make_replicas_look_different() {
    /// A replica gets a write so much later than the others: less than the horizon.
    const LATE_MS: u64 = 500;
    const STEP_MS: u64 = 100;
    let mut cluster = Cluster::of(3, settings());
    let mut late = VecDeque::new();
    let mut oldest_ms = 0;
    for step in 0..(GRACE_MS + 40_000) / STEP_MS {
        let (now, ends_ms) = (cluster.now(), cluster.now().hlc.millis() + 3_000);
        let writes = [
            (format!("kept {}", step % 50), Record::value(now, format!("value {step}"))),
            (format!("ending {step}"), Record::expiring(now, "v", Expiry(ends_ms))),
            (format!("deleted {}", step % 70), Record::value(now, "v")),
            (format!("deleted {}", (step + 20) % 70), Record::tombstone(now)),
        ];
        let slow = (step % 3) as u16;
        let quick: Vec<u16> = (0..3).filter(|node| *node != slow).collect();
        for (key, record) in writes {
            cluster.plant(&quick, &key, record.clone());
            late.push_back((step + LATE_MS / STEP_MS, slow, key, record));
        }
        cluster.pass_ms(STEP_MS);
        while let Some((_, slow, key, record)) = late.pop_front_if(|(due, ..)| *due <= step) {
            cluster.plant(&[slow], &key, record);
        }
        if step * STEP_MS > 2 * HORIZON_MS {
            oldest_ms = oldest_ms.max((0..3).map(|node| cluster.age_ms(node)).max().unwrap());
        }
    }
    assert_eq!(cluster.exchanged.rows(), 0, "nothing was to be repaired");
    assert!(oldest_ms <= HORIZON_MS + 2_500, "in sync as of {oldest_ms} ms ago at the worst");
    let purged: u64 = cluster.nodes.iter().map(|node| node.shared.status().purged_rows).sum();
    assert!(purged > 3 * 200, "{purged} rows were purged meanwhile");
}

#[test]
fn the_dead_are_purged_also_where_a_comparison_is_always_due() {
    let mut eager = settings();
    (eager.pace.interval_ms, eager.purge_interval_ms) = (1, 1);
    let mut cluster = Cluster::of(2, eager);
    cluster.plant(&[0, 1], "dead", Record::tombstone(cluster.now()));
    // Messages take so long that no pass is over before the next one is due.
    cluster.rounds((GRACE_MS + HORIZON_MS + 2_000) as usize / ROUND_MS);
    assert_eq!((cluster.held(0, "dead"), cluster.held(1, "dead")), (None, None));
    let in_sync = cluster.age_ms(0);
    assert!(in_sync <= HORIZON_MS + 1_000, "and neither are comparisons in want of time: {in_sync} ms");
}

#[test]
fn an_old_version_takes_the_proof_back_until_the_replicas_are_equal_again() {
    let mut cluster = Cluster::of(3, settings());
    let old = cluster.now();
    cluster.pass_ms(10_000);
    let partition = PartitionBits::new(2).unwrap().partition_of(RowKey::of("late").token());
    let through =
        |cluster: &Cluster, node: usize| cluster.nodes[node].store.range_state(TABLE, partition).synced_through;
    assert!(through(&cluster, 1) > old.hlc);
    cluster.plant(&[1], "late", Record::value(old, "v"));
    assert!(through(&cluster, 1) < old.hlc);
    cluster.pass_ms(6_000);
    assert!(cluster.held(0, "late").is_some() && cluster.held(2, "late").is_some());
    assert!((0..3).all(|node| through(&cluster, node) > old.hlc));
}
