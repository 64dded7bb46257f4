//! Two data centers are cut from each other.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::time::{PATIENCE, eventually, now_us};
use crate::harness::{Cluster, Network};
use crate::load::{Load, Plan};

const FIRST: [u8; 3] = [1, 2, 3];
const SECOND: [u8; 2] = [4, 5];
/// Keyspaces, by how many replicas they have in each data center.
const KEYSPACES: [(&str, u8, u8); 2] = [("three", 2, 1), ("five", 3, 2)];

#[test]
fn a_data_center_that_is_cut_off_goes_on_at_local_quorum_and_each_quorum_names_the_other_one() {
    let test = a_data_center_that_is_cut_off_goes_on_at_local_quorum_and_each_quorum_names_the_other_one;
    let Some(network) = Network::enter(&test, 5) else { return };
    let mut cluster = Cluster::in_network(5, network).with_long_deadlines();
    FIRST.iter().for_each(|node| cluster.node(*node).settings.dc = Some("dc1".into()));
    SECOND.iter().for_each(|node| cluster.node(*node).settings.dc = Some("dc2".into()));
    let mut cluster = cluster.start();
    for (name, first, second) in KEYSPACES {
        create_keyspace(&cluster, name, first, second);
    }
    // Local quorums of different data centers share no replica, so each has rows of its own.
    let local =
        |prefix| Plan { write: "LOCAL_QUORUM", read: "LOCAL_QUORUM", keyspace: Some("five"), ..Plan::quorum(prefix) };
    let loads = [
        Load::start(&local("first"), &cluster.clients_of(&FIRST)),
        Load::start(&local("second"), &cluster.clients_of(&SECOND)),
    ];
    loads.iter().for_each(|load| load.wait_for_writes(50));

    cluster.network().cut_both_ways(&FIRST, &SECOND);
    FIRST.iter().for_each(|by| cluster.wait_seen(*by, &SECOND, "DOWN"));
    SECOND.iter().for_each(|by| cluster.wait_seen(*by, &FIRST, "DOWN"));
    let known_us = now_us();
    loads.iter().for_each(|load| load.go_on(Duration::from_secs(2), 100));
    for (keyspace, ..) in KEYSPACES {
        assert_goes_on(&cluster, keyspace, "LOCAL_QUORUM");
        for (by, other) in [(1, "dc2"), (4, "dc1")] {
            let answer = cluster.api(by).in_keyspace(Some(keyspace)).put("each", "never", "EACH_QUORUM").unwrap();
            let error = &answer.json()["error"];
            assert_eq!((answer.status, &error["code"]), (503, &json!("unavailable")), "{answer}");
            assert_eq!(error["details"]["dataCenter"], other, "{answer}");
            assert!(error["message"].as_str().is_some_and(|message| message.contains(other)), "{answer}");
        }
    }
    let healed_us = now_us();

    cluster.network().heal_both_ways(&FIRST, &SECOND);
    cluster.wait_formed(&[1, 2, 3, 4, 5]);
    for (keyspace, ..) in KEYSPACES {
        assert_goes_on(&cluster, keyspace, "EACH_QUORUM");
    }
    loads.iter().for_each(|load| load.wait_for_writes(50));
    for (nodes, history) in [&FIRST[..], &SECOND[..]].into_iter().zip(loads.map(Load::stop)) {
        let failures = history.failures(nodes, known_us, healed_us);
        assert!(failures.is_empty(), "at LOCAL_QUORUM, cut off: {failures:?}");
        history.assert_consistent();
    }
}

fn create_keyspace(cluster: &Cluster, name: &str, first: u8, second: u8) {
    let replication = json!({"strategy": "network", "dataCenters": {"dc1": first, "dc2": second}});
    let mut api = cluster.api(1);
    let created = api.create_keyspace(name, &json!({ "replication": replication })).unwrap();
    assert!(created.is_success(), "{created}");
    let created = api.create_table(name, "kv").unwrap();
    assert!(created.is_success(), "{created}");
    for by in cluster.all() {
        let mut api = cluster.api(by).in_keyspace(Some(name));
        eventually(&format!("the table {name}.kv on node-{by}"), PATIENCE, || {
            let answer = api.get("nothing", "LOCAL_QUORUM").map_err(|failure| failure.to_string())?;
            if answer.json()["value"] == Value::Null && answer.is_success() { Ok(()) } else { Err(answer.to_string()) }
        });
    }
}

/// Every node writes and reads at a level.
fn assert_goes_on(cluster: &Cluster, keyspace: &str, level: &str) {
    for by in cluster.all() {
        let mut api = cluster.api(by).in_keyspace(Some(keyspace));
        for row in 0..10 {
            let (key, value) = (format!("{level}-{by}-{row}"), format!("{row} by {by}"));
            let put = api.put(&key, &value, level).unwrap();
            assert!(put.is_success(), "through node-{by}: {put}");
            let got = api.get(&key, "LOCAL_QUORUM").unwrap();
            assert_eq!(got.json()["value"], value, "through node-{by}: {got}");
        }
    }
}
