//! The seven calls of the wire, so that routing, retries and deadlines are written once for all of them.
//!
//! An operation knows its message, its unary call, where its key stands, and whether it may be sent twice.

use std::time::Duration;

use bytes::Bytes;
use cube_proto::v1;
use cube_proto::v1::kv_client::KvClient;
use cube_proto::v1::session_reply::Outcome;
use cube_proto::v1::session_request::Call;
use tonic::transport::Channel;
use tonic::{Response, Status};

use crate::error::Asked;
use crate::model::Key;
use crate::retry::{Failure, Kind};

pub(crate) trait Operation: Clone + Send + Sync + 'static {
    type Reply: Send + 'static;
    const NAME: &'static str;

    fn kind(&self) -> Kind;
    /// What places it, if all of it stands in one place.
    fn partition(&self) -> Option<&Bytes>;
    fn keyspace(&self) -> &str;
    fn set_timeout_ms(&mut self, timeout_ms: u32);
    /// Fixes the timestamp, if it is a write that has none.
    fn stamp(&mut self, timestamp_ms: u64);
    /// The greatest version that the reply shows, in milliseconds.
    fn shown_ms(reply: &Self::Reply) -> u64;
    fn first_key(&self) -> Key;
    fn send(self, kv: KvClient<Channel>) -> impl Future<Output = Result<Response<Self::Reply>, Status>> + Send;

    /// As a request of a session.
    fn call(self) -> Call;
    /// As the answer of one.
    fn reply(outcome: Outcome) -> Result<Self::Reply, Failure>;

    fn asked(&self) -> Asked {
        Asked { operation: Self::NAME, key: self.first_key().to_string(), changes: self.kind() != Kind::Read }
    }
}

pub(crate) fn millis(time: Duration) -> u32 {
    // Zero would stand for the node's default.
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX).max(1)
}

fn written_ms(reply: &v1::WriteReply) -> u64 {
    let ms = |version: &Option<v1::Version>| version.as_ref().map_or(0, |version| version.hlc >> 16);
    ms(&reply.version).max(ms(&reply.superseded_by))
}

fn read_ms(reply: &v1::GetReply) -> u64 {
    reply.version.as_ref().map_or(0, |version| version.hlc >> 16)
}

fn batch_written_ms(reply: &v1::BatchWriteReply) -> u64 {
    let results = reply.results.iter().filter_map(|result| match &result.outcome {
        Some(v1::partition_result::Outcome::Written(written)) => Some(written_ms(written)),
        _ => None,
    });
    results.max().unwrap_or_default()
}

fn batch_read_ms(reply: &v1::BatchGetReply) -> u64 {
    let rows = reply.rows.iter().filter_map(|row| match &row.outcome {
        Some(v1::row_result::Outcome::Row(row)) => Some(read_ms(row)),
        _ => None,
    });
    rows.max().unwrap_or_default()
}

fn range_ms(reply: &v1::RangeReply) -> u64 {
    reply.rows.iter().filter_map(|row| row.version.as_ref()).map(|version| version.hlc >> 16).max().unwrap_or_default()
}

/// The partition key that all of these share.
fn shared<'a>(mut keys: impl Iterator<Item = Option<&'a Bytes>>) -> Option<&'a Bytes> {
    let first = keys.next().flatten()?;
    keys.all(|key| key == Some(first)).then_some(first)
}

macro_rules! operation {
    ($request:ident, $reply:ident, $call:ident, $name:literal, $shown:expr, $partition:expr, $first:expr,
     $kind:expr, $stamp:expr, $variant:ident, $outcome:ident) => {
        impl Operation for v1::$request {
            type Reply = v1::$reply;
            const NAME: &'static str = $name;

            fn kind(&self) -> Kind {
                $kind(self)
            }

            fn partition(&self) -> Option<&Bytes> {
                $partition(self)
            }

            fn keyspace(&self) -> &str {
                &self.keyspace
            }

            fn set_timeout_ms(&mut self, timeout_ms: u32) {
                self.timeout_ms = timeout_ms;
            }

            fn stamp(&mut self, timestamp_ms: u64) {
                $stamp(self, timestamp_ms);
            }

            fn shown_ms(reply: &Self::Reply) -> u64 {
                $shown(reply)
            }

            fn first_key(&self) -> Key {
                Key::of($first(self))
            }

            async fn send(self, mut kv: KvClient<Channel>) -> Result<Response<Self::Reply>, Status> {
                kv.$call(self).await
            }

            fn call(self) -> Call {
                Call::$variant(self)
            }

            fn reply(outcome: Outcome) -> Result<Self::Reply, Failure> {
                match outcome {
                    Outcome::$outcome(reply) => Ok(reply),
                    _ => Err(Failure::Misunderstood("the answer of another kind of request".to_owned())),
                }
            }
        }
    };
}

macro_rules! write {
    ($request:ident, $reply:ident, $call:ident, $name:literal, $shown:expr, $partition:expr, $first:expr,
     $variant:ident, $outcome:ident) => {
        operation!(
            $request,
            $reply,
            $call,
            $name,
            $shown,
            $partition,
            $first,
            |write: &v1::$request| if write.timestamp_ms.is_some() { Kind::Repeatable } else { Kind::Write },
            |write: &mut v1::$request, ms| {
                write.timestamp_ms.get_or_insert(ms);
            },
            $variant,
            $outcome
        );
    };
}

macro_rules! read {
    ($request:ident, $reply:ident, $call:ident, $name:literal, $shown:expr, $partition:expr, $first:expr,
     $variant:ident, $outcome:ident) => {
        operation!(
            $request,
            $reply,
            $call,
            $name,
            $shown,
            $partition,
            $first,
            |_: &v1::$request| Kind::Read,
            |_: &mut v1::$request, _| (),
            $variant,
            $outcome
        );
    };
}

macro_rules! of_one_row {
    ($kind:ident, $request:ident, $reply:ident, $call:ident, $name:literal, $shown:expr,
     $variant:ident, $outcome:ident) => {
        fn $call(request: &v1::$request) -> Option<&Bytes> {
            request.key.as_ref().map(|key| &key.partition)
        }
        $kind!(
            $request,
            $reply,
            $call,
            $name,
            $shown,
            $call,
            |request: &v1::$request| request.key.clone(),
            $variant,
            $outcome
        );
    };
}

of_one_row!(write, PutRequest, WriteReply, put, "PUT", written_ms, Put, Written);
of_one_row!(write, DeleteRequest, WriteReply, delete, "DELETE", written_ms, Delete, Written);
of_one_row!(read, GetRequest, GetReply, get, "GET", read_ms, Get, Row);

fn range_partition(request: &v1::RangeRequest) -> Option<&Bytes> {
    Some(&request.partition)
}

fn put_partition(request: &v1::BatchPutRequest) -> Option<&Bytes> {
    shared(request.rows.iter().map(|row| row.key.as_ref().map(|key| &key.partition)))
}

fn delete_partition(request: &v1::BatchDeleteRequest) -> Option<&Bytes> {
    shared(request.keys.iter().map(|key| Some(&key.partition)))
}

fn get_partition(request: &v1::BatchGetRequest) -> Option<&Bytes> {
    shared(request.keys.iter().map(|key| Some(&key.partition)))
}

read!(
    RangeRequest,
    RangeReply,
    range,
    "RANGE",
    range_ms,
    range_partition,
    |request: &v1::RangeRequest| { Some(v1::RowKey { partition: request.partition.clone(), sort: Bytes::new() }) },
    Range,
    Page
);
write!(
    BatchPutRequest,
    BatchWriteReply,
    batch_put,
    "BATCH PUT",
    batch_written_ms,
    put_partition,
    |request: &v1::BatchPutRequest| request.rows.first().and_then(|row| row.key.clone()),
    BatchPut,
    BatchWritten
);
write!(
    BatchDeleteRequest,
    BatchWriteReply,
    batch_delete,
    "BATCH DELETE",
    batch_written_ms,
    delete_partition,
    |request: &v1::BatchDeleteRequest| request.keys.first().cloned(),
    BatchDelete,
    BatchWritten
);
read!(
    BatchGetRequest,
    BatchGetReply,
    batch_get,
    "BATCH GET",
    batch_read_ms,
    get_partition,
    |request: &v1::BatchGetRequest| request.keys.first().cloned(),
    BatchGet,
    Rows
);
