//! What a replica tells: rows and pages, only from a partition that is in sync and under a map it has not fenced, and never
//! more in one reply than a page may hold.

use cube_storage::model::{Epoch, PartitionId, PlacementId, Record, RecordHeader, RowKey, TableId, Token};
use cube_storage::scan::Scope;
use cube_storage::{StoreError, SyncState};

use super::Replica;
use crate::messages::{Found, ReadRows, Refusal, ReplyBody, ScanRows, Want};

/// Rows read together, and so the most that are read past the end of a full reply.
const CHUNK_ROWS: usize = 16;

/// What is held of a row, as far as it was asked for and there is room for it.
type Held = (Option<RecordHeader>, Option<Record>);

/// What is left of a reply.
struct Room {
    bytes_max: usize,
    bytes: usize,
    is_full: bool,
}

impl Room {
    fn of(bytes_max: usize) -> Self {
        Self { bytes_max, bytes: 0, is_full: false }
    }

    /// The record, if there is room for it. The first one always has some, so that asking again gets on.
    fn take(&mut self, record: Record) -> Option<Record> {
        let bytes = self.bytes + record.encoded_len();
        self.is_full |= self.bytes > 0 && bytes > self.bytes_max;
        if self.is_full {
            return None;
        }
        self.bytes = bytes;
        Some(record)
    }
}

impl Replica {
    /// What is held of each row; nothing of a table that is not known here (yet).
    pub(super) fn read(&self, read: &ReadRows) -> Result<Vec<Result<Found, Refusal>>, Refusal> {
        let placement = self.store.table(read.table)?.placement;
        Ok(match read.rows.as_slice() {
            [(key, claim)] => vec![self.read_row(read.table, placement, key, *claim, read.want)],
            rows => self.read_rows(read.table, placement, rows, read.want),
        })
    }

    /// What is held of a single row, or why it is not told; nothing if that may have to wait for a disk.
    pub(super) fn read_at_once(&self, read: &ReadRows) -> Option<Result<Vec<Result<Found, Refusal>>, Refusal>> {
        let [(key, claim)] = read.rows.as_slice() else { return None };
        let placement = self.store.table(read.table).ok()?.placement;
        let partition = self.partition_of(key.token());
        let mut has_to_wait = false;
        let found = self.while_readable(placement, partition, Some(*claim), || {
            let floor = self.store.range_state(read.table, partition).floor;
            let held = match read.want {
                Want::Header => self.store.header_in_memory(read.table, key).map(|header| (header, None)),
                Want::Record => self.store.get_in_memory(read.table, key).map(Option::unzip),
            };
            has_to_wait = held.is_none();
            let (header, record) = held.unwrap_or_default();
            Ok(Found { header, record, floor })
        });
        (!has_to_wait).then(|| Ok(vec![found]))
    }

    fn read_row(
        &self,
        table: TableId,
        placement: PlacementId,
        key: &RowKey,
        claim: Epoch,
        want: Want,
    ) -> Result<Found, Refusal> {
        let partition = self.partition_of(key.token());
        self.while_readable(placement, partition, Some(claim), || {
            let floor = self.store.range_state(table, partition).floor;
            match want {
                Want::Header => Ok(Found { header: self.store.header(table, key)?, record: None, floor }),
                Want::Record => {
                    let (header, record) = self.store.get_with_header(table, key)?.unzip();
                    Ok(Found { header, record, floor })
                }
            }
        })
    }

    fn read_rows(
        &self,
        table: TableId,
        placement: PlacementId,
        rows: &[(RowKey, Epoch)],
        want: Want,
    ) -> Vec<Result<Found, Refusal>> {
        let keys: Vec<RowKey> = rows.iter().map(|(key, _)| key.clone()).collect();
        let check = |(key, claim): &(RowKey, Epoch)| {
            let partition = self.partition_of(key.token());
            self.check_readable(placement, partition, Some(*claim)).map(|()| partition)
        };
        let before: Vec<Result<PartitionId, Refusal>> = rows.iter().map(check).collect();
        let held = match want {
            Want::Header => self.headers(table, &keys),
            Want::Record => self.records(table, &keys),
        };
        let found = rows.iter().zip(before).zip(held).map(|((row, before), held)| {
            let partition = before.and(check(row))?;
            let (header, record) = held?;
            Ok(Found { header, record, floor: self.store.range_state(table, partition).floor })
        });
        found.collect()
    }

    fn headers(&self, table: TableId, keys: &[RowKey]) -> Vec<Result<Held, StoreError>> {
        self.store.headers(table, keys).into_iter().map(|header| Ok((header?, None))).collect()
    }

    /// Records while there is room for them; of the other rows what identifies them.
    fn records(&self, table: TableId, keys: &[RowKey]) -> Vec<Result<Held, StoreError>> {
        let mut room = Room::of(self.store.limits().page_bytes_max);
        let mut held = Vec::with_capacity(keys.len());
        for chunk in keys.chunks(CHUNK_ROWS) {
            if room.is_full {
                held.extend(self.headers(table, chunk));
                continue;
            }
            let rows = self.store.get_many_with_headers(table, chunk).into_iter();
            held.extend(rows.map(|row| {
                let (header, record) = row?.unzip();
                Ok((header, record.and_then(|record| room.take(record))))
            }));
        }
        held
    }

    pub(super) fn scan(&self, scan: &ScanRows) -> Result<ReplyBody, Refusal> {
        let placement = self.store.table(scan.page.table)?.placement;
        let token = match &scan.page.scope {
            Scope::Partition { key, .. } => Token::of(key),
            Scope::Tokens(first, last) if self.partition_of(*first) == self.partition_of(*last) => *first,
            Scope::Tokens(..) | Scope::Prefix(_) => {
                return Err(Refusal::Unsupported("scans over more than one partition".into()));
            }
        };
        let partition = self.partition_of(token);
        let adopted = self.store.partition(placement, partition).epoch;
        // A copy is complete only behind the fence of the map it is made for.
        if matches!(scan.page.scope, Scope::Tokens(..)) && scan.claim.is_some_and(|claim| claim > adopted) {
            return Err(Refusal::MapBehind(adopted));
        }
        self.while_readable(placement, partition, scan.claim, || {
            let floor = self.store.range_state(scan.page.table, partition).floor;
            let page = self.store.scan(&scan.page)?;
            match page.damaged.first() {
                Some(damaged) => Err(Refusal::Damaged(damaged.to_string())),
                None => Ok(ReplyBody::Page { rows: page.rows, next: page.next, floor }),
            }
        })
    }

    /// Reads what may be read before and after: a partition that is marked and cleared meanwhile, on another thread, would
    /// look as if its rows had never been.
    fn while_readable<T>(
        &self,
        placement: PlacementId,
        partition: PartitionId,
        claim: Option<Epoch>,
        read: impl FnOnce() -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        self.check_readable(placement, partition, claim)?;
        let found = read()?;
        self.check_readable(placement, partition, claim)?;
        Ok(found)
    }

    /// Only a replica that holds all it ever acknowledged, and under a map that is not superseded, counts in reads.
    pub(super) fn check_readable(
        &self,
        placement: PlacementId,
        partition: PartitionId,
        claim: Option<Epoch>,
    ) -> Result<(), Refusal> {
        let state = self.store.partition(placement, partition);
        if claim.is_some_and(|claim| claim < state.epoch) {
            return Err(Refusal::Fenced(state.epoch));
        }
        match state.sync {
            SyncState::Synced => Ok(()),
            SyncState::Unsynced(cause) => Err(Refusal::Unsynced(cause)),
        }
    }
}

#[cfg(test)]
mod tests;
