//! Keyspaces, tables, and how the cluster is shown.

use cube_server::edge::Closing;
use serde_json::json;

use super::http::{get, send};
use super::node::Node;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_keyspace_is_created_shown_altered_and_dropped() {
    let node = Node::alone().await;
    let path = "/api/v1/keyspaces/fleet";
    let body = r#"{"replication":{"strategy":"network","dataCenters":{"dc1":3}},"durability":{"interval":"100ms"}}"#;
    let created = send(node.http, "PUT", path, body).await;
    assert_eq!((created.status, &created.body["changed"]), (201, &json!(true)), "{created:?}");
    let again = send(node.http, "PUT", path, body).await;
    assert_eq!((again.status, &again.body["changed"]), (200, &json!(false)));
    let other = send(node.http, "PUT", path, "").await;
    assert_eq!((other.status, other.error_code()), (409, "already_exists"));

    let shown = get(node.http, path).await.body;
    let expected = json!({
        "name": "fleet",
        "replication": {"strategy": "network", "dataCenters": {"dc1": 3}},
        "durability": {"interval": "100ms"},
        "tables": [],
    });
    assert_eq!(shown, expected);

    let altered = send(node.http, "PATCH", path, r#"{"durability":"sync"}"#).await;
    assert_eq!((altered.status, &altered.body["changed"]), (200, &json!(true)));
    let shown = get(node.http, path).await.body;
    assert_eq!((&shown["durability"], &shown["replication"]), (&json!("sync"), &expected["replication"]));

    assert_eq!(send(node.http, "DELETE", path, "").await.status, 200);
    assert_eq!(get(node.http, path).await.error_code(), "unknown_keyspace");
    assert_eq!(send(node.http, "DELETE", path, "").await.status, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_keyspace_that_says_nothing_has_three_replicas_and_syncs_every_write() {
    let node = Node::alone().await;
    assert_eq!(send(node.http, "PUT", "/api/v1/keyspaces/plain", "").await.status, 201);
    let all = get(node.http, "/api/v1/keyspaces").await.body;
    let names: Vec<_> = all["keyspaces"].as_array().unwrap().iter().map(|space| &space["name"]).collect();
    assert_eq!(names, ["default", "plain"]);
    assert_eq!(all["keyspaces"][1]["replication"], json!({"strategy": "simple", "factor": 3}));
    assert_eq!(all["keyspaces"][1]["durability"], "sync");
    assert_eq!(all["keyspaces"][0]["tables"], json!(["kv"]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_has_the_options_of_the_design_and_holds_rows_at_once() {
    let node = Node::alone().await;
    let path = "/api/v1/keyspaces/default/tables/sandboxes";
    let body = r#"{"read_repair_chance":0,"hedge":"20ms","grace":"2h","prefix_index":false,"default_ttl":"1day"}"#;
    assert_eq!(send(node.http, "PUT", path, body).await.status, 201);
    assert_eq!(send(node.http, "PUT", path, body).await.status, 200);
    let shown = get(node.http, path).await.body;
    let expected = json!({
        "keyspace": "default", "name": "sandboxes",
        "read_repair_chance": 0, "hedge": "20ms", "grace": "2h", "prefix_index": false, "default_ttl": "1day",
    });
    assert_eq!(shown, expected);

    assert_eq!(send(node.http, "PUT", &format!("{path}/rows/k"), r#"{"value":"v"}"#).await.status, 200);
    assert!(get(node.http, &format!("{path}/rows/k")).await.body["expiresAt"].is_u64(), "default_ttl");
    assert_eq!(get(node.http, "/api/v1/get/k").await.body["found"], false, "another table has other rows");

    let altered = send(node.http, "PATCH", path, r#"{"default_ttl":null,"hedge":"OFF","readRepairChance":50}"#).await;
    assert_eq!(altered.status, 200, "{altered:?}");
    let shown = get(node.http, path).await.body;
    assert_eq!((&shown["default_ttl"], &shown["hedge"]), (&json!(null), &json!("off")));
    assert_eq!((&shown["read_repair_chance"], &shown["grace"]), (&json!(50), &json!("2h")));
    let same = send(node.http, "PATCH", path, r#"{"hedge":"off"}"#).await;
    assert_eq!((same.status, &same.body["changed"]), (200, &json!(false)));

    assert_eq!(send(node.http, "DELETE", path, "").await.status, 200);
    assert_eq!(get(node.http, &format!("{path}/rows/k")).await.error_code(), "unknown_table");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_majority_a_change_says_whether_it_may_take_effect() {
    let node = Node::alone().await;
    for may_take_effect in [false, true] {
        *node.rest_of_node.no_majority.lock() = Some(may_take_effect);
        let refused = send(node.http, "PUT", "/api/v1/keyspaces/late", "").await;
        assert_eq!((refused.status, refused.error_code()), (503, "no_majority"));
        let told = refused.details().get("mayTakeEffect").is_some_and(|may| may == true);
        assert_eq!(told, may_take_effect, "{refused:?}");
    }
    assert_eq!(get(node.http, "/api/v1/keyspaces").await.status, 200, "the schema is still shown");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_topology_and_hints_are_shown_by_name() {
    let node = Node::start(super::node::Plan { others: &["dc1", "dc2"], ..Default::default() }).await;
    node.kill("node-3");
    let nodes = get(node.http, "/api/v1/cluster/nodes").await.body;
    let expected = json!({
        "name": "node-3", "id": 2, "status": "DOWN", "state": "READY", "dataCenter": "dc2", "rack": "r1", "weight": 1,
        "addresses": {"http": "127.0.0.1:8082", "grpc": "127.0.0.1:7402", "peer": "127.0.0.1:7403", "gossip": "127.0.0.1:7404"},
        "hints": 0,
    });
    assert_eq!(nodes["nodes"][2], expected);
    assert_eq!(nodes["nodes"][0]["status"], "ALIVE");

    let topology = get(node.http, "/api/v1/cluster/topology").await.body;
    assert_eq!((&topology["epoch"], &topology["partitionCount"]), (&json!(4), &json!(2)));
    let placement = &topology["placements"][0];
    assert_eq!((&placement["replication"], &placement["keyspaces"]), (&json!("simple(3)"), &json!(["default"])));
    let partition = json!({"partition": 1, "epoch": 4, "step": "STABLE", "replicas": ["node-1", "node-2", "node-3"]});
    assert_eq!(placement["partitions"][1], partition);

    let hints = get(node.http, "/api/v1/replication/hints").await.body;
    assert_eq!((&hints["totalHints"], &hints["nodeHints"]), (&json!(45), &json!({"node-3": 45})));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_is_200_while_the_node_serves_and_503_with_the_reason_while_it_does_not() {
    let node = Node::alone().await;
    node.rest_of_node.health.lock().warnings = vec!["node-3 is down".into()];
    let healthy = get(node.http, "/api/v1/health").await;
    let expected = json!({"status": "SERVING", "node": "node-1", "warnings": ["node-3 is down"]});
    assert_eq!((healthy.status, healthy.body), (200, expected));

    node.rest_of_node.health.lock().reasons = vec!["its data is being copied".into()];
    let sick = get(node.http, "/api/v1/health").await;
    assert_eq!((sick.status, sick.error_code()), (503, "not_serving"));
    assert_eq!(sick.body["status"], "NOT_SERVING");
    assert_eq!(sick.body["reasons"], json!(["its data is being copied"]));
    assert_eq!(sick.body["error"]["message"], "its data is being copied");
    assert_eq!(get(node.http, "/livez").await.status, 200, "the process lives");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_about_to_stop_turns_new_work_away_and_says_so_in_its_health() {
    let node = Node::alone().await;
    node.edge.doors().close(Closing::Stopping);
    let put = send(node.http, "POST", "/api/v1/put", r#"{"key":"k","value":"v"}"#).await;
    assert_eq!((put.status, put.error_code()), (503, "shutting_down"));
    assert_eq!(get(node.http, "/api/v1/get/k").await.error_code(), "shutting_down");
    assert_eq!(send(node.http, "PUT", "/api/v1/keyspaces/k", "").await.error_code(), "shutting_down");
    assert_eq!(get(node.http, "/api/v1/health").await.status, 503);
    assert_eq!(get(node.http, "/api/v1/cluster/nodes").await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn how_replicas_stand_is_told_for_the_node_and_for_a_table_and_the_scrub_is_asked_for() {
    let node = Node::alone().await;
    let all = get(node.http, "/api/v1/replication/status").await;
    assert_eq!((all.status, &all.body["enabled"], &all.body["partitions"]), (200, &json!(true), &json!(null)));
    for known in ["?table=kv", "?table=default.kv", "?keyspace=default&table=kv"] {
        assert_eq!(get(node.http, &format!("/api/v1/replication/status{known}")).await.status, 200, "{known}");
    }
    for (unknown, status) in [("?table=nothing", 404), ("?keyspace=default", 400), ("?partition=7", 400)] {
        assert_eq!(get(node.http, &format!("/api/v1/replication/status{unknown}")).await.status, status, "{unknown}");
    }
    let scrub = get(node.http, "/api/v1/replication/scrub").await;
    assert_eq!((scrub.status, &scrub.body["state"]), (200, &json!("RUNNING")));
    let asked = send(node.http, "POST", "/api/v1/replication/scrub", "").await;
    assert_eq!((asked.status, &asked.body["scrub"]["state"]), (202, &json!("ON_DEMAND")));
    let wrong = send(node.http, "POST", "/api/v1/replication/scrub", r#"{"cycle":1}"#).await;
    assert_eq!(wrong.status, 400);
}
