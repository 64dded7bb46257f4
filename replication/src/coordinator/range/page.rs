//! The decisions of one page of a range.
//!
//! Plain code: answers come in, the next step comes out. What it keeps true, of every row that the page covers:
//!
//! - the page has the newest record of it among replicas that meet the level in the read set (`merge.rs`);
//! - above ONE, the page is returned only when the level holds all of its rows, durably, in every set that is written. Who
//!   was asked and is behind is brought what it lacks first; while replicas change, so is the other set;
//! - a replica that refuses is replaced by another one while there is one.

use std::collections::BTreeMap;

use bytes::Bytes;
use cube_storage::model::{Epoch, Hlc, NodeId, Version};
use cube_storage::scan::Row;

use super::merge::{Merged, Reply, merge, nodes};
use crate::consistency::Level;
use crate::coordinator::confirm::{Confirmation, Next};
use crate::coordinator::error::{Failure, Incomplete, RequestError};
use crate::quorum::{State, Tracker, ask};
use crate::topology::{DataCenter, PartitionMap, ReplicaSets};

/// How often a range read follows a changed map before it gives up.
const REROUTES_MAX: u32 = 8;

/// What is to be done next.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    /// Wait.
    Nothing,
    /// Ask these nodes for the page.
    Ask(Vec<NodeId>),
    /// Bring each of these nodes the rows that it lacks, on behalf of a replica with this purge floor.
    Repair { floor: Hlc, targets: Vec<(NodeId, Vec<Row>)> },
    /// Find the partition's newest map, which is at least this, and begin again.
    Reroute(Epoch),
    /// Tell the client: the rows, and whether there are more behind them.
    Done(Result<(Vec<Row>, bool), RequestError>),
}

/// How a page is bounded.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) backward: bool,
    pub(super) rows_max: usize,
    pub(super) bytes_max: usize,
}

/// A row of which replicas told different things.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mismatch {
    pub(super) sort: Bytes,
    pub(super) winner: Version,
    /// Who told of something else, and of which version.
    pub(super) behind: Vec<(NodeId, Option<Version>)>,
}

enum Phase {
    /// Until the level has answered.
    Asking,
    /// Until the level holds what they told.
    Confirming(Box<(Merged, Confirmation)>),
    Decided,
}

/// The read of one page.
pub(super) struct Page {
    pub(super) claim: Epoch,
    bounds: Bounds,
    level: Level,
    local: DataCenter,
    read_sets: ReplicaSets,
    write_sets: ReplicaSets,
    /// Those that may be asked, the best liked first. Those that refused are taken out.
    candidates: Vec<NodeId>,
    /// Live members of the other set, which are written and not read.
    newcomers: Vec<NodeId>,
    asked: Vec<NodeId>,
    slow: Vec<NodeId>,
    replies: Vec<Reply>,
    floor: Hlc,
    tracker: Tracker,
    failures: Vec<(NodeId, Failure)>,
    fenced: Option<Epoch>,
    reroutes: u32,
    phase: Phase,
    /// Rows that answers differed in. Whoever counts them takes them.
    mismatches: Vec<Mismatch>,
}

impl Page {
    pub(super) fn new(map: &PartitionMap, level: Level, local: &DataCenter, bounds: Bounds) -> Self {
        let read_sets = map.read_sets();
        Self {
            claim: map.epoch(),
            bounds,
            level,
            local: local.clone(),
            tracker: Tracker::new(level, &read_sets, local.clone()),
            write_sets: map.write_sets(),
            read_sets,
            candidates: Vec::new(),
            newcomers: Vec::new(),
            asked: Vec::new(),
            slow: Vec::new(),
            replies: Vec::new(),
            floor: Hlc::default(),
            failures: Vec::new(),
            fenced: None,
            reroutes: 0,
            phase: Phase::Asking,
            mismatches: Vec::new(),
        }
    }

    /// Those that hold the rows, for whoever puts them in order of preference.
    pub(super) fn replicas(&self) -> Vec<NodeId> {
        self.read_sets.nodes().collect()
    }

    /// Those that are written and not read: they can only be brought what is confirmed.
    pub(super) fn newcomers(&self) -> Vec<NodeId> {
        self.write_sets.nodes().filter(|node| !self.read_sets.contains(*node)).collect()
    }

    /// Whether a replica is in the coordinator's data center.
    pub(super) fn is_near(&self, node: NodeId) -> bool {
        self.read_sets.iter().any(|set| set.slot_of(node).and(set.in_data_center(&self.local)).count() > 0)
    }

    /// Whether pages still count.
    pub(super) fn is_asking(&self) -> bool {
        matches!(self.phase, Phase::Asking)
    }

    /// The newest map that a replica has fenced, where that stood in the way.
    pub(super) fn fenced(&self) -> Option<Epoch> {
        self.fenced
    }

    pub(super) fn take_mismatches(&mut self) -> Vec<Mismatch> {
        std::mem::take(&mut self.mismatches)
    }

    /// Begins, with those that may be asked, the best liked first, and with the newcomers that live.
    pub(super) fn begin(&mut self, candidates: Vec<NodeId>, newcomers: Vec<NodeId>) -> Step {
        (self.candidates, self.newcomers) = (candidates, newcomers);
        self.ask_more()
    }

    /// Begins again by another map. Whether it is worth it.
    pub(super) fn reroute(&mut self, map: &PartitionMap) -> bool {
        let reroutes = self.reroutes + 1;
        if reroutes > REROUTES_MAX {
            return false;
        }
        *self = Self { reroutes, ..Self::new(map, self.level, &self.local, self.bounds) };
        true
    }

    /// A replica told a page.
    pub(super) fn on_page(&mut self, node: NodeId, (rows, more): (Vec<Row>, bool), floor: Hlc) -> Step {
        if !self.is_asking() || self.replies.iter().any(|reply| reply.node == node) {
            return Step::Nothing;
        }
        // The records may come from any of them: the lowest floor promises least.
        self.floor = if self.replies.is_empty() { floor } else { self.floor.min(floor) };
        self.replies.push(Reply { node, rows, more });
        self.tracker.ack(node);
        self.compare()
    }

    /// A replica told no page. Once the others' pages are merged nobody waits for it any more.
    pub(super) fn on_failure(&mut self, node: NodeId, failure: Failure) -> Step {
        if !self.is_asking() {
            return Step::Nothing;
        }
        self.note_failure(node, failure);
        self.candidates.retain(|candidate| *candidate != node);
        self.tracker.fail(node);
        self.ask_more()
    }

    /// A replica was brought what it lacks, or could not be.
    pub(super) fn on_repaired(&mut self, node: NodeId, repaired: Result<(), Failure>) -> Step {
        let Phase::Confirming(confirming) = &mut self.phase else { return Step::Nothing };
        let (_, confirmation) = confirming.as_mut();
        let next = match repaired {
            Ok(()) => confirmation.on_held(node),
            Err(failure) => {
                let next = confirmation.on_failed(node);
                self.note_failure(node, failure);
                next
            }
        };
        self.confirm(next)
    }

    /// These have let it wait for longer than they usually do: asks others, where that helps.
    pub(super) fn on_slow(&mut self, slow: &[NodeId]) -> Step {
        let is_awaited =
            |node: &NodeId| self.asked.contains(node) && self.replies.iter().all(|reply| reply.node != *node);
        let fresh = slow.iter().copied().filter(|node| is_awaited(node) && !self.slow.contains(node));
        let fresh: Vec<NodeId> = fresh.collect();
        if !self.is_asking() || fresh.is_empty() {
            return Step::Nothing;
        }
        self.slow.extend(fresh);
        // Those that are late may still answer: they are only liked least.
        let is_late = |node: &NodeId| self.slow.contains(node) && self.replies.iter().all(|reply| reply.node != *node);
        let mut liked = self.candidates.clone();
        liked.sort_by_key(is_late);
        let chosen = ask(self.level, &self.read_sets, &self.local, &liked).unwrap_or_default();
        self.ask_fresh(chosen)
    }

    pub(super) fn give_up(&mut self, timed_out: bool) -> Step {
        let tracker = match &self.phase {
            Phase::Confirming(confirming) => confirming.1.tracker(),
            Phase::Asking | Phase::Decided => &self.tracker,
        };
        let incomplete = Incomplete {
            write: false,
            level: self.level,
            acknowledged_by: tracker.acknowledged().collect(),
            missing: tracker.short(),
            timed_out: timed_out || Incomplete::any_timed_out(&self.failures),
            failures: self.failures.clone(),
            account: None,
        };
        self.decide(Err(RequestError::ReadIncomplete(Box::new(incomplete))))
    }

    fn note_failure(&mut self, node: NodeId, failure: Failure) {
        if let Failure::Fenced(epoch) = failure {
            self.fenced = self.fenced.max(Some(epoch));
        }
        self.failures.push((node, failure));
    }

    fn ask_more(&mut self) -> Step {
        match ask(self.level, &self.read_sets, &self.local, &self.candidates) {
            Ok(chosen) => self.ask_fresh(chosen),
            Err(_) => self.reroute_or_give_up(),
        }
    }

    fn ask_fresh(&mut self, mut chosen: Vec<NodeId>) -> Step {
        chosen.retain(|node| !self.asked.contains(node));
        self.asked.extend(&chosen);
        if chosen.is_empty() { Step::Nothing } else { Step::Ask(chosen) }
    }

    fn reroute_or_give_up(&mut self) -> Step {
        match self.fenced {
            Some(epoch) => Step::Reroute(epoch),
            None => self.give_up(false),
        }
    }

    /// Once the level has answered: merges, and brings up to date who is behind.
    fn compare(&mut self) -> Step {
        if self.tracker.state() != State::Met {
            return Step::Nothing;
        }
        let Bounds { backward, rows_max, bytes_max } = self.bounds;
        let merged = merge(&self.replies, backward, rows_max, bytes_max);
        self.mismatches.extend(mismatches(&merged, &self.replies));
        if matches!(self.level, Level::One | Level::LocalOne) {
            return self.decide(Ok((merged.rows, merged.more)));
        }
        let (behind, holders): (Vec<NodeId>, Vec<NodeId>) =
            nodes(&self.replies).into_iter().partition(|node| merged.stale.contains_key(node));
        let sets = (&self.read_sets, &self.write_sets);
        let others = (self.candidates.as_slice(), self.newcomers.as_slice());
        let (confirmation, next) = Confirmation::begin(self.level, sets, &self.local, (&holders, &behind), others);
        self.phase = Phase::Confirming(Box::new((merged, confirmation)));
        self.replies.clear();
        self.confirm(next)
    }

    fn confirm(&mut self, next: Next) -> Step {
        let Phase::Confirming(confirming) = &mut self.phase else { return Step::Nothing };
        let (merged, _) = confirming.as_mut();
        match next {
            Next::Wait => Step::Nothing,
            Next::Impossible => self.reroute_or_give_up(),
            Next::Confirmed => {
                let (rows, more) = (std::mem::take(&mut merged.rows), merged.more);
                self.decide(Ok((rows, more)))
            }
            Next::Bring(targets) => {
                let targets = targets.into_iter().map(|node| (node, lacking(merged, node))).collect();
                Step::Repair { floor: self.floor, targets }
            }
        }
    }

    fn decide(&mut self, result: Result<(Vec<Row>, bool), RequestError>) -> Step {
        self.phase = Phase::Decided;
        self.replies.clear();
        Step::Done(result)
    }
}

/// The rows in which replies differ from what they say together.
fn mismatches(merged: &Merged, replies: &[Reply]) -> Vec<Mismatch> {
    let mut behind: BTreeMap<usize, Vec<(NodeId, Option<Version>)>> = BTreeMap::new();
    for (node, places) in &merged.stale {
        let told: BTreeMap<&Bytes, Version> = replies
            .iter()
            .filter(|reply| reply.node == *node)
            .flat_map(|reply| &reply.rows)
            .map(|row| (&row.key.sort, row.record.version))
            .collect();
        for place in places {
            let version = merged.rows.get(*place).and_then(|row| told.get(&row.key.sort).copied());
            behind.entry(*place).or_default().push((*node, version));
        }
    }
    let mismatch = |(place, behind): (usize, _)| {
        let row = merged.rows.get(place)?;
        Some(Mismatch { sort: row.key.sort.clone(), winner: row.record.version, behind })
    };
    behind.into_iter().filter_map(mismatch).collect()
}

/// What brings a node up to date: the rows it was seen to lack, or all of them where it was not asked.
fn lacking(merged: &Merged, node: NodeId) -> Vec<Row> {
    match merged.stale.get(&node) {
        Some(places) => places.iter().filter_map(|place| merged.rows.get(*place).cloned()).collect(),
        None => merged.rows.clone(),
    }
}

#[cfg(test)]
mod tests;
