//! The account of one request: whom it asked for what and why, when they answered and what, and what followed from it.
//!
//! It is kept only for requests that ask for it or are traced, and for all while slow ones are recorded; otherwise there is
//! none, and nothing is paid. The spans of a traced request hang on it (`spans.rs`). Every message passes
//! [`Coordinator::send`], which notes it here: no operation has to.
//!
//! An account is what was known when the client was told. What goes on after that (late answers, background repair) is not
//! in it, and [`Account::by_chance`] says that there is some.

use std::sync::Arc;

use cube_storage::model::{Epoch, NodeId, Origin, Outcome, RecordHeader, RowKey, TableId, Version};
use parking_lot::Mutex;

use super::Coordinator;
use super::answers::{failure_of, outcomes_of};
use super::error::{Failure, RequestError};
use super::read::ReadRow;
use super::request::Terms;
use super::write::Written;
use crate::catalog::ClusterState;
use crate::clock::NodeClock;
use crate::consistency::Level;
use crate::handoff::{Kept, NotKept};
use crate::messages::{Reply, ReplyBody, RequestBody, Want};
use crate::topology::DataCenter;
use crate::trace::OpenSpan;
use crate::transport::PeerError;

/// Messages of one account. A request of many rows and windows has more; those behind are counted.
const MESSAGES_MAX: usize = 256;
/// Rows that one message and the account tell of, and hints.
const ROWS_MAX: usize = 64;
/// What kind of request an account is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Rows were read.
    Read,
    /// A page of one partition key's rows was read.
    Range,
    /// A page of a table's rows was read.
    Scan,
    /// Rows were written.
    Write,
}

/// Where a replica is, seen from the coordinator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It is the coordinator itself, asked without the network.
    Itself,
    /// It is in the coordinator's data center.
    Near,
    /// It is in another one.
    Far,
}

/// What a replica was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// Records.
    Record,
    /// Versions and checksums alone.
    Digest,
    /// A page.
    Page,
    /// To keep rows.
    Write,
    /// To keep rows that it was seen to lack.
    Repair,
}

/// Why it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The level needs it.
    Level,
    /// Another replica was slow.
    Hedge,
    /// This read asks all replicas, by chance.
    Chance,
    /// It was asked before, and what it told won or was not all.
    Again,
}

/// What a replica told of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowTold {
    /// The row.
    pub key: RowKey,
    /// What identifies the record it holds, nothing when it holds none; or why it did not tell.
    pub held: Result<Option<RecordHeader>, Failure>,
}

/// What a replica answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// What it holds of each row.
    Rows(Vec<RowTold>),
    /// A page of so many rows, and whether there are more.
    Page {
        /// Rows on it.
        rows: usize,
        /// Whether more follow.
        more: bool,
    },
    /// What came of each row that it was to keep.
    Outcomes(Vec<Result<Outcome, Failure>>),
    /// Why there is no answer.
    Failed(Failure),
}

/// One message to a replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Who.
    pub replica: NodeId,
    /// Where that is.
    pub role: Role,
    /// What it was asked for.
    pub asked: Asked,
    /// And why.
    pub why: Why,
    /// Rows that it was asked for.
    pub rows: usize,
    /// Milliseconds after the beginning when it was sent.
    pub sent_ms: u64,
    /// And when the answer came, if it did by then.
    pub answered_ms: Option<u64>,
    /// The answer, if it came by then.
    pub told: Option<Told>,
}

/// Why a row's record won.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Nobody who told holds the row.
    NobodyHoldsIt,
    /// All who told hold this record.
    AllAgree,
    /// Its version is the greatest.
    Newest,
    /// Another record has the same version: a deletion wins over a value, then the greater bytes.
    Tie,
}

/// A replica that told of something else than what won.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stale {
    /// Who.
    pub replica: NodeId,
    /// What it held, if anything.
    pub version: Option<Version>,
    /// How much older that is.
    pub behind_ms: Option<u64>,
}

impl Stale {
    /// Behind a winner.
    pub(super) fn new(replica: NodeId, version: Option<Version>, winner: Option<Version>) -> Self {
        let newer_and_older = winner.zip(version);
        let behind_ms = newer_and_older.map(|(newer, older)| newer.hlc.millis().saturating_sub(older.hlc.millis()));
        Self { replica, version, behind_ms }
    }
}

/// What was decided of one row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The row.
    pub key: RowKey,
    /// The version that is returned.
    pub winner: Option<Version>,
    /// Why that one.
    pub reason: Reason,
    /// Those that told of something else.
    pub stale: Vec<Stale>,
}

/// What was done for one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// What kind of request it was.
    pub kind: Kind,
    /// Its table.
    pub table: TableId,
    /// Its level.
    pub level: Level,
    /// Who coordinated it.
    pub coordinator: NodeId,
    /// And where.
    pub data_center: DataCenter,
    /// The epoch of the topology it began with.
    pub epoch: Epoch,
    /// Milliseconds until the client was told.
    pub took_ms: u64,
    /// What was sent, in that order.
    pub messages: Vec<Message>,
    /// Messages that are left out.
    pub messages_left_out: usize,
    /// What was decided of each row that was read. The first ones.
    pub verdicts: Vec<Verdict>,
    /// Replicas that were asked because another one was slow.
    pub hedged: Vec<NodeId>,
    /// Replicas that were asked by chance: those that are behind are brought up to date after the answer.
    pub by_chance: Vec<NodeId>,
    /// Replicas whose missed rows were noted, and how.
    pub hints: Vec<(NodeId, Kept)>,
    /// Why the request, or a row of it, was not done.
    pub error: Option<String>,
}

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
    pub(super) fn close(&self, ledger: &Ledger, error: Option<String>) -> Option<Arc<Account>> {
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

    /// Puts the account of a write into what the client is told.
    pub(super) fn explain_write(
        &self,
        ledger: Option<&Arc<Ledger>>,
        mut results: Vec<Result<Written, RequestError>>,
    ) -> Vec<Result<Written, RequestError>> {
        let Some(ledger) = ledger else { return results };
        let account = self.close(ledger, first_error(&results));
        for result in &mut results {
            match result {
                Ok(written) => written.account.clone_from(&account),
                Err(error) => error.set_account(&account),
            }
        }
        results
    }

    /// Puts the account of a read, with its verdicts, into what the client is told.
    pub(super) fn explain_read(
        &self,
        ledger: Option<&Arc<Ledger>>,
        keys: impl Iterator<Item = RowKey>,
        results: &mut [Result<ReadRow, RequestError>],
    ) {
        let Some(ledger) = ledger else { return };
        for (key, row) in keys.zip(results.iter()).take(ROWS_MAX) {
            if let Ok(row) = row {
                ledger.decided(key, row.record.as_ref().map(|record| record.version));
            }
        }
        let account = self.close(ledger, first_error(results));
        for result in results {
            match result {
                Ok(row) => row.account.clone_from(&account),
                Err(error) => error.set_account(&account),
            }
        }
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

impl std::fmt::Display for Account {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "table {} at {} by {} in {} ms", self.table, self.level, self.coordinator, self.took_ms)?;
        for message in &self.messages {
            let Message { replica, asked, why, sent_ms, answered_ms, .. } = message;
            write!(f, "; {replica} {asked:?} ({why:?}) sent at {sent_ms} ms, ")?;
            match answered_ms {
                Some(answered_ms) => write!(f, "answered at {answered_ms} ms")?,
                None => f.write_str("not answered")?,
            }
            if let Some(Told::Failed(failure)) = &message.told {
                write!(f, ": {failure}")?;
            }
        }
        self.error.iter().try_for_each(|error| write!(f, "; {error}"))
    }
}
