//! Many rows with one request over HTTP: what comes of each is told of each.

use cube_replication::coordinator::Settings;
use cube_storage::model::Limits;
use serde_json::{Value, json};

use super::http::{get, send};
use super::node::{Node, Plan};

const PUT: &str = "/api/v1/batch/put";
const GET: &str = "/api/v1/batch/get";
const DELETE: &str = "/api/v1/batch/delete";

async fn post(node: &Node, path: &str, body: Value) -> super::http::Answer {
    send(node.http, "POST", path, &body.to_string()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_rows_are_put_read_and_deleted_and_each_is_told_of_in_the_order_of_the_request() {
    let node = Node::alone().await;
    let rows = json!([
        {"key": "a", "sort": "2", "value": "a2", "ttl": "1h"},
        {"key": "b", "value": "b"},
        {"key": "/wA=", "value": "gIE=", "encoding": "base64"},
        {"key": "a", "sort": "1", "value": "a1"},
    ]);
    let put = post(&node, PUT, json!({"rows": rows, "cl": "one"})).await;
    assert_eq!((put.status, &put.body["success"], &put.body["count"]), (200, &json!(true), &json!(4)), "{put:?}");
    assert_eq!(put.body["level"], "ONE");
    let results = put.body["results"].as_array().unwrap();
    let keys: Vec<_> = results.iter().map(|row| (&row["key"], &row["sort"])).collect();
    let (null, one, two) = (json!(null), json!("1"), json!("2"));
    let expected = [(&json!("a"), &two), (&json!("b"), &null), (&json!("/wA="), &null), (&json!("a"), &one)];
    assert_eq!(keys, expected);
    assert_eq!(results[0]["version"], results[3]["version"], "rows of one partition key are written together");
    assert_eq!(results[2]["encoding"], "base64");
    assert_eq!(results[1]["acknowledgedBy"], json!(["node-1"]));

    assert_eq!(get(node.http, "/api/v1/get/a?sort=1").await.body["value"], "a1");
    let keys = json!([{"key": "nobody"}, {"key": "/wA=", "encoding": "base64"}, {"key": "a", "sort": "2"}]);
    let read = post(&node, GET, json!({"keys": keys, "explain": true})).await;
    let results = &read.body["results"];
    assert_eq!((&results[0]["found"], &results[0]["value"]), (&json!(false), &json!(null)), "{read:?}");
    assert_eq!((&results[1]["value"], &results[1]["encoding"]), (&json!("gIE="), &json!("base64")));
    assert_eq!((&results[2]["value"], &results[2]["sort"]), (&json!("a2"), &json!("2")));
    assert!(results[2]["expiresAt"].is_u64() && read.body["explained"].is_object(), "{read:?}");

    let below = "/api/v1/keyspaces/default/tables/kv/batch/delete";
    let deleted = post(&node, below, json!({"keys": [{"key": "b"}, {"key": "a", "sort": "1"}]})).await;
    assert_eq!((deleted.status, &deleted.body["success"]), (200, &json!(true)), "{deleted:?}");
    assert_eq!(get(node.http, "/api/v1/get/b").await.body["found"], false);
    assert_eq!(get(node.http, "/api/v1/get/a?sort=2").await.body["found"], true, "it was not named");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_timestamp_of_a_batch_is_that_of_each_of_its_rows() {
    let node = Node::alone().await;
    let at = 1_700_000_000_000u64;
    let put = post(&node, PUT, json!({"rows": [{"key": "k", "value": "v"}], "timestamp": at})).await;
    assert_eq!(put.body["results"][0]["version"], json!({"timestamp": at, "counter": 0, "node": "client"}), "{put:?}");
    let older = post(&node, DELETE, json!({"keys": [{"key": "k"}], "timestamp": at - 1})).await;
    assert_eq!(older.body["results"][0]["supersededBy"]["timestamp"], at, "{older:?}");
    assert_eq!(get(node.http, "/api/v1/get/k").await.body["found"], true);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_failed_has_the_error_that_it_would_have_had_alone() {
    let settings = Settings { write_timeout_ms: 300, ..Settings::default() };
    let node = Node::start(Plan { others: &["dc1", "dc1"], settings, ..Plan::default() }).await;
    let rows = json!([{"key": "a", "value": "1"}, {"key": "b", "value": "2"}]);
    // The other replicas hear and never answer.
    let put = post(&node, PUT, json!({"rows": rows, "cl": "all"})).await;
    assert_eq!((put.status, &put.body["success"]), (200, &json!(false)), "{put:?}");
    for row in put.body["results"].as_array().unwrap() {
        let error = &row["error"];
        assert_eq!((&error["code"], &error["status"]), (&json!("write_unknown"), &json!(504)), "{row}");
        assert_eq!((&error["details"]["mayTakeEffect"], &error["details"]["level"]), (&json!(true), &json!("ALL")));
    }
    node.kill("node-2");
    let put = post(&node, PUT, json!({"rows": rows, "cl": "all"})).await;
    assert_eq!((put.status, put.error_code()), (503, "unavailable"), "nothing was begun");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_that_cannot_be_is_refused_as_a_whole() {
    let limits = Limits { batch_rows_max: 3, batch_bytes_max: 4 << 20, value_bytes_max: 1 << 20, ..Limits::default() };
    let node = Node::start(Plan { limits, ..Plan::default() }).await;
    let row = |key: &str| json!({"key": key, "value": "v"});
    let four: Vec<Value> = ["a", "b", "c", "d"].into_iter().map(row).collect();
    let large = json!({"key": "e", "value": "v".repeat((1 << 20) + 1)});
    for (path, body, status, code) in [
        (PUT, json!({"rows": four}), 413, "batch_too_large"),
        (PUT, json!({"rows": [row("a"), large]}), 413, "value_too_large"),
        (PUT, json!({"rows": [row("a"), {"key": "b", "value": "v".repeat(13 << 20)}]}), 413, "body_too_large"),
        (PUT, json!({"rows": [row("a"), row("")]}), 400, "empty_key"),
        (PUT, json!({"rows": [row("a"), {"key": "b", "value": "v", "ttl": 0}]}), 400, "invalid_ttl"),
        (PUT, json!({"rows": [row("a"), {"key": "b"}]}), 400, "invalid_request"),
        (PUT, json!({"rows": [row("a"), {"key": "b", "value": "v", "cl": "one"}]}), 400, "invalid_request"),
        (PUT, json!({"rows": {"key": "b", "value": "v"}}), 400, "invalid_request"),
        (PUT, json!({"rows": [row("a")], "table": "nowhere"}), 404, "unknown_table"),
        (GET, json!({"keys": [{"key": "a"}], "cl": "any"}), 400, "level_not_for_reading"),
        (GET, json!({"keys": [{"key": "a"}], "timestamp": 1}), 400, "invalid_request"),
        (DELETE, json!({"keys": [{"key": "a*", "encoding": "base64"}]}), 400, "invalid_request"),
        (
            "/api/v1/keyspaces/default/tables/kv/batch/put",
            json!({"rows": [row("a")], "table": "kv"}),
            400,
            "invalid_request",
        ),
        ("/api/v1/keyspaces/none/tables/kv/batch/get", json!({"keys": [{"key": "a"}]}), 404, "unknown_keyspace"),
    ] {
        let refused = post(&node, path, body).await;
        assert_eq!((refused.status, refused.error_code()), (status, code), "{refused:?}");
    }
    assert_eq!(get(node.http, "/api/v1/get/a").await.body["found"], false, "nothing was written");
}
