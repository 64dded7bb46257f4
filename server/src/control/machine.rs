//! The state machine that the log drives: the hard state, what it took to get there, and which requests were decided of
//! late. It knows no disk; `state_machine.rs` keeps it.
//!
//! **A request takes effect once**, however often a proposer that heard no answer sends it. Each names an index of the
//! log that its proposer had applied, and is refused once the log is [`REQUESTS_REMEMBERED`] entries past it; the answer
//! to each request is remembered for as many entries. So whenever a second copy could still be accepted, the answer to
//! the first one is remembered, and given again.

use std::collections::VecDeque;
use std::sync::Arc;

use openraft::{BasicNode, Entry, EntryPayload, LogId, StoredMembership};
use serde::{Deserialize, Serialize};

use super::command::{Reply, Request, RequestId};
use super::raft_types::TypeConfig;
use super::refusal::Refusal;
use super::state::HardState;

/// For how many entries of the log a request's answer is kept. A proposal is tried for seconds, in which hardly as many
/// entries are written; each costs some ten bytes in a snapshot.
pub(super) const REQUESTS_REMEMBERED: u64 = 512;

/// A request that was decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Decided {
    index: u64,
    id: RequestId,
    reply: Reply,
}

/// The state machine. A snapshot is one of these.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Machine {
    pub(super) state: Arc<HardState>,
    /// The last entry that is in it.
    pub(super) applied: Option<LogId<u64>>,
    /// Raft's own members, as of that entry.
    pub(super) membership: StoredMembership<u64, BasicNode>,
    /// In the order of the log.
    decided: VecDeque<Decided>,
}

impl Machine {
    pub(super) fn new() -> Self {
        Self {
            state: Arc::new(HardState::unfounded()),
            applied: None,
            membership: StoredMembership::default(),
            decided: VecDeque::new(),
        }
    }

    /// Takes in the next entry of the log.
    pub(super) fn apply(&mut self, entry: Entry<TypeConfig>) -> Reply {
        let index = entry.log_id.index;
        self.applied = Some(entry.log_id);
        self.forget(index);
        match entry.payload {
            EntryPayload::Blank => Reply::Nothing,
            EntryPayload::Membership(membership) => {
                self.membership = StoredMembership::new(Some(entry.log_id), membership);
                Reply::Nothing
            }
            EntryPayload::Normal(request) => self.decide(index, &request),
        }
    }

    fn decide(&mut self, index: u64, request: &Request) -> Reply {
        if let Some(decided) = self.decided.iter().find(|decided| decided.id == request.id) {
            return decided.reply.clone();
        }
        if index > request.after.saturating_add(REQUESTS_REMEMBERED) {
            return Reply::Decided(Err(Refusal::TooLate { after: request.after, index }));
        }
        let outcome = self.state.after(&request.command).map(|(next, answer)| {
            if next != *self.state {
                self.state = Arc::new(next);
            }
            answer
        });
        let reply = Reply::Decided(outcome);
        self.decided.push_back(Decided { index, id: request.id, reply: reply.clone() });
        reply
    }

    fn forget(&mut self, index: u64) {
        while self.decided.front().is_some_and(|first| first.index.saturating_add(REQUESTS_REMEMBERED) < index) {
            self.decided.pop_front();
        }
    }
}
