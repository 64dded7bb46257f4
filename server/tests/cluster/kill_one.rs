//! One node of three dies under load.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::harness::Cluster;
use crate::harness::api::assert_unavailable;
use crate::harness::time::{PATIENCE, eventually, now_us};
use crate::load::{Client, History, Load, Plan, read_back};

/// Rows of their own that are written while the node is dead.
const MISSED_ROWS: usize = 150;
/// A dead node is to be known within 5 s; this allows for a machine that is busy with other things.
const DETECTION_MAX: Duration = Duration::from_secs(25);

#[test]
fn with_one_of_three_killed_quorums_go_on_all_says_why_not_and_every_missed_key_is_hinted() {
    let mut cluster = Cluster::of(3).with_long_deadlines().set("hints.max_per_node", "100000").start();
    cluster.wait_settled(&[1, 2, 3], 3);
    let plan = Plan::quorum("load");
    let load = Load::start(&plan, &cluster.clients_of(&[1, 2, 3]));
    load.wait_for_writes(150);

    let killed_us = now_us();
    cluster.kill(&[3]);
    for by in [1, 2] {
        cluster.wait_seen(by, &[3], "DOWN");
    }
    let known_us = now_us();
    assert!(Duration::from_micros(known_us - killed_us) < DETECTION_MAX, "known after {} us", known_us - killed_us);
    println!("known to be dead after {} ms", (known_us - killed_us) / 1000);
    load.go_on(Duration::from_secs(5), 300);
    assert_levels(&cluster);
    let mut history = load.stop();
    let failures = history.failures(&[1, 2], known_us, u64::MAX);
    assert!(failures.is_empty(), "after the death was known: {failures:?}");

    history.add(write_missed_rows(&cluster));
    let missed = [1, 2].map(|by| (by, keys_written_through(&history, by, killed_us)));
    assert_hinted(&cluster, &missed);
    // Durable: they outlive those who keep them.
    cluster.kill(&[1, 2]);
    cluster.restart(&[1, 2]);
    assert_hinted(&cluster, &missed);

    cluster.restart(&[3]);
    cluster.wait_formed(&[1, 2, 3]);
    for (node, address) in cluster.clients_of(&[1, 2, 3]) {
        history.add(read_back(node, address, &plan));
        history.add(read_back(node, address, &Plan { read: "ALL", ..plan.clone() }));
    }
    history.assert_consistent();
}

/// With two of three alive, ALL is refused with the numbers, and ONE works.
fn assert_levels(cluster: &Cluster) {
    for by in [1, 2] {
        let mut api = cluster.api(by);
        assert_unavailable(&api.put("levels", "never", "ALL").unwrap(), 3, 2);
        assert_unavailable(&api.get("levels", "ALL").unwrap(), 3, 2);
        let key = format!("one-{by}");
        let put = api.put(&key, "here", "ONE").unwrap();
        assert!(put.is_success(), "{put}");
        // ONE promises no more than that some replica is asked: it may be the other one.
        eventually("a read at ONE of what was written at ONE", PATIENCE, || {
            let answer = api.get(&key, "ONE").map_err(|failure| failure.to_string())?;
            if answer.json()["value"] == "here" { Ok(()) } else { Err(answer.to_string()) }
        });
    }
    let refused = cluster.api(1).get("levels", "QUORUM").unwrap();
    assert_eq!(refused.json()["found"], false, "what was refused at ALL took effect: {refused}");
}

fn write_missed_rows(cluster: &Cluster) -> History {
    let plan = Plan::quorum("missed");
    let mut operations = Vec::new();
    for (node, address) in cluster.clients_of(&[1, 2]) {
        let mut client = Client::new(node, address, &plan);
        operations.extend((0..MISSED_ROWS).map(|row| client.write(&format!("missed-{node}-{row}"))));
    }
    let history = History::of(operations);
    assert_eq!(history.acknowledged().count(), 2 * MISSED_ROWS, "{:?}", history.failures(&[1, 2], 0, u64::MAX));
    history
}

/// The distinct keys whose writes began after a moment and were acknowledged by a coordinator.
fn keys_written_through(history: &History, node: u8, from_us: u64) -> usize {
    let written = history.acknowledged().filter(|write| write.node == node && write.started_us > from_us);
    written.map(|write| &write.key).collect::<BTreeSet<_>>().len()
}

/// Each coordinator keeps a hint for every key that the dead node missed through it.
fn assert_hinted(cluster: &Cluster, missed: &[(u8, usize)]) {
    for (by, keys) in missed {
        assert!(*keys >= MISSED_ROWS, "{keys}");
        let mut api = cluster.api(*by);
        // Of a write that was under way when the node died, the miss is known when the connection broke, or at the deadline.
        eventually(&format!("{keys} hints on node-{by}"), PATIENCE, || match api.hints_for("node-3")? {
            hints if usize::try_from(hints).unwrap() >= *keys => Ok(()),
            hints => Err(format!("{hints} hints")),
        });
    }
}
