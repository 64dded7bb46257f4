//! The one place where a peer's request becomes storage work.
//!
//! What it owes: it moves past the sender's clock; it refuses what is too late (also when it became so in the store's
//! queue), too far ahead or not understood; it
//! answers reads only from what counts (`replica/read.rs`). It takes no write that is counted by a map it has not adopted:
//! it might be about to clear what an earlier time left behind; and none that no map counts where it holds nothing: what a
//! former replica takes is lost to everybody. Rows of a message that it cannot take keep it from none of the others, but
//! rows of one partition key that were written together it takes all or none. Older maps are fenced by `storage/apply`
//! itself, in the same step that makes a write durable; only adopting a map raises a fence.

mod read;
mod scan;

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use cube_storage::clock::ClockError;
use cube_storage::model::{Batch, Mutation, NodeId, Origin, Outcome, PartitionId, Token, Version};
use cube_storage::{Store, SyncState, TimeLimit, UnsyncedCause};

use crate::anti_entropy::answer::{Attendant, answer as answer_question};
use crate::clock::NodeClock;
use crate::handoff::HintReceiver;
use crate::messages::{Features, PROTOCOL, Refusal, Reply, ReplyBody, Request, RequestBody, Stamp, WriteRows};
use crate::repair::Repairs;
use crate::trace::{OpenSpan, SpanKind, Tracer};

/// Told once what a replica answers.
pub type OnAnswer = Box<dyn FnOnce(Reply) + Send>;

/// This node as a replica.
pub struct Replica {
    me: NodeId,
    store: Arc<Store>,
    clock: Arc<NodeClock>,
    /// Who answers for the pace of hints; without it nobody may send any.
    hints: OnceLock<Arc<HintReceiver>>,
    attendant: OnceLock<Arc<dyn Attendant>>,
    repairs: OnceLock<Arc<Repairs>>,
    tracer: OnceLock<Arc<dyn Tracer>>,
}

impl Replica {
    /// The replica that `store` is.
    pub fn new(me: NodeId, store: Arc<Store>, clock: Arc<NodeClock>) -> Self {
        Self {
            me,
            store,
            clock,
            hints: OnceLock::new(),
            attendant: OnceLock::new(),
            repairs: OnceLock::new(),
            tracer: OnceLock::new(),
        }
    }

    /// From now on hints are let in, at the pace that `hints` grants.
    pub fn receive_hints(&self, hints: Arc<HintReceiver>) {
        self.hints.get_or_init(|| hints);
    }

    /// Who lets hints in, once they are.
    pub fn hint_receiver(&self) -> Option<Arc<HintReceiver>> {
        self.hints.get().cloned()
    }

    /// The store under it.
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// Carries a request out and tells the answer. Reads are answered before this returns, writes when they are durable.
    pub fn handle(&self, mut request: Request, answer: OnAnswer) {
        let answer = self.traced(&mut request, answer);
        if let Err(refusal) = self.admit(&request) {
            return answer(self.reply(Err(refusal)));
        }
        match request.body {
            RequestBody::Write(write) => {
                let limit = self.clock.limit(request.time_left_ms);
                let knows_losses = request.features.lacks(Features::LOSSES).is_none();
                self.write(write, limit, if knows_losses { answer } else { without_losses(answer) });
            }
            RequestBody::Read(read) => answer(self.reply(self.read(&read).map(ReplyBody::Rows))),
            RequestBody::Scan(scan) => answer(self.reply(self.scan(&scan))),
            RequestBody::HintCredits(coming) => {
                let grant = self.receiver().map(|hints| hints.ask(request.from, coming));
                answer(self.reply(grant.map(ReplyBody::HintCredits)));
            }
            RequestBody::TakeHints(taken) => match self.receiver() {
                Ok(hints) => {
                    let (me, clock) = (self.me, Arc::clone(&self.clock));
                    hints.take(taken, Box::new(move |body| answer(Reply { from: me, clock: clock.peek(), body })));
                }
                Err(refusal) => answer(self.reply(Err(refusal))),
            },
            RequestBody::TakeMarks(taken) => match self.receiver() {
                Ok(hints) => {
                    let (me, clock) = (self.me, Arc::clone(&self.clock));
                    hints
                        .take_marks(taken, Box::new(move |body| answer(Reply { from: me, clock: clock.peek(), body })));
                }
                Err(refusal) => answer(self.reply(Err(refusal))),
            },
            RequestBody::ScanTable(scan) => answer(self.reply(self.scan_table(scan).map(ReplyBody::TablePage))),
            RequestBody::AntiEntropy(question) => {
                let attendant = self.attendant.get().map(AsRef::as_ref);
                let told = answer_question(&self.store, attendant, request.from, &question);
                answer(self.reply(told.map(|told| ReplyBody::AntiEntropy(Box::new(told)))));
            }
            RequestBody::Repair(question) => {
                let repairs = self.repairs.get().ok_or_else(|| Refusal::Unsupported("repairs on demand".into()));
                let told = repairs.and_then(|repairs| repairs.answer(*question));
                answer(self.reply(told.map(|told| ReplyBody::Repair(Box::new(told)))));
            }
            RequestBody::Unknown { kind } => {
                let known = RequestBody::KINDS;
                let what = format!("requests of kind {kind}, only the first {known} kinds");
                answer(self.reply(Err(Refusal::Unsupported(what))));
            }
        }
    }

    /// Reads a single row, if that needs no disk. Everything else comes back.
    pub fn handle_at_once(&self, mut request: Request, answer: OnAnswer) -> Option<(Request, OnAnswer)> {
        let answer = self.traced(&mut request, answer);
        let found = match &request.body {
            RequestBody::Read(read) => match self.admit(&request) {
                Ok(()) => self.read_at_once(read),
                Err(refusal) => Some(Err(refusal)),
            },
            _ => None,
        };
        match found {
            Some(found) => {
                answer(self.reply(found.map(ReplyBody::Rows)));
                None
            }
            None => Some((request, answer)),
        }
    }

    /// The answer of a traced request, which ends its span here. Whoever carries on with the request begins no second one.
    fn traced(&self, request: &mut Request, answer: OnAnswer) -> OnAnswer {
        let asked = request.trace.take();
        let Some((asked, tracer)) = asked.zip(self.tracer.get()) else { return answer };
        let name = match &request.body {
            RequestBody::Write(_) => "cube.replica.write",
            RequestBody::Read(_) => "cube.replica.read",
            RequestBody::Scan(_) | RequestBody::ScanTable(_) => "cube.replica.scan",
            _ => "cube.replica",
        };
        let span = OpenSpan::below(Arc::clone(tracer), asked, (name, SpanKind::Server));
        Box::new(move |reply| {
            span.end(reply.body.as_ref().err().map(ToString::to_string));
            answer(reply);
        })
    }

    /// From now on spans of traced requests go here.
    pub fn trace_by(&self, tracer: Arc<dyn Tracer>) {
        // The first one stays: a node has one.
        let _is_first = self.tracer.set(tracer);
    }

    fn receiver(&self) -> Result<&Arc<HintReceiver>, Refusal> {
        self.hints.get().ok_or_else(|| Refusal::Unsupported("hints".into()))
    }

    /// Asks this attendant from now on what the store does not know of anti-entropy.
    pub fn attend(&self, attendant: Arc<dyn Attendant>) {
        // The first one stays: a node has one.
        let _is_first = self.attendant.set(attendant);
    }

    /// Works for repairs on demand from now on, those of other nodes as well.
    pub fn work_for(&self, repairs: Arc<Repairs>) {
        // The first one stays: a node has one.
        let _is_first = self.repairs.set(repairs);
    }

    fn reply(&self, body: Result<ReplyBody, Refusal>) -> Reply {
        Reply { from: self.me, clock: self.clock.peek(), body }
    }

    fn admit(&self, request: &Request) -> Result<(), Refusal> {
        if request.protocol > PROTOCOL {
            return Err(Refusal::Unsupported(format!("protocol {}, only up to {PROTOCOL}", request.protocol)));
        }
        if request.time_left_ms == 0 {
            return Err(Refusal::DeadlinePassed);
        }
        // A clock out of bound is not absorbed. What it stamped is judged by the stamp; reads do no harm.
        if let Err(ClockError::Bound(error)) = self.clock.observe(request.clock) {
            return Err(error.into());
        }
        Ok(())
    }

    fn write(&self, write: WriteRows, limit: TimeLimit, answer: OnAnswer) {
        if write.condition.is_some() {
            return answer(self.reply(Err(Refusal::Unsupported("conditional writes".into()))));
        }
        let refused = self.refused(&write);
        let (me, clock, rows) = (self.me, Arc::clone(&self.clock), write.mutations.len());
        let mutations = match refused.first_key_value() {
            None => write.mutations,
            // Then there is one reason for all of it, most often.
            Some((_, refusal)) if refused.len() == rows && refused.values().all(|other| other == refusal) => {
                return answer(self.reply(Err(refusal.clone())));
            }
            Some(_) => {
                let kept = |place: &usize| !refused.contains_key(place);
                let places = write.mutations.into_iter().enumerate();
                places.filter(|(place, _)| kept(place)).map(|(_, mutation)| mutation).collect()
            }
        };
        let batch = Batch { origin: write.origin, mutations };
        let is_clients = write.origin == Origin::Client;
        let paced = self.hints.get().filter(|_| is_clients).cloned();
        let yielding = self.attendant.get().filter(|_| is_clients).cloned();
        let begun_ms = self.clock.monotonic_ms();
        self.store.submit_within(
            batch,
            Some(limit),
            Box::new(move |result| {
                let took_ms = clock.monotonic_ms().saturating_sub(begun_ms);
                if let Some(hints) = paced {
                    hints.wrote(took_ms);
                }
                if let Some(attendant) = yielding {
                    attendant.wrote(took_ms);
                }
                let body = result.map_err(Refusal::from).map(|outcomes| wrote(outcomes, refused, rows));
                answer(Reply { from: me, clock: clock.peek(), body });
            }),
        );
    }

    /// The rows that are not taken, by their places. What is written together is judged once: a map that is adopted
    /// meanwhile, or a clock that goes on, would let some of the rows pass and not the others.
    fn refused(&self, write: &WriteRows) -> BTreeMap<usize, Refusal> {
        let mut refused = BTreeMap::new();
        let mut place = 0;
        for rows in write.mutations.chunk_by(is_written_with) {
            let places = place..place + rows.len();
            place = places.end;
            if let Some(Err(refusal)) = rows.first().map(|row| self.check(write, row)) {
                refused.extend(places.map(|place| (place, refusal.clone())));
            }
        }
        refused
    }

    /// Whether rows like this one are taken: of this partition key, this version and this claim.
    fn check(&self, write: &WriteRows, mutation: &Mutation) -> Result<(), Refusal> {
        let placement = self.store.table(mutation.table)?.placement;
        let held = self.store.partition(placement, self.partition_of(mutation.key.token()));
        const NEW: SyncState = SyncState::Unsynced(UnsyncedCause::New);
        match mutation.claim {
            Some(claim) if claim > held.epoch => return Err(Refusal::MapBehind(held.epoch)),
            // It may be one that is about to be cleared, or that nobody will clear any more.
            None if held.sync == NEW => return Err(Refusal::Unsynced(UnsyncedCause::New)),
            _ => {}
        }
        // Until its copy is complete it lacks the purge floors of the others, and may lack a deletion that they have purged.
        // No floor is above the clock of a member, so only timestamps that clients choose can be below one.
        let version = mutation.record.version;
        let is_delivered = matches!(write.origin, Origin::Client | Origin::Hint);
        if held.sync == NEW && is_delivered && version.node == NodeId::CLIENT && version.hlc <= self.clock.peek() {
            return Err(Refusal::Unsynced(UnsyncedCause::New));
        }
        if write.stamp == Stamp::New && write.origin == Origin::Client {
            self.clock.check(mutation.record.version.hlc).map_err(refuse_clock)?;
        }
        Ok(())
    }

    fn partition_of(&self, token: Token) -> PartitionId {
        self.store.bits().partition_of(token)
    }
}

/// Whether two rows that stand together are of one write, which a replica has all of or none.
fn is_written_with(row: &Mutation, next: &Mutation) -> bool {
    let is_same_write = (row.table, row.claim, row.record.version) == (next.table, next.claim, next.record.version);
    is_same_write && row.key.partition == next.key.partition
}

/// What came of each row: those that were refused stand between the others.
fn wrote(outcomes: Vec<Outcome>, mut refused: BTreeMap<usize, Refusal>, rows: usize) -> ReplyBody {
    if refused.is_empty() {
        return ReplyBody::Wrote(outcomes);
    }
    let mut outcomes = outcomes.into_iter();
    let each = (0..rows).filter_map(|place| match refused.remove(&place) {
        Some(refusal) => Some(Err(refusal)),
        None => outcomes.next().map(Ok),
    });
    ReplyBody::WroteSome(each.collect())
}

/// Whoever knows nothing of losses is told that something newer is there: it gives the row a new version as well.
fn without_losses(answer: OnAnswer) -> OnAnswer {
    let known = |outcome: &mut Outcome| {
        if let Outcome::LostUpTo(lost) = *outcome {
            *outcome = Outcome::Superseded(Version::new(lost, NodeId(u16::MAX)));
        }
    };
    Box::new(move |mut reply| {
        match &mut reply.body {
            Ok(ReplyBody::Wrote(outcomes)) => outcomes.iter_mut().for_each(known),
            Ok(ReplyBody::WroteSome(each)) => each.iter_mut().flatten().for_each(known),
            _ => {}
        }
        answer(reply);
    })
}

pub(crate) fn refuse_clock(error: ClockError) -> Refusal {
    match error {
        ClockError::Drift { ahead_ms, max_drift_ms } => Refusal::Drift { ahead_ms, max_drift_ms },
        ClockError::Bound(error) => error.into(),
    }
}

#[cfg(test)]
mod tests;
