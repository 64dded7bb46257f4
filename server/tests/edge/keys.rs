//! Keys and values of any bytes.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use cube_proto::v1;
use serde_json::{Value, json};
use tokio_stream::StreamExt;

use super::grpc::client;
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_in_by_one_door_goes_out_by_the_other_unchanged_however_odd_or_large() {
    let node = Node::alone().await;
    let mut kv = client(&node).await;
    let large = "line\n\"quoted\" \0 é 💥 👩‍👩‍👧\r\n\t\\ ".repeat(1 << 16).into_bytes();
    let odd: Vec<Vec<u8>> = vec![
        b"with spaces ".to_vec(),
        b"'single' and \"double\"".to_vec(),
        b"line\r\nend\n".to_vec(),
        "💥 👩‍👩‍👧 e\u{301}".as_bytes().to_vec(),
        b"nul\0byte\0".to_vec(),
        b"\xff\xfe\x80".to_vec(),
        large[..1 << 20].to_vec(),
    ];
    for (number, value) in odd.iter().enumerate() {
        let (partition, sort) = (value[..value.len().min(2_000)].to_vec(), value[..value.len().min(100)].to_vec());
        let path = format!("/api/v1/keyspaces/default/tables/kv/rows/{}/{}", encoded(&partition), encoded(&sort));
        let key = Some(v1::RowKey { partition: partition.clone().into(), sort: sort.clone().into() });
        let base64 = |bytes: &[u8]| STANDARD.encode(bytes);
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).ok();
        // In by HTTP, as text where it is one and as base64 where it is not; out by gRPC.
        let body = match text(value) {
            Some(text) => json!({"value": text}),
            None => json!({"value": base64(value), "encoding": "base64"}),
        };
        let put = send(node.http, "PUT", &path, &body.to_string()).await;
        assert_eq!(put.status, 200, "{number}: {put:?}");
        let request = v1::GetRequest { key: key.clone(), ..Default::default() };
        let got = kv.get(request).await.unwrap().into_inner();
        assert!(got.found && got.value == *value, "{number}");
        // In by gRPC, with something before it; out by HTTP, by its key and in a list.
        let longer = [b"\0-", value.as_slice()].concat();
        let request = v1::PutRequest { key, value: longer.clone().into(), ..Default::default() };
        kv.put(request).await.unwrap();
        let told = |row: &Value, bytes: &[u8], name: &str| match row["encoding"].as_str() {
            Some("base64") => assert!(row[name] == base64(bytes), "{number}: {name}"),
            _ => assert!(row[name] == text(bytes).unwrap(), "{number}: {name}"),
        };
        let got = get(node.http, &path).await;
        let listed = get(node.http, &format!("/api/v1/scan?prefix={}&limit=1", encoded(&partition))).await;
        for row in [&got.body, &listed.body["rows"][0]] {
            told(row, &longer, "value");
            told(row, &partition, "key");
            told(row, &sort, "sort");
        }
        let request = v1::ScanRequest { prefix: partition.into(), ..Default::default() };
        let mut pages = kv.scan(request).await.unwrap().into_inner();
        let page = pages.next().await.unwrap().unwrap();
        assert!(page.rows.len() == 1 && page.rows[0].value == longer, "{number}");
    }
}
