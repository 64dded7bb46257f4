//! Reads that repair, between real nodes: what one of them missed is brought to it by being read, and a node that stands
//! still holds no reader up.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::Cluster;
use crate::harness::time::{PATIENCE, eventually, now};
use crate::hints::{held_by_the_third, kill_the_third, put};

/// The rows of which node 3 holds version 1, and the others version 2.
const STALE: [&str; 3] = ["alice", "bob", "carol"];
/// The row that node 3 does not hold.
const ABSENT: &str = "dave";

/// A cluster whose third node missed the last write of some rows, and where nothing but a read tells it.
fn with_a_stale_third() -> Cluster {
    let cluster = Cluster::of(3).set("hints.enabled", "false").set("anti_entropy.enabled", "false");
    let mut cluster = cluster.with_long_deadlines().start();
    cluster.wait_settled(&[1, 2, 3], 3);
    set_chance(&cluster, 0);
    STALE.iter().for_each(|key| put(&cluster, 1, key, "v1", "ALL"));
    kill_the_third(&mut cluster);
    STALE.iter().for_each(|key| put(&cluster, 1, key, "v2", "QUORUM"));
    put(&cluster, 2, ABSENT, "v2", "QUORUM");
    cluster.restart(&[3]);
    cluster.wait_formed(&[1, 2, 3]);
    cluster
}

/// Of a hundred reads, how many ask all replicas; every node knows it afterwards.
fn set_chance(cluster: &Cluster, percent: u64) {
    let path = "keyspaces/default/tables/kv";
    cluster.api(1).ask("PATCH", path, Some(&json!({"read_repair_chance": percent})));
    for node in cluster.all() {
        let mut api = cluster.api(node);
        eventually(&format!("node-{node} knows the chance"), PATIENCE, || {
            let table = api.ask("GET", path, None);
            if table["read_repair_chance"] == percent { Ok(()) } else { Err(table.to_string()) }
        });
    }
}

fn get(cluster: &Cluster, by: u8, key: &str, level: &str) -> Value {
    cluster.api(by).ask("GET", &format!("get/{key}?cl={level}&explain=true"), None)
}

fn reads(cluster: &Cluster, by: u8) -> Value {
    cluster.api(by).stats().unwrap()["reads"]["default.kv"].clone()
}

#[test]
fn a_replica_that_missed_a_write_has_it_once_the_row_is_read() {
    let mut cluster = with_a_stale_third();
    let before = get(&cluster, 3, "alice", "ONE");
    assert_eq!(before["value"], "v1", "it did miss it, and a read of itself alone repairs nothing: {before}");
    let repaired_before = reads(&cluster, 3)["blockingRepairs"]["repaired"].as_u64().unwrap();

    let read = get(&cluster, 3, "alice", "QUORUM");
    assert_eq!(read["value"], "v2", "{read}");
    let row = &read["explained"]["rows"][0];
    assert_eq!((&row["reason"], &row["stale"][0]["replica"]), (&json!("newest"), &json!("node-3")), "{read}");
    let figures = reads(&cluster, 3);
    assert_eq!(figures["blockingRepairs"]["repaired"], repaired_before + 1, "{figures}");
    assert!(figures["staleReads"].as_u64().unwrap() >= 1, "{figures}");

    // What it lacks altogether is brought to it likewise.
    let read = get(&cluster, 3, ABSENT, "QUORUM");
    assert_eq!((&read["value"], &read["explained"]["rows"][0]["stale"][0]["version"]), (&json!("v2"), &json!(null)));

    // By chance, of a read that node 3 has no part in.
    set_chance(&cluster, 100);
    let read = get(&cluster, 1, "bob", "ONE");
    assert_eq!(read["value"], "v2", "{read}");
    eventually("a background repair of node-3", PATIENCE, || {
        let figures = reads(&cluster, 1);
        if figures["chanceRepairs"]["repaired"] == 1 { Ok(()) } else { Err(figures.to_string()) }
    });

    cluster.kill(&[1, 2]);
    let keys = ["alice", "bob", ABSENT].map(str::to_owned);
    let held = held_by_the_third(&mut cluster, &keys);
    assert!(held.values().all(|value| value.as_deref() == Some("v2")), "read from node-3 alone: {held:?}");
}

#[test]
fn a_read_at_all_answers_with_the_newest_tells_which_was_stale_and_leaves_them_equal() {
    let cluster = with_a_stale_third();
    let read = get(&cluster, 1, "carol", "ALL");
    assert_eq!(read["value"], "v2", "{read}");
    let explained = &read["explained"];
    assert_eq!((&explained["kind"], &explained["coordinator"]), (&json!("read"), &json!("node-1")));
    let asked: Vec<&Value> = explained["messages"].as_array().unwrap().iter().collect();
    for node in ["node-1", "node-2", "node-3"] {
        let message = asked.iter().find(|message| message["replica"] == node);
        assert!(message.is_some_and(|message| message["answeredMs"].is_u64()), "{node} is told of: {explained}");
    }
    let repair = asked.iter().find(|message| message["asked"] == "repair").unwrap();
    assert_eq!((&repair["replica"], &repair["outcomes"][0]["outcome"]), (&json!("node-3"), &json!("applied")));
    let row = &explained["rows"][0];
    assert_eq!((&row["winner"], &row["reason"]), (&read["version"], &json!("newest")));
    let stale = &row["stale"][0];
    let behind_ms = read["version"]["timestamp"].as_u64().unwrap() - stale["version"]["timestamp"].as_u64().unwrap();
    assert_eq!((&stale["replica"], stale["behindMs"].as_u64()), (&json!("node-3"), Some(behind_ms)), "{explained}");
    assert!(behind_ms > 0);

    let again = get(&cluster, 2, "carol", "ALL");
    let row = &again["explained"]["rows"][0];
    assert_eq!((&row["reason"], &row["stale"]), (&json!("all_agree"), &json!([])), "{again}");
}

#[test]
fn a_replica_that_stands_still_holds_no_quorum_read_up() {
    const KEYS: usize = 60;
    /// A part of the time of a read: whoever waited for the one that stands still would take all of it.
    const SOON: Duration = Duration::from_secs(5);
    let mut cluster = Cluster::of(3).with_long_deadlines().start();
    cluster.wait_settled(&[1, 2, 3], 3);
    let path = "keyspaces/default/tables/kv";
    cluster.api(1).ask("PATCH", path, Some(&json!({"hedge": "50ms", "read_repair_chance": 0})));
    for node in [1, 2] {
        let mut api = cluster.api(node);
        eventually("the table hedges", PATIENCE, || {
            let table = api.ask("GET", path, None);
            if table["hedge"] == "50ms" { Ok(()) } else { Err(table.to_string()) }
        });
    }
    let keys: Vec<String> = (0..KEYS).map(|n| format!("key-{n}")).collect();
    keys.iter().for_each(|key| put(&cluster, 1, key, "v", "ALL"));
    cluster.signal(3, Signal::STOP);
    let mut slowest = Duration::ZERO;
    for (by, key) in [1, 2].into_iter().flat_map(|by| keys.iter().map(move |key| (by, key))) {
        let began = now();
        let read = get(&cluster, by, key, "QUORUM");
        assert_eq!(read["value"], "v", "{read}");
        slowest = slowest.max(began.elapsed());
    }
    let hedges: u64 = [1, 2].iter().map(|by| reads(&cluster, *by)["hedgesSent"].as_u64().unwrap()).sum();
    cluster.signal(3, Signal::CONT);
    assert!(slowest < SOON, "the slowest read took {slowest:?}");
    assert!(hedges > 0, "the one that stood still was asked, and another one in its place");
}

#[test]
fn requests_that_are_slow_are_recorded_once_a_node_is_told_to() {
    let cluster = Cluster::of(1).start();
    let mut api = cluster.api(1);
    put(&cluster, 1, "before", "v", "ONE");
    let slow = api.ask("GET", "requests/slow", None);
    assert_eq!((&slow["thresholdMs"], &slow["requests"]), (&json!(null), &json!([])), "off where nothing is said");
    // Each fsync takes some of this, most of the time: one of these writes does.
    api.ask("PATCH", "config", Some(&json!({"log.slow_requests": "1ms"})));
    eventually("a slow write", PATIENCE, || {
        put(&cluster, 1, "slow", "v", "ONE");
        let slow = api.ask("GET", "requests/slow", None);
        let is_one = |request: &Value| request["kind"] == "write" && request["table"] == "kv";
        let is_there = slow["thresholdMs"] == 1 && slow["requests"].as_array().unwrap().iter().any(is_one);
        if is_there { Ok(()) } else { Err(slow.to_string()) }
    });
}
