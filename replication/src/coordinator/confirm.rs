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
    /// Live replicas that were not brought it.
    spare: Vec<NodeId>,
}

impl Confirmation {
    /// Begins with those known to hold it. Those that were asked and are behind are to be brought it, and while replicas
    /// change as many others as the level needs in the other set.
    pub(super) fn begin(
        level: Level,
        (read_sets, write_sets): (&ReplicaSets, &ReplicaSets),
        local: &DataCenter,
        (holders, behind): (&[NodeId], &[NodeId]),
        candidates: &[NodeId],
    ) -> (Self, Next) {
        let mut tracker = Tracker::new(level, write_sets, local.clone());
        holders.iter().for_each(|node| tracker.ack(*node));
        let used = |node: &NodeId| holders.contains(node) || behind.contains(node);
        // New members of the other set take writes and answer no reads, so they are not among the candidates.
        let others = write_sets.nodes().filter(|node| !read_sets.contains(*node));
        let spare = candidates.iter().copied().chain(others).filter(|node| !used(node)).collect();
        let mut confirmation = Self { tracker, outstanding: behind.to_vec(), spare };
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
        self.spare.retain(|spare| *spare != node);
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
            let Some(place) = self.spare.iter().position(|spare| brings_nearer(&hoped, *spare)) else {
                return Next::Impossible;
            };
            let spare = self.spare.remove(place);
            hoped.ack(spare);
            more.push(spare);
        }
        self.outstanding.extend(&more);
        if more.is_empty() { Next::Wait } else { Next::Bring(more) }
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
