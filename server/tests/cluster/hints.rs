//! Hinted handoff between real nodes: a node that was away has what it missed within seconds, and nothing older than what
//! it holds comes back with it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cube_storage::dirty::{DirtyRange, DirtyStore, Mark};
use cube_storage::files::RealFiles;
use cube_storage::merkle::LeafId;
use cube_storage::model::{Hlc, NodeId, PartitionBits, RowKey, Version};
use serde_json::json;

use crate::harness::time::{PATIENCE, eventually, now, pause};
use crate::harness::{Api, Cluster};
use crate::load::{Load, Plan, read_back};

/// From the moment a node is reported alive until it has what it missed.
const CATCH_UP_MAX: Duration = Duration::from_secs(15);

/// A settled cluster of three whose third node is dead, as the others know. It has hints alone: anti-entropy would mend
/// what they cannot keep.
pub(crate) fn without_the_third(cluster: Cluster) -> Cluster {
    let mut cluster = cluster.with_long_deadlines().set("anti_entropy.enabled", "false").start();
    cluster.wait_settled(&[1, 2, 3], 3);
    kill_the_third(&mut cluster);
    cluster
}

/// Kills node 3, and waits until the others know.
pub(crate) fn kill_the_third(cluster: &mut Cluster) {
    cluster.kill(&[3]);
    for by in [1, 2] {
        cluster.wait_seen(by, &[3], "DOWN");
    }
}

pub(crate) fn put(cluster: &Cluster, by: u8, key: &str, value: &str, level: &str) {
    let answer = cluster.api(by).put(key, value, level).unwrap();
    assert!(answer.is_success(), "{key} through node-{by}: {answer}");
}

/// Writes many keys at QUORUM, through nodes 1 and 2 in turns, by several clients.
pub(crate) fn put_many(cluster: &Cluster, keys: &[String], value: &str) {
    const CLIENTS: usize = 4;
    let addresses = cluster.clients_of(&[1, 2]);
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (_, address) = addresses[client % addresses.len()];
            let mine = keys.iter().skip(client).step_by(CLIENTS);
            std::thread::Builder::new()
                .spawn_scoped(scope, move || {
                    let mut api = Api::new(address);
                    for key in mine {
                        let answer = api.put(key, value, "QUORUM").unwrap();
                        assert!(answer.is_success(), "{key}: {answer}");
                    }
                })
                .unwrap();
        }
    });
}

pub(crate) fn keys(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|n| format!("{prefix}-{n}")).collect()
}

/// Waits until nodes 1 and 2, where they run, have nothing to deliver any more.
pub(crate) fn wait_delivered(cluster: &Cluster, by: &[u8], within: Duration) {
    for node in by {
        let mut api = cluster.api(*node);
        eventually(&format!("node-{node} has no hints"), within, || {
            let hints = api.hints()?;
            if hints["totalHints"] == 0 { Ok(()) } else { Err(hints.to_string()) }
        });
    }
}

fn hint_folder(cluster: &mut Cluster, of: u8) -> PathBuf {
    cluster.node(of).data().join("hints").join("node-3")
}

/// What node 3 alone holds of keys, with the others dead.
pub(crate) fn held_by_the_third(cluster: &mut Cluster, keys: &[String]) -> BTreeMap<String, Option<String>> {
    const CLIENTS: usize = 8;
    cluster.wait_seen(3, &[1, 2], "DOWN");
    let (_, address) = cluster.clients_of(&[3])[0];
    let read = |api: &mut Api, key: &String| {
        let answer = api.get(key, "ONE").unwrap();
        assert!(answer.is_success(), "{key}: {answer}");
        (key.clone(), answer.json()["value"].as_str().map(str::to_owned))
    };
    std::thread::scope(|scope| {
        let start = |client: usize| {
            let mine = keys.iter().skip(client).step_by(CLIENTS);
            let reads = move || {
                let mut api = Api::new(address);
                mine.map(|key| read(&mut api, key)).collect::<Vec<_>>()
            };
            std::thread::Builder::new().spawn_scoped(scope, reads).unwrap()
        };
        let readers: Vec<_> = (0..CLIENTS).map(start).collect();
        readers.into_iter().flat_map(|reader| reader.join().unwrap()).collect()
    })
}

/// What a dead node has marked dirty for node 3.
pub(crate) fn marks_of(cluster: &mut Cluster, node: u8) -> Vec<Mark> {
    let files = Arc::new(RealFiles::new(cluster.node(node).data()));
    let horizon = Version::new(Hlc(u64::MAX), NodeId(u16::MAX));
    let opened = DirtyStore::open(files, std::path::Path::new("dirty"), horizon).unwrap();
    assert!(opened.failed.is_empty(), "{:?}", opened.failed);
    opened.store.target("node-3").unwrap().marks(None, usize::MAX)
}

/// Whether a mark covers a key of the only table there is.
pub(crate) fn is_marked(marks: &[Mark], key: &str) -> bool {
    let leaf = LeafId::of(RowKey::of(key.to_owned()).token(), PartitionBits::DEFAULT);
    marks.iter().any(|mark| match mark.range {
        DirtyRange::Everything => true,
        DirtyRange::Table(_) => true,
        DirtyRange::Partition(table, _) | DirtyRange::Leaf(table, _) => mark.range.covers(table, leaf),
    })
}

#[test]
fn three_values_that_a_node_missed_are_on_it_within_seconds_of_its_return_and_the_hints_are_gone() {
    let mut cluster = without_the_third(Cluster::of(3));
    for (key, value) in [("alice", "1"), ("bob", "2"), ("charlie", "3"), ("alice", "4")] {
        put(&cluster, 1, key, value, "QUORUM");
    }
    let mut api = cluster.api(1);
    assert_eq!(api.hints_for("node-3"), Ok(3), "an update adds none");
    let stats = api.stats().unwrap();
    assert_eq!(stats["lines"], json!(["Pending Hints: 3", "Hints for node-3: 3"]));
    let hints = api.hints().unwrap();
    assert_eq!(
        (&hints["totalHints"], &hints["nodes"]["node-3"]["state"]),
        (&json!(3), &json!("TARGET_DOWN")),
        "{hints}"
    );
    assert_eq!(hints["nodes"]["node-3"]["records"], 4, "{hints}");
    assert!(hint_folder(&mut cluster, 1).exists());

    cluster.node(3).start();
    cluster.wait_seen(1, &[3], "ALIVE");
    let alive = now();
    wait_delivered(&cluster, &[1, 2], CATCH_UP_MAX);
    println!("delivered {:?} after node-3 was seen alive", alive.elapsed());
    cluster.node(3).wait_ready();
    for node in [1, 2] {
        let folder = hint_folder(&mut cluster, node);
        eventually("the hint files are gone", PATIENCE, || if folder.exists() { Err("there".into()) } else { Ok(()) });
    }
    // Counted and told a moment after the last one is gone from the disk.
    let hints = eventually("the deliveries are counted", PATIENCE, || {
        let hints = api.hints()?;
        let counted = (&hints["counts"]["replayed"], &hints["nodes"]["node-3"]["replayed"]);
        if counted == (&json!(4), &json!(4)) { Ok(hints) } else { Err(hints.to_string()) }
    });
    assert_eq!(hints["dirtyRanges"], json!({}), "{hints}");
    let incoming = cluster.api(3).hints().unwrap();
    assert_eq!(incoming["incoming"]["taken"], 4, "{incoming}");
    eventually("node-1 tells that all are delivered", PATIENCE, || {
        let told = cluster.node(1).printed().contains("all hints are replayed");
        if told { Ok(()) } else { Err(cluster.node(1).log_end()) }
    });
    eventually("node-3 tells it too", PATIENCE, || {
        let told = cluster.node(3).printed().contains("all hints for this node have come");
        if told { Ok(()) } else { Err(cluster.node(3).log_end()) }
    });

    cluster.kill(&[1, 2]);
    let held = held_by_the_third(&mut cluster, &["alice", "bob", "charlie"].map(str::to_owned));
    let values: Vec<&str> = held.values().flatten().map(String::as_str).collect();
    assert_eq!(values, ["4", "2", "3"]);
}

#[test]
fn an_older_hint_changes_nothing_and_a_hint_of_a_deleted_key_does_not_bring_it_back() {
    let mut cluster = without_the_third(Cluster::of(3));
    put(&cluster, 1, "changed", "old", "QUORUM");
    put(&cluster, 1, "deleted", "old", "QUORUM");
    put(&cluster, 1, "missed", "new", "QUORUM");
    let mut api = cluster.api(1);
    let unknown = api.steer_hints("pause", &json!({"node": "node-9"})).unwrap();
    assert_eq!(unknown.status, 400, "{unknown}");
    assert!(api.steer_hints("pause", &json!({"node": "node-3"})).unwrap().is_success());
    cluster.restart(&[3]);
    cluster.wait_formed(&[1, 2, 3]);
    put(&cluster, 2, "changed", "new", "ALL");
    let gone = cluster.api(2).delete("deleted", "ALL").unwrap();
    assert!(gone.is_success(), "{gone}");
    let hints = api.hints().unwrap();
    assert_eq!((&hints["totalHints"], &hints["nodes"]["node-3"]["state"]), (&json!(3), &json!("PAUSED")), "{hints}");
    cluster.kill(&[1]);
    cluster.restart(&[1]);
    cluster.wait_seen(1, &[3], "ALIVE");
    let mut api = cluster.api(1);
    let hints = api.hints().unwrap();
    assert_eq!(
        (&hints["totalHints"], &hints["paused"]),
        (&json!(3), &json!(["node-3"])),
        "it outlives the process: {hints}"
    );
    let lines = api.stats().unwrap()["lines"].to_string();
    assert!(lines.contains("Hints PAUSED for node-3"), "{lines}");
    assert!(api.steer_hints("resume", &json!({"node": "node-3"})).unwrap().is_success());
    assert!(api.steer_hints("replay", &json!({})).unwrap().is_success());
    wait_delivered(&cluster, &[1, 2], PATIENCE);
    cluster.kill(&[1, 2]);
    let held = held_by_the_third(&mut cluster, &["changed", "deleted", "missed"].map(str::to_owned));
    let values: Vec<Option<&str>> = held.values().map(Option::as_deref).collect();
    assert_eq!(values, [Some("new"), None, Some("new")]);
}

#[test]
fn a_coordinator_killed_right_after_acknowledging_and_in_the_middle_of_a_replay_loses_nothing() {
    const KEYS: usize = 1_500;
    let mut cluster = without_the_third(Cluster::of(3));
    let missed = keys("missed", KEYS);
    put_many(&cluster, &missed, "value");
    // Every write that was acknowledged is hinted by then: nothing is waited for.
    cluster.kill(&[1]);
    cluster.restart(&[1]);
    let of = |cluster: &Cluster, node| cluster.api(node).hints_for("node-3").unwrap();
    assert_eq!(of(&cluster, 1) + of(&cluster, 2), KEYS as u64);

    for node in [1, 2] {
        assert!(cluster.api(node).steer_hints("pause", &json!({})).unwrap().is_success());
    }
    cluster.restart(&[3]);
    cluster.wait_seen(1, &[3], "ALIVE");
    assert!(cluster.api(1).steer_hints("resume", &json!({})).unwrap().is_success());
    let mut api = cluster.api(1);
    let left = eventually("a replay is under way", PATIENCE, || {
        let hints = api.hints()?;
        match hints["nodes"]["node-3"]["replayed"].as_u64() {
            Some(replayed) if replayed > 0 => Ok(hints["totalHints"].as_u64().unwrap_or_default()),
            _ => Err(hints.to_string()),
        }
    });
    cluster.kill(&[1]);
    println!("killed with {left} hints left");
    cluster.restart(&[1]);
    assert!(cluster.api(2).steer_hints("resume", &json!({})).unwrap().is_success());
    wait_delivered(&cluster, &[1, 2], PATIENCE);
    cluster.kill(&[1, 2]);
    let held = held_by_the_third(&mut cluster, &missed);
    let lost: Vec<_> = held.iter().filter(|(_, value)| value.as_deref() != Some("value")).collect();
    assert!(lost.is_empty(), "{} of {KEYS} are missing: {:?}", lost.len(), lost.first());
}

#[test]
fn a_node_that_flaps_under_load_converges_and_no_write_was_acknowledged_falsely() {
    flap(Duration::from_secs(20));
}

#[test]
#[ignore = "long: flaps for two minutes"]
fn a_node_that_flaps_for_two_minutes_under_load_converges_and_no_write_was_acknowledged_falsely() {
    flap(Duration::from_secs(120));
}

fn flap(time: Duration) {
    const EVERY: Duration = Duration::from_secs(5);
    let mut cluster = Cluster::of(3).with_long_deadlines().start();
    cluster.wait_settled(&[1, 2, 3], 3);
    let plan = Plan::quorum("flap");
    let load = Load::start(&plan, &cluster.clients_of(&[1, 2]));
    let started = now();
    let mut bytes_max = 0;
    while started.elapsed() < time {
        cluster.kill(&[3]);
        pause(EVERY);
        for node in [1, 2] {
            bytes_max = cluster.api(node).hints().unwrap()["totalBytes"].as_u64().unwrap().max(bytes_max);
        }
        cluster.node(3).start();
        pause(EVERY);
    }
    let mut history = load.stop();
    cluster.wait_formed(&[1, 2, 3]);
    wait_delivered(&cluster, &[1, 2], PATIENCE);
    println!("{} writes acknowledged, at most {bytes_max} bytes of hints", history.acknowledged().count());
    assert!((1..64 << 20).contains(&bytes_max), "{bytes_max} bytes");
    for node in [1, 2] {
        let hints = cluster.api(node).hints().unwrap();
        assert_eq!(hints["counts"]["notKept"], 0, "{hints}");
    }
    for (node, address) in cluster.clients_of(&[1, 2, 3]) {
        history.add(read_back(node, address, &plan));
    }
    history.add(read_back(3, cluster.clients_of(&[3])[0].1, &Plan { read: "ALL", ..plan }));
    history.assert_consistent();
}
