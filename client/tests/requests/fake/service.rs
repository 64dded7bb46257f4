//! The services of a fake node.

use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use cube_proto::v1::admin_server::Admin;
use cube_proto::v1::kv_server::Kv;
use cube_proto::v1::session_reply::Outcome;
use cube_proto::v1::session_request::Call;
use cube_proto::v1::{self, partition_result, row_result};
use futures::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

use super::{Say, Seen, Shared, status_of};

#[derive(Clone)]
pub(crate) struct FakeNode {
    pub(crate) number: u16,
    pub(crate) shared: Arc<Shared>,
}

type Answer<T> = Result<Response<T>, Status>;

fn lost() -> Status {
    Status::unavailable("the connection was reset")
}

fn pair(key: Option<v1::RowKey>) -> (Bytes, Bytes) {
    let key = key.unwrap_or_default();
    (key.partition, key.sort)
}

impl FakeNode {
    fn apply(&self, key: Option<v1::RowKey>, value: Bytes, timestamp_ms: Option<u64>) -> v1::WriteReply {
        let (hlc, node) = self.shared.write(self.number, pair(key), value, timestamp_ms);
        v1::WriteReply { version: Some(v1::Version { hlc, node: node.into() }), ..Default::default() }
    }

    fn note(&self, key: &Option<v1::RowKey>, timestamp_ms: Option<u64>) {
        let partition = key.clone().unwrap_or_default().partition;
        self.shared.seen.lock().unwrap().push(Seen { node: self.number, partition, timestamp_ms });
    }

    async fn write(&self, put: v1::PutRequest) -> Result<v1::WriteReply, Status> {
        self.note(&put.key, put.timestamp_ms);
        match self.shared.next(self.number) {
            Say::Yes => Ok(self.apply(put.key, put.value, put.timestamp_ms)),
            Say::No(detail) | Say::Ends(detail) => Err(status_of(&detail)),
            Say::DoneButLost => {
                self.apply(put.key, put.value, put.timestamp_ms);
                if let Some((key, value, node)) = self.shared.meanwhile.lock().unwrap().take() {
                    self.shared.write(node, (key, Bytes::new()), value, None);
                }
                Err(lost())
            }
            Say::Lost => Err(lost()),
            Say::Nothing => std::future::pending().await,
        }
    }

    async fn read(&self, get: v1::GetRequest) -> Result<v1::GetReply, Status> {
        self.note(&get.key, None);
        match self.shared.next(self.number) {
            Say::Yes => Ok(self.found(get.key)),
            Say::No(detail) | Say::Ends(detail) => Err(status_of(&detail)),
            Say::DoneButLost | Say::Lost => Err(lost()),
            Say::Nothing => std::future::pending().await,
        }
    }

    fn found(&self, key: Option<v1::RowKey>) -> v1::GetReply {
        match self.shared.rows.lock().unwrap().get(&pair(key)) {
            None => v1::GetReply::default(),
            Some(((hlc, node), value)) => v1::GetReply {
                found: true,
                value: value.clone(),
                version: Some(v1::Version { hlc: *hlc, node: (*node).into() }),
                ..Default::default()
            },
        }
    }
}

#[tonic::async_trait]
impl Kv for FakeNode {
    async fn put(&self, request: Request<v1::PutRequest>) -> Answer<v1::WriteReply> {
        self.write(request.into_inner()).await.map(Response::new)
    }

    async fn delete(&self, _: Request<v1::DeleteRequest>) -> Answer<v1::WriteReply> {
        Err(Status::unimplemented("not needed"))
    }

    async fn get(&self, request: Request<v1::GetRequest>) -> Answer<v1::GetReply> {
        self.read(request.into_inner()).await.map(Response::new)
    }

    /// Pages of `limit` rows; the page token is the number of the first row.
    async fn range(&self, request: Request<v1::RangeRequest>) -> Answer<v1::RangeReply> {
        let request = request.into_inner();
        let first: usize = String::from_utf8(request.page.to_vec()).unwrap().parse().unwrap_or(0);
        let limit = usize::try_from(request.limit).unwrap();
        let rows = self.shared.rows.lock().unwrap();
        let of = rows.iter().filter(|((partition, _), _)| *partition == request.partition);
        let row = |((partition, sort), (_, value)): (&(Bytes, Bytes), &super::Versioned)| v1::RangeRow {
            key: Some(v1::RowKey { partition: partition.clone(), sort: sort.clone() }),
            value: value.clone(),
            ..Default::default()
        };
        let page: Vec<_> = of.clone().skip(first).take(limit).map(row).collect();
        let next = first + page.len();
        let next_page = if next < of.count() { next.to_string().into() } else { Bytes::new() };
        Ok(Response::new(v1::RangeReply { rows: page, next_page, ..Default::default() }))
    }

    type ScanStream = Pin<Box<dyn Stream<Item = Result<v1::ScanPage, Status>> + Send>>;

    /// Pages of `page_rows` rows, each as the test says; the token is the number of the first row.
    async fn scan(&self, request: Request<v1::ScanRequest>) -> Answer<Self::ScanStream> {
        let request = request.into_inner();
        let first: usize = String::from_utf8(request.page.to_vec()).unwrap().parse().unwrap_or(0);
        let limit = usize::try_from(request.page_rows).unwrap();
        let node = self.clone();
        let pages = futures::stream::unfold(Some(first), move |first| {
            let node = node.clone();
            let prefix = request.prefix.clone();
            async move {
                let first = first?;
                node.note(&Some(v1::RowKey { partition: first.to_string().into(), sort: Bytes::new() }), None);
                let said = node.shared.next(node.number);
                match said {
                    Say::No(detail) | Say::Ends(detail) => return Some((Err(status_of(&detail)), None)),
                    Say::Lost => return Some((Err(lost()), None)),
                    Say::Nothing => std::future::pending().await,
                    Say::Yes | Say::DoneButLost => {}
                }
                let rows = node.shared.rows.lock().unwrap();
                let of = rows.iter().filter(|((partition, _), _)| partition.starts_with(&prefix));
                let row = |((partition, sort), (_, value)): (&(Bytes, Bytes), &super::Versioned)| v1::RangeRow {
                    key: Some(v1::RowKey { partition: partition.clone(), sort: sort.clone() }),
                    value: value.clone(),
                    ..Default::default()
                };
                let page: Vec<_> = of.clone().skip(first).take(limit).map(row).collect();
                let next = first + page.len();
                let more = next < of.count();
                // What was done but lost is a page that did not reach its level.
                let partial = if matches!(said, Say::DoneButLost) { vec![7] } else { Vec::new() };
                let token = if more { next.to_string().into() } else { Bytes::new() };
                let page = v1::ScanPage { rows: page, next: token, partial, ..Default::default() };
                Some((Ok(page), more.then_some(next)))
            }
        });
        Ok(Response::new(Box::pin(pages)))
    }

    /// Refuses every row whose partition key begins with "bad".
    async fn batch_put(&self, request: Request<v1::BatchPutRequest>) -> Answer<v1::BatchWriteReply> {
        let of = |row: v1::PutRow| {
            self.note(&row.key, None);
            let partition = row.key.clone().unwrap_or_default().partition;
            let outcome = if partition.starts_with(b"bad") {
                partition_result::Outcome::Error(*super::refusal(
                    "value_too_large",
                    tonic::Code::InvalidArgument,
                    false,
                ))
            } else {
                partition_result::Outcome::Written(self.apply(row.key, row.value, None))
            };
            v1::PartitionResult { partition, outcome: Some(outcome) }
        };
        Ok(Response::new(v1::BatchWriteReply {
            results: request.into_inner().rows.into_iter().map(of).collect(),
            ..Default::default()
        }))
    }

    async fn batch_delete(&self, _: Request<v1::BatchDeleteRequest>) -> Answer<v1::BatchWriteReply> {
        Err(Status::unimplemented("not needed"))
    }

    async fn batch_get(&self, request: Request<v1::BatchGetRequest>) -> Answer<v1::BatchGetReply> {
        let of = |key| v1::RowResult { outcome: Some(row_result::Outcome::Row(self.found(Some(key)))) };
        Ok(Response::new(v1::BatchGetReply {
            rows: request.into_inner().keys.into_iter().map(of).collect(),
            ..Default::default()
        }))
    }

    type SessionStream = Pin<Box<dyn Stream<Item = Result<v1::SessionReplies, Status>> + Send>>;

    /// Answers each message's requests in reverse. `Lost` breaks the stream; `Nothing` ends it in order.
    async fn session(&self, request: Request<Streaming<v1::SessionRequests>>) -> Answer<Self::SessionStream> {
        let node = self.clone();
        let replies = futures::stream::unfold(Some(request.into_inner()), move |requests| {
            let node = node.clone();
            async move {
                let mut requests = requests?;
                let message = requests.next().await?.ok()?;
                let mut replies = Vec::new();
                for request in message.requests.into_iter().rev() {
                    let outcome = match request.call? {
                        Call::Put(put) => {
                            node.note(&put.key, put.timestamp_ms);
                            match node.shared.next(node.number) {
                                Say::Yes => Outcome::Written(node.apply(put.key, put.value, put.timestamp_ms)),
                                Say::No(detail) => Outcome::Error(*detail),
                                Say::Nothing => return None,
                                Say::Ends(detail) => return Some((Err(status_of(&detail)), None)),
                                Say::Lost | Say::DoneButLost => return Some((Err(lost()), None)),
                            }
                        }
                        Call::Get(get) => Outcome::Row(node.found(get.key)),
                        _ => return None,
                    };
                    replies.push(v1::SessionReply { id: request.id, outcome: Some(outcome) });
                }
                Some((Ok(v1::SessionReplies { replies }), Some(requests)))
            }
        });
        Ok(Response::new(Box::pin(replies)))
    }
}

macro_rules! not_needed {
    ($($call:ident($request:ident) -> $reply:ident),*) => {
        #[tonic::async_trait]
        impl Admin for FakeNode {
            async fn topology(&self, _: Request<v1::TopologyRequest>) -> Answer<v1::TopologyReply> {
                let told = self.shared.topology.lock().unwrap().clone();
                told.map(Response::new).ok_or_else(|| Status::unimplemented("an older release"))
            }

            $(async fn $call(&self, _: Request<v1::$request>) -> Answer<v1::$reply> {
                Err(Status::unimplemented("not needed"))
            })*
        }
    };
}

not_needed!(
    nodes(NodesRequest) -> NodesReply,
    hints(HintsRequest) -> HintsReply,
    replication(ReplicationRequest) -> ReplicationReply,
    scrub(ScrubRequest) -> ScrubReply,
    schema(SchemaRequest) -> SchemaReply,
    create_keyspace(CreateKeyspaceRequest) -> ChangeReply,
    alter_keyspace(AlterKeyspaceRequest) -> ChangeReply,
    drop_keyspace(DropKeyspaceRequest) -> ChangeReply,
    create_table(CreateTableRequest) -> ChangeReply,
    alter_table(AlterTableRequest) -> ChangeReply,
    drop_table(DropTableRequest) -> ChangeReply,
    start_repair(StartRepairRequest) -> Repair,
    list_repairs(ListRepairsRequest) -> RepairsReply,
    get_repair(GetRepairRequest) -> Repair,
    cancel_repair(CancelRepairRequest) -> Repair,
    replay_hints(HintOrder) -> HintsReply,
    pause_hints(HintOrder) -> HintsReply,
    resume_hints(HintOrder) -> HintsReply,
    health(HealthRequest) -> HealthReply,
    cluster_health(ClusterHealthRequest) -> ClusterHealthReply,
    stats(StatsRequest) -> StatsReply,
    metrics(MetricsRequest) -> MetricsReply,
    slow_requests(SlowRequestsRequest) -> SlowRequestsReply,
    settings(SettingsRequest) -> SettingsReply,
    change_settings(ChangeSettingsRequest) -> ChangeSettingsReply,
    decommission_node(DecommissionNodeRequest) -> Node,
    remove_node(RemoveNodeRequest) -> Node,
    replace_node(ReplaceNodeRequest) -> Node,
    drain_node(DrainNodeRequest) -> DrainNodeReply
);
