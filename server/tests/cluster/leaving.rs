//! Nodes leave the cluster: by themselves with all they have, given up when they are gone for good, and for a while.

use std::process::ExitStatus;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::api::error_code;
use crate::harness::http::Answer;
use crate::harness::time::{PATIENCE, eventually};
use crate::harness::{Api, Cluster};
use crate::hints::keys;
use crate::load::{Load, Plan, read_back};
use crate::openapi::assert_as_documented;

/// What a node that is no member any more ends with.
const GONE: Option<i32> = Some(3);
/// Fewer than usual: each moves through several entries of the log.
const PARTITION_BITS: (&str, &str) = ("partitions", "32");

fn order(api: &mut Api, node: &str, what: &str, body: &Value) -> Answer {
    api.order("POST", &format!("cluster/nodes/{node}/{what}"), Some(body)).unwrap()
}

/// An order that is refused, with this status and code, and for a reason that holds these words.
fn refused(api: &mut Api, (node, what, body): (&str, &str, Value), (status, code, words): (u16, &str, &str)) {
    let answer = order(api, node, what, &body);
    assert_eq!((answer.status, error_code(&answer).as_str()), (status, code), "{what} {node}: {answer}");
    assert!(answer.to_string().contains(words), "{what} {node}: {answer}");
}

/// Has a node leave; what it has yet to hand over. There may be no leader for a while.
fn leave(cluster: &Cluster, by: u8, node: &str, what: &str, body: &Value) -> Value {
    let mut api = cluster.api(by);
    let answer = eventually(&format!("{what} {node}"), PATIENCE, || {
        let answer = order(&mut api, node, what, body);
        assert!(matches!(answer.status, 202 | 503), "{what} {node}: {answer}");
        if answer.status == 202 { Ok(answer) } else { Err(answer.to_string()) }
    });
    assert_as_documented(cluster.clients_of(&[by])[0].1, &format!("{what}Node"), &answer);
    answer.json()["leaving"].clone()
}

/// Waits until each of these sees these nodes and no other, all ready, each with so many replicas that do not change.
fn wait_only(cluster: &Cluster, numbers: &[u8], replicas: usize) {
    for by in numbers {
        let mut api = cluster.api(*by);
        let names: Vec<String> = numbers.iter().map(|number| format!("node-{number}")).collect();
        eventually(&format!("node-{by} sees {names:?} alone"), PATIENCE, || {
            let nodes = api.nodes()?;
            let ready = nodes.iter().all(|(_, (status, state))| status == "ALIVE" && state == "READY");
            if ready && nodes.keys().eq(names.iter()) { Ok(()) } else { Err(format!("{nodes:?}")) }
        });
    }
    cluster.wait_settled(numbers, replicas);
}

fn state_of(api: &mut Api, node: &str) -> Result<String, String> {
    let nodes = api.nodes()?;
    nodes.get(node).map(|(_, state)| state.clone()).ok_or_else(|| format!("{nodes:?}"))
}

fn wait_gone(cluster: &mut Cluster, node: u8) -> ExitStatus {
    let ended = cluster.node(node).wait_for_end(PATIENCE);
    assert_eq!(ended.code(), GONE, "{}", cluster.node(node).log_end());
    ended
}

fn kill(cluster: &mut Cluster, node: u8, others: &[u8]) {
    cluster.kill(&[node]);
    for by in others {
        let mut api = cluster.api(*by);
        eventually(&format!("node-{by} sees that node-{node} is down"), PATIENCE, || {
            let nodes = api.nodes()?;
            match nodes.get(&format!("node-{node}")) {
                Some((status, _)) if status == "DOWN" => Ok(()),
                _ => Err(format!("{nodes:?}")),
            }
        });
    }
}

/// Every row is there at ALL, through each of these.
fn assert_readable(cluster: &Cluster, through: &[u8], rows: &[String], value: &str) {
    for node in through {
        let mut api = cluster.api(*node);
        for key in rows {
            eventually(&format!("{key} at ALL through node-{node}"), PATIENCE, || {
                let answer = api.get(key, "ALL").map_err(|failure| failure.to_string())?;
                if answer.is_success() && answer.json()["value"] == value { Ok(()) } else { Err(answer.to_string()) }
            });
        }
    }
}

fn put(cluster: &Cluster, by: u8, rows: &[String], value: &str) {
    let mut api = cluster.api(by);
    for key in rows {
        let answer = api.put(key, value, "QUORUM").unwrap();
        assert!(answer.is_success(), "{key} through node-{by}: {answer}");
    }
}

fn four() -> Cluster {
    let (name, value) = PARTITION_BITS;
    let cluster = Cluster::of(4).with_long_deadlines().set(name, value).set("hints.check_interval", "1s").start();
    cluster.wait_settled(&[1, 2, 3, 4], 3);
    cluster
}

/// Four nodes of which node-4 was killed while it left and node-3 was away, and the rows that it took before.
fn killed_while_it_leaves() -> (Cluster, Vec<String>) {
    let mut cluster = four();
    let rows = keys("row", 60);
    put(&cluster, 4, &rows, "kept");
    // What node-3 is to take over waits for it.
    kill(&mut cluster, 3, &[1, 2, 4]);
    leave(&cluster, 1, "node-4", "decommission", &json!({}));
    kill(&mut cluster, 4, &[1, 2]);
    (cluster, rows)
}

#[test]
fn a_decommissioned_node_hands_over_its_rows_and_its_hints_for_a_node_that_is_away_and_ends() {
    let mut cluster = four();
    let plan = Plan { rows: 60, ..Plan::quorum("load") };
    let load = Load::start(&plan, &cluster.clients_of(&[1, 2]));
    kill(&mut cluster, 3, &[1, 2, 4]);
    let rows = keys("missed", 60);
    put(&cluster, 4, &rows, "while node-3 was away");
    let mut leaver = cluster.api(4);
    assert!(leaver.hints_for("node-3").unwrap() > 0);

    let begun = leave(&cluster, 1, "node-4", "decommission", &json!({}));
    assert_eq!(begun["by"], "DECOMMISSION", "{begun}");
    assert!(begun["partitions"].as_u64().unwrap() > 0, "{begun}");
    eventually("the hints are kept elsewhere", PATIENCE, || {
        let left = leaver.hints_for("node-3")?;
        if left == 0 { Ok(()) } else { Err(format!("{left} hints")) }
    });
    // It goes on to serve, and what comes of it is handed over too.
    put(&cluster, 4, &keys("late", 20), "while it left");
    load.wait_for_writes(100);
    let again = leave(&cluster, 2, "node-4", "decommission", &json!({}));
    assert!(again["partitions"].as_u64() <= begun["partitions"].as_u64(), "{again} after {begun}");

    cluster.restart(&[3]);
    wait_gone(&mut cluster, 4);
    load.wait_for_writes(100);
    wait_only(&cluster, &[1, 2, 3], 3);
    let mut history = load.stop();
    for (node, address) in cluster.clients_of(&[1, 2, 3]) {
        history.add(read_back(node, address, &Plan { read: "ALL", ..plan.clone() }));
    }
    history.assert_consistent();
    assert_readable(&cluster, &[3], &rows, "while node-3 was away");
    assert_readable(&cluster, &[3], &keys("late", 20), "while it left");
    assert!(cluster.node(4).printed().contains("it has left the cluster"));
    refused(&mut cluster.api(1), ("node-4", "decommission", json!({})), (404, "unknown_node", "node-4"));
    // Its directory is none of a member any more.
    cluster.node(4).start();
    wait_gone(&mut cluster, 4);
}

#[test]
fn a_node_that_is_killed_while_it_leaves_goes_on_leaving_when_it_is_back() {
    let (mut cluster, rows) = killed_while_it_leaves();
    assert_eq!(state_of(&mut cluster.api(2), "node-4"), Ok("LEAVING".to_owned()));
    cluster.restart(&[3, 4]);
    wait_gone(&mut cluster, 4);
    wait_only(&cluster, &[1, 2, 3], 3);
    assert_readable(&cluster, &[1, 3], &rows, "kept");
}

#[test]
fn a_node_that_dies_for_good_while_it_leaves_is_removed() {
    let (mut cluster, rows) = killed_while_it_leaves();
    cluster.restart(&[3]);
    let removed = leave(&cluster, 2, "node-4", "remove", &json!({}));
    assert_eq!(removed["by"], "REMOVE", "{removed}");
    wait_only(&cluster, &[1, 2, 3], 3);
    assert_readable(&cluster, &[1, 3], &rows, "kept");
    // It comes back with what it had.
    cluster.node(4).start();
    wait_gone(&mut cluster, 4);
}

fn leader(cluster: &Cluster) -> u8 {
    let nodes = cluster.api(1).ask("GET", "cluster/nodes", None);
    let leads = |node: &&Value| node["raft"] == "LEADER";
    let leader = nodes["nodes"].as_array().unwrap().iter().find(leads).unwrap_or_else(|| panic!("{nodes}"));
    leader["name"].as_str().unwrap().trim_start_matches("node-").parse().unwrap()
}

#[test]
fn a_leader_that_is_gone_for_good_is_removed_and_a_new_node_takes_its_place() {
    let (name, value) = PARTITION_BITS;
    let mut cluster = Cluster::growing_to(4, 3).with_long_deadlines().set(name, value).start();
    cluster.wait_settled(&[1, 2, 3], 3);
    let rows = keys("row", 60);
    put(&cluster, 1, &rows, "kept");
    let lost = leader(&cluster);
    let others: Vec<u8> = [1, 2, 3].into_iter().filter(|node| *node != lost).collect();
    kill(&mut cluster, lost, &others);
    let name = format!("node-{lost}");
    leave(&cluster, others[0], &name, "remove", &json!({}));
    wait_only(&cluster, &others, 2);
    let new = cluster.add();
    cluster.node(new).start();
    let all = [others.clone(), vec![new]].concat();
    wait_only(&cluster, &all, 3);
    assert_readable(&cluster, &all, &rows, "kept");
}

#[test]
fn a_member_that_was_to_hold_nothing_takes_the_place_of_a_node_that_is_gone_for_good() {
    let (name, value) = PARTITION_BITS;
    let mut cluster = Cluster::growing_to(4, 3).with_long_deadlines().set(name, value).start();
    cluster.wait_settled(&[1, 2, 3], 3);
    let rows = keys("row", 60);
    put(&cluster, 1, &rows, "kept");
    kill(&mut cluster, 3, &[1, 2]);
    let new = cluster.add();
    cluster.node(new).settings.set.push(("weight".to_owned(), "0".to_owned()));
    cluster.node(new).start();
    cluster.node(new).wait_ready();
    let mut api = cluster.api(1);
    // That it is ready the state says, and that it lives the node that is asked has to have heard.
    eventually("it is ready and heard", PATIENCE, || {
        let nodes = api.nodes()?;
        let (status, state) = nodes.get("node-4").ok_or_else(|| format!("{nodes:?}"))?;
        if status == "ALIVE" && state == "READY" { Ok(()) } else { Err(format!("{status} {state}")) }
    });
    cluster.wait_seen(1, &[new], "ALIVE");
    refused(&mut api, ("node-3", "replace", json!({})), (400, "invalid_request", "with"));
    refused(&mut api, ("node-3", "replace", json!({"with": "node-9"})), (404, "unknown_node", "node-9"));
    refused(&mut api, ("node-3", "replace", json!({"with": "node-3"})), (409, "conflict", "node-3"));
    let begun = leave(&cluster, 1, "node-3", "replace", &json!({"with": "node-4"}));
    assert_eq!(begun["by"], "REMOVE", "{begun}");
    wait_only(&cluster, &[1, 2, new], 3);
    assert_readable(&cluster, &[1, 2, new], &rows, "kept");
    cluster.node(3).start();
    wait_gone(&mut cluster, 3);
}

#[test]
fn a_drained_node_turns_clients_away_and_stays_a_replica_until_that_is_undone() {
    let (name, value) = PARTITION_BITS;
    let cluster = Cluster::of(3).with_long_deadlines().set(name, value).set("timeouts.announce", "200ms").start();
    cluster.wait_settled(&[1, 2, 3], 3);
    let (mut api, mut drained) = (cluster.api(1), cluster.api(2));
    refused(&mut api, ("node-9", "drain", json!({})), (404, "unknown_node", "node-9"));
    let answer = order(&mut api, "node-2", "drain", &json!({}));
    assert_eq!(answer.status, 202, "{answer}");
    eventually("it turns clients away", PATIENCE, || {
        let answer = drained.put("a", "1", "ONE").map_err(|failure| failure.to_string())?;
        let told = (answer.status, error_code(&answer));
        if told == (503, "drained".to_owned()) { Ok(()) } else { Err(answer.to_string()) }
    });
    let ready = drained.get_raw("/readyz").unwrap();
    assert!(ready.status == 503 && ready.to_string().contains("node-2 is drained"), "{ready}");
    eventually("the others are told", PATIENCE, || {
        let nodes = api.ask("GET", "cluster/nodes", None);
        let node = nodes["nodes"].as_array().unwrap().iter().find(|node| node["name"] == "node-2");
        if node.is_some_and(|node| node["drain"] == "DRAINED") { Ok(()) } else { Err(nodes.to_string()) }
    });
    // All three replicas answer, this one among them.
    let answer = api.put("a", "2", "ALL").unwrap();
    assert!(answer.is_success(), "{answer}");
    let answer = order(&mut drained, "node-2", "drain", &json!({"undo": true}));
    assert_eq!(answer.status, 202, "{answer}");
    let answer = drained.get("a", "QUORUM").unwrap();
    assert_eq!(answer.json()["value"], "2", "{answer}");
    assert!(drained.get_raw("/readyz").unwrap().is_success());
}

#[test]
fn a_node_that_gossip_calls_dead_and_that_answers_is_not_removed() {
    let (name, value) = PARTITION_BITS;
    let mut cluster = Cluster::of(3).with_long_deadlines().set(name, value).start();
    cluster.wait_settled(&[1, 2, 3], 3);
    cluster.signal(3, Signal::STOP);
    cluster.wait_seen(1, &[3], "DOWN");
    // Gossip takes a moment to hear of it again.
    cluster.signal(3, Signal::CONT);
    let mut api = cluster.api(1);
    refused(&mut api, ("node-3", "remove", json!({})), (409, "conflict", "decommission it"));
    cluster.wait_seen(1, &[3], "ALIVE");
    refused(&mut api, ("node-3", "remove", json!({})), (409, "conflict", "decommission it"));
}

#[test]
fn a_node_that_runs_a_repair_is_not_decommissioned_before_it_has_ended() {
    let mut cluster = four();
    put(&cluster, 4, &keys("row", 20), "kept");
    // A repair waits for it.
    kill(&mut cluster, 3, &[1, 2, 4]);
    let asked = json!({"keyspace": "default", "table": "kv"});
    let begun = cluster.api(4).order("POST", "replication/repair", Some(&asked)).unwrap();
    assert_eq!(begun.status, 202, "{begun}");
    let id = begun.json()["repairId"].as_str().unwrap().to_owned();
    let mut api = cluster.api(1);
    refused(&mut api, ("node-4", "decommission", json!({})), (409, "conflict", &id));
    let cancelled = api.order("DELETE", &format!("replication/repair/{id}"), None).unwrap();
    assert!(cancelled.is_success(), "{cancelled}");
    eventually("the repair has ended", PATIENCE, || {
        let answer = order(&mut api, "node-4", "decommission", &json!({}));
        if answer.status == 202 { Ok(()) } else { Err(answer.to_string()) }
    });
    let mut leaver = cluster.api(4);
    eventually("it knows that it leaves", PATIENCE, || match state_of(&mut leaver, "node-4")? {
        state if state == "LEAVING" => Ok(()),
        other => Err(other),
    });
    let begun = leaver.order("POST", "replication/repair", Some(&asked)).unwrap();
    assert_eq!((begun.status, error_code(&begun).as_str()), (409, "conflict"), "{begun}");
}

#[test]
fn nothing_leaves_that_the_others_cannot_do_without_and_nothing_alive_is_removed() {
    let (name, value) = PARTITION_BITS;
    let mut cluster = Cluster::of(3).with_long_deadlines().set(name, value).start();
    cluster.wait_settled(&[1, 2, 3], 3);
    let mut api = cluster.api(1);
    refused(&mut api, ("node-3", "decommission", json!({})), (409, "conflict", "asks for 3 replicas"));
    refused(&mut api, ("node-9", "decommission", json!({})), (404, "unknown_node", "node-9"));
    refused(&mut api, ("node-3", "remove", json!({})), (409, "conflict", "decommission it"));
    refused(&mut api, ("node-3", "remove", json!({"acceptloss": true})), (400, "invalid_request", "acceptloss"));
    kill(&mut cluster, 3, &[1, 2]);
    refused(&mut api, ("node-3", "decommission", json!({})), (409, "conflict", "does not answer"));
    let keyspace = api.create_keyspace("single", &json!({"replication": {"strategy": "simple", "factor": 1}})).unwrap();
    assert!(keyspace.is_success(), "{keyspace}");
    // A third of its partitions is on the node that is gone alone.
    refused(&mut api, ("node-3", "remove", json!({})), (409, "conflict", "acceptLoss"));
    let begun = leave(&cluster, 1, "node-3", "remove", &json!({"acceptLoss": true}));
    assert_eq!(begun["by"], "REMOVE", "{begun}");
    eventually("it is gone", PATIENCE, || {
        let nodes = api.nodes()?;
        if nodes.len() == 2 { Ok(()) } else { Err(format!("{nodes:?}")) }
    });
    let answer = api.create_table("single", "kv").unwrap();
    assert!(answer.is_success(), "{answer}");
    // What nobody held any more begins empty.
    let mut single = cluster.api(1).in_keyspace(Some("single"));
    for key in keys("row", 60) {
        eventually(&format!("{key} is written"), PATIENCE, || {
            let answer = single.put(&key, "v", "ALL").map_err(|failure| failure.to_string())?;
            if answer.is_success() { Ok(()) } else { Err(answer.to_string()) }
        });
    }
}
