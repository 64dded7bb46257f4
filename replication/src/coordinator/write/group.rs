//! The decisions of one write: the rows of one partition key on their way to their replicas.
//!
//! Plain code: answers and time go in, the next step comes out. What it keeps true:
//!
//! - it succeeds only when the level is met in every replica set, by replicas that hold the rows durably;
//! - if any answer among those that met the level told of a newer version, the rows are stamped once more, above it,
//!   and sent again; in that second round a newer version counts as holding, so two writers never duel;
//! - a version the client chose is never replaced;
//! - it is refused only when no replica can ever hold the rows, and else told as unknown, with everybody who said that it
//!   holds them, by whichever map it was asked;
//! - it succeeds only when all that is known to be missing is durably noted.

use std::sync::Arc;

use cube_storage::model::{Epoch, Hlc, Mutation, NodeId, Outcome, PartitionId, Version};

use crate::consistency::Level;
use crate::coordinator::error::{Failure, Incomplete, RequestError};
use crate::coordinator::explain::Account;
use crate::handoff::{Kept, NotKept};
use crate::messages::Stamp;
use crate::quorum::{State, Tracker};
use crate::topology::{DataCenter, PartitionMap, ReplicaSets};
use crate::transport::PeerError;

/// How often a write follows a changed map before it gives up: each time somebody fenced a newer one meanwhile.
const REROUTES_MAX: u32 = 8;

/// What came of the group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// The version the rows have now, or had until something newer came.
    pub version: Version,
    /// Replicas that hold the rows, or something newer, durably.
    pub acknowledged_by: Vec<NodeId>,
    /// Replicas that were known to be missing, and how that is noted.
    pub noted_for: Vec<(NodeId, Kept)>,
    /// A newer version that some replica holds: what the client wrote is not what is read.
    pub superseded_by: Option<Version>,
    /// What was done for the whole request, where that was asked for.
    pub account: Option<Arc<Account>>,
}

/// What a replica answered to the rows of a group.
#[derive(Clone, Debug)]
pub(super) enum Answer<'a> {
    Outcomes(&'a [Outcome]),
    Failed(Failure),
}

/// What is to be done next.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    /// Wait.
    Nothing,
    /// Stamp again, above this version, and send again.
    Restamp(Version),
    /// Find the partition's newest map, which is at least this, and send by it.
    Reroute(Epoch),
    /// Tell the client.
    Done(Result<Written, RequestError>),
    /// Note what this replica missed.
    Note {
        node: NodeId,
        /// The hint may be the only copy there is: a mark will not do.
        only_copy: bool,
    },
}

/// Where the first version of a write comes from.
#[derive(Clone, Copy, Debug)]
pub(super) enum Source {
    /// The coordinator's clock.
    Clock(Version),
    /// The coordinator's clock, above the last version that the client saw.
    After { version: Version, seen: Version },
    /// The client.
    Client(Version),
}

impl Source {
    pub(super) fn version(self) -> Version {
        match self {
            Self::Clock(version) | Self::After { version, .. } | Self::Client(version) => version,
        }
    }

    fn stamp(self) -> Stamp {
        match self {
            Self::Clock(_) | Self::Client(_) => Stamp::New,
            Self::After { seen, .. } => Stamp::Succeeds(seen),
        }
    }
}

/// What was sent of the present version by older maps, and left behind.
#[derive(Default)]
struct Earlier {
    /// Replicas that acknowledged it. They hold it, though it does not count by the map there is now.
    holders: Vec<NodeId>,
    /// Others may hold it, or may yet.
    may_be_held: bool,
}

/// One write of the rows of one partition key.
pub(super) struct Group {
    pub(super) partition: PartitionId,
    pub(super) mutations: Vec<Mutation>,
    pub(super) stamp: Stamp,
    version: Version,
    /// Counts the times the rows were sent: what answers an earlier time is no answer to this one.
    round: u32,
    chosen_by_client: bool,
    restamped: bool,
    level: Level,
    local: DataCenter,
    sets: ReplicaSets,
    tracker: Tracker,
    /// The greatest version that superseded the rows in this round.
    newer: Option<Version>,
    /// Replicas that hold nothing of this round: their purge floor is above it. The next stamp is above the floor.
    below_floor: Vec<NodeId>,
    /// The newest map that a replica has fenced.
    fenced: Option<Epoch>,
    reroutes: u32,
    earlier: Earlier,
    failures: Vec<(NodeId, Failure)>,
    /// Replicas whose note must be durable before the client is told.
    notes_awaited: Vec<NodeId>,
    /// Replicas whose note was asked for in this round, done or not.
    noting: Vec<NodeId>,
    noted: Vec<(NodeId, Kept)>,
    decided: Option<bool>,
}

impl Group {
    pub(super) fn new(
        partition: PartitionId,
        map: &PartitionMap,
        mutations: Vec<Mutation>,
        source: Source,
        level: Level,
        local: &DataCenter,
    ) -> Self {
        let sets = map.write_sets();
        let mut group = Self {
            partition,
            mutations,
            stamp: source.stamp(),
            version: source.version(),
            round: 0,
            chosen_by_client: matches!(source, Source::Client(_)),
            restamped: false,
            level,
            local: local.clone(),
            tracker: Tracker::new(level, &sets, local.clone()),
            sets,
            newer: None,
            below_floor: Vec::new(),
            fenced: None,
            reroutes: 0,
            earlier: Earlier::default(),
            failures: Vec::new(),
            notes_awaited: Vec::new(),
            noting: Vec::new(),
            noted: Vec::new(),
            decided: None,
        };
        group.claim(map.epoch());
        group
    }

    /// Every replica that is to get the rows.
    pub(super) fn replicas(&self) -> Vec<NodeId> {
        self.sets.nodes().collect()
    }

    /// Answers and notes name the round they belong to.
    pub(super) fn round(&self) -> u32 {
        self.round
    }

    pub(super) fn level(&self) -> Level {
        self.level
    }

    /// The newest map that a replica has fenced, where that stood in the way.
    pub(super) fn fenced(&self) -> Option<Epoch> {
        self.fenced
    }

    pub(super) fn is_decided(&self) -> bool {
        self.decided.is_some()
    }

    /// The client was told that it is unknown: nothing more is sent.
    pub(super) fn has_failed(&self) -> bool {
        self.decided == Some(false)
    }

    /// A replica is not asked, because it is believed dead. What it misses must be noted before the client is told.
    pub(super) fn skip(&mut self, node: NodeId) {
        self.notes_awaited.push(node);
        self.noting.push(node);
        self.fail(node, Failure::Down);
    }

    /// A replica answered to the present round.
    pub(super) fn on_answer(&mut self, node: NodeId, answer: Answer<'_>) -> Step {
        let failure = match answer {
            Answer::Outcomes(outcomes) if outcomes.len() == self.mutations.len() => self.judge(node, outcomes),
            Answer::Outcomes(_) => Some(Failure::Nonsense),
            Answer::Failed(failure) => Some(failure),
        };
        match failure {
            None => self.tracker.ack(node),
            Some(failure) => {
                self.fail(node, failure);
                match (self.decided, self.level) {
                    (Some(true), _) => return self.note(node, false).unwrap_or(Step::Nothing),
                    (None, Level::Any) => {
                        self.notes_awaited.push(node);
                        return self.note(node, true).unwrap_or(Step::Nothing);
                    }
                    (None | Some(false), _) => {}
                }
            }
        }
        self.next()
    }

    /// After success: notes for the replicas that had failed the write before.
    pub(super) fn note_failed(&mut self) -> Vec<Step> {
        let failed: Vec<NodeId> = self.tracker.failed().collect();
        failed.into_iter().filter_map(|node| self.note(node, false)).collect()
    }

    /// Asks for a replica's note, once a round.
    fn note(&mut self, node: NodeId, only_copy: bool) -> Option<Step> {
        if self.noting.contains(&node) {
            return None;
        }
        self.noting.push(node);
        Some(Step::Note { node, only_copy })
    }

    /// What a replica missed is noted, or cannot be.
    pub(super) fn on_noted(&mut self, node: NodeId, only_copy: bool, kept: Result<Kept, NotKept>) -> Step {
        self.notes_awaited.retain(|awaited| *awaited != node);
        match kept {
            Ok(kept) => {
                self.noted.push((node, kept));
                // Any other hint may end before its target is back.
                if kept == Kept::Hint && only_copy {
                    self.tracker.hint_durable();
                }
            }
            // No room for an only copy: a mark will do if some replica takes the rows.
            Err(_) if self.level == Level::Any && only_copy => {
                self.tracker.hint_refused();
                self.notes_awaited.push(node);
                return Step::Note { node, only_copy: false };
            }
            Err(error) if self.decided.is_none() => {
                self.decided = Some(false);
                return Step::Done(Err(RequestError::NotNoted { target: error.target, cause: error.cause }));
            }
            Err(_) => {}
        }
        self.next()
    }

    /// The time is over. Replicas not heard of are noted if the write succeeded; if not, it is unknown.
    pub(super) fn on_deadline(&mut self) -> Vec<Step> {
        match self.decided {
            Some(true) => {
                let silent: Vec<NodeId> = self.tracker.silent().collect();
                silent.into_iter().filter_map(|node| self.note(node, false)).collect()
            }
            Some(false) => Vec::new(),
            None => {
                self.decided = Some(false);
                vec![Step::Done(Err(self.incomplete(true)))]
            }
        }
    }

    /// The rows have a new version, above all that superseded them, and are to be sent once more.
    pub(super) fn restamp(&mut self, version: Version, succeeds: Version) {
        self.version = version;
        self.stamp = Stamp::Succeeds(succeeds);
        self.restamped = true;
        self.earlier = Earlier::default();
        for mutation in &mut self.mutations {
            mutation.record.version = version;
        }
        self.begin_round();
    }

    /// The partition has another map. Whether the write goes on by it.
    pub(super) fn reroute(&mut self, map: &PartitionMap) -> bool {
        self.reroutes += 1;
        if self.reroutes > REROUTES_MAX {
            return false;
        }
        self.earlier.may_be_held |= self.tracker.silent().next().is_some() || self.may_be_held();
        self.earlier.holders = self.holders();
        self.sets = map.write_sets();
        self.fenced = None;
        self.claim(map.epoch());
        self.begin_round();
        true
    }

    /// Ends the write without success: some replica may hold the rows.
    pub(super) fn give_up(&mut self) -> Step {
        self.decided = Some(false);
        Step::Done(Err(self.incomplete(false)))
    }

    fn begin_round(&mut self) {
        self.round += 1;
        self.tracker = Tracker::new(self.level, &self.sets, self.local.clone());
        self.newer = None;
        self.below_floor.clear();
        self.failures.clear();
        self.notes_awaited.clear();
        self.noting.clear();
        self.noted.clear();
    }

    fn claim(&mut self, epoch: Epoch) {
        for mutation in &mut self.mutations {
            mutation.claim = Some(epoch);
        }
    }

    /// Whether a replica's outcomes are an answer that counts; the reason if not.
    fn judge(&mut self, node: NodeId, outcomes: &[Outcome]) -> Option<Failure> {
        for outcome in outcomes {
            match outcome {
                Outcome::Applied | Outcome::Present => {}
                Outcome::Superseded(newer) => self.newer = self.newer.max(Some(*newer)),
                // What nobody holds any more supersedes nothing, but what was acknowledged may come back from the others.
                Outcome::LostUpTo(lost) if self.may_restamp() => {
                    self.newer = self.newer.max(Some(Version::new(*lost, NodeId(u16::MAX))));
                }
                Outcome::LostUpTo(_) => {}
                Outcome::Fenced(epoch) => {
                    self.fenced = self.fenced.max(Some(*epoch));
                    return Some(Failure::Fenced(*epoch));
                }
                Outcome::BelowFloor(floor) if self.may_restamp() => {
                    self.below_floor.push(node);
                    self.newer = self.newer.max(Some(Version::new(*floor, NodeId(u16::MAX))));
                }
                Outcome::BelowFloor(floor) => {
                    // Some rows may be there from an earlier time that the same message came.
                    self.earlier.may_be_held |= outcomes
                        .iter()
                        .any(|o| matches!(o, Outcome::Applied | Outcome::Present | Outcome::LostUpTo(_)));
                    return Some(Failure::BelowFloor(*floor));
                }
            }
        }
        None
    }

    fn may_restamp(&self) -> bool {
        !self.chosen_by_client && !self.restamped && self.decided.is_none()
    }

    /// A replica does not hold the rows, or this node cannot send them.
    pub(super) fn fail(&mut self, node: NodeId, failure: Failure) {
        self.tracker.fail(node);
        self.failures.retain(|(known, _)| *known != node);
        self.failures.push((node, failure));
    }

    fn next(&mut self) -> Step {
        if self.is_decided() {
            return Step::Nothing;
        }
        match (self.tracker.state(), self.newer) {
            (State::Met, Some(newer)) if self.may_restamp() => Step::Restamp(newer),
            (State::Met, _) if self.notes_awaited.is_empty() => {
                self.decided = Some(true);
                Step::Done(Ok(self.written()))
            }
            (State::Met | State::Pending, _) => Step::Nothing,
            // One hint was refused, another one may still be kept.
            (State::Impossible, _) if self.level == Level::Any && !self.notes_awaited.is_empty() => Step::Nothing,
            (State::Impossible, _) => self.impossible(),
        }
    }

    /// The level cannot be met any more.
    fn impossible(&mut self) -> Step {
        if let Some(epoch) = self.fenced {
            return Step::Reroute(epoch);
        }
        let Some(floor) = self.floor().filter(|_| !self.may_be_held()) else { return self.give_up() };
        if self.tracker.silent().next().is_some() {
            // Whoever answers last decides whether the client is told for certain.
            return Step::Nothing;
        }
        self.decided = Some(false);
        Step::Done(Err(RequestError::BelowFloor { floor }))
    }

    /// The purge floor that stands in the way of the client's own timestamp.
    fn floor(&self) -> Option<Hlc> {
        self.failures.iter().find_map(|(_, failure)| match failure {
            Failure::BelowFloor(floor) if self.chosen_by_client => Some(*floor),
            _ => None,
        })
    }

    /// Whether a replica that is not silent holds the rows, or may: then the write may take effect.
    fn may_be_held(&self) -> bool {
        let may_hold = |(node, failure): &(NodeId, Failure)| match failure {
            // Floors and fences only rise.
            Failure::BelowFloor(_) => false,
            Failure::Fenced(_) | Failure::Peer(PeerError::Unreachable { .. } | PeerError::QueueFull { .. }) => {
                self.noting.contains(node)
            }
            // A hint brings it what it missed. A failed disk may have taken the rows all the same, and whoever refused them
            // may be ready for them when the message comes once more.
            Failure::Down
            | Failure::Refused(_)
            | Failure::Nonsense
            | Failure::Peer(PeerError::Broken { .. } | PeerError::TimedOut { .. }) => true,
        };
        self.earlier.may_be_held || !self.holders().is_empty() || self.failures.iter().any(may_hold)
    }

    /// Everybody who acknowledged the present version, by whichever map.
    fn holders(&self) -> Vec<NodeId> {
        let mut holders = self.acknowledged();
        let earlier = self.earlier.holders.iter().filter(|node| !holders.contains(node)).copied().collect::<Vec<_>>();
        holders.extend(earlier);
        holders
    }

    /// Replicas that hold the rows, or something newer, durably.
    fn acknowledged(&self) -> Vec<NodeId> {
        self.tracker.acknowledged().filter(|node| !self.below_floor.contains(node)).collect()
    }

    fn written(&self) -> Written {
        Written {
            version: self.version,
            acknowledged_by: self.acknowledged(),
            noted_for: self.noted.clone(),
            superseded_by: self.newer,
            account: None,
        }
    }

    fn incomplete(&self, timed_out: bool) -> RequestError {
        RequestError::Unknown(Box::new(Incomplete {
            write: true,
            level: self.level,
            acknowledged_by: self.holders(),
            missing: self.tracker.short(),
            timed_out: timed_out || Incomplete::any_timed_out(&self.failures),
            failures: self.failures.clone(),
            account: None,
        }))
    }
}

#[cfg(test)]
mod tests;
