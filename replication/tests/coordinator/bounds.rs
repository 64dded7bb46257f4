//! Answers and requests that are larger than what one message or one node may hold: complete, in parts, or refused early,
//! and never cut without a word.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use bytes::Bytes;
use cube_replication::consistency::Level;
use cube_replication::coordinator::{Change, RangeRequest, ReadRequest, RequestError, Settings, Terms, WriteRequest};
use cube_replication::messages::{Features, PROTOCOL, ReadRows, Reply, ReplyBody, Request, RequestBody, Want};
use cube_storage::model::{Epoch, Hlc, Limits, Record, RowKey};

use super::cluster::{Cluster, TABLE_ID, Told, get, n, one, settings, table, write};

const MIB: usize = 1 << 20;
/// What one reply of a replica holds.
const PAGE_BYTES: usize = 4 * MIB;
/// What an answer to a client holds.
const ANSWER_BYTES: usize = 16 * MIB;

fn keys(count: usize) -> Vec<RowKey> {
    (0..count).map(|number| RowKey::of(format!("key-{number:03}"))).collect()
}

fn read(keys: &[RowKey], level: Level) -> ReadRequest {
    ReadRequest { keys: keys.to_vec(), ..get(&[], level) }
}

/// Rows of a MiB each, on all replicas or the first ones.
fn filled(written: &str, replicas: u16, keys: &[RowKey]) -> Cluster {
    let cluster = Cluster::of(written);
    for key in keys {
        for node in 0..replicas {
            cluster.plant(node, key.clone(), Record::value(cluster.version(10), vec![b'x'; MIB]));
        }
    }
    cluster
}

fn reads_heard(cluster: &Cluster, node: u16, want: Want) -> usize {
    let heard = cluster.node(node).gate.heard.lock();
    let wanted = |request: &&Request| matches!(&request.body, RequestBody::Read(read) if read.want == want);
    heard.iter().filter(wanted).count()
}

/// What a replica answers to a read of many records.
fn reply_of(cluster: &Cluster, node: u16, keys: &[RowKey]) -> Vec<(bool, Option<usize>)> {
    let rows = keys.iter().map(|key| (key.clone(), Epoch(u64::MAX))).collect();
    let body = RequestBody::Read(ReadRows { table: TABLE_ID, rows, want: Want::Record });
    let request = Request {
        protocol: PROTOCOL,
        features: Features::default(),
        from: n(9),
        clock: Hlc(0),
        time_left_ms: 1_000,
        explain: false,
        trace: None,
        body,
    };
    let (told, answer) = Told::<Reply>::new();
    cube_replication::transport::Serve::serve(cluster.node(node).gate.as_ref(), request, answer);
    let Ok(ReplyBody::Rows(rows)) = told.now().unwrap().body else { panic!("no rows") };
    let rows = rows.into_iter().map(Result::unwrap);
    rows.map(|found| (found.header.is_some(), found.record.map(|record| record.encoded_len()))).collect()
}

#[test]
fn a_replica_tells_what_one_reply_holds_and_of_the_rest_that_there_is_some() {
    let keys = keys(40);
    let cluster = filled("a0 a1 a2", 1, &keys);
    let told = reply_of(&cluster, 0, &keys);
    assert!(told.iter().all(|(is_held, _)| *is_held), "no row looks as if it were absent");
    assert!(told[0].1.is_some(), "the first record is told however large it is");
    let bytes: usize = told.iter().filter_map(|(_, bytes)| *bytes).sum();
    assert!((PAGE_BYTES - 2 * MIB..=PAGE_BYTES).contains(&bytes), "{bytes} bytes in one reply");
    assert_eq!(reply_of(&cluster, 1, &keys), [(false, None); 40]);
}

#[test]
fn a_read_of_more_than_one_reply_holds_is_answered_in_full() {
    let keys = keys(14);
    for level in [Level::One, Level::Quorum, Level::All] {
        let cluster = filled("a0 a1 a2 (a3)", 3, &keys);
        let rows = cluster.read(3, read(&keys, level)).unwrap();
        assert!(rows.iter().all(|row| row.as_ref().is_ok_and(|row| row.value().is_some())), "{level}");
        let asked = reads_heard(&cluster, 0, Want::Record);
        assert!((4..=6).contains(&asked), "{level}: a few rows at a time, in {asked} messages");
        assert_eq!(cluster.node(3).coordinator.in_flight_bytes(), 0);
    }
}

#[test]
fn rows_that_an_answer_has_no_room_for_say_so_and_are_read_by_asking_again() {
    let keys = keys(40);
    let cluster = filled("a0 a1 a2 (a3)", 2, &keys);
    let mut values: BTreeMap<RowKey, Bytes> = BTreeMap::new();
    let (mut left, mut answers) = (keys.clone(), 0);
    while !left.is_empty() {
        answers += 1;
        assert!(answers <= 4, "every answer gets on");
        let mut bytes = 0;
        for (key, row) in left.clone().into_iter().zip(cluster.read(3, read(&left, Level::Quorum)).unwrap()) {
            match row {
                Ok(row) => {
                    let value = row.value().expect("no row looks as if it were absent").clone();
                    bytes += value.len();
                    values.insert(key, value);
                }
                Err(error) => assert_eq!(error, RequestError::AnswerFull { limit_bytes: ANSWER_BYTES }),
            }
        }
        assert!((1..=ANSWER_BYTES).contains(&bytes), "{bytes} bytes in one answer");
        left.retain(|key| !values.contains_key(key));
    }
    assert_eq!(values.len(), 40);
    assert_eq!((cluster.node(3).coordinator.in_flight(), cluster.node(3).coordinator.in_flight_bytes()), (0, 0));
}

/// Rows that a node was asked for, by whatever message.
fn rows_asked_for(cluster: &Cluster, node: u16) -> BTreeSet<RowKey> {
    let heard = cluster.node(node).gate.heard.lock();
    let reads = heard.iter().filter_map(|request| match &request.body {
        RequestBody::Read(read) => Some(read.rows.iter().map(|(key, _)| key.clone())),
        _ => None,
    });
    reads.flatten().collect()
}

#[test]
fn thousands_of_rows_are_read_a_window_at_a_time_and_all_of_them() {
    let keys = keys(1_000);
    let cluster = Cluster::of("a0 a1 a2 (a3)");
    for (number, key) in keys.iter().enumerate().filter(|(number, _)| number % 3 > 0) {
        let record = Record::value(cluster.version(10), number.to_string());
        (0..3).for_each(|node| cluster.plant(node, key.clone(), record.clone()));
    }
    for level in [Level::One, Level::Quorum] {
        let rows = cluster.read(3, read(&keys, level)).unwrap();
        for (number, row) in rows.into_iter().enumerate() {
            let expected = (number % 3 > 0).then(|| Bytes::from(number.to_string()));
            assert_eq!(row.unwrap().value().cloned(), expected, "{level}: row {number}");
        }
    }
    assert!(reads_heard(&cluster, 0, Want::Record) <= 2 * 4, "256 rows go in one message");
}

#[test]
fn rows_that_will_find_no_room_are_read_by_nobody() {
    let keys = keys(1_000);
    let cluster = filled("a0 a1 a2 (a3)", 3, &keys[..40]);
    let rows = cluster.read(3, read(&keys, Level::Quorum)).unwrap();
    let refused = |row: &&Result<_, RequestError>| matches!(row, Err(RequestError::AnswerFull { .. }));
    assert!(rows[256..].iter().all(|row| refused(&row)), "nobody says that they are not there");
    assert_eq!(rows_asked_for(&cluster, 0).len(), 256);
}

#[test]
fn a_read_of_many_windows_ends_with_its_time() {
    let keys = keys(600);
    let cluster = Cluster::of("a0 a1 a2");
    cluster.deafen(1);
    let told = cluster.begin_read(0, read(&keys, Level::Quorum));
    cluster.pass_ms(10_000);
    let rows = told.now().expect("it is told").unwrap();
    assert_eq!(rows.len(), 600);
    assert!(rows.iter().all(|row| matches!(row, Err(RequestError::ReadIncomplete(left)) if left.timed_out)));
    assert_eq!((cluster.node(0).coordinator.in_flight(), cluster.node(0).coordinator.in_flight_bytes()), (0, 0));
}

#[test]
fn a_full_answer_still_tells_of_rows_that_are_not_there() {
    let mut keys = keys(20);
    let cluster = filled("a0 a1 a2", 3, &keys);
    keys.push(RowKey::of("absent"));
    let rows = cluster.read(1, read(&keys, Level::Quorum)).unwrap();
    assert!(rows[..20].iter().any(Result::is_err));
    assert_eq!(rows[20].as_ref().map(|row| row.record.clone()), Ok(None));
}

#[test]
fn what_is_left_of_a_full_answer_is_fetched_from_who_has_it_newest() {
    let keys = keys(10);
    let cluster = filled("a0 a1 a2 (a3)", 1, &keys);
    let newer = Record::value(cluster.version(20), vec![b'y'; MIB]);
    keys.iter().for_each(|key| cluster.plant(1, key.clone(), newer.clone()));
    let rows = cluster.read(3, read(&keys, Level::Quorum)).unwrap();
    assert!(rows.into_iter().all(|row| row.unwrap().record.as_ref() == Some(&newer)));
    assert_eq!(reads_heard(&cluster, 0, Want::Record), 1, "stale records are not asked for again");
}

#[test]
fn a_page_that_replicas_fill_with_different_rows_is_bounded_all_the_same() {
    let cluster = Cluster::of("a0 a1 a2");
    let key = |sort: usize| RowKey::with_sort("p", format!("{sort:03}"));
    for sort in 0..12 {
        cluster.plant(sort as u16 % 3, key(sort), Record::value(cluster.version(10), vec![b'x'; MIB]));
    }
    let (mut from, mut sorts) = (Bound::Unbounded, Vec::new());
    loop {
        let request = RangeRequest {
            table: table(),
            partition: "p".into(),
            from,
            to: Bound::Unbounded,
            backward: false,
            rows_max: 100,
            terms: Terms::at(Level::All),
        };
        let page = cluster.range(0, request).unwrap();
        let bytes: usize = page.rows.iter().map(|row| row.record.encoded_len()).sum();
        assert!((1..=PAGE_BYTES).contains(&bytes), "{bytes} bytes on one page");
        let next = page.next_bound();
        sorts.extend(page.rows.into_iter().map(|row| row.key));
        match next {
            Some(next) => from = next,
            None => break,
        }
    }
    assert_eq!(sorts, (0..12).map(key).collect::<Vec<_>>());
    assert_eq!(cluster.node(0).coordinator.in_flight_bytes(), 0);
}

fn large(key: &str) -> WriteRequest {
    write(
        vec![(RowKey::of(key.to_owned()), Change::Put { value: vec![b'x'; MIB].into(), ttl_ms: None })],
        Level::Quorum,
    )
}

#[test]
fn past_its_bound_on_bytes_a_coordinator_refuses_and_afterwards_accepts_again() {
    let cluster = Cluster::with("a0 a1 a2", Settings { in_flight_bytes_max: 5 * MIB / 2, ..settings() });
    let coordinator = &cluster.node(0).coordinator;
    let under_way = ["a", "b"].map(|key| cluster.begin_write(0, large(key)));
    let held = coordinator.in_flight_bytes();
    assert!(held >= 2 * MIB);
    let refused = one(cluster.begin_write(0, large("c")).now().expect("it is refused at once")).unwrap_err();
    let expected = RequestError::OverloadedBytes { bytes: held, limit_bytes: 5 * MIB / 2, retry_after_ms: 50 };
    assert_eq!(refused, expected);
    assert_eq!(coordinator.in_flight_bytes(), held, "what was refused holds nothing");
    cluster.settle();
    assert!(under_way.iter().all(|told| told.now().unwrap().is_ok()));
    assert_eq!((coordinator.in_flight(), coordinator.in_flight_bytes()), (0, 0));
    one(cluster.write(0, large("c"))).unwrap();
}

#[test]
fn alone_a_request_of_any_size_within_the_limits_is_taken() {
    let cluster = Cluster::with("a0 a1 a2", Settings { in_flight_bytes_max: 1, ..settings() });
    one(cluster.write(0, large("k"))).unwrap();
    assert!(one(cluster.read(1, read(&[RowKey::of("k")], Level::Quorum))).unwrap().value().is_some());
}

#[test]
fn reads_count_towards_the_bytes_while_their_clients_wait() {
    let keys = keys(3);
    let cluster = filled("a0 a1 a2", 3, &keys);
    cluster.deafen(1);
    cluster.deafen(2);
    let told = cluster.begin_read(0, read(&keys, Level::Quorum));
    cluster.settle();
    assert!(cluster.node(0).coordinator.in_flight_bytes() >= 3 * MIB, "its own records are here");
    cluster.pass_ms(10_000);
    assert!(told.now().is_some());
    assert_eq!(cluster.node(0).coordinator.in_flight_bytes(), 0);
}

#[test]
fn a_row_as_large_as_an_answer_is_read_though_an_old_record_of_it_came_first() {
    let limits = Limits { value_bytes_max: MIB, page_bytes_max: MIB, batch_bytes_max: MIB, ..Limits::default() };
    let cluster = Cluster::bounded("a0 a1 a2", settings(), limits);
    let record = |ms, byte| Record::value(cluster.version(ms), vec![byte; MIB - 100]);
    let key = RowKey::of("k");
    cluster.plant(0, key.clone(), record(10, b'o'));
    let newest = record(20, b'n');
    (1..3).for_each(|node| cluster.plant(node, key.clone(), newest.clone()));
    let row = one(cluster.read(0, read(&[key], Level::Quorum))).expect("alone it has room");
    assert_eq!(row.record, Some(newest));
    assert_eq!(cluster.node(0).coordinator.in_flight_bytes(), 0);
}

#[test]
fn rows_that_a_late_replica_is_still_to_take_count_after_the_client_was_told() {
    let cluster = Cluster::of("a0 a1 a2");
    let coordinator = &cluster.node(0).coordinator;
    cluster.deafen(2);
    one(cluster.write(0, large("k"))).unwrap();
    assert_eq!(coordinator.in_flight(), 0, "the client was told");
    assert!(coordinator.in_flight_bytes() >= MIB, "and the rows are here");
    cluster.pass_ms(10_000);
    assert_eq!((coordinator.in_flight_bytes(), coordinator.under_way()), (0, 0));
}
