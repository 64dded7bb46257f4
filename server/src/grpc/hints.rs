//! Hints as messages.

use std::collections::BTreeMap;

use cube_proto::v1;
use cube_replication::handoff::HandoffCounts;

use crate::admin::{HintsView, IncomingView, NodeHintsView};

/// What this node keeps for others.
pub(super) fn reply(hints: HintsView) -> v1::HintsReply {
    v1::HintsReply {
        total_hints: hints.total_hints,
        total_bytes: hints.total_bytes,
        node_hints: hints.node_hints.into_iter().collect(),
        dirty_ranges: hints.dirty_ranges.into_iter().collect(),
        oldest_hint_age_ms: hints.oldest_hint_age_ms,
        paused: hints.paused,
        nodes: hints.nodes.into_iter().map(|(name, hints)| (name, of_node(hints))).collect(),
        incoming: Some(incoming(hints.incoming)),
        counts: Some(counts(hints.counts)),
        handing_over: hints.handing_over,
    }
}

fn of_node(hints: NodeHintsView) -> v1::NodeHints {
    v1::NodeHints {
        hints: hints.hints,
        records: hints.records,
        bytes: hints.bytes,
        only_copies: hints.only_copies,
        oldest_age_ms: hints.oldest_age_ms,
        dirty_ranges: hints.dirty_ranges,
        everything_dirty: hints.everything_dirty,
        replayed: hints.replayed,
        expired: hints.expired,
        damaged: hints.damaged,
        dropped: by_cause(hints.dropped),
        state: hints.state.to_owned(),
        per_second: hints.per_second,
        eta_ms: hints.eta_ms,
        last_progress_age_ms: hints.last_progress_age_ms,
        failures: hints.failures,
        last_error: hints.last_error,
    }
}

fn incoming(hints: IncomingView) -> v1::IncomingHints {
    v1::IncomingHints {
        records: hints.records,
        bytes: hints.bytes,
        senders: u32::try_from(hints.senders).unwrap_or(u32::MAX),
        taken: hints.taken,
        per_second: hints.per_second,
        eta_ms: hints.eta_ms,
        rate_bytes: hints.rate_bytes,
    }
}

fn counts(counts: HandoffCounts) -> v1::HintCounts {
    v1::HintCounts {
        hinted: counts.hinted,
        marked: by_cause(counts.marked),
        not_kept: counts.not_kept,
        replayed: counts.replayed,
        replayed_bytes: counts.replayed_bytes,
        batches: counts.batches,
        failures: counts.failures,
        expired: counts.expired,
        damaged: counts.damaged,
        dropped_target_left: counts.dropped_target_left,
        dropped_not_replica: counts.dropped_not_replica,
        dropped_table: counts.dropped_table,
        rerouted: counts.rerouted,
        handed_over: counts.handed_over,
        marks_handed_over: counts.marks_handed_over,
        taken_over: counts.taken_over,
    }
}

fn by_cause<M: FromIterator<(String, u64)>>(counts: BTreeMap<&'static str, u64>) -> M {
    counts.into_iter().map(|(cause, count)| (cause.to_owned(), count)).collect()
}
