//! Keys and values of any bytes.

use serde_json::json;

use super::http::{encoded, get, send};
use super::node::Node;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn odd_keys_are_put_in_a_body_and_got_by_a_path() {
    let node = Node::alone().await;
    let long = "k".repeat(4_096);
    for key in ["a/b", "/", "a b", "100%", "%2F", "käse", "日本語", "💥", "?&=#+", "..", "\"\\", "line\nbreak", &long]
    {
        let body = json!({"key": key, "value": key}).to_string();
        let put = send(node.http, "POST", "/api/v1/put", &body).await;
        assert_eq!((put.status, &put.body["key"]), (200, &json!(key)), "{put:?}");
        for path in ["/api/v1/get/", "/api/v1/keyspaces/default/tables/kv/rows/"] {
            let got = get(node.http, &format!("{path}{}", encoded(key.as_bytes()))).await;
            assert_eq!((got.status, &got.body["value"]), (200, &json!(key)), "{key:?} at {path}");
        }
        let deleted = send(node.http, "DELETE", &format!("/api/v1/delete/{}", encoded(key.as_bytes())), "").await;
        assert_eq!(deleted.status, 200);
        assert_eq!(get(node.http, &format!("/api/v1/get/{}", encoded(key.as_bytes()))).await.body["found"], false);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slash_in_the_path_of_a_get_belongs_to_the_key() {
    let node = Node::alone().await;
    send(node.http, "POST", "/api/v1/put", r#"{"key":"templates/python","value":"v"}"#).await;
    let got = get(node.http, "/api/v1/get/templates/python").await;
    assert_eq!((&got.body["found"], &got.body["key"]), (&json!(true), &json!("templates/python")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_are_no_text_travel_as_base64_both_ways() {
    let node = Node::alone().await;
    // The key is ff 00, the sort key fe, the value 80 81.
    let body = r#"{"key":"/wA=","sort":"/g==","value":"gIE=","encoding":"base64"}"#;
    let put = send(node.http, "POST", "/api/v1/put", body).await;
    assert_eq!((put.status, &put.body["key"], &put.body["encoding"]), (200, &json!("/wA="), &json!("base64")));
    let got = get(node.http, "/api/v1/get/%ff%00?sort=%FE").await;
    let expected = (json!("/wA="), json!("/g=="), json!("gIE="), json!("base64"));
    let body = &got.body;
    assert_eq!(
        (&body["key"], &body["sort"], &body["value"], &body["encoding"]),
        (&expected.0, &expected.1, &expected.2, &expected.3)
    );
    let row = get(node.http, "/api/v1/keyspaces/default/tables/kv/rows/%FF%00/%FE").await;
    assert_eq!(row.body["value"], "gIE=");

    // A text key with a value that is none: then both are base64.
    send(node.http, "PUT", "/api/v1/keyspaces/default/tables/kv/rows/plain", r#"{"value":"gIE","encoding":"base64"}"#)
        .await;
    let got = get(node.http, "/api/v1/get/plain").await;
    assert_eq!((&got.body["key"], &got.body["value"]), (&json!("cGxhaW4="), &json!("gIE=")));
    // Base64 of text is text when it comes back.
    send(node.http, "POST", "/api/v1/put", r#"{"key":"aGk=","value":"aGk=","encoding":"base64"}"#).await;
    assert_eq!(get(node.http, "/api/v1/get/hi").await.body["value"], "hi");
}
