//! The tables a node holds, as the cluster's hard state told it, and how they are noted on disk.

use std::collections::BTreeMap;

use bytes::BufMut;
use serde::{Deserialize, Serialize};

use crate::engine::{EngineError, Reader};
use crate::meta::{self, Tag};
use crate::model::{Invalid, PlacementId, TableId};

/// When a write of a table is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SyncPolicy {
    /// After its fsync, which it shares with all that wait. An acknowledged write outlives a loss of power.
    Sync,
    /// When it is in the log; the log is synced this often. A loss of power takes back the last moments, a killed
    /// process nothing.
    Interval {
        /// Milliseconds from one sync to the next.
        every_ms: u32,
    },
}

/// What the storage of one node needs to know of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableOptions {
    /// The placement that its partitions follow.
    pub placement: PlacementId,
    /// Whether its keys are also kept in key order, for prefix scans.
    pub prefix_index: bool,
    /// When its writes are acknowledged.
    pub sync: SyncPolicy,
}

impl Default for TableOptions {
    fn default() -> Self {
        Self { placement: PlacementId(0), prefix_index: true, sync: SyncPolicy::Sync }
    }
}

const FORMAT: u8 = 1;

impl TableOptions {
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.put_u8(FORMAT);
        out.put_u32(self.placement.0);
        out.put_u8(u8::from(self.prefix_index));
        out.put_u32(match self.sync {
            SyncPolicy::Sync => 0,
            SyncPolicy::Interval { every_ms } => every_ms.max(1),
        });
        out
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (&[format], rest) = bytes.split_first_chunk::<1>()?;
        let (placement, rest) = rest.split_first_chunk::<4>()?;
        let (&[prefix_index], rest) = rest.split_first_chunk::<1>()?;
        let every_ms = u32::from_be_bytes(<[u8; 4]>::try_from(rest).ok()?);
        (format == FORMAT).then_some(Self {
            placement: PlacementId(u32::from_be_bytes(*placement)),
            prefix_index: prefix_index != 0,
            sync: if every_ms == 0 { SyncPolicy::Sync } else { SyncPolicy::Interval { every_ms } },
        })
    }
}

/// All tables of the node.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tables {
    by_id: BTreeMap<TableId, TableOptions>,
}

impl Tables {
    pub(crate) fn load(reader: &dyn Reader) -> Result<Self, EngineError> {
        let mut by_id = BTreeMap::new();
        meta::load(reader, Tag::Table, FORMAT, |id, value| {
            let id = TableId(u32::from_be_bytes(<[u8; 4]>::try_from(id).ok()?));
            by_id.insert(id, TableOptions::decode(value)?);
            Some(())
        })?;
        Ok(Self { by_id })
    }

    pub(crate) fn get(&self, table: TableId) -> Result<TableOptions, Invalid> {
        self.by_id.get(&table).copied().ok_or(Invalid::UnknownTable { table })
    }

    pub(crate) fn insert(&mut self, table: TableId, options: TableOptions) {
        self.by_id.insert(table, options);
    }

    pub(crate) fn remove(&mut self, table: TableId) {
        self.by_id.remove(&table);
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (TableId, TableOptions)> + '_ {
        self.by_id.iter().map(|(&id, &options)| (id, options))
    }

    /// The shortest interval between syncs that some table asks for.
    pub(crate) fn sync_interval_ms(&self) -> Option<u32> {
        self.by_id
            .values()
            .filter_map(|options| match options.sync {
                SyncPolicy::Interval { every_ms } => Some(every_ms),
                SyncPolicy::Sync => None,
            })
            .min()
    }

    /// The pair that notes a table on disk.
    pub(crate) fn note(table: TableId, options: &TableOptions) -> (Vec<u8>, Vec<u8>) {
        (Self::note_key(table), options.encode())
    }

    pub(crate) fn note_key(table: TableId) -> Vec<u8> {
        meta::key(Tag::Table, &table.0.to_be_bytes())
    }
}
