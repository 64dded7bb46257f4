//! `cube.v1.Admin`, by a generated client.

use cube_proto::token;
use cube_proto::v1::admin_client::AdminClient;
use cube_proto::v1::{self, replication};
use tonic::Code;
use tonic::transport::Channel;

use super::grpc::{channel, detail_of};
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
