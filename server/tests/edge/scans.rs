//! Scans by key prefix, accounts of requests and what reads came upon, through both doors.

use cube_proto::v1::kv_client::KvClient;
use cube_proto::v1::{self, Level};
use cube_replication::coordinator::Settings;
use serde_json::{Value, json};
use tokio_stream::StreamExt;
use tonic::Code;
use tonic::transport::Channel;

use super::grpc::{detail_of, key, put};
use super::http::{encoded, get, send};
use super::node::{Node, Plan, eventually};

async fn client(node: &Node) -> KvClient<Channel> {
    KvClient::connect(format!("http://{}", node.grpc)).await.unwrap()
}

/// Rows `user:0` to `user:6` without `user:3`, one before and one behind them.
async fn with_users(node: &Node) {
    let mut kv = client(node).await;
    for number in 0..7 {
        kv.put(put(&format!("user:{number}"), &format!("v{number}"))).await.unwrap();
    }
    for other in ["use", "user;"] {
        kv.put(put(other, "v")).await.unwrap();
    }
    kv.delete(v1::DeleteRequest { key: key("user:3"), ..Default::default() }).await.unwrap();
}

fn keys(answer: &Value) -> Vec<String> {
    answer["rows"].as_array().unwrap().iter().map(|row| row["key"].as_str().unwrap().to_owned()).collect()
}

fn scan(prefix: &str) -> v1::ScanRequest {
    v1::ScanRequest { prefix: prefix.to_owned().into(), ..Default::default() }
}

async fn pages(kv: &mut KvClient<Channel>, request: v1::ScanRequest) -> Vec<v1::ScanPage> {
    let stream = kv.scan(request).await.unwrap().into_inner();
    stream.map(Result::unwrap).collect().await
}

fn listed(pages: &[v1::ScanPage]) -> Vec<String> {
    let rows = pages.iter().flat_map(|page| &page.rows);
    rows.map(|row| String::from_utf8(row.key.as_ref().unwrap().partition.to_vec()).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_are_listed_by_prefix_as_many_as_asked_for_and_the_token_goes_on_behind_them() {
    let node = Node::alone().await;
    with_users(&node).await;
    let first = get(node.http, "/api/v1/scan?prefix=user:&limit=4").await;
    assert_eq!(first.status, 200);
    assert_eq!(
        (&first.body["success"], &first.body["prefix"], &first.body["count"]),
        (&json!(true), &json!("user:"), &json!(4))
    );
    assert_eq!(keys(&first.body), ["user:0", "user:1", "user:2", "user:4"]);
    assert_eq!(first.body["results"], json!({"user:0": "v0", "user:1": "v1", "user:2": "v2", "user:4": "v4"}));
    assert_eq!(first.body.get("partial"), None);
    let token = first.body["next"].as_str().unwrap();
    let second = get(node.http, &format!("/api/v1/scan?prefix=user:&limit=4&page={token}")).await;
    assert_eq!(keys(&second.body), ["user:5", "user:6"]);
    assert_eq!(second.body.get("next"), None, "there are no more");
    let backward = get(node.http, "/api/v1/scan?prefix=user:&backward").await;
    assert_eq!(keys(&backward.body), ["user:6", "user:5", "user:4", "user:2", "user:1", "user:0"]);
    assert_eq!(get(node.http, "/api/v1/scan").await.body["count"], 8, "all rows");
    assert_eq!(get(node.http, "/api/v1/scan?prefix=nobody").await.body["results"], json!({}));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_text_cannot_tell_apart_are_whole_among_the_rows() {
    let node = Node::alone().await;
    let rows = "/api/v1/keyspaces/default/tables/kv/rows";
    send(node.http, "PUT", &format!("{rows}/p/s1"), r#"{"value":"1"}"#).await;
    send(node.http, "PUT", &format!("{rows}/p/s2"), r#"{"value":"2"}"#).await;
    send(node.http, "PUT", &format!("{rows}/%FF"), r#"{"value":"3"}"#).await;
    let answer = get(node.http, "/api/v1/scan").await.body;
    assert_eq!((&answer["count"], &answer["results"]), (&json!(3), &json!({})));
    let told = |at: usize, name: &str| answer["rows"][at][name].clone();
    assert_eq!((told(0, "key"), told(0, "sort"), told(0, "value")), (json!("p"), json!("s1"), json!("1")));
    assert_eq!((told(1, "sort"), told(2, "key"), told(2, "encoding")), (json!("s2"), json!("/w=="), json!("base64")));
    let prefix = get(node.http, "/api/v1/scan?prefix=%FF").await.body;
    assert_eq!(
        (&prefix["prefix"], &prefix["encoding"], &prefix["count"]),
        (&json!("/w=="), &json!("base64"), &json!(1))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_ends_at_its_limit_and_is_resumed_behind_any_of_its_pages() {
    let node = Node::alone().await;
    with_users(&node).await;
    let mut kv = client(&node).await;
    let all = ["user:0", "user:1", "user:2", "user:4", "user:5", "user:6"];
    let whole = pages(&mut kv, v1::ScanRequest { page_rows: 2, ..scan("user:") }).await;
    assert_eq!(listed(&whole), all);
    assert!(whole.len() >= 3 && whole.last().unwrap().next.is_empty(), "{}", whole.len());
    for (place, page) in whole.iter().enumerate().filter(|(_, page)| !page.next.is_empty()) {
        let rest = pages(&mut kv, v1::ScanRequest { page: page.next.clone(), ..scan("user:") }).await;
        assert_eq!([listed(&whole[..=place]), listed(&rest)].concat(), all);
    }
    for limit in 1..=6 {
        let some = pages(&mut kv, v1::ScanRequest { limit, ..scan("user:") }).await;
        let count = usize::try_from(limit).unwrap();
        assert_eq!(listed(&some), all[..count], "{limit}");
        let rest = v1::ScanRequest { page: some.last().unwrap().next.clone(), ..scan("user:") };
        if limit < 6 {
            assert_eq!(listed(&pages(&mut kv, rest).await), all[count..], "behind {limit}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_few_rows_behind_many_deleted_ones_are_found_in_few_pages() {
    const DELETED: usize = 3_000;
    let node = Node::alone().await;
    let mut kv = client(&node).await;
    let name = |number: usize| v1::RowKey { partition: format!("k{number:05}").into(), sort: Default::default() };
    let row = |number| v1::PutRow { key: Some(name(number)), value: "v".into(), ttl_ms: None };
    let rows = (0..DELETED + 9).map(row).collect();
    kv.batch_put(v1::BatchPutRequest { rows, ..Default::default() }).await.unwrap();
    let gone = (0..DELETED).map(name).collect();
    kv.batch_delete(v1::BatchDeleteRequest { keys: gone, ..Default::default() }).await.unwrap();
    let found = pages(&mut kv, v1::ScanRequest { limit: 2, ..scan("k") }).await;
    assert_eq!(listed(&found), ["k03000", "k03001"]);
    assert!(found.len() < 15, "{} pages", found.len());
    let answer = get(node.http, "/api/v1/scan?prefix=k&limit=2").await.body;
    assert_eq!(keys(&answer), ["k03000", "k03001"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scans_that_cannot_be_are_refused_with_what_is_wrong_before_anything_is_streamed() {
    let node = Node::alone().await;
    with_users(&node).await;
    let mut kv = client(&node).await;
    let token = pages(&mut kv, v1::ScanRequest { limit: 2, ..scan("user:") }).await.pop().unwrap().next;
    let long = "k".repeat(64 << 10);
    let page = |page: &bytes::Bytes| v1::ScanRequest { page: page.clone(), ..scan("user:") };
    let cases = [
        (v1::ScanRequest { page: "nonsense".into(), ..scan("user:") }, Code::InvalidArgument, "invalid_page_token"),
        (v1::ScanRequest { prefix: "use".into(), ..page(&token) }, Code::InvalidArgument, "invalid_page_token"),
        (v1::ScanRequest { backward: true, ..page(&token) }, Code::InvalidArgument, "invalid_page_token"),
        (page(&token.slice(..5)), Code::InvalidArgument, "invalid_page_token"),
        (v1::ScanRequest { page_rows: u32::MAX, ..scan("") }, Code::InvalidArgument, "invalid_page"),
        (v1::ScanRequest { page_bytes: u32::MAX, ..scan("") }, Code::InvalidArgument, "invalid_page"),
        (v1::ScanRequest { level: Level::Any.into(), ..scan("") }, Code::InvalidArgument, "level_not_for_reading"),
        (scan(&long), Code::InvalidArgument, "key_too_large"),
        (v1::ScanRequest { table: "no".into(), ..scan("") }, Code::NotFound, "unknown_table"),
    ];
    for (request, code, name) in cases {
        let status = kv.scan(request).await.unwrap_err();
        assert_eq!((status.code(), detail_of(&status).code.as_str()), (code, name));
    }
    let reversed = v1::RangeRequest {
        partition: "p".into(),
        from: Some(v1::RangeBound { sort: "b".into(), exclusive: false }),
        to: Some(v1::RangeBound { sort: "a".into(), exclusive: false }),
        ..Default::default()
    };
    assert_eq!(detail_of(&kv.range(reversed).await.unwrap_err()).code, "invalid_page");

    let cases = [
        ("limit=0", 400, "invalid_page"),
        ("limit=10001", 400, "invalid_page"),
        ("limit=99999999999999999999999", 400, "invalid_page"),
        ("limit=-1", 400, "invalid_request"),
        ("limit=many", 400, "invalid_request"),
        ("limit=", 400, "invalid_request"),
        ("page=!!!", 400, "invalid_page_token"),
        ("page=AAAA", 400, "invalid_page_token"),
        ("cl=ANY", 400, "level_not_for_reading"),
        ("cl=MOST", 400, "unknown_level"),
        ("backward=maybe", 400, "invalid_request"),
        ("from=a", 400, "invalid_request"),
        ("table=no", 404, "unknown_table"),
    ];
    for (query, status, code) in cases {
        let answer = get(node.http, &format!("/api/v1/scan?{query}")).await;
        assert_eq!((answer.status, answer.error_code()), (status, code), "{query}");
    }
    for prefix in [encoded(&[b'k'; 5_000]), "k".repeat(60 << 10)] {
        let answer = get(node.http, &format!("/api/v1/scan?prefix={prefix}")).await;
        assert_eq!((answer.status, answer.error_code()), (413, "key_too_large"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scan_ends_when_its_client_goes() {
    let settings = Settings { read_timeout_ms: 600_000, ..Settings::default() };
    let node = Node::start(Plan { others: &["dc1", "dc1"], settings, ..Plan::default() }).await;
    let mut kv = client(&node).await;
    let waiting = tokio::spawn(async move { kv.scan(scan("")).await });
    eventually("the scan is under way", async || node.coordinator.in_flight() > 0).await;
    waiting.abort();
    eventually("the scan is gone, long before its time", async || node.coordinator.in_flight() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_request_tells_on_demand_what_was_done_for_it() {
    let node = Node::alone().await;
    let written = send(node.http, "POST", "/api/v1/put", r#"{"key":"k","value":"v","explain":true}"#).await.body;
    let told = &written["explained"];
    assert_eq!((&told["kind"], &told["keyspace"], &told["table"]), (&json!("write"), &json!("default"), &json!("kv")));
    assert_eq!((&told["level"], &told["coordinator"]), (&json!("QUORUM"), &json!("node-1")));
    let message = &told["messages"][0];
    assert_eq!(
        (&message["asked"], &message["role"], &message["why"]),
        (&json!("write"), &json!("self"), &json!("level"))
    );
    assert_eq!(message["outcomes"], json!([{"outcome": "applied"}]));

    let read = get(node.http, "/api/v1/get/k?explain=true").await.body;
    let row = &read["explained"]["rows"][0];
    assert_eq!((&row["key"], &row["winner"], &row["reason"]), (&json!("k"), &written["version"], &json!("all_agree")));
    assert_eq!(read["explained"]["messages"][0]["held"][0]["version"], written["version"]);
    assert_eq!(get(node.http, "/api/v1/get/k").await.body.get("explained"), None);

    let scanned = get(node.http, "/api/v1/scan?explain").await.body;
    let page = &scanned["explained"][0]["messages"][0];
    assert_eq!((&page["asked"], &page["page"]), (&json!("page"), &json!({"rows": 1, "more": false})));
    let deleted = send(node.http, "DELETE", "/api/v1/delete/k?explain=true", "").await.body;
    assert_eq!(deleted["explained"]["messages"][0]["outcomes"][0]["outcome"], "applied");

    let mut kv = client(&node).await;
    let reply = kv.put(v1::PutRequest { explain: true, ..put("k", "v") }).await.unwrap().into_inner();
    let told = reply.explained.unwrap();
    assert_eq!((told.kind.as_str(), told.level(), told.messages.len()), ("write", Level::Quorum, 1));
    let request = v1::GetRequest { key: key("k"), explain: true, ..Default::default() };
    let told = kv.get(request).await.unwrap().into_inner().explained.unwrap();
    assert_eq!((told.rows[0].winner, told.rows[0].reason.as_str()), (reply.version, "all_agree"));
    let pages = pages(&mut kv, v1::ScanRequest { explain: true, ..scan("") }).await;
    assert_eq!(pages[0].explained.as_ref().unwrap().messages[0].page_rows, Some(1));
    let batch = v1::BatchGetRequest { keys: vec![key("k").unwrap()], explain: true, ..Default::default() };
    assert_eq!(kv.batch_get(batch).await.unwrap().into_inner().explained.unwrap().kind, "read");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_requests_are_kept_with_their_accounts_and_reads_are_counted_by_table() {
    let settings = Settings { slow_ms: Some(0), ..Settings::default() };
    let node = Node::start(Plan { settings, ..Plan::default() }).await;
    send(node.http, "POST", "/api/v1/put", r#"{"key":"k","value":"v"}"#).await;
    assert_eq!(get(node.http, "/api/v1/get/k").await.body.get("explained"), None, "nobody asked for it");
    let slow = get(node.http, "/api/v1/requests/slow").await.body;
    let kinds: Vec<&Value> = slow["requests"].as_array().unwrap().iter().map(|request| &request["kind"]).collect();
    assert_eq!(kinds, [&json!("write"), &json!("read")]);
    let stats = get(node.http, "/api/v1/stats").await.body;
    let reads = &stats["reads"]["default.kv"];
    assert_eq!((&reads["staleReads"], &reads["blockingRepairs"]["repaired"]), (&json!(0), &json!(0)), "{stats}");
    let line = "Reads of default.kv: 0 stale answers, 0 rows repaired, 0 repairs failed, 0 hedges of which 0 helped";
    assert!(stats["lines"].as_array().unwrap().contains(&json!(line)), "{stats}");
}
