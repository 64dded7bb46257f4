//! What operators see of hinted handoff, and what they can do about it.

use std::collections::BTreeMap;

use cube_replication::handoff::{HandoffCounts, HandoffStatus, TargetStatus};
use serde::Serialize;

/// What an operator wants of the replay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HintOrder {
    /// Deliver hints now, whatever failed before.
    Replay,
    /// Deliver none until it is resumed. They are kept all the same.
    Pause,
    /// Deliver them again.
    Resume,
}

/// What this node keeps for others.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HintsView {
    /// Hints, for all nodes together: distinct keys.
    pub total_hints: u64,
    /// Hints by the name of the node they are for. Nodes without any are left out.
    pub node_hints: BTreeMap<String, u64>,
    /// Bytes of them on disk.
    pub total_bytes: u64,
    /// Ranges that are to be repaired because a hint could not be kept, by the name of the node.
    pub dirty_ranges: BTreeMap<String, u64>,
    /// The age of the oldest hint, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oldest_hint_age_ms: Option<u64>,
    /// The names of nodes that an operator wants no hints delivered to.
    pub paused: Vec<String>,
    /// Everything else, by the name of the node.
    pub nodes: BTreeMap<String, NodeHintsView>,
    /// What others have yet to send to this node.
    pub incoming: IncomingView,
    /// What happened since this node started, over all nodes.
    pub counts: HandoffCounts,
    /// Whether hints are handed to other nodes, because this one leaves.
    pub handing_over: bool,
}

/// Hints for one node, and how their replay stands.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeHintsView {
    /// Hints: distinct keys.
    pub hints: u64,
    /// Records to be sent: of a key that was updated, each update is one.
    pub records: u64,
    /// Bytes on disk.
    pub bytes: u64,
    /// Records that may be a write's only copy: never too few.
    pub only_copies: u64,
    /// The age of the oldest hint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oldest_age_ms: Option<u64>,
    /// Ranges that are marked dirty.
    pub dirty_ranges: u64,
    /// Whether all it holds is marked dirty, because nobody knows what it missed.
    pub everything_dirty: bool,
    /// Records taken by the node, since this one started.
    pub replayed: u64,
    /// Records that grew too old and became dirty ranges.
    pub expired: u64,
    /// Records found damaged.
    pub damaged: u64,
    /// Rows marked dirty instead of hinted, by cause.
    pub dropped: BTreeMap<&'static str, u64>,
    /// What the replay does.
    pub state: &'static str,
    /// Records taken per second, over the last seconds.
    pub per_second: u64,
    /// When everything will have been taken, at that speed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eta_ms: Option<u64>,
    /// How long ago the node last took something.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_progress_age_ms: Option<u64>,
    /// Failures since then.
    pub failures: u32,
    /// What was wrong the last time something was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
}

/// Hints that are coming to this node.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct IncomingView {
    /// Records that others have yet to send.
    pub records: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Nodes that send.
    pub senders: usize,
    /// Records taken since this node started.
    pub taken: u64,
    /// Records taken per second, over the last seconds.
    pub per_second: u64,
    /// When all of it will have come, at that speed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eta_ms: Option<u64>,
    /// Bytes per second that this node lets in at the most, at present.
    pub rate_bytes: u64,
}

impl HintsView {
    /// What a node tells of itself.
    pub fn of(status: &HandoffStatus) -> Self {
        let targets = status.targets.iter();
        let node_hints: BTreeMap<String, u64> = targets
            .clone()
            .filter(|(_, target)| target.hints.keys > 0)
            .map(|(name, target)| (name.clone(), target.hints.keys))
            .collect();
        let dirty = targets.clone().filter(|(_, target)| target.marks.marks > 0);
        let incoming = &status.incoming;
        Self {
            total_hints: status.total_hints(),
            node_hints,
            total_bytes: targets.clone().map(|(_, target)| target.hints.bytes).sum(),
            dirty_ranges: dirty.map(|(name, target)| (name.clone(), target.marks.marks)).collect(),
            oldest_hint_age_ms: targets.clone().filter_map(|(_, target)| target.oldest_age_ms).max(),
            paused: status.paused.clone(),
            nodes: targets.map(|(name, target)| (name.clone(), target.into())).collect(),
            incoming: IncomingView {
                records: incoming.senders.values().map(|(records, _)| records).sum(),
                bytes: incoming.senders.values().map(|(_, bytes)| bytes).sum(),
                senders: incoming.senders.len(),
                taken: incoming.taken,
                per_second: incoming.per_second,
                eta_ms: incoming.eta_ms,
                rate_bytes: incoming.rate_bytes,
            },
            counts: status.counts.clone(),
            handing_over: status.handing_over,
        }
    }

    /// The lines of `STATS`.
    pub fn lines(&self) -> Vec<String> {
        let nodes = self.node_hints.iter().map(|(name, hints)| format!("Hints for {name}: {hints}"));
        let paused =
            self.paused.iter().map(|name| format!("Hints PAUSED for {name}: kept, and not delivered until resumed"));
        std::iter::once(format!("Pending Hints: {}", self.total_hints)).chain(nodes).chain(paused).collect()
    }
}

impl From<&TargetStatus> for NodeHintsView {
    fn from(target: &TargetStatus) -> Self {
        let TargetStatus { hints, marks, replay, .. } = target;
        Self {
            hints: hints.keys,
            records: hints.records,
            bytes: hints.bytes,
            only_copies: hints.only_copies,
            oldest_age_ms: target.oldest_age_ms,
            dirty_ranges: marks.marks,
            everything_dirty: marks.everything,
            replayed: replay.taken,
            expired: hints.counters.expired,
            damaged: hints.counters.damaged,
            dropped: marks.by_cause.iter().map(|(cause, count)| (cause.as_str(), *count)).collect(),
            state: replay.state.as_str(),
            per_second: replay.per_second,
            eta_ms: target.eta_ms,
            last_progress_age_ms: target.last_progress_age_ms,
            failures: replay.failures,
            last_error: target.last_error.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_name_the_sum_first_and_then_every_node_with_hints() {
        let node_hints = BTreeMap::from([("node-2".to_owned(), 1), ("node-3".to_owned(), 44)]);
        let view = HintsView { total_hints: 45, node_hints, ..HintsView::default() };
        assert_eq!(view.lines(), ["Pending Hints: 45", "Hints for node-2: 1", "Hints for node-3: 44"]);
        assert_eq!(HintsView::default().lines(), ["Pending Hints: 0"]);
        let paused = HintsView { paused: vec!["node-3".to_owned()], ..HintsView::default() };
        assert_eq!(paused.lines()[1], "Hints PAUSED for node-3: kept, and not delivered until resumed");
    }
}
