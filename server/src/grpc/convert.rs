//! Messages into requests, answers into messages. Wire types go no further than this.

use std::ops::Bound;
use std::time::Duration;

use bytes::Bytes;
use cube_proto::v1;
use cube_replication::consistency::Level;
use cube_replication::coordinator::{Change, RangePage, RangeRequest, ReadRow, TableName, Terms, Written};
use cube_replication::handoff::Kept;
use cube_replication::trace::TraceContext;
use cube_storage::model::{Hlc, NodeId, RowKey, Version};
use cube_storage::scan::Row;
use tonic::metadata::MetadataMap;

use super::explained::explained;
use crate::edge::{Code, Details, Edge, EdgeError, Names, page, refuse, table_name, terms};
use crate::traces::{TRACEPARENT, parent_of};

/// Rows of a page that does not say.
const RANGE_ROWS: usize = 1_000;
/// The answer is to be on its way back before the client's own deadline, or it learns nothing of how far it came: a tenth
/// of the time, and no more than this.
const ANSWER_TIME_MAX: Duration = Duration::from_millis(50);

/// The fields that all requests share.
pub(super) struct Common {
    pub(super) table: TableName,
    pub(super) terms: Terms,
}

/// What a request says of its time.
pub(super) struct Time<'a> {
    /// Its field; 0 says nothing.
    pub(super) timeout_ms: u32,
    /// The call's own deadline is among these.
    pub(super) metadata: &'a MetadataMap,
    /// The configured time.
    pub(super) usual_ms: u32,
}

impl Time<'_> {
    /// The shorter one of what is asked for and what the call has left.
    fn ms(&self) -> u32 {
        let asked_ms = if self.timeout_ms == 0 { self.usual_ms } else { self.timeout_ms };
        asked_ms.min(call_time_ms(self.metadata).unwrap_or(u32::MAX))
    }

    /// The span of the client, if its call is traced.
    fn parent(&self) -> Option<TraceContext> {
        parent_of(self.metadata.get(TRACEPARENT)?.to_str().ok()?)
    }
}

impl Common {
    pub(super) fn read(
        keyspace: String,
        table: String,
        level: i32,
        time: &Time<'_>,
        explain: bool,
    ) -> Result<Self, EdgeError> {
        let said = |name: String| (!name.is_empty()).then_some(name);
        let table = table_name(said(keyspace), said(table));
        let terms = terms(read_level(level)?, Some(time.ms()), explain);
        Ok(Self { table, terms: Terms { trace: time.parent(), ..terms } })
    }
}

/// The time that the client gives the whole call, less what the answer needs.
fn call_time_ms(metadata: &MetadataMap) -> Option<u32> {
    let written = metadata.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = written.split_at_checked(written.len().checked_sub(1)?)?;
    let count: u64 = digits.parse().ok()?;
    let time = match unit {
        "H" => Duration::from_secs(count.saturating_mul(3_600)),
        "M" => Duration::from_secs(count.saturating_mul(60)),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    };
    let left = time.saturating_sub(ANSWER_TIME_MAX.min(time / 10));
    Some(u32::try_from(left.as_millis()).unwrap_or(u32::MAX).max(1))
}

fn read_level(level: i32) -> Result<Option<Level>, EdgeError> {
    let unknown = || {
        let allowed: Vec<&'static str> = Level::EVERY.into_iter().map(Level::name).collect();
        let message = format!("unknown consistency level {level} (the levels are {})", allowed.join(", "));
        EdgeError::with(
            Code::UnknownLevel,
            message,
            Details { given: Some(level.to_string()), allowed, ..Details::default() },
        )
    };
    Ok(match v1::Level::try_from(level).map_err(|_| unknown())? {
        v1::Level::Unspecified => None,
        v1::Level::Any => Some(Level::Any),
        v1::Level::One => Some(Level::One),
        v1::Level::Two => Some(Level::Two),
        v1::Level::Three => Some(Level::Three),
        v1::Level::Quorum => Some(Level::Quorum),
        v1::Level::All => Some(Level::All),
        v1::Level::LocalOne => Some(Level::LocalOne),
        v1::Level::LocalQuorum => Some(Level::LocalQuorum),
        v1::Level::EachQuorum => Some(Level::EachQuorum),
    })
}

pub(super) fn write_level(level: Level) -> v1::Level {
    match level {
        Level::Any => v1::Level::Any,
        Level::One => v1::Level::One,
        Level::Two => v1::Level::Two,
        Level::Three => v1::Level::Three,
        Level::Quorum => v1::Level::Quorum,
        Level::All => v1::Level::All,
        Level::LocalOne => v1::Level::LocalOne,
        Level::LocalQuorum => v1::Level::LocalQuorum,
        Level::EachQuorum => v1::Level::EachQuorum,
    }
}

/// A key that is not there is an empty one, which the coordinator refuses.
pub(super) fn row_key(key: Option<v1::RowKey>) -> RowKey {
    let v1::RowKey { partition, sort } = key.unwrap_or_default();
    RowKey { partition, sort }
}

pub(super) fn put(value: Bytes, ttl_ms: Option<u64>) -> Change {
    // What does not fit is beyond every limit, and is refused as that.
    Change::Put { value, ttl_ms: ttl_ms.map(|ttl_ms| i64::try_from(ttl_ms).unwrap_or(i64::MAX)) }
}

pub(super) fn timestamp(millis: Option<u64>) -> Option<Hlc> {
    millis.map(|millis| Hlc::new(millis, 0))
}

pub(super) fn seen(version: Option<v1::Version>) -> Result<Option<Version>, EdgeError> {
    let Some(v1::Version { hlc, node }) = version else { return Ok(None) };
    let node = u16::try_from(node)
        .map_err(|_| EdgeError::invalid(format!("seen names node {node}: nodes are numbered up to {}", u16::MAX)))?;
    Ok(Some(Version::new(Hlc(hlc), NodeId(node))))
}

/// A range read of the coordinator, and the same as it was before it was narrowed to its page.
pub(super) fn range(
    message: v1::RangeRequest,
    metadata: &MetadataMap,
    edge: &Edge,
) -> Result<(RangeRequest, RangeRequest), EdgeError> {
    let v1::RangeRequest { keyspace, table, partition, level, timeout_ms, explain, from, to, backward, limit, page } =
        message;
    let time = Time { timeout_ms, metadata, usual_ms: edge.settings().read_timeout_ms };
    let Common { table, terms } = Common::read(keyspace, table, level, &time, explain)?;
    let rows_max = match usize::try_from(limit).unwrap_or(usize::MAX) {
        0 => RANGE_ROWS.min(edge.limits().page_rows_max),
        rows => rows,
    };
    let whole = RangeRequest { table, partition, from: bound(from), to: bound(to), backward, rows_max, terms };
    let mut narrowed = whole.clone();
    page::resume(&mut narrowed, &page).map_err(refuse)?;
    Ok((whole, narrowed))
}

fn bound(bound: Option<v1::RangeBound>) -> Bound<Bytes> {
    match bound {
        None => Bound::Unbounded,
        Some(v1::RangeBound { sort, exclusive: false }) => Bound::Included(sort),
        Some(v1::RangeBound { sort, exclusive: true }) => Bound::Excluded(sort),
    }
}

pub(super) fn version(Version { hlc, node }: Version) -> v1::Version {
    v1::Version { hlc: hlc.0, node: u32::from(node.0) }
}

pub(super) fn written(written: Written, level: Level, names: &Names<'_>) -> v1::WriteReply {
    let noted = |how: Kept| {
        let nodes = written.noted_for.iter().filter(|(_, kept)| *kept == how);
        nodes.map(|(node, _)| names.of(*node)).collect()
    };
    v1::WriteReply {
        version: Some(version(written.version)),
        level: write_level(level).into(),
        acknowledged_by: names.all(&written.acknowledged_by),
        hinted_for: noted(Kept::Hint),
        marked_for: noted(Kept::Mark),
        superseded_by: written.superseded_by.map(version),
        explained: explained(written.account.as_ref(), names),
    }
}

pub(super) fn read_row(row: ReadRow, names: &Names<'_>) -> v1::GetReply {
    let value = row.value().cloned();
    let expiry = row.record.as_ref().and_then(|record| record.expiry()).filter(|_| value.is_some());
    v1::GetReply {
        found: value.is_some(),
        version: row.record.as_ref().map(|record| version(record.version)),
        expires_at_ms: expiry.map(|expiry| expiry.0),
        as_of: row.as_of.0,
        value: value.unwrap_or_default(),
        explained: explained(row.account.as_ref(), names),
    }
}

/// A row of a page, unless it is deleted or has ended.
pub(super) fn live_row(row: Row, as_of: Hlc) -> Option<v1::RangeRow> {
    let value = row.record.live_value(as_of)?.clone();
    Some(v1::RangeRow {
        key: Some(v1::RowKey { partition: row.key.partition, sort: row.key.sort }),
        value,
        version: Some(version(row.record.version)),
        expires_at_ms: row.record.expiry().map(|expiry| expiry.0),
    })
}

/// A page: deletions and ended values are left out, and the next page begins behind them.
pub(super) fn range_page(whole: &RangeRequest, found: RangePage, names: &Names<'_>) -> v1::RangeReply {
    let last = found.rows.last().filter(|_| found.more);
    let next_page = last.map(|row| page::token(whole, &row.key.sort)).unwrap_or_default();
    let as_of = found.as_of;
    let rows = found.rows.into_iter().filter_map(|row| live_row(row, as_of)).collect();
    let explained = explained(found.account.as_ref(), names);
    v1::RangeReply { rows, next_page, as_of: as_of.0, explained }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_level_has_its_number_on_the_wire() {
        for level in Level::EVERY {
            assert_eq!(read_level(write_level(level).into()), Ok(Some(level)));
        }
        assert_eq!(read_level(0), Ok(None));
        let error = read_level(77).unwrap_err();
        assert_eq!(error.code, Code::UnknownLevel);
        assert!(error.message.starts_with("unknown consistency level 77 (the levels are ANY, ONE"), "{error}");
    }

    #[test]
    fn the_deadline_of_a_call_leaves_time_for_the_answer() {
        for (written, ms) in [
            ("2S", Some(1_950)),
            ("100m", Some(90)),
            ("1H", Some(3_599_950)),
            ("500u", Some(1)),
            ("99999999H", Some(u32::MAX)),
            ("soon", None),
            ("", None),
        ] {
            let mut metadata = MetadataMap::new();
            metadata.insert("grpc-timeout", written.parse().unwrap());
            assert_eq!(call_time_ms(&metadata), ms, "{written}");
        }
        assert_eq!(call_time_ms(&MetadataMap::new()), None);
    }
}
