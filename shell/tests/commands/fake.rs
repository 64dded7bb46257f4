//! Nodes in this process that keep rows in memory, and refuse or hang when they are told to.

mod admin;

use std::collections::{BTreeMap, HashMap};
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use cube_proto::v1::admin_server::AdminServer;
use cube_proto::v1::kv_server::{Kv, KvServer};
use cube_proto::v1::session_reply::Outcome;
use cube_proto::v1::session_request::Call;
use cube_proto::v1::{self, ErrorDetail};
use prost::Message;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_stream::{Stream, StreamExt};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Code, Request, Response, Status, Streaming};

type Answer<T> = Result<Response<T>, Status>;
type Place = (String, Bytes, Bytes);

/// What all nodes share.
#[derive(Default)]
struct Shared {
    rows: Mutex<BTreeMap<Place, Bytes>>,
    nodes: Mutex<Vec<v1::Node>>,
    schema: Mutex<Vec<v1::Keyspace>>,
    hints: Mutex<HashMap<String, u64>>,
    refusal: Mutex<Option<ErrorDetail>>,
    hangs: Mutex<bool>,
    writes: Mutex<u64>,
    fails_after: Mutex<Option<u64>>,
    /// The timestamp of the last write, if its client chose one.
    stamped: Mutex<Option<u64>>,
    /// By the number of the node. One without knows no such call.
    syncs: Mutex<HashMap<usize, v1::ReplicationReply>>,
    scrubs: Mutex<HashMap<usize, v1::ScrubReply>>,
    /// How a repair stands at each look, and at every one behind the last.
    repair: Mutex<Vec<v1::Repair>>,
    repair_refusal: Mutex<Option<ErrorDetail>>,
    /// What was asked of nodes about repairs.
    repairs_asked: Mutex<Vec<String>>,
    /// The number of a node that has yet to hear of a table, and how often it is still asked before it has.
    deaf: Mutex<Option<(usize, u32)>>,
}

/// What all nodes share, and which of them this is.
#[derive(Clone)]
struct FakeNode(Arc<Shared>, usize);

/// Some nodes on ports of their own.
pub(crate) struct FakeCluster {
    shared: Arc<Shared>,
    ports: Vec<u16>,
    servers: Vec<JoinHandle<()>>,
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

fn status_of(detail: &ErrorDetail) -> Status {
    let code = Code::from(i32::try_from(detail.status).unwrap());
    let any = AnyMessage { type_url: "type.googleapis.com/cube.v1.ErrorDetail".into(), value: detail.encode_to_vec() };
    let rich = RichStatus { code: code.into(), message: detail.message.clone(), details: vec![any] };
    Status::with_details(code, detail.message.clone(), rich.encode_to_vec().into())
}

impl FakeCluster {
    pub(crate) async fn start(nodes: usize) -> Self {
        let shared = Arc::new(Shared::default());
        let table = v1::Table { name: "kv".into(), options: Some(v1::TableOptions::default()) };
        let simple = v1::Replication { strategy: Some(v1::replication::Strategy::Simple(3)) };
        shared.schema.lock().unwrap().push(v1::Keyspace {
            name: "default".into(),
            options: Some(v1::KeyspaceOptions { replication: Some(simple), durability: None }),
            tables: vec![table],
        });
        let (mut ports, mut servers) = (Vec::new(), Vec::new());
        for id in 1..=nodes {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            ports.push(address.port());
            shared.nodes.lock().unwrap().push(v1::Node {
                id: u32::try_from(id).unwrap(),
                name: format!("node-{id}"),
                data_center: "dc1".into(),
                rack: "r1".into(),
                addresses: Some(v1::Addresses { grpc: address.to_string(), ..Default::default() }),
                alive: true,
                state: "READY".into(),
                ..Default::default()
            });
            let node = FakeNode(Arc::clone(&shared), id);
            let kv = KvServer::new(node.clone()).max_decoding_message_size(64 << 20);
            let server = Server::builder().add_service(kv).add_service(AdminServer::new(node));
            servers.push(tokio::spawn(async move {
                server.serve_with_incoming(TcpIncoming::from(listener)).await.unwrap();
            }));
        }
        Self { shared, ports, servers }
    }

    pub(crate) fn port(&self, node: usize) -> u16 {
        self.ports[node - 1]
    }

    /// The node is gone, and its connections with it; the others see that it is.
    pub(crate) async fn kill(&mut self, node: usize) {
        self.servers[node - 1].abort();
        (&mut self.servers[node - 1]).await.unwrap_err();
        self.shared.nodes.lock().unwrap()[node - 1].alive = false;
    }

    /// How the replicas of this node stand.
    pub(crate) fn sync(&self, node: usize, status: v1::ReplicationReply) {
        self.shared.syncs.lock().unwrap().insert(node, status);
    }

    /// How far the scrub of this node is.
    pub(crate) fn scrub(&self, node: usize, scrub: v1::ScrubReply) {
        self.shared.scrubs.lock().unwrap().insert(node, scrub);
    }

    /// How the repair stands that is asked for next: first of all, and at each look.
    pub(crate) fn repair(&self, looks: Vec<v1::Repair>) {
        *self.shared.repair.lock().unwrap() = looks;
    }

    /// Every repair is refused so.
    pub(crate) fn refuse_repairs(&self, detail: ErrorDetail) {
        *self.shared.repair_refusal.lock().unwrap() = Some(detail);
    }

    pub(crate) fn repairs_asked(&self) -> Vec<String> {
        self.shared.repairs_asked.lock().unwrap().clone()
    }

    /// So many questions long, this node has not heard of the table `default.new`, which the others have.
    pub(crate) fn late(&self, node: usize, questions: u32) {
        let table = v1::Table { name: "new".into(), options: Some(v1::TableOptions::default()) };
        self.shared.schema.lock().unwrap()[0].tables.push(table);
        *self.shared.deaf.lock().unwrap() = Some((node, questions));
    }

    pub(crate) fn hints(&self, node: &str, count: u64) {
        self.shared.hints.lock().unwrap().insert(node.to_owned(), count);
    }

    /// Every request for rows is refused so.
    pub(crate) fn refuse(&self, detail: ErrorDetail) {
        *self.shared.refusal.lock().unwrap() = Some(detail);
    }

    /// Whether nothing is answered any more.
    pub(crate) fn hang(&self, hangs: bool) {
        *self.shared.hangs.lock().unwrap() = hangs;
    }

    /// After so many writes, every further one is refused; none: no more.
    pub(crate) fn fail_after(&self, writes: Option<u64>) {
        *self.shared.fails_after.lock().unwrap() = writes;
    }

    pub(crate) fn writes(&self) -> u64 {
        *self.shared.writes.lock().unwrap()
    }

    pub(crate) fn stamped(&self) -> Option<u64> {
        *self.shared.stamped.lock().unwrap()
    }

    /// These rows and no others.
    pub(crate) fn fill(&self, rows: BTreeMap<Place, Bytes>) {
        *self.shared.rows.lock().unwrap() = rows;
    }

    pub(crate) fn rows(&self) -> BTreeMap<Place, Bytes> {
        self.shared.rows.lock().unwrap().clone()
    }
}

impl FakeNode {
    /// The schema, as far as this node has heard of it.
    fn schema_here(&self) -> Vec<v1::Keyspace> {
        let mut schema = self.0.schema.lock().unwrap().clone();
        let mut deaf = self.0.deaf.lock().unwrap();
        if let Some((node, questions)) = deaf.as_mut()
            && *node == self.1
            && *questions > 0
        {
            *questions -= 1;
            schema[0].tables.retain(|table| table.name != "new");
        }
        schema
    }

    async fn judge(&self) -> Result<(), Status> {
        let hangs = *self.0.hangs.lock().unwrap();
        if hangs {
            std::future::pending::<()>().await;
        }
        match &*self.0.refusal.lock().unwrap() {
            Some(detail) => Err(status_of(detail)),
            None => Ok(()),
        }
    }

    fn place(&self, keyspace: &str, table: &str, key: Option<v1::RowKey>) -> Result<Place, Box<ErrorDetail>> {
        let (keyspace, table) =
            (if keyspace.is_empty() { "default" } else { keyspace }, if table.is_empty() { "kv" } else { table });
        let schema = self.schema_here();
        let known = schema.iter().find(|known| known.name == keyspace);
        if !known.is_some_and(|known| known.tables.iter().any(|known| known.name == table)) {
            let told = format!("there is no table {keyspace}.{table}");
            return Err(Box::new(detail("unknown_table", Code::NotFound, &told)));
        }
        let key = key.unwrap_or_default();
        Ok((format!("{keyspace}.{table}"), key.partition, key.sort))
    }

    fn write(&self, request: v1::PutRequest) -> Result<v1::WriteReply, Box<ErrorDetail>> {
        let place = self.place(&request.keyspace, &request.table, request.key)?;
        let mut writes = self.0.writes.lock().unwrap();
        if self.0.fails_after.lock().unwrap().is_some_and(|most| *writes >= most) {
            return Err(Box::new(detail("value_too_large", Code::InvalidArgument, "told to refuse")));
        }
        *writes += 1;
        *self.0.stamped.lock().unwrap() = request.timestamp_ms;
        let hlc = *writes << 16;
        self.0.rows.lock().unwrap().insert(place, request.value);
        let mut reply = v1::WriteReply {
            version: Some(v1::Version { hlc, node: 1 }),
            acknowledged_by: vec!["node-2".into(), "node-1".into()],
            ..Default::default()
        };
        reply.set_level(v1::Level::try_from(request.level).unwrap_or_default());
        Ok(reply)
    }
}

/// An account of something that took three milliseconds.
fn explained(kind: &str) -> v1::Explained {
    let message = v1::ExplainedMessage {
        replica: "node-2".into(),
        role: "near".into(),
        asked: "record".into(),
        why: "level".into(),
        rows: 1,
        sent_ms: 1,
        answered_ms: Some(3),
        ..Default::default()
    };
    v1::Explained {
        kind: kind.into(),
        keyspace: "default".into(),
        table: "kv".into(),
        coordinator: "node-1".into(),
        took_ms: 3,
        messages: vec![message],
        ..Default::default()
    }
}

pub(crate) fn detail(code: &str, status: Code, message: &str) -> ErrorDetail {
    ErrorDetail { code: code.into(), status: status as u32, message: message.into(), ..Default::default() }
}

#[tonic::async_trait]
impl Kv for FakeNode {
    async fn put(&self, request: Request<v1::PutRequest>) -> Answer<v1::WriteReply> {
        self.judge().await?;
        self.write(request.into_inner()).map(Response::new).map_err(|detail| status_of(&detail))
    }

    async fn delete(&self, request: Request<v1::DeleteRequest>) -> Answer<v1::WriteReply> {
        self.judge().await?;
        let request = request.into_inner();
        let place = self.place(&request.keyspace, &request.table, request.key).map_err(|detail| status_of(&detail))?;
        self.0.rows.lock().unwrap().remove(&place);
        Ok(Response::new(v1::WriteReply::default()))
    }

    async fn get(&self, request: Request<v1::GetRequest>) -> Answer<v1::GetReply> {
        self.judge().await?;
        let request = request.into_inner();
        let place = self.place(&request.keyspace, &request.table, request.key).map_err(|detail| status_of(&detail))?;
        let value = self.0.rows.lock().unwrap().get(&place).cloned();
        let version = value.as_ref().map(|_| v1::Version { hlc: 1 << 16, node: 1 });
        let found = value.is_some();
        let explained = request.explain.then(|| Box::new(explained("read")));
        let value = value.unwrap_or_default();
        Ok(Response::new(v1::GetReply { found, value, version, explained, ..Default::default() }))
    }

    /// Pages of `limit` rows; the page token is the number of the first row.
    async fn range(&self, request: Request<v1::RangeRequest>) -> Answer<v1::RangeReply> {
        self.judge().await?;
        let request = request.into_inner();
        let first: usize = String::from_utf8(request.page.to_vec()).unwrap().parse().unwrap_or(0);
        let bound = |bound: &Option<v1::RangeBound>| bound.clone().map(|bound| (bound.sort, bound.exclusive));
        let (from, to) = (bound(&request.from), bound(&request.to));
        let rows = self.0.rows.lock().unwrap();
        let mut of: Vec<v1::RangeRow> = rows
            .iter()
            .filter(|((_, partition, sort), _)| {
                *partition == request.partition
                    && from.as_ref().is_none_or(|(low, past)| if *past { sort > low } else { sort >= low })
                    && to.as_ref().is_none_or(|(high, past)| if *past { sort < high } else { sort <= high })
            })
            .map(|((_, partition, sort), value)| v1::RangeRow {
                key: Some(v1::RowKey { partition: partition.clone(), sort: sort.clone() }),
                value: value.clone(),
                ..Default::default()
            })
            .collect();
        if request.backward {
            of.reverse();
        }
        let page: Vec<_> = of.iter().skip(first).take(usize::try_from(request.limit).unwrap()).cloned().collect();
        let next = first + page.len();
        let next_page = if next < of.len() { next.to_string().into() } else { Bytes::new() };
        Ok(Response::new(v1::RangeReply { rows: page, next_page, ..Default::default() }))
    }

    async fn batch_put(&self, _: Request<v1::BatchPutRequest>) -> Answer<v1::BatchWriteReply> {
        Err(Status::unimplemented("not needed"))
    }

    async fn batch_delete(&self, _: Request<v1::BatchDeleteRequest>) -> Answer<v1::BatchWriteReply> {
        Err(Status::unimplemented("not needed"))
    }

    async fn batch_get(&self, _: Request<v1::BatchGetRequest>) -> Answer<v1::BatchGetReply> {
        Err(Status::unimplemented("not needed"))
    }

    type ScanStream = Pin<Box<dyn Stream<Item = Result<v1::ScanPage, Status>> + Send>>;

    /// The token of a page is the number of the first row behind it.
    async fn scan(&self, request: Request<v1::ScanRequest>) -> Answer<Self::ScanStream> {
        self.judge().await?;
        let request = request.into_inner();
        let (table, ..) = self.place(&request.keyspace, &request.table, None).map_err(|detail| status_of(&detail))?;
        let mut rows: Vec<v1::RangeRow> = self
            .0
            .rows
            .lock()
            .unwrap()
            .iter()
            .filter(|((of, partition, _), _)| *of == table && partition.starts_with(&request.prefix))
            .map(|((_, partition, sort), value)| v1::RangeRow {
                key: Some(v1::RowKey { partition: partition.clone(), sort: sort.clone() }),
                value: value.clone(),
                ..Default::default()
            })
            .collect();
        if request.backward {
            rows.reverse();
        }
        let count = |count: u64| usize::try_from(count).unwrap();
        let first: usize = String::from_utf8(request.page.to_vec()).unwrap().parse().unwrap_or(0);
        let last = if request.limit == 0 { rows.len() } else { rows.len().min(first + count(request.limit)) };
        let page_rows = if request.page_rows == 0 { 1_000 } else { count(request.page_rows.into()) };
        let mut pages = Vec::new();
        let mut from = first;
        loop {
            let to = last.min(from + page_rows);
            let next = if to < rows.len() { to.to_string().into() } else { Bytes::new() };
            let explained = request.explain.then(|| Box::new(explained("scan")));
            pages.push(Ok(v1::ScanPage { rows: rows[from..to].to_vec(), next, explained, ..Default::default() }));
            from = to;
            if from >= last {
                return Ok(Response::new(Box::pin(tokio_stream::iter(pages))));
            }
        }
    }

    type SessionStream = Pin<Box<dyn Stream<Item = Result<v1::SessionReplies, Status>> + Send>>;

    async fn session(&self, request: Request<Streaming<v1::SessionRequests>>) -> Answer<Self::SessionStream> {
        let node = self.clone();
        let replies = request.into_inner().map_while(Result::ok).map(move |message| {
            let reply = |request: v1::SessionRequest| {
                let outcome = match request.call {
                    Some(Call::Put(put)) => match node.write(put) {
                        Ok(written) => Outcome::Written(written),
                        Err(detail) => Outcome::Error(*detail),
                    },
                    _ => Outcome::Error(detail("unsupported", Code::Unimplemented, "not needed")),
                };
                v1::SessionReply { id: request.id, outcome: Some(outcome) }
            };
            Ok(v1::SessionReplies { replies: message.requests.into_iter().map(reply).collect() })
        });
        Ok(Response::new(Box::pin(replies)))
    }
}

impl FakeNode {
    async fn judge_admin(&self) {
        let hangs = *self.0.hangs.lock().unwrap();
        if hangs {
            std::future::pending::<()>().await;
        }
    }
}
