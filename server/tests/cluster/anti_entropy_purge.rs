//! Purging and scrub between real nodes: the dead go from all replicas by proof and stay dead, who is away is in the way
//! visibly, and a flipped byte is healed from the others.

use std::fs;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Duration;

use cube_storage::engine::{Direction, Reader as _, RocksEngine, RocksOptions, Space};
use cube_storage::keyspace::KeyRange;
use serde_json::json;

use crate::anti_entropy::{clock_of, comparing, delete_many, number, status, wait_in_sync};
use crate::harness::Cluster;
use crate::harness::time::{PATIENCE, eventually};
use crate::hints::{held_by_the_third, keys, kill_the_third, put_many};

/// Rows of all tables, deletions included, that a dead node has on disk.
fn rows_on_disk(cluster: &mut Cluster, node: u8) -> usize {
    let engine = RocksEngine::open(cluster.node(node).data(), &RocksOptions::default()).unwrap();
    let mut rows = 0;
    let mut count = |_: &[u8], _: &[u8]| {
        rows += 1;
        ControlFlow::Continue(())
    };
    engine.scan(Space::Data, &KeyRange { start: Vec::new(), end: Vec::new() }, Direction::Forward, &mut count).unwrap();
    rows
}

#[test]
fn deletions_are_purged_from_all_replicas_once_nobody_is_away_and_nothing_reappears() {
    let mut cluster = comparing(Cluster::of(3).set("anti_entropy.purge_interval", "1s"));
    let grace = json!({"grace": "1s"});
    cluster.api(1).ask("PATCH", "keyspaces/default/tables/kv", Some(&grace));
    let (gone, stay) = (keys("gone", 400), keys("stay", 50));
    put_many(&cluster, &gone, "value");
    put_many(&cluster, &stay, "value");
    let present = |cluster: &mut Cluster| {
        cluster.kill(&[1, 2, 3]);
        let rows = [1, 2, 3].map(|node| rows_on_disk(cluster, node));
        cluster.restart(&[1, 2, 3]);
        cluster.wait_formed(&[1, 2, 3]);
        rows
    };
    let before = present(&mut cluster);
    kill_the_third(&mut cluster);
    delete_many(&cluster, &gone);
    eventually("node-3 is told to be in the way", PATIENCE, || {
        let blocked: Vec<_> = [1, 2].map(|node| status(&cluster, node)["purge"]["blockedBy"]["node-3"].clone()).into();
        if blocked.iter().any(|blocked| number(blocked) > 0) { Ok(()) } else { Err(format!("{blocked:?}")) }
    });
    let purged = |cluster: &Cluster, nodes: &[u8]| -> u64 {
        nodes.iter().map(|node| number(&status(cluster, *node)["purge"]["rows"])).sum()
    };
    assert_eq!(purged(&cluster, &[1, 2]), 0, "as long as node-3 is away nothing is purged");
    cluster.restart(&[3]);
    eventually("all deletions are purged", Duration::from_secs(180), || {
        let statuses = || [1, 2, 3].map(|node| status(&cluster, node)["purge"].to_string());
        if purged(&cluster, &[1, 2, 3]) >= 3 * 400 { Ok(()) } else { Err(statuses().join("\n")) }
    });
    let after = present(&mut cluster);
    for (before, after) in before.into_iter().zip(after) {
        // The probes of the harness, which are there in both, are written again and again.
        assert_eq!(after, before - 400, "no deletion is left");
    }
    let since_ms = clock_of(&cluster);
    wait_in_sync(&cluster, &[1, 2, 3], since_ms, Duration::from_secs(180));
    cluster.kill(&[1, 2]);
    let held = held_by_the_third(&mut cluster, &gone);
    assert!(held.values().all(Option::is_none), "a deleted key is back");
    let held = held_by_the_third(&mut cluster, &stay);
    assert!(held.values().all(Option::is_some), "a key that was not deleted is gone");
}

/// The largest table file of a dead node, which is one of rows.
fn largest_table_file(cluster: &mut Cluster, node: u8) -> PathBuf {
    let files = fs::read_dir(cluster.node(node).data().join("rocks")).unwrap().map(|entry| entry.unwrap().path());
    let tables = files.filter(|path| path.extension().is_some_and(|end| end == "sst"));
    tables.max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap()
}

#[test]
fn a_flipped_byte_in_a_table_file_is_found_by_the_scrub_and_healed_from_the_others_which_stay_as_they_are() {
    const ROWS: usize = 4_000;
    let mut cluster = comparing(Cluster::of(3).set("scrub.enabled", "false"));
    let (all, value) = (keys("row", ROWS), "0123456789abcdef".repeat(16));
    put_many(&cluster, &all, &value);
    let since_ms = clock_of(&cluster);
    wait_in_sync(&cluster, &[1, 2, 3], since_ms, PATIENCE);
    // Coming back from a kill puts what is in the log into table files.
    cluster.kill(&[3]);
    cluster.restart(&[3]);
    cluster.kill(&[3]);
    let path = largest_table_file(&mut cluster, 3);
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 3;
    bytes[middle] ^= 0x10;
    fs::write(&path, bytes).unwrap();

    cluster.restart(&[3]);
    cluster.wait_seen(1, &[3], "ALIVE");
    let mut api = cluster.api(3);
    let scrubbed = |node: u8| {
        let began = cluster.api(node).ask("POST", "replication/scrub", None);
        assert_eq!(began["scrub"]["state"], "ON_DEMAND", "{began}");
        eventually(&format!("node-{node} is scrubbed"), PATIENCE, || {
            let scrub = cluster.api(node).ask("GET", "replication/scrub", None);
            if scrub["state"] == "OFF" { Ok(scrub) } else { Err(scrub.to_string()) }
        })
    };
    let found = scrubbed(3);
    let told = status(&cluster, 3);
    let not_in_sync = number(&told["tables"][0]["notInSyncHere"]);
    println!("found {found}, of {not_in_sync} partitions in {}", told["tables"][0]);
    eventually("node-3 is healed", Duration::from_secs(180), || {
        let told = status(&cluster, 3);
        if told["tables"][0]["notInSyncHere"] == 0 { Ok(()) } else { Err(told.to_string()) }
    });
    let again = scrubbed(3);
    assert_eq!(again["lastCycleDamaged"], 0, "{again}");
    assert!(number(&found["damaged"]) > 0 || not_in_sync > 0, "the flipped byte was found: {found}, {told}");
    for healthy in [1, 2] {
        let scrub = scrubbed(healthy);
        assert_eq!(scrub["damaged"], 0, "node-{healthy} is untouched: {scrub}");
        let told = status(&cluster, healthy);
        assert_eq!(told["tables"][0]["notInSyncHere"], 0, "{told}");
    }
    assert!(api.health().unwrap().is_success());
    let since_ms = clock_of(&cluster);
    wait_in_sync(&cluster, &[1, 2, 3], since_ms, Duration::from_secs(180));
    cluster.kill(&[1, 2]);
    let held = held_by_the_third(&mut cluster, &all);
    let wrong: Vec<_> = held.iter().filter(|(_, held)| held.as_deref() != Some(value.as_str())).collect();
    assert!(wrong.is_empty(), "{} of {ROWS} are wrong on node-3: {:?}", wrong.len(), wrong.first());
}
