//! When a node that has started may coordinate: not before it has heard enough clocks to know whether its own is right,
//! since what it acknowledged with tomorrow's stamp would be repaired to every replica.
//!
//! Invariant: dead peers delay this by [`WAIT_MIN_MS`], and no trouble of the network by more than [`WAIT_MAX_MS`]; then
//! the node serves without having heard them. Once open, the gate stays open: a clock that turns out to be wrong later is
//! the verdict's matter.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cube_replication::topology::MemberState;
use cube_storage::model::NodeId;

use super::member::Member;

/// The others may be starting as well, and are given as long to be there.
const WAIT_MIN_MS: u64 = 2_000;
/// Longer than an attempt to connect and its handshake take until they have failed.
const WAIT_MAX_MS: u64 = 10_000;
/// How often it is looked whether enough clocks were heard: clients wait for it.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What clients and operators are told meanwhile.
const WAITS: &str = "this node has just started, and has not heard yet whether its clock is that of the others";

/// Closed until the node may coordinate.
pub(super) struct ClockGate {
    since_ms: u64,
    is_open: AtomicBool,
}

impl ClockGate {
    pub(super) fn closed(now_ms: u64) -> Self {
        Self { since_ms: now_ms, is_open: AtomicBool::new(false) }
    }
}

/// Whether to wait no longer, after so long; `awaited` says that a clock may still come that was not heard yet.
fn opens(waited_ms: u64, is_conclusive: bool, awaited: bool) -> bool {
    is_conclusive || waited_ms >= WAIT_MAX_MS || (waited_ms >= WAIT_MIN_MS && !awaited)
}

impl Member {
    /// Why this node's clock does not let it coordinate, if so: as its clients are told by now.
    pub(super) fn unfit_clock(&self) -> Option<String> {
        let waits = || (!self.clock_gate.is_open.load(Ordering::Relaxed)).then(|| WAITS.to_owned());
        self.wrong_clock().or_else(waits)
    }

    /// Judges this node's clock, and has `tell` the clients before anybody is told that this node serves: why it does not
    /// coordinate, or that it does. Whether it does.
    pub(super) fn judge_clock(&self, tell: impl FnOnce(Option<String>)) -> bool {
        let unfit = self.wrong_clock().or_else(|| self.waits_for_clocks().then(|| WAITS.to_owned()));
        let is_fit = unfit.is_none();
        tell(unfit);
        self.clock_gate.is_open.fetch_or(is_fit, Ordering::Relaxed);
        is_fit
    }

    fn waits_for_clocks(&self) -> bool {
        let gate = &self.clock_gate;
        if gate.is_open.load(Ordering::Relaxed) {
            return false;
        }
        let (now_ms, others) = (self.clock.monotonic_ms(), self.others());
        let (is_conclusive, heard) = {
            let watch = self.clock_watch.lock();
            let is_conclusive = watch.is_conclusive(others.len(), self.config.max_drift_ms(), now_ms);
            (is_conclusive, watch.offsets(now_ms))
        };
        let is_awaited = |node: &NodeId| others.contains(node) && !heard.contains_key(node);
        let awaited = self.may_be_reached().iter().any(is_awaited);
        let opens = opens(now_ms.saturating_sub(gate.since_ms), is_conclusive, awaited);
        if opens && !is_conclusive {
            tracing::info!(heard = heard.len(), of = others.len(), "serves without having heard most others' clocks");
        }
        !opens
    }

    fn others(&self) -> BTreeSet<NodeId> {
        let state = self.catalog.current();
        let members = state.topology.members().values();
        let others = members.filter(|member| member.state != MemberState::Left && member.id != self.identity.node);
        others.map(|member| member.id).collect()
    }

    /// The peers that are connected, or to which no attempt has failed yet.
    fn may_be_reached(&self) -> Vec<NodeId> {
        let peers = self.transport.status().into_iter();
        let may_be = peers.filter(|peer| peer.foreground.connection.is_some() || peer.foreground.last_error.is_none());
        may_be.map(|peer| peer.node).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_knows_enough_clocks_waits_no_longer() {
        assert!(opens(0, true, true));
    }

    #[test]
    fn dead_peers_delay_a_node_a_little_and_slow_ones_longer_but_not_for_ever() {
        assert!(!opens(WAIT_MIN_MS - 1, false, false));
        assert!(opens(WAIT_MIN_MS, false, false));
        assert!(!opens(WAIT_MAX_MS - 1, false, true));
        assert!(opens(WAIT_MAX_MS, false, true));
    }
}
