//! Anti-entropy: as of when replicas are proven equal, and what that took.

use super::figures::SyncFigures;
use super::page::{Page, Written, bytes, family, flag, from_ms, label, seconds, whole};

pub(super) fn write(page: &mut Page<'_>, sync: Option<&SyncFigures>) -> Written {
    let none = SyncFigures::default();
    let sync = sync.unwrap_or(&none);
    page.value(family("cube_sync_enabled", "Whether replicas are compared all the time"), flag(sync.enabled))?;
    let of = |keyspace: &String, table: &String| vec![("keyspace", keyspace.clone()), ("table", table.clone())];
    page.gauge(
        seconds(
            "cube_sync_age",
            "How long ago this node's replicas of a table were last all proven equal to the others; absent until they were",
        ),
        sync.age_ms.iter().map(|(keyspace, table, age_ms)| (of(keyspace, table), from_ms(*age_ms))),
    )?;
    page.gauge(
        family(
            "cube_sync_uncompared_partitions",
            "Partitions of a table that were never compared with one of their other replicas since they are new",
        ),
        sync.uncompared.iter().map(|(keyspace, table, count)| (of(keyspace, table), whole(*count))),
    )?;
    page.count(family("cube_sync_passes", "Passes over everything this node holds that ended"), sync.passes)?;
    let comparisons = [("done", sync.comparisons), ("failed", sync.failed)];
    page.counter(
        family("cube_sync_comparisons", "Comparisons with other replicas, by what came of them"),
        comparisons.map(|(outcome, count)| (label("outcome", outcome), count)),
    )?;
    page.count(family("cube_sync_leaves_differing", "Leaves of trees that differed"), sync.leaves_differing)?;
    let rows = [("sent", sync.rows_sent), ("fetched", sync.rows_fetched)];
    page.counter(
        family("cube_sync_rows", "Rows exchanged to make replicas equal, by direction"),
        rows.map(|(direction, count)| (label("direction", direction), count)),
    )?;
    page.count(bytes("cube_sync_rows", "Bytes of rows exchanged to make replicas equal"), sync.row_bytes)?;
    page.count(family("cube_dirty_ranges_cleared", "Dirty ranges that were repaired and cleared"), sync.marks_cleared)?;
    page.count(family("cube_purge_rounds", "Rounds of purging that ended"), sync.purge_rounds)?;
    page.value(
        family("cube_purge_blocked_trees", "Trees that cannot be purged now, because a replica or member is not heard"),
        whole(sync.purge_blocked),
    )?;
    page.count(family("cube_scrub_rows", "Rows that the scrub verified"), sync.scrubbed_rows)?;
    page.count(family("cube_scrub_damaged", "Damaged places that the scrub found"), sync.scrub_damaged)
}
