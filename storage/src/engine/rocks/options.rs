//! How RocksDB is set up: what can be chosen, and what follows from how Cube KV uses it.

use rocksdb::statistics::StatsLevel;
use rocksdb::{BlockBasedOptions, Cache, DBCompressionType, DBRecoveryMode, MergeOperands, Options};

use super::Space;
use crate::merkle::LeafSum;

const MIB: usize = 1 << 20;

/// What an operator may choose of the engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RocksOptions {
    /// Memory for blocks read from table files, shared by all key spaces.
    pub block_cache_bytes: usize,
    /// Memory for rows on their way to a table file; up to three such buffers at once.
    pub write_buffer_bytes: usize,
    /// Threads that flush and compact.
    pub background_jobs: u16,
    /// Values from this size on are kept out of the compactions, in files of their own.
    pub blob_bytes_min: u64,
}

impl Default for RocksOptions {
    fn default() -> Self {
        Self { block_cache_bytes: 256 * MIB, write_buffer_bytes: 64 * MIB, background_jobs: 2, blob_bytes_min: 4 << 10 }
    }
}

impl RocksOptions {
    pub(super) fn block_cache(&self) -> Cache {
        Cache::new_lru_cache(self.block_cache_bytes)
    }

    /// Options of the database as a whole.
    pub(super) fn database(&self) -> Options {
        let mut options = Options::default();
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        // Up to the first damage, in order over all key spaces: never a batch without the one before it.
        options.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
        options.set_track_and_verify_wals_in_manifest(true);
        options.set_max_background_jobs(i32::from(self.background_jobs));
        // `apply` is the only writer, so batches need no parallel insertion.
        options.set_allow_concurrent_memtable_write(false);
        // All but the first few table files are opened when they are read.
        options.set_max_open_files(4096);
        // Spreads writeback, so that a sync of the log does not wait behind a whole table file.
        options.set_bytes_per_sync(MIB as u64);
        options.set_max_total_wal_size(4 * self.write_buffer_bytes as u64);
        options.set_keep_log_file_num(4);
        options.set_max_log_file_size(4 * MIB);
        options.set_log_level(rocksdb::LogLevel::Warn);
        // Counters alone, one set for each processor: reading the time at each step would cost what a read does.
        options.enable_statistics();
        options.set_statistics_level(StatsLevel::ExceptHistogramOrTimers);
        options
    }

    /// Options of one key space.
    pub(super) fn family(&self, space: Space, cache: &Cache) -> Options {
        let mut table = BlockBasedOptions::default();
        table.set_block_cache(cache);
        table.set_cache_index_and_filter_blocks(true);
        table.set_pin_l0_filter_and_index_blocks_in_cache(true);
        let mut options = Options::default();
        options.set_compression_type(DBCompressionType::Lz4);
        options.set_write_buffer_size(self.write_buffer_bytes);
        match space {
            Space::Data => {
                // Every write looks whether its row is there: for a new one the filters answer.
                table.set_bloom_filter(10.0, false);
                options.set_memtable_prefix_bloom_ratio(0.02);
                options.set_memtable_whole_key_filtering(true);
                options.set_max_write_buffer_number(3);
                options.set_enable_blob_files(true);
                options.set_min_blob_size(self.blob_bytes_min);
                options.set_blob_compression_type(DBCompressionType::Lz4);
                options.set_enable_blob_gc(true);
            }
            Space::Keys => {
                options.set_write_buffer_size(self.write_buffer_bytes / 16);
                options.set_max_write_buffer_number(6);
            }
            Space::Merkle => {
                options.set_merge_operator_associative("cube.leaf_sum", add_sums);
                // Every write adds to a leaf somewhere: into a small buffer that costs a third of what it does into a
                // large one, because it stays in the processor's cache.
                options.set_write_buffer_size(self.write_buffer_bytes / 64);
                options.set_max_write_buffer_number(8);
                // Leaves are rarely read, and are all rewritten by a compaction.
                options.set_level_zero_file_num_compaction_trigger(8);
                // Sums are as good as random.
                options.set_compression_type(DBCompressionType::None);
            }
            Space::Meta => {}
        }
        options.set_block_based_table_factory(&table);
        options
    }
}

/// Adds differences to a leaf's sum. `None` makes RocksDB report the leaf as damaged.
fn add_sums(_key: &[u8], present: Option<&[u8]>, deltas: &MergeOperands) -> Option<Vec<u8>> {
    let mut sum = match present {
        Some(bytes) => LeafSum::decode(bytes)?,
        None => LeafSum::ZERO,
    };
    for delta in deltas {
        sum = sum.plus(LeafSum::decode(delta)?);
    }
    Some(sum.encode().to_vec())
}
