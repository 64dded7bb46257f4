//! Purging and scrub between real nodes: the dead go from all replicas by proof and stay dead, who is away is in the way
//! visibly, and a flipped byte is healed from the others.

use std::fs;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Duration;

use cube_storage::engine::{Direction, Reader as _, RocksEngine, RocksOptions, Space};
use cube_storage::keyspace::KeyRange;
use serde_json::{Value, json};

use crate::anti_entropy::{clock_of, comparing, delete_many, number, status, wait_in_sync};
use crate::harness::Cluster;
use crate::harness::time::{PATIENCE, eventually};
use crate::hints::{held_by_the_third, keys, kill_the_third, put_many};

/// Rounds of purging of all nodes together after which it is looked what is left.
const ROUNDS: u64 = 30;
/// How often it is looked.
const LOOKS_MAX: usize = 6;

/// Rows that a dead node has on disk, deletions included, whose keys begin with any of `prefixes`: others, the probes of
/// the harness, come and go.
fn rows_on_disk<const N: usize>(cluster: &mut Cluster, node: u8, prefixes: [&str; N]) -> [usize; N] {
    let engine = RocksEngine::open(cluster.node(node).data(), &RocksOptions::default()).unwrap();
    let mut rows = [0; N];
    let mut count = |key: &[u8], _: &[u8]| {
        for (rows, prefix) in rows.iter_mut().zip(prefixes) {
            *rows += usize::from(key.windows(prefix.len()).any(|part| part == prefix.as_bytes()));
        }
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
        let rows = [1, 2, 3].map(|node| rows_on_disk(cluster, node, ["gone-", "stay-"]));
        cluster.restart(&[1, 2, 3]);
        cluster.wait_formed(&[1, 2, 3]);
        rows
    };
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
    let rounds = |cluster: &Cluster| -> u64 {
        [1, 2, 3].iter().map(|node| number(&status(cluster, *node)["purge"]["rounds"])).sum()
    };
    let wanted = [[0, 50]; 3];
    let mut after = [[400, 50]; 3];
    for _ in 0..LOOKS_MAX {
        let begun = rounds(&cluster);
        eventually("purging goes on", Duration::from_secs(180), || {
            // What is purged is not counted where the answer is lost: then the disks tell, some rounds later.
            let is_counted = purged(&cluster, &[1, 2, 3]) >= 3 * 400;
            let statuses = || [1, 2, 3].map(|node| status(&cluster, node)["purge"].to_string());
            if is_counted || rounds(&cluster) >= begun + ROUNDS { Ok(()) } else { Err(statuses().join("\n")) }
        });
        after = present(&mut cluster);
        if after == wanted {
            break;
        }
    }
    assert_eq!(after, wanted, "no deletion is left");
    let since_ms = clock_of(&cluster);
    wait_in_sync(&cluster, &[1, 2, 3], since_ms, Duration::from_secs(180));
    cluster.kill(&[1, 2]);
    let held = held_by_the_third(&mut cluster, &gone);
    assert!(held.values().all(Option::is_none), "a deleted key is back");
    let held = held_by_the_third(&mut cluster, &stay);
    assert!(held.values().all(Option::is_some), "a key that was not deleted is gone");
}

/// The largest file of a kind that a dead node has its rows in.
fn largest_file(cluster: &mut Cluster, node: u8, kind: &str) -> PathBuf {
    let files = fs::read_dir(cluster.node(node).data().join("rocks")).unwrap().map(|entry| entry.unwrap().path());
    let files = files.filter(|path| path.extension().is_some_and(|end| end == kind));
    files.max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap()
}

/// Has a node verify everything, and waits for the end.
fn scrub(cluster: &Cluster, node: u8) -> Value {
    let before = number(&cluster.api(node).ask("GET", "replication/scrub", None)["cycles"]);
    // It may be over by the time this is answered.
    cluster.api(node).ask("POST", "replication/scrub", None);
    eventually(&format!("node-{node} is scrubbed"), PATIENCE, || {
        let scrub = cluster.api(node).ask("GET", "replication/scrub", None);
        let is_over = scrub["state"] == "OFF" && number(&scrub["cycles"]) > before;
        if is_over { Ok(scrub) } else { Err(scrub.to_string()) }
    })
}

/// Flips a byte in a file of node 3, which finds it and is healed. How often it had to be restarted for that.
fn heals_from_a_flipped_byte(kind: &str, rows: usize, value_bytes: usize) -> usize {
    let mut cluster = comparing(Cluster::of(3).set("scrub.enabled", "false"));
    let (all, value) = (keys("row", rows), "0123456789abcdef".repeat(value_bytes / 16));
    put_many(&cluster, &all, &value);
    let since_ms = clock_of(&cluster);
    wait_in_sync(&cluster, &[1, 2, 3], since_ms, PATIENCE);
    // Coming back from a kill puts what is in the log into files of rows.
    cluster.kill(&[3]);
    cluster.restart(&[3]);
    cluster.kill(&[3]);
    let path = largest_file(&mut cluster, 3, kind);
    let mut bytes = fs::read(&path).unwrap();
    let place = bytes.len() / 3;
    bytes[place] ^= 0x10;
    fs::write(&path, bytes).unwrap();

    cluster.node(3).start();
    let (mut is_asked, mut restarts) = (false, 0);
    eventually("the damage is found, told and healed", Duration::from_secs(240), || {
        let health = cluster.api(3).health().map_err(|failure| failure.to_string())?;
        if health.to_string().contains("until the node is restarted") {
            // The engine met it while it rewrote the file, which only a start replaces.
            cluster.kill(&[3]);
            cluster.node(3).start();
            restarts += 1;
            return Err("restarted".into());
        }
        if !health.is_success() {
            return Err(health.to_string());
        }
        if !is_asked {
            is_asked = true;
            cluster.api(3).ask("POST", "replication/scrub", None);
        }
        let told = status(&cluster, 3);
        let is_healed = told["tables"][0]["notInSyncHere"] == 0 && told["scrub"]["state"] == "OFF";
        let is_found = cluster.node(3).printed().contains("damaged data");
        if is_found && is_healed { Ok(()) } else { Err(told.to_string()) }
    });
    let again = scrub(&cluster, 3);
    assert_eq!(again["lastCycleDamaged"], 0, "{again}");
    for healthy in [1, 2] {
        let scrub = scrub(&cluster, healthy);
        assert_eq!(scrub["damaged"], 0, "node-{healthy} is untouched: {scrub}");
        let told = status(&cluster, healthy);
        assert_eq!(told["tables"][0]["notInSyncHere"], 0, "{told}");
    }
    let since_ms = clock_of(&cluster);
    wait_in_sync(&cluster, &[1, 2, 3], since_ms, Duration::from_secs(180));
    cluster.kill(&[1, 2]);
    let held = held_by_the_third(&mut cluster, &all);
    let wrong: Vec<_> = held.iter().filter(|(_, held)| held.as_deref() != Some(value.as_str())).collect();
    assert!(wrong.is_empty(), "{} of {rows} are wrong on node-3: {:?}", wrong.len(), wrong.first());
    restarts
}

#[test]
fn a_flipped_byte_in_a_table_file_is_found_and_healed_from_the_others_which_stay_as_they_are() {
    let restarts = heals_from_a_flipped_byte("sst", 4_000, 256);
    println!("node-3 was restarted {restarts} times");
}

#[test]
fn a_flipped_byte_in_a_file_of_large_values_is_found_by_the_scrub_and_healed_without_a_restart() {
    assert_eq!(heals_from_a_flipped_byte("blob", 300, 8 << 10), 0);
}
