//! The calls of `cube.v1.Kv`, each three steps: read the message, ask the edge, write the answer.

use std::sync::Arc;

use cube_proto::v1;
use cube_proto::v1::kv_server::Kv;
use cube_replication::coordinator::{ReadRequest, WriteRequest};
use tonic::{Request, Response, Status, Streaming};

use super::convert;
use super::requests::{Requests, batch_read, batch_written, partitions_of};
use super::scan::{self, ScanPages};
use super::session::{Session, SessionReplies};
use crate::edge::{Caller, Edge, Names};

/// Answers for rows.
pub(super) struct KvService {
    edge: Arc<Edge>,
}

impl KvService {
    pub(super) fn new(edge: Arc<Edge>) -> Self {
        Self { edge }
    }

    async fn write_one(&self, request: WriteRequest) -> Result<Response<v1::WriteReply>, Status> {
        let level = request.terms.level;
        let written = self.edge.write_one(Caller::Anonymous, request).await?;
        Ok(Response::new(convert::written(written, level, &Names::new(&self.edge.state()))))
    }

    async fn write_many(&self, request: WriteRequest) -> Result<Response<v1::BatchWriteReply>, Status> {
        let (level, partitions) = (request.terms.level, partitions_of(&request.rows));
        let results = self.edge.write(Caller::Anonymous, request).await?;
        Ok(Response::new(batch_written(partitions, results, level, &Names::new(&self.edge.state()))))
    }
}

/// A message, read as a request.
fn read<M, R, E: Into<Status>>(
    edge: &Edge,
    request: Request<M>,
    read: impl FnOnce(&Requests<'_>, M) -> Result<R, E>,
) -> Result<R, Status> {
    let (metadata, _, message) = request.into_parts();
    read(&Requests { edge, metadata: &metadata }, message).map_err(Into::into)
}

#[tonic::async_trait]
impl Kv for KvService {
    type ScanStream = ScanPages;
    type SessionStream = SessionReplies;

    async fn put(&self, request: Request<v1::PutRequest>) -> Result<Response<v1::WriteReply>, Status> {
        let request: WriteRequest = read(&self.edge, request, |read, message| read.put(message))?;
        self.write_one(request).await
    }

    async fn delete(&self, request: Request<v1::DeleteRequest>) -> Result<Response<v1::WriteReply>, Status> {
        let request: WriteRequest = read(&self.edge, request, |read, message| read.delete(message))?;
        self.write_one(request).await
    }

    async fn get(&self, request: Request<v1::GetRequest>) -> Result<Response<v1::GetReply>, Status> {
        let request: ReadRequest = read(&self.edge, request, |read, message| read.get(message))?;
        let row = self.edge.read_one(Caller::Anonymous, request).await?;
        Ok(Response::new(convert::read_row(row, &Names::new(&self.edge.state()))))
    }

    async fn range(&self, request: Request<v1::RangeRequest>) -> Result<Response<v1::RangeReply>, Status> {
        let (metadata, _, message) = request.into_parts();
        let (whole, page) = convert::range(message, &metadata, &self.edge)?;
        let found = self.edge.range(Caller::Anonymous, page).await?;
        Ok(Response::new(convert::range_page(&whole, found, &Names::new(&self.edge.state()))))
    }

    async fn scan(&self, request: Request<v1::ScanRequest>) -> Result<Response<ScanPages>, Status> {
        let (metadata, _, message) = request.into_parts();
        Ok(Response::new(scan::begin(Arc::clone(&self.edge), message, &metadata).await?))
    }

    async fn batch_put(&self, request: Request<v1::BatchPutRequest>) -> Result<Response<v1::BatchWriteReply>, Status> {
        let request: WriteRequest = read(&self.edge, request, |read, message| read.batch_put(message))?;
        self.write_many(request).await
    }

    async fn batch_delete(
        &self,
        request: Request<v1::BatchDeleteRequest>,
    ) -> Result<Response<v1::BatchWriteReply>, Status> {
        let request: WriteRequest = read(&self.edge, request, |read, message| read.batch_delete(message))?;
        self.write_many(request).await
    }

    async fn batch_get(&self, request: Request<v1::BatchGetRequest>) -> Result<Response<v1::BatchGetReply>, Status> {
        let request: ReadRequest = read(&self.edge, request, |read, message| read.batch_get(message))?;
        let found = self.edge.read(Caller::Anonymous, request).await?;
        Ok(Response::new(batch_read(found, &Names::new(&self.edge.state()))))
    }

    async fn session(
        &self,
        request: Request<Streaming<v1::SessionRequests>>,
    ) -> Result<Response<SessionReplies>, Status> {
        Ok(Response::new(Session::begin(Arc::clone(&self.edge), request.into_inner())))
    }
}
