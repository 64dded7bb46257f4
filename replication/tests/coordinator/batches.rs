//! Many rows in one request: atomic for each partition key, grouped beyond that.

use std::collections::BTreeSet;

use cube_replication::consistency::Level;
use cube_replication::coordinator::{Change, WriteRequest};
use cube_replication::messages::RequestBody;
use cube_storage::engine::EngineError;
use cube_storage::model::{Hlc, NodeId, RowKey, Token};

use super::cluster::{BITS, Cluster, TABLE_ID, n, value, write};
use super::node::HintFate;

fn row(partition: &str, sort: &str) -> RowKey {
    RowKey::with_sort(partition.to_owned(), sort.to_owned())
}

/// Two partition keys that live in different partitions.
fn two_partitions() -> [&'static str; 2] {
    let keys = ["p0", "p1", "p2", "p3", "p4", "p5"];
    let partition = |key: &str| BITS.partition_of(Token::of(key.as_bytes()));
    let other = keys.into_iter().find(|key| partition(key) != partition(keys[0])).unwrap();
    [keys[0], other]
}

#[test]
fn the_rows_of_a_batch_have_one_version_and_a_result_for_each_partition_key() {
    let cluster = Cluster::of("a0 a1 a2");
    let [first, second] = two_partitions();
    let rows = vec![
        (row(first, "1"), value("v")),
        (row(second, "1"), value("v")),
        (row(first, "2"), value("v")),
        (row(first, "3"), Change::Delete),
    ];
    let keys: Vec<RowKey> = rows.iter().map(|(key, _)| key.clone()).collect();
    let results = cluster.write(0, write(rows, Level::All)).unwrap();
    assert_eq!(results.len(), 2, "one for each partition key");
    let versions: BTreeSet<_> = results.into_iter().map(|result| result.unwrap().version).collect();
    assert_eq!(versions.len(), 1);
    for node in cluster.nodes.values() {
        let held: BTreeSet<_> = keys.iter().map(|key| node.held(key).unwrap().version).collect();
        assert_eq!(held, versions, "{}", node.id);
        assert!(node.held(&row(first, "3")).unwrap().is_tombstone());
    }
}

#[test]
fn a_batch_goes_to_each_replica_in_one_message() {
    let cluster = Cluster::of("a0 a1 a2");
    let [first, second] = two_partitions();
    let rows = [first, second].iter().flat_map(|p| ["1", "2"].map(|s| (row(p, s), value("v")))).collect();
    cluster.write(0, write(rows, Level::Quorum)).unwrap();
    for node in [1, 2] {
        let heard = cluster.node(node).gate.heard.lock();
        let [request] = heard.as_slice() else { panic!("{} messages", heard.len()) };
        let RequestBody::Write(written) = &request.body else { panic!("{request:?}") };
        assert_eq!(written.mutations.len(), 4);
    }
}

#[test]
fn of_a_row_that_a_batch_names_twice_the_last_change_counts() {
    let cluster = Cluster::of("a0 a1 a2");
    let rows = vec![(row("p", "1"), value("first")), (row("p", "2"), value("x")), (row("p", "1"), value("last"))];
    cluster.write(0, write(rows, Level::All)).unwrap().remove(0).unwrap();
    for node in cluster.nodes.values() {
        assert_eq!(node.held(&row("p", "1")).unwrap().live_value(node.clock.peek()).unwrap(), "last");
    }
}

#[test]
fn a_replica_takes_all_rows_of_a_partition_key_or_none() {
    let cluster = Cluster::of("a0 a1 a2");
    let rows = || (0..20).map(|sort| (row("p", &sort.to_string()), value("v"))).collect();
    cluster.node(2).engine.fail_with(EngineError::Io { detail: "a bad sector".into() });
    let written = cluster.write(0, write(rows(), Level::Quorum)).unwrap().remove(0).unwrap();
    assert_eq!(written.acknowledged_by, [n(0), n(1)]);
    let held =
        |node: u16| (0..20).filter(|sort| cluster.node(node).held(&row("p", &sort.to_string())).is_some()).count();
    assert_eq!([held(0), held(1), held(2)], [20, 20, 0]);
    let hinted = cluster.node(0).hints.kept.lock();
    assert_eq!(hinted.iter().map(|missed| (missed.target, missed.mutations.len())).collect::<Vec<_>>(), [(n(2), 20)]);
}

#[test]
fn a_hint_is_welcome_under_any_map_and_holds_the_version_that_was_acknowledged() {
    let cluster = Cluster::of("a0 a1 a2");
    cluster.kill(2);
    let written = cluster.put(0, "k", "v", Level::Quorum).unwrap();
    let hinted = cluster.node(0).hints.kept.lock();
    let [missed] = hinted.as_slice() else { panic!("{hinted:?}") };
    assert_eq!((missed.mutations[0].claim, missed.mutations[0].record.version), (None, written.version));
    assert_eq!(missed.mutations[0].table, TABLE_ID);
}

#[test]
fn each_partition_key_of_a_batch_succeeds_or_fails_for_itself() {
    let mut cluster = Cluster::of("a0 a1 a2");
    let [first, second] = two_partitions();
    // Two replicas no longer take writes for one of the partitions by the map that the coordinator knows.
    let partition = BITS.partition_of(Token::of(first.as_bytes()));
    let change = cube_replication::topology::TopologyChange::BeginMove {
        placement: super::cluster::PLACEMENT,
        partition,
        replicas: vec![n(2), n(1), n(0)],
    };
    let newer = cluster.change(&change);
    for node in [1, 2] {
        cluster.node(node).learn(&newer);
    }
    let rows = vec![(row(first, "1"), value("v")), (row(second, "1"), value("v"))];
    let told = cluster.begin_write(0, write(rows, Level::Quorum));
    cluster.settle();
    assert!(told.now().is_none(), "the first one waits for the newer map");
    cluster.pass_ms(u64::from(super::cluster::TIMEOUT_MS) + 100);
    let results = told.now().unwrap().unwrap();
    assert!(results[0].is_err() && results[1].is_ok(), "{results:?}");
}

#[test]
fn a_time_to_live_is_fixed_once_for_all_replicas_and_rounds() {
    let cluster = Cluster::of("a0 a1 a2");
    // Clocks that differ by minutes, and a newer version that the write has to succeed.
    cluster.node(1).machine.skew_ms(300_000);
    cluster.node(2).machine.skew_ms(-300_000);
    cluster.plant(1, RowKey::of("k"), cube_storage::model::Record::value(cluster.version(60_000), "old"));
    let rows = vec![(RowKey::of("k"), Change::Put { value: "v".into(), ttl_ms: Some(10_000) })];
    let written = cluster.write(0, write(rows, Level::All)).unwrap().remove(0).unwrap();
    assert!(written.version > cluster.version(60_000), "it was stamped again");
    let expiries: BTreeSet<_> =
        cluster.nodes.values().map(|node| node.held(&RowKey::of("k")).unwrap().expiry()).collect();
    let [Some(expiry)] = expiries.into_iter().collect::<Vec<_>>()[..] else { panic!("replicas differ") };
    let lives_ms = expiry.0 - super::cluster::START_MS;
    assert_eq!(lives_ms, 10_000, "by the coordinator's clock when the write came in");
}

#[test]
fn tries_of_one_write_end_alike_on_all_replicas_whatever_clocks_they_went_by() {
    let cluster = Cluster::of("a0 a1 a2");
    let long_ago = Some(Hlc::new(super::cluster::START_MS - 600_000, 0));
    let change = Change::Put { value: "v".into(), ttl_ms: Some(10_000) };
    let request = |level| WriteRequest { timestamp: long_ago, ..write(vec![(RowKey::of("k"), change.clone())], level) };
    let end_ms = |node| cluster.node(node).held(&RowKey::of("k")).unwrap().expiry().unwrap().0;
    cluster.write(0, request(Level::All)).unwrap().remove(0).unwrap();
    let counted_from_now = end_ms(0);
    assert!(
        counted_from_now >= super::cluster::START_MS + 10_000,
        "a row of an old timestamp lives as long as any other"
    );
    cluster.pass_ms(2_000);
    cluster.write(1, request(Level::All)).unwrap().remove(0).unwrap();
    let later = end_ms(0);
    assert!(later >= counted_from_now + 2_000);
    cluster.node(2).machine.skew_ms(-60_000);
    cluster.write(2, request(Level::All)).unwrap().remove(0).unwrap();
    let ends = BTreeSet::from([0, 1, 2].map(end_ms));
    assert!(ends.len() == 1 && ends.first() >= Some(&later), "the latest end stays: {ends:?}, before {later}");
}

#[test]
fn an_expired_row_is_read_as_absent_by_the_greatest_clock_that_answers() {
    let cluster = Cluster::of("a0 a1 a2");
    let rows = vec![(RowKey::of("k"), Change::Put { value: "v".into(), ttl_ms: Some(1_000) })];
    cluster.write(0, write(rows, Level::All)).unwrap().remove(0).unwrap();
    assert_eq!(cluster.get(0, "k", Level::All).unwrap().value().unwrap(), "v");
    cluster.node(2).machine.skew_ms(2_000);
    let row = cluster.get(0, "k", Level::All).unwrap();
    assert!(row.record.is_some() && row.value().is_none());
}

#[test]
fn when_a_hint_finds_no_room_a_mark_does_and_without_either_the_write_is_no_success() {
    let cluster = Cluster::of("a0 a1 a2");
    cluster.kill(2);
    *cluster.node(0).hints.fate.lock() = HintFate::OnlyMarks;
    let written = cluster.put(0, "k", "v", Level::Quorum).unwrap();
    assert_eq!(written.noted_for, [(n(2), cube_replication::handoff::Kept::Mark)]);
    *cluster.node(0).hints.fate.lock() = HintFate::Refused;
    let error = cluster.put(0, "k", "w", Level::Quorum).unwrap_err();
    assert_eq!(error.to_string(), "the write may take effect, but what n2 missed could not be noted: no room");
}

#[test]
fn any_survives_on_a_hint_alone_and_is_refused_where_none_finds_room() {
    let cluster = Cluster::of("a0 a1 a2 (a3)");
    [0, 1, 2].into_iter().for_each(|node| cluster.kill(node));
    let written = cluster.put(3, "k", "v", Level::Any).unwrap();
    assert_eq!(written.acknowledged_by, Vec::<NodeId>::new());
    assert!(cluster.node(3).hints.kept.lock().iter().all(|missed| missed.only_copy));
    *cluster.node(3).hints.fate.lock() = HintFate::OnlyMarks;
    let error = cluster.put(3, "k", "v", Level::Any).unwrap_err();
    assert!(error.to_string().contains("nobody acknowledged"), "{error}");
}

#[test]
fn a_replica_that_is_behind_with_one_partition_takes_the_rows_of_the_others() {
    let mut cluster = Cluster::of("a0 a1 a2");
    let [first, second] = two_partitions();
    let change = cube_replication::topology::TopologyChange::BeginMove {
        placement: super::cluster::PLACEMENT,
        partition: BITS.partition_of(Token::of(first.as_bytes())),
        replicas: vec![n(2), n(1), n(0)],
    };
    let newer = cluster.change(&change);
    cluster.node(0).learn(&newer);
    let told =
        cluster.begin_write(0, write(vec![(row(first, "1"), value("v")), (row(second, "1"), value("v"))], Level::All));
    cluster.settle();
    for node in [1, 2] {
        assert!(cluster.node(node).held(&row(second, "1")).is_some(), "n{node} knows that partition's map");
        assert!(cluster.node(node).held(&row(first, "1")).is_none(), "n{node} may still have to make room");
    }
    cluster.node(1).learn(&newer);
    cluster.node(2).learn(&newer);
    cluster.pass_ms(30);
    assert!(told.now().expect("the rest is sent again").unwrap().iter().all(Result::is_ok));
    let heard = cluster.node(1).gate.heard.lock();
    let rows = heard.iter().filter_map(|request| match &request.body {
        RequestBody::Write(written) => Some(written.mutations.len()),
        _ => None,
    });
    assert_eq!(rows.collect::<Vec<_>>(), [2, 1], "what was taken is not sent again");
}
