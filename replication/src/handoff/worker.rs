//! The background loop that brings targets what they missed, and keeps hint logs in order.
//!
//! It looks at every log from time to time, and at once when something is said of a target: whether it lives, what has
//! grown too old, what is damaged. What is to be sent is decided by `replay.rs`, built by `batch.rs`, and answered by
//! events that callbacks leave here; only a step touches the disk. A batch is acknowledged in the log after its target
//! said that all of it is durable there, so a crash of either side only sends some of it again.

mod batch;
mod holders;
mod marks;
mod upkeep;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cube_storage::hints::PauseError;
use cube_storage::model::{Hlc, NodeId};
use parking_lot::Mutex;
use thiserror::Error;

use self::batch::{Batch, Verdict};
use self::holders::Holders;
use self::marks::MarksHandover;
use super::pace::{Coming, Grant};
use super::replay::{Command, Progress, Replay, ReplayState, Sent};
use super::{HandoffCounters, HandoffStatus, HintReceiver, HintedHandoff, TargetStatus};
use crate::bursts::Bursts;
use crate::catalog::Catalog;
use crate::clock::NodeClock;
use crate::membership::Membership;
use crate::messages::{Features, PROTOCOL, Refusal, Reply, ReplyBody, Request, RequestBody};
use crate::replica::Replica;
use crate::topology::MemberState;
use crate::transport::{Lane, PeerError, PeerTransport};
use crate::worker::{Step, StepError, Worker};

/// The worker's name.
pub const HINTS: &str = "hints";

/// The time of a question for a lease.
const ASK_TIMEOUT_MS: u32 = 2_000;
/// The time of a batch: a target that is busy catching up may take long for one.
const BATCH_TIMEOUT_MS: u32 = 10_000;
/// What is begun in one step.
const COMMANDS_PER_STEP: usize = 16;
/// What a target leases itself where nobody grants: hints that go to other nodes than it, or to an older release.
const LOCAL_LEASE: Grant = Grant::Lease { bytes: 1 << 20, for_ms: 1_000 };
/// What is wrong with a target that this node's map does not name.
const NO_MEMBER: &str = "it is no member";
/// How often the log tells how far a replay has come.
const TELL_EVERY_MS: u64 = 10_000;

/// What a replay works with.
pub struct ReplayParts {
    /// The node it is.
    pub me: NodeId,
    /// The hints and marks.
    pub handoff: Arc<HintedHandoff>,
    /// The cluster's state.
    pub catalog: Arc<Catalog>,
    /// Who is alive.
    pub membership: Arc<dyn Membership>,
    /// The way to the targets.
    pub transport: Arc<dyn PeerTransport>,
    /// This node, which may be a replica of what was another's.
    pub replica: Arc<Replica>,
    /// What is coming to this node.
    pub receiver: Arc<HintReceiver>,
    /// The node's clocks.
    pub clock: Arc<NodeClock>,
    /// Has the worker step soon.
    pub wake: Arc<dyn Fn() + Send + Sync>,
}

/// Why an operator's wish was not followed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SteerError {
    /// There is no such target.
    #[error("no member of the cluster is named {name:?}")]
    UnknownTarget {
        /// The name given.
        name: String,
    },
    /// Hints for it are paused.
    #[error("hints for {name} are paused: resume them, and they are delivered")]
    Paused {
        /// The name given.
        name: String,
    },
    /// It would not outlive this process.
    #[error("the decision cannot be kept: {0}")]
    NotKept(#[from] PauseError),
}

/// The replay of one node, as others see it: gossip, operators, the status. Nobody but the worker waits for its disk.
pub struct HintReplay {
    parts: ReplayParts,
    /// Locked for the whole of a step, which works on the disk.
    state: Mutex<State>,
    /// What is shown of it: as the last step left it.
    shown: Mutex<Shown>,
    handing_over: AtomicBool,
    /// What callbacks brought. Bounded by what is under way: one answer for each.
    events: Arc<Mutex<Vec<Event>>>,
    wishes: Mutex<Wishes>,
}

/// What others want of the next step. Apart from the state, which is locked while a step works on the disk.
#[derive(Default)]
struct Wishes {
    /// Look at all logs, whatever the time.
    look: bool,
    /// These are worth another try, whatever failed before.
    hurry: BTreeSet<NodeId>,
}

#[derive(Default)]
struct State {
    replay: Replay,
    /// Batches under way.
    batches: BTreeMap<NodeId, Batch>,
    /// What was wrong the last time something was.
    errors: BTreeMap<NodeId, String>,
    /// Replays that have begun: hints taken before, and when it was last told how far they are.
    begun: BTreeMap<NodeId, (u64, u64)>,
    /// Targets whose whole log only goes to others: they have left, or this node leaves and they are down.
    elsewhere: BTreeMap<NodeId, MemberState>,
    check_due_ms: u64,
    marks: MarksHandover,
    /// Who took over hints and marks, and who did not.
    holders: Holders,
    /// Targets to which something could not be delivered lately.
    failing: Bursts<NodeId>,
    /// When it was last told that hints for a node that is alive are paused.
    told_paused_ms: BTreeMap<NodeId, u64>,
}

/// What a step leaves to be shown.
#[derive(Default)]
struct Shown {
    replay: Replay,
    errors: BTreeMap<NodeId, String>,
}

/// What a callback brought.
struct Event {
    asked: Asked,
    answer: Result<Reply, PeerError>,
}

/// What an answer is about.
#[derive(Clone, Copy)]
enum Asked {
    /// A lease or a batch of hints.
    Replay { target: NodeId, attempt: u64 },
    /// Whether dirty marks are kept elsewhere.
    Marks { attempt: u64 },
    /// Nothing that anybody waits for.
    Nothing,
}

/// The worker: steps what [`HintReplay`] shows.
pub struct HintWorker(Arc<HintReplay>);

impl HintWorker {
    /// The worker of a replay.
    pub fn new(replay: Arc<HintReplay>) -> Self {
        Self(replay)
    }
}

impl Worker for HintWorker {
    fn name(&self) -> &str {
        HINTS
    }

    fn step(&mut self, now_ms: u64) -> Result<Step, StepError> {
        Ok(self.0.step(now_ms))
    }
}

impl HintReplay {
    /// A replay that looks at all logs in its first step.
    pub fn new(parts: ReplayParts) -> Arc<Self> {
        Arc::new(Self {
            parts,
            state: Mutex::default(),
            shown: Mutex::default(),
            handing_over: AtomicBool::new(false),
            events: Arc::default(),
            wishes: Mutex::default(),
        })
    }

    /// Gossip says that a node lives or not. One that came back is served at once.
    pub fn on_alive(&self, node: NodeId, alive: bool) {
        self.parts.handoff.observe(node, alive);
        if !alive {
            self.parts.receiver.gone(node);
        }
        self.wish(alive.then_some(node));
    }

    /// An operator wants hints delivered now, to one node or to all of those that are not paused.
    pub fn replay_now(&self, name: Option<&str>) -> Result<(), SteerError> {
        let targets = self.named(name)?;
        if let Some(name) = name.filter(|_| targets.iter().any(|target| self.parts.handoff.is_paused(*target))) {
            return Err(SteerError::Paused { name: name.to_owned() });
        }
        self.wish(targets);
        Ok(())
    }

    /// An operator wants no hints delivered until he says otherwise, or delivered again. Hints are kept all the same. It is
    /// durable when this returns, and followed from the next step on.
    pub fn pause(&self, name: Option<&str>, paused: bool) -> Result<(), SteerError> {
        let targets = self.named(name)?;
        self.parts.handoff.pause(name.and(targets.first().copied()), paused)?;
        tracing::warn!(node = name.unwrap_or("all"), paused, "an operator steers the delivery of hints");
        self.wish(None);
        Ok(())
    }

    /// This node leaves: from now on hints for targets that are down, and all dirty marks, go to other nodes, which keep them
    /// in its place.
    pub fn begin_handover(&self) {
        self.parts.receiver.leave();
        if !self.handing_over.swap(true, Ordering::AcqRel) {
            tracing::info!("hints and dirty marks are handed to other nodes, because this one leaves");
            self.wish(None);
        }
    }

    /// The same of one that left already when it started: what it handed over before, it does not know any more, so nobody's
    /// watermark passes it at all while it leaves.
    pub fn resume_handover(&self) {
        self.parts.handoff.note_handed_over(Hlc::default());
        self.begin_handover();
    }

    fn is_handing_over(&self) -> bool {
        self.handing_over.load(Ordering::Acquire)
    }

    /// Has the next step look at all logs, at once, and try these targets whatever failed before.
    fn wish(&self, hurry: impl IntoIterator<Item = NodeId>) {
        let mut wishes = self.wishes.lock();
        wishes.look = true;
        wishes.hurry.extend(hurry);
        drop(wishes);
        (self.parts.wake)();
    }

    /// Whether what counts as kept may still grow by what other nodes handed to this one.
    pub fn is_taking_over(&self) -> bool {
        self.parts.receiver.is_taking()
    }

    /// Hints that are still here. A node that leaves is gone only when there are none, and no marks either.
    pub fn hints_left(&self) -> u64 {
        self.parts.handoff.hints().totals().values().map(|totals| totals.records).sum()
    }

    /// Dirty marks that are still here.
    pub fn marks_left(&self) -> u64 {
        self.parts.handoff.marks().totals().values().map(|totals| totals.marks).sum()
    }

    /// The members that a name means: the one, or all.
    fn named(&self, name: Option<&str>) -> Result<Vec<NodeId>, SteerError> {
        let state = self.parts.catalog.current();
        match name {
            None => Ok(state.topology.members().keys().copied().collect()),
            Some(name) => match state.topology.member_named(name) {
                Some(member) => Ok(vec![member.id]),
                None => Err(SteerError::UnknownTarget { name: name.to_owned() }),
            },
        }
    }

    /// How all of it stands. It waits for no disk.
    pub fn status(&self) -> HandoffStatus {
        let now_ms = self.parts.clock.monotonic_ms();
        let cluster = self.parts.catalog.current();
        let handoff = &self.parts.handoff;
        let (hints, marks) = (handoff.hints().totals(), handoff.marks().totals());
        let names: BTreeSet<&String> = hints.keys().chain(marks.keys()).collect();
        let wall_ms = handoff.now_ms();
        let shown = self.shown.lock();
        let target = |name: &String| {
            let id = cluster.topology.member_named(name).map_or(NodeId(u16::MAX), |member| member.id);
            let hints = hints.get(name).copied().unwrap_or_default();
            let mut replay = shown.replay.progress(id, now_ms);
            if hints.records > 0 {
                // They, or the pause, may be newer than the last step.
                replay.state = match replay.state {
                    _ if handoff.is_paused(id) => ReplayState::Paused,
                    ReplayState::Idle | ReplayState::Paused if self.parts.membership.is_alive(id) => {
                        ReplayState::Running
                    }
                    ReplayState::Idle | ReplayState::Paused => ReplayState::TargetDown,
                    known => known,
                };
            }
            TargetStatus {
                oldest_age_ms: hints.oldest_created_ms.map(|made_ms| wall_ms.saturating_sub(made_ms)),
                hints,
                marks: marks.get(name).cloned().unwrap_or_default(),
                replay,
                last_progress_age_ms: replay.last_progress_ms.map(|ms| now_ms.saturating_sub(ms)),
                eta_ms: eta_ms(hints.records, replay.per_second),
                last_error: shown.errors.get(&id).cloned(),
            }
        };
        let targets = names.into_iter().map(|name| (name.clone(), target(name))).collect();
        drop(shown);
        let counts = handoff.counters().snapshot();
        let members = cluster.topology.members().values().filter(|member| member.id != self.parts.me);
        let present = members.filter(|member| member.state != MemberState::Left);
        let paused = present.filter(|member| handoff.is_paused(member.id)).map(|member| member.name.clone()).collect();
        HandoffStatus {
            targets,
            paused,
            incoming: self.parts.receiver.incoming(),
            counts,
            handing_over: self.is_handing_over(),
        }
    }

    /// Does what is due, without waiting for anyone.
    fn step(&self, now_ms: u64) -> Step {
        let mut state = self.state.lock();
        let events = std::mem::take(&mut *self.events.lock());
        for event in events {
            self.on_event(&mut state, event, now_ms);
        }
        let wishes = std::mem::take(&mut *self.wishes.lock());
        if wishes.look || now_ms >= state.check_due_ms {
            let is_behind = self.look_at_all(&mut state);
            let interval_ms = self.parts.handoff.settings().check_interval_ms.max(1);
            state.check_due_ms = if is_behind { now_ms } else { now_ms + interval_ms };
        }
        wishes.hurry.into_iter().for_each(|target| state.replay.hurry(target));
        for _ in 0..COMMANDS_PER_STEP {
            let Some(command) = state.replay.next(now_ms) else { break };
            match command {
                Command::Ask { target, attempt } => self.ask(&mut state, target, attempt, now_ms),
                Command::Send { target, attempt, rows, bytes } => {
                    self.send_batch(&mut state, (target, attempt), (rows, bytes), now_ms);
                }
            }
        }
        let marks_due_ms = self.hand_marks_over(&mut state, now_ms);
        let due_ms = state.replay.due_ms().unwrap_or(u64::MAX).min(state.check_due_ms).min(marks_due_ms);
        *self.shown.lock() = Shown { replay: state.replay.clone(), errors: state.errors.clone() };
        if due_ms <= now_ms { Step::Busy } else { Step::Idle { until_ms: due_ms } }
    }

    fn ask(&self, state: &mut State, target: NodeId, attempt: u64, now_ms: u64) {
        if state.elsewhere.contains_key(&target) {
            return state.replay.on_grant(target, attempt, LOCAL_LEASE, now_ms);
        }
        let Some(name) = self.name_of(target) else {
            return self.failed(state, target, attempt, NO_MEMBER.into(), now_ms);
        };
        let totals = match self.parts.handoff.hints().log(&name) {
            Ok(log) => log.totals(),
            Err(error) => return self.failed(state, target, attempt, error.to_string(), now_ms),
        };
        let (sent_records, sent_bytes) = state.replay.take_sent(target);
        let coming = Coming { records: totals.records.max(1), bytes: totals.bytes, sent_records, sent_bytes };
        let left = totals.records;
        let Progress { taken, per_second, .. } = state.replay.progress(target, now_ms);
        let (before, told_ms) = state.begun.entry(target).or_insert_with(|| {
            tracing::info!(target = name, hints = left, "hints are replayed");
            (taken, now_ms)
        });
        if now_ms.saturating_sub(*told_ms) >= TELL_EVERY_MS {
            *told_ms = now_ms;
            let (taken, eta_ms) = (taken.saturating_sub(*before), eta_ms(left, per_second));
            tracing::info!(target = name, left, taken, per_second, eta_ms, "hints are being replayed");
        }
        self.send(target, Asked::Replay { target, attempt }, ASK_TIMEOUT_MS, RequestBody::HintCredits(coming));
    }

    /// Sends a request whose answer becomes an event.
    fn send(&self, to: NodeId, asked: Asked, time_left_ms: u32, body: RequestBody) {
        let parts = &self.parts;
        let request = Request {
            protocol: PROTOCOL,
            features: Features::default(),
            from: parts.me,
            clock: parts.clock.peek(),
            time_left_ms,
            explain: false,
            trace: None,
            body,
        };
        let (events, clock, wake) = (Arc::clone(&self.events), Arc::clone(&parts.clock), Arc::clone(&parts.wake));
        let told = move |answer: Result<Reply, PeerError>| {
            if let Ok(reply) = &answer {
                // A clock out of bound is not absorbed; hints are old whatever the clocks say.
                let _absorbed = clock.observe(reply.clock);
            }
            events.lock().push(Event { asked, answer });
            wake();
        };
        if to == parts.me {
            return parts.replica.handle(request, Box::new(move |reply| told(Ok(reply))));
        }
        parts.transport.send(to, Lane::Background, request, Box::new(told));
    }

    fn on_event(&self, state: &mut State, Event { asked, answer }: Event, now_ms: u64) {
        let body = answer.map(|reply| reply.body).map_err(|error| error.to_string());
        let (target, attempt) = match asked {
            Asked::Replay { target, attempt } => (target, attempt),
            Asked::Marks { attempt } => return self.on_marks_answer(state, attempt, body, now_ms),
            Asked::Nothing => return,
        };
        if state.batches.get(&target).is_some_and(|batch| batch.attempt == attempt)
            && let Some(batch) = state.batches.remove(&target)
        {
            let verdict = body.map_or_else(Verdict::failed, |body| batch.judge(body));
            return self.end_batch(state, target, &batch, verdict, now_ms);
        }
        match body {
            Ok(Ok(ReplyBody::HintCredits(grant))) => state.replay.on_grant(target, attempt, grant, now_ms),
            // An older release has no credits: hints go as slowly as its answers come.
            Ok(Err(Refusal::Unsupported(_))) => state.replay.on_grant(target, attempt, LOCAL_LEASE, now_ms),
            Ok(Err(refusal)) => self.failed(state, target, attempt, refusal.to_string(), now_ms),
            Ok(Ok(_)) => self.failed(state, target, attempt, "it answered another question".into(), now_ms),
            Err(detail) => self.failed(state, target, attempt, detail, now_ms),
        }
    }

    fn failed(&self, state: &mut State, target: NodeId, attempt: u64, detail: String, now_ms: u64) {
        HandoffCounters::add(&self.parts.handoff.counters().failures, 1);
        let name = self.name_of(target).unwrap_or_default();
        if state.failing.begins(target, now_ms) {
            tracing::info!(target = name, detail, "hints cannot be delivered, and are tried again later");
        }
        state.errors.insert(target, detail);
        state.replay.on_sent(target, attempt, Sent::Failed, now_ms);
    }

    /// All of it was taken: the target is told, and the log tells how it went.
    fn done(&self, state: &mut State, target: NodeId, now_ms: u64) {
        if let Some((before, _)) = state.begun.remove(&target) {
            let (sent_records, sent_bytes) = state.replay.take_sent(target);
            let coming = Coming { records: 0, bytes: 0, sent_records, sent_bytes };
            self.send(target, Asked::Nothing, ASK_TIMEOUT_MS, RequestBody::HintCredits(coming));
            let taken = state.replay.progress(target, now_ms).taken.saturating_sub(before);
            let name = self.name_of(target).unwrap_or_default();
            tracing::info!(target = name, taken, "all hints are replayed");
        }
        state.errors.remove(&target);
    }

    /// The name of a member, also of one that has left.
    fn name_of(&self, target: NodeId) -> Option<String> {
        self.parts.catalog.current().topology.member(target).map(|member| member.name.clone())
    }
}

/// When all that is left will be taken, at this speed.
fn eta_ms(left: u64, per_second: u64) -> Option<u64> {
    (left > 0 && per_second > 0).then(|| left.saturating_mul(1_000) / per_second)
}
