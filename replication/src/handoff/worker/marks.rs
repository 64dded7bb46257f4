//! Dirty marks of a node that leaves: another node keeps them from now on.
//!
//! A batch of one target is under way at a time. It is cleared here only after another node said that it is durable there,
//! and only as it was when it was sent: what is marked meanwhile is sent too. A crash of either side only sends marks
//! again, and a mark that is kept twice is the same mark.

use std::sync::Arc;

use cube_storage::dirty::{DirtyMarks, Mark};
use cube_storage::model::NodeId;

use super::super::HandoffCounters;
use super::super::replay::backoff_ms;
use super::{Asked, BATCH_TIMEOUT_MS, HintReplay, State};
use crate::messages::{Refusal, ReplyBody, RequestBody, TakeMarks};
use crate::topology::MemberState;

/// Marks that are handed over at once. They share one sync at the other end.
const MARKS_AT_ONCE: usize = 1_024;

/// How handing them over stands.
#[derive(Default)]
pub(super) struct MarksHandover {
    attempts: u64,
    under_way: Option<Sent>,
    /// The target whose marks were not taken the last time: the others' come first.
    stuck: Option<String>,
    failures: u32,
    wait_until_ms: u64,
}

/// Marks of one target that a node was asked to keep.
struct Sent {
    marks: Arc<DirtyMarks>,
    batch: Vec<Mark>,
    holder: NodeId,
}

impl HintReplay {
    /// Sends the next marks, if this node leaves and has some. When there is something to do again without an answer.
    pub(super) fn hand_marks_over(&self, state: &mut State, now_ms: u64) -> u64 {
        if !self.is_handing_over() || state.marks.under_way.is_some() {
            return u64::MAX;
        }
        if state.marks.wait_until_ms > now_ms {
            return state.marks.wait_until_ms;
        }
        let cluster = self.parts.catalog.current();
        let (mut some, mut stuck): (Vec<_>, Vec<_>) = self
            .parts
            .handoff
            .marks()
            .targets()
            .into_iter()
            .partition(|marks| Some(marks.target()) != state.marks.stuck.as_deref());
        some.append(&mut stuck);
        let mut has_no_holder = false;
        for marks in some {
            let member = cluster.topology.member_named(marks.target());
            let Some(target) = member.filter(|member| member.state != MemberState::Left).map(|member| member.id) else {
                continue;
            };
            let batch = marks.marks(None, MARKS_AT_ONCE);
            if batch.is_empty() {
                continue;
            }
            let Some(holder) = self.holder(state, target) else {
                // There may be one for the marks of another target.
                has_no_holder = true;
                continue;
            };
            state.marks.attempts += 1;
            let ranges = batch.iter().map(|mark| (mark.range, mark.version)).collect();
            state.marks.under_way = Some(Sent { marks, batch, holder });
            let asked = Asked::Marks { attempt: state.marks.attempts };
            let body = RequestBody::TakeMarks(TakeMarks { target, marks: ranges });
            self.send(holder, asked, BATCH_TIMEOUT_MS, body);
            return u64::MAX;
        }
        if has_no_holder {
            return self.marks_stay(state, "no other node is there to keep its dirty marks", now_ms);
        }
        u64::MAX
    }

    /// Whether they are kept elsewhere.
    pub(super) fn on_marks_answer(
        &self,
        state: &mut State,
        attempt: u64,
        body: Result<Result<ReplyBody, Refusal>, String>,
        now_ms: u64,
    ) {
        let sent = state.marks.under_way.take_if(|_| state.marks.attempts == attempt);
        let Some(Sent { marks, batch, holder }) = sent else { return };
        let problem = match body {
            Ok(Ok(ReplyBody::TookMarks)) => {
                for mark in &batch {
                    // Otherwise more was missed meanwhile, and it is sent again.
                    let _is_unchanged = marks.clear(mark.range, mark.generation);
                }
                marks.sync().err().map(|error| error.to_string())
            }
            Ok(Ok(_)) => Some("it answered another question".into()),
            Ok(Err(refusal)) => Some(refusal.to_string()),
            Err(detail) => Some(detail),
        };
        match problem {
            Some(detail) => {
                state.holders.failed(holder);
                state.marks.stuck = Some(marks.target().to_owned());
                self.marks_stay(state, &detail, now_ms);
            }
            None => {
                state.holders.took(holder);
                (state.marks.failures, state.marks.stuck) = (0, None);
                let (target, count) = (marks.target(), batch.len());
                HandoffCounters::add(&self.parts.handoff.counters().marks_handed_over, count as u64);
                tracing::info!(target, count, "dirty marks are kept by another node from now on");
            }
        }
    }

    /// They are tried again later; when.
    fn marks_stay(&self, state: &mut State, detail: &str, now_ms: u64) -> u64 {
        HandoffCounters::add(&self.parts.handoff.counters().failures, 1);
        state.marks.failures = state.marks.failures.saturating_add(1);
        state.marks.wait_until_ms = now_ms + backoff_ms(state.marks.failures);
        tracing::warn!(detail, "dirty marks cannot be handed to another node yet");
        state.marks.wait_until_ms
    }
}
