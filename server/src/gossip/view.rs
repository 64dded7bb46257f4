//! What this node makes of what it hears: plain code, sightings and the time in, changes out.
//!
//! The protocol knows instances (node, generation, address), this module knows nodes. Invariants: a node is alive when
//! one of its instances is and has not said that it leaves; a node never heard is presumed alive only for a while
//! after the start; silence that this node slept through kills nobody, and never keeps the dead alive for long.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use cube_storage::model::NodeId;

use super::report::OwnReport;
use super::timing::Timing;

/// One start of one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Instance {
    pub(super) node: NodeId,
    pub(super) generation: u64,
    /// Within a generation: gossip itself was started anew.
    pub(super) incarnation: u64,
    pub(super) address: SocketAddr,
}

/// An instance as the protocol sees it now.
#[derive(Clone, Debug)]
pub(super) struct Sighting {
    pub(super) instance: Instance,
    /// By its heartbeats.
    pub(super) live: bool,
    /// It said that it leaves.
    pub(super) left: bool,
    pub(super) name: Arc<str>,
    pub(super) report: Arc<OwnReport>,
}

impl Sighting {
    fn counts(&self) -> bool {
        self.live && !self.left
    }
}

/// Another node as this one sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerView {
    /// Which node.
    pub node: NodeId,
    /// Its name; empty until its report arrived.
    pub name: String,
    /// What [`Membership::is_alive`](cube_replication::membership::Membership::is_alive) answers.
    pub alive: bool,
    /// When that changed last, or when the node was first heard of (monotonic clock of this process).
    pub since_ms: u64,
    /// What it told last.
    pub report: Arc<OwnReport>,
    /// The number of its start.
    pub generation: u64,
    /// Its gossip address.
    pub address: SocketAddr,
    /// Whether it said that it leaves.
    pub left: bool,
}

/// Two live processes under one node id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The id.
    pub node: NodeId,
    /// Generation and gossip address of each.
    pub instances: Vec<(u64, SocketAddr)>,
}

/// What is new.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    /// Who was found alive or dead. A node that is back under a new generation before it was missed is found alive
    /// once more.
    pub(super) found: Vec<(NodeId, bool)>,
    /// Conflicts that were not there before.
    pub(super) conflicts: Vec<Conflict>,
}

#[derive(Debug)]
struct Entry {
    /// `None` until it was found alive or dead.
    found: Option<bool>,
    since_ms: u64,
    /// Since when the protocol does not see it alive.
    silent_since_ms: Option<u64>,
    instance: Instance,
    left: bool,
    name: Arc<str>,
    report: Arc<OwnReport>,
}

/// Everything heard.
#[derive(Debug)]
pub(super) struct View {
    me: Instance,
    timing: Timing,
    presume_until_ms: u64,
    updated_ms: u64,
    hold_until_ms: u64,
    entries: BTreeMap<NodeId, Entry>,
    /// Since when several instances of a node live.
    several_since_ms: BTreeMap<NodeId, u64>,
    conflicts: BTreeMap<NodeId, Conflict>,
}

impl View {
    pub(super) fn new(me: Instance, timing: Timing, now_ms: u64) -> Self {
        Self {
            me,
            presume_until_ms: now_ms.saturating_add(timing.presume_ms),
            timing,
            updated_ms: now_ms,
            hold_until_ms: now_ms,
            entries: BTreeMap::new(),
            several_since_ms: BTreeMap::new(),
            conflicts: BTreeMap::new(),
        }
    }

    /// Takes in what the protocol sees now: every instance it knows but this one.
    pub(super) fn update(&mut self, now_ms: u64, sightings: &[Sighting]) -> Changes {
        if now_ms.saturating_sub(self.updated_ms) > self.timing.pause_ms {
            self.hold_until_ms = now_ms.saturating_add(self.timing.hold_ms);
        }
        self.updated_ms = now_ms;
        let mut by_node: BTreeMap<NodeId, Vec<&Sighting>> = BTreeMap::new();
        for sighting in sightings {
            by_node.entry(sighting.instance.node).or_default().push(sighting);
        }
        let mut changes = Changes { found: Vec::new(), conflicts: self.find_conflicts(now_ms, &by_node) };
        by_node.remove(&self.me.node);
        let unseen: Vec<NodeId> = self.entries.keys().filter(|node| !by_node.contains_key(node)).copied().collect();
        for (node, instances) in by_node {
            let Some(speaker) = speaker(&instances) else { continue };
            changes.found.extend(self.hear(now_ms, node, speaker));
        }
        for node in unseen {
            changes.found.extend(self.judge(now_ms, node, false));
        }
        let forget_ms = self.timing.forget_ms;
        self.entries.retain(|_, entry| entry.found != Some(false) || now_ms.saturating_sub(entry.since_ms) < forget_ms);
        changes
    }

    /// Whether a node of which nothing was ever heard is presumed alive.
    pub(super) fn presumes(&self) -> bool {
        self.updated_ms < self.presume_until_ms
    }

    /// Whether a node was told of so lately that it may not have been heard yet.
    fn is_new(&self, entry: &Entry) -> bool {
        self.updated_ms.saturating_sub(entry.since_ms) < self.timing.hear_ms
    }

    /// All nodes heard of but this one.
    pub(super) fn peers(&self) -> Vec<PeerView> {
        let view = |(node, entry): (&NodeId, &Entry)| PeerView {
            node: *node,
            name: entry.name.to_string(),
            alive: entry.found.unwrap_or_else(|| self.presumes() || self.is_new(entry)),
            since_ms: entry.since_ms,
            report: Arc::clone(&entry.report),
            generation: entry.instance.generation,
            address: entry.instance.address,
            left: entry.left,
        };
        self.entries.iter().map(view).collect()
    }

    /// The nodes found alive, this one included.
    pub(super) fn alive(&self) -> BTreeSet<NodeId> {
        let found = self.entries.iter().filter(|(_, entry)| entry.found == Some(true)).map(|(node, _)| *node);
        found.chain([self.me.node]).collect()
    }

    /// The conflicts that last.
    pub(super) fn conflicts(&self) -> Vec<Conflict> {
        self.conflicts.values().cloned().collect()
    }

    fn hear(&mut self, now_ms: u64, node: NodeId, speaker: &Sighting) -> Option<(NodeId, bool)> {
        let entry = self.entries.entry(node).or_insert_with(|| Entry {
            found: None,
            since_ms: now_ms,
            silent_since_ms: None,
            instance: speaker.instance,
            left: speaker.left,
            name: Arc::clone(&speaker.name),
            report: Arc::clone(&speaker.report),
        });
        let is_new = (entry.instance.generation, entry.instance.incarnation)
            < (speaker.instance.generation, speaker.instance.incarnation);
        let is_back = is_new && entry.found == Some(true) && speaker.counts();
        entry.instance = speaker.instance;
        entry.left = speaker.left;
        entry.name = Arc::clone(&speaker.name);
        entry.report = Arc::clone(&speaker.report);
        self.judge(now_ms, node, speaker.counts()).or(is_back.then_some((node, true)))
    }

    fn judge(&mut self, now_ms: u64, node: NodeId, counts: bool) -> Option<(NodeId, bool)> {
        let (hold_until_ms, hold_ms) = (self.hold_until_ms, self.timing.hold_ms);
        let presumes = self.presumes() || self.is_new(self.entries.get(&node)?);
        let entry = self.entries.get_mut(&node)?;
        if counts {
            entry.silent_since_ms = None;
        } else {
            let silent_ms = now_ms.saturating_sub(*entry.silent_since_ms.get_or_insert(now_ms));
            let spared = match entry.found {
                // A machine that pauses again and again must not keep the dead alive for ever.
                Some(true) => now_ms < hold_until_ms && silent_ms < hold_ms.saturating_mul(2),
                Some(false) => return None,
                None => presumes,
            };
            if spared && !entry.left {
                return None;
            }
        }
        if entry.found == Some(counts) {
            return None;
        }
        entry.found = Some(counts);
        entry.since_ms = now_ms;
        Some((node, counts))
    }

    fn find_conflicts(&mut self, now_ms: u64, by_node: &BTreeMap<NodeId, Vec<&Sighting>>) -> Vec<Conflict> {
        let mut living: BTreeMap<NodeId, Vec<Instance>> = BTreeMap::from([(self.me.node, vec![self.me])]);
        for (node, instances) in by_node {
            let counted = instances.iter().filter(|seen| seen.counts()).map(|seen| seen.instance);
            living.entry(*node).or_default().extend(counted);
        }
        living.retain(|_, instances| instances.len() > 1);
        self.several_since_ms.retain(|node, _| living.contains_key(node));
        self.conflicts.retain(|node, _| living.contains_key(node));
        let mut new = Vec::new();
        for (node, instances) in living {
            let since_ms = *self.several_since_ms.entry(node).or_insert(now_ms);
            // A node killed and started again is seen twice, but the old instance is silent and soon dead.
            if now_ms.saturating_sub(since_ms) < self.timing.conflict_ms {
                continue;
            }
            let instances = instances.iter().map(|instance| (instance.generation, instance.address)).collect();
            let conflict = Conflict { node, instances };
            if self.conflicts.insert(node, conflict.clone()).is_none() {
                new.push(conflict);
            }
        }
        new
    }
}

/// The newest instance that lives speaks for a node; if none does, or the newest of all has left, the newest.
fn speaker<'a>(instances: &[&'a Sighting]) -> Option<&'a Sighting> {
    let newest = instances.iter().max_by_key(|seen| seen.instance)?;
    let living = instances.iter().filter(|seen| seen.counts()).max_by_key(|seen| seen.instance);
    Some(if newest.left { newest } else { living.unwrap_or(newest) })
}

#[cfg(test)]
#[path = "tests/view.rs"]
mod tests;
