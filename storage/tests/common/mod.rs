//! What the storage tests share: disks to open engines on, a model of a node's rows, and the disk format written down
//! a second time.
//!
//! Each test file uses a part of it.
#![allow(dead_code, unused_imports)]

mod cases;
pub(crate) mod disks;
pub(crate) mod format;
pub(crate) mod gate;
pub(crate) mod inputs;
pub(crate) mod model;
pub(crate) mod observe;
pub(crate) mod random;

use std::sync::Arc;

use cube_storage::engine::Engine;
use cube_storage::merkle::MerkleKey;
use cube_storage::model::{
    Batch, Hlc, Mutation, NodeId, Origin, PartitionBits, PartitionId, PlacementId, Record, RowKey, TableId, Version,
};
use cube_storage::{Identity, Store, StoreOptions, SyncState};

pub(crate) use self::cases::{cases, seed};

/// The key of the row hashes in all tests.
pub(crate) const MERKLE_KEY: MerkleKey = MerkleKey(*b"storage test key");

/// Two partitions: few enough to look at, enough to tell one from another.
pub(crate) fn bits() -> PartitionBits {
    PartitionBits::new(1).unwrap()
}

pub(crate) fn identity() -> Identity {
    Identity { bits: bits(), merkle_key: MERKLE_KEY }
}

/// A store over an engine, with default limits and no reserve.
pub(crate) fn open_store(engine: Arc<dyn Engine>) -> Store {
    Store::open(engine, identity(), StoreOptions::default()).unwrap()
}

/// A version at a millisecond.
pub(crate) fn at(millis: u64) -> Version {
    Version::new(Hlc::new(millis, 0), NodeId(1))
}

pub(crate) fn put(table: TableId, key: RowKey, version: Version, value: impl Into<bytes::Bytes>) -> Mutation {
    Mutation { table, key, record: Record::value(version, value), claim: None }
}

pub(crate) fn delete(table: TableId, key: RowKey, version: Version) -> Mutation {
    Mutation { table, key, record: Record::tombstone(version), claim: None }
}

pub(crate) fn batch(origin: Origin, mutations: Vec<Mutation>) -> Batch {
    Batch { origin, mutations }
}

pub(crate) fn client(mutations: Vec<Mutation>) -> Batch {
    batch(Origin::Client, mutations)
}

/// Declares all partitions of a placement in sync.
pub(crate) fn mark_all_synced(store: &Store, placement: PlacementId) {
    for partition in store.bits().all() {
        store.set_sync(placement, partition, SyncState::Synced).unwrap();
    }
}

/// The partitions of a placement that are in sync.
pub(crate) fn synced_partitions(store: &Store, placement: PlacementId) -> Vec<PartitionId> {
    store.bits().all().filter(|&partition| store.partition(placement, partition).sync == SyncState::Synced).collect()
}

/// Lets time go by in which other threads or processes work.
pub(crate) fn pause(time: std::time::Duration) {
    let (_never, nothing) = std::sync::mpsc::channel::<()>();
    let _ = nothing.recv_timeout(time);
}
