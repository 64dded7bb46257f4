//! What a client is told when the replicas cannot do what it asks: the same over HTTP and gRPC.

use std::collections::BTreeSet;

use cube_proto::v1;
use cube_proto::v1::kv_client::KvClient;
use cube_replication::coordinator::Settings;
use serde_json::json;

use super::grpc::{detail_of, key, put};
use super::http::{get, send};
use super::node::{Node, Plan, eventually};
use super::raw::{call, framed};

const THREE: Plan = Plan {
    others: &["dc1", "dc1"],
    limits: cube_storage::model::Limits {
        key_bytes_max: 4 << 10,
        value_bytes_max: 4 << 20,
        batch_bytes_max: 16 << 20,
        batch_rows_max: 10_000,
        page_bytes_max: 4 << 20,
        page_rows_max: 10_000,
        ttl_ms_max: 1 << 40,
    },
    settings: Settings {
        write_timeout_ms: 300,
        read_timeout_ms: 300,
        in_flight_max: 1_000,
        in_flight_bytes_max: 1 << 30,
        seed: 0,
        slow_ms: None,
    },
    message_time: None,
    engine: None,
};

const PUT: &str = r#"{"key":"k","value":"v","cl":"ALL"}"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_few_live_replicas_are_503_with_how_many_are_needed_and_alive() {
    let node = Node::start(THREE).await;
    node.kill("node-3");
    let refused = send(node.http, "POST", "/api/v1/put", PUT).await;
    assert_eq!((refused.status, refused.error_code()), (503, "unavailable"));
    assert_eq!(refused.details(), &json!({"level": "ALL", "required": 3, "alive": 2}));

    let mut client = KvClient::connect(format!("http://{}", node.grpc)).await.unwrap();
    let request = v1::PutRequest { level: v1::Level::All.into(), ..put("k", "v") };
    let status = client.put(request).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::Unavailable);
    let detail = detail_of(&status);
    assert_eq!((detail.code.as_str(), detail.required, detail.alive), ("unavailable", Some(3), Some(2)));
    assert!(!detail.may_take_effect);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_data_center_that_is_short_is_named() {
    let node = Node::start(Plan { others: &["dc2", "dc2"], ..THREE }).await;
    node.kill("node-2");
    node.kill("node-3");
    let body = r#"{"key":"k","value":"v","cl":"EACH_QUORUM"}"#;
    let refused = send(node.http, "POST", "/api/v1/put", body).await;
    assert_eq!((refused.status, refused.error_code()), (503, "unavailable"));
    let expected = json!({"level": "EACH_QUORUM", "required": 2, "alive": 0, "dataCenter": "dc2"});
    assert_eq!(refused.details(), &expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_fell_short_tells_on_demand_what_was_done_for_it() {
    let node = Node::start(THREE).await;
    // The other replicas hear and never answer.
    let short = get(node.http, "/api/v1/get/k?cl=ALL&explain=true").await;
    assert_eq!((short.status, short.error_code()), (504, "read_timeout"));
    let told = &short.body["explained"];
    assert_eq!((&told["kind"], &told["error"]), (&json!("read"), &short.body["error"]["message"]));
    let messages = told["messages"].as_array().unwrap();
    let replicas: BTreeSet<&str> = messages.iter().map(|message| message["replica"].as_str().unwrap()).collect();
    assert_eq!(replicas, BTreeSet::from(["node-1", "node-2", "node-3"]), "{told}");
    let short = get(node.http, "/api/v1/get/k?cl=ALL").await;
    assert_eq!((short.status, short.body.get("explained")), (504, None), "nobody asked for it");
    let refused = get(node.http, "/api/v1/get/k?cl=ANY&explain=true").await;
    assert_eq!((refused.status, refused.body.get("explained")), (400, None), "nothing was done");

    let mut client = KvClient::connect(format!("http://{}", node.grpc)).await.unwrap();
    let long = "k".repeat(4_000);
    let request = v1::PutRequest { level: v1::Level::All.into(), explain: true, ..put(&long, "v") };
    let status = client.put(request).await.unwrap_err();
    let told = detail_of(&status).explained.expect("it was asked for");
    assert_eq!((told.kind.as_str(), told.error.as_str()), ("write", ""), "the message says it");
    assert_eq!(told.messages.len(), 3);
    let request = v1::GetRequest { level: v1::Level::All.into(), explain: true, key: key(&long), ..Default::default() };
    let told = detail_of(&client.get(request).await.unwrap_err()).explained.expect("it was asked for");
    let all = u64::try_from(told.messages.len()).unwrap() + told.messages_left_out;
    assert!(all >= 3, "what finds no room in a header is counted: {told:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_ran_out_of_time_is_504_and_names_who_holds_it() {
    let node = Node::start(THREE).await;
    // The other replicas hear and never answer; this one is in time unless the machine is very busy.
    let mut unknown = send(node.http, "POST", "/api/v1/put", PUT).await;
    eventually("the node's own replica acknowledges", async || {
        assert_eq!((unknown.status, unknown.error_code()), (504, "write_unknown"));
        let acknowledged = unknown.details()["acknowledgedBy"] == json!(["node-1"]);
        if !acknowledged {
            unknown = send(node.http, "POST", "/api/v1/put", PUT).await;
        }
        acknowledged
    })
    .await;
    let details = unknown.details();
    assert_eq!((&details["mayTakeEffect"], &details["timedOut"]), (&json!(true), &json!(true)));
    assert_eq!((&details["missing"], &details["level"]), (&json!(2), &json!("ALL")));
    let message = unknown.body["error"]["message"].as_str().unwrap();
    assert!(message.contains("it may still take effect") && message.contains("acknowledged by node-1"), "{message}");
    let found = get(node.http, "/api/v1/get/k?cl=ONE").await;
    assert_eq!(found.body["found"], true, "it did take effect: {found:?}");

    let mut client = KvClient::connect(format!("http://{}", node.grpc)).await.unwrap();
    let status = client.put(v1::PutRequest { level: v1::Level::Quorum.into(), ..put("k", "w") }).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::DeadlineExceeded);
    let detail = detail_of(&status);
    assert_eq!((detail.code.as_str(), detail.level.as_str()), ("write_unknown", "QUORUM"));
    assert!(detail.may_take_effect && detail.timed_out == Some(true));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_that_ran_out_of_time_is_504_and_safe_to_repeat() {
    let node = Node::start(THREE).await;
    let incomplete = get(node.http, "/api/v1/get/k?cl=QUORUM").await;
    assert_eq!((incomplete.status, incomplete.error_code()), (504, "read_timeout"), "{incomplete:?}");
    assert_eq!(incomplete.details().get("mayTakeEffect"), None);
    assert_eq!(incomplete.details()["timedOut"], true);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_at_one_tells_for_whom_it_left_hints() {
    let node = Node::start(THREE).await;
    node.kill("node-2");
    node.kill("node-3");
    let put = send(node.http, "POST", "/api/v1/put", r#"{"key":"k","value":"v","cl":"ONE"}"#).await;
    assert_eq!(put.status, 200, "{put:?}");
    let mut hinted: Vec<&str> =
        put.body["hintedFor"].as_array().unwrap().iter().filter_map(|name| name.as_str()).collect();
    hinted.sort_unstable();
    assert_eq!(hinted, ["node-2", "node-3"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_overloaded_node_is_429_with_when_to_try_again() {
    let settings = Settings { in_flight_max: 0, ..Settings::default() };
    let node = Node::start(Plan { settings, ..Plan::default() }).await;
    let refused = send(node.http, "POST", "/api/v1/put", r#"{"key":"k","value":"v"}"#).await;
    assert_eq!((refused.status, refused.error_code()), (429, "overloaded"));
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert_eq!(refused.details()["retryAfterMs"], 50);

    let mut client = KvClient::connect(format!("http://{}", node.grpc)).await.unwrap();
    let status = client.get(v1::GetRequest { key: key("k"), ..Default::default() }).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::ResourceExhausted);
    // How much later than the one before depends on the time in between.
    let hint_ms = detail_of(&status).retry_after_ms.unwrap();
    assert!((50..=52).contains(&hint_ms), "{hint_ms}");
    assert_eq!(status.metadata().get("grpc-retry-pushback-ms").unwrap(), hint_ms.to_string().as_str());
    assert_eq!(status.metadata().get("cube-error-code").unwrap(), "overloaded");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_calls_own_deadline_ends_the_work_before_the_client_gives_up() {
    let settings = Settings { write_timeout_ms: 60_000, ..THREE.settings };
    let node = Node::start(Plan { settings, ..THREE }).await;
    let mut client = KvClient::connect(format!("http://{}", node.grpc)).await.unwrap();
    let mut request =
        tonic::Request::new(v1::PutRequest { level: v1::Level::All.into(), timeout_ms: 50, ..put("k", "v") });
    request.set_timeout(std::time::Duration::from_secs(30));
    let status = client.put(request).await.unwrap_err();
    assert_eq!(detail_of(&status).code, "write_unknown");
    eventually("no place is held", async || node.coordinator.in_flight() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_whose_call_has_no_time_left_ends_with_what_is_known_of_it() {
    let node = Node::start(THREE).await;
    let request = framed(&v1::PutRequest { level: v1::Level::All.into(), ..put("k", "v") });
    for time in ["0n", "1n", "1m", "5m", "20m"] {
        let ended = call(node.grpc, "/cube.v1.Kv/Put", &[("grpc-timeout", time)], request.clone()).await.status;
        assert_eq!(ended.code(), tonic::Code::DeadlineExceeded, "{time}: {:?}", ended);
        let detail = detail_of(&ended);
        assert_eq!((detail.code.as_str(), detail.may_take_effect), ("write_unknown", true), "{time}");
    }
    eventually("no place is held", async || node.coordinator.in_flight() == 0).await;
}
