//! How the node fares: why it does not serve, and what an operator should know though it does; and what it tells the
//! others of itself.

use cube_replication::lifecycle::{CopyProgress, not_whole};
use cube_replication::membership::Membership as _;
use cube_storage::space::SpaceProbe;
use cube_storage::{SyncState, UnsyncedCause};

use super::member::Member;
use super::stuck::Stuck;
use crate::admin::{DrainView, Health, LeavingView};
use crate::clock_watch::Verdict;
use crate::edge::{Closing, Phase};
use crate::gossip::{Addresses, Hints, OwnReport};

impl Member {
    pub(super) fn health(&self) -> Health {
        let mut health = Health { node: self.identity.name.clone(), state: self.member_state(), ..Health::default() };
        if let Some(cause) = self.store.stopped() {
            health.reasons.push(format!("writing stopped after a disk failure until the node is restarted: {cause}"));
        }
        if let Some(reason) = self.unfit_clock() {
            health.reasons.push(reason);
        }
        health.warnings.extend(self.unreachable());
        health.warnings.extend(self.leaving());
        health.warnings.extend(self.no_majority());
        health.warnings.extend(self.conflicts());
        health.warnings.extend(self.clocks_off());
        health.to_copy = self.unsynced();
        health.warnings.extend(health.to_copy.clone());
        health.warnings.extend(self.stuck());
        health.warnings.extend(self.disk_low());
        health.warnings.extend(self.anti_entropy_off());
        health
    }

    /// What is wrong with this node's clock, if most others say so.
    pub(super) fn wrong_clock(&self) -> Option<String> {
        let max_drift_ms = self.config.max_drift_ms();
        match self.clock_watch.lock().verdict(max_drift_ms, self.clock.monotonic_ms()) {
            Verdict::Fine => None,
            Verdict::OutOfBound { own_offset_ms, against, of } => Some(format!(
                "this node's clock is {} ms {} that of {against} of {of} other nodes, more than clock.max_drift \
                 ({max_drift_ms} ms) allows: set the clock",
                own_offset_ms.unsigned_abs(),
                if own_offset_ms < 0 { "behind" } else { "ahead of" },
            )),
        }
    }

    fn member_state(&self) -> Option<String> {
        let state = self.catalog.current();
        state.topology.member(self.identity.node).map(|member| member.state.to_string())
    }

    fn unreachable(&self) -> Option<String> {
        let state = self.catalog.current();
        let down = state
            .topology
            .members()
            .values()
            .filter(|member| !member.state.is_gone() && !self.gossip.is_alive(member.id));
        let names: Vec<&str> = down.map(|member| member.name.as_str()).collect();
        (!names.is_empty()).then(|| format!("cannot be reached from here, or down: {}", names.join(", ")))
    }

    fn leaving(&self) -> Option<String> {
        let state = self.catalog.current();
        let leavers = state.topology.members().values().filter_map(|member| {
            let view = LeavingView::of(&state, member, None)?;
            let how = if view.by == "REMOVE" { "is being removed" } else { "leaves the cluster" };
            Some(format!("{} {how}, with {} partitions still to be moved", member.name, view.partitions))
        });
        let told: Vec<String> = leavers.collect();
        (!told.is_empty()).then(|| told.join("; "))
    }

    fn no_majority(&self) -> Option<String> {
        let status = self.control.status();
        if let Some(reason) = status.stopped {
            return Some(format!(
                "this node hears of no change of keyspaces, tables and members any more, and makes none: restart it \
                 ({reason})"
            ));
        }
        (!status.has_quorum).then(|| {
            "no majority of the voters is heard: keyspaces, tables and members cannot be changed now, data is served at \
             its levels"
                .to_owned()
        })
    }

    fn conflicts(&self) -> Option<String> {
        let conflicts = self.gossip.conflicts();
        let conflict = conflicts.first()?;
        let places: Vec<String> = conflict.instances.iter().map(|(_, address)| address.to_string()).collect();
        Some(format!("two processes run as {}: {}; stop one of them", self.name_of(conflict.node), places.join(", ")))
    }

    fn clocks_off(&self) -> Option<String> {
        let flagged = self.clock_watch.lock().flagged(self.clock.monotonic_ms());
        let told: Vec<String> = flagged
            .iter()
            .map(|(node, offset)| format!("{} by {} ms", self.name_of(*node), offset.offset_ms))
            .collect();
        (!told.is_empty()).then(|| format!("clocks that are off, seen from here: {}", told.join(", ")))
    }

    fn unsynced(&self) -> Option<String> {
        let state = self.catalog.current();
        let mut copying = 0;
        let mut damaged = 0;
        for (placement, maps) in state.topology.placements() {
            for (partition, map) in maps.partitions() {
                if !map.write_sets().contains(self.identity.node) {
                    continue;
                }
                match self.store.partition(placement, partition).sync {
                    SyncState::Synced => {}
                    SyncState::Unsynced(UnsyncedCause::New) => copying += 1,
                    SyncState::Unsynced(_) => damaged += 1,
                }
            }
        }
        if copying + damaged == 0 {
            return None;
        }
        let CopyProgress { under_way, completed, failed, .. } = self.copies.get();
        let mut told = Vec::new();
        if copying > 0 {
            told.push(format!(
                "{copying} partitions are being copied to this node ({under_way} now, {completed} done, {failed} copies \
                 failed and are made again)"
            ));
        }
        if damaged > 0 {
            told.push(format!("{damaged} partitions were found damaged"));
        }
        Some(format!("not counted in reads yet: {}", told.join("; ")))
    }

    /// Partitions whose reads count this node, and of which it has lost something.
    pub(super) fn not_whole(&self) -> u64 {
        not_whole(&self.catalog.current().topology, &self.store, self.identity.node) as u64
    }

    fn stuck(&self) -> Option<String> {
        let state = self.catalog.current();
        Stuck::of(&state.topology, |node| self.gossip.is_alive(node)).told(|node| self.name_of(node))
    }

    fn disk_low(&self) -> Option<String> {
        let free = self.space.available_bytes()?;
        let reserve = self.config.storage.disk_reserve;
        (free < reserve.0).then(|| {
            format!("{} MiB are left on the disk, less than storage.disk_reserve: writes are refused", free >> 20)
        })
    }

    pub(super) fn name_of(&self, node: cube_storage::model::NodeId) -> String {
        let state = self.catalog.current();
        state.topology.member(node).map_or_else(|| node.to_string(), |member| member.name.clone())
    }

    /// What gossip tells the others.
    pub(super) fn own_report(&self) -> OwnReport {
        let state = self.catalog.current();
        let me = state.topology.member(self.identity.node);
        let addresses = me.map(|me| me.addresses.clone()).unwrap_or_default();
        let max_drift_ms = self.config.max_drift_ms();
        OwnReport {
            addresses: Addresses {
                peer: addresses.peer,
                grpc: addresses.grpc,
                http: addresses.http,
                gossip: addresses.gossip,
            },
            state: self.member_state().unwrap_or_default(),
            load: self.load.look(self.machine.as_ref(), self.coordinator.begun(), self.coordinator.in_flight()),
            hints: self.own_hints(),
            applied_index: self.control.status().applied.unwrap_or_default(),
            clock: self.clock_watch.lock().verdict(max_drift_ms, self.clock.monotonic_ms()),
            disk_free_bytes: self.space.available_bytes().unwrap_or_default(),
            oldest_sync_ms: self.in_sync_ms(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_at_ms: Some(self.started_at_ms),
            marks: self.hint_replay.marks_left(),
            unsynced: self.not_whole(),
            drain: self.drained().map_or("", DrainView::name).to_owned(),
        }
    }

    /// Whether an operator drained it.
    pub(super) fn drained(&self) -> Option<DrainView> {
        match self.doors.phase(Closing::Drained) {
            Phase::Open => None,
            Phase::Closed if self.coordinator.in_flight() == 0 => Some(DrainView::Drained),
            Phase::Announced | Phase::Closed => Some(DrainView::Draining),
        }
    }

    fn own_hints(&self) -> Hints {
        let state = self.catalog.current();
        let now_ms = self.machine.wall_ms();
        let mut hints = Hints::default();
        let mut oldest_ms: Option<u64> = None;
        for (name, totals) in self.handoff.hints().totals() {
            hints.total += totals.keys;
            hints.bytes += totals.bytes;
            oldest_ms = oldest_ms.into_iter().chain(totals.oldest_created_ms).min();
            if let Some(member) = state.topology.member_named(&name)
                && totals.keys > 0
            {
                hints.per_target.insert(member.id, totals.keys);
            }
        }
        hints.oldest_age_ms = oldest_ms.map(|oldest_ms| now_ms.saturating_sub(oldest_ms));
        hints
    }
}

/// The node while it is not a member yet.
pub(super) fn not_yet(name: &str, waits_for: &dyn Fn() -> String) -> Health {
    Health { node: name.to_owned(), reasons: vec![waits_for()], ..Health::default() }
}
