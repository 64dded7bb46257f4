//! The account of one request: whom it asked for what and why, when they answered and what, and what followed from it.
//!
//! It is kept only for requests that ask for it or are traced, and for all while slow ones are recorded; otherwise there is
//! none, and nothing is paid. The spans of a traced request hang on it (`spans.rs`). Every message passes
//! [`Coordinator::send`], which notes it here: no operation has to.
//!
//! An account is what was known when the client was told. What goes on after that (late answers, background repair) is not
//! in it, and [`Account::by_chance`] says that there is some.

mod account;

use std::sync::Arc;

use cube_storage::model::{NodeId, Origin, RecordHeader, RowKey, TableId, Version};
use parking_lot::Mutex;

pub use self::account::{Account, Asked, Explained, Kind, Message, Reason, Role, RowTold, Stale, Told, Verdict, Why};
use super::Coordinator;
use super::answers::{failure_of, outcomes_of};
use super::error::{Failure, RequestError};
use super::read::ReadRow;
use super::request::Terms;
use crate::catalog::ClusterState;
use crate::clock::NodeClock;
use crate::handoff::{Kept, NotKept};
use crate::messages::{Reply, ReplyBody, RequestBody, Want};
use crate::trace::OpenSpan;
use crate::transport::PeerError;

/// Messages of one account. A request of many rows and windows has more; those behind are counted.
const MESSAGES_MAX: usize = 256;
/// Rows that one message and the account tell of, and hints.
const ROWS_MAX: usize = 64;

/// An account that is being written.
pub(super) struct Ledger {
    is_wanted: bool,
    begun_ms: u64,
    clock: Arc<NodeClock>,
    pub(super) state: Arc<ClusterState>,
    /// What the coordinator does for the request, if it is traced.
    pub(super) span: Option<OpenSpan>,
    account: Mutex<Account>,
}

impl Coordinator {
    /// The ledger of a request, if anybody wants to know.
    pub(super) fn ledger(
        &self,
        (kind, table): (Kind, TableId),
        terms: &Terms,
        state: &Arc<ClusterState>,
    ) -> Option<Arc<Ledger>> {
        let span = self.coordinating(kind, terms);
        if !terms.explain && span.is_none() && self.slow_ms().is_none() {
            return None;
        }
        let account = Account {
            kind,
            table,
            level: terms.level,
            coordinator: self.parts.me,
            data_center: self.data_center(state),
            epoch: state.topology.epoch(),
            took_ms: 0,
            messages: Vec::new(),
            messages_left_out: 0,
            verdicts: Vec::new(),
            hedged: Vec::new(),
            by_chance: Vec::new(),
            hints: Vec::new(),
            error: None,
        };
        Some(Arc::new(Ledger {
            is_wanted: terms.explain,
            begun_ms: self.parts.clock.monotonic_ms(),
            clock: Arc::clone(&self.parts.clock),
            state: Arc::clone(state),
            span,
            account: Mutex::new(account),
        }))
    }

    /// The account, as far as the client wants it. A slow request's is recorded.
    fn close(&self, ledger: &Ledger, error: Option<String>) -> Option<Arc<Account>> {
        if let Some(span) = &ledger.span {
            span.end(error.clone());
        }
        let mut account = ledger.account.lock().clone();
        account.took_ms = ledger.passed_ms();
        account.error = error;
        let account = Arc::new(account);
        if self.slow_ms().is_some_and(|slow_ms| account.took_ms >= u64::from(slow_ms)) {
            self.slow.record(&account, self.parts.clock.monotonic_ms());
        }
        ledger.is_wanted.then_some(account)
    }

    /// The accounts of the last slow requests, the oldest first.
    pub fn slow_requests(&self) -> Vec<Arc<Account>> {
        self.slow.accounts()
    }

    /// Closes the account and puts it into all that the client is told.
    pub(super) fn explain<T: Explained>(&self, ledger: Option<&Arc<Ledger>>, told: &mut [Result<T, RequestError>]) {
        let Some(ledger) = ledger else { return };
        let account = self.close(ledger, first_error(told));
        told.iter_mut().for_each(|told| told.set_account(&account));
    }

    /// The same of a read, whose verdicts are made here.
    pub(super) fn explain_read(
        &self,
        ledger: Option<&Arc<Ledger>>,
        keys: impl Iterator<Item = RowKey>,
        rows: &mut [Result<ReadRow, RequestError>],
    ) {
        if let Some(ledger) = ledger {
            for (key, row) in keys.zip(rows.iter()).take(ROWS_MAX) {
                if let Ok(row) = row {
                    ledger.decided(key, row.record.as_ref().map(|record| record.version));
                }
            }
        }
        self.explain(ledger, rows);
    }
}

fn first_error<T>(results: &[Result<T, RequestError>]) -> Option<String> {
    results.iter().find_map(|result| result.as_ref().err()).map(ToString::to_string)
}

impl Ledger {
    /// How long the request is under way.
    pub(super) fn passed_ms(&self) -> u64 {
        self.clock.monotonic_ms().saturating_sub(self.begun_ms)
    }

    /// A message is about to be sent. Its place in the account, if it has room.
    pub(super) fn sent(&self, to: NodeId, body: &RequestBody) -> Option<usize> {
        let sent_ms = self.passed_ms();
        let role = self.role(to);
        let mut account = self.account.lock();
        if account.messages.len() >= MESSAGES_MAX {
            account.messages_left_out += 1;
            return None;
        }
        let (asked, keys): (Asked, Vec<&RowKey>) = match body {
            RequestBody::Read(read) => {
                let asked = if read.want == Want::Record { Asked::Record } else { Asked::Digest };
                (asked, read.rows.iter().map(|(key, _)| key).collect())
            }
            RequestBody::Write(write) => {
                let asked = if write.origin == Origin::Client { Asked::Write } else { Asked::Repair };
                (asked, write.mutations.iter().map(|mutation| &mutation.key).collect())
            }
            _ => (Asked::Page, Vec::new()),
        };
        let is_new = account.messages.iter().all(|message| message.replica != to);
        let why = match asked {
            Asked::Write | Asked::Repair => Why::Level,
            _ if !is_new => Why::Again,
            _ if account.hedged.contains(&to) => Why::Hedge,
            _ if account.by_chance.contains(&to) => Why::Chance,
            _ => Why::Level,
        };
        // What it was asked of stands here until it has answered.
        let rows = keys.len();
        let untold = |key: &&RowKey| RowTold { key: (*key).clone(), held: Ok(None) };
        let told = matches!(asked, Asked::Record | Asked::Digest)
            .then(|| Told::Rows(keys.iter().take(ROWS_MAX).map(untold).collect()));
        account.messages.push(Message { replica: to, role, asked, why, rows, sent_ms, answered_ms: None, told });
        Some(account.messages.len() - 1)
    }

    /// The answer to a message came, or will not.
    pub(super) fn answered(&self, place: Option<usize>, reply: &Result<Reply, PeerError>) {
        let answered_ms = self.passed_ms();
        let mut account = self.account.lock();
        let Some(message) = place.and_then(|place| account.messages.get_mut(place)) else { return };
        message.answered_ms = Some(answered_ms);
        let asked_of = message.told.take();
        message.told = Some(match reply {
            Err(error) => Told::Failed(Failure::Peer(error.clone())),
            Ok(Reply { body: Err(refusal), .. }) => Told::Failed(failure_of(refusal.clone())),
            Ok(Reply { body: Ok(ReplyBody::Rows(found)), .. }) => {
                let Some(Told::Rows(mut rows)) = asked_of else { return };
                for (row, found) in rows.iter_mut().zip(found) {
                    row.held = found.as_ref().map(|found| found.header).map_err(|refusal| failure_of(refusal.clone()));
                }
                Told::Rows(rows)
            }
            Ok(Reply { body: Ok(ReplyBody::Page { rows, next, .. }), .. }) => {
                Told::Page { rows: rows.len(), more: next.is_some() }
            }
            Ok(Reply { body: Ok(ReplyBody::TablePage(page)), .. }) => {
                Told::Page { rows: page.rows.len(), more: page.stopped.is_some() }
            }
            Ok(reply) => {
                let mut outcomes = outcomes_of(Ok(reply.clone()), message.rows);
                outcomes.truncate(ROWS_MAX);
                Told::Outcomes(outcomes)
            }
        });
    }

    /// This replica is about to be asked because another one is slow.
    pub(super) fn hedged(&self, node: NodeId) {
        note(&mut self.account.lock().hedged, node);
    }

    /// This replica is about to be asked because all are.
    pub(super) fn by_chance(&self, node: NodeId) {
        note(&mut self.account.lock().by_chance, node);
    }

    /// Takes over what another request did on behalf of this one, which began it at that time.
    pub(super) fn take_over(&self, of: &Account, begun_ms: u64) {
        let mut account = self.account.lock();
        let room = MESSAGES_MAX.saturating_sub(account.messages.len());
        account.messages_left_out += of.messages_left_out + of.messages.len().saturating_sub(room);
        account.messages.extend(of.messages.iter().take(room).cloned().map(|mut message| {
            message.sent_ms += begun_ms;
            message.answered_ms = message.answered_ms.map(|answered_ms| answered_ms + begun_ms);
            message
        }));
        of.hedged.iter().for_each(|node| note(&mut account.hedged, *node));
        of.by_chance.iter().for_each(|node| note(&mut account.by_chance, *node));
        let room = ROWS_MAX.saturating_sub(account.verdicts.len());
        account.verdicts.extend(of.verdicts.iter().take(room).cloned());
    }

    /// This was decided of a row.
    pub(super) fn verdict(&self, verdict: Verdict) {
        let verdicts = &mut self.account.lock().verdicts;
        if verdicts.len() < ROWS_MAX {
            verdicts.push(verdict);
        }
    }

    /// What a replica missed was noted.
    pub(super) fn noted(&self, node: NodeId, kept: &Result<Kept, NotKept>) {
        let mut account = self.account.lock();
        if let (Ok(kept), true) = (kept, account.hints.len() < ROWS_MAX) {
            account.hints.push((node, *kept));
        }
    }

    fn role(&self, node: NodeId) -> Role {
        let of = |node| self.state.topology.member(node).map(|member| &member.data_center);
        let me = self.account.lock().coordinator;
        match node == me {
            true => Role::Itself,
            false if of(node) == of(me) => Role::Near,
            false => Role::Far,
        }
    }

    /// The row is decided: by what was told, says why that won.
    fn decided(&self, key: RowKey, winner: Option<Version>) {
        let mut account = self.account.lock();
        let mut held: Vec<(NodeId, Option<RecordHeader>)> = Vec::new();
        for message in account.messages.iter().filter(|message| message.answered_ms.is_some()) {
            let Some(Told::Rows(rows)) = &message.told else { continue };
            for row in rows.iter().filter(|row| row.key == key) {
                if let Ok(header) = &row.held {
                    held.retain(|(node, _)| *node != message.replica);
                    held.push((message.replica, *header));
                }
            }
        }
        let version_of = |header: &Option<RecordHeader>| header.map(|header| header.version);
        let others = held.iter().filter(|(_, header)| version_of(header) != winner);
        let stale: Vec<Stale> =
            others.map(|(replica, header)| Stale::new(*replica, version_of(header), winner)).collect();
        let mut winners = held.iter().filter(|(_, header)| version_of(header) == winner).map(|(_, header)| header);
        let first = winners.next();
        let reason = match (winner, first.is_some_and(|first| winners.any(|other| other != first))) {
            (None, _) => Reason::NobodyHoldsIt,
            (_, true) => Reason::Tie,
            (_, false) if stale.is_empty() => Reason::AllAgree,
            (_, false) => Reason::Newest,
        };
        account.verdicts.push(Verdict { key, winner, reason, stale });
    }
}

fn note(nodes: &mut Vec<NodeId>, node: NodeId) {
    if !nodes.contains(&node) {
        nodes.push(node);
    }
}
