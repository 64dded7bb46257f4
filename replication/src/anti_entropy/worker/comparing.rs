//! Passes and comparisons: what the schedule says is done, within the budget, and what came of it is noted.

use cube_storage::model::Origin;

use super::{Act, Activity, AntiEntropyWorker, Came, come, retry_after_ms};
use crate::anti_entropy::answer::comparable;
use crate::anti_entropy::compare::{Mode, Next, Session, Verdict};
use crate::anti_entropy::handle::Ended;
use crate::anti_entropy::questions::Tree;
use crate::anti_entropy::schedule::{Turn, Unit};
use crate::messages::{Refusal, ReplyBody, RequestBody, Stamp, WriteRows};
use crate::worker::{Step, StepError};

/// After which it is looked again whether a repair on demand is done with a peer.
const TAKEN_RETRY_MS: u64 = 100;

impl AntiEntropyWorker {
    pub(super) fn begin_pass(&mut self, now_ms: u64) {
        let parts = &self.shared.parts;
        let state = parts.catalog.current();
        let shared = self.shared.shared(&state);
        let trees: Vec<Tree> = shared.trees.keys().copied().collect();
        // Everything that arrives from here on is watched for what would take a proof back.
        parts.store.begin_proofs(&trees);
        self.shared.board.lock().follow(&shared, &parts.store);
        self.pass = Some(self.schedule.begin(shared, now_ms));
    }

    /// Begins the next comparison of the pass, or ends the pass.
    pub(super) fn go_on_with_pass(&mut self, now_ms: u64) -> Result<Act, StepError> {
        let Some(pass) = &mut self.pass else { return Ok(Act::GoOn) };
        let unit = match self.schedule.next(pass, now_ms) {
            Turn::Compare(unit) => unit,
            Turn::Wait { until_ms } => return Ok(Act::End(Step::Idle { until_ms })),
            Turn::Over => return self.end_pass(now_ms),
        };
        if !self.shared.begin_comparing(unit.peer) {
            self.schedule.on_busy(pass, unit, now_ms, TAKEN_RETRY_MS);
            return Ok(Act::GoOn);
        }
        let first = self.dirty_trees(unit.peer);
        let (me, horizon) = (self.shared.parts.me, self.shared.horizon());
        let session = Session::new(me, unit.peer, horizon, Mode::Repair, unit.trees).with_first(first);
        self.activity = Activity::Comparing(Box::new(session));
        Ok(Act::GoOn)
    }

    fn end_pass(&mut self, now_ms: u64) -> Result<Act, StepError> {
        let Some(pass) = self.pass.take() else { return Ok(Act::GoOn) };
        self.schedule.end(&pass, now_ms);
        let store = &self.shared.parts.store;
        let is_sound = |(tree, epoch): &(Tree, _)| {
            let placement = store.table(tree.0).map(|options| options.placement);
            // Another map may name other replicas than those that were compared with.
            let fenced = placement.map(|placement| store.partition(placement, tree.1).epoch);
            comparable(store, *tree).is_ok() && fenced == Ok(*epoch)
        };
        let proven: Vec<Tree> = pass.proven().filter(is_sound).map(|(tree, _)| tree).collect();
        let keep = now_ms >= self.next_keep_ms;
        store.end_proofs(&proven, pass.horizon(self.shared.horizon()), keep)?;
        if keep {
            self.next_keep_ms = now_ms.saturating_add(self.settings.keep_proofs_ms);
        }
        self.shared.status.lock().passes += 1;
        self.begin_clearing();
        Ok(Act::GoOn)
    }

    pub(super) fn compare(&mut self, now_ms: u64) -> Result<Act, StepError> {
        let resting = self.shared.rest_until_ms(now_ms);
        if let Some(until_ms) = self.budget.wait_until_ms(now_ms).max(resting) {
            return Ok(Act::End(Step::Throttled { until_ms }));
        }
        let Activity::Comparing(session) = &mut self.activity else { return Ok(Act::GoOn) };
        let (peer, before) = (session.peer(), session.tally());
        let next = match session.next(&self.shared.parts.store) {
            Ok(next) => next,
            Err(error) => {
                self.give_up(&error, 0, now_ms);
                return Ok(Act::GoOn);
            }
        };
        let after = session.tally();
        let rows = (after.rows_sent - before.rows_sent) + (after.rows_fetched - before.rows_fetched);
        self.budget.spend(after.row_bytes - before.row_bytes, rows, now_ms);
        self.shared.burdens(now_ms);
        match next {
            Next::Done => self.conclude(now_ms),
            Next::Ask(question) => self.ask(peer, question, now_ms),
            Next::Send { floor, mutations } => {
                let origin = Origin::Replica { floor };
                let write = WriteRows { origin, mutations, stamp: Stamp::Old, seen: None, condition: None };
                self.send(peer, RequestBody::Write(write), now_ms);
            }
            Next::Apply(batch) => {
                let ticket = self.wait(now_ms);
                let (shared, inbox) = (self.shared.clone(), self.inbox.clone());
                let done = move |result| {
                    come(&inbox, ticket, Came::Applied(result));
                    (shared.parts.wake)();
                };
                self.shared.parts.store.submit(batch, Box::new(done));
            }
        }
        Ok(Act::GoOn)
    }

    /// Something came for the comparison under way, or nothing in time.
    pub(super) fn on_compared(&mut self, came: Option<Came>, now_ms: u64) -> Result<(), StepError> {
        let Activity::Comparing(session) = &mut self.activity else { return Ok(()) };
        let store = &self.shared.parts.store;
        match came {
            None => self.give_up(&"the peer did not answer in time", 0, now_ms),
            Some(Came::Applied(Ok(outcomes))) => session.on_applied(&outcomes),
            Some(Came::Applied(Err(error))) => self.give_up(&error, 0, now_ms),
            Some(Came::Reply(Err(error))) => self.give_up(&error, 0, now_ms),
            Some(Came::Reply(Ok(reply))) => match reply.body {
                Ok(ReplyBody::AntiEntropy(told)) => {
                    self.shared.on_answered(session.peer());
                    if let Err(error) = session.on_answer(store, *told) {
                        self.give_up(&error, 0, now_ms);
                    }
                }
                Ok(ReplyBody::Wrote(outcomes)) => {
                    session.on_sent(&outcomes.into_iter().map(Some).collect::<Vec<_>>());
                }
                Ok(ReplyBody::WroteSome(outcomes)) => {
                    session.on_sent(&outcomes.into_iter().map(Result::ok).collect::<Vec<_>>());
                }
                Ok(_) => self.give_up(&"the peer answered another question", 0, now_ms),
                // No row could be taken, as where the peer is behind on the map: the trees stay unsettled.
                Err(Refusal::MapBehind(_) | Refusal::Unsynced(_)) if session.is_sending() => session.on_sent(&[]),
                Err(refusal) => self.give_up(&refusal, retry_after_ms(&refusal), now_ms),
            },
        }
        Ok(())
    }

    /// The comparison cannot go on. What it exchanged so far is not different any more.
    fn give_up(&mut self, error: &dyn std::fmt::Display, retry_after_ms: u64, now_ms: u64) {
        let Some(session) = self.end_comparing() else { return };
        tracing::debug!(peer = %session.peer(), %error, "a comparison was given up");
        let ended = if retry_after_ms > 0 { Ended::Refused } else { Ended::Failed(error) };
        self.shared.note(session.peer(), &session.tally(), ended);
        if let (Some(pass), true) = (&mut self.pass, retry_after_ms > 0) {
            let trees = session.verdicts().map(|(tree, _)| tree).collect();
            self.schedule.on_busy(pass, Unit { peer: session.peer(), trees }, now_ms, retry_after_ms);
        } else {
            self.schedule.on_failed(session.peer(), now_ms);
        }
        if let Some(pass) = &mut self.pass {
            let exchanged = session.tally().rows_sent + session.tally().rows_fetched > 0;
            pass.on_compared(session.horizon(), exchanged);
        }
    }

    /// The comparison came to its end.
    fn conclude(&mut self, now_ms: u64) {
        let Some(session) = self.end_comparing() else { return };
        let (peer, horizon) = (session.peer(), session.horizon());
        let mut differed = false;
        let mut board = self.shared.board.lock();
        for (tree, verdict) in session.verdicts() {
            match verdict {
                Verdict::Equal => {
                    board.on_equal(tree, peer, horizon);
                    if let Some(pass) = &mut self.pass {
                        pass.on_equal(tree, peer);
                    }
                }
                Verdict::Repaired | Verdict::Unsettled => differed = true,
                Verdict::Here(_) | Verdict::There(_) => {}
            }
        }
        drop(board);
        self.unpurged.extend(session.unpurged().iter().copied());
        self.shared.note(peer, &session.tally(), Ended::Compared);
        if let Some(pass) = &mut self.pass {
            pass.on_compared(horizon, differed);
        }
        self.schedule.on_done(peer, now_ms);
    }

    pub(super) fn end_comparing(&mut self) -> Option<Session> {
        match std::mem::replace(&mut self.activity, Activity::Resting) {
            Activity::Comparing(session) => {
                self.shared.end_comparing(session.peer());
                Some(*session)
            }
            other => {
                self.activity = other;
                None
            }
        }
    }
}
