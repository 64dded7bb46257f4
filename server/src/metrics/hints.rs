//! Hinted handoff: what is kept for whom, and what came of it.

use cube_replication::handoff::pace::Incoming;
use cube_replication::handoff::replay::ReplayState;
use cube_replication::handoff::{HandoffStatus, TargetStatus};

use super::page::{Labels, Page, Written, bytes, family, flag, from_ms, label, number, seconds, whole};

pub(super) fn write(page: &mut Page<'_>, handoff: &HandoffStatus) -> Written {
    write_targets(page, handoff)?;
    write_replays(page, handoff)?;
    write_counts(page, handoff)?;
    write_incoming(page, &handoff.incoming)
}

fn write_incoming(page: &mut Page<'_>, incoming: &Incoming) -> Written {
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
        family(
            "cube_hints_incoming_per_second",
            "Records of hints that this node took per second, over the last seconds",
        ),
        whole(incoming.per_second),
    )?;
    page.gauge(
        seconds("cube_hints_incoming_eta", "When all that is coming will be here, while that is known"),
        incoming.eta_ms.map(|ms| (Labels::new(), from_ms(ms))),
    )?;
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
        family("cube_hints_pending_records", "Records of hints to be sent: each update of a key is one"),
        gauge(|target| whole(target.hints.records)),
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
        family("cube_dirty_ranges", "Ranges marked as to be repaired on another node, for want of a hint"),
        gauge(|target| whole(target.marks.marks)),
    )?;
    page.gauge(
        family("cube_dirty_everything", "Whether all that another node holds is marked as to be repaired"),
        gauge(|target| flag(target.marks.everything)),
    )
}

/// How the delivery to each node stands, and what became of its hints.
fn write_replays(page: &mut Page<'_>, handoff: &HandoffStatus) -> Written {
    let targets = || handoff.targets.iter().map(|(name, target)| (label("target", name), target));
    let gauge = |figure: fn(&TargetStatus) -> f64| targets().map(move |(labels, target)| (labels, figure(target)));
    let count = |figure: fn(&TargetStatus) -> u64| targets().map(move |(labels, target)| (labels, figure(target)));
    let known = |figure: fn(&TargetStatus) -> Option<u64>| {
        targets().filter_map(move |(name, target)| Some((name, figure(target)?)))
    };
    let states = targets().flat_map(|(labels, target)| {
        let is_present = move |state: ReplayState| flag(target.replay.state == state);
        let with = move |state: ReplayState| [labels.clone(), label("state", state.as_str())].concat();
        ReplayState::ALL.into_iter().map(move |state| (with(state), is_present(state)))
    });
    page.gauge(
        family("cube_hints_replay_state", "What the delivery to another node does: one of its states is 1"),
        states,
    )?;
    page.gauge(
        family("cube_hints_paused", "Nodes that an operator wants no hints delivered to, each with a 1"),
        handoff.paused.iter().map(|name| (label("target", name), flag(true))),
    )?;
    page.gauge(
        family("cube_hints_replay_per_second", "Records that another node took per second, over the last seconds"),
        gauge(|target| whole(target.replay.per_second)),
    )?;
    page.gauge(
        seconds("cube_hints_replay_eta", "When another node will have taken everything, while that is known"),
        known(|target| target.eta_ms).map(|(labels, ms)| (labels, from_ms(ms))),
    )?;
    page.gauge(
        seconds("cube_hints_replay_progress_age", "How long ago another node last took something, if it ever did"),
        known(|target| target.last_progress_age_ms).map(|(labels, ms)| (labels, from_ms(ms))),
    )?;
    page.gauge(
        family("cube_hints_replay_failures", "Failures of the replay since another node last took something"),
        gauge(|target| f64::from(target.replay.failures)),
    )?;
    page.counter(
        family("cube_hints_target_replayed", "Records that this node delivered, by whom they were for"),
        count(|target| target.replay.taken),
    )?;
    page.counter(
        family("cube_hints_target_expired", "Hints that grew too old, by whom they were for"),
        count(|target| target.hints.counters.expired),
    )?;
    page.counter(
        family("cube_hints_target_damaged", "Hints that were found damaged, by whom they were for"),
        count(|target| target.hints.counters.damaged),
    )?;
    let marked = targets().flat_map(|(labels, target)| {
        let with = move |cause: &str| [labels.clone(), label("cause", cause)].concat();
        target.marks.by_cause.iter().map(move |(cause, count)| (with(cause.as_str()), *count))
    });
    page.counter(
        family("cube_hints_target_marked", "Rows marked dirty instead, by who missed them and by cause"),
        marked,
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
