//! One batch of a replay: what is read from the log, where it goes, and what its answer means.

use std::collections::BTreeSet;
use std::sync::Arc;

use cube_storage::dirty::Cause;
use cube_storage::hints::{HintError, HintLog, Position, ReadLimits, Stored};
use cube_storage::model::{Mutation, NodeId, Origin, Outcome};

use super::super::HandoffCounters;
use super::super::keeper::{Leaf, bytes_of};
use super::super::pace::Grant;
use super::super::replay::Sent;
use super::super::route::{Destination, destination};
use super::{Asked, BATCH_TIMEOUT_MS, HintReplay, NO_MEMBER, State};
use crate::messages::{HandedHint, Refusal, ReplyBody, RequestBody, Stamp, TakeHints, WriteRows};
use crate::topology::MemberState;

/// A batch under way.
pub(super) struct Batch {
    pub(super) attempt: u64,
    log: Arc<HintLog>,
    /// The rows that were sent, in their order.
    rows: Vec<Row>,
    /// Those between them that were not, in their order.
    unsent: Vec<Unsent>,
    /// Acknowledging this acknowledges all that was read, what nobody misses included.
    through: Position,
    to: NodeId,
    kind: Kind,
}

/// A row of a batch.
#[derive(Clone, Copy)]
struct Row {
    /// Acknowledging this acknowledges the row and all before it.
    after: Position,
    leaf: Leaf,
    bytes: usize,
    only_copy: bool,
}

/// A hint that nobody misses any more. It counts when it has left the log: until then it may be read again.
#[derive(Clone, Copy)]
struct Unsent {
    /// Acknowledging this acknowledges it.
    after: Position,
    why: NotMissed,
}

/// Why nobody misses a hint.
#[derive(Clone, Copy)]
enum NotMissed {
    Table,
    TargetLeft,
    NotReplica,
}

/// Whom a batch went to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Target,
    /// An only copy, to another replica.
    Rerouted,
    /// To another node that keeps it, because this one leaves.
    HandedOver,
}

/// What the answer to a batch means.
pub(super) struct Verdict {
    /// How many rows were taken, from the first on without a gap.
    taken: usize,
    /// What is wrong with the next one.
    wrong: Option<Wrong>,
}

enum Wrong {
    /// It may be taken another time.
    Later(String),
    /// It will not be taken.
    Never(String),
}

impl Verdict {
    pub(super) fn failed(detail: String) -> Self {
        Self { taken: 0, wrong: Some(Wrong::Later(detail)) }
    }

    fn refused(refusal: &Refusal) -> Self {
        Self { taken: 0, wrong: Some(Wrong::of(refusal)) }
    }
}

impl Wrong {
    fn of(refusal: &Refusal) -> Self {
        let detail = refusal.to_string();
        match refusal {
            Refusal::Invalid(_) | Refusal::Damaged(_) => Self::Never(detail),
            _ => Self::Later(detail),
        }
    }
}

impl Batch {
    /// What an answer means.
    pub(super) fn judge(&self, body: Result<ReplyBody, Refusal>) -> Verdict {
        let outcomes: Vec<Result<Outcome, Refusal>> = match body {
            Err(refusal) => return Verdict::refused(&refusal),
            Ok(ReplyBody::TookHints) if self.kind == Kind::HandedOver => {
                return Verdict { taken: self.rows.len(), wrong: None };
            }
            Ok(ReplyBody::Wrote(outcomes)) => outcomes.into_iter().map(Ok).collect(),
            Ok(ReplyBody::WroteSome(outcomes)) => outcomes,
            Ok(_) => return Verdict::failed("it answered another question".into()),
        };
        if outcomes.len() != self.rows.len() {
            return Verdict::failed("it answered for other rows".into());
        }
        // A hint below the purge floor is older than what all replicas were proven to agree on.
        let is_taken = |outcome: &Outcome| outcome.holds() || matches!(outcome, Outcome::BelowFloor(_));
        let taken = outcomes.iter().take_while(|outcome| outcome.as_ref().is_ok_and(is_taken)).count();
        let wrong = outcomes.get(taken).map(|outcome| match outcome {
            Ok(outcome) => Wrong::Later(format!("it answered {outcome:?} to a hint")),
            Err(refusal) => Wrong::of(refusal),
        });
        Verdict { taken, wrong }
    }
}

/// From one look to the next at whether the replicas that an only copy is for have changed.
const MOVING_WAIT_MS: u32 = 1_000;

/// Why nothing is sent.
enum NotLoaded {
    /// The replicas are about to change. It is nobody's failure, and soon over.
    Moving,
    /// Something failed.
    Failed(String),
}

impl From<String> for NotLoaded {
    fn from(detail: String) -> Self {
        Self::Failed(detail)
    }
}

impl From<&str> for NotLoaded {
    fn from(detail: &str) -> Self {
        Self::Failed(detail.to_owned())
    }
}

/// What is read of a log for one batch.
struct Load {
    mutations: Vec<Mutation>,
    created_ms: Vec<u64>,
    rows: Vec<Row>,
    unsent: Vec<Unsent>,
    through: Position,
    to: NodeId,
    kind: Kind,
}

impl Load {
    /// Leaves out a hint that nobody misses.
    fn pass(&mut self, after: Position, why: NotMissed) {
        self.unsent.push(Unsent { after, why });
        self.through = after;
    }
}

impl HintReplay {
    pub(super) fn send_batch(
        &self,
        state: &mut State,
        (target, attempt): (NodeId, u64),
        (records, bytes): (usize, usize),
        now_ms: u64,
    ) {
        let Some(name) = self.name_of(target) else {
            return self.failed(state, target, attempt, NO_MEMBER.into(), now_ms);
        };
        let log = match self.parts.handoff.hints().log(&name) {
            Ok(log) => log,
            Err(error) => return self.failed(state, target, attempt, error.to_string(), now_ms),
        };
        let load = match self.load(state, target, &log, ReadLimits { records, bytes }) {
            Ok(load) => load,
            Err(NotLoaded::Failed(detail)) => return self.failed(state, target, attempt, detail, now_ms),
            Err(NotLoaded::Moving) => {
                state.errors.insert(target, "a write's only copy waits until its replicas have changed".into());
                return state.replay.on_grant(target, attempt, Grant::Wait { for_ms: MOVING_WAIT_MS }, now_ms);
            }
        };
        if load.rows.is_empty() {
            let was_last = load.through <= log.start();
            return match log.acknowledge(load.through) {
                Err(error) => self.failed(state, target, attempt, error.to_string(), now_ms),
                Ok(()) => {
                    self.count_unsent(&load.unsent, load.through);
                    // Nothing was read: all that is durable is acknowledged.
                    if was_last || log.start() >= log.durable_through() {
                        state.replay.on_sent(target, attempt, Sent::Nothing, now_ms);
                        self.done(state, target, now_ms);
                    } else {
                        state.replay.on_sent(target, attempt, Sent::Taken { records: 0, bytes: 0 }, now_ms);
                    }
                }
            };
        }
        let Load { mutations, created_ms, rows, unsent, through, to, kind } = load;
        HandoffCounters::add(&self.parts.handoff.counters().batches, 1);
        let body = match kind {
            Kind::HandedOver => {
                let handed = mutations.into_iter().zip(created_ms).zip(&rows);
                let hints = handed.map(|((mutation, created_ms), row)| HandedHint {
                    mutation,
                    created_ms,
                    only_copy: row.only_copy,
                });
                RequestBody::TakeHints(TakeHints { target, hints: hints.collect() })
            }
            Kind::Target | Kind::Rerouted => RequestBody::Write(WriteRows {
                origin: Origin::Hint,
                mutations,
                stamp: Stamp::Old,
                seen: None,
                condition: None,
            }),
        };
        state.batches.insert(target, Batch { attempt, log, rows, unsent, through, to, kind });
        self.send(to, Asked::Replay { target, attempt }, BATCH_TIMEOUT_MS, body);
    }

    /// Reads the next hints, and leaves out what nobody misses. An only copy that goes elsewhere is a batch of its own.
    fn load(&self, state: &State, target: NodeId, log: &HintLog, limits: ReadLimits) -> Result<Load, NotLoaded> {
        let detail = |error: HintError| error.to_string();
        let start = log.start();
        let batch = log.read(start, limits).map_err(detail)?;
        self.mark_damage(log)?;
        let cluster = self.parts.catalog.current();
        let has_left = state.elsewhere.get(&target) == Some(&MemberState::Left);
        let hands_over = state.elsewhere.contains_key(&target) && !has_left;
        let mut load = Load {
            mutations: Vec::new(),
            created_ms: Vec::new(),
            rows: Vec::new(),
            unsent: Vec::new(),
            through: start,
            to: target,
            kind: Kind::Target,
        };
        if hands_over {
            let holder = self.holder(state, target).ok_or("no other node is there to keep its hints")?;
            (load.to, load.kind) = (holder, Kind::HandedOver);
        }
        for Stored { hint, after } in batch.hints {
            let route = destination(&cluster, target, (hint.table, hint.key.token()), hint.only_copy);
            let claim = match route {
                Destination::Target(map) if !has_left => map,
                Destination::NoTable => {
                    load.pass(after, NotMissed::Table);
                    continue;
                }
                // What was passed over is acknowledged first: it need not wait for this one.
                Destination::Undecided if load.through > start => return Ok(load),
                Destination::Undecided => return Err(NotLoaded::Moving),
                Destination::Target(_) | Destination::Elsewhere(..) if !hint.only_copy => {
                    load.pass(after, if has_left { NotMissed::TargetLeft } else { NotMissed::NotReplica });
                    continue;
                }
                Destination::Target(_) | Destination::Elsewhere(..) if load.through > start => return Ok(load),
                Destination::Target(_) => return Err("a write's only copy is for a node that has left".into()),
                Destination::Elsewhere(replicas, map) => {
                    (load.to, load.kind) = (self.alive_of(&replicas)?, Kind::Rerouted);
                    map
                }
            };
            let mutation = Mutation { table: hint.table, key: hint.key, record: hint.record, claim: Some(claim) };
            let leaf = self.parts.handoff.leaf_of(&mutation);
            load.rows.push(Row { after, leaf, bytes: bytes_of(&mutation), only_copy: hint.only_copy });
            load.created_ms.push(hint.created_ms);
            load.mutations.push(mutation);
            load.through = after;
            if load.kind == Kind::Rerouted {
                return Ok(load);
            }
        }
        // With all that was read goes the damage behind it.
        load.through = load.through.max(batch.next);
        Ok(load)
    }

    /// A replica that can take a write now, this node first.
    fn alive_of(&self, replicas: &BTreeSet<NodeId>) -> Result<NodeId, String> {
        let me = self.parts.me;
        let alive = replicas.iter().find(|node| self.parts.membership.is_alive(**node));
        let chosen = if replicas.contains(&me) { Some(me) } else { alive.copied() };
        chosen.ok_or_else(|| "no replica is alive to take a write's only copy".to_owned())
    }

    /// A node that is to keep hints and marks in this one's place.
    pub(super) fn holder(&self, state: &State, target: NodeId) -> Option<NodeId> {
        let cluster = self.parts.catalog.current();
        let members = cluster.topology.members().values().filter(|member| member.state == MemberState::Ready);
        let others = members.map(|member| member.id).filter(|node| *node != self.parts.me && *node != target);
        state.holders.choose(others.filter(|node| self.parts.membership.is_alive(*node)))
    }

    pub(super) fn end_batch(
        &self,
        state: &mut State,
        target: NodeId,
        batch: &Batch,
        Verdict { taken, wrong }: Verdict,
        now_ms: u64,
    ) {
        let attempt = batch.attempt;
        let bytes: usize = batch.rows.iter().take(taken).map(|row| row.bytes).sum();
        let through = match &wrong {
            None => Some(batch.through),
            Some(_) => taken.checked_sub(1).and_then(|last| batch.rows.get(last)).map(|row| row.after),
        };
        match &wrong {
            _ if batch.kind != Kind::HandedOver => {}
            None => state.holders.took(batch.to),
            Some(_) => state.holders.failed(batch.to),
        }
        if batch.kind == Kind::HandedOver
            && let Some(oldest) = batch.rows.iter().take(taken).map(|row| row.leaf.2.hlc).min()
        {
            self.parts.handoff.note_handed_over(oldest);
        }
        if let Some(through) = through {
            if let Err(error) = batch.log.acknowledge(through) {
                return self.failed(state, target, attempt, error.to_string(), now_ms);
            }
            self.count_unsent(&batch.unsent, through);
        }
        let counters = self.parts.handoff.counters();
        let counter = match batch.kind {
            Kind::Target => &counters.replayed,
            Kind::Rerouted => &counters.rerouted,
            Kind::HandedOver => &counters.handed_over,
        };
        HandoffCounters::add(counter, taken as u64);
        HandoffCounters::add(&counters.replayed_bytes, bytes as u64);
        let sent = Sent::Taken { records: taken as u64, bytes: bytes as u64 };
        match wrong {
            None => state.replay.on_sent(target, attempt, sent, now_ms),
            Some(Wrong::Later(detail)) => self.failed(state, target, attempt, detail, now_ms),
            Some(Wrong::Never(detail)) if batch.rows.len() == 1 => {
                self.give_up(state, target, batch, &detail, now_ms);
            }
            Some(Wrong::Never(_)) => state.replay.on_sent(target, attempt, Sent::Indigestible, now_ms),
        }
    }

    /// Hints that nobody missed have left the log, as far as it is acknowledged.
    fn count_unsent(&self, unsent: &[Unsent], through: Position) {
        let counters = self.parts.handoff.counters();
        for Unsent { why, .. } in unsent.iter().filter(|unsent| unsent.after <= through) {
            let counter = match why {
                NotMissed::Table => &counters.dropped_table,
                NotMissed::TargetLeft => &counters.dropped_target_left,
                NotMissed::NotReplica => &counters.dropped_not_replica,
            };
            HandoffCounters::add(counter, 1);
        }
    }

    /// A hint that its target never takes is marked dirty, so that it does not stand in the way of the others.
    fn give_up(&self, state: &mut State, target: NodeId, batch: &Batch, detail: &str, now_ms: u64) {
        let Some(row) = batch.rows.first().filter(|row| !row.only_copy) else {
            return self.failed(state, target, batch.attempt, detail.to_owned(), now_ms);
        };
        let marked = self.parts.handoff.mark(batch.log.target(), [row.leaf], Cause::Refused, detail);
        let passed = marked.map_err(|error| error.to_string());
        let passed = passed.and_then(|()| batch.log.acknowledge(row.after).map_err(|error| error.to_string()));
        match passed {
            Ok(()) => {
                self.count_unsent(&batch.unsent, row.after);
                let sent = Sent::Taken { records: 0, bytes: row.bytes as u64 };
                state.replay.on_sent(target, batch.attempt, sent, now_ms);
            }
            Err(detail) => self.failed(state, target, batch.attempt, detail, now_ms),
        }
    }
}
