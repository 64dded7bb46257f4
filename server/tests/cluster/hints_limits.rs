//! What hints cannot keep is known exactly: past a cap, past the window, on a disk that is full or cannot be written.

use std::collections::BTreeSet;
use std::io::Write;
use std::process::Command;

use cube_storage::dirty::DirtyRange;
use cube_storage::merkle::LeafId;
use cube_storage::model::{PartitionBits, RowKey};
use serde_json::Value;

use crate::harness::Cluster;
use crate::harness::time::{PATIENCE, eventually};
use crate::hints::{
    held_by_the_third, is_marked, keys, kill_the_third, marks_of, put, put_many, wait_delivered, without_the_third,
};

/// Set to anything, it has a machine without mounts fail the tests that need one: a run that must prove them.
const NO_SKIP: &str = "CUBE_TEST_NO_SKIP";
/// The ways to a mount namespace: as root, or as anybody where user namespaces are allowed.
const WAYS: [&[&str]; 2] = [&["--mount"], &["--user", "--map-root-user", "--mount"]];

#[test]
fn past_a_cap_of_a_thousand_every_missed_key_is_replayed_or_under_a_dirty_leaf_and_no_other_leaf_is() {
    beyond_the_cap(10_000);
}

#[test]
#[ignore = "long: writes a hundred thousand rows"]
fn past_a_cap_of_a_thousand_each_of_a_hundred_thousand_missed_keys_is_replayed_or_under_a_dirty_leaf() {
    beyond_the_cap(100_000);
}

fn beyond_the_cap(count: usize) {
    const CAP: u64 = 1_000;
    let mut cluster = without_the_third(Cluster::of(3).set("hints.max_per_node", "1000"));
    let missed = keys("missed", count);
    put_many(&cluster, &missed, "value");
    for node in [1, 2] {
        let hints = cluster.api(node).hints().unwrap();
        assert_eq!(hints["totalHints"], CAP, "{hints}");
        assert_eq!(hints["nodes"]["node-3"]["dropped"]["cap"], count as u64 / 2 - CAP, "{hints}");
        assert!(hints["dirtyRanges"]["node-3"].as_u64().unwrap() > 0, "{hints}");
        let lines = cluster.node(node).printed();
        assert_eq!(lines.matches("is marked dirty instead of hinted").count(), 1, "one line per burst");
    }
    cluster.restart(&[3]);
    cluster.wait_seen(1, &[3], "ALIVE");
    cluster.wait_seen(2, &[3], "ALIVE");
    wait_delivered(&cluster, &[1, 2], PATIENCE);
    let (replayed, marked) = assert_covered(&mut cluster, &missed, "value");
    println!("{replayed} replayed, {marked} only marked");
    assert_eq!(replayed, 2 * CAP as usize);
    let leaf = |key: &String| LeafId::of(RowKey::of(key.clone()).token(), PartitionBits::DEFAULT);
    let leaves: BTreeSet<LeafId> = missed.iter().map(leaf).collect();
    for mark in [1, 2].into_iter().flat_map(|node| marks_of(&mut cluster, node)) {
        let DirtyRange::Leaf(_, leaf) = mark.range else { panic!("more than a leaf is marked: {mark:?}") };
        assert!(leaves.contains(&leaf), "a leaf without a missed key is marked: {mark:?}");
    }
}

/// Kills nodes 1 and 2; every key is on node 3, or marked by one of them. How many are there, and how many only marked.
fn assert_covered(cluster: &mut Cluster, missed: &[String], value: &str) -> (usize, usize) {
    cluster.kill(&[1, 2]);
    let marks: Vec<_> = [1, 2].into_iter().flat_map(|node| marks_of(cluster, node)).collect();
    let held = held_by_the_third(cluster, missed);
    let (there, missing): (Vec<_>, Vec<_>) = held.iter().partition(|(_, held)| held.as_deref() == Some(value));
    let lost: Vec<_> = missing.iter().filter(|(key, _)| !is_marked(&marks, key)).collect();
    assert!(lost.is_empty(), "{} keys are neither there nor marked: {:?}", lost.len(), lost.first());
    (there.len(), missing.len())
}

#[test]
fn when_the_window_has_passed_hints_become_marks_and_new_ones_are_not_made() {
    let cluster = Cluster::of(3).set("hints.window", "3s").set("hints.check_interval", "1s");
    let mut cluster = without_the_third(cluster);
    let mut missed = keys("before", 60);
    put_many(&cluster, &missed, "value");
    // Node 3 is still away.
    wait_delivered(&cluster, &[1, 2], PATIENCE);
    let after = keys("after", 40);
    put_many(&cluster, &after, "value");
    missed.extend(after);
    let mut marked = 0;
    for node in [1, 2] {
        let hints = cluster.api(node).hints().unwrap();
        assert_eq!(hints["totalHints"], 0, "{hints}");
        marked += count(&hints["nodes"]["node-3"]["dropped"]["window"]);
    }
    assert_eq!(marked, 100, "every lost hint is counted");
    cluster.restart(&[3]);
    let (replayed, marked) = assert_covered(&mut cluster, &missed, "value");
    assert_eq!((replayed, marked), (0, 100));
}

fn count(value: &Value) -> u64 {
    value.as_u64().unwrap_or_default()
}

#[test]
fn hints_on_a_full_device_of_eight_mebibytes_keep_no_quorum_write_from_succeeding() {
    const KEYS: usize = 260;
    let Some(mut cluster) = with_device("a full device for hints", "size=8m") else { return };
    kill_the_third(&mut cluster);
    let (missed, value) = (keys("missed", KEYS), "x".repeat(64 << 10));
    for key in &missed {
        put(&cluster, 1, key, &value, "QUORUM");
    }
    let hints = cluster.api(1).hints().unwrap();
    let (hinted, marked) = (count(&hints["totalHints"]), count(&hints["nodes"]["node-3"]["dropped"]["disk"]));
    assert!(hinted > 50 && marked > 50, "{hints}");
    assert_eq!(hinted + marked, KEYS as u64, "{hints}");
    put(&cluster, 1, "afterwards", "value", "QUORUM");
    cluster.restart(&[3]);
    cluster.wait_seen(1, &[3], "ALIVE");
    wait_delivered(&cluster, &[1], PATIENCE);
    let (replayed, only_marked) = assert_covered(&mut cluster, &missed, &value);
    assert!(replayed >= usize::try_from(hinted).unwrap() && only_marked > 0, "{replayed} and {only_marked}");
}

#[test]
fn a_hint_folder_that_cannot_be_written_keeps_no_quorum_write_from_succeeding() {
    let Some(mut cluster) = with_device("a hint folder that cannot be written", "ro") else { return };
    kill_the_third(&mut cluster);
    let missed = keys("missed", 40);
    for key in &missed {
        put(&cluster, 1, key, "value", "QUORUM");
    }
    let hints = cluster.api(1).hints().unwrap();
    assert_eq!((count(&hints["totalHints"]), count(&hints["nodes"]["node-3"]["dropped"]["disk"])), (0, 40), "{hints}");
    cluster.restart(&[3]);
    eventually("node-1 writes on", PATIENCE, || {
        let answer = cluster.api(1).put("afterwards", "value", "QUORUM").map_err(|failure| failure.to_string())?;
        if answer.is_success() { Ok(()) } else { Err(answer.to_string()) }
    });
    let (_, marked) = assert_covered(&mut cluster, &missed, "value");
    assert_eq!(marked, 40);
}

/// A cluster whose first node has its hints on a device of its own, which only its process sees.
fn with_device(what: &str, options: &str) -> Option<Cluster> {
    let is_allowed = |way: &&&[&str]| {
        let mount = Command::new("unshare").args(**way).args(["mount", "-t", "tmpfs", "none", "/mnt"]).output();
        mount.is_ok_and(|output| output.status.success())
    };
    let Some(way) = WAYS.iter().find(is_allowed) else {
        let may_skip = std::env::var_os(NO_SKIP).is_none_or(|set| set.is_empty());
        assert!(may_skip, "{NO_SKIP} is set, and no tmpfs can be mounted");
        let told = writeln!(std::io::stderr().lock(), "SKIPPED, not tested: {what}: no tmpfs can be mounted here");
        told.unwrap();
        return None;
    };
    let mut cluster = Cluster::of(3).with_long_deadlines().set("anti_entropy.enabled", "false").start();
    cluster.wait_settled(&[1, 2, 3], 3);
    cluster.kill(&[1]);
    let folder = cluster.node(1).data().join("hints");
    let script = format!("mount -t tmpfs -o {options} none {} && exec \"$@\"", folder.display());
    let mounted = ["sh", "-c", &script, "sh"];
    let words = ["unshare"].iter().chain(*way).chain(&mounted).map(|word| (*word).to_owned());
    cluster.node(1).settings.way_in = words.collect();
    cluster.restart(&[1]);
    cluster.wait_formed(&[1, 2, 3]);
    Some(cluster)
}
