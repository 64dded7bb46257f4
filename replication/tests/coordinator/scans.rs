//! Pages of a whole table by key prefix, merged from replicas that differ, over any number of nodes and partitions.

use std::collections::BTreeMap;

use bytes::Bytes;
use cube_replication::catalog::Hedge;
use cube_replication::consistency::Level;
use cube_replication::coordinator::{Asked, Kind, PrefixPage, PrefixRequest, RequestError, Terms};
use cube_replication::topology::TopologyChange;
use cube_storage::model::{Invalid, Record, RowKey};
use cube_storage::{SyncState, UnsyncedCause};

use super::cluster::{BITS, Cluster, PLACEMENT, TABLE_ID, Told, n, table};

fn request(level: Level, prefix: &str, rows_max: usize) -> PrefixRequest {
    PrefixRequest {
        table: table(),
        prefix: Bytes::copy_from_slice(prefix.as_bytes()),
        backward: false,
        rows_max,
        bytes_max: None,
        resume: None,
        terms: Terms::at(level),
    }
}

fn page(cluster: &Cluster, by: u16, request: PrefixRequest) -> Result<PrefixPage, RequestError> {
    let (told, done) = Told::new();
    let _scanning = cluster.node(by).coordinator.scan(request, done);
    cluster.settle();
    told.now().expect("the page ends")
}

fn pages(cluster: &Cluster, by: u16, mut request: PrefixRequest) -> Vec<PrefixPage> {
    let mut pages = Vec::new();
    loop {
        let page = page(cluster, by, request.clone()).unwrap();
        assert!(page.rows.len() <= request.rows_max);
        request.resume.clone_from(&page.next);
        pages.push(page);
        if request.resume.is_none() {
            return pages;
        }
    }
}

fn live(pages: &[PrefixPage]) -> Vec<(RowKey, Bytes)> {
    pages.iter().flat_map(PrefixPage::live).map(|(key, value)| (key.clone(), value.clone())).collect()
}

fn key(number: u32) -> RowKey {
    match number % 3 {
        0 => RowKey::of(format!("user:{number:03}")),
        _ => RowKey::with_sort(format!("user:{:03}", number - number % 3), format!("{number:03}")),
    }
}

/// Rows 0 to 59 among others, of which each replica misses some that the others hold, and has others outdated.
fn torn(hedge: Hedge) -> (Cluster, Vec<(RowKey, Bytes)>) {
    let cluster = Cluster::of_table("a0 a1 a2 (a3)", 0, hedge);
    let mut expected = BTreeMap::new();
    for number in 0..60 {
        let (newest, older) = (cluster.version(20), cluster.version(10));
        let is_deleted = number % 7 == 0;
        for node in 0..3 {
            let record = match (number + u32::from(node)) % 5 {
                0 if number % 2 == 0 => continue,
                0 => Record::value(older, "older"),
                _ if is_deleted => Record::tombstone(newest),
                _ => Record::value(newest, number.to_string()),
            };
            cluster.plant(node, key(number), record);
        }
        if !is_deleted {
            expected.insert(key(number), Bytes::from(number.to_string()));
        }
    }
    for other in ["use", "user", "user;", "v"] {
        (0..3).for_each(|node| cluster.plant(node, RowKey::of(other), Record::value(cluster.version(1), "other")));
    }
    (cluster, expected.into_iter().collect())
}

#[test]
fn pages_of_any_size_in_either_direction_hold_every_live_row_once_and_newest() {
    for backward in [false, true] {
        for rows_max in [1, 7, 100] {
            for level in [Level::Quorum, Level::All] {
                let (cluster, mut expected) = torn(Hedge::Off);
                if backward {
                    expected.reverse();
                }
                let pages = pages(&cluster, 3, PrefixRequest { backward, ..request(level, "user:", rows_max) });
                assert_eq!(live(&pages), expected, "backward {backward}, pages of {rows_max} at {level}");
                assert!(pages.iter().all(|page| page.partial.is_empty()));
            }
        }
    }
}

#[test]
fn an_empty_prefix_is_all_rows_and_one_that_nothing_has_is_none() {
    let (cluster, expected) = torn(Hedge::Off);
    assert_eq!(live(&pages(&cluster, 0, request(Level::Quorum, "", 1_000))).len(), expected.len() + 4);
    let none = pages(&cluster, 0, request(Level::Quorum, "nobody", 10));
    assert_eq!((none.len(), none[0].rows.len()), (1, 0));
}

#[test]
fn what_a_quorum_page_told_is_told_again_whoever_dies() {
    for dead in 0..3 {
        let (cluster, expected) = torn(Hedge::Off);
        assert_eq!(live(&pages(&cluster, 3, request(Level::Quorum, "user:", 10))), expected);
        cluster.kill(dead);
        assert_eq!(live(&pages(&cluster, 3, request(Level::Quorum, "user:", 10))), expected, "{dead} is dead");
    }
}

#[test]
fn a_node_that_dies_between_two_pages_takes_no_row_along() {
    let (cluster, expected) = torn(Hedge::Off);
    let first = page(&cluster, 3, request(Level::Quorum, "user:", 20)).unwrap();
    cluster.kill(1);
    let rest = PrefixRequest { resume: first.next.clone(), ..request(Level::Quorum, "user:", 20) };
    let pages: Vec<PrefixPage> = std::iter::once(first).chain(pages(&cluster, 3, rest)).collect();
    assert_eq!(live(&pages), expected);
}

#[test]
fn a_replica_that_stands_still_is_passed_and_one_that_is_out_of_sync_is_not_counted() {
    let (cluster, expected) = torn(Hedge::After { ms: 10 });
    for partition in BITS.all() {
        let unsynced = SyncState::Unsynced(UnsyncedCause::DamagedData);
        cluster.node(0).store.set_sync(PLACEMENT, partition, unsynced).unwrap();
    }
    assert_eq!(live(&pages(&cluster, 3, request(Level::Quorum, "user:", 1_000))), expected);

    let (cluster, expected) = torn(Hedge::After { ms: 10 });
    cluster.deafen(1);
    let (told, done) = Told::new();
    let _scanning = cluster.node(3).coordinator.scan(request(Level::Quorum, "user:", 1_000), done);
    // Pieces first, and then the rows on which the others differ, each past the one that stands still.
    cluster.pass_ms(10);
    cluster.pass_ms(10);
    let page = told.now().expect("the others answered").unwrap();
    assert_eq!(live(&[page]), expected);
}

#[test]
fn a_page_that_cannot_reach_its_level_everywhere_names_the_partitions() {
    let (cluster, expected) = torn(Hedge::Off);
    let lost = BITS.partition_of(key(1).token());
    for node in [0, 1] {
        let unsynced = SyncState::Unsynced(UnsyncedCause::DamagedData);
        cluster.node(node).store.set_sync(PLACEMENT, lost, unsynced).unwrap();
    }
    let page = page(&cluster, 3, request(Level::Quorum, "user:", 1_000)).unwrap();
    assert_eq!(page.partial.iter().copied().collect::<Vec<_>>(), [lost]);
    let rest: Vec<_> = expected.into_iter().filter(|(key, _)| BITS.partition_of(key.token()) != lost).collect();
    assert_eq!(live(&[page]), rest);
    let figures = cluster.node(3).coordinator.read_figures()[&TABLE_ID];
    assert_eq!(figures.partial_pages, 1);
}

#[test]
fn a_page_that_nobody_can_tell_is_an_error() {
    let (cluster, _) = torn(Hedge::Off);
    cluster.kill(0);
    cluster.kill(1);
    let refused = page(&cluster, 3, request(Level::Quorum, "user:", 10));
    assert!(matches!(refused, Err(RequestError::ReadUnavailable(_))), "{refused:?}");
    let (cluster, _) = torn(Hedge::Off);
    [0, 1].iter().for_each(|node| cluster.deafen(*node));
    let (told, done) = Told::new();
    let _scanning = cluster.node(3).coordinator.scan(request(Level::Quorum, "user:", 10), done);
    cluster.pass_ms(10_000);
    let refused = told.now().expect("its time is over");
    assert!(matches!(refused, Err(RequestError::ReadIncomplete(_))), "{refused:?}");
    assert_eq!((cluster.node(3).coordinator.in_flight(), cluster.node(3).coordinator.in_flight_bytes()), (0, 0));
}

#[test]
fn a_page_that_nobody_waits_for_is_let_go() {
    let (cluster, _) = torn(Hedge::Off);
    cluster.deafen(0);
    let (told, done) = Told::new();
    let scanning = cluster.node(3).coordinator.scan(request(Level::Quorum, "user:", 10), done);
    cluster.settle();
    assert_eq!(cluster.node(3).coordinator.in_flight(), 1);
    drop(scanning);
    let coordinator = &cluster.node(3).coordinator;
    assert_eq!((coordinator.in_flight(), coordinator.in_flight_bytes(), coordinator.under_way()), (0, 0, 0));
    cluster.node(0).gate.release();
    cluster.pass_ms(10_000);
    assert!(told.now().is_none());
}

#[test]
fn requests_that_cannot_be_are_refused_with_the_reason() {
    let (cluster, _) = torn(Hedge::Off);
    let refused = |request| match page(&cluster, 0, request) {
        Err(RequestError::Invalid(invalid)) => invalid,
        other => panic!("{other:?}"),
    };
    assert_eq!(
        refused(PrefixRequest { resume: Some("garbage".into()), ..request(Level::One, "u", 5) }),
        Invalid::PageToken
    );
    assert_eq!(
        refused(PrefixRequest { resume: Some(Bytes::new()), ..request(Level::One, "u", 5) }),
        Invalid::PageToken
    );
    let long = request(Level::One, &"u".repeat(64 << 10), 5);
    assert_eq!(refused(long), Invalid::KeyTooLong { bytes: 64 << 10, limit: 4 << 10 });
    for rows_max in [0, 10_001, usize::MAX] {
        assert!(matches!(refused(request(Level::One, "u", rows_max)), Invalid::Page { .. }));
    }
    let bytes_max = Some(1 << 40);
    assert!(matches!(refused(PrefixRequest { bytes_max, ..request(Level::One, "u", 5) }), Invalid::Page { .. }));
    let next = page(&cluster, 0, request(Level::One, "user:", 5)).unwrap().next;
    assert_eq!(refused(PrefixRequest { resume: next, ..request(Level::One, "user:0", 5) }), Invalid::PageToken);
    assert!(matches!(page(&cluster, 0, request(Level::Any, "u", 5)), Err(RequestError::ReadAtAny(_))));
}

#[test]
fn pages_are_cut_by_bytes_and_a_row_that_is_larger_comes_alone() {
    let cluster = Cluster::of("a0 a1 a2");
    for number in 0..6 {
        let value = vec![b'x'; if number == 3 { 500_000 } else { 30_000 }];
        for node in 0..3 {
            cluster.plant(node, RowKey::of(format!("big{number}")), Record::value(cluster.version(1), value.clone()));
        }
    }
    let pages = pages(&cluster, 0, PrefixRequest { bytes_max: Some(100_000), ..request(Level::Quorum, "big", 100) });
    assert_eq!(pages.iter().map(|page| page.rows.len()).sum::<usize>(), 6);
    for page in &pages {
        let bytes: usize = page.rows.iter().map(|row| row.key.len_bytes() + row.record.encoded_len()).sum();
        assert!(bytes <= 100_000 || page.rows.len() == 1, "{bytes} bytes on a page");
    }
}

/// The coordinator has not heard of the change that the others refuse its map for.
#[test]
fn a_scan_goes_on_where_it_was_while_replicas_change() {
    let mut cluster = Cluster::of("a0 a1 a2 a3");
    for number in 0..30 {
        let record = Record::value(cluster.version(1), number.to_string());
        (0..3).for_each(|node| cluster.plant(node, key(number), record.clone()));
    }
    let first = page(&cluster, 0, request(Level::Quorum, "user:", 10)).unwrap();
    for partition in BITS.all() {
        let replicas = [0, 1, 3].map(n).to_vec();
        cluster.change(&TopologyChange::BeginMove { placement: PLACEMENT, partition, replicas });
    }
    [1, 2, 3].iter().for_each(|node| cluster.node(*node).learn(&cluster.state));
    let rest = PrefixRequest { resume: first.next.clone(), ..request(Level::Quorum, "user:", 100) };
    let (told, done) = Told::new();
    let _scanning = cluster.node(0).coordinator.scan(rest, done);
    cluster.settle();
    assert!(told.now().is_none(), "it waits for the newer map");
    cluster.node(0).learn(&cluster.state);
    cluster.settle();
    let second = told.now().expect("it goes on by the newer map").unwrap();
    assert!(second.partial.is_empty());
    let mut numbers: Vec<RowKey> = live(&[first, second]).into_iter().map(|(key, _)| key).collect();
    numbers.dedup();
    assert_eq!(numbers.len(), 30, "every row once");
    // What was told is held where it will be read: by two of three.
    let holders =
        |number: u32| [0, 1, 3].iter().filter(|node| cluster.node(**node).held(&key(number)).is_some()).count();
    assert!((10..30).all(|number| holders(number) >= 2));
}

#[test]
fn a_page_tells_what_was_done_for_it() {
    let (cluster, _) = torn(Hedge::Off);
    let terms = Terms { explain: true, ..Terms::at(Level::Quorum) };
    let account = page(&cluster, 3, PrefixRequest { terms, ..request(Level::Quorum, "user:", 100) }).unwrap().account;
    let account = account.expect("it was asked for");
    let asked_for = |asked| account.messages.iter().filter(|message| message.asked == asked).count();
    assert_eq!((account.kind, asked_for(Asked::Page)), (Kind::Scan, 2), "each node once: {account}");
    // Rows that differ are read by themselves, and what that found is told with the page.
    let differ = |number: &u32| (0..3).any(|node| (number + node).is_multiple_of(5));
    assert!(!account.verdicts.is_empty(), "{account}");
    for verdict in &account.verdicts {
        assert_eq!(verdict.stale.len(), 1, "{verdict:?}");
        assert!((0..60).filter(differ).any(|number| key(number) == verdict.key), "{verdict:?}");
    }
    let repairs = asked_for(Asked::Repair);
    assert!(repairs > 0 && account.messages.iter().all(|message| message.answered_ms.is_some()), "{account}");
}
