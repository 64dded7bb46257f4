//! The worker of anti-entropy: one comparison, one inquiry or one round of purging at a time, over the background lane.
//!
//! A step does what can be done without waiting, sends at most one question, and ends; what comes in wakes the worker. A
//! pass compares everything once (`comparing.rs`); behind it the dirty marks are looked after, and now and then the dead
//! are purged (`errands.rs`). What was exchanged when the worker ends is not different any more, so whoever starts anew
//! finds only the rest: there is nothing to resume.

mod comparing;
mod errands;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use cube_storage::dirty::DirtyMarks;
use cube_storage::model::{NodeId, Outcome};
use cube_storage::{RemovalCursor, StoreError};
use parking_lot::Mutex;

use super::answer::{answer, is_busy};
use super::compare::Session;
use super::handle::{AntiEntropy, Settings};
use super::last_answers::LastAnswers;
use super::marks::Clearing;
use super::purge::Round;
use super::questions::{Question, Tree};
use super::schedule::{Budget, Pass, Schedule};
use crate::messages::{Features, PROTOCOL, Refusal, Reply, ReplyBody, Request, RequestBody};
use crate::transport::{Lane, PeerError};
use crate::worker::{Step, StepError, Worker};

/// What the worker is called in the status.
pub const NAME: &str = "anti-entropy";
/// How often it is looked who is alive.
const LOOK_MS: u64 = 1_000;
/// How long a node that has enough to do leaves comparisons alone.
const BUSY_MS: u64 = 100;
/// How long a worker that is switched off rests.
const OFF_MS: u64 = 60_000;
/// What is done in one step without waiting.
const ACTS_PER_STEP_MAX: usize = 32;

/// Something that was waited for.
enum Came {
    Reply(Result<Reply, PeerError>),
    Applied(Result<Vec<Outcome>, StoreError>),
}

type Inbox = Arc<Mutex<Option<(u64, Came)>>>;

/// Something that is waited for.
#[derive(Clone, Copy)]
struct Waiting {
    ticket: u64,
    since_ms: u64,
    until_ms: u64,
}

/// What is under way.
enum Activity {
    Resting,
    Comparing(Box<Session>),
    /// Asking targets of dirty marks for their proofs; the first is being asked.
    Clearing(VecDeque<(NodeId, Arc<DirtyMarks>)>),
    Purging(Box<Round>),
}

/// What an act led to.
enum Act {
    /// There is more to do at once.
    GoOn,
    /// The step is over.
    End(Step),
}

/// The worker.
pub struct AntiEntropyWorker {
    shared: Arc<AntiEntropy>,
    /// The settings that it works by.
    settings: Settings,
    schedule: Schedule,
    budget: Budget,
    activity: Activity,
    pass: Option<Pass>,
    inbox: Inbox,
    /// What is waited for.
    waiting: Option<Waiting>,
    last_ticket: u64,
    clearings: BTreeMap<NodeId, Clearing>,
    watermarks: LastAnswers,
    /// Trees in which somebody holds what others have purged.
    unpurged: BTreeSet<Tree>,
    next_purge_ms: u64,
    /// How far the tree that a round is at was looked through for the dead.
    look: Option<RemovalCursor>,
    /// Whether a pass goes before a round of purging if both are due.
    is_turn_of_pass: bool,
    next_keep_ms: u64,
}

impl AntiEntropyWorker {
    /// The worker of a node's anti-entropy; there must be only one.
    pub fn new(shared: Arc<AntiEntropy>) -> Self {
        let settings = shared.settings();
        Self {
            schedule: Schedule::new(settings.pace),
            budget: Budget::new(settings.bytes_per_s, settings.rows_per_s),
            activity: Activity::Resting,
            pass: None,
            inbox: Inbox::default(),
            waiting: None,
            last_ticket: 0,
            clearings: BTreeMap::new(),
            watermarks: LastAnswers::default(),
            unpurged: BTreeSet::new(),
            next_purge_ms: 0,
            look: None,
            is_turn_of_pass: true,
            next_keep_ms: 0,
            settings,
            shared,
        }
    }

    /// Works by the settings of now.
    fn follow_settings(&mut self, now_ms: u64) {
        let settings = self.shared.settings();
        if settings == self.settings {
            return;
        }
        self.schedule.set_pace(settings.pace, now_ms);
        self.budget = Budget::new(settings.bytes_per_s, settings.rows_per_s);
        self.next_purge_ms = self.next_purge_ms.min(now_ms.saturating_add(settings.purge_interval_ms));
        if settings.enabled && !self.settings.enabled {
            self.schedule.hurry(now_ms);
        }
        self.settings = settings;
    }

    /// Lets go of what is under way. What was exchanged is not different any more, and nothing of the rest is proven.
    fn rest(&mut self) {
        let _given_up = self.end_comparing();
        (self.activity, self.pass, self.waiting) = (Activity::Resting, None, None);
        let parts = &self.shared.parts;
        let held = self.shared.shared(&parts.catalog.current());
        self.shared.board.lock().follow(&held, &parts.store);
    }

    fn act(&mut self, now_ms: u64) -> Result<Act, StepError> {
        if let Some(Waiting { ticket, since_ms, until_ms }) = self.waiting {
            let came = self.inbox.lock().take().filter(|(of, _)| *of == ticket).map(|(_, came)| came);
            if came.is_none() && now_ms < until_ms {
                return Ok(Act::End(Step::Idle { until_ms }));
            }
            self.waiting = None;
            if matches!(self.activity, Activity::Comparing(_)) {
                self.shared.burdened(now_ms.saturating_sub(since_ms), now_ms);
            }
            return self.on_came(came, now_ms).map(|()| Act::GoOn);
        }
        match &mut self.activity {
            Activity::Resting => self.choose(now_ms),
            Activity::Comparing(_) => self.compare(now_ms),
            Activity::Clearing(_) => self.clear(now_ms),
            Activity::Purging(_) => self.purge(now_ms),
        }
    }

    /// What is next.
    fn choose(&mut self, now_ms: u64) -> Result<Act, StepError> {
        self.look_around(now_ms);
        if self.pass.is_some() {
            return self.go_on_with_pass(now_ms);
        }
        // They take turns: passes may take longer than the time from one to the next, and so may rounds of purging.
        let (is_pass_due, is_purge_due) = (self.schedule.next_pass_ms() <= now_ms, self.next_purge_ms <= now_ms);
        if is_pass_due && (self.is_turn_of_pass || !is_purge_due) {
            self.is_turn_of_pass = false;
            self.begin_pass(now_ms);
            return Ok(Act::GoOn);
        }
        if is_purge_due {
            self.is_turn_of_pass = true;
            self.begin_purge(now_ms);
            return Ok(Act::GoOn);
        }
        let until_ms = self.schedule.next_pass_ms().min(self.next_purge_ms).min(now_ms.saturating_add(LOOK_MS));
        Ok(Act::End(Step::Idle { until_ms }))
    }

    fn look_around(&mut self, now_ms: u64) {
        let state = self.shared.parts.catalog.current();
        for member in AntiEntropy::members(&state).into_iter().filter(|member| *member != self.shared.parts.me) {
            self.schedule.see(member, self.shared.parts.membership.is_alive(member), now_ms);
        }
    }

    fn on_came(&mut self, came: Option<Came>, now_ms: u64) -> Result<(), StepError> {
        match &self.activity {
            Activity::Resting => Ok(()),
            Activity::Comparing(_) => self.on_compared(came, now_ms),
            Activity::Clearing(_) => self.on_proofs(came),
            Activity::Purging(_) => {
                self.on_purge_answer(came);
                Ok(())
            }
        }
    }

    /// Waits for something from now on. The ticket that it comes with.
    fn wait(&mut self, now_ms: u64) -> u64 {
        self.last_ticket += 1;
        let until_ms = now_ms.saturating_add(u64::from(self.settings.question_timeout_ms));
        self.waiting = Some(Waiting { ticket: self.last_ticket, since_ms: now_ms, until_ms });
        self.last_ticket
    }

    /// Asks a node, which may be this one.
    fn ask(&mut self, node: NodeId, question: Question, now_ms: u64) {
        if node != self.shared.parts.me {
            return self.send(node, RequestBody::AntiEntropy(Box::new(question)), now_ms);
        }
        let ticket = self.wait(now_ms);
        let parts = &self.shared.parts;
        let told = answer(&parts.store, Some(self.shared.as_ref()), node, &question);
        let body = told.map(|told| ReplyBody::AntiEntropy(Box::new(told)));
        *self.inbox.lock() = Some((ticket, Came::Reply(Ok(Reply { from: node, clock: parts.clock.peek(), body }))));
    }

    fn send(&mut self, node: NodeId, body: RequestBody, now_ms: u64) {
        let ticket = self.wait(now_ms);
        let (shared, inbox) = (Arc::clone(&self.shared), Arc::clone(&self.inbox));
        let request = Request {
            protocol: PROTOCOL,
            features: Features::default(),
            from: shared.parts.me,
            clock: shared.parts.clock.peek(),
            time_left_ms: self.settings.question_timeout_ms,
            explain: false,
            trace: None,
            body,
        };
        let reply = move |reply: Result<Reply, PeerError>| {
            if let Ok(reply) = &reply {
                // A clock out of bound is not absorbed; rows are compared whatever the clocks say.
                let _absorbed = shared.parts.clock.observe(reply.clock);
            }
            come(&inbox, ticket, Came::Reply(reply));
            (shared.parts.wake)();
        };
        self.shared.parts.transport.send(node, Lane::Background, request, Box::new(reply));
    }
}

/// Leaves something that came in, unless something later is waited for.
fn come(inbox: &Inbox, ticket: u64, came: Came) {
    let mut inbox = inbox.lock();
    if inbox.as_ref().is_none_or(|(of, _)| *of < ticket) {
        *inbox = Some((ticket, came));
    }
}

/// When a peer that refused is worth another try.
fn retry_after_ms(refusal: &Refusal) -> u64 {
    match refusal {
        Refusal::Overloaded { retry_after_ms } => u64::from(*retry_after_ms),
        _ => 0,
    }
}

impl Worker for AntiEntropyWorker {
    fn name(&self) -> &str {
        NAME
    }

    fn step(&mut self, now_ms: u64) -> Result<Step, StepError> {
        self.follow_settings(now_ms);
        if !self.settings.enabled {
            self.rest();
            return Ok(Step::Idle { until_ms: now_ms.saturating_add(OFF_MS) });
        }
        // Asked for often, so that it knows what the clock read at any time.
        let _horizon = self.shared.horizon();
        for _ in 0..ACTS_PER_STEP_MAX {
            let parts = &self.shared.parts;
            if self.waiting.is_none() && (is_busy(&parts.store) || (parts.catches_up)()) {
                return Ok(Step::Throttled { until_ms: now_ms.saturating_add(BUSY_MS) });
            }
            if let Act::End(step) = self.act(now_ms)? {
                return Ok(step);
            }
        }
        Ok(Step::Busy)
    }
}
