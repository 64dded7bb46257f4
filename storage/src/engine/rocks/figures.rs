//! What RocksDB tells of itself: its properties, and the counters of its block cache.

use rocksdb::statistics::Ticker;

use super::RocksEngine;
use crate::engine::Space;
use crate::engine::figures::{CacheFigures, EngineFigures, LEVELS, SpaceFigures};

impl RocksEngine {
    pub(super) fn tell(&self) -> EngineFigures {
        let database = |name: &str| match self.db.property_int_value(name) {
            Ok(Some(value)) => value,
            // A property that RocksDB does not have counts as nothing.
            _ => 0,
        };
        EngineFigures {
            spaces: Space::ALL.into_iter().map(|space| self.tell_space(space)).collect(),
            cache: self.tell_cache(),
            compactions_running: database("rocksdb.num-running-compactions"),
            flushes_running: database("rocksdb.num-running-flushes"),
            background_errors: database("rocksdb.background-errors"),
            writes_stopped: database("rocksdb.is-write-stopped") > 0,
            delayed_write_bytes_per_s: database("rocksdb.actual-delayed-write-rate"),
        }
    }

    fn tell_space(&self, space: Space) -> SpaceFigures {
        let mut files = [0; LEVELS];
        for (level, files) in files.iter_mut().enumerate() {
            *files = self.property(space, &format!("rocksdb.num-files-at-level{level}"));
        }
        SpaceFigures {
            space,
            keys: self.property(space, "rocksdb.estimate-num-keys"),
            table_bytes: self.property(space, "rocksdb.total-sst-files-size"),
            blob_bytes: self.property(space, "rocksdb.total-blob-file-size"),
            files,
            memtable_bytes: self.property(space, "rocksdb.size-all-mem-tables"),
            memtables_waiting: self.property(space, "rocksdb.num-immutable-mem-table"),
            compaction_debt_bytes: self.property(space, "rocksdb.estimate-pending-compaction-bytes"),
        }
    }

    /// All key spaces share one cache, so any of them tells of it.
    fn tell_cache(&self) -> CacheFigures {
        let cache = |name: &str| self.property(Space::Data, name);
        CacheFigures {
            capacity_bytes: cache("rocksdb.block-cache-capacity"),
            used_bytes: cache("rocksdb.block-cache-usage"),
            pinned_bytes: cache("rocksdb.block-cache-pinned-usage"),
            hits: self.counters.get_ticker_count(Ticker::BlockCacheHit),
            misses: self.counters.get_ticker_count(Ticker::BlockCacheMiss),
        }
    }
}
