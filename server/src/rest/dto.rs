//! The JSON documents of rows. Those of keyspaces, tables, nodes and the topology stand in `admin/`, because what is
//! shown there is what the rest of the node tells.

use cube_replication::consistency::Level;
use cube_replication::coordinator::{Change, ReadRow, Written};
use cube_replication::handoff::Kept;
use cube_storage::model::{Hlc, RowKey, Version};
use serde::{Deserialize, Serialize};

use super::explained::Explained;
use super::text::Encoding;
use crate::edge::duration::DurationForm;
use crate::edge::{Code, Details, EdgeError, Names, parse_level};

/// What `POST /api/v1/put` takes.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PutDocument {
    pub(crate) key: String,
    pub(crate) sort: Option<String>,
    pub(crate) keyspace: Option<String>,
    pub(crate) table: Option<String>,
    // serde cannot refuse unknown fields of a flattened struct, so the fields of `RowDocument` stand here again.
    value: String,
    encoding: Option<Encoding>,
    cl: Option<String>,
    ttl: Option<DurationForm>,
    timestamp: Option<u64>,
    explain: Option<bool>,
}

/// What `PUT .../rows/{key}` takes.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RowDocument {
    value: String,
    encoding: Option<Encoding>,
    cl: Option<String>,
    ttl: Option<DurationForm>,
    timestamp: Option<u64>,
    explain: Option<bool>,
}

/// What is to be written, read out of either document.
pub(crate) struct RowWrite {
    pub(crate) change: Change,
    pub(crate) level: Option<Level>,
    pub(crate) timestamp: Option<Hlc>,
    pub(crate) explain: bool,
}

impl PutDocument {
    /// The row, and what is to be written to it.
    pub(crate) fn read(self) -> Result<(RowKey, RowWrite), EdgeError> {
        let Self { key, sort, value, encoding, cl, ttl, timestamp, explain, .. } = self;
        let named = encoding.unwrap_or(Encoding::Utf8);
        let key = RowKey::with_sort(named.read("key", key)?, named.read("sort", sort.unwrap_or_default())?);
        Ok((key, RowDocument { value, encoding, cl, ttl, timestamp, explain }.read()?))
    }
}

impl RowDocument {
    /// What is to be written.
    pub(crate) fn read(self) -> Result<RowWrite, EdgeError> {
        let value = self.encoding.unwrap_or(Encoding::Utf8).read("value", self.value)?;
        let ttl_ms = self.ttl.map(|ttl| ttl.ms().map_err(|reason| bad_ttl(&reason))).transpose()?;
        Ok(RowWrite {
            change: Change::Put { value, ttl_ms },
            level: self.cl.as_deref().map(parse_level).transpose()?,
            timestamp: self.timestamp.map(|millis| Hlc::new(millis, 0)),
            explain: self.explain.unwrap_or(false),
        })
    }
}

pub(crate) fn bad_ttl(reason: &str) -> EdgeError {
    EdgeError::with(Code::InvalidTtl, format!("ttl is {reason}"), Details::default())
}

/// What a write is answered.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct WriteAnswer {
    success: bool,
    message: &'static str,
    key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    sort: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    encoding: Option<Encoding>,
    level: &'static str,
    #[serde(flatten)]
    written: RowWritten,
    #[serde(skip_serializing_if = "Option::is_none")]
    explained: Option<Explained>,
}

/// What came of a written row.
#[derive(Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RowWritten {
    version: VersionDocument,
    acknowledged_by: Vec<String>,
    hinted_for: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    marked_for: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    superseded_by: Option<VersionDocument>,
}

/// What a read is answered.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ReadAnswer {
    success: bool,
    found: bool,
    key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    sort: Option<String>,
    value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    encoding: Option<Encoding>,
    level: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<VersionDocument>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    explained: Option<Explained>,
}

/// What was found of a row.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RowRead {
    found: bool,
    value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<VersionDocument>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<u64>,
}

/// A version: the greater timestamp, then the greater counter, wins.
#[derive(Clone, Serialize)]
pub(crate) struct VersionDocument {
    timestamp: u64,
    counter: u16,
    node: String,
}

impl VersionDocument {
    pub(crate) fn of(version: Version, names: &Names<'_>) -> Self {
        Self { timestamp: version.hlc.millis(), counter: version.hlc.counter(), node: names.of(version.node) }
    }
}

impl WriteAnswer {
    pub(crate) fn of(message: &'static str, key: &RowKey, level: Level, written: &Written, names: &Names<'_>) -> Self {
        let encoding = Encoding::fitting([key.partition.as_ref(), key.sort.as_ref()]);
        Self {
            success: true,
            message,
            key: encoding.write(&key.partition),
            sort: sort_of(key, encoding),
            encoding: encoding.said(),
            level: level.name(),
            written: RowWritten::of(written, names),
            explained: written.account.as_ref().map(|account| Explained::of(account, names)),
        }
    }
}

impl RowWritten {
    pub(crate) fn of(written: &Written, names: &Names<'_>) -> Self {
        let noted = |how: Kept| {
            let nodes = written.noted_for.iter().filter(|(_, kept)| *kept == how);
            nodes.map(|(node, _)| names.of(*node)).collect()
        };
        Self {
            version: VersionDocument::of(written.version, names),
            acknowledged_by: names.all(&written.acknowledged_by),
            hinted_for: noted(Kept::Hint),
            marked_for: noted(Kept::Mark),
            superseded_by: written.superseded_by.map(|newer| VersionDocument::of(newer, names)),
        }
    }
}

impl ReadAnswer {
    pub(crate) fn of(key: &RowKey, level: Level, row: &ReadRow, names: &Names<'_>) -> Self {
        let parts = [key.partition.as_ref(), key.sort.as_ref()];
        let encoding = Encoding::fitting(parts.into_iter().chain(row.value().map(AsRef::as_ref)));
        let RowRead { found, value, version, expires_at } = RowRead::of(row, encoding, names);
        Self {
            success: true,
            found,
            key: encoding.write(&key.partition),
            sort: sort_of(key, encoding),
            value,
            encoding: encoding.said(),
            level: level.name(),
            version,
            expires_at,
            explained: row.account.as_ref().map(|account| Explained::of(account, names)),
        }
    }
}

impl RowRead {
    /// An expiry is told of a value that is still there.
    pub(crate) fn of(row: &ReadRow, encoding: Encoding, names: &Names<'_>) -> Self {
        let value = row.value();
        let expiry = row.record.as_ref().and_then(|record| record.expiry()).filter(|_| value.is_some());
        Self {
            found: value.is_some(),
            value: value.map(|value| encoding.write(value)),
            version: row.record.as_ref().map(|record| VersionDocument::of(record.version, names)),
            expires_at: expiry.map(|expiry| expiry.0),
        }
    }
}

pub(crate) fn sort_of(key: &RowKey, encoding: Encoding) -> Option<String> {
    (!key.sort.is_empty()).then(|| encoding.write(&key.sort))
}
