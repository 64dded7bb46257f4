//! Whether clients should come here, and what would break if one more node died.

use cube_server::edge::Closing;
use serde_json::{Value, json};

use super::http::get;
use super::node::{Node, Plan};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_is_ready_unless_something_is_missing_and_says_what() {
    let node = Node::alone().await;
    let ready = get(node.http, "/readyz").await;
    assert_eq!((ready.status, ready.body), (200, json!({"status": "READY", "node": "node-1", "missing": []})));

    {
        let mut health = node.rest_of_node.health.lock();
        health.state = Some("WARMING".into());
        health.to_copy = Some("85 partitions are being copied to this node".into());
    }
    let warming = get(node.http, "/readyz").await;
    let expected = "it is WARMING: 85 partitions are being copied to this node";
    assert_eq!((warming.status, &warming.body["missing"]), (503, &json!([expected])));
    assert_eq!(get(node.http, "/api/v1/health").await.status, 200, "it serves all the same");

    node.rest_of_node.health.lock().state = Some("LEAVING".into());
    assert_eq!(get(node.http, "/readyz").await.body["missing"], json!(["it is LEAVING: use the other nodes"]));

    node.rest_of_node.health.lock().state = Some("READY".into());
    node.rest_of_node.health.lock().reasons = vec!["its disk failed".into()];
    assert_eq!(get(node.http, "/readyz").await.body["missing"], json!(["its disk failed"]));

    node.rest_of_node.health.lock().reasons.clear();
    assert_eq!(get(node.http, "/readyz").await.status, 200);
    node.edge.doors().announce(Closing::Stopping);
    let leaving = get(node.http, "/readyz").await;
    assert_eq!((leaving.status, &leaving.body["missing"]), (503, &json!(["the node is about to stop"])));
    assert_eq!(get(node.http, "/livez").await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cluster_tells_which_death_would_cost_which_keyspace_its_quorum() {
    let node = Node::start(Plan { others: &["dc1", "dc1"], ..Plan::default() }).await;
    let health = async || get(node.http, "/api/v1/cluster/health").await.body;
    let before = health().await;
    assert_eq!((&before["status"], &before["ifOneMoreDied"]), (&json!("HEALTHY"), &json!([])), "{before}");

    node.kill("node-3");
    let at_risk = health().await;
    assert_eq!((&at_risk["status"], &at_risk["down"]), (&json!("AT_RISK"), &json!(["node-3"])));
    let costs = |one_more: &Value| (one_more["node"].clone(), one_more["keyspaces"][0]["withoutQuorum"].clone());
    let risky: Vec<_> = at_risk["ifOneMoreDied"].as_array().unwrap().iter().map(costs).collect();
    assert_eq!(risky, [(json!("node-1"), json!(2)), (json!("node-2"), json!(2))], "{at_risk}");

    node.kill("node-2");
    let lost = health().await;
    assert_eq!((&lost["status"], &lost["keyspaces"][0]["withoutQuorum"]), (&json!("UNAVAILABLE"), &json!(2)), "{lost}");
    assert_eq!(lost["control"]["alive"], 1);
}
