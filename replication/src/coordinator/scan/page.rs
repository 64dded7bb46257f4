//! The decisions of one page of a table: whom to ask for which partitions, and what their answers say together.
//!
//! Plain code. What it keeps true:
//!
//! - every partition is asked of as many of its replicas as the level needs, each node once for all it is counted for;
//! - the page ends where the first of the answers ended, so no row in front of its end was passed over by anybody;
//! - a row that is told is the newest of what the level's replicas told. Where they differ, and everywhere in a partition
//!   that is changing its replicas, the row is read again by itself, with all that a read promises, before it is told;
//! - a partition that did not reach the level is named, and none of its rows is told.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use cube_storage::keyspace::{after, encode_index_key};
use cube_storage::model::{Epoch, NodeId, PartitionBits, PartitionId, RowKey, TableId};
use cube_storage::scan::Row;

use crate::consistency::Level;
use crate::coordinator::answers::failure_of;
use crate::coordinator::error::{Failure, RequestError};
use crate::coordinator::read::ReadRow;
use crate::messages::{PartitionRun, TablePage};
use crate::quorum::{State, Tracker, ask};
use crate::topology::{DataCenter, PartitionMap, ReplicaSets};

/// How often a partition follows a changed map before it is given up.
const REROUTES_MAX: u32 = 8;

/// What goes to one node.
pub(super) type Ask = (NodeId, Vec<(PartitionId, Epoch)>);

/// What a page is of.
#[derive(Clone, Debug)]
pub(super) struct Scope {
    pub(super) table: TableId,
    pub(super) bits: PartitionBits,
    pub(super) backward: bool,
    pub(super) rows_max: usize,
    pub(super) bytes_max: usize,
    /// Rows that are read by themselves: more cannot be asked for at once.
    pub(super) uncertain_max: usize,
    pub(super) level: Level,
    pub(super) local: DataCenter,
}

/// What the answers say together.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Merged {
    /// In the order of the scan.
    pub(super) rows: Vec<Row>,
    /// Those that are to be read by themselves first.
    pub(super) uncertain: Vec<RowKey>,
    /// Where the next page begins; nothing behind the last row.
    pub(super) next: Option<Bytes>,
    /// Partitions that did not reach the level.
    pub(super) partial: BTreeSet<PartitionId>,
}

struct Part {
    claim: Epoch,
    read_sets: ReplicaSets,
    /// Its replicas do not change: who is read is who is written.
    is_steady: bool,
    tracker: Tracker,
    asked: Vec<NodeId>,
    failed: Vec<NodeId>,
    fenced: Option<Epoch>,
    reroutes: u32,
    fate: Fate,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// Answers that may still come decide.
    Open,
    /// A newer map is waited for.
    Waiting,
    Met,
    Lost,
}

struct Answer {
    partitions: BTreeSet<PartitionId>,
    rows: Vec<Row>,
    stopped: Option<Bytes>,
}

/// One page on its way.
pub(super) struct Page {
    pub(super) scope: Scope,
    /// Those that may be asked, the best liked first.
    preferred: Vec<NodeId>,
    late: Vec<NodeId>,
    parts: BTreeMap<PartitionId, Part>,
    answers: Vec<Answer>,
    pub(super) failures: Vec<(NodeId, Failure)>,
}

impl Part {
    fn new(map: &PartitionMap, scope: &Scope, reroutes: u32) -> Self {
        let read_sets = map.read_sets();
        Self {
            claim: map.epoch(),
            is_steady: map.write_sets().second().is_none(),
            tracker: Tracker::new(scope.level, &read_sets, scope.local.clone()),
            read_sets,
            asked: Vec::new(),
            failed: Vec::new(),
            fenced: None,
            reroutes,
            fate: Fate::Open,
        }
    }
}

impl Page {
    /// A page of these partitions. What there is to be asked is told by [`Page::plan`].
    pub(super) fn new<'a>(
        scope: Scope,
        preferred: Vec<NodeId>,
        maps: impl Iterator<Item = (PartitionId, &'a PartitionMap)>,
    ) -> Self {
        let parts = maps.map(|(partition, map)| (partition, Part::new(map, &scope, 0))).collect();
        Self { scope, preferred, late: Vec::new(), parts, answers: Vec::new(), failures: Vec::new() }
    }

    /// Whom to ask for the partitions that need more answers: as few nodes as there need be.
    pub(super) fn plan(&mut self) -> Vec<Ask> {
        let mut asks: BTreeMap<NodeId, Vec<(PartitionId, Epoch)>> = BTreeMap::new();
        let Self { scope, preferred, late, parts, .. } = self;
        for (partition, part) in parts.iter_mut().filter(|(_, part)| part.fate == Fate::Open) {
            let may_ask = |node: &&NodeId| part.read_sets.contains(**node) && !part.failed.contains(*node);
            let mut liked: Vec<NodeId> = preferred.iter().filter(may_ask).copied().collect();
            // Those that are late may still answer; those that are asked for another partition anyway come first.
            liked.sort_by_key(|node| (late.contains(node), !part.asked.contains(node), !asks.contains_key(node)));
            match ask(scope.level, &part.read_sets, &scope.local, &liked) {
                Ok(chosen) => {
                    for node in chosen.into_iter().filter(|node| !part.asked.contains(node)).collect::<Vec<_>>() {
                        part.asked.push(node);
                        asks.entry(node).or_default().push((*partition, part.claim));
                    }
                }
                Err(_) if part.fenced.is_some() => part.fate = Fate::Waiting,
                Err(_) => part.fate = Fate::Lost,
            }
        }
        asks.into_iter().collect()
    }

    /// A node that was asked for these answered, or will not.
    pub(super) fn on_answer(
        &mut self,
        node: NodeId,
        asked: &[(PartitionId, Epoch)],
        answer: Result<TablePage, Failure>,
    ) {
        let (rows, stopped, refused) = match answer {
            Ok(TablePage { rows, stopped, refused }) => {
                let failed = refused.into_iter().map(|(partition, refusal)| (partition, failure_of(refusal)));
                (rows, stopped, Ok(failed.collect::<BTreeMap<PartitionId, Failure>>()))
            }
            Err(failure) => (Vec::new(), None, Err(failure)),
        };
        let mut partitions = BTreeSet::new();
        let mut first_failure = None;
        for &(partition, claim) in asked {
            let is_open = |part: &&mut Part| part.claim == claim && part.fate == Fate::Open;
            let Some(part) = self.parts.get_mut(&partition).filter(is_open) else { continue };
            let failure = match &refused {
                Ok(refused) => refused.get(&partition),
                Err(failure) => Some(failure),
            };
            match failure {
                None => {
                    part.tracker.ack(node);
                    partitions.insert(partition);
                }
                Some(failure) => {
                    if let Failure::Fenced(epoch) = failure {
                        part.fenced = part.fenced.max(Some(*epoch));
                    }
                    part.failed.push(node);
                    part.tracker.fail(node);
                    first_failure.get_or_insert_with(|| failure.clone());
                }
            }
            if part.tracker.state() == State::Met {
                part.fate = Fate::Met;
            }
        }
        if let Some(failure) = first_failure {
            self.failures.retain(|(other, _)| *other != node);
            self.failures.push((node, failure));
        }
        if !partitions.is_empty() {
            self.answers.push(Answer { partitions, rows, stopped });
        }
    }

    /// These have let it wait for longer than they usually do: [`Page::plan`] asks others where there are some.
    pub(super) fn on_late(&mut self, nodes: &[NodeId]) {
        self.late.extend(nodes);
    }

    /// Partitions that wait for a map that is newer than theirs, and how new it must be.
    pub(super) fn waiting(&self) -> Vec<(PartitionId, Epoch)> {
        let waiting = self.parts.iter().filter(|(_, part)| part.fate == Fate::Waiting);
        waiting.filter_map(|(partition, part)| Some((*partition, part.fenced?))).collect()
    }

    /// A partition has a newer map: it is asked for again. What was told of it by the older one is no answer.
    pub(super) fn reroute(&mut self, partition: PartitionId, map: &PartitionMap) {
        let Some(part) = self.parts.get_mut(&partition) else { return };
        if part.reroutes >= REROUTES_MAX {
            part.fate = Fate::Lost;
            return;
        }
        *part = Part::new(map, &self.scope, part.reroutes + 1);
        self.answers.iter_mut().for_each(|answer| {
            answer.partitions.remove(&partition);
        });
    }

    /// Nobody is waited for any more.
    pub(super) fn give_up(&mut self) {
        let open = self.parts.values_mut().filter(|part| matches!(part.fate, Fate::Open | Fate::Waiting));
        open.for_each(|part| part.fate = Fate::Lost);
    }

    /// Whether every partition is decided.
    pub(super) fn is_decided(&self) -> bool {
        self.parts.values().all(|part| matches!(part.fate, Fate::Met | Fate::Lost))
    }

    /// Whether any partition reached the level.
    pub(super) fn has_any(&self) -> bool {
        self.parts.values().any(|part| part.fate == Fate::Met)
    }

    /// Bytes of the rows that are here.
    pub(super) fn bytes(&self) -> usize {
        self.answers.iter().flat_map(|answer| &answer.rows).map(len_bytes).sum()
    }

    /// What the answers say together; they are used up.
    pub(super) fn merge(&mut self) -> Merged {
        let mut answers = std::mem::take(&mut self.answers);
        answers.retain(|answer| !answer.partitions.is_empty());
        let lost = self.parts.iter().filter(|(_, part)| part.fate != Fate::Met);
        let partial = lost.map(|(partition, _)| *partition).collect();
        let stops = answers.iter().filter_map(|answer| answer.stopped.clone());
        let stop = if self.scope.backward { stops.max() } else { stops.min() };
        let mut told: Vec<(PartitionId, Row)> = Vec::new();
        let mut counts: BTreeMap<PartitionId, usize> = BTreeMap::new();
        for answer in answers {
            answer.partitions.iter().for_each(|partition| *counts.entry(*partition).or_default() += 1);
            let covered = answer.rows.into_iter().map(|row| (self.scope.bits.partition_of(row.key.token()), row));
            let counts_here = |(partition, _): &(PartitionId, Row)| answer.partitions.contains(partition);
            told.extend(covered.filter(counts_here));
        }
        let is_met = |partition: &PartitionId| self.parts.get(partition).is_some_and(|part| part.fate == Fate::Met);
        told.retain(|(partition, row)| is_met(partition) && self.is_covered(&row.key, stop.as_deref()));
        // Stable, and quick on pages that are in order each.
        told.sort_by(|(_, a), (_, b)| if self.scope.backward { b.key.cmp(&a.key) } else { a.key.cmp(&b.key) });
        let mut merged = Merged { rows: Vec::new(), uncertain: Vec::new(), next: stop, partial };
        let mut bytes = 0;
        let mut told = told.into_iter().peekable();
        while let Some((partition, first)) = told.next() {
            let (mut newest, mut holders, mut differs) = (first, 1, false);
            while let Some((_, other)) = told.next_if(|(_, other)| other.key == newest.key) {
                holders += 1;
                differs |= other.record != newest.record;
                if other.record.supersedes(&newest.record) {
                    newest = other;
                }
            }
            bytes += len_bytes(&newest);
            let is_full = merged.rows.len() >= self.scope.rows_max
                || merged.uncertain.len() >= self.scope.uncertain_max
                || bytes > self.scope.bytes_max;
            if let Some(last) = merged.rows.last().filter(|_| is_full) {
                merged.next = Some(self.behind(&last.key));
                break;
            }
            let is_steady = self.parts.get(&partition).is_some_and(|part| part.is_steady);
            let agrees = is_steady && !differs && counts.get(&partition) == Some(&holders);
            if !agrees && !matches!(self.scope.level, Level::One | Level::LocalOne) {
                merged.uncertain.push(newest.key.clone());
            }
            merged.rows.push(newest);
        }
        merged
    }

    /// Puts in what was read of the rows on which replicas differ. A row that found no room ends the page in front of it;
    /// one that could not be read has its partition called partial.
    pub(super) fn settle(&self, merged: &mut Merged, read: Vec<Result<ReadRow, RequestError>>) {
        let keys = std::mem::take(&mut merged.uncertain);
        let mut read: BTreeMap<RowKey, Result<ReadRow, RequestError>> = keys.into_iter().zip(read).collect();
        let mut rows: Vec<Row> = Vec::with_capacity(merged.rows.len());
        let mut behind = None;
        for row in std::mem::take(&mut merged.rows) {
            let before = behind.replace(self.behind(&row.key));
            match read.remove(&row.key) {
                None => rows.push(row),
                Some(Ok(found)) => rows.extend(found.record.map(|record| Row { key: row.key, record })),
                Some(Err(RequestError::AnswerFull { .. })) if before.is_some() => {
                    merged.next = before;
                    break;
                }
                Some(Err(_)) => {
                    merged.partial.insert(self.scope.bits.partition_of(row.key.token()));
                }
            }
        }
        rows.retain(|row| !merged.partial.contains(&self.scope.bits.partition_of(row.key.token())));
        merged.rows = rows;
    }

    /// Nodes that hold any of it.
    pub(super) fn nodes(&self) -> usize {
        self.preferred.len()
    }

    /// Where a page goes on whose last row is this.
    pub(super) fn behind(&self, key: &RowKey) -> Bytes {
        let mut position = Vec::new();
        encode_index_key(self.scope.table, key, &mut position);
        if self.scope.backward { position.into() } else { after(&position).into() }
    }

    /// Whether a row lies in front of where a page stopped.
    fn is_covered(&self, key: &RowKey, stop: Option<&[u8]>) -> bool {
        let Some(stop) = stop else { return true };
        let mut position = Vec::new();
        encode_index_key(self.scope.table, key, &mut position);
        if self.scope.backward { position.as_slice() >= stop } else { position.as_slice() < stop }
    }
}

/// Partitions that follow each other, with one epoch, told together.
pub(super) fn runs(partitions: &[(PartitionId, Epoch)]) -> Vec<PartitionRun> {
    let mut runs: Vec<PartitionRun> = Vec::new();
    for &(partition, epoch) in partitions {
        match runs.last_mut().filter(|run| run.epoch == epoch && run.last.0.checked_add(1) == Some(partition.0)) {
            Some(run) => run.last = partition,
            None => runs.push(PartitionRun { first: partition, last: partition, epoch }),
        }
    }
    runs
}

/// Bytes of a row's key and record.
pub(super) fn len_bytes(row: &Row) -> usize {
    row.key.len_bytes() + row.record.encoded_len()
}

#[cfg(test)]
mod tests;
