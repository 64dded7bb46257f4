//! `cube.v1.Admin`, by a generated client.

use cube_proto::token;
use cube_proto::v1::admin_client::AdminClient;
use cube_proto::v1::kv_client::KvClient;
use cube_proto::v1::{self, replication, setting_value};
use cube_server::edge::Closing;
use tonic::Code;
use tonic::transport::Channel;

use super::grpc::{channel, detail_of, put};
use super::node::{Node, Plan};

async fn admin(node: &Node) -> AdminClient<Channel> {
    AdminClient::new(channel(node).await)
}

fn create(keyspace: &str, replicas: u32) -> v1::CreateKeyspaceRequest {
    let strategy = Some(replication::Strategy::Simple(replicas));
    let options = v1::KeyspaceOptions { replication: Some(v1::Replication { strategy }), durability: None };
    v1::CreateKeyspaceRequest { keyspace: keyspace.into(), options: Some(options) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_finds_the_replicas_of_a_key_by_the_topology() {
    let node = Node::start(Plan { others: &["dc1", "dc1"], ..Plan::default() }).await;
    node.kill("node-3");
    let mut admin = admin(&node).await;
    let topology = admin.topology(v1::TopologyRequest::default()).await.unwrap().into_inner();
    let alive: Vec<(&str, bool)> = topology.nodes.iter().map(|node| (node.name.as_str(), node.alive)).collect();
    assert_eq!(alive, [("node-1", true), ("node-2", true), ("node-3", false)]);
    let placement = topology.placements.iter().find(|placement| placement.keyspaces == ["default"]).unwrap();
    assert_eq!(placement.replication, "simple(3)");
    let partition = usize::try_from(token(b"alice") >> (64 - topology.partition_bits)).unwrap();
    let mut replicas = placement.partitions[partition].replicas.clone();
    replicas.sort_unstable();
    assert_eq!(replicas, [0, 1, 2]);

    let known = v1::TopologyRequest { known_epoch: topology.epoch };
    let again = admin.topology(known).await.unwrap().into_inner();
    assert!(again.placements.is_empty(), "what the asker has is not sent again");
    assert_eq!((again.epoch, again.nodes.len()), (topology.epoch, 3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keyspaces_and_tables_are_created_altered_shown_and_dropped() {
    let node = Node::alone().await;
    let mut admin = admin(&node).await;
    assert!(admin.create_keyspace(create("fleet", 1)).await.unwrap().into_inner().changed);
    assert!(!admin.create_keyspace(create("fleet", 1)).await.unwrap().into_inner().changed);
    let status = admin.create_keyspace(create("fleet", 2)).await.unwrap_err();
    assert_eq!((status.code(), detail_of(&status).code.as_str()), (Code::AlreadyExists, "already_exists"));

    let options = v1::TableOptions {
        read_repair_chance: Some(100),
        hedge: Some("20ms".into()),
        grace_ms: Some(60_000),
        prefix_index: Some(false),
        default_ttl_ms: Some(1_000),
    };
    let table =
        v1::CreateTableRequest { keyspace: "fleet".into(), table: "nodes".into(), options: Some(options.clone()) };
    assert!(admin.create_table(table).await.unwrap().into_inner().changed);
    let shown = |schema: v1::SchemaReply| {
        let keyspace = schema.keyspaces.into_iter().find(|keyspace| keyspace.name == "fleet").unwrap();
        keyspace.tables[0].options.clone().unwrap()
    };
    let schema = admin.schema(v1::SchemaRequest {}).await.unwrap().into_inner();
    assert_eq!(shown(schema), options);

    let change = v1::TableOptions { default_ttl_ms: Some(0), ..Default::default() };
    let alter = v1::AlterTableRequest { keyspace: "fleet".into(), table: "nodes".into(), options: Some(change) };
    assert!(admin.alter_table(alter.clone()).await.unwrap().into_inner().changed);
    assert!(!admin.alter_table(alter).await.unwrap().into_inner().changed);
    let schema = admin.schema(v1::SchemaRequest {}).await.unwrap().into_inner();
    assert_eq!(shown(schema), v1::TableOptions { default_ttl_ms: Some(0), ..options });

    let table = v1::DropTableRequest { keyspace: "fleet".into(), table: "nodes".into() };
    assert!(admin.drop_table(table.clone()).await.unwrap().into_inner().changed);
    let status = admin.drop_table(table).await.unwrap_err();
    assert_eq!((status.code(), detail_of(&status).code.as_str()), (Code::NotFound, "unknown_table"));
    let keyspace = v1::DropKeyspaceRequest { keyspace: "fleet".into() };
    assert!(admin.drop_keyspace(keyspace).await.unwrap().into_inner().changed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn options_that_cannot_be_are_refused_with_what_is_allowed() {
    let node = Node::alone().await;
    let mut admin = admin(&node).await;
    for (request, says) in [
        (create("1st", 1), "is no name for a keyspace"),
        (create("none", 0), "at least one replica"),
        (create("many", 300), "300 replicas are more than a partition may have"),
    ] {
        let status = admin.create_keyspace(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains(says), "{status}");
    }
    for (options, says) in [
        (v1::TableOptions { read_repair_chance: Some(101), ..Default::default() }, "from 0 to 100, not 101"),
        (v1::TableOptions { hedge: Some("soon".into()), ..Default::default() }, "\"off\", \"p99\" or a duration"),
    ] {
        let table = v1::CreateTableRequest { keyspace: "default".into(), table: "t".into(), options: Some(options) };
        let status = admin.create_table(table).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains(says), "{status}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_and_hints_are_told() {
    let node = Node::start(Plan { others: &["dc2"], ..Plan::default() }).await;
    let mut admin = admin(&node).await;
    let nodes = admin.nodes(v1::NodesRequest {}).await.unwrap().into_inner().nodes;
    let centers: Vec<&str> = nodes.iter().map(|node| node.data_center.as_str()).collect();
    assert_eq!(centers, ["dc1", "dc2"]);
    assert!(nodes.iter().all(|node| node.addresses.is_some() && node.state == "READY"), "{nodes:?}");
    let hints = admin.hints(v1::HintsRequest {}).await.unwrap().into_inner();
    let told: u64 = hints.node_hints.values().sum();
    assert_eq!(told, hints.total_hints);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_and_the_scrub_are_told_over_grpc_too() {
    let node = Node::alone().await;
    let mut admin = admin(&node).await;
    let told = admin.replication(v1::ReplicationRequest::default()).await.unwrap().into_inner();
    assert!(told.enabled && told.partitions.is_empty());
    let unknown = v1::ReplicationRequest { keyspace: None, table: Some("nothing".into()) };
    assert_eq!(admin.replication(unknown).await.unwrap_err().code(), Code::NotFound);
    let keyspace_alone = v1::ReplicationRequest { keyspace: Some("default".into()), table: None };
    assert_eq!(admin.replication(keyspace_alone).await.unwrap_err().code(), Code::InvalidArgument);
    let state = async |admin: &mut AdminClient<Channel>, now| {
        admin.scrub(v1::ScrubRequest { now }).await.unwrap().into_inner().state
    };
    assert_eq!(state(&mut admin, false).await, "RUNNING");
    assert_eq!(state(&mut admin, true).await, "ON_DEMAND");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hints_are_steered_over_grpc_and_a_node_that_is_not_there_is_refused() {
    let node = Node::alone().await;
    let mut admin = admin(&node).await;
    let all = v1::HintOrder::default();
    assert_eq!(admin.replay_hints(all.clone()).await.unwrap().into_inner().total_hints, 45);
    let paused = admin.pause_hints(all.clone()).await.unwrap().into_inner();
    assert_eq!((paused.paused, paused.total_hints), (vec!["node-1".to_owned()], 45));
    assert_eq!(admin.hints(v1::HintsRequest {}).await.unwrap().into_inner().paused, ["node-1"]);
    assert!(admin.resume_hints(all).await.unwrap().into_inner().paused.is_empty());
    let nobody = v1::HintOrder { node: Some("node-9".into()) };
    let status = admin.pause_hints(nobody).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    assert!(status.message().contains("node-9"), "{status}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_are_shown_changed_and_taken_back_over_grpc() {
    let node = Node::alone().await;
    let mut admin = admin(&node).await;
    let set = |name: &str, value: Option<setting_value::Value>| v1::ChangeSettingsRequest {
        settings: [(name.to_owned(), v1::SettingValue { value })].into(),
    };
    let shown = async |admin: &mut AdminClient<Channel>, name: &str| {
        let settings = admin.settings(v1::SettingsRequest {}).await.unwrap().into_inner().settings;
        settings.into_iter().find(|setting| setting.name == name).unwrap()
    };
    let before = shown(&mut admin, "hints.window").await;
    assert_eq!((before.value.as_str(), before.changeable), ("\"1h\"", true));
    let two_hours = Some(setting_value::Value::Text("2h".into()));
    let changed = admin.change_settings(set("hints.window", two_hours)).await.unwrap().into_inner();
    assert_eq!(changed.changed, ["hints.window"]);
    assert_eq!(shown(&mut admin, "hints.window").await.value, "\"2h\"");
    assert_eq!(admin.change_settings(set("hints.window", None)).await.unwrap().into_inner().changed, ["hints.window"]);
    assert_eq!(shown(&mut admin, "hints.window").await, before);

    let number = Some(setting_value::Value::Number(7));
    assert_eq!(
        admin.change_settings(set("hints.max_per_node", number)).await.unwrap().into_inner().changed,
        ["hints.max_per_node"]
    );
    let flag = || Some(setting_value::Value::Flag(false));
    for (name, code, says) in [
        ("hints.windw", Code::InvalidArgument, "did you mean hints.window?"),
        ("hints.window", Code::InvalidArgument, "hints.window"),
        ("listen.http", Code::FailedPrecondition, "listen.http"),
    ] {
        let status = admin.change_settings(set(name, flag())).await.unwrap_err();
        assert_eq!(status.code(), code, "{name}: {status}");
        assert!(status.message().contains(says), "{name}: {status}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_and_numbers_are_told_over_grpc_too() {
    let node = Node::start(Plan { others: &["dc1", "dc1"], ..Plan::default() }).await;
    let mut admin = admin(&node).await;
    let health = admin.health(v1::HealthRequest {}).await.unwrap().into_inner();
    assert!(health.serves && health.ready && health.missing.is_empty(), "{health:?}");
    node.rest_of_node.health.lock().reasons = vec!["the disk is gone".into()];
    let health = admin.health(v1::HealthRequest {}).await.unwrap().into_inner();
    assert_eq!((health.serves, health.ready, health.missing.len()), (false, false, 1), "{health:?}");

    node.kill("node-3");
    let cluster = admin.cluster_health(v1::ClusterHealthRequest {}).await.unwrap().into_inner();
    assert_eq!((cluster.status.as_str(), cluster.down.as_slice()), ("AT_RISK", &["node-3".to_owned()][..]));
    let lost = cluster.if_one_more_died.iter().find(|died| died.node == "node-2").unwrap();
    let lost = lost.keyspaces[0].lost.as_ref().unwrap();
    assert!(lost.without_quorum > 0 && lost.without_any_replica == 0, "{lost:?}");

    let stats = admin.stats(v1::StatsRequest {}).await.unwrap().into_inner();
    assert_eq!(stats.lines[0], "Pending Hints: 45");
    assert_eq!(stats.hints.unwrap().total_hints, 45);
    assert!(stats.reads.contains_key("default.kv") || stats.reads.is_empty());
    let page = admin.metrics(v1::MetricsRequest {}).await.unwrap().into_inner().text;
    assert!(page.contains("cube_build_info") && page.ends_with("# EOF\n"), "{page}");
    let slow = admin.slow_requests(v1::SlowRequestsRequest {}).await.unwrap().into_inner();
    assert_eq!((slow.threshold_ms, slow.requests.len()), (None, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_are_drained_and_leave_and_what_stands_in_the_way_is_told() {
    let node = Node::start(Plan { others: &["dc1", "dc1"], ..Plan::default() }).await;
    let mut admin = admin(&node).await;
    let order = v1::DecommissionNodeRequest { node: "node-3".into() };
    let told = admin.decommission_node(order).await.unwrap().into_inner();
    let leaving = v1::Leaving { by: "DECOMMISSION".into(), partitions: 3, hints: None, marks: None };
    assert_eq!((told.name.as_str(), told.leaving), ("node-3", Some(leaving)));
    let order = v1::RemoveNodeRequest { node: "node-3".into(), accept_loss: false };
    let status = admin.remove_node(order).await.unwrap_err();
    assert_eq!((status.code(), detail_of(&status).code.as_str()), (Code::FailedPrecondition, "conflict"));
    let order = v1::ReplaceNodeRequest { node: "node-3".into(), with: "node-2".into(), accept_loss: true };
    assert_eq!(admin.replace_node(order).await.unwrap().into_inner().leaving.unwrap().by, "REMOVE");
    assert!(admin.drain_node(v1::DrainNodeRequest { node: "node-2".into(), undo: false }).await.is_ok());
    let status = admin.drain_node(v1::DrainNodeRequest { node: "node-9".into(), undo: false }).await.unwrap_err();
    assert_eq!((status.code(), detail_of(&status).code.as_str()), (Code::NotFound, "unknown_node"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_door_refuses_rows_and_lets_operators_in() {
    let node = Node::alone().await;
    let mut admin = admin(&node).await;
    node.edge.doors().close(Closing::Drained);
    let status = KvClient::new(channel(&node).await).put(put("k", "v")).await.unwrap_err();
    assert_eq!((status.code(), detail_of(&status).code.as_str()), (Code::Unavailable, "drained"), "{status}");
    assert!(status.message().contains("node-1 is drained"), "{status}");
    let health = admin.health(v1::HealthRequest {}).await.unwrap().into_inner();
    assert!(!health.serves && health.missing.iter().any(|missing| missing.contains("node-1 is drained")), "{health:?}");
    assert!(admin.create_keyspace(create("fleet", 1)).await.unwrap().into_inner().changed);
    node.edge.doors().open(Closing::Drained);
    assert!(admin.health(v1::HealthRequest {}).await.unwrap().into_inner().serves);
}
