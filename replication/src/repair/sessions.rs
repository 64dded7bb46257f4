//! The worker that runs errands: one comparison at a time, with one peer, over the background lane and within a
//! budget.
//!
//! It never compares with a peer that anti-entropy of this node compares with at the moment, and the other way around.
//! A peer that has no time is asked the same thing again; anything else that fails ends the errand, and whoever asked
//! for it may ask again.

use std::sync::Arc;

use cube_storage::StoreError;
use cube_storage::model::{Hlc, NodeId, Origin, Outcome};
use parking_lot::Mutex;

use super::handle::{Inbox, Repairs};
use super::job::{Moved, Why};
use super::questions::{Errand, Report};
use crate::anti_entropy::answer::{Attendant as _, is_busy};
use crate::anti_entropy::compare::{Mode, Next, Session, Tally, Unexpected, Verdict};
use crate::anti_entropy::questions::{self, Tree};
use crate::anti_entropy::schedule::Budget;
use crate::messages::{Refusal, Reply, ReplyBody, RequestBody, Stamp, WriteRows};
use crate::transport::{Lane, PeerError};
use crate::worker::{Step, StepError, Worker};

/// What the worker is called in the status.
pub const SESSIONS: &str = "repair-sessions";

/// What is done in one step without waiting.
const ACTS_PER_STEP_MAX: usize = 32;
/// How often a worker without an errand looks up, which keeps it informed of what the clock read at any time.
const LOOK_MS: u64 = 1_000;
/// How long a node that has enough to do leaves comparisons alone.
const BUSY_MS: u64 = 100;
/// After which it is looked again whether anti-entropy is done with the peer.
const TAKEN_MS: u64 = 20;
/// How often a peer without time is asked the same thing; it says when.
const REPEATS_MAX: u32 = 300;
/// The shortest time after which it is.
const REPEAT_MS: u64 = 20;

enum Came {
    Reply(Result<Reply, PeerError>),
    Applied(Result<Vec<Outcome>, StoreError>),
}

/// What an errand waits for.
enum Waiting {
    /// Nothing: it goes on.
    Nothing,
    /// Its peer, with whom anti-entropy compares at the moment.
    Peer,
    /// Something that comes with this ticket, or else until then.
    Ticket { ticket: u64, since_ms: u64, until_ms: u64 },
    /// To ask the same thing again.
    Repeat { at_ms: u64 },
}

struct Running {
    errand: Errand,
    session: Session,
    waiting: Waiting,
    /// What was sent last, to be sent again if the peer has no time.
    last: Option<RequestBody>,
    repeats: u32,
}

/// What came of an act.
enum Act {
    GoOn,
    Wait(Step),
}

/// The worker.
pub struct RepairSessions {
    shared: Arc<Repairs>,
    /// Bytes and rows a second.
    limits: (u64, u64),
    budget: Budget,
    running: Option<Box<Running>>,
    inbox: Arc<Inbox<Came>>,
    last_ticket: u64,
}

impl RepairSessions {
    /// The worker of a node; there must be only one.
    pub fn new(shared: Arc<Repairs>) -> Self {
        let settings = shared.anti_entropy.settings();
        let limits = (settings.bytes_per_s, settings.rows_per_s);
        let budget = Budget::new(limits.0, limits.1);
        Self { shared, limits, budget, running: None, inbox: Arc::new(Mutex::default()), last_ticket: 0 }
    }

    /// Works by the budget of now.
    fn follow_settings(&mut self) {
        let settings = self.shared.anti_entropy.settings();
        let limits = (settings.bytes_per_s, settings.rows_per_s);
        if limits != self.limits {
            (self.limits, self.budget) = (limits, Budget::new(limits.0, limits.1));
        }
    }

    fn act(&mut self, now_ms: u64) -> Act {
        let Some(running) = self.running.as_mut() else {
            let Some(errand) = self.shared.desk.lock().next(now_ms) else {
                return Act::Wait(Step::Idle { until_ms: now_ms.saturating_add(LOOK_MS) });
            };
            self.follow_settings();
            let mode = if errand.dry_run { Mode::Plan } else { Mode::Repair };
            let (me, horizon) = (self.shared.me(), self.shared.anti_entropy.horizon());
            let session = Session::new(me, errand.with, horizon, mode, errand.trees.iter().copied());
            let running = Running { errand, session, waiting: Waiting::Peer, last: None, repeats: 0 };
            self.running = Some(Box::new(running));
            return Act::GoOn;
        };
        if !self.shared.desk.lock().is_wanted(&running.errand, now_ms) {
            self.leave();
            return Act::GoOn;
        }
        match running.waiting {
            Waiting::Nothing => self.advance(now_ms),
            Waiting::Peer => {
                if !self.shared.anti_entropy.begin_comparing(running.errand.with) {
                    return Act::Wait(Step::Idle { until_ms: now_ms.saturating_add(TAKEN_MS) });
                }
                running.waiting = Waiting::Nothing;
                Act::GoOn
            }
            Waiting::Repeat { at_ms } if now_ms < at_ms => Act::Wait(Step::Idle { until_ms: at_ms }),
            Waiting::Repeat { .. } => {
                let (peer, last) = (running.errand.with, running.last.clone());
                match last {
                    Some(body) => self.send(peer, body, now_ms),
                    None => running.waiting = Waiting::Nothing,
                }
                Act::GoOn
            }
            Waiting::Ticket { ticket, since_ms, until_ms } => {
                let mut came = std::mem::take(&mut *self.inbox.lock());
                let found = came.iter().position(|(of, _)| *of == ticket).map(|place| came.swap_remove(place).1);
                if found.is_none() && now_ms < until_ms {
                    return Act::Wait(Step::Idle { until_ms });
                }
                running.waiting = Waiting::Nothing;
                self.shared.anti_entropy.burdened(now_ms.saturating_sub(since_ms), now_ms);
                self.on_came(found, now_ms);
                Act::GoOn
            }
        }
    }

    /// Does what the comparison wants next.
    fn advance(&mut self, now_ms: u64) -> Act {
        let resting = self.shared.anti_entropy.rest_until_ms(now_ms);
        if let Some(until_ms) = self.budget.wait_until_ms(now_ms).max(resting) {
            return Act::Wait(Step::Throttled { until_ms });
        }
        if is_busy(&self.shared.parts().store) {
            return Act::Wait(Step::Throttled { until_ms: now_ms.saturating_add(BUSY_MS) });
        }
        let Some(running) = self.running.as_mut() else { return Act::GoOn };
        let before = running.session.tally();
        let next = match running.session.next(&self.shared.parts().store) {
            Ok(next) => next,
            Err(error) => {
                self.fail(self.shared.me(), Why::Refused(error.to_string()));
                return Act::GoOn;
            }
        };
        let (after, peer) = (running.session.tally(), running.errand.with);
        self.shared.anti_entropy.burdens(now_ms);
        // A plan moves nothing.
        if !running.errand.dry_run {
            let rows = (after.rows_sent - before.rows_sent) + (after.rows_fetched - before.rows_fetched);
            self.budget.spend(after.row_bytes - before.row_bytes, rows, now_ms);
        }
        match next {
            Next::Done => self.conclude(),
            Next::Ask(question) => self.send(peer, RequestBody::AntiEntropy(Box::new(question)), now_ms),
            Next::Send { floor, mutations } => {
                let origin = Origin::Replica { floor };
                let write = WriteRows { origin, mutations, stamp: Stamp::Old, seen: None, condition: None };
                self.send(peer, RequestBody::Write(write), now_ms);
            }
            Next::Apply(batch) => {
                running.last = None;
                let ticket = self.wait(now_ms);
                let (shared, inbox) = (Arc::clone(&self.shared), Arc::clone(&self.inbox));
                let done = move |result| {
                    inbox.lock().push((ticket, Came::Applied(result)));
                    (shared.wake)();
                };
                self.shared.parts().store.submit(batch, Box::new(done));
            }
        }
        Act::GoOn
    }

    fn on_came(&mut self, came: Option<Came>, now_ms: u64) {
        let me = self.shared.me();
        let Some(running) = self.running.as_mut() else { return };
        let (session, peer) = (&mut running.session, running.errand.with);
        let went_on = match came {
            None | Some(Came::Reply(Err(_))) => Err((peer, Why::NoAnswer)),
            Some(Came::Applied(Ok(outcomes))) => {
                session.on_applied(&outcomes);
                Ok(())
            }
            Some(Came::Applied(Err(error))) => Err((me, Why::Refused(error.to_string()))),
            Some(Came::Reply(Ok(reply))) => match reply.body {
                Ok(ReplyBody::AntiEntropy(told)) => {
                    self.shared.anti_entropy.on_answered(peer);
                    self.take_answer(*told)
                }
                Ok(ReplyBody::Wrote(outcomes)) => {
                    session.on_sent(&outcomes.into_iter().map(Some).collect::<Vec<_>>());
                    Ok(())
                }
                Ok(ReplyBody::WroteSome(outcomes)) => {
                    session.on_sent(&outcomes.into_iter().map(Result::ok).collect::<Vec<_>>());
                    Ok(())
                }
                Ok(_) => Err((peer, Why::Refused("it answered another question".into()))),
                // No row could be taken, as where the peer is behind on the map: the trees stay unsettled.
                Err(Refusal::MapBehind(_) | Refusal::Unsynced(_)) if session.is_sending() => {
                    session.on_sent(&[]);
                    Ok(())
                }
                Err(Refusal::Overloaded { retry_after_ms }) if running.repeats < REPEATS_MAX => {
                    running.repeats += 1;
                    let at_ms = now_ms.saturating_add(u64::from(retry_after_ms).max(REPEAT_MS));
                    running.waiting = Waiting::Repeat { at_ms };
                    return;
                }
                Err(refusal) => Err((peer, why(refusal))),
            },
        };
        match went_on {
            Ok(()) => self.note_progress(),
            Err((node, why)) => self.fail(node, why),
        }
    }

    fn take_answer(&mut self, answer: questions::Answer) -> Result<(), (NodeId, Why)> {
        let Some(running) = self.running.as_mut() else { return Ok(()) };
        running.session.on_answer(&self.shared.parts().store, answer).map_err(|error| match error {
            Unexpected::Answer => (running.errand.with, Why::Refused(error.to_string())),
            Unexpected::Store(_) => (self.shared.me(), Why::Refused(error.to_string())),
        })
    }

    fn note_progress(&mut self) {
        let Some(running) = self.running.as_mut() else { return };
        running.repeats = 0;
        let moved = moved(running.session.tally());
        let _wanted = self.shared.desk.lock().on_progress(&running.errand, moved);
    }

    /// The comparison came to its end.
    fn conclude(&mut self) {
        let (me, Some(running)) = (self.shared.me(), self.leave()) else { return };
        let mut report = Report { moved: moved(running.session.tally()), ..Report::default() };
        let mut equal = Vec::new();
        for (tree, verdict) in running.session.verdicts() {
            match verdict {
                Verdict::Equal => equal.push(tree),
                Verdict::Repaired => report.differed.push(tree),
                Verdict::Unsettled => {
                    report.differed.push(tree);
                    report.left.push((tree, running.errand.with, Why::Unsettled));
                }
                Verdict::Here(cause) => report.left.push((tree, me, cause.into())),
                Verdict::There(cause) => report.left.push((tree, running.errand.with, cause.into())),
            }
        }
        // A dry run brings no floors level, and changes nothing else either.
        if !running.errand.dry_run && !equal.is_empty() {
            self.note_equal(running.errand.with, running.session.horizon(), equal);
        }
        self.shared.desk.lock().on_done(&running.errand, report);
        (self.shared.wake)();
    }

    /// Takes note of trees that are equal, and has the peer do the same, which may not compare them by itself.
    fn note_equal(&self, peer: NodeId, horizon: Hlc, trees: Vec<Tree>) {
        self.shared.anti_entropy.on_equal(peer, horizon, &trees);
        let timeout_ms = self.shared.anti_entropy.settings().question_timeout_ms;
        let body = RequestBody::AntiEntropy(Box::new(questions::Question::Equal { horizon, trees }));
        // Who does not hear it goes by what it knows already, which is older and as true.
        let unheard = Box::new(|_| ());
        self.shared.parts().transport.send(peer, Lane::Background, self.shared.request(body, timeout_ms), unheard);
    }

    fn fail(&mut self, node: NodeId, why: Why) {
        let Some(running) = self.leave() else { return };
        tracing::debug!(job = %running.errand.job, with = %running.errand.with, %why, "an errand of a repair failed");
        self.shared.desk.lock().on_failed(&running.errand, node, why);
        (self.shared.wake)();
    }

    /// Ends the errand that runs, whatever became of it.
    fn leave(&mut self) -> Option<Box<Running>> {
        let running = self.running.take()?;
        if !matches!(running.waiting, Waiting::Peer) {
            self.shared.anti_entropy.end_comparing(running.errand.with);
        }
        Some(running)
    }

    /// Waits for something from now on. The ticket that it comes with.
    fn wait(&mut self, now_ms: u64) -> u64 {
        self.last_ticket += 1;
        let (ticket, timeout_ms) = (self.last_ticket, self.shared.anti_entropy.settings().question_timeout_ms);
        if let Some(running) = self.running.as_mut() {
            let until_ms = now_ms.saturating_add(u64::from(timeout_ms));
            running.waiting = Waiting::Ticket { ticket, since_ms: now_ms, until_ms };
        }
        ticket
    }

    fn send(&mut self, peer: NodeId, body: RequestBody, now_ms: u64) {
        let ticket = self.wait(now_ms);
        let (shared, inbox) = (Arc::clone(&self.shared), Arc::clone(&self.inbox));
        if let Some(running) = self.running.as_mut() {
            running.last = Some(body.clone());
        }
        let request = self.shared.request(body, self.shared.anti_entropy.settings().question_timeout_ms);
        let reply = move |reply: Result<Reply, PeerError>| {
            if let Ok(reply) = &reply {
                // A clock out of bound is not absorbed; rows are compared whatever the clocks say.
                let _absorbed = shared.parts().clock.observe(reply.clock);
            }
            inbox.lock().push((ticket, Came::Reply(reply)));
            (shared.wake)();
        };
        self.shared.parts().transport.send(peer, Lane::Background, request, Box::new(reply));
    }
}

fn moved(tally: Tally) -> Moved {
    Moved { leaves: tally.leaves, sent: tally.rows_sent, fetched: tally.rows_fetched, bytes: tally.row_bytes }
}

/// Why a peer that refused cannot be compared with.
pub(super) fn why(refusal: Refusal) -> Why {
    match refusal {
        Refusal::Overloaded { .. } => Why::Busy,
        Refusal::Unsupported(what) => Why::Unsupported(what),
        Refusal::Unsynced(cause) => Why::NotInSync(cause),
        Refusal::UnknownTable(_) => Why::UnknownTable,
        Refusal::Damaged(_) => Why::Damaged,
        other => Why::Refused(other.to_string()),
    }
}

impl From<questions::NotCompared> for Why {
    fn from(cause: questions::NotCompared) -> Self {
        match cause {
            questions::NotCompared::UnknownTable => Self::UnknownTable,
            questions::NotCompared::Unsynced(cause) => Self::NotInSync(cause),
            questions::NotCompared::Damaged => Self::Damaged,
            questions::NotCompared::OtherMap => Self::OtherMap,
        }
    }
}

impl Worker for RepairSessions {
    fn name(&self) -> &str {
        SESSIONS
    }

    fn step(&mut self, now_ms: u64) -> Result<Step, StepError> {
        // Asked for often, so that it knows what the clock read at any time, also while nothing else is compared.
        let _horizon = self.shared.anti_entropy.horizon();
        for _ in 0..ACTS_PER_STEP_MAX {
            if let Act::Wait(step) = self.act(now_ms) {
                return Ok(step);
            }
        }
        Ok(Step::Busy)
    }
}
