//! What nodes tell of themselves and of the whole while some of them are away.

use serde_json::{Value, json};

use crate::harness::Cluster;
use crate::harness::time::{PATIENCE, eventually};
use crate::hints::kill_the_third;

fn whole(cluster: &Cluster, by: u8) -> Value {
    cluster.api(by).ask("GET", "cluster/health", None)
}

#[test]
fn the_whole_is_healthy_then_at_risk_then_without_quorum_as_nodes_die() {
    let mut cluster = Cluster::of(3).start();
    cluster.wait_settled(&[1, 2, 3], 3);
    // All three vote a moment after they are members.
    eventually("a healthy cluster", PATIENCE, || {
        let told = whole(&cluster, 1);
        if told["status"] == "HEALTHY" { Ok(()) } else { Err(told.to_string()) }
    });
    eventually("a ready node", PATIENCE, || {
        let answer = cluster.api(3).get_raw("/readyz").map_err(|failure| failure.to_string())?;
        if answer.status == 200 { Ok(()) } else { Err(answer.to_string()) }
    });

    kill_the_third(&mut cluster);
    let told = whole(&cluster, 1);
    assert_eq!((&told["status"], &told["down"]), (&json!("AT_RISK"), &json!(["node-3"])), "{told}");
    let risky: Vec<&str> =
        told["ifOneMoreDied"].as_array().unwrap().iter().filter_map(|one_more| one_more["node"].as_str()).collect();
    assert_eq!(risky, ["node-1", "node-2"]);
    assert_eq!(told["ifOneMoreDied"][0]["keyspaces"][0]["name"], "default");

    cluster.kill(&[2]);
    cluster.wait_seen(1, &[2, 3], "DOWN");
    let told = whole(&cluster, 1);
    let default = &told["keyspaces"][0];
    assert_eq!((&told["status"], &default["withoutQuorum"]), (&json!("UNAVAILABLE"), &json!(256)), "{told}");
    let refused = cluster.api(1).put("k", "v", "QUORUM").unwrap();
    assert_eq!(refused.status, 503, "and so it is: {refused}");
}

#[test]
fn a_node_that_waits_for_its_cluster_lives_and_says_what_is_missing() {
    let mut cluster = Cluster::of(3);
    cluster.node(1).start();
    eventually("a node that waits", PATIENCE, || {
        let alive = cluster.api(1).livez().map_err(|failure| failure.to_string())?;
        let answer = cluster.api(1).get_raw("/readyz").map_err(|failure| failure.to_string())?;
        assert_eq!((alive.status, answer.status), (200, 503), "{answer}");
        let told = answer.json();
        assert_eq!((&told["status"], &told["node"]), (&json!("NOT_READY"), &json!("node-1")));
        assert!(told["missing"][0].as_str().is_some_and(|missing| !missing.is_empty()), "{answer}");
        Ok(())
    });
}
