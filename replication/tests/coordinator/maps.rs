//! Requests while the replicas of a partition change: an old map is never obeyed, and both sets hold what counts.

use std::collections::BTreeSet;

use cube_replication::consistency::Level;
use cube_replication::coordinator::{RequestError, WriteRequest};
use cube_replication::topology::{Evidence, TopologyChange};
use cube_storage::SyncState;
use cube_storage::model::{Hlc, NodeId, PartitionId, Record, RowKey};

use super::cluster::{BITS, Cluster, PLACEMENT, START_MS, TIMEOUT_MS, get, n, one, put, value};

const KEY: &str = "k";

fn partition() -> PartitionId {
    BITS.partition_of(RowKey::of(KEY).token())
}

/// Four nodes of which the first three are replicas of the row.
fn three_of_four() -> Cluster {
    let mut cluster = Cluster::of("a0 a1 a2 a3");
    // The first map of the partition, which nobody has written by yet: from four replicas to three is a move of its own.
    move_to(&mut cluster, &[0, 1, 2]);
    finish(&mut cluster, &[0, 1, 2, 3]);
    cluster
}

/// Begins a move; nobody has heard of it.
fn move_to(cluster: &mut Cluster, replicas: &[u16]) {
    let replicas = replicas.iter().copied().map(NodeId).collect();
    cluster.change(&TopologyChange::BeginMove { placement: PLACEMENT, partition: partition(), replicas });
}

/// Takes the next step with everybody's consent, whatever they hold.
fn advance(cluster: &mut Cluster) {
    let from = cluster.state.topology.placement(PLACEMENT).unwrap().partition(partition()).unwrap().epoch();
    let all: BTreeSet<NodeId> = cluster.nodes.keys().copied().collect();
    let evidence = Evidence { fenced: all.clone(), caught_up: all };
    cluster.change(&TopologyChange::AdvanceMove { placement: PLACEMENT, partition: partition(), from, evidence });
}

fn everybody_learns(cluster: &Cluster) {
    cluster.nodes.values().for_each(|node| node.learn(&cluster.state));
    cluster.settle();
}

/// Takes a move through all of its steps.
fn finish(cluster: &mut Cluster, nodes: &[u16]) {
    everybody_learns(cluster);
    for node in nodes {
        cluster.node(*node).store.set_sync(PLACEMENT, partition(), SyncState::Synced).unwrap();
    }
    for _ in 0..2 {
        advance(cluster);
        everybody_learns(cluster);
    }
}

#[test]
fn a_coordinator_with_an_old_map_is_refused_by_those_that_know_a_newer_one() {
    let mut cluster = three_of_four();
    move_to(&mut cluster, &[0, 1, 3]);
    for node in [1, 2] {
        cluster.node(node).learn(&cluster.state);
    }
    let told = cluster.begin_write(0, put(KEY, "v", Level::Quorum));
    let read = cluster.begin_read(0, get(&[KEY], Level::Quorum));
    cluster.pass_ms(u64::from(TIMEOUT_MS) + 50);
    assert!(matches!(one(told.now().unwrap()), Err(RequestError::Unknown(_))));
    assert!(matches!(one(read.now().unwrap()), Err(RequestError::ReadIncomplete(_))));
    for node in [1, 2, 3] {
        assert_eq!(cluster.node(node).held(&RowKey::of(KEY)), None, "n{node} obeyed an old map");
    }
}

#[test]
fn a_request_that_met_a_newer_map_goes_on_as_soon_as_its_coordinator_knows_it() {
    let mut cluster = three_of_four();
    move_to(&mut cluster, &[0, 1, 3]);
    for node in [1, 2, 3] {
        cluster.node(node).learn(&cluster.state);
    }
    let write = cluster.begin_write(0, put(KEY, "v", Level::Quorum));
    cluster.settle();
    assert!(write.now().is_none());
    let read = cluster.begin_read(0, get(&[KEY], Level::Quorum));
    cluster.settle();
    assert!(read.now().is_none());
    cluster.node(0).learn(&cluster.state);
    cluster.settle();
    let written = one(write.now().expect("it goes on")).unwrap();
    let holders = [0, 1, 2, 3].map(|node| cluster.node(node).held(&RowKey::of(KEY)).is_some());
    assert_eq!(holders, [true; 4], "it was written to both sets: {written:?}");
    assert!(one(read.now().expect("it goes on")).is_ok());
}

#[test]
fn a_replica_that_has_not_adopted_the_map_yet_is_asked_again_until_it_has() {
    let mut cluster = three_of_four();
    move_to(&mut cluster, &[0, 1, 3]);
    cluster.node(0).learn(&cluster.state);
    let told = cluster.begin_write(0, put(KEY, "v", Level::All));
    cluster.pass_ms(100);
    assert!(told.now().is_none());
    everybody_learns(&cluster);
    cluster.pass_ms(100);
    let written = one(told.now().expect("it goes on")).unwrap();
    assert_eq!(written.acknowledged_by, [n(0), n(1), n(2), n(3)]);
}

#[test]
fn while_replicas_change_a_write_is_a_success_only_in_both_sets() {
    let mut cluster = three_of_four();
    move_to(&mut cluster, &[0, 1, 3]);
    everybody_learns(&cluster);
    // Two of the old ones are alive, and one of the new ones.
    cluster.kill(1);
    cluster.kill(3);
    let error = cluster.put(0, KEY, "v", Level::Quorum).unwrap_err();
    assert!(matches!(error, RequestError::Unavailable(_)), "{error}");
    cluster.revive(3);
    let written = cluster.put(0, KEY, "v", Level::Quorum).unwrap();
    assert_eq!(written.acknowledged_by, [n(0), n(2), n(3)]);
    assert_eq!(cluster.node(0).hints.targets(), [n(1)]);
}

#[test]
fn what_a_quorum_read_returns_while_replicas_change_is_held_by_both_sets() {
    let mut cluster = three_of_four();
    // A write that failed: one replica has it.
    let record = Record::value(cluster.version(20), "seen once");
    cluster.plant(2, RowKey::of(KEY), record.clone());
    move_to(&mut cluster, &[0, 1, 3]);
    everybody_learns(&cluster);
    assert_eq!(cluster.get(2, KEY, Level::Quorum).unwrap().record.as_ref(), Some(&record));
    let mut new_holders = [0, 1, 3].into_iter().filter(|node| cluster.node(*node).held(&RowKey::of(KEY)).is_some());
    assert!(new_holders.by_ref().count() >= 2, "a quorum of the new set");
    // Whoever reads by the new set sees it too.
    cluster.node(3).store.set_sync(PLACEMENT, partition(), SyncState::Synced).unwrap();
    advance(&mut cluster);
    everybody_learns(&cluster);
    cluster.kill(2);
    for by in [0, 1, 3] {
        assert_eq!(cluster.get(by, KEY, Level::Quorum).unwrap().record.as_ref(), Some(&record), "through {by}");
    }
}

#[test]
fn a_joiner_that_died_does_not_keep_reads_from_being_answered() {
    let mut cluster = three_of_four();
    cluster.put(0, KEY, "v", Level::All).unwrap();
    move_to(&mut cluster, &[0, 1, 3]);
    everybody_learns(&cluster);
    cluster.deafen(3);
    for by in [0, 1, 2] {
        assert_eq!(cluster.get(by, KEY, Level::Quorum).unwrap().value().unwrap(), "v", "through {by}");
    }
}

#[test]
fn a_new_replica_is_written_and_not_read_before_its_copy_is_complete() {
    let mut cluster = three_of_four();
    cluster.put(0, KEY, "v", Level::All).unwrap();
    move_to(&mut cluster, &[3]);
    everybody_learns(&cluster);
    let heard_before = cluster.node(3).gate.heard.lock().len();
    assert_eq!(cluster.get(0, KEY, Level::One).unwrap().value().unwrap(), "v");
    assert_eq!(cluster.node(3).gate.heard.lock().len(), heard_before);
    cluster.put(0, KEY, "w", Level::Quorum).unwrap();
    assert!(cluster.node(3).held(&RowKey::of(KEY)).is_some());
}

/// Rows of the partition that moves.
fn rows() -> Vec<String> {
    let all = (0..100).map(|number| format!("{KEY}{number}"));
    all.filter(|key| BITS.partition_of(RowKey::of(key.clone()).token()) == partition()).collect()
}

/// Copies what every old replica holds to every new one, as a complete backfill does.
fn copy_all(cluster: &Cluster, old: &[u16], new: &[u16]) {
    for key in rows().into_iter().map(RowKey::of) {
        for record in old.iter().filter_map(|node| cluster.node(*node).held(&key)) {
            new.iter().for_each(|node| cluster.plant(*node, key.clone(), record.clone()));
        }
    }
    for node in new {
        cluster.node(*node).store.set_sync(PLACEMENT, partition(), SyncState::Synced).unwrap();
    }
}

/// Every row that was written so far is read through every node, whoever is away that every written set can do without.
fn all_are_read(cluster: &Cluster, written: &[String], sets: &[&[u16]], when: &str) {
    let can_do_without = |node: &u16| sets.iter().all(|set| set.len() > 2 || !set.contains(node));
    let may_be_away: Vec<u16> = cluster.nodes.keys().map(|id| id.0).filter(can_do_without).collect();
    for away in may_be_away.iter().map(Some).chain([None]) {
        away.into_iter().for_each(|node| cluster.kill(*node));
        for key in written {
            for by in cluster.nodes.keys().filter(|by| away != Some(&by.0)) {
                let row = cluster.get(by.0, key, Level::Quorum).unwrap();
                assert_eq!(row.value().unwrap(), "v", "{key} through {by} {when}, {away:?} away");
            }
        }
        away.into_iter().for_each(|node| cluster.revive(*node));
    }
}

#[test]
fn a_write_in_any_step_from_one_to_three_to_five_and_back_to_three_is_in_every_later_read() {
    let mut cluster = Cluster::of("a0 a1 a2 a3 a4");
    let mut now: Vec<u16> = vec![0, 1, 2, 3, 4];
    let (mut keys, mut written) = (rows().into_iter(), Vec::new());
    for next in [vec![0], vec![0, 1, 2], vec![0, 1, 2, 3, 4], vec![2, 3, 4]] {
        let mut write = |cluster: &Cluster, by: u16, when: &str| {
            let key = keys.next().expect("a row for every write");
            cluster.put(by, &key, "v", Level::Quorum).unwrap_or_else(|error| panic!("{key} {when}: {error}"));
            written.push(key);
            written.clone()
        };
        let when = |step: &str| format!("{step} from {now:?} to {next:?}");
        write(&cluster, 1, &when("before the change"));
        move_to(&mut cluster, &next);
        everybody_learns(&cluster);
        let so_far = write(&cluster, 2, &when("while both are written"));
        all_are_read(&cluster, &so_far, &[&now, &next], &when("while the old are read"));
        copy_all(&cluster, &now, &next);
        advance(&mut cluster);
        everybody_learns(&cluster);
        let so_far = write(&cluster, 3, &when("while the new are read"));
        all_are_read(&cluster, &so_far, &[&now, &next], &when("while the new are read"));
        advance(&mut cluster);
        everybody_learns(&cluster);
        let so_far = write(&cluster, 4, &when("after the change"));
        all_are_read(&cluster, &so_far, &[&next], &when("after the change"));
        now = next;
    }
}

#[test]
fn a_silent_joiner_keeps_no_read_waiting_while_others_live() {
    let mut cluster = Cluster::of("a0 a1 a2 a3 a4 a5");
    move_to(&mut cluster, &[0, 1, 2]);
    finish(&mut cluster, &[0, 1, 2, 3, 4, 5]);
    cluster.put(0, KEY, "v", Level::All).unwrap();
    move_to(&mut cluster, &[0, 1, 3, 4, 5]);
    everybody_learns(&cluster);
    cluster.kill(2);
    cluster.deafen(3);
    for by in [0, 1] {
        assert_eq!(cluster.get(by, KEY, Level::Quorum).unwrap().value().unwrap(), "v", "through {by}");
    }
}

#[test]
fn a_replica_that_stays_behind_is_asked_again_ever_more_rarely_and_not_for_a_write_that_ended() {
    let mut cluster = three_of_four();
    move_to(&mut cluster, &[0, 1, 3]);
    cluster.node(0).learn(&cluster.state);
    let writes = |cluster: &Cluster, node: u16| {
        let heard = cluster.node(node).gate.heard.lock();
        heard.iter().filter(|request| matches!(request.body, cube_replication::messages::RequestBody::Write(_))).count()
    };
    let request = put(KEY, "v", Level::Quorum);
    let long = cube_replication::coordinator::WriteRequest {
        terms: cube_replication::coordinator::Terms { timeout_ms: Some(60_000), ..request.terms },
        ..request
    };
    let told = cluster.begin_write(0, long);
    for _ in 0..500 {
        cluster.pass_ms(10);
    }
    assert!(matches!(one(told.now().expect("nobody waits for it any more")), Err(RequestError::Unknown(_))));
    assert_eq!(writes(&cluster, 1), 7, "once, and six times more");
}

#[test]
fn a_replica_that_still_copies_takes_no_timestamp_that_a_client_chose_in_the_past() {
    let mut cluster = three_of_four();
    move_to(&mut cluster, &[0, 1, 3]);
    everybody_learns(&cluster);
    cluster.pass_ms(100);
    let stamped =
        |ms| WriteRequest { timestamp: Some(Hlc::new(START_MS + ms, 0)), ..put(KEY, "client", Level::Quorum) };
    let held_by_new = |cluster: &Cluster| cluster.node(3).held(&RowKey::of(KEY)).map(|record| record.version.hlc);
    one(cluster.write(0, stamped(1))).unwrap();
    cluster.settle();
    assert_eq!(held_by_new(&cluster), None, "it does not know yet what the others have purged");
    let kept = cluster.node(0).hints.kept.lock().clone();
    assert!(kept.iter().any(|missed| missed.target == n(3)), "what it missed is noted: {kept:?}");
    one(cluster.write(0, stamped(60_000))).unwrap();
    cluster.settle();
    assert_eq!(held_by_new(&cluster), Some(Hlc::new(START_MS + 60_000, 0)), "no floor is ahead of its clock");

    cluster.node(3).store.set_sync(PLACEMENT, partition(), SyncState::Synced).unwrap();
    let other = RowKey::with_sort(KEY, "2");
    let old = WriteRequest { rows: vec![(other.clone(), value("client"))], ..stamped(2) };
    one(cluster.write(0, old)).unwrap();
    cluster.settle();
    assert!(cluster.node(3).held(&other).is_some(), "its floors are those of the others");
}
