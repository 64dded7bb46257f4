//! What an account consists of, and where it goes: into everything that the client is told of the request.

use std::sync::Arc;

use cube_storage::model::{Epoch, NodeId, Outcome, RecordHeader, RowKey, TableId, Version};

use crate::consistency::Level;
use crate::coordinator::error::{Failure, RequestError};
use crate::coordinator::range::RangePage;
use crate::coordinator::read::ReadRow;
use crate::coordinator::scan::PrefixPage;
use crate::coordinator::write::Written;
use crate::handoff::Kept;
use crate::topology::DataCenter;

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
    pub(in crate::coordinator) fn new(replica: NodeId, version: Option<Version>, winner: Option<Version>) -> Self {
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

/// What a client is told, with the account of the request if it wants one.
pub trait Explained {
    /// The account.
    fn account(&self) -> Option<&Arc<Account>>;

    /// Puts it in.
    fn set_account(&mut self, account: &Option<Arc<Account>>);
}

impl<T: Explained> Explained for Result<T, RequestError> {
    fn account(&self) -> Option<&Arc<Account>> {
        match self {
            Ok(told) => told.account(),
            Err(error) => error.account(),
        }
    }

    fn set_account(&mut self, account: &Option<Arc<Account>>) {
        match self {
            Ok(told) => told.set_account(account),
            Err(error) => error.set_account(account),
        }
    }
}

macro_rules! explained {
    ($($told:ty),*) => {
        $(impl Explained for $told {
            fn account(&self) -> Option<&Arc<Account>> {
                self.account.as_ref()
            }

            fn set_account(&mut self, account: &Option<Arc<Account>>) {
                self.account.clone_from(account);
            }
        })*
    };
}

explained!(Written, ReadRow, RangePage, PrefixPage);

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
