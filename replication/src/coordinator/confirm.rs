//! Before a read above ONE returns something: that the level holds it, durably, in every set that is written.
//!
//! Plain code, shared by reads of rows and of ranges. Replicas that were asked and are behind are brought up to date;
//! one that cannot be is replaced by another while there is one, so that a confirmation always ends.

use cube_storage::model::NodeId;

use crate::consistency::Level;
use crate::quorum::{State, Tracker};
use crate::topology::{DataCenter, ReplicaSets};

/// What is to be done next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Wait for those that were brought what is to be held.
    Wait,
    /// Bring it to these.
    Bring(Vec<NodeId>),
    /// The level holds it.
    Confirmed,
    /// The level cannot hold it any more.
    Impossible,
}

/// Counts who holds what is to be returned.
#[derive(Clone, Debug)]
pub(super) struct Confirmation {
    tracker: Tracker,
    /// Those that were brought it and have not answered.
    outstanding: Vec<NodeId>,
    /// Live replicas that are read and were not brought it.
    spare: Vec<NodeId>,
    /// Live replicas that are only written.
    newcomers: Vec<NodeId>,
    /// Those believed dead: the last hope.
    dead: Vec<NodeId>,
}

impl Confirmation {
    /// Begins with those known to hold it. Those that were asked and are behind are to be brought it, and while replicas
    /// change as many others as the level needs in the other set. The last are the live replicas that are read, in the order
    /// of preference, and those that are only written.
    pub(super) fn begin(
        level: Level,
        (read_sets, write_sets): (&ReplicaSets, &ReplicaSets),
        local: &DataCenter,
        (holders, behind): (&[NodeId], &[NodeId]),
        (candidates, newcomers): (&[NodeId], &[NodeId]),
    ) -> (Self, Next) {
        let mut tracker = Tracker::new(level, write_sets, local.clone());
        holders.iter().for_each(|node| tracker.ack(*node));
        let unused = |node: &NodeId| !holders.contains(node) && !behind.contains(node);
        let spare = candidates.iter().copied().filter(unused).collect();
        let newcomers: Vec<NodeId> = newcomers.iter().copied().filter(unused).collect();
        // New members of the other set take writes and answer no reads, so they are not among the candidates.
        let others = write_sets.nodes().filter(|node| !read_sets.contains(*node));
        let dead = others.filter(|node| !newcomers.contains(node)).filter(unused).collect();
        let mut confirmation = Self { tracker, outstanding: behind.to_vec(), spare, newcomers, dead };
        let next = match confirmation.next() {
            Next::Wait => Next::Bring(behind.to_vec()),
            Next::Bring(more) => Next::Bring([behind, &more].concat()),
            next @ (Next::Confirmed | Next::Impossible) => next,
        };
        (confirmation, next)
    }

    /// A replica holds it.
    pub(super) fn on_held(&mut self, node: NodeId) -> Next {
        self.outstanding.retain(|waited_for| *waited_for != node);
        self.tracker.ack(node);
        self.next()
    }

    /// A replica could not be brought it.
    pub(super) fn on_failed(&mut self, node: NodeId) -> Next {
        self.outstanding.retain(|waited_for| *waited_for != node);
        self.tracker.fail(node);
        self.next()
    }

    /// Waits only while those that are waited for would be enough; brings it to others otherwise.
    fn next(&mut self) -> Next {
        if self.tracker.state() == State::Met {
            return Next::Confirmed;
        }
        let mut hoped = self.tracker.clone();
        self.outstanding.iter().for_each(|node| hoped.ack(*node));
        let mut more = Vec::new();
        while hoped.state() != State::Met {
            let chosen = self.choose(&hoped);
            if chosen.is_empty() {
                return Next::Impossible;
            }
            chosen.iter().for_each(|node| hoped.ack(*node));
            more.extend(chosen);
        }
        self.outstanding.extend(&more);
        if more.is_empty() { Next::Wait } else { Next::Bring(more) }
    }

    /// The next to be brought it. Of the live newcomers all that help, for a silent one is told from a slow one only when
    /// the time is over; those believed dead when nobody else is left.
    fn choose(&mut self, hoped: &Tracker) -> Vec<NodeId> {
        if let Some(place) = self.spare.iter().position(|node| brings_nearer(hoped, *node)) {
            return vec![self.spare.remove(place)];
        }
        let chosen: Vec<NodeId> = self.newcomers.extract_if(.., |node| brings_nearer(hoped, *node)).collect();
        match self.dead.iter().position(|node| brings_nearer(hoped, *node)) {
            Some(place) if chosen.is_empty() => vec![self.dead.remove(place)],
            _ => chosen,
        }
    }

    pub(super) fn tracker(&self) -> &Tracker {
        &self.tracker
    }
}

/// Whether the level needs less once this one holds it: in another set or data center it would not count.
fn brings_nearer(tracker: &Tracker, node: NodeId) -> bool {
    let missing = |tracker: &Tracker| tracker.missing().iter().map(|missing| missing.replicas).sum::<usize>();
    let mut with = tracker.clone();
    with.ack(node);
    missing(&with) < missing(tracker)
}
