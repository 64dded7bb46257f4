//! Nodes that say what a test tells them to, over real connections, and share one store of rows.
//!
//! The store orders writes as a cluster does: the greater (timestamp, node) wins, and a node's own clock is ahead of
//! everything it has seen.

mod service;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use cube_client::{Client, Options};
use cube_proto::v1::admin_server::AdminServer;
use cube_proto::v1::kv_server::KvServer;
use cube_proto::v1::{self, ErrorDetail};
use prost::Message;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Code, Status};

/// What a node does with its next request.
#[derive(Clone)]
pub(crate) enum Say {
    /// Does it and answers.
    Yes,
    /// Refuses with this detail, and does nothing.
    No(Box<ErrorDetail>),
    /// Does it, lets `Cluster::meanwhile` happen, and never answers: the connection seems broken.
    DoneButLost,
    /// Does nothing, and the connection seems broken.
    Lost,
    /// Never answers.
    Nothing,
    /// Ends the session with this detail, and does nothing.
    Ends(Box<ErrorDetail>),
}

pub(crate) fn refusal(code: &str, status: Code, may_take_effect: bool) -> Box<ErrorDetail> {
    Box::new(ErrorDetail { code: code.to_owned(), status: status as u32, may_take_effect, ..Default::default() })
}

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

pub(crate) fn status_of(detail: &ErrorDetail) -> Status {
    let code = Code::from(i32::try_from(detail.status).unwrap());
    let any = AnyMessage { type_url: "type.googleapis.com/cube.v1.ErrorDetail".into(), value: detail.encode_to_vec() };
    let rich = RichStatus { code: code.into(), message: "no".into(), details: vec![any] };
    Status::with_details(code, "no", rich.encode_to_vec().into())
}

/// A write as it reached a node.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Seen {
    pub(crate) node: u16,
    pub(crate) partition: Bytes,
    pub(crate) timestamp_ms: Option<u64>,
}

type Versioned = ((u64, u16), Bytes);

#[derive(Default)]
pub(crate) struct Shared {
    pub(crate) rows: Mutex<BTreeMap<(Bytes, Bytes), Versioned>>,
    pub(crate) seen: Mutex<Vec<Seen>>,
    pub(crate) says: Mutex<HashMap<u16, VecDeque<Say>>>,
    pub(crate) topology: Mutex<Option<v1::TopologyReply>>,
    /// A write of somebody else that happens while an answer is lost.
    pub(crate) meanwhile: Mutex<Option<(Bytes, Bytes, u16)>>,
}

impl Shared {
    /// Applies a write as replicas do, and gives its version.
    pub(crate) fn write(&self, node: u16, key: (Bytes, Bytes), value: Bytes, timestamp_ms: Option<u64>) -> (u64, u16) {
        let mut rows = self.rows.lock().unwrap();
        let newest = rows.values().map(|((hlc, _), _)| *hlc).max().unwrap_or(1_000 << 16);
        let version = timestamp_ms.map_or((newest + 1, node), |ms| (ms << 16, u16::MAX));
        let held = rows.get(&key).map(|(held, _)| *held);
        if held.is_none_or(|held| held < version) {
            rows.insert(key, (version, value));
        }
        version
    }

    pub(crate) fn next(&self, node: u16) -> Say {
        self.says.lock().unwrap().get_mut(&node).and_then(VecDeque::pop_front).unwrap_or(Say::Yes)
    }

    pub(crate) fn value(&self, partition: &str) -> Option<Bytes> {
        let key = (Bytes::from(partition.to_owned()), Bytes::new());
        self.rows.lock().unwrap().get(&key).map(|(_, value)| value.clone())
    }

    pub(crate) fn seen_by(&self) -> Vec<u16> {
        self.seen.lock().unwrap().iter().map(|seen| seen.node).collect()
    }
}

/// Nodes numbered from 1, each a server of its own.
pub(crate) struct Cluster {
    pub(crate) shared: Arc<Shared>,
    pub(crate) addresses: Vec<String>,
    servers: Vec<JoinHandle<()>>,
}

impl Cluster {
    pub(crate) async fn of(nodes: u16) -> Self {
        let shared = Arc::new(Shared::default());
        let mut cluster = Self { shared, addresses: Vec::new(), servers: Vec::new() };
        for number in 1..=nodes {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            cluster.addresses.push(listener.local_addr().unwrap().to_string());
            let node = service::FakeNode { number, shared: Arc::clone(&cluster.shared) };
            let server = Server::builder().add_service(KvServer::new(node.clone())).add_service(AdminServer::new(node));
            let serving = server.serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true)));
            cluster.servers.push(tokio::spawn(async move { serving.await.unwrap() }));
        }
        cluster
    }

    /// Tells clients of these nodes, and of the replicas of the lower and the upper half of all tokens.
    pub(crate) fn place(&self, halves: [&[u32]; 2]) {
        let node = |(index, address): (usize, &String)| v1::Node {
            id: u32::try_from(index).unwrap() + 1,
            name: format!("node-{}", index + 1),
            data_center: "dc1".into(),
            addresses: Some(v1::Addresses { grpc: address.clone(), ..Default::default() }),
            alive: true,
            state: "READY".into(),
            ..Default::default()
        };
        let partition = |replicas: &[u32]| v1::Partition { replicas: replicas.to_vec(), ..Default::default() };
        let placement = v1::Placement {
            keyspaces: vec!["default".into()],
            partitions: halves.map(partition).to_vec(),
            ..Default::default()
        };
        *self.shared.topology.lock().unwrap() = Some(v1::TopologyReply {
            epoch: 1,
            partition_bits: 1,
            nodes: self.addresses.iter().enumerate().map(node).collect(),
            placements: vec![placement],
        });
    }

    pub(crate) fn say(&self, node: u16, says: impl IntoIterator<Item = Say>) {
        self.shared.says.lock().unwrap().entry(node).or_default().extend(says);
    }

    /// Its listener and all of its connections are gone.
    pub(crate) async fn kill(&mut self, node: u16) {
        let server = self.servers.remove(usize::from(node) - 1);
        server.abort();
        server.await.unwrap_err();
    }

    pub(crate) async fn client_with(&self, options: Options) -> Client {
        Client::connect_with(&self.addresses, options).await.unwrap()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.servers.iter().for_each(JoinHandle::abort);
    }
}
