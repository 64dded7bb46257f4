//! Pages of the rows of one partition key, merged from replicas that differ.

use std::ops::Bound;

use bytes::Bytes;
use cube_replication::consistency::Level;
use cube_replication::coordinator::{RangeRequest, RequestError, Terms};
use cube_storage::model::{Invalid, Record, RowKey};

use super::cluster::{Cluster, table};

const PARTITION: &str = "node-7";

fn row(sort: u32) -> RowKey {
    RowKey::with_sort(PARTITION, format!("{sort:03}"))
}

fn request(level: Level, backward: bool, rows_max: usize) -> RangeRequest {
    RangeRequest {
        table: table(),
        partition: PARTITION.into(),
        from: Bound::Unbounded,
        to: Bound::Unbounded,
        backward,
        rows_max,
        terms: Terms::at(level),
    }
}

/// Rows 0 to 29, of which each replica misses some, has others outdated, and holds all of the rest.
fn torn() -> Cluster {
    let cluster = Cluster::of("a0 a1 a2");
    for sort in 0..30 {
        let (newest, older) = (cluster.version(20), cluster.version(10));
        for node in 0..3 {
            let record = match (sort + u32::from(node)) % 5 {
                // Whoever this is, the next one holds it.
                0 => continue,
                1 => Record::value(older, "older"),
                _ if sort % 7 == 0 => Record::tombstone(newest),
                _ => Record::value(newest, sort.to_string()),
            };
            cluster.plant(node, row(sort), record);
        }
    }
    cluster
}

/// All pages, one behind the other.
fn pages(cluster: &Cluster, by: u16, mut request: RangeRequest) -> Vec<Vec<(RowKey, Record)>> {
    let mut pages = Vec::new();
    loop {
        let page = cluster.range(by, request.clone()).unwrap();
        assert!(page.rows.len() <= request.rows_max);
        let next = page.next_bound();
        assert_eq!(next.is_some(), page.more);
        pages.push(page.rows.into_iter().map(|row| (row.key, row.record)).collect());
        match next {
            None => return pages,
            Some(bound) if request.backward => request.to = bound,
            Some(bound) => request.from = bound,
        }
    }
}

fn expected(cluster: &Cluster) -> Vec<(RowKey, Record)> {
    let newest = |sort: u32| match sort % 7 {
        0 => Record::tombstone(cluster.version(20)),
        _ => Record::value(cluster.version(20), sort.to_string()),
    };
    (0..30).map(|sort| (row(sort), newest(sort))).collect()
}

#[test]
fn pages_of_any_size_in_either_direction_hold_every_row_once_and_newest() {
    for backward in [false, true] {
        for rows_max in [1, 2, 7, 30, 100] {
            let cluster = torn();
            let mut all: Vec<_> = pages(&cluster, 1, request(Level::All, backward, rows_max)).concat();
            if backward {
                all.reverse();
            }
            assert_eq!(all, expected(&cluster), "backward {backward}, pages of {rows_max}");
        }
    }
}

#[test]
fn replicas_that_are_behind_hold_the_rows_of_a_page_before_it_is_told() {
    let cluster = torn();
    let page = cluster.range(0, request(Level::All, false, 12)).unwrap();
    assert_eq!(page.rows.len(), 12);
    for node in cluster.nodes.values() {
        for row in &page.rows {
            assert_eq!(node.held(&row.key).as_ref(), Some(&row.record), "{}: {}", node.id, row.key);
        }
    }
    // And no more than that was repaired.
    assert_eq!(cluster.node(0).held(&row(15)), None);
}

#[test]
fn what_a_quorum_page_told_is_told_again_whoever_dies() {
    for dead in 0..3 {
        let cluster = torn();
        let by = (dead + 1) % 3;
        let before = cluster.range(by, request(Level::Quorum, false, 30)).unwrap().rows;
        cluster.kill(dead);
        let after = cluster.range(by, request(Level::Quorum, false, 30)).unwrap().rows;
        for row in before {
            let again =
                after.iter().find(|again| again.key == row.key).unwrap_or_else(|| panic!("{} is gone", row.key));
            assert!(again.record == row.record || again.record.supersedes(&row.record), "{} went back", row.key);
        }
    }
}

#[test]
fn a_page_at_one_is_one_replicas_and_changes_nothing() {
    let cluster = torn();
    let page = cluster.range(0, request(Level::One, false, 100)).unwrap();
    assert_eq!(page.rows.len(), 24, "row 0, 5, 10, ... are missing here");
    assert_eq!(cluster.node(0).held(&row(5)), None);
}

#[test]
fn bounds_are_kept_in_either_direction() {
    let cluster = torn();
    for backward in [false, true] {
        let bound = |sort: u32| row(sort).sort;
        let between = RangeRequest {
            from: Bound::Excluded(bound(3)),
            to: Bound::Included(bound(9)),
            ..request(Level::Quorum, backward, 4)
        };
        let mut keys: Vec<Bytes> = pages(&cluster, 2, between).concat().into_iter().map(|(key, _)| key.sort).collect();
        keys.sort();
        assert_eq!(keys, (4..=9).map(bound).collect::<Vec<_>>(), "backward {backward}");
    }
    let nothing = RangeRequest {
        from: Bound::Included("1".into()),
        to: Bound::Excluded("1".into()),
        ..request(Level::Quorum, false, 4)
    };
    assert_eq!(pages(&cluster, 0, nothing), [vec![]]);
    let reversed = RangeRequest {
        from: Bound::Included("9".into()),
        to: Bound::Excluded("1".into()),
        ..request(Level::Quorum, false, 4)
    };
    assert_eq!(cluster.range(0, reversed), Err(RequestError::Invalid(Invalid::RangeReversed)));
}

#[test]
fn rows_of_other_partition_keys_are_not_listed() {
    let cluster = torn();
    for partition in ["node-", "node-70", "node-8"] {
        cluster.plant(0, RowKey::with_sort(partition, "001"), Record::value(cluster.version(30), "other"));
    }
    let listed = pages(&cluster, 0, request(Level::All, false, 100)).concat();
    assert_eq!(listed, expected(&cluster));
}

#[test]
fn a_page_that_bytes_cut_short_goes_on_where_it_ended() {
    let cluster = Cluster::of("a0 a1 a2");
    let big = |ms| Record::value(cluster.version(ms), vec![b'x'; 1_500_000]);
    for sort in 0..6 {
        for node in 0..3 {
            cluster.plant(node, row(sort), big(if node == 2 { 5 } else { 10 }));
        }
    }
    let pages = pages(&cluster, 0, request(Level::All, false, 100));
    assert!(pages.len() > 1, "a page holds at most 4 MiB");
    let versions: Vec<_> = pages.concat().into_iter().map(|(_, record)| record.version).collect();
    assert_eq!(versions, [cluster.version(10); 6]);
}

#[test]
fn a_replica_that_fails_is_replaced_for_a_page_too() {
    let cluster = torn();
    let io = cube_storage::engine::EngineError::Io { detail: "a bad sector".into() };
    cluster.node(2).engine.fail_with(io);
    // Replica 2 tells its page, and cannot be brought up to date: the third one can.
    let page = cluster.range(2, request(Level::Quorum, false, 30)).unwrap();
    assert_eq!(page.rows.len(), 30);
    let holders = |row: &RowKey, record: &Record| {
        [0, 1].iter().filter(|node| cluster.node(**node).held(row).as_ref() == Some(record)).count()
    };
    assert!(page.rows.iter().all(|row| holders(&row.key, &row.record) >= 1));
}

#[test]
fn a_page_that_cannot_be_is_refused() {
    let cluster = torn();
    for rows_max in [0, 10_001] {
        let refused = cluster.range(0, request(Level::Quorum, false, rows_max));
        assert!(matches!(refused, Err(RequestError::Invalid(Invalid::Page { .. }))), "{rows_max}");
    }
    let empty = RangeRequest { partition: Bytes::new(), ..request(Level::Quorum, false, 1) };
    assert_eq!(cluster.range(0, empty), Err(RequestError::Invalid(Invalid::EmptyKey)));
    assert!(matches!(cluster.range(0, request(Level::Any, false, 1)), Err(RequestError::ReadAtAny(_))));
    for node in [1, 2] {
        cluster.kill(node);
    }
    assert!(matches!(cluster.range(0, request(Level::Quorum, false, 1)), Err(RequestError::ReadUnavailable(_))));
    assert_eq!(cluster.node(0).coordinator.in_flight(), 0);
}
