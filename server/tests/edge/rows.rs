//! Rows over HTTP: what is put is got, until it is deleted or ends.

use serde_json::json;

use super::http::{get, send};
use super::node::{Node, eventually};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_is_put_got_overwritten_and_deleted_with_the_answers_of_the_design() {
    let node = Node::alone().await;
    let put = send(node.http, "POST", "/api/v1/put", r#"{"key":"user:1","value":"Ada","cl":"all"}"#).await;
    assert_eq!(put.status, 200);
    assert_eq!(put.body["success"], true);
    assert_eq!(put.body["message"], "Value stored successfully");
    assert_eq!(put.body["key"], "user:1");
    assert_eq!(put.body["level"], "ALL");
    assert_eq!(put.body["acknowledgedBy"], json!(["node-1"]));
    assert_eq!(put.body["hintedFor"], json!([]));
    assert_eq!(put.body["version"]["node"], "node-1");
    assert!(put.body["version"]["timestamp"].as_u64().unwrap() > 1_700_000_000_000);

    let got = get(node.http, "/api/v1/get/user:1").await;
    assert_eq!(got.status, 200);
    assert_eq!(got.body["success"], true);
    assert_eq!(got.body["found"], true);
    assert_eq!(got.body["key"], "user:1");
    assert_eq!(got.body["value"], "Ada");
    assert_eq!(got.body["level"], "QUORUM", "where nothing is said");
    assert_eq!(got.body["version"], put.body["version"]);
    assert_eq!(got.body.get("encoding"), None);

    send(node.http, "POST", "/api/v1/put", r#"{"key":"user:1","value":"Grace"}"#).await;
    assert_eq!(get(node.http, "/api/v1/get/user:1?cl=ONE").await.body["value"], "Grace");

    let deleted = send(node.http, "DELETE", "/api/v1/delete/user:1?cl=QUORUM", "").await;
    assert_eq!((deleted.status, &deleted.body["success"]), (200, &json!(true)));
    assert_eq!(deleted.body["message"], "Value deleted successfully");
    let got = get(node.http, "/api/v1/get/user:1").await;
    assert_eq!((got.status, &got.body["found"], &got.body["value"]), (200, &json!(false), &json!(null)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_absent_key_is_no_error_and_neither_is_its_deletion() {
    let node = Node::alone().await;
    let got = get(node.http, "/api/v1/get/nobody").await;
    assert_eq!(got.status, 200);
    let expected = json!({"success": true, "found": false, "key": "nobody", "value": null, "level": "QUORUM"});
    assert_eq!(got.body, expected);
    assert_eq!(send(node.http, "DELETE", "/api/v1/delete/nobody", "").await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_are_resources_below_their_table_with_and_without_a_sort_key() {
    let node = Node::alone().await;
    let rows = "/api/v1/keyspaces/default/tables/kv/rows";
    for (path, value) in [("/node-7", "alone"), ("/node-7/sandbox-1", "first"), ("/node-7/sandbox-2", "second")] {
        let put = send(node.http, "PUT", &format!("{rows}{path}"), &format!(r#"{{"value":"{value}"}}"#)).await;
        assert_eq!((put.status, &put.body["message"]), (200, &json!("Value stored successfully")), "{put:?}");
    }
    let got = get(node.http, &format!("{rows}/node-7/sandbox-1")).await;
    assert_eq!(
        (&got.body["value"], &got.body["key"], &got.body["sort"]),
        (&json!("first"), &json!("node-7"), &json!("sandbox-1"))
    );
    assert_eq!(get(node.http, &format!("{rows}/node-7?cl=ALL")).await.body["value"], "alone");
    let by_key = get(node.http, "/api/v1/get/node-7?sort=sandbox-2&keyspace=default&table=kv").await;
    assert_eq!(by_key.body["value"], "second", "the same rows by either path");
    assert_eq!(send(node.http, "DELETE", &format!("{rows}/node-7/sandbox-1"), "").await.status, 200);
    assert_eq!(get(node.http, &format!("{rows}/node-7/sandbox-1")).await.body["found"], false);
    assert_eq!(get(node.http, &format!("{rows}/node-7/sandbox-2")).await.body["found"], true);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_time_to_live_is_seconds_or_a_duration_and_ends_the_row() {
    let node = Node::alone().await;
    for (key, ttl, ms) in [("a", "60", 60_000), ("b", r#""60s""#, 60_000), ("c", r#""2h""#, 7_200_000)] {
        let body = format!(r#"{{"key":"{key}","value":"v","ttl":{ttl}}}"#);
        let put = send(node.http, "POST", "/api/v1/put", &body).await;
        assert_eq!(put.status, 200, "{put:?}");
        let got = get(node.http, &format!("/api/v1/get/{key}")).await;
        let (ends, written) = (&got.body["expiresAt"], &got.body["version"]["timestamp"]);
        let lasts = ends.as_u64().unwrap().abs_diff(written.as_u64().unwrap());
        assert!(lasts.abs_diff(ms) < 30_000, "{got:?}");
    }
    send(node.http, "POST", "/api/v1/put", r#"{"key":"soon","value":"v","ttl":"20ms"}"#).await;
    eventually("the row ends", async || get(node.http, "/api/v1/get/soon").await.body["found"] == false).await;
    assert_eq!(get(node.http, "/api/v1/get/soon").await.body.get("expiresAt"), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_timestamp_of_the_clients_own_decides_which_write_wins() {
    let node = Node::alone().await;
    let put = |value: &'static str, timestamp: u64| {
        let body = format!(r#"{{"key":"k","value":"{value}","timestamp":{timestamp}}}"#);
        async move { send(node.http, "POST", "/api/v1/put", &body).await }
    };
    let newer = put("newer", 1_700_000_000_500).await;
    assert_eq!(newer.body["version"]["timestamp"], 1_700_000_000_500_u64);
    let older = put("older", 1_700_000_000_000).await;
    assert_eq!(older.status, 200);
    assert_eq!(older.body["supersededBy"]["timestamp"], 1_700_000_000_500_u64, "it is told that another write is read");
    assert_eq!(get(node.http, "/api/v1/get/k").await.body["value"], "newer");
    let deleted = send(node.http, "DELETE", "/api/v1/delete/k?timestamp=1700000000400", "").await;
    assert_eq!(deleted.body["supersededBy"]["timestamp"], 1_700_000_000_500_u64);
    let late = send(node.http, "POST", "/api/v1/put", r#"{"key":"k","value":"v","timestamp":99999999999999}"#).await;
    assert_eq!((late.status, late.error_code()), (400, "timestamp_too_far_ahead"));
    assert_eq!(late.details()["limit"], 900_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_whose_client_went_away_goes_on_and_leaves_nothing() {
    use tokio::io::AsyncWriteExt;
    let node = Node::alone().await;
    let body = br#"{"key":"left","value":"v"}"#;
    let request = super::http::request("POST", "/api/v1/put", Some("application/json"), body);
    eventually("the write is done though nobody waits for it", async || {
        let mut connection = tokio::net::TcpStream::connect(node.http).await.unwrap();
        connection.write_all(&request).await.unwrap();
        drop(connection);
        get(node.http, "/api/v1/get/left").await.body["found"] == true
    })
    .await;
    eventually("no place is held", async || node.coordinator.in_flight() == 0).await;
}
