//! Every level with every number of live replicas: what is done when it can be met, and that nothing is when it cannot.

use std::collections::BTreeSet;

use cube_replication::consistency::Level;
use cube_replication::coordinator::RequestError;
use cube_storage::model::{NodeId, RowKey};

use super::cluster::{Cluster, n};

/// Whether so many live replicas in the coordinator's data center and in the other one meet a level, counted by hand.
fn is_met(level: Level, (live_a, all_a): (usize, usize), (live_b, all_b): (usize, usize)) -> bool {
    let (live, all) = (live_a + live_b, all_a + all_b);
    match level {
        Level::Any => true,
        Level::One => live >= 1,
        Level::Two => live >= 2,
        Level::Three => live >= 3,
        Level::Quorum => live > all / 2,
        Level::All => live == all,
        Level::LocalOne => live_a >= 1,
        Level::LocalQuorum => live_a > all_a / 2,
        Level::EachQuorum => live_a > all_a / 2 && (all_b == 0 || live_b > all_b / 2),
    }
}

/// Tries every level with every choice of live replicas, through a coordinator that is none itself.
fn every_level(replicas_a: usize, replicas_b: usize) {
    let replicas = replicas_a + replicas_b;
    let nodes = (0..replicas).map(|id| format!("{}{id}", if id < replicas_a { 'a' } else { 'b' }));
    let nodes: Vec<String> = nodes.chain([format!("(a{replicas})")]).collect();
    for alive in 0..1_u32 << replicas {
        let live: BTreeSet<NodeId> = (0..replicas as u16).filter(|id| alive & (1 << id) != 0).map(NodeId).collect();
        let live_a = live.iter().filter(|id| usize::from(id.0) < replicas_a).count();
        let cluster = Cluster::of(&nodes.join(" "));
        let coordinator = replicas as u16;
        for id in (0..replicas as u16).filter(|id| !live.contains(&NodeId(*id))) {
            cluster.kill(id);
        }
        for level in Level::EVERY {
            let met = is_met(level, (live_a, replicas_a), (live.len() - live_a, replicas_b));
            let case = format!("{level} of {replicas_a}+{replicas_b} with {live:?} alive");
            cluster.node(coordinator).hints.kept.lock().clear();
            write_and_read(&cluster, coordinator, level, &live, met, &case);
        }
    }
}

fn write_and_read(cluster: &Cluster, by: u16, level: Level, live: &BTreeSet<NodeId>, met: bool, case: &str) {
    let key = level.name();
    let hints = &cluster.node(by).hints;
    match cluster.put(by, key, "v", level) {
        Ok(written) => {
            assert!(met, "{case}: succeeded");
            for node in cluster.nodes.values().filter(|node| live.contains(&node.id)) {
                let held = node.held(&RowKey::of(key)).map(|record| record.version);
                assert_eq!(held, Some(written.version), "{case}: {}", node.id);
            }
            assert!(written.acknowledged_by.iter().all(|node| live.contains(node)), "{case}");
            let dead: Vec<NodeId> =
                cluster.nodes.keys().copied().filter(|id| id.0 != by && !live.contains(id)).collect();
            assert_eq!(hints.targets(), dead, "{case}: who is down is hinted");
            let only_copies = hints.kept.lock().iter().all(|missed| missed.only_copy == (level == Level::Any));
            assert!(only_copies, "{case}");
        }
        Err(error) => {
            assert!(!met, "{case}: {error}");
            assert!(matches!(&error, RequestError::Unavailable(short) if short.level == level), "{case}: {error}");
            assert!(cluster.values(key).values().all(Option::is_none), "{case}: something was written");
            assert_eq!(hints.targets(), [], "{case}: something was hinted");
        }
    }
    match cluster.get(by, key, level) {
        Ok(row) => {
            assert!(met && level != Level::Any, "{case}: read");
            let expected = met.then(|| "v".into());
            assert_eq!(row.value().cloned(), expected, "{case}");
        }
        Err(RequestError::ReadAtAny(_)) => assert_eq!(level, Level::Any, "{case}"),
        Err(error) => assert!(!met && matches!(error, RequestError::ReadUnavailable(_)), "{case}: {error}"),
    }
    assert_eq!(cluster.node(by).coordinator.in_flight(), 0, "{case}");
}

#[test]
fn in_one_data_center_with_one_to_five_replicas() {
    for replicas in 1..=5 {
        every_level(replicas, 0);
    }
}

#[test]
fn in_two_data_centers() {
    for (replicas_a, replicas_b) in [(3, 3), (3, 2), (2, 1), (1, 3)] {
        every_level(replicas_a, replicas_b);
    }
}

#[test]
fn a_refusal_says_how_many_are_needed_and_how_many_are_alive() {
    let cluster = Cluster::of("a0 a1 a2");
    cluster.kill(1);
    cluster.kill(2);
    let error = cluster.put(0, "k", "v", Level::Quorum).unwrap_err();
    assert_eq!(error.to_string(), "QUORUM needs 2 live replicas, and 1 is alive; nothing was written");
    let Err(error) = cluster.get(0, "k", Level::All).map(|_| ()) else { panic!("it was read") };
    assert_eq!(error.to_string(), "ALL needs 3 live replicas, and 1 is alive", "a read says nothing of writing");
    let RequestError::ReadUnavailable(short) = error else { panic!("{error}") };
    assert_eq!((short.required, short.alive), (3, 1));
}

#[test]
fn a_replica_coordinates_for_itself_without_the_network() {
    let cluster = Cluster::of("a0 a1 a2");
    cluster.kill(1);
    cluster.kill(2);
    let written = cluster.put(0, "k", "v", Level::One).unwrap();
    assert_eq!(written.acknowledged_by, [n(0)]);
    assert_eq!(cluster.node(0).gate.heard.lock().len(), 0);
    assert_eq!(cluster.get(0, "k", Level::One).unwrap().value().unwrap(), "v");
}

#[test]
fn a_write_of_which_one_data_center_is_cut_off_is_hinted_for_all_of_it() {
    let cluster = Cluster::of("a0 a1 a2 b3 b4 b5");
    for node in [3, 4, 5] {
        cluster.kill(node);
    }
    assert!(matches!(cluster.put(0, "k", "v", Level::Quorum), Err(RequestError::Unavailable(_))));
    let written = cluster.put(0, "k", "v", Level::LocalQuorum).unwrap();
    assert!(written.acknowledged_by.len() >= 2);
    assert_eq!(cluster.node(0).hints.targets(), [n(3), n(4), n(5)]);
    for node in [3, 4, 5] {
        cluster.revive(node);
    }
    assert_eq!(cluster.get(0, "k", Level::LocalQuorum).unwrap().value().unwrap(), "v");
    assert_eq!(cluster.get(4, "k", Level::All).unwrap().value().unwrap(), "v", "the other side hears of it");
}
