//! What is missing travels once, also when several nodes have it, or when one of them is killed in the middle.

use cube_replication::anti_entropy::Settings;
use cube_storage::model::{Record, RowKey};

use super::cluster::{Cluster, HORIZON_MS, settings};
use super::pair::plant;
use super::repairing::{ask, asked, begin, finish};

/// Rows that some nodes hold and another one lacks.
const MISSED: u64 = 20_000;
/// What may travel once more: a tenth.
const AGAIN_MAX: u64 = MISSED / 10;

/// Of two nodes each lacks every other row, of three the last one lacks all.
fn lacking(count: u16, settings: Settings) -> Cluster {
    let cluster = Cluster::of(count, settings);
    let version = cluster.now();
    for (place, node) in cluster.nodes.iter().take(2).enumerate() {
        let held = (0..MISSED).filter(|n| count > 2 || n % 2 == place as u64);
        plant(&node.store, held.map(|n| (RowKey::of(format!("key {n}")), Record::value(version, vec![3; 100]))));
    }
    cluster
}

/// How many rows travelled more than once, if all are where they belong.
fn again(cluster: &Cluster, what: &str) -> u64 {
    assert!(cluster.all_hold_the_same(), "{what}");
    let again = cluster.exchanged.rows() - MISSED;
    println!("{what}: {again} of {MISSED} once more");
    again
}

fn assert_few_again(cluster: &Cluster, what: &str) {
    let again = again(cluster, what);
    assert!(again <= AGAIN_MAX, "{what}: {again} of {MISSED} rows were exchanged again");
}

#[test]
fn what_a_node_missed_is_sent_to_it_once_though_all_others_have_it() {
    let mut cluster = lacking(3, settings());
    cluster.pass_ms(HORIZON_MS + 5_000);
    assert_few_again(&cluster, "by itself");
    let mut cluster = lacking(3, Settings { enabled: false, ..settings() });
    cluster.pass_ms(HORIZON_MS + 1_000);
    let id = begin(&mut cluster, 0, false);
    finish(&mut cluster, id);
    assert_few_again(&cluster, "on demand");
}

#[test]
fn when_either_side_of_a_session_is_killed_little_is_exchanged_again_and_both_end_equal() {
    for victim in 0..2 {
        for killed_after in [1, 80] {
            let mut cluster = lacking(2, settings());
            cluster.pass_ms(HORIZON_MS);
            while cluster.exchanged.rows() == 0 {
                cluster.rounds(1);
            }
            cluster.rounds(killed_after);
            let before = cluster.exchanged.rows();
            assert!(before < MISSED, "it is in the middle");
            cluster.crash(victim, killed_after as u64);
            cluster.pass_ms(6_000);
            assert_few_again(&cluster, &format!("node {victim} killed after {before}"));
        }
    }
}

#[test]
fn when_any_node_is_killed_during_a_repair_little_is_exchanged_again_and_all_end_equal() {
    for victim in 0..3 {
        for killed_after in [2, 60] {
            let mut cluster = lacking(3, Settings { enabled: false, ..settings() });
            cluster.pass_ms(HORIZON_MS + 1_000);
            let begun = ask(&cluster, 0, asked(false));
            while cluster.exchanged.rows() == 0 {
                cluster.rounds(1);
            }
            cluster.rounds(killed_after);
            let before = cluster.exchanged.rows();
            assert!(before < MISSED, "it is in the middle");
            let id = begun.lock().take().unwrap().unwrap().id;
            cluster.crash(victim, killed_after as u64);
            finish(&mut cluster, id);
            assert_few_again(&cluster, &format!("node {victim} killed after {before} of a repair"));
        }
    }
}
