//! The rows of this node, the disk, and RocksDB under them.

use cube_storage::engine::figures::{EngineFigures, SpaceFigures};

use super::figures::StoreFigures;
use super::page::{Family, Labels, Page, Written, bytes, family, flag, label, number, whole};

pub(super) fn write(page: &mut Page<'_>, store: &StoreFigures) -> Written {
    let waiting = store.waiting;
    page.value(family("cube_write_queue_batches", "Batches that wait to be committed"), number(waiting.batches))?;
    page.value(bytes("cube_write_queue", "Bytes that wait to be committed"), number(waiting.bytes))?;
    page.value(bytes("cube_write_queue_limit", "Bytes past which writes are refused"), number(waiting.bytes_max))?;
    page.count(
        family("cube_store_commits", "Groups of batches that were committed, with one sync each"),
        store.groups,
    )?;
    page.count(family("cube_store_rows_changed", "Rows that changed on this node"), store.rows)?;
    page.count(
        family("cube_store_rows_purged", "Deleted and ended rows that were removed for good"),
        store.purged_rows,
    )?;
    page.count(
        family(
            "cube_store_rows_below_floor",
            "Rows that were refused because deletions may have been purged up to their versions",
        ),
        store.below_floor_rows,
    )?;
    page.count(family("cube_store_damaged_ranges", "Damaged places found in this node's files"), store.damaged)?;
    page.value(
        family("cube_store_stopped", "Whether writing has stopped until a restart, after a failure of the disk"),
        flag(store.is_stopped),
    )?;
    page.gauge(
        family(
            "cube_partitions",
            "Partitions that this node holds: synced ones are counted in reads, others say why not",
        ),
        store.partitions.iter().map(|(state, count)| (label("state", *state), whole(*count))),
    )?;
    page.gauge(
        bytes("cube_disk_free", "Bytes that are free on the disk of the data directory"),
        store.space.free_bytes.map(|free| (Labels::new(), whole(free))),
    )?;
    page.value(
        bytes("cube_disk_reserve", "Below so many free bytes clients' writes are refused"),
        whole(store.space.reserve_bytes),
    )
}

pub(super) fn write_engine(page: &mut Page<'_>, engine: &EngineFigures) -> Written {
    let mut each = |family: Family<'_>, figure: fn(&SpaceFigures) -> u64| {
        let samples = engine.spaces.iter().map(|space| (label("space", space.space.name()), whole(figure(space))));
        page.gauge(family, samples)
    };
    each(family("cube_rocksdb_keys", "Keys of a key space, as RocksDB estimates them"), |space| space.keys)?;
    each(bytes("cube_rocksdb_tables", "Bytes of table files"), |space| space.table_bytes)?;
    each(bytes("cube_rocksdb_blobs", "Bytes of blob files, which hold large values"), |space| space.blob_bytes)?;
    each(bytes("cube_rocksdb_memtables", "Bytes that are not in a file yet"), |space| space.memtable_bytes)?;
    each(family("cube_rocksdb_memtables_waiting", "Full buffers that wait to become a file"), |space| {
        space.memtables_waiting
    })?;
    each(
        bytes("cube_rocksdb_compaction_debt", "Bytes that compactions have yet to rewrite, as RocksDB estimates them"),
        |space| space.compaction_debt_bytes,
    )?;
    let files = engine.spaces.iter().flat_map(|space| {
        space.files.iter().enumerate().map(|(level, files)| {
            (vec![("space", space.space.name().to_owned()), ("level", level.to_string())], whole(*files))
        })
    });
    page.gauge(family("cube_rocksdb_files", "Table files by key space and level"), files)?;
    let cache = engine.cache;
    page.value(
        bytes("cube_rocksdb_block_cache_limit", "Bytes that the block cache may hold"),
        whole(cache.capacity_bytes),
    )?;
    page.value(bytes("cube_rocksdb_block_cache", "Bytes that the block cache holds"), whole(cache.used_bytes))?;
    page.value(
        bytes("cube_rocksdb_block_cache_pinned", "Bytes of it that cannot make room"),
        whole(cache.pinned_bytes),
    )?;
    page.counter(
        family("cube_rocksdb_block_cache_lookups", "Blocks looked for in the block cache, by whether they were there"),
        [("hit", cache.hits), ("miss", cache.misses)].map(|(result, count)| (label("result", result), count)),
    )?;
    page.gauge(
        family("cube_rocksdb_jobs_running", "Background jobs that run now, by kind"),
        [("compaction", engine.compactions_running), ("flush", engine.flushes_running)]
            .map(|(kind, count)| (label("kind", kind), whole(count))),
    )?;
    page.count(
        family("cube_rocksdb_background_errors", "Flushes and compactions that failed"),
        engine.background_errors,
    )?;
    page.value(
        family("cube_rocksdb_writes_stopped", "Whether writes wait until compactions have caught up"),
        flag(engine.writes_stopped),
    )?;
    page.value(
        family(
            "cube_rocksdb_delayed_write_rate_bytes_per_second",
            "What writes are slowed down to, 0 when they are not",
        ),
        whole(engine.delayed_write_bytes_per_s),
    )
}
