//! What can be asked of a table: each request is built, adjusted and sent.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cube_proto::v1;

use crate::call::Via;
use crate::client::{Client, Inner};
use crate::error::{Error, Refusal};
use crate::model::{Found, Key, Level, Version, Written};
use crate::operation::Operation;
use crate::range::Range;
use crate::scan::Scan;

/// A table of a keyspace. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Table {
    inner: Arc<Inner>,
    // Keeps the map fresh as long as a table is held.
    client: Client,
    via: Via,
    keyspace: String,
    table: String,
}

impl Table {
    pub(crate) fn new(inner: Arc<Inner>, client: Client, via: Via, keyspace: String, table: String) -> Self {
        Self { inner, client, via, keyspace, table }
    }

    /// The client that this is a table of.
    pub fn client(&self) -> &Client {
        &self.client
    }

    pub(crate) async fn run<O: Operation>(&self, op: O, timeout: Option<Duration>) -> Result<O::Reply, Error> {
        self.inner.run(&self.via, op, timeout).await
    }

    fn stamped<O: Operation>(&self, mut op: O, repeatable: bool) -> O {
        if repeatable {
            op.stamp(self.inner.clock.stamp_ms());
        }
        op
    }

    /// Gives a row a value.
    pub fn put(&self, key: impl Into<Key>, value: impl Into<Bytes>) -> Put<'_> {
        let request = v1::PutRequest {
            keyspace: self.keyspace.clone(),
            table: self.table.clone(),
            key: Some(key.into().wire()),
            value: value.into(),
            ..Default::default()
        };
        Put { table: self, request, timeout: None, repeatable: false }
    }

    /// Deletes a row. Deleting what does not exist is no error.
    pub fn delete(&self, key: impl Into<Key>) -> Delete<'_> {
        let request = v1::DeleteRequest {
            keyspace: self.keyspace.clone(),
            table: self.table.clone(),
            key: Some(key.into().wire()),
            ..Default::default()
        };
        Delete { table: self, request, timeout: None, repeatable: false }
    }

    /// Reads a row. A row that does not exist is no error: it has no value.
    pub fn get(&self, key: impl Into<Key>) -> Get<'_> {
        let request = v1::GetRequest {
            keyspace: self.keyspace.clone(),
            table: self.table.clone(),
            key: Some(key.into().wire()),
            ..Default::default()
        };
        Get { table: self, request, timeout: None }
    }

    /// Reads the rows of a partition key in the order of their sort keys, a page at a time.
    pub fn range(&self, partition: impl Into<Key>) -> Range {
        let request = v1::RangeRequest {
            keyspace: self.keyspace.clone(),
            table: self.table.clone(),
            partition: partition.into().partition,
            ..Default::default()
        };
        Range::new(self.clone(), request)
    }

    /// Reads the rows whose partition keys begin so, in the order of their keys, a page at a time. Nothing is all rows.
    pub fn scan(&self, prefix: impl Into<Bytes>) -> Scan {
        let request = v1::ScanRequest {
            keyspace: self.keyspace.clone(),
            table: self.table.clone(),
            prefix: prefix.into(),
            ..Default::default()
        };
        Scan::new(self.clone(), request)
    }

    /// Gives many rows a value. Rows that share a partition key are written together or not at all on each replica;
    /// others are only sent together, and succeed or fail each for itself. Of a row that is named twice the last one counts.
    pub fn put_all<K: Into<Key>, V: Into<Bytes>>(&self, rows: impl IntoIterator<Item = (K, V)>) -> PutAll<'_> {
        let row = |(key, value): (K, V)| {
            let key = Some(Into::<Key>::into(key).wire());
            v1::PutRow { key, value: value.into(), ttl_ms: None }
        };
        let request = v1::BatchPutRequest {
            keyspace: self.keyspace.clone(),
            table: self.table.clone(),
            rows: rows.into_iter().map(row).collect(),
            ..Default::default()
        };
        PutAll { table: self, request, timeout: None, repeatable: false }
    }

    /// Deletes many rows, with the promises of [`Table::put_all`].
    pub fn delete_all<K: Into<Key>>(&self, keys: impl IntoIterator<Item = K>) -> DeleteAll<'_> {
        let request = v1::BatchDeleteRequest {
            keyspace: self.keyspace.clone(),
            table: self.table.clone(),
            keys: keys.into_iter().map(|key| key.into().wire()).collect(),
            ..Default::default()
        };
        DeleteAll { table: self, request, timeout: None, repeatable: false }
    }

    /// Reads many rows, each for itself. The answer has one outcome for each key, in their order.
    pub fn get_all<K: Into<Key>>(&self, keys: impl IntoIterator<Item = K>) -> GetAll<'_> {
        let request = v1::BatchGetRequest {
            keyspace: self.keyspace.clone(),
            table: self.table.clone(),
            keys: keys.into_iter().map(|key| key.into().wire()).collect(),
            ..Default::default()
        };
        GetAll { table: self, request, timeout: None }
    }
}

macro_rules! terms {
    ($($request:ident),*) => {
        $(impl $request<'_> {
            /// How many replicas must have answered; QUORUM if this is not said.
            pub fn level(mut self, level: Level) -> Self {
                self.request.set_level(level.wire());
                self
            }

            /// How long the request may take in all, retries included.
            pub fn timeout(mut self, timeout: Duration) -> Self {
                self.timeout = Some(timeout);
                self
            }
        })*
    };
}

macro_rules! writes {
    ($($request:ident),*) => {
        $(impl $request<'_> {
            /// Lets the client send the write again when its outcome is unknown.
            ///
            /// The client fixes the timestamp before the first try and all tries carry it. They are one version, through
            /// whichever nodes they go, so none of them wins over what came in between. The timestamp comes from this machine's clock: writes of machines whose clocks differ are
            /// ordered by their clocks. `superseded_by` tells when a newer version stood there already.
            pub fn repeatable(mut self) -> Self {
                self.repeatable = true;
                self
            }

            /// The timestamp of the write, milliseconds since 1970, instead of the node's clock. It is repeatable then.
            pub fn at(mut self, timestamp_ms: u64) -> Self {
                self.request.timestamp_ms = Some(timestamp_ms);
                self
            }

            /// The last version that was seen: the write succeeds it.
            pub fn seen(mut self, version: Version) -> Self {
                self.request.seen = Some(version.wire());
                self
            }
        })*
    };
}

/// A PUT that is not sent yet.
#[derive(Debug)]
#[must_use = "nothing is written before it is sent"]
pub struct Put<'a> {
    table: &'a Table,
    request: v1::PutRequest,
    timeout: Option<Duration>,
    repeatable: bool,
}

impl Put<'_> {
    /// After this time the row ends by itself. It counts from when a node takes the write, whatever the write's timestamp;
    /// when a repeatable write needs more than one try, from the last one that arrives.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.request.ttl_ms = Some(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX));
        self
    }

    /// Writes it.
    pub async fn send(self) -> Result<Written, Error> {
        let request = self.table.stamped(self.request, self.repeatable);
        self.table.run(request, self.timeout).await.map(Written::of)
    }
}

/// A DELETE that is not sent yet.
#[derive(Debug)]
#[must_use = "nothing is deleted before it is sent"]
pub struct Delete<'a> {
    table: &'a Table,
    request: v1::DeleteRequest,
    timeout: Option<Duration>,
    repeatable: bool,
}

impl Delete<'_> {
    /// Deletes it.
    pub async fn send(self) -> Result<Written, Error> {
        let request = self.table.stamped(self.request, self.repeatable);
        self.table.run(request, self.timeout).await.map(Written::of)
    }
}

/// A GET that is not sent yet.
#[derive(Debug)]
#[must_use = "nothing is read before it is sent"]
pub struct Get<'a> {
    table: &'a Table,
    request: v1::GetRequest,
    timeout: Option<Duration>,
}

impl Get<'_> {
    /// Reads it.
    pub async fn send(self) -> Result<Found, Error> {
        self.table.run(self.request, self.timeout).await.map(Found::of)
    }
}

/// A batch of PUTs that is not sent yet.
#[derive(Debug)]
#[must_use = "nothing is written before it is sent"]
pub struct PutAll<'a> {
    table: &'a Table,
    request: v1::BatchPutRequest,
    timeout: Option<Duration>,
    repeatable: bool,
}

impl PutAll<'_> {
    /// After this time the rows end by themselves, as with [`Put::ttl`].
    pub fn ttl(mut self, ttl: Duration) -> Self {
        let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        self.request.rows.iter_mut().for_each(|row| row.ttl_ms = Some(ttl_ms));
        self
    }

    /// Writes them. The answer has one outcome for each partition key, in the order in which they first appear.
    pub async fn send(self) -> Result<Vec<(Bytes, Result<Written, Box<Refusal>>)>, Error> {
        let request = self.table.stamped(self.request, self.repeatable);
        self.table.run(request, self.timeout).await.map(written_parts)
    }
}

/// A batch of DELETEs that is not sent yet.
#[derive(Debug)]
#[must_use = "nothing is deleted before it is sent"]
pub struct DeleteAll<'a> {
    table: &'a Table,
    request: v1::BatchDeleteRequest,
    timeout: Option<Duration>,
    repeatable: bool,
}

impl DeleteAll<'_> {
    /// Deletes them. The answer has one outcome for each partition key, in the order in which they first appear.
    pub async fn send(self) -> Result<Vec<(Bytes, Result<Written, Box<Refusal>>)>, Error> {
        let request = self.table.stamped(self.request, self.repeatable);
        self.table.run(request, self.timeout).await.map(written_parts)
    }
}

/// A batch of GETs that is not sent yet.
#[derive(Debug)]
#[must_use = "nothing is read before it is sent"]
pub struct GetAll<'a> {
    table: &'a Table,
    request: v1::BatchGetRequest,
    timeout: Option<Duration>,
}

impl GetAll<'_> {
    /// Reads them.
    pub async fn send(self) -> Result<Vec<Result<Found, Box<Refusal>>>, Error> {
        let of = |row: v1::RowResult| match row.outcome {
            Some(v1::row_result::Outcome::Row(row)) => Ok(Found::of(row)),
            Some(v1::row_result::Outcome::Error(error)) => Err(Box::new(Refusal::of(error))),
            None => Err(Box::new(Refusal::of(v1::ErrorDetail::default()))),
        };
        self.table.run(self.request, self.timeout).await.map(|reply| reply.rows.into_iter().map(of).collect())
    }
}

macro_rules! explains {
    ($($request:ident),*) => {
        $(impl $request<'_> {
            /// Has the answer hold an account of what was done, in its field `explained`.
            pub fn explain(mut self) -> Self {
                self.request.explain = true;
                self
            }
        })*
    };
}

explains!(Put, Delete, Get);
terms!(Put, Delete, Get, PutAll, DeleteAll, GetAll);
writes!(Put, Delete, PutAll, DeleteAll);

fn written_parts(reply: v1::BatchWriteReply) -> Vec<(Bytes, Result<Written, Box<Refusal>>)> {
    let of = |part: v1::PartitionResult| {
        let outcome = match part.outcome {
            Some(v1::partition_result::Outcome::Written(written)) => Ok(Written::of(written)),
            Some(v1::partition_result::Outcome::Error(error)) => Err(Box::new(Refusal::of(error))),
            // Without a word about it, it may have taken effect.
            None => Err(Box::new(Refusal::of(v1::ErrorDetail { may_take_effect: true, ..Default::default() }))),
        };
        (part.partition, outcome)
    };
    reply.results.into_iter().map(of).collect()
}
