//! Reading many rows in order, a page at a time: the rows of one partition key by sort key, the rows of a table by key
//! prefix, and the rows of a token range (what replicas exchange).
//!
//! A page is read from one snapshot and bounded by rows and bytes. It ends with a token that pins what was covered, so
//! the next page begins exactly behind it, whatever was written in between. Tombstones and expired rows are rows here:
//! whoever merges replicas needs them. Unreadable rows are left out, named, and reported as damage.

use std::collections::BTreeSet;
use std::ops::{Bound, ControlFlow};

use bytes::{BufMut, Bytes};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::engine::{Direction, EngineError, Reader, Space};
use crate::error::{DamagedRange, StoreError};
use crate::front::{ChunkLimits, read_chunk};
use crate::keyspace::{
    KeyRange, after, data_key, decode_data_key, decode_index_key, encode_index_key, index_prefix_range, sort_range,
    token_range,
};
use crate::model::{Invalid, Limits, Record, RowKey, TableId, Token};
use crate::reach::{Failure, Reach};
use crate::store::Store;

/// Which rows of a table a scan covers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Scope {
    /// The rows of one partition key whose sort keys lie within the bounds, in their order.
    Partition {
        /// The partition key.
        key: Bytes,
        /// Where the sort keys begin.
        from: Bound<Bytes>,
        /// Where they end.
        to: Bound<Bytes>,
    },
    /// The rows whose partition keys begin with this, in the order of partition key and sort key.
    Prefix(Bytes),
    /// The rows of a range of tokens, both inside, in token order.
    Tokens(Token, Token),
}

/// One page of a scan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScanRequest {
    /// The table.
    pub table: TableId,
    /// The rows.
    pub scope: Scope,
    /// In order, or in reverse.
    pub backward: bool,
    /// Rows on the page at the most.
    pub rows_max: usize,
    /// Bytes of keys and records on the page at the most; a first row that is larger comes alone.
    pub bytes_max: usize,
    /// Where the page before ended.
    pub resume: Option<PageToken>,
}

impl ScanRequest {
    /// A first page as large as the limits allow.
    pub fn all(table: TableId, scope: Scope, limits: &Limits) -> Self {
        Self {
            table,
            scope,
            backward: false,
            rows_max: limits.page_rows_max,
            bytes_max: limits.page_bytes_max,
            resume: None,
        }
    }
}

/// Where a page ended: opaque, and good for the same scan only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageToken(pub Bytes);

impl PageToken {
    /// The place in the order of the scanned keys: in order all that is left is at it or behind, in reverse in front of it.
    /// It is the same on every replica.
    pub fn position(&self) -> Bytes {
        self.0.slice(TOKEN_HEAD_LEN.min(self.0.len())..)
    }

    /// The token of a page of `request` that ended at a position.
    pub fn at(request: &ScanRequest, position: &[u8]) -> Self {
        Self([&token_head(request)[..], position].concat().into())
    }
}

const TOKEN_FORMAT: u8 = 1;
const TOKEN_HEAD_LEN: usize = 1 + 8;

/// A row of a page.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// The row.
    pub key: RowKey,
    /// What it holds.
    pub record: Record,
}

/// The rows of a page, and where it ended.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Page {
    /// In the order of the scan.
    pub rows: Vec<Row>,
    /// Where the next page begins; nothing after the last.
    pub next: Option<PageToken>,
    /// What could not be read between the first and the last row.
    pub damaged: Vec<DamagedRange>,
}

/// Index entries whose rows are read together at the most.
const CHUNK_ROWS_MAX: usize = 256;
/// And at first, when nobody knows yet how large the rows are.
const CHUNK_ROWS_FIRST: usize = 16;

impl Store {
    /// Reads one page.
    pub fn scan(&self, request: &ScanRequest) -> Result<Page, StoreError> {
        let options = self.tables.read().get(request.table)?;
        self.limits.check_page(request.rows_max, request.bytes_max)?;
        let range = self.scan_range(request)?;
        let snapshot = self.engine.snapshot();
        let mut builder = PageBuilder::new(request);
        match request.scope {
            Scope::Prefix(_) if !options.prefix_index => {
                return Err(Invalid::NoPrefixIndex { table: request.table }.into());
            }
            Scope::Prefix(_) => self.scan_index(snapshot.as_ref(), range, &mut builder)?,
            Scope::Partition { .. } | Scope::Tokens(..) => self.scan_data(snapshot.as_ref(), range, &mut builder)?,
        }
        let page = builder.finish();
        for damaged in &page.damaged {
            // The page names it; the error is for single reads.
            self.damaged(damaged.clone());
        }
        Ok(page)
    }

    /// The encoded keys that the page may cover.
    fn scan_range(&self, request: &ScanRequest) -> Result<KeyRange, StoreError> {
        let range = match &request.scope {
            Scope::Partition { key, from, to } => {
                self.limits.check_key(&RowKey::of(key.clone()))?;
                sort_range(request.table, key, borrow(from), borrow(to))
            }
            Scope::Prefix(prefix) => {
                if prefix.len() > self.limits.key_bytes_max {
                    return Err(Invalid::KeyTooLong { bytes: prefix.len(), limit: self.limits.key_bytes_max }.into());
                }
                index_prefix_range(request.table, prefix)
            }
            Scope::Tokens(first, last) => token_range(request.table, *first, *last),
        };
        match &request.resume {
            None => Ok(range),
            Some(token) => Ok(resume(request, token, range)?),
        }
    }

    /// Rows straight from the data, past what cannot be read.
    fn scan_data(
        &self,
        reader: &dyn Reader,
        mut range: KeyRange,
        page: &mut PageBuilder<'_>,
    ) -> Result<(), StoreError> {
        let direction = page.direction();
        loop {
            let mut last_read = Vec::new();
            let read = reader.scan(Space::Data, &range, direction, &mut |key, value| {
                last_read.clear();
                last_read.extend_from_slice(key);
                page.take(key, value)
            });
            let detail = match read {
                Ok(()) => return Ok(()),
                Err(EngineError::Corruption { detail }) => detail,
                Err(error) => return Err(error.into()),
            };
            let failure = Failure { space: Space::Data, range: &range, direction, last_read: &last_read };
            match self.pass_damage(reader, &failure, detail, page)? {
                Some(rest) => range = rest,
                None => return Ok(()),
            }
        }
    }

    /// Takes what lies in front of the damage that a read ended in, and names that. What is left to read for the page.
    fn pass_damage(
        &self,
        reader: &dyn Reader,
        failure: &Failure<'_>,
        detail: String,
        page: &mut PageBuilder<'_>,
    ) -> Result<Option<KeyRange>, StoreError> {
        let table = page.request.table;
        let damage_of = |range, detail| match failure.space {
            Space::Keys => DamagedRange::of_index(table, range, detail),
            _ => DamagedRange::of_rows(table, range, detail),
        };
        let Reach { in_front, damaged, rest } = failure.reach(reader)?;
        let mut front = in_front;
        while let Some(range) = front.take() {
            let limits =
                ChunkLimits { pairs: page.request.rows_max.min(CHUNK_ROWS_MAX), bytes: page.request.bytes_max };
            let chunk = match read_chunk(reader, failure.space, range.clone(), failure.direction, limits) {
                Ok(chunk) => chunk,
                Err(EngineError::Corruption { detail }) => {
                    page.damaged(damage_of(range, detail));
                    break;
                }
                Err(error) => return Err(error.into()),
            };
            let flow = match failure.space {
                Space::Keys => {
                    let index_keys: Vec<Vec<u8>> = chunk.pairs.into_iter().map(|(key, _)| key).collect();
                    page.take_indexed(reader, &index_keys)?
                }
                _ => chunk.pairs.iter().try_for_each(|(key, value)| page.take(key, value)),
            };
            if flow.is_break() {
                return Ok(None);
            }
            front = chunk.left;
        }
        if let Some(damaged) = damaged {
            page.damaged(damage_of(damaged, detail));
        }
        Ok(rest.filter(|rest| page.pass_to(rest).is_continue()))
    }

    /// Rows in key order: keys from the index, past what cannot be read of it, and records by multi-get.
    fn scan_index(
        &self,
        reader: &dyn Reader,
        mut range: KeyRange,
        page: &mut PageBuilder<'_>,
    ) -> Result<(), StoreError> {
        let direction = page.direction();
        loop {
            let chunk_rows = page.chunk_rows();
            let mut index_keys: Vec<Vec<u8>> = Vec::with_capacity(chunk_rows);
            let read = reader.scan(Space::Keys, &range, direction, &mut |key, _| {
                index_keys.push(key.to_vec());
                if index_keys.len() < chunk_rows { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            });
            if page.take_indexed(reader, &index_keys)?.is_break() {
                return Ok(());
            }
            let last_read = index_keys.last().map_or(&[][..], Vec::as_slice);
            match read {
                Ok(()) if index_keys.len() < chunk_rows => return Ok(()),
                Ok(()) if direction == Direction::Forward => range.start = after(last_read),
                Ok(()) => range.end = last_read.to_vec(),
                Err(EngineError::Corruption { detail }) => {
                    let failure = Failure { space: Space::Keys, range: &range, direction, last_read };
                    match self.pass_damage(reader, &failure, detail, page)? {
                        Some(rest) => range = rest,
                        None => return Ok(()),
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

fn borrow(bound: &Bound<Bytes>) -> Bound<&[u8]> {
    match bound {
        Bound::Included(sort) => Bound::Included(sort),
        Bound::Excluded(sort) => Bound::Excluded(sort),
        Bound::Unbounded => Bound::Unbounded,
    }
}

/// What is left of `range` behind the page that ended with the token.
fn resume(request: &ScanRequest, token: &PageToken, range: KeyRange) -> Result<KeyRange, Invalid> {
    let (head, next) = token.0.split_first_chunk::<TOKEN_HEAD_LEN>().ok_or(Invalid::PageToken)?;
    if *head != token_head(request) || !range.contains(next) {
        return Err(Invalid::PageToken);
    }
    Ok(if request.backward {
        KeyRange { start: range.start, end: next.to_vec() }
    } else {
        KeyRange { start: next.to_vec(), end: range.end }
    })
}

/// Format and fingerprint of a scan: a token of another scan is refused and not misread.
fn token_head(request: &ScanRequest) -> [u8; TOKEN_HEAD_LEN] {
    let mut about = Vec::new();
    about.put_u32(request.table.0);
    about.put_u8(u8::from(request.backward));
    let mut put = |bytes: &[u8]| {
        about.put_u64(bytes.len() as u64);
        about.put_slice(bytes);
    };
    match &request.scope {
        Scope::Partition { key, from, to } => {
            put(b"partition");
            put(key);
            for bound in [from, to] {
                let (kind, sort): (&[u8], &[u8]) = match bound {
                    Bound::Included(sort) => (b"in", sort),
                    Bound::Excluded(sort) => (b"ex", sort),
                    Bound::Unbounded => (b"no", &[]),
                };
                put(kind);
                put(sort);
            }
        }
        Scope::Prefix(prefix) => {
            put(b"prefix");
            put(prefix);
        }
        Scope::Tokens(first, last) => {
            put(b"tokens");
            put(&first.0.to_be_bytes());
            put(&last.0.to_be_bytes());
        }
    }
    let mut head = [0; TOKEN_HEAD_LEN];
    let mut rest = head.as_mut_slice();
    rest.put_u8(TOKEN_FORMAT);
    rest.put_u64(xxh3_64(&about));
    head
}

struct PageBuilder<'a> {
    request: &'a ScanRequest,
    page: Page,
    bytes: usize,
    /// Where the next page begins, or ends when it runs backward: behind all that was covered, read or not. Empty before
    /// the first row.
    next: Vec<u8>,
    /// What was named as damaged, so that it is named once.
    named: BTreeSet<Vec<u8>>,
    /// Rows that were named: they take a place on the page like those that could be read.
    damaged_rows: usize,
    full: bool,
}

impl<'a> PageBuilder<'a> {
    fn new(request: &'a ScanRequest) -> Self {
        let (page, named) = (Page::default(), BTreeSet::new());
        Self { request, page, bytes: 0, next: Vec::new(), named, damaged_rows: 0, full: false }
    }

    fn direction(&self) -> Direction {
        if self.request.backward { Direction::Backward } else { Direction::Forward }
    }

    /// How many index entries to read together: what still fits on the page when rows stay as large as they were, and
    /// one more that tells whether there is another page.
    fn chunk_rows(&self) -> usize {
        let rows_left = self.request.rows_max.saturating_sub(self.page.rows.len());
        let bytes_left = self.request.bytes_max.saturating_sub(self.bytes);
        let fitting = match self.bytes.checked_div(self.page.rows.len()) {
            Some(row_bytes) => bytes_left / row_bytes.max(1),
            None => CHUNK_ROWS_FIRST,
        };
        fitting.min(rows_left).saturating_add(1).min(CHUNK_ROWS_MAX)
    }

    /// Whether a row of this size still goes on the page.
    fn has_room(&mut self, bytes: usize) -> bool {
        let rows = self.page.rows.len() + self.damaged_rows;
        let fits =
            rows < self.request.rows_max && (self.page.rows.is_empty() || self.bytes + bytes <= self.request.bytes_max);
        self.full |= !fits;
        fits
    }

    /// Takes a pair of the data space.
    fn take(&mut self, data_key: &[u8], value: &[u8]) -> ControlFlow<()> {
        if !self.has_room(data_key.len() + value.len()) {
            return ControlFlow::Break(());
        }
        self.push(data_key, data_key, Ok(value));
        ControlFlow::Continue(())
    }

    /// Takes the rows that a chunk of the index names.
    fn take_indexed(&mut self, reader: &dyn Reader, index_keys: &[Vec<u8>]) -> Result<ControlFlow<()>, EngineError> {
        let rows = index_keys.iter().filter_map(|key| Some((key, decode_index_key(key)?.1)));
        let rows: Vec<(&Vec<u8>, Vec<u8>)> =
            rows.map(|(index_key, row)| (index_key, data_key(self.request.table, &row))).collect();
        let (mut flow, mut failed) = (ControlFlow::Continue(()), None);
        let data_keys: Vec<&[u8]> = rows.iter().map(|(_, data_key)| data_key.as_slice()).collect();
        reader.multi_get(Space::Data, &data_keys, &mut |place, value| {
            let (ControlFlow::Continue(()), Some((index_key, data_key))) = (flow, rows.get(place)) else { return };
            let value = match value {
                // Purged since the index was read, or an entry of a range that was cleared after damage.
                Ok(None) => return,
                Ok(Some(value)) => Ok(value),
                Err(EngineError::Corruption { detail }) => Err(detail),
                Err(error) => {
                    failed.get_or_insert(error);
                    return;
                }
            };
            let bytes = value.as_ref().map_or(0, |value| data_key.len() + value.len());
            if self.has_room(bytes) {
                self.push(index_key, data_key, value);
            } else {
                flow = ControlFlow::Break(());
            }
        });
        failed.map_or(Ok(flow), Err)
    }

    fn push(&mut self, position: &[u8], data_key: &[u8], value: Result<&[u8], String>) {
        self.next.clear();
        self.next.extend_from_slice(position);
        if !self.request.backward {
            // The first key behind it.
            self.next.push(0);
        }
        let record = value.and_then(|value| {
            self.bytes += data_key.len() + value.len();
            Record::decode_copy(data_key, value).map_err(|damage| damage.to_string())
        });
        match (record, decode_data_key(data_key)) {
            (Ok(record), Some((_, _, key))) => self.page.rows.push(Row { key, record }),
            (Ok(_), None) => self.damaged_row(data_key, "the key does not read back".into()),
            (Err(detail), _) => self.damaged_row(data_key, detail),
        }
    }

    /// Passes over rows that cannot be read. They take one place on the page, so that a page is bounded by them, too.
    fn pass_to(&mut self, rest: &KeyRange) -> ControlFlow<()> {
        self.next.clone_from(if self.request.backward { &rest.end } else { &rest.start });
        self.damaged_rows += 1;
        self.full = self.page.rows.len() + self.damaged_rows >= self.request.rows_max;
        if self.full { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn damaged_row(&mut self, data_key: &[u8], detail: String) {
        self.damaged_rows += 1;
        self.damaged(DamagedRange::of_row(self.request.table, data_key, detail));
    }

    fn damaged(&mut self, range: DamagedRange) {
        if self.named.insert(range.range.start.clone()) {
            self.page.damaged.push(range);
        }
    }

    fn finish(mut self) -> Page {
        if self.full {
            let mut token = token_head(self.request).to_vec();
            token.extend_from_slice(&self.next);
            self.page.next = Some(PageToken(token.into()));
        }
        self.page
    }
}

/// The `keys` key of a row, for whoever removes it.
pub(crate) fn index_key(table: TableId, key: &RowKey) -> Vec<u8> {
    let mut out = Vec::new();
    encode_index_key(table, key, &mut out);
    out
}
