//! What the cluster's hard state says, as requests read it: one snapshot of topology and schema behind a pointer.
//!
//! A request takes the snapshot once, without a lock, and works by it. Whoever applies the hard state replaces the
//! snapshot and wakes those that wait for a newer one.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use cube_storage::model::{Epoch, PlacementId, TableId};
use cube_storage::{SyncPolicy, TableOptions};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::topology::Topology;

/// A table as requests see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// Its id, never used twice.
    pub id: TableId,
    /// Whether its keys can be scanned by prefix.
    pub prefix_index: bool,
    /// What an operator may change at any time.
    pub settings: TableSettings,
}

/// What an operator chooses of a table and may change while it is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableSettings {
    /// Of a hundred reads, how many ask all replicas and repair those that differ.
    pub read_repair_percent: u8,
    /// When a slow replica's read is asked of another one.
    pub hedge: Hedge,
    /// The age below which deletions are never purged.
    pub grace_ms: u64,
    /// Milliseconds until a row ends whose write does not say.
    pub default_ttl_ms: Option<i64>,
}

impl TableSettings {
    /// The share of reads that repair, where nothing else is said.
    pub const READ_REPAIR_PERCENT: u8 = 10;
    /// The grace of deletions, where nothing else is said: an hour, the window of hints.
    pub const GRACE_MS: u64 = 3_600_000;
}

impl Default for TableSettings {
    fn default() -> Self {
        Self {
            read_repair_percent: Self::READ_REPAIR_PERCENT,
            hedge: Hedge::P99,
            grace_ms: Self::GRACE_MS,
            default_ttl_ms: None,
        }
    }
}

/// When a read that waits for a slow replica is asked of another one as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Hedge {
    /// Never.
    Off,
    /// Past what 99 of 100 recent answers of the replica took.
    P99,
    /// After a fixed time.
    After {
        /// Milliseconds.
        ms: u32,
    },
}

/// A keyspace: tables that replicate alike.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keyspace {
    /// The placement that its tables follow.
    pub placement: PlacementId,
    /// When its writes are acknowledged.
    pub sync: SyncPolicy,
    /// Its tables by name.
    pub tables: BTreeMap<String, Table>,
}

/// All keyspaces by name.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Schema {
    /// The keyspaces.
    pub keyspaces: BTreeMap<String, Keyspace>,
}

/// A name that stands for nothing.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum UnknownName {
    /// There is no such keyspace.
    #[error("there is no keyspace {keyspace:?}")]
    Keyspace {
        /// The name given.
        keyspace: String,
    },
    /// The keyspace has no such table.
    #[error("there is no table {table:?} in keyspace {keyspace:?}")]
    Table {
        /// The keyspace.
        keyspace: String,
        /// The name given.
        table: String,
    },
}

/// A table that a request names, found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// The table.
    pub table: Table,
    /// The placement that it follows.
    pub placement: PlacementId,
}

impl Schema {
    /// Finds a table by name.
    pub fn find(&self, keyspace: &str, table: &str) -> Result<Target, UnknownName> {
        let space =
            self.keyspaces.get(keyspace).ok_or_else(|| UnknownName::Keyspace { keyspace: keyspace.to_owned() })?;
        let found = space
            .tables
            .get(table)
            .ok_or_else(|| UnknownName::Table { keyspace: keyspace.to_owned(), table: table.to_owned() })?;
        Ok(Target { table: *found, placement: space.placement })
    }

    /// What storage has to know of every table.
    pub fn table_options(&self) -> impl Iterator<Item = (TableId, TableOptions)> + '_ {
        self.keyspaces.values().flat_map(|space| {
            space.tables.values().map(|table| {
                let options =
                    TableOptions { placement: space.placement, prefix_index: table.prefix_index, sync: space.sync };
                (table.id, options)
            })
        })
    }
}

/// One state of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterState {
    /// Members and where every partition lives.
    pub topology: Topology,
    /// Keyspaces and tables.
    pub schema: Schema,
}

/// The newest state this node has heard of.
pub struct Catalog {
    current: ArcSwap<ClusterState>,
}

impl Catalog {
    /// A catalog that begins with `state`.
    pub fn new(state: ClusterState) -> Self {
        Self { current: ArcSwap::from_pointee(state) }
    }

    /// The newest state, for one request to work by.
    pub fn current(&self) -> Arc<ClusterState> {
        self.current.load_full()
    }

    /// Takes a newer state in. An older one changes nothing. Whether it was taken in.
    pub fn advance(&self, state: ClusterState) -> bool {
        let state = Arc::new(state);
        let is_older = |current: &ClusterState| state.topology.epoch() < current.topology.epoch();
        // Whoever comes at the same time with another state: the newer one stays.
        let before =
            self.current.rcu(|current| if is_older(current) { Arc::clone(current) } else { Arc::clone(&state) });
        !is_older(&before)
    }

    /// The epoch of the newest state.
    pub fn epoch(&self) -> Epoch {
        self.current.load().topology.epoch()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_state_is_taken_in_and_an_older_one_is_not() {
        let bits = cube_storage::model::PartitionBits::DEFAULT;
        let older = ClusterState { topology: Topology::new(bits), schema: Schema::default() };
        let placed = crate::topology::TopologyChange::AddPlacement {
            placement: PlacementId(0),
            strategy: crate::topology::Strategy::Simple { replicas: 1 },
            assignment: crate::topology::Assignment::empty(bits),
        };
        let newer = ClusterState { topology: older.topology.after(&placed).unwrap(), schema: Schema::default() };
        let catalog = Catalog::new(older.clone());
        assert!(catalog.advance(newer.clone()));
        assert!(!catalog.advance(older));
        assert_eq!(*catalog.current(), newer);
        assert!(catalog.advance(newer), "the same again, be it with another schema");
    }

    #[test]
    fn names_that_stand_for_nothing_are_named() {
        let mut schema = Schema::default();
        let keyspace = Keyspace { placement: PlacementId(0), sync: SyncPolicy::Sync, tables: BTreeMap::new() };
        schema.keyspaces.insert("default".into(), keyspace);
        let unknown = schema.find("defualt", "kv").unwrap_err();
        assert_eq!(unknown.to_string(), "there is no keyspace \"defualt\"");
        let unknown = schema.find("default", "vk").unwrap_err();
        assert_eq!(unknown.to_string(), "there is no table \"vk\" in keyspace \"default\"");
    }
}
