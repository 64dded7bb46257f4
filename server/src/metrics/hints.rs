//! Hinted handoff: what is kept for whom, and what came of it.

use cube_replication::handoff::{HandoffStatus, TargetStatus};

use super::page::{Labels, Page, Written, bytes, family, flag, from_ms, label, number, seconds, whole};

pub(super) fn write(page: &mut Page<'_>, handoff: &HandoffStatus) -> Written {
    write_targets(page, handoff)?;
    write_counts(page, handoff)?;
    let incoming = &handoff.incoming;
    let (records, held) = incoming.senders.values().fold((0u64, 0u64), |(records, held), (more, more_held)| {
        (records.saturating_add(*more), held.saturating_add(*more_held))
    });
    page.value(
        family("cube_hints_incoming_senders", "Nodes that have hints for this one"),
        number(incoming.senders.len()),
    )?;
    page.value(family("cube_hints_incoming", "Records that others have yet to send to this node"), whole(records))?;
    page.value(bytes("cube_hints_incoming", "Bytes that others have yet to send to this node"), whole(held))?;
    page.count(family("cube_hints_received", "Records of hints that this node took"), incoming.taken)?;
    page.value(
        family("cube_hints_incoming_rate_bytes_per_second", "Bytes per second of hints that this node lets in now"),
        whole(incoming.rate_bytes),
    )
}

fn write_targets(page: &mut Page<'_>, handoff: &HandoffStatus) -> Written {
    let targets = || handoff.targets.iter().map(|(name, target)| (label("target", name), target));
    let gauge = |figure: fn(&TargetStatus) -> f64| targets().map(move |(labels, target)| (labels, figure(target)));
    page.gauge(
        family("cube_hints_pending", "Hints that this node keeps for another one: distinct keys"),
        gauge(|target| whole(target.hints.keys)),
    )?;
    page.gauge(
        family("cube_hints_pending_only_copies", "Hints that may be a write's only copy"),
        gauge(|target| whole(target.hints.only_copies)),
    )?;
    page.gauge(bytes("cube_hints_pending", "Bytes of hints on disk"), gauge(|target| whole(target.hints.bytes)))?;
    page.gauge(
        seconds("cube_hints_oldest_age", "Age of the oldest hint for another node, 0 without any"),
        gauge(|target| from_ms(target.oldest_age_ms.unwrap_or(0))),
    )?;
    page.gauge(
        family("cube_hints_replay_failures", "Failures of the replay since another node last took something"),
        gauge(|target| f64::from(target.replay.failures)),
    )?;
    page.gauge(
        family("cube_dirty_ranges", "Ranges marked as to be repaired on another node, for want of a hint"),
        gauge(|target| whole(target.marks.marks)),
    )?;
    page.gauge(
        family("cube_dirty_everything", "Whether all that another node holds is marked as to be repaired"),
        gauge(|target| flag(target.marks.everything)),
    )
}

fn write_counts(page: &mut Page<'_>, handoff: &HandoffStatus) -> Written {
    let counts = &handoff.counts;
    page.count(family("cube_hints_stored", "Missed rows that were kept as hints"), counts.hinted)?;
    page.counter(
        family("cube_hints_marked", "Missed rows for which their range was marked dirty instead, by cause"),
        counts.marked.iter().map(|(cause, count)| (label("cause", *cause), *count)),
    )?;
    page.count(family("cube_hints_not_kept", "Missed rows that could be kept neither way"), counts.not_kept)?;
    page.count(family("cube_hints_replayed", "Records that their target took"), counts.replayed)?;
    page.count(bytes("cube_hints_replayed", "Bytes of records that their target took"), counts.replayed_bytes)?;
    page.count(family("cube_hints_replay_batches", "Batches of hints that were sent"), counts.batches)?;
    page.count(family("cube_hints_replay_errors", "Batches and questions of the replay that failed"), counts.failures)?;
    page.count(family("cube_hints_expired", "Hints that grew too old and became dirty ranges"), counts.expired)?;
    page.count(family("cube_hints_damaged", "Hints that were found damaged and became dirty ranges"), counts.damaged)?;
    let dropped: [(&str, u64); 3] = [
        ("target_left", counts.dropped_target_left),
        ("not_replica", counts.dropped_not_replica),
        ("table_dropped", counts.dropped_table),
    ];
    page.counter(
        family("cube_hints_dropped", "Hints that nobody needs any more, by reason"),
        dropped.map(|(reason, count)| -> (Labels, u64) { (label("reason", reason), count) }),
    )?;
    let moved = [("rerouted", counts.rerouted), ("handed_over", counts.handed_over), ("taken_over", counts.taken_over)];
    page.counter(
        family("cube_hints_moved", "Hints that went to another node than the one they were for, or came so"),
        moved.map(|(how, count)| (label("how", how), count)),
    )
}
