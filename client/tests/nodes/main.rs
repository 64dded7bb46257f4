//! The client with real nodes: one that is killed under load, and the examples' own ground.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

mod sizes;

include!("real_nodes.rs");

use std::collections::BTreeMap;
use std::time::Duration;

use cube_client::{Client, Key, Options};
use futures::future::join_all;

/// Longer than the death of a node is noticed in on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);
/// Writers, and rows that each of them writes before and after the node is killed.
const WRITERS: usize = 8;
const ROWS: usize = 40;

#[tokio::test]
async fn a_node_killed_under_load_costs_no_acknowledged_row_and_no_read() {
    let mut nodes = RealNodes::start(3);
    let options = Options { timeout: PATIENCE, attempts_max: 1_000, ..Options::default() };
    let client = Client::connect_with(nodes.addresses(), options).await.unwrap();
    let table = client.default_table();
    let write = async |writer: usize, rows: std::ops::Range<usize>| {
        let mut outcomes = BTreeMap::new();
        for row in rows {
            let key = format!("{writer}-{row}");
            let outcome = table.put(key.as_str(), key.clone()).send().await;
            outcomes.insert(key, outcome);
        }
        outcomes
    };
    let before = join_all((0..WRITERS).map(|writer| write(writer, 0..ROWS))).await;
    // The writers go on while it is killed.
    let kill = async {
        table.put("a write is under way", "v").send().await.unwrap();
        nodes.kill(2);
    };
    let (during, ()) = futures::join!(join_all((0..WRITERS).map(|writer| write(writer, ROWS..2 * ROWS))), kill);
    let mut acknowledged = 0;
    for (key, outcome) in before.into_iter().chain(during).flatten() {
        match outcome {
            Ok(_) => {
                acknowledged += 1;
                let found = table.get(key.as_str()).send().await.unwrap();
                assert_eq!(found.value.unwrap(), key);
            }
            // The one that the node was about to answer.
            Err(error) => assert!(error.may_take_effect(), "{error}"),
        }
    }
    assert!(acknowledged >= 2 * WRITERS * ROWS - WRITERS, "{acknowledged} acknowledged");
}

#[tokio::test]
async fn rows_are_written_read_listed_and_deleted() {
    let nodes = RealNodes::start(1);
    let client =
        Client::connect_with(nodes.addresses(), Options { timeout: PATIENCE, ..Options::default() }).await.unwrap();
    for table in [client.default_table(), client.session().default_table()] {
        let written = table.put("k", "v").send().await.unwrap();
        let found = table.get("k").send().await.unwrap();
        assert_eq!((found.value.unwrap(), found.version), ("v".into(), Some(written.version)));
        table.put("k", "w").seen(written.version).repeatable().send().await.unwrap();
        assert_eq!(table.get("k").send().await.unwrap().value.unwrap(), "w");
        table.delete("k").send().await.unwrap();
        assert_eq!(table.get("k").send().await.unwrap().value, None);
        let rows = (0..25).map(|number| (Key::sorted("p", format!("{number:02}")), "v"));
        for (_, outcome) in table.put_all(rows).ttl(HOUR).send().await.unwrap() {
            outcome.unwrap();
        }
        let mut range = table.range("p").page_rows(10).from("05");
        let mut sorts = Vec::new();
        while let Some(row) = range.next().await.unwrap() {
            assert!(row.expires_at_ms.is_some(), "{:?} ends by itself", row.key);
            sorts.push(row.key.sort);
        }
        assert_eq!((sorts.len(), &sorts[0][..]), (20, &b"05"[..]));
        let all = table.get_all([Key::sorted("p", "00"), "nothing".into()]).send().await.unwrap();
        assert_eq!(all.into_iter().map(|row| row.unwrap().value.is_some()).collect::<Vec<_>>(), [true, false]);
    }
    let error = client.table("default", "nowhere").get("k").send().await.unwrap_err();
    assert_eq!(error.code(), "unknown_table");
}
