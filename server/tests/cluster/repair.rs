//! Repairs on demand between real nodes: what they find, what they mend, and what they say when some of it breaks.

use serde_json::{Value, json};

use crate::harness::Cluster;
use crate::harness::time::{PATIENCE, eventually};
use crate::hints::{keys, kill_the_third, put_many};

const PATH: &str = "replication/repair";

/// A cluster in which what a node misses stays missing, unless a repair is asked for. Node 3 is dead, as the others
/// know.
fn without_the_third(cluster: Cluster) -> Cluster {
    let settings = [
        ("hints.enabled", "false"),
        ("anti_entropy.enabled", "false"),
        ("timeouts.write", "5s"),
        ("anti_entropy.horizon", "5s"),
    ];
    let cluster = settings.into_iter().fold(cluster, |cluster, (name, value)| cluster.set(name, value));
    let mut cluster = cluster.start();
    cluster.wait_settled(&[1, 2, 3], 3);
    kill_the_third(&mut cluster);
    cluster
}

fn return_the_third(cluster: &mut Cluster) {
    cluster.restart(&[3]);
    cluster.wait_formed(&[1, 2, 3]);
}

/// Asks a node for a repair of the table of these tests; its id.
fn begin(cluster: &Cluster, node: u8, dry_run: bool) -> String {
    let body = json!({"keyspace": "default", "table": "kv", "dryRun": dry_run});
    let begun = cluster.api(node).ask("POST", PATH, Some(&body));
    assert_eq!((&begun["success"], &begun["dryRun"]), (&json!(true), &json!(dry_run)), "{begun}");
    begun["repairId"].as_str().unwrap().to_owned()
}

fn show(cluster: &Cluster, node: u8, id: &str) -> Value {
    cluster.api(node).ask("GET", &format!("{PATH}/{id}"), None)
}

fn is_over(repair: &Value) -> bool {
    !matches!(repair["state"].as_str(), Some("PLANNED" | "RUNNING"))
}

/// Waits for the end of a repair.
fn finish(cluster: &Cluster, node: u8, id: &str) -> Value {
    eventually(&format!("repair {id} ends"), 2 * PATIENCE, || {
        let repair = show(cluster, node, id);
        if is_over(&repair) { Ok(repair) } else { Err(repair.to_string()) }
    })
}

fn run(cluster: &Cluster, node: u8, dry_run: bool) -> Value {
    let id = begin(cluster, node, dry_run);
    finish(cluster, node, &id)
}

/// What a dry run finds between the third node and another one, once that is older than the horizon.
fn wait_planned(cluster: &Cluster, rows: usize) -> Value {
    eventually("a dry run finds what the third node missed", PATIENCE, || {
        let plan = run(cluster, 1, true);
        assert_eq!(plan["state"], "COMPLETED", "{plan}");
        if plan["rows"] == rows { Ok(plan) } else { Err(plan.to_string()) }
    })
}

fn assert_held_by_the_third(cluster: &Cluster, keys: &[String], value: &str) {
    let mut api = cluster.api(3);
    for key in keys {
        let answer = api.get(key, "ONE").unwrap().json();
        assert_eq!(answer["value"], value, "{key}: {answer}");
    }
}

#[test]
fn a_dry_run_shows_what_is_missing_and_changes_nothing_and_a_repair_mends_it() {
    let mut cluster = without_the_third(Cluster::of(3));
    let missed = keys("missed", 300);
    put_many(&cluster, &missed, "value");
    return_the_third(&mut cluster);

    // Each of the others would send all of them.
    let plan = wait_planned(&cluster, 600);
    assert_eq!((&plan["total"], &plan["done"]), (&json!(768), &json!(768)), "{plan}");
    for pair in plan["pairs"].as_array().unwrap() {
        let is_third = pair["nodes"].as_array().unwrap().contains(&json!("node-3"));
        let rows = if is_third { 300 } else { 0 };
        assert_eq!(pair["rowsTo"].as_object().unwrap().values().filter_map(Value::as_u64).sum::<u64>(), rows, "{plan}");
        assert_eq!(pair["bytes"].as_u64().unwrap() > 0, is_third, "{plan}");
        assert_eq!(pair["rowsTo"]["node-3"].as_u64(), is_third.then_some(300), "{plan}");
    }
    assert_eq!(run(&cluster, 2, true)["rows"], 600, "it changed nothing, and node-2 sees the same");

    let repair = run(&cluster, 1, false);
    assert_eq!(repair["state"], "COMPLETED", "{repair}");
    let rows = repair["rows"].as_u64().unwrap();
    assert!((300..=600).contains(&rows), "{repair}");
    assert_held_by_the_third(&cluster, &missed, "value");
    let again = run(&cluster, 3, true);
    assert_eq!((&again["differing"], &again["rows"], &again["bytes"]), (&json!(0), &json!(0), &json!(0)), "{again}");
}

#[test]
fn a_repair_that_is_killed_with_its_node_or_with_a_peer_goes_on_and_ends_with_equal_replicas() {
    let slow = Cluster::of(3).set("anti_entropy.rows_per_second", "200");
    let mut cluster = without_the_third(slow);
    let missed = keys("missed", 1_000);
    put_many(&cluster, &missed, "value");
    return_the_third(&mut cluster);
    wait_planned(&cluster, 2_000);

    let id = begin(&cluster, 1, false);
    wait_for_rows(&cluster, &id, 200);
    cluster.kill(&[1]);
    cluster.restart(&[1]);
    cluster.wait_formed(&[1, 2, 3]);
    let resumed = eventually("the repair is taken up again", PATIENCE, || {
        let repair = show(&cluster, 1, &id);
        if repair["resumed"] == 1 || is_over(&repair) { Ok(repair) } else { Err(repair.to_string()) }
    });
    assert_ne!(resumed["state"], "FAILED", "{resumed}");
    if !is_over(&resumed) {
        cluster.kill(&[3]);
        cluster.restart(&[3]);
        cluster.wait_formed(&[1, 2, 3]);
    }
    let mut repair = finish(&cluster, 1, &id);
    println!("killed with its node and with a peer: {repair}");
    // A machine that is busy with other things may start a node later than a repair waits for it; then it says so.
    if repair["state"] == "PARTIAL" {
        assert!(repair["notCompared"].as_array().unwrap().iter().all(|left| left["node"] == "node-3"), "{repair}");
        repair = run(&cluster, 1, false);
    }
    assert_eq!(repair["state"], "COMPLETED", "{repair}");
    assert_held_by_the_third(&cluster, &missed, "value");
    assert_eq!(run(&cluster, 2, true)["differing"], 0);
}

fn wait_for_rows(cluster: &Cluster, id: &str, rows: u64) {
    eventually("the repair is in the middle", PATIENCE, || {
        let repair = show(cluster, 1, id);
        assert!(!is_over(&repair), "it was to take longer: {repair}");
        if repair["rows"].as_u64().unwrap() >= rows { Ok(()) } else { Err(repair.to_string()) }
    });
}

#[test]
fn with_a_node_down_a_repair_ends_as_partial_and_meanwhile_every_node_knows_of_it() {
    let cluster = without_the_third(Cluster::of(3));
    put_many(&cluster, &keys("row", 50), "value");
    let id = begin(&cluster, 1, false);

    let second = json!({"keyspace": "default"});
    for node in [1, 2] {
        let refused = post(&cluster, node, &second);
        let error = &refused["error"];
        assert_eq!(
            (&error["code"], &error["details"]["repairId"]),
            (&json!("repair_under_way"), &json!(id)),
            "{refused}"
        );
    }
    let listed = cluster.api(2).ask("GET", PATH, None);
    assert_eq!((&listed["repairs"][0]["repairId"], &listed["notAsked"]), (&json!(id), &json!(["node-3"])), "{listed}");
    assert_eq!(post(&cluster, 1, &json!({"keyspace": "no"}))["error"]["code"], "unknown_keyspace");
    assert_eq!(post(&cluster, 1, &json!({"table": "no"}))["error"]["code"], "unknown_table");
    let unknown = cluster.api(1).order("GET", &format!("{PATH}/0000000000000001-0"), None).unwrap().json();
    assert_eq!(unknown["error"]["code"], "unknown_repair", "{unknown}");

    let repair = finish(&cluster, 2, &id);
    assert_eq!((&repair["state"], &repair["node"]), (&json!("PARTIAL"), &json!("node-1")), "{repair}");
    assert_eq!((&repair["done"], &repair["total"]), (&json!(768), &json!(768)), "{repair}");
    let left = repair["notCompared"].as_array().unwrap();
    let partitions: usize = left.iter().map(|left| left["partitions"].as_array().unwrap().len()).sum();
    assert_eq!(partitions, 512, "{repair}");
    for left in left {
        assert_eq!((&left["node"], &left["table"]), (&json!("node-3"), &json!("default.kv")), "{repair}");
        assert_eq!(left["reason"], "the node is down", "{repair}");
    }

    let id = begin(&cluster, 1, true);
    let cancelled = cluster.api(2).ask("DELETE", &format!("{PATH}/{id}"), None);
    assert_eq!(cancelled["state"], "CANCELLED", "{cancelled}");
    assert_eq!(show(&cluster, 1, &id)["state"], "CANCELLED");
}

/// What a node answers to a repair that it refuses.
fn post(cluster: &Cluster, node: u8, body: &Value) -> Value {
    cluster.api(node).order("POST", PATH, Some(body)).unwrap().json()
}
