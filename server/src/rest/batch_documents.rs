//! What batches take: rows to be written, or keys.
//!
//! Invariant: a document of more rows than any configuration allows is refused while it is read, not kept first; what
//! the configured limits are, the coordinator knows.

use std::fmt;
use std::marker::PhantomData;

use cube_replication::coordinator::Change;
use cube_storage::model::{Hlc, RowKey};
use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::batch::Common;
use super::dto::bad_ttl;
use super::text::Encoding;
use crate::edge::duration::DurationForm;
use crate::edge::{EdgeError, parse_level};

/// `limits.batch_rows` can be set to as many.
const ROWS_MAX: usize = 1_000_000;

/// What `POST .../batch/put` takes.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RowsDocument {
    rows: Bounded<RowEntry>,
    keyspace: Option<String>,
    table: Option<String>,
    cl: Option<String>,
    timestamp: Option<u64>,
    explain: Option<bool>,
}

/// What `POST .../batch/delete` and `POST .../batch/get` take.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KeysDocument {
    keys: Bounded<KeyEntry>,
    keyspace: Option<String>,
    table: Option<String>,
    cl: Option<String>,
    timestamp: Option<u64>,
    explain: Option<bool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RowEntry {
    key: String,
    sort: Option<String>,
    value: String,
    encoding: Option<Encoding>,
    ttl: Option<DurationForm>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyEntry {
    key: String,
    sort: Option<String>,
    encoding: Option<Encoding>,
}

impl RowsDocument {
    /// The rows, and what is said of all of them.
    pub(super) fn read(self) -> Result<(Common, Vec<(RowKey, Change)>), EdgeError> {
        let Self { rows, keyspace, table, cl, timestamp, explain } = self;
        let common = common(keyspace, table, cl.as_deref(), timestamp, explain)?;
        let rows = rows.0.into_iter().map(RowEntry::read).collect::<Result<_, _>>()?;
        Ok((common, rows))
    }
}

impl KeysDocument {
    /// The keys, and what is said of all of them.
    pub(super) fn read(self) -> Result<(Common, Vec<RowKey>), EdgeError> {
        let Self { keys, keyspace, table, cl, timestamp, explain } = self;
        let common = common(keyspace, table, cl.as_deref(), timestamp, explain)?;
        let keys = keys.0.into_iter().map(|KeyEntry { key, sort, encoding }| row_key(key, sort, encoding));
        Ok((common, keys.collect::<Result<_, _>>()?))
    }
}

impl RowEntry {
    fn read(self) -> Result<(RowKey, Change), EdgeError> {
        let Self { key, sort, value, encoding, ttl } = self;
        let value = encoding.unwrap_or(Encoding::Utf8).read("value", value)?;
        let ttl_ms = ttl.map(|ttl| ttl.ms().map_err(|reason| bad_ttl(&reason))).transpose()?;
        Ok((row_key(key, sort, encoding)?, Change::Put { value, ttl_ms }))
    }
}

fn common(
    keyspace: Option<String>,
    table: Option<String>,
    cl: Option<&str>,
    timestamp: Option<u64>,
    explain: Option<bool>,
) -> Result<Common, EdgeError> {
    let level = cl.map(parse_level).transpose()?;
    let timestamp = timestamp.map(|millis| Hlc::new(millis, 0));
    Ok(Common { keyspace, table, level, timestamp, explain: explain.unwrap_or(false) })
}

fn row_key(key: String, sort: Option<String>, encoding: Option<Encoding>) -> Result<RowKey, EdgeError> {
    let named = encoding.unwrap_or(Encoding::Utf8);
    Ok(RowKey::with_sort(named.read("key", key)?, named.read("sort", sort.unwrap_or_default())?))
}

/// No more of them than [`ROWS_MAX`].
struct Bounded<T>(Vec<T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Bounded<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_seq(Rows(PhantomData)).map(Self)
    }
}

struct Rows<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for Rows<T> {
    type Value = Vec<T>;

    fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("a list of rows")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<T>, A::Error> {
        let mut rows = Vec::new();
        while let Some(row) = list.next_element()? {
            if rows.len() == ROWS_MAX {
                return Err(A::Error::custom(format!("no batch is of more than {ROWS_MAX} rows: split it")));
            }
            rows.push(row);
        }
        Ok(rows)
    }
}
