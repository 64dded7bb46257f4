//! What is no call of gRPC, and calls whose messages are none: each refused with its status, its code and its details.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use cube_proto::v1;
use cube_proto::v1::kv_client::KvClient;
use cube_storage::model::Limits;
use futures::{StreamExt, stream};
use tonic::{Code, Status};

use super::grpc::{detail_of, put};
use super::node::{Node, Plan, eventually};
use super::raw::{call, frame, framed, send};

const PUT: &str = "/cube.v1.Kv/Put";
const SESSION: &str = "/cube.v1.Kv/Session";

/// Sends these bytes, and nothing after them.
fn half(bytes: Vec<u8>) -> Body {
    let sent = stream::iter([Ok::<_, Infallible>(bytes)]);
    Body::from_stream(sent.chain(stream::pending()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_are_no_message_are_the_clients_mistake_with_its_code() {
    let node = Node::alone().await;
    let right = framed(&put("k", "v"));
    let cut = right[..right.len() - 1].to_vec();
    let long = [&[0], u32::MAX.to_be_bytes().as_slice()].concat();
    for (what, path, bytes, code) in [
        ("nothing", PUT, Vec::new(), "malformed_message"),
        ("half a head", PUT, vec![0, 0, 0], "malformed_message"),
        ("a message that breaks off", PUT, cut.clone(), "malformed_message"),
        ("no Protobuf", PUT, frame(0, &[0xff; 20]), "malformed_message"),
        ("compressed without saying how", PUT, frame(1, b"xxx"), "malformed_message"),
        ("no flag", PUT, frame(7, b"xxx"), "malformed_message"),
        ("HTTP/1", PUT, b"GET / HTTP/1.1\r\n\r\n".to_vec(), "malformed_message"),
        ("a length past all limits", PUT, long.clone(), "message_too_large"),
        ("no Protobuf in a session", SESSION, frame(0, &[0xff; 20]), "malformed_message"),
        ("a session that breaks off", SESSION, cut, "malformed_message"),
        ("a length past all limits in a session", SESSION, long.clone(), "message_too_large"),
        ("no Protobuf for an operator", "/cube.v1.Admin/CreateTable", frame(0, &[0xff; 20]), "malformed_message"),
        ("too much for an operator", "/cube.v1.Admin/CreateTable", long, "message_too_large"),
    ] {
        let status = call(node.grpc, path, &[], bytes).await.status;
        assert_eq!(status.code(), Code::InvalidArgument, "{what}: {status:?}");
        let detail = detail_of(&status);
        assert_eq!((detail.code.as_str(), detail.may_take_effect), (code, false), "{what}: {status:?}");
        assert_eq!(status.metadata().get("cube-error-code").unwrap(), code, "{what}");
        assert_eq!(detail.limit.is_some(), code == "message_too_large", "{what}");
    }
    let ended = call(node.grpc, PUT, &[], right).await;
    assert_eq!(ended.status.code(), Code::Ok, "the node goes on: {:?}", ended.status);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_content_types_are_refused_and_their_bytes_are_not_carried_out() {
    let node = Node::alone().await;
    let message = framed(&put("k", "v"));
    for given in [None, Some("text/plain"), Some("application/json"), Some("application/grpc+json")] {
        let headers: Vec<(&str, &str)> = given.map(|given| ("content-type", given)).into_iter().collect();
        let ended = send(node.grpc, PUT, &headers, message.clone()).await;
        assert_eq!((ended.http, ended.status.code()), (415, Code::InvalidArgument), "{given:?}");
        let detail = detail_of(&ended.status);
        assert_eq!((detail.code.as_str(), detail.given.as_str()), ("unsupported_media_type", given.unwrap_or("")));
    }
    let get = framed(&v1::GetRequest { key: super::grpc::key("k"), ..Default::default() });
    let found = super::http::get(node.http, "/api/v1/get/k").await;
    assert_eq!(found.body["found"], false, "nothing was written");
    for known in ["application/grpc", "application/grpc+proto", "Application/gRPC; v=1"] {
        let ended = send(node.grpc, "/cube.v1.Kv/Get", &[("content-type", known)], get.clone()).await;
        assert_eq!((ended.http, ended.status.code()), (200, Code::Ok), "{known}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_services_do_not_know_is_unimplemented() {
    let node = Node::alone().await;
    for path in ["/cube.v1.Kv/Nothing", "/cube.v1.Nothing/Put", "/"] {
        let ended = call(node.grpc, path, &[], framed(&put("k", "v"))).await;
        assert_eq!(ended.status.code(), Code::Unimplemented, "{path}");
    }
    let compressed = call(node.grpc, PUT, &[("grpc-encoding", "gzip")], frame(1, b"xxx")).await;
    assert_eq!(compressed.status.code(), Code::Unimplemented);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_is_sent_slowly_ends_its_call_in_time_and_frees_what_it_held() {
    let node = Node::start(Plan { message_time: Some(Duration::from_millis(300)), ..Plan::default() }).await;
    let right = framed(&put("k", "v"));
    let begun = frame(0, &vec![0; 1 << 20])[..5 + 1_000].to_vec();
    for (what, path, bytes) in [
        ("the head alone", PUT, begun[..3].to_vec()),
        ("a part", PUT, begun.clone()),
        ("all of it, and no end", PUT, right),
        ("nothing", PUT, Vec::new()),
        ("a part in a session", SESSION, begun),
    ] {
        let status = call(node.grpc, path, &[], half(bytes)).await.status;
        assert_eq!((status.code(), detail_of(&status).code.as_str()), (Code::Aborted, "body_too_slow"), "{what}");
    }
    eventually("what was held is given back", async || node.coordinator.in_flight_bytes() == 0).await;
    assert_eq!(super::http::get(node.http, "/api/v1/get/k").await.body["found"], false, "nothing was written");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_are_still_arriving_count_in_the_budget() {
    let settings = cube_replication::coordinator::Settings { in_flight_bytes_max: 5 << 19, ..Default::default() };
    let limits = Limits { value_bytes_max: 2 << 20, ..Limits::default() };
    let node = Node::start(Plan { settings, limits, ..Plan::default() }).await;
    let begun = frame(0, &vec![0; 2 << 20])[..1_000].to_vec();
    let address = node.grpc;
    let first = tokio::spawn(call_half(address, begun.clone()));
    eventually("the first is counted", async || node.coordinator.in_flight_bytes() >= 2 << 20).await;
    let status = call(node.grpc, PUT, &[], half(begun)).await.status;
    assert_eq!((status.code(), detail_of(&status).code.as_str()), (Code::ResourceExhausted, "overloaded"));
    assert!(detail_of(&status).retry_after_ms.is_some());
    let small = v1::PutRequest { value: vec![b'v'; 900 << 10].into(), ..put("k", "") };
    let small = v1::SessionRequest { id: 7, call: Some(v1::session_request::Call::Put(small)) };
    let (ended, replies) =
        session(node.grpc, v1::SessionRequests { requests: vec![small], ..Default::default() }).await;
    assert_eq!(ended.code(), Code::Ok, "what is refused in a session is refused for itself: {ended:?}");
    let Some(v1::session_reply::Outcome::Error(error)) = &replies[0].outcome else { panic!("{replies:?}") };
    assert_eq!((replies[0].id, error.code.as_str()), (7, "overloaded"));
    let body = format!(r#"{{"key":"k","value":"{}"}}"#, "v".repeat(2 << 20));
    let refused = super::http::send(node.http, "POST", "/api/v1/put", &body).await;
    assert_eq!((refused.status, refused.error_code()), (429, "overloaded"));
    first.abort();
    eventually("who went away holds nothing", async || node.coordinator.in_flight_bytes() == 0).await;
    let put = super::http::send(node.http, "POST", "/api/v1/put", &body).await;
    assert_eq!(put.status, 200, "{put:?}");
}

/// How a session of one message ends, and what was answered.
async fn session(to: std::net::SocketAddr, message: v1::SessionRequests) -> (Status, Vec<v1::SessionReply>) {
    let mut kv = KvClient::connect(format!("http://{to}")).await.unwrap();
    let mut answers = kv.session(stream::iter([message])).await.unwrap().into_inner();
    let mut replies = Vec::new();
    loop {
        match answers.message().await {
            Ok(Some(more)) => replies.extend(more.replies),
            Ok(None) => return (Status::ok(""), replies),
            Err(status) => return (status, replies),
        }
    }
}

async fn call_half(to: std::net::SocketAddr, bytes: Vec<u8>) {
    let _never = call(to, PUT, &[], half(bytes)).await;
}
