//! The gRPC services, by a generated client.

use cube_proto::v1::kv_client::KvClient;
use cube_proto::v1::{self, ErrorDetail, Level, partition_result, row_result};
use cube_storage::model::Limits;
use prost::Message;
use tokio_stream::StreamExt;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use super::node::{Node, Plan};

/// `google.rpc.Status` and `google.protobuf.Any`, as any client reads them.
#[derive(Clone, PartialEq, Message)]
struct RichStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<AnyMessage>,
}

#[derive(Clone, PartialEq, Message)]
struct AnyMessage {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

pub(crate) fn detail_of(status: &Status) -> ErrorDetail {
    let rich = RichStatus::decode(status.details()).unwrap();
    assert_eq!((rich.code, rich.message.as_str()), (status.code() as i32, status.message()));
    assert_eq!(rich.details[0].type_url, "type.googleapis.com/cube.v1.ErrorDetail");
    ErrorDetail::decode(rich.details[0].value.as_slice()).unwrap()
}

pub(crate) fn key(partition: &str) -> Option<v1::RowKey> {
    sorted(partition, "")
}

fn sorted(partition: &str, sort: &str) -> Option<v1::RowKey> {
    Some(v1::RowKey { partition: partition.to_owned().into(), sort: sort.to_owned().into() })
}

pub(crate) fn put(partition: &str, value: &str) -> v1::PutRequest {
    v1::PutRequest { key: key(partition), value: value.to_owned().into(), ..Default::default() }
}

fn get(partition: &str) -> v1::GetRequest {
    v1::GetRequest { key: key(partition), ..Default::default() }
}

pub(crate) async fn channel(node: &Node) -> Channel {
    Channel::from_shared(format!("http://{}", node.grpc)).unwrap().connect().await.unwrap()
}

pub(crate) async fn client(node: &Node) -> KvClient<Channel> {
    KvClient::new(channel(node).await)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_is_put_got_and_deleted() {
    let node = Node::alone().await;
    let mut kv = client(&node).await;
    let written = kv.put(v1::PutRequest { ttl_ms: Some(60_000), ..put("k", "v") }).await.unwrap().into_inner();
    assert_eq!(written.acknowledged_by, ["node-1"]);
    assert_eq!(written.level(), Level::Quorum);
    assert!(written.hinted_for.is_empty());
    let got = kv.get(get("k")).await.unwrap().into_inner();
    assert!(got.found);
    assert_eq!(got.value, "v");
    assert_eq!(got.version, written.version);
    assert!(got.expires_at_ms.is_some());
    assert!(got.as_of >= written.version.unwrap().hlc);
    let seen = written.version;
    let deleted =
        kv.delete(v1::DeleteRequest { key: key("k"), seen, ..Default::default() }).await.unwrap().into_inner();
    assert!(deleted.version.unwrap().hlc > seen.unwrap().hlc);
    let got = kv.get(get("k")).await.unwrap().into_inner();
    assert!(!got.found && got.value.is_empty());
    assert_eq!(got.version, deleted.version, "the version of the deletion");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_doors_open_into_the_same_room() {
    let node = Node::alone().await;
    client(&node).await.put(put("k", "by grpc")).await.unwrap();
    assert_eq!(super::http::get(node.http, "/api/v1/get/k").await.body["value"], "by grpc");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rows_of_a_partition_key_are_read_in_order_page_by_page_in_both_directions() {
    let node = Node::alone().await;
    let mut kv = client(&node).await;
    let rows = (0..10).rev().map(|number| v1::PutRow {
        key: sorted("p", &format!("s{number}")),
        value: number.to_string().into(),
        ttl_ms: None,
    });
    let batch = v1::BatchPutRequest { rows: rows.collect(), ..Default::default() };
    assert_eq!(kv.batch_put(batch).await.unwrap().into_inner().results.len(), 1, "one partition key, one result");
    kv.delete(v1::DeleteRequest { key: sorted("p", "s4"), ..Default::default() }).await.unwrap();
    for backward in [false, true] {
        let mut request = v1::RangeRequest {
            partition: "p".into(),
            from: Some(v1::RangeBound { sort: "s1".into(), exclusive: true }),
            to: Some(v1::RangeBound { sort: "s8".into(), exclusive: false }),
            limit: 3,
            backward,
            ..Default::default()
        };
        let mut values = Vec::new();
        for page in 0.. {
            assert!(page < 10, "pages end");
            let reply = kv.range(request.clone()).await.unwrap().into_inner();
            values.extend(reply.rows.iter().map(|row| String::from_utf8(row.value.to_vec()).unwrap()));
            request.page = reply.next_page;
            if request.page.is_empty() {
                break;
            }
        }
        let mut expected = vec!["2", "3", "5", "6", "7", "8"];
        if backward {
            expected.reverse();
        }
        assert_eq!(values, expected, "backward: {backward}");
    }
    let forged = v1::RangeRequest { partition: "p".into(), page: "nonsense".into(), ..Default::default() };
    assert_eq!(detail_of(&kv.range(forged).await.unwrap_err()).code, "invalid_page_token");
    let huge = v1::RangeRequest { partition: "p".into(), limit: 4_000_000_000, ..Default::default() };
    assert_eq!(detail_of(&kv.range(huge).await.unwrap_err()).code, "invalid_page");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_answers_for_each_partition_key_or_row_in_the_order_of_the_request() {
    let node = Node::alone().await;
    let mut kv = client(&node).await;
    let row = |partition, sort, value: &'static str| v1::PutRow {
        key: sorted(partition, sort),
        value: value.into(),
        ttl_ms: None,
    };
    let rows = vec![row("b", "1", "b1"), row("a", "1", "a1"), row("b", "2", "b2")];
    let reply = kv.batch_put(v1::BatchPutRequest { rows, ..Default::default() }).await.unwrap().into_inner();
    let partitions: Vec<&[u8]> = reply.results.iter().map(|result| result.partition.as_ref()).collect();
    assert_eq!(partitions, [b"b", b"a"]);
    for result in &reply.results {
        assert!(matches!(result.outcome, Some(partition_result::Outcome::Written(_))));
    }
    let keys =
        [("a", "1"), ("nobody", ""), ("b", "2")].map(|(partition, sort)| sorted(partition, sort).unwrap()).to_vec();
    let reply = kv.batch_get(v1::BatchGetRequest { keys, ..Default::default() }).await.unwrap().into_inner();
    let found: Vec<(bool, &[u8])> = reply
        .rows
        .iter()
        .map(|row| match row.outcome.as_ref().unwrap() {
            row_result::Outcome::Row(row) => (row.found, row.value.as_ref()),
            row_result::Outcome::Error(error) => panic!("{error:?}"),
        })
        .collect();
    assert_eq!(found, [(true, b"a1".as_slice()), (false, b""), (true, b"b2")]);
    let keys = vec![sorted("a", "1").unwrap(), sorted("b", "1").unwrap()];
    kv.batch_delete(v1::BatchDeleteRequest { keys, ..Default::default() }).await.unwrap();
    let gone = v1::GetRequest { key: sorted("a", "1"), ..Default::default() };
    assert!(!kv.get(gone).await.unwrap().into_inner().found);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_requests_have_the_codes_of_the_rest_api() {
    let node = Node::alone().await;
    let mut kv = client(&node).await;
    let none = || v1::PutRequest { value: "v".into(), ..Default::default() };
    for (request, status, code) in [
        (none(), Code::InvalidArgument, "empty_key"),
        (v1::PutRequest { key: key(""), ..none() }, Code::InvalidArgument, "empty_key"),
        (v1::PutRequest { level: 99, ..put("k", "v") }, Code::InvalidArgument, "unknown_level"),
        (v1::PutRequest { ttl_ms: Some(0), ..put("k", "v") }, Code::InvalidArgument, "invalid_ttl"),
        (v1::PutRequest { ttl_ms: Some(u64::MAX), ..put("k", "v") }, Code::InvalidArgument, "invalid_ttl"),
        (
            v1::PutRequest { timestamp_ms: Some(u64::MAX), ..put("k", "v") },
            Code::InvalidArgument,
            "timestamp_too_far_ahead",
        ),
        (
            v1::PutRequest { seen: Some(v1::Version { hlc: 1, node: 70_000 }), ..put("k", "v") },
            Code::InvalidArgument,
            "invalid_request",
        ),
        (v1::PutRequest { keyspace: "nowhere".into(), ..put("k", "v") }, Code::NotFound, "unknown_keyspace"),
        (v1::PutRequest { table: "nowhere".into(), ..put("k", "v") }, Code::NotFound, "unknown_table"),
        (put(&"k".repeat(4_097), "v"), Code::InvalidArgument, "key_too_large"),
        (put("k", &"v".repeat((4 << 20) + 1)), Code::InvalidArgument, "value_too_large"),
    ] {
        let refused = kv.put(request).await.unwrap_err();
        assert_eq!((refused.code(), detail_of(&refused).code.as_str()), (status, code), "{refused:?}");
    }
    let any = v1::GetRequest { level: Level::Any.into(), ..get("k") };
    assert_eq!(detail_of(&kv.get(any).await.unwrap_err()).code, "level_not_for_reading");
    assert!(!kv.get(get("k")).await.unwrap().into_inner().found, "nothing was written");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_are_as_large_as_the_configured_limits_and_no_larger() {
    let limits = Limits { value_bytes_max: 6 << 20, ..Limits::default() };
    let node = Node::start(Plan { limits, ..Plan::default() }).await;
    let mut kv = client(&node).await.max_decoding_message_size(usize::MAX);
    let value = "v".repeat(6 << 20);
    kv.put(put("k", &value)).await.unwrap();
    assert_eq!(kv.get(get("k")).await.unwrap().into_inner().value.len(), value.len());
    let rows =
        (0..20).map(|number| v1::PutRow { key: key(&format!("k{number}")), value: value.clone().into(), ttl_ms: None });
    let too_much = v1::BatchPutRequest { rows: rows.collect(), ..Default::default() };
    let status = kv.batch_put(too_much).await.unwrap_err();
    let detail = detail_of(&status);
    assert_eq!((status.code(), detail.code.as_str()), (Code::InvalidArgument, "message_too_large"));
    let most = u64::try_from(cube_server::grpc::message_bytes_max(&limits)).unwrap();
    assert_eq!(detail.limit, Some(most));
    assert!(kv.get(get("k")).await.unwrap().into_inner().found, "the node goes on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_standard_health_service_tells_what_the_node_says_of_itself() {
    let node = Node::alone().await;
    let mut health = HealthClient::new(channel(&node).await);
    let ask = |service: &str| HealthCheckRequest { service: service.to_owned() };
    for service in ["", "cube.v1.Kv"] {
        let told = health.check(ask(service)).await.unwrap().into_inner();
        assert_eq!(told.status(), ServingStatus::Serving);
    }
    assert_eq!(health.check(ask("cube.v1.Nothing")).await.unwrap_err().code(), Code::NotFound);
    let mut watched = health.watch(ask("")).await.unwrap().into_inner();
    assert_eq!(watched.next().await.unwrap().unwrap().status(), ServingStatus::Serving);
    node.rest_of_node.health.lock().reasons = vec!["its disk failed".into()];
    assert_eq!(watched.next().await.unwrap().unwrap().status(), ServingStatus::NotServing);
    assert_eq!(health.check(ask("")).await.unwrap().into_inner().status(), ServingStatus::NotServing);
    node.rest_of_node.health.lock().reasons.clear();
    assert_eq!(watched.next().await.unwrap().unwrap().status(), ServingStatus::Serving);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reflection_describes_the_services() {
    let node = Node::alone().await;
    let mut reflection = ServerReflectionClient::new(channel(&node).await);
    let ask = |request| ServerReflectionRequest { host: String::new(), message_request: Some(request) };
    let asked = tokio_stream::iter([
        ask(MessageRequest::ListServices(String::new())),
        ask(MessageRequest::FileContainingSymbol("cube.v1.Kv".into())),
    ]);
    let mut answers = reflection.server_reflection_info(asked).await.unwrap().into_inner();
    let Some(MessageResponse::ListServicesResponse(list)) = answers.next().await.unwrap().unwrap().message_response
    else {
        panic!("a list of services")
    };
    let names: Vec<&str> = list.service.iter().map(|service| service.name.as_str()).collect();
    assert!(names.contains(&"cube.v1.Kv") && names.contains(&"grpc.health.v1.Health"), "{names:?}");
    let described = answers.next().await.unwrap().unwrap().message_response;
    assert!(matches!(described, Some(MessageResponse::FileDescriptorResponse(_))));
}
