//! What is not of the form it must have: always one of the documented errors, in the one shape, and never a hang.

use std::net::SocketAddr;
use std::time::Duration;

use cube_storage::model::Limits;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::http::{Answer, get, request, send, send_raw};
use super::node::{Node, Plan, eventually};

/// Method, path, content type and body; then the status and the code they are refused with.
type Case<'a> = (&'a str, &'a str, Option<&'a str>, &'a [u8], u16, &'a str);

const JSON: Option<&str> = Some("application/json");

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_input_is_refused_with_its_code_and_never_with_422_or_500() {
    let node = Node::alone().await;
    let put = "/api/v1/put";
    let rows = "/api/v1/keyspaces/default/tables/kv/rows";
    let row = &format!("{rows}/k");
    let keyspace = "/api/v1/keyspaces/new";
    let table = "/api/v1/keyspaces/default/tables/new";
    let (no_key, three_parts) = (&format!("{rows}//sort"), &format!("{rows}/a/b/c"));
    let deep = "[".repeat(10_000);
    let corpus: Vec<Case<'_>> = vec![
        ("POST", put, JSON, b"", 400, "malformed_json"),
        ("POST", put, JSON, b"{", 400, "malformed_json"),
        ("POST", put, JSON, b"{\"key\":\"k\",\"value\":\"v\"", 400, "malformed_json"),
        ("POST", put, JSON, b"{'key':'k'}", 400, "malformed_json"),
        ("POST", put, JSON, b"\xff\xfe", 400, "malformed_json"),
        ("POST", put, JSON, b"{\"key\":\"\xff\",\"value\":\"v\"}", 400, "malformed_json"),
        ("POST", put, JSON, deep.as_bytes(), 400, "malformed_json"),
        ("POST", put, JSON, b"[]", 400, "invalid_request"),
        ("POST", put, JSON, br#"["k",null,null,null,"v",null,null,null,null]"#, 400, "invalid_request"),
        ("POST", put, JSON, b"null", 400, "invalid_request"),
        ("POST", put, JSON, b"\"key\"", 400, "invalid_request"),
        ("POST", put, JSON, b"{}", 400, "invalid_request"),
        ("POST", put, JSON, br#"{"key":"k"}"#, 400, "invalid_request"),
        ("POST", put, JSON, br#"{"key":1,"value":"v"}"#, 400, "invalid_request"),
        ("POST", put, JSON, br#"{"key":"k","value":{"a":1}}"#, 400, "invalid_request"),
        ("POST", put, JSON, br#"{"key":"k","value":null}"#, 400, "invalid_request"),
        ("POST", put, JSON, br#"{"key":"k","value":"v","level":"ONE"}"#, 400, "invalid_request"),
        ("POST", put, JSON, br#"{"key":"k","value":"v","value":"w"}"#, 400, "invalid_request"),
        ("POST", put, JSON, br#"{"key":"k","value":"v"} x"#, 400, "malformed_json"),
        ("POST", put, JSON, br#"{"key":"","value":"v"}"#, 400, "empty_key"),
        ("POST", put, JSON, br#"{"key":"","value":"","encoding":"base64"}"#, 400, "empty_key"),
        ("POST", put, JSON, br#"{"key":"k","value":"v","cl":"QUORAM"}"#, 400, "unknown_level"),
        ("POST", put, JSON, br#"{"key":"k","value":"v","cl":""}"#, 400, "unknown_level"),
        ("POST", put, JSON, br#"{"key":"k","value":"v","cl":7}"#, 400, "invalid_request"),
        ("POST", put, JSON, br#"{"key":"k","value":"v","ttl":0}"#, 400, "invalid_ttl"),
        ("POST", put, JSON, br#"{"key":"k","value":"v","ttl":-5}"#, 400, "invalid_ttl"),
        ("POST", put, JSON, br#"{"key":"k","value":"v","ttl":"soon"}"#, 400, "invalid_ttl"),
        ("POST", put, JSON, br#"{"key":"k","value":"v","ttl":1.5}"#, 400, "invalid_request"),
        ("POST", put, JSON, br#"{"key":"k","value":"v","ttl":99999999999999999}"#, 400, "invalid_ttl"),
        ("POST", put, JSON, br#"{"key":"k","value":"v","ttl":"1000years"}"#, 400, "invalid_ttl"),
        ("POST", put, JSON, br#"{"key":"k","value":"v","timestamp":-1}"#, 400, "invalid_request"),
        ("POST", put, JSON, br#"{"key":"k","value":"v","timestamp":"now"}"#, 400, "invalid_request"),
        (
            "POST",
            put,
            JSON,
            br#"{"key":"k","value":"v","timestamp":18446744073709551615}"#,
            400,
            "timestamp_too_far_ahead",
        ),
        ("POST", put, JSON, br#"{"key":"k","value":"*","encoding":"base64"}"#, 400, "invalid_request"),
        ("POST", put, JSON, br#"{"key":"k","value":"aGk=","encoding":"base64"}"#, 400, "invalid_request"),
        ("POST", put, JSON, br#"{"key":"k","value":"v","encoding":"hex"}"#, 400, "invalid_request"),
        ("POST", put, JSON, br#"{"key":"k","value":"v","keyspace":"nowhere"}"#, 404, "unknown_keyspace"),
        ("POST", put, JSON, br#"{"key":"k","value":"v","table":"nowhere"}"#, 404, "unknown_table"),
        ("POST", put, Some("text/plain"), br#"{"key":"k","value":"v"}"#, 415, "unsupported_media_type"),
        ("POST", put, None, br#"{"key":"k","value":"v"}"#, 415, "unsupported_media_type"),
        ("POST", "/api/v1/put?cl=ONE", JSON, br#"{"key":"k","value":"v"}"#, 400, "invalid_request"),
        ("GET", "/api/v1/get/", None, b"", 400, "empty_key"),
        ("GET", "/api/v1/get", None, b"", 400, "empty_key"),
        ("GET", "/api/v1/get/k?cl=SOME", None, b"", 400, "unknown_level"),
        ("GET", "/api/v1/get/k?cl=any", None, b"", 400, "level_not_for_reading"),
        ("GET", "/api/v1/get/k?level=ONE", None, b"", 400, "invalid_request"),
        ("GET", "/api/v1/get/k?cl=ONE&cl=ONE", None, b"", 400, "invalid_request"),
        ("GET", "/api/v1/get/k?cl=%FF", None, b"", 400, "invalid_request"),
        ("GET", "/api/v1/get/k?explain=maybe", None, b"", 400, "invalid_request"),
        ("GET", "/api/v1/get/%", None, b"", 400, "invalid_request"),
        ("GET", "/api/v1/get/%zz", None, b"", 400, "invalid_request"),
        ("GET", "/api/v1/get/k?keyspace=nowhere", None, b"", 404, "unknown_keyspace"),
        ("DELETE", "/api/v1/delete/", None, b"", 400, "empty_key"),
        ("DELETE", "/api/v1/delete/k?timestamp=soon", None, b"", 400, "invalid_request"),
        ("PUT", rows, JSON, br#"{"value":"v"}"#, 400, "empty_key"),
        ("PUT", row, JSON, br#"{"value":"v","key":"k"}"#, 400, "invalid_request"),
        ("GET", no_key, None, b"", 400, "empty_key"),
        ("GET", three_parts, None, b"", 400, "invalid_request"),
        ("GET", "/api/v1/keyspaces/%FF/tables/kv/rows/k", None, b"", 400, "invalid_request"),
        ("GET", "/api/v1/keyspaces/default/tables/none/rows/k", None, b"", 404, "unknown_table"),
        ("GET", "/api/v1/keyspaces/none", None, b"", 404, "unknown_keyspace"),
        ("GET", "/api/v1/keyspaces/default/tables/none", None, b"", 404, "unknown_table"),
        ("DELETE", "/api/v1/keyspaces/none", None, b"", 404, "unknown_keyspace"),
        ("PUT", "/api/v1/keyspaces/none/tables/t", JSON, b"{}", 404, "unknown_keyspace"),
        ("PUT", "/api/v1/keyspaces/_x", JSON, b"{}", 400, "invalid_schema"),
        ("PUT", "/api/v1/keyspaces/a%20b", JSON, b"{}", 400, "invalid_schema"),
        ("PUT", keyspace, JSON, br#"{"replication":{"strategy":"simple","factor":0}}"#, 400, "invalid_schema"),
        ("PUT", keyspace, JSON, br#"{"replication":{"strategy":"simple","factor":300}}"#, 400, "invalid_request"),
        ("PUT", keyspace, JSON, br#"{"replication":{"strategy":"other"}}"#, 400, "invalid_request"),
        ("PUT", keyspace, JSON, br#"{"replication":{"strategy":"simple","factor":1,"x":1}}"#, 400, "invalid_request"),
        ("PUT", keyspace, JSON, br#"{"replication":{"strategy":"network","dataCenters":{}}}"#, 400, "invalid_schema"),
        ("PUT", keyspace, JSON, br#"{"durability":"never"}"#, 400, "invalid_schema"),
        ("PUT", keyspace, JSON, br#"{"durability":{"interval":"0s"}}"#, 400, "invalid_schema"),
        ("PUT", keyspace, JSON, br#"{"durability":5}"#, 400, "invalid_request"),
        ("PUT", keyspace, JSON, br#"{"replicas":3}"#, 400, "invalid_request"),
        ("PUT", keyspace, Some("text/plain"), b"{}", 415, "unsupported_media_type"),
        ("PUT", table, JSON, br#"{"read_repair_chance":101}"#, 400, "invalid_schema"),
        ("PUT", table, JSON, br#"{"hedge":"sometimes"}"#, 400, "invalid_schema"),
        ("PUT", table, JSON, br#"{"grace":-1}"#, 400, "invalid_schema"),
        ("PUT", table, JSON, br#"{"default_ttl":0}"#, 400, "invalid_schema"),
        ("PUT", table, JSON, br#"{"color":"red"}"#, 400, "invalid_request"),
        ("GET", "/api/v1/health?verbose=1", None, b"", 400, "invalid_request"),
        ("GET", "/", None, b"", 404, "not_found"),
        ("GET", "/api/v1/nothing", None, b"", 404, "not_found"),
        ("GET", "/api/v2/get/k", None, b"", 404, "not_found"),
        ("GET", put, None, b"", 405, "method_not_allowed"),
        ("POST", "/api/v1/get/k", JSON, b"{}", 405, "method_not_allowed"),
        ("GET", "/api/v1/delete/k", None, b"", 405, "method_not_allowed"),
        ("PATCH", row, JSON, b"{}", 405, "method_not_allowed"),
        ("DELETE", "/api/v1/health", None, b"", 405, "method_not_allowed"),
    ];
    for (method, path, content_type, body, status, code) in corpus {
        let answer = send_raw(node.http, &request(method, path, content_type, body)).await;
        let shown: String = String::from_utf8_lossy(body).chars().take(100).collect();
        assert_eq!((answer.status, answer.error_code()), (status, code), "{method} {path} {shown}: {answer:?}");
    }
    assert_eq!(get(node.http, "/livez").await.status, 200, "nothing is harmed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_is_said_to_be_compressed_is_not_taken_as_it_is() {
    let node = Node::alone().await;
    let body = r#"{"key":"k","value":"v"}"#;
    let plain = String::from_utf8(request("POST", "/api/v1/put", Some("application/json"), body.as_bytes())).unwrap();
    let said = |encoding| plain.replacen("\r\n", &format!("\r\nContent-Encoding: {encoding}\r\n"), 1).into_bytes();
    let refused = send_raw(node.http, &said("gzip")).await;
    assert_eq!((refused.status, refused.error_code()), (415, "unsupported_media_type"), "{refused:?}");
    assert_eq!(refused.details()["given"], "gzip");
    assert_eq!(send_raw(node.http, &said("identity")).await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_level_is_named_with_the_right_ones() {
    let node = Node::alone().await;
    let answer = get(node.http, "/api/v1/get/k?cl=qorum").await;
    let message = answer.body["error"]["message"].as_str().unwrap();
    assert!(message.starts_with("unknown consistency level \"qorum\": did you mean QUORUM?"), "{message}");
    assert_eq!(answer.details()["given"], "qorum");
    assert_eq!(answer.details()["allowed"].as_array().unwrap().len(), 9);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_fields_and_parameters_are_named() {
    let node = Node::alone().await;
    let message = |answer: Answer| answer.body["error"]["message"].as_str().unwrap().to_owned();
    let body = r#"{"key":"k","value":"v","tll":5}"#;
    let field = message(send(node.http, "POST", "/api/v1/put", body).await);
    assert!(field.contains("unknown field `tll`") && field.contains("`ttl`"), "{field}");
    let parameter = message(get(node.http, "/api/v1/get/k?lc=ONE").await);
    assert!(parameter.contains("\"lc\"") && parameter.contains("cl, keyspace, table"), "{parameter}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_too_large_is_413_by_the_configured_limits() {
    let limits = Limits { key_bytes_max: 16, value_bytes_max: 1_000, ..Limits::default() };
    let node = Node::start(Plan { limits, ..Plan::default() }).await;
    let put = async |key: usize, value: usize| {
        let body = serde_json::json!({"key": "k".repeat(key), "value": "v".repeat(value)}).to_string();
        send(node.http, "POST", "/api/v1/put", &body).await
    };
    assert_eq!(put(16, 1_000).await.status, 200);
    let key = put(17, 1).await;
    assert_eq!((key.status, key.error_code(), &key.details()["limit"]), (413, "key_too_large", &16.into()));
    let value = put(1, 1_001).await;
    assert_eq!((value.status, value.error_code(), &value.details()["limit"]), (413, "value_too_large", &1_000.into()));
    let body = put(1, 20_000).await;
    assert_eq!((body.status, body.error_code()), (413, "body_too_large"));
    let escaped = format!(r#"{{"key":"k","value":"{}"}}"#, "\\u00e9".repeat(500));
    assert_eq!(
        send(node.http, "POST", "/api/v1/put", &escaped).await.status,
        200,
        "1,000 bytes, however they are written"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_too_large_is_refused_at_once_where_the_client_waits_for_leave() {
    let node = Node::alone().await;
    let head = "POST /api/v1/put HTTP/1.1\r\nHost: cube\r\nConnection: close\r\nContent-Type: application/json\r\n\
                Expect: 100-continue\r\nContent-Length: 50000000\r\n\r\n";
    let answer = send_raw(node.http, head.as_bytes()).await;
    assert_eq!((answer.status, answer.error_code()), (413, "body_too_large"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_in_chunks_is_as_good_as_one_with_its_length() {
    let node = Node::alone().await;
    let request = "POST /api/v1/put HTTP/1.1\r\nHost: cube\r\nConnection: close\r\nContent-Type: application/json; \
                   charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n8\r\n{\"key\":\"\r\nf\r\nk\",\"value\":\"v\"}\r\n0\r\n\r\n";
    assert_eq!(send_raw(node.http, request.as_bytes()).await.status, 200);
    assert_eq!(get(node.http, "/api/v1/get/k").await.body["value"], "v");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_is_sent_slowly_is_refused_in_time_and_frees_what_it_held() {
    let node = Node::start(Plan { message_time: Some(Duration::from_millis(300)), ..Plan::default() }).await;
    let head = |path: &str, length: &str| {
        format!("POST {path} HTTP/1.1\r\nHost: cube\r\nContent-Type: application/json\r\n{length}\r\n\r\n").into_bytes()
    };
    let (large, chunked) = ("Content-Length: 1000000", "Transfer-Encoding: chunked");
    for (what, path, length, body) in [
        ("nothing", "/api/v1/put", large, ""),
        ("a part", "/api/v1/put", large, r#"{"key":"k","value":"v"}"#),
        ("a part of a batch", "/api/v1/batch/put", large, r#"{"rows":[{"key":"k","value":"v"}]}"#),
        ("a part of unknown length", "/api/v1/put", chunked, "17\r\n{\"key\":\"k\",\"value\":\"v\"}\r\n"),
        ("a part for an operator", "/api/v1/replication/hints/pause", large, "{"),
    ] {
        // The connection ends with the answer, or this would hang.
        let answer = send_raw(node.http, &[head(path, length), body.as_bytes().to_vec()].concat()).await;
        assert_eq!((answer.status, answer.error_code()), (408, "body_too_slow"), "{what}: {answer:?}");
    }
    let answer = trickle(node.http, &head("/api/v1/put", large)).await;
    assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("body_too_slow"), "{answer}");
    eventually("what was held is given back", async || node.coordinator.in_flight_bytes() == 0).await;
    assert_eq!(get(node.http, "/api/v1/get/k").await.body["found"], false, "nothing was written");
}

/// Sends a head and then, for as long as it is listened to, spaces one by one; and what is answered.
async fn trickle(to: SocketAddr, head: &[u8]) -> String {
    let (mut answers, mut sends) = TcpStream::connect(to).await.unwrap().into_split();
    sends.write_all(head).await.unwrap();
    let mut answer = Vec::new();
    let mut pace = tokio::time::interval(Duration::from_millis(20));
    loop {
        tokio::select! {
            read = answers.read_buf(&mut answer) => match read {
                Ok(bytes) if bytes > 0 => {}
                // A byte that comes after the end has the system reset the connection.
                Ok(_) | Err(_) => return String::from_utf8(answer).unwrap(),
            },
            _ = pace.tick() => sends.write_all(b" ").await.unwrap_or_default(),
        }
    }
}
