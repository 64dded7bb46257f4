//! The decisions of one row's read.
//!
//! Plain code: answers come in, the next step comes out. What it keeps true:
//!
//! - the answer is the newest record among replicas that meet the level in the read set;
//! - above ONE, it is returned only when the level holds it, durably, in every set that is written: so no later read at
//!   such a level, by an older or a newer map, can take it back. Stale and absent replicas that were asked are brought
//!   up to date first; while replicas change, so is the other set;
//! - a replica that refuses is replaced by another one while there is one.

mod slow;

use cube_storage::model::{
    Epoch, Hlc, Mutation, NodeId, Outcome, PartitionId, Record, RecordHeader, RowKey, TableId, Version,
};

use crate::consistency::Level;
use crate::coordinator::confirm::{Confirmation, Next};
use crate::coordinator::error::{Failure, Incomplete, RequestError};
use crate::messages::{Found, Want};
use crate::quorum::{State, Tracker, ask};
use crate::topology::{DataCenter, PartitionMap, ReplicaSets};

/// How often a read follows a changed map before it gives up.
const REROUTES_MAX: u32 = 8;

/// What is to be done next.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    /// Wait.
    Nothing,
    /// Ask these nodes.
    Ask(Vec<(NodeId, Want)>),
    /// Bring these nodes up to date with the record, on behalf of a replica with this purge floor.
    Repair { record: Record, floor: Hlc, targets: Vec<NodeId> },
    /// Find the partition's newest map, which is at least this, and begin again.
    Reroute(Epoch),
    /// Tell the client.
    Done(Result<Option<Record>, RequestError>),
}

struct Heard {
    node: NodeId,
    found: Found,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Until the level has answered, and the newest record is here.
    Asking,
    /// Until the level holds it.
    Confirming,
    Decided,
}

/// The read of one row.
pub(super) struct Row {
    pub(super) table: TableId,
    pub(super) key: RowKey,
    pub(super) partition: PartitionId,
    pub(super) claim: Epoch,
    level: Level,
    local: DataCenter,
    read_sets: ReplicaSets,
    write_sets: ReplicaSets,
    /// Those that may be asked, the best liked first. Those that refused are taken out.
    candidates: Vec<NodeId>,
    /// Live members of the other set, which are written and not read.
    newcomers: Vec<NodeId>,
    asked: Vec<NodeId>,
    /// Those whose digest won, and that were asked for the record.
    fetching: Vec<NodeId>,
    heard: Vec<Heard>,
    tracker: Tracker,
    failures: Vec<(NodeId, Failure)>,
    fenced: Option<Epoch>,
    reroutes: u32,
    phase: Phase,
    winner: Option<Winner>,
    /// Bytes of the record that the client is told.
    answer_bytes: usize,
    /// Whoever was asked for the record first, until it answers.
    awaiting: Option<NodeId>,
    /// Those that let it wait, and those that were asked because of that.
    slow: Vec<NodeId>,
    hedged: Vec<NodeId>,
    /// It was decided by those, before the slow ones answered.
    pub(super) hedge_helped: bool,
    /// Answers that told of something else than the newest.
    pub(super) stale: usize,
    /// All were asked: who holds what was returned is told to whoever brings the others up to date.
    is_watched: bool,
    pub(super) holders: Vec<NodeId>,
}

/// The newest record, on its way to be held by the level.
struct Winner {
    record: Record,
    floor: Hlc,
    confirmation: Confirmation,
}

impl Row {
    pub(super) fn new(
        table: TableId,
        key: RowKey,
        partition: PartitionId,
        map: &PartitionMap,
        level: Level,
        local: &DataCenter,
    ) -> Self {
        let read_sets = map.read_sets();
        Self {
            table,
            key,
            partition,
            claim: map.epoch(),
            level,
            local: local.clone(),
            tracker: Tracker::new(level, &read_sets, local.clone()),
            write_sets: map.write_sets(),
            read_sets,
            candidates: Vec::new(),
            newcomers: Vec::new(),
            asked: Vec::new(),
            fetching: Vec::new(),
            heard: Vec::new(),
            failures: Vec::new(),
            fenced: None,
            reroutes: 0,
            phase: Phase::Asking,
            winner: None,
            answer_bytes: 0,
            awaiting: None,
            slow: Vec::new(),
            hedged: Vec::new(),
            hedge_helped: false,
            stale: 0,
            is_watched: false,
            holders: Vec::new(),
        }
    }

    /// Those that hold the row, for whoever puts them in order of preference.
    pub(super) fn replicas(&self) -> Vec<NodeId> {
        self.read_sets.nodes().collect()
    }

    pub(super) fn is_decided(&self) -> bool {
        self.phase == Phase::Decided
    }

    /// Whether answers still count.
    fn is_asking(&self) -> bool {
        self.phase == Phase::Asking
    }

    /// Bytes of the records that are here: those that may win, the one that is to be confirmed, or the answer.
    pub(super) fn record_bytes(&self) -> usize {
        let winner = self.winner.as_ref().map(|winner| &winner.record);
        let heard = self.heard.iter().filter_map(|heard| heard.found.record.as_ref());
        self.answer_bytes + heard.chain(winner).map(Record::encoded_len).sum::<usize>()
    }

    /// Bytes of a record that came, if it is one to be kept: nothing newer is known of.
    pub(super) fn bytes_of(&self, found: &Found) -> usize {
        match &found.record {
            Some(record) if self.is_asking() && Some(record.version) >= self.newest() => record.encoded_len(),
            _ => 0,
        }
    }

    fn newest(&self) -> Option<Version> {
        self.heard.iter().filter_map(|heard| heard.found.header).map(|header| header.version).max()
    }

    /// What identifies a record that lost is enough: the record would only take room from others.
    fn drop_superseded(&mut self) {
        let newest = self.newest();
        for heard in &mut self.heard {
            if heard.found.header.map(|header| header.version) < newest {
                heard.found.record = None;
            }
        }
    }

    /// Those that are written and not read: they can only be brought what is confirmed.
    pub(super) fn newcomers(&self) -> Vec<NodeId> {
        self.write_sets.nodes().filter(|node| !self.read_sets.contains(*node)).collect()
    }

    /// Begins, with those that may be asked, the best liked first, and with the newcomers that live.
    pub(super) fn begin(&mut self, candidates: Vec<NodeId>, newcomers: Vec<NodeId>) -> Step {
        self.candidates = candidates;
        self.newcomers = newcomers;
        self.ask_more()
    }

    /// Begins again by another map. Whether it is worth it.
    pub(super) fn reroute(&mut self, map: &PartitionMap) -> bool {
        let reroutes = self.reroutes + 1;
        if reroutes > REROUTES_MAX {
            // The client is told what stood in the way, not that nothing did.
            return false;
        }
        let mut fresh = Self::new(self.table, self.key.clone(), self.partition, map, self.level, &self.local);
        fresh.reroutes = reroutes;
        *self = fresh;
        true
    }

    /// The newest map that a replica has fenced, where that stood in the way.
    pub(super) fn fenced(&self) -> Option<Epoch> {
        self.fenced
    }

    /// A replica told what it holds.
    pub(super) fn on_found(&mut self, node: NodeId, found: Found) -> Step {
        if self.phase != Phase::Asking {
            return Step::Nothing;
        }
        match self.heard.iter_mut().find(|heard| heard.node == node) {
            Some(heard) => heard.found = found,
            None => self.heard.push(Heard { node, found }),
        }
        self.fetching.retain(|fetching| *fetching != node);
        self.awaiting = self.awaiting.filter(|awaiting| *awaiting != node);
        self.drop_superseded();
        self.tracker.ack(node);
        self.compare()
    }

    /// A replica did not tell. While the level is to confirm, nobody waits for it any more.
    pub(super) fn on_failure(&mut self, node: NodeId, failure: Failure) -> Step {
        if self.phase != Phase::Asking {
            return Step::Nothing;
        }
        self.note_failure(node, failure);
        self.candidates.retain(|candidate| *candidate != node);
        self.fetching.retain(|fetching| *fetching != node);
        self.awaiting = self.awaiting.filter(|awaiting| *awaiting != node);
        self.heard.retain(|heard| heard.node != node);
        self.recount();
        // It may be that nobody else need be asked: it failed when the others had answered already.
        match self.ask_more() {
            Step::Nothing => self.compare(),
            step => step,
        }
    }

    /// A replica that was to be brought up to date answered.
    pub(super) fn on_repaired(&mut self, node: NodeId, outcome: Result<Outcome, Failure>) -> Step {
        let (Phase::Confirming, Some(winner)) = (self.phase, &mut self.winner) else { return Step::Nothing };
        let next = match outcome {
            Ok(outcome) if outcome.holds() => winner.confirmation.on_held(node),
            outcome => {
                let next = winner.confirmation.on_failed(node);
                self.note_failure(node, unrepaired(outcome));
                next
            }
        };
        self.confirm(next)
    }

    fn note_failure(&mut self, node: NodeId, failure: Failure) {
        if let Failure::Fenced(epoch) = failure {
            self.fenced = self.fenced.max(Some(epoch));
        }
        self.failures.push((node, failure));
    }

    /// The time is over.
    pub(super) fn on_deadline(&mut self) -> Step {
        if self.is_decided() { Step::Nothing } else { self.give_up(true) }
    }

    /// Ends the read because of what stands in the way.
    pub(super) fn refuse(&mut self, error: RequestError) -> Step {
        self.phase = Phase::Decided;
        self.heard.clear();
        self.winner = None;
        Step::Done(Err(error))
    }

    pub(super) fn give_up(&mut self, timed_out: bool) -> Step {
        let tracker = self.winner.as_ref().map_or(&self.tracker, |winner| winner.confirmation.tracker());
        let acknowledged_by = tracker.acknowledged().collect();
        let missing = tracker.short();
        self.refuse(RequestError::ReadIncomplete(Box::new(Incomplete {
            write: false,
            level: self.level,
            acknowledged_by,
            missing,
            timed_out: timed_out || Incomplete::any_timed_out(&self.failures),
            failures: self.failures.clone(),
            account: None,
        })))
    }

    /// The rows that bring a replica up to date, counted by the same map as the answer.
    pub(super) fn repair(&self, record: &Record) -> Mutation {
        Mutation { table: self.table, key: self.key.clone(), record: record.clone(), claim: Some(self.claim) }
    }

    /// Counts anew: a replica that answered once and failed when it was asked for the record counts no more.
    fn recount(&mut self) {
        self.tracker = Tracker::new(self.level, &self.read_sets, self.local.clone());
        self.heard.iter().for_each(|heard| self.tracker.ack(heard.node));
        self.failures.iter().for_each(|(node, _)| self.tracker.fail(*node));
    }

    /// Asks as few as the level needs of those that are left: the first for the record, the others for its digest.
    fn ask_more(&mut self) -> Step {
        let chosen = match ask(self.level, &self.read_sets, &self.local, &self.candidates) {
            Ok(chosen) => chosen,
            Err(_) => {
                return match self.fenced {
                    Some(epoch) => Step::Reroute(epoch),
                    None => self.give_up(false),
                };
            }
        };
        let nobody_yet = self.asked.is_empty();
        let fresh: Vec<NodeId> = chosen.into_iter().filter(|node| !self.asked.contains(node)).collect();
        self.asked.extend(&fresh);
        if nobody_yet {
            self.awaiting = fresh.first().copied();
        }
        let wanted = |(place, node)| (node, if nobody_yet && place == 0 { Want::Record } else { Want::Header });
        match fresh.is_empty() {
            true => Step::Nothing,
            false => Step::Ask(fresh.into_iter().enumerate().map(wanted).collect()),
        }
    }

    /// Once the level has answered: finds the newest record, or asks for it.
    fn compare(&mut self) -> Step {
        if self.tracker.state() != State::Met {
            return Step::Nothing;
        }
        let Some(newest) = self.newest() else {
            self.judge_hedge();
            return self.finish(None);
        };
        // Two clients may have chosen the same version: then the records decide.
        let mut contenders: Vec<RecordHeader> = Vec::new();
        for header in self.heard.iter().filter_map(|heard| heard.found.header) {
            if header.version == newest && !contenders.contains(&header) {
                contenders.push(header);
            }
        }
        let mut winner: Option<(&Record, RecordHeader, Hlc)> = None;
        let mut unseen = Vec::new();
        for header in contenders {
            let mut holders = self.heard.iter().filter(|heard| heard.found.header == Some(header));
            match holders.clone().find_map(|heard| Some((heard.found.record.as_ref()?, heard.found.floor))) {
                Some((record, floor)) => match winner {
                    Some((best, _, _)) if best.supersedes(record) => {}
                    _ => winner = Some((record, header, floor)),
                },
                None => {
                    let quick = holders.clone().find(|heard| !self.slow.contains(&heard.node));
                    unseen.extend(quick.or_else(|| holders.next()).map(|heard| heard.node));
                }
            }
        }
        match winner {
            Some((record, header, floor)) if unseen.is_empty() => {
                let record = record.clone();
                self.decide(record, header, floor)
            }
            _ => self.fetch(unseen),
        }
    }

    /// Asks for records that only digests are known of, each once; not while a record is on its way that may be the one.
    fn fetch(&mut self, mut nodes: Vec<NodeId>) -> Step {
        if self.awaiting.is_some_and(|awaiting| !self.slow.contains(&awaiting)) {
            return Step::Nothing;
        }
        nodes.retain(|node| !self.fetching.contains(node));
        self.fetching.extend(&nodes);
        match nodes.is_empty() {
            true => Step::Nothing,
            false => Step::Ask(nodes.into_iter().map(|node| (node, Want::Record)).collect()),
        }
    }

    /// The newest record is here: returns it if the level holds it, or sees to that first.
    fn decide(&mut self, record: Record, header: RecordHeader, floor: Hlc) -> Step {
        self.judge_hedge();
        self.stale = self.heard.iter().filter(|heard| heard.found.header != Some(header)).count();
        if matches!(self.level, Level::One | Level::LocalOne) {
            return self.finish(Some(record));
        }
        let holds = |heard: &&Heard| heard.found.header == Some(header);
        let holders: Vec<NodeId> = self.heard.iter().filter(holds).map(|heard| heard.node).collect();
        let behind: Vec<NodeId> = self.heard.iter().filter(|heard| !holds(heard)).map(|heard| heard.node).collect();
        let sets = (&self.read_sets, &self.write_sets);
        let (confirmation, next) = Confirmation::begin(
            self.level,
            sets,
            &self.local,
            (&holders, &behind),
            (&self.candidates, &self.newcomers),
        );
        self.phase = Phase::Confirming;
        self.heard.clear();
        self.winner = Some(Winner { record, floor, confirmation });
        self.confirm(next)
    }

    fn confirm(&mut self, next: Next) -> Step {
        match (next, &self.winner) {
            (Next::Wait, _) | (_, None) => Step::Nothing,
            (Next::Bring(targets), Some(Winner { record, floor, .. })) => {
                Step::Repair { record: record.clone(), floor: *floor, targets }
            }
            (Next::Confirmed, Some(confirmed)) => {
                if self.is_watched {
                    self.holders = confirmed.confirmation.tracker().acknowledged().collect();
                }
                let winner = self.winner.take().map(|winner| winner.record);
                self.finish(winner)
            }
            (Next::Impossible, Some(_)) => match self.fenced {
                Some(epoch) => Step::Reroute(epoch),
                None => self.give_up(false),
            },
        }
    }

    fn finish(&mut self, record: Option<Record>) -> Step {
        self.phase = Phase::Decided;
        self.heard.clear();
        self.answer_bytes = record.as_ref().map_or(0, Record::encoded_len);
        Step::Done(Ok(record))
    }
}

/// Why a replica that was brought a record does not hold it.
fn unrepaired(outcome: Result<Outcome, Failure>) -> Failure {
    match outcome {
        Err(failure) => failure,
        Ok(Outcome::Fenced(epoch)) => Failure::Fenced(epoch),
        Ok(Outcome::BelowFloor(floor)) => Failure::BelowFloor(floor),
        Ok(Outcome::Applied | Outcome::Present | Outcome::Superseded(_) | Outcome::LostUpTo(_)) => Failure::Nonsense,
    }
}

#[cfg(test)]
mod tests;
