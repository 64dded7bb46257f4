//! What nodes say to each other: one envelope around every request and every reply, and the few things they ask.
//!
//! The envelope carries, from the first release on, what later features need to be negotiated and bounded: protocol
//! version and features, the time that is left, the sender's clock, whether an account of the work is wanted. What a peer
//! has not announced it is never sent ([`RequestBody::needs`]); a body that a node does not know is answered with
//! [`Refusal::Unsupported`], never guessed at. How they become bytes, and what a later release may add to them, is in
//! `codec.rs`.

use std::fmt;

use bytes::Bytes;
use cube_storage::dirty::DirtyRange;
use cube_storage::model::{
    Epoch, Hlc, Mutation, NodeId, Origin, Outcome, PartitionId, Record, RecordHeader, RowKey, TableId, Version,
};
use cube_storage::scan::{PageToken, Row, ScanRequest};
use cube_storage::{DamagedRange, StoreError, UnsyncedCause};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::anti_entropy::questions::{Answer, Question};
use crate::handoff::pace::{Coming, Grant};
use crate::repair::{RepairAnswer, RepairQuestion};
use crate::trace::TraceContext;

/// The version of these messages that this build speaks.
pub const PROTOCOL: u16 = 1;

/// What a sender may use beyond its protocol version: a set of bits, agreed on when two nodes meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Features(pub u64);

impl Features {
    /// Hints are sent at the pace of who takes them, and handed on by who leaves.
    pub const HINTS: Self = Self(1);
    /// Tables are read in the order of keys.
    pub const TABLE_SCANS: Self = Self(1 << 1);
    /// Replicas are compared.
    pub const ANTI_ENTROPY: Self = Self(1 << 2);
    /// Repairs on demand.
    pub const REPAIRS: Self = Self(1 << 3);
    /// Who was compared with is told up to when the two are equal.
    pub const SYNC_TIMES: Self = Self(1 << 4);
    /// Whoever asks for a watermark tells whom it knows.
    pub const WATERMARKS_AMONG: Self = Self(1 << 5);
    /// Who has lost something tells of a write up to where.
    pub const LOSSES: Self = Self(1 << 6);
    /// What this build can: a bit is given once and never another meaning.
    pub const OF_THIS_BUILD: Self = Self(
        Self::HINTS.0
            | Self::TABLE_SCANS.0
            | Self::ANTI_ENTROPY.0
            | Self::REPAIRS.0
            | Self::SYNC_TIMES.0
            | Self::WATERMARKS_AMONG.0
            | Self::LOSSES.0,
    );

    /// In words, for those that have one.
    const NAMES: [(Self, &str); 7] = [
        (Self::HINTS, "hints"),
        (Self::TABLE_SCANS, "table scans"),
        (Self::ANTI_ENTROPY, "anti-entropy"),
        (Self::REPAIRS, "repairs"),
        (Self::SYNC_TIMES, "in-sync times"),
        (Self::WATERMARKS_AMONG, "watermarks among known members"),
        (Self::LOSSES, "losses told of writes"),
    ];

    /// Those that both have.
    pub fn common(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Those of `wanted` that are not among these; nothing where all are.
    pub fn lacks(self, wanted: Self) -> Option<Self> {
        let lacking = Self(wanted.0 & !self.0);
        (lacking != Self::default()).then_some(lacking)
    }
}

impl fmt::Display for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = Self::NAMES.into_iter().filter(|(feature, _)| self.common(*feature) == *feature);
        let names: Vec<&str> = named.map(|(_, name)| name).collect();
        f.write_str(&names.join(", "))
    }
}

/// A request on its way to a replica.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// The protocol version the sender speaks. Between nodes the transport sets this and the next to what the two agreed on.
    pub protocol: u16,
    /// What it may use beyond that.
    pub features: Features,
    /// Who asks.
    pub from: NodeId,
    /// The asker's clock; whoever receives it moves past it.
    pub clock: Hlc,
    /// Milliseconds in which an answer is still of use. Work past them is dropped, not done.
    pub time_left_ms: u32,
    /// Whether the reply should tell how the work went.
    pub explain: bool,
    /// The trace that it is part of, if it is one of a request that is traced.
    pub trace: Option<TraceContext>,
    /// What is asked.
    pub body: RequestBody,
}

/// What is asked of a replica. On the wire each is told by its place in this list, so a new one goes to the end of those that
/// are sent, and to [`RequestBody::KINDS`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum RequestBody {
    /// Keep these rows.
    Write(WriteRows),
    /// Tell these rows.
    Read(ReadRows),
    /// Tell a page of rows in their order.
    Scan(ScanRows),
    /// Tell how many bytes of hints may be sent. Asked with what is coming, which may be nothing any more.
    HintCredits(Coming),
    /// Keep these hints in the sender's place: it leaves the cluster.
    TakeHints(TakeHints),
    /// Tell a page of a table's rows by key prefix, over many partitions.
    ScanTable(ScanTable),
    /// Answer what anti-entropy asks.
    AntiEntropy(Box<Question>),
    /// Keep these dirty marks in the sender's place: it leaves the cluster.
    TakeMarks(TakeMarks),
    /// Work for a repair on demand, or tell of such repairs.
    Repair(Box<RepairQuestion>),
    /// Something of a later release, of which only the number is known here. Never sent.
    #[serde(skip)]
    Unknown {
        /// Its place in the list of that release.
        kind: u32,
    },
}

impl RequestBody {
    /// How many kinds of requests this build can carry out.
    pub const KINDS: u32 = 9;

    /// What a peer must have announced to be sent this: nothing for what every release of the protocol's version knows.
    pub fn needs(&self) -> Features {
        match self {
            Self::Write(_) | Self::Read(_) | Self::Scan(_) | Self::Unknown { .. } => Features::default(),
            Self::HintCredits(_) | Self::TakeHints(_) | Self::TakeMarks(_) => Features::HINTS,
            Self::ScanTable(_) => Features::TABLE_SCANS,
            Self::AntiEntropy(question) => match **question {
                Question::Equal { .. } => Features::SYNC_TIMES,
                Question::WatermarkAmong { .. } => Features::WATERMARKS_AMONG,
                _ => Features::ANTI_ENTROPY,
            },
            Self::Repair(_) => Features::REPAIRS,
        }
    }
}

/// Rows to keep.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WriteRows {
    /// Who brings them; a replica's purge floor travels in it.
    pub origin: Origin,
    /// The rows, each with the epoch it is counted by.
    pub mutations: Vec<Mutation>,
    /// Where their versions come from.
    pub stamp: Stamp,
    /// The last version that the client saw of these rows.
    pub seen: Option<Version>,
    /// What must hold for the rows to be written.
    pub condition: Option<Condition>,
}

/// Where the version of a write comes from, which decides whether its distance to the replica's clock is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stamp {
    /// Given now, by the coordinator or the client.
    New,
    /// Given to succeed a version that some replica holds, however far ahead that is.
    Succeeds(Version),
    /// Given long ago: a hint, a repair, a stream.
    Old,
}

/// Room for conditional writes. Nothing understands one yet, so every write with one is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Condition {
    /// The row's version is this.
    VersionIs(Version),
    /// The row does not exist.
    Absent,
}

/// Rows to tell, of one table and, by the epoch, of partitions with one map each.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReadRows {
    /// The table.
    pub table: TableId,
    /// The rows, each with the epoch of the map the reader counts by.
    pub rows: Vec<(RowKey, Epoch)>,
    /// How much of each.
    pub want: Want,
}

/// How much of a row is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Want {
    /// The record with its value.
    Record,
    /// Version and checksum: the digest.
    Header,
}

/// A page to tell.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScanRows {
    /// Which rows, and how many.
    pub page: ScanRequest,
    /// The epoch of the map the reader counts by. `None` where nobody counts.
    pub claim: Option<Epoch>,
}

/// Hints that go to another node, which keeps them for their target from now on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TakeHints {
    /// Whom they are for.
    pub target: NodeId,
    /// The hints, oldest first.
    pub hints: Vec<HandedHint>,
}

/// A hint on its way to another node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HandedHint {
    /// What the target missed.
    pub mutation: Mutation,
    /// When the hint was made, in milliseconds since 1970.
    pub created_ms: u64,
    /// Whether it is the write's only copy.
    pub only_copy: bool,
}

/// Dirty marks that go to another node, which keeps them for their target from now on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TakeMarks {
    /// Who missed something.
    pub target: NodeId,
    /// Where, and a version that none of what was missed there exceeds.
    pub marks: Vec<(DirtyRange, Version)>,
}

/// A replica's answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Reply {
    /// Who answers.
    pub from: NodeId,
    /// The answerer's clock; whoever receives it moves past it.
    pub clock: Hlc,
    /// The answer, or why there is none.
    pub body: Result<ReplyBody, Refusal>,
}

/// What a replica answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ReplyBody {
    /// What came of each row, in their order. Durable by now.
    Wrote(Vec<Outcome>),
    /// What is held of each row, in their order.
    Rows(Vec<Result<Found, Refusal>>),
    /// A page.
    Page {
        /// The rows.
        rows: Vec<Row>,
        /// Where the next page begins; nothing after the last.
        next: Option<PageToken>,
        /// The purge floor of the partition.
        floor: Hlc,
    },
    /// What came of each row, in their order, where some were refused: durable by now, or why it was not written. Rows of
    /// one partition key share their fate.
    WroteSome(Vec<Result<Outcome, Refusal>>),
    /// How many bytes of hints may be sent.
    HintCredits(Grant),
    /// The hints are kept, durably, or marked dirty where they could not be.
    TookHints,
    /// A page of a table.
    TablePage(TablePage),
    /// What anti-entropy asked.
    AntiEntropy(Box<Answer>),
    /// The marks are kept, durably.
    TookMarks,
    /// What was asked of a repair on demand.
    Repair(Box<RepairAnswer>),
}

/// A page of a table to tell: of the rows whose partition keys begin so, in the order of keys, those in these partitions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScanTable {
    /// The table.
    pub table: TableId,
    /// How partition keys begin.
    pub prefix: Bytes,
    /// In order, or in reverse.
    pub backward: bool,
    /// Rows that are looked at.
    pub rows_max: usize,
    /// Bytes that are looked at.
    pub bytes_max: usize,
    /// Where the page before ended, the same on every replica.
    pub position: Option<Bytes>,
    /// The partitions that the reader counts this replica for.
    pub partitions: Vec<PartitionRun>,
}

/// Partitions that follow each other and have one epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionRun {
    /// The first.
    pub first: PartitionId,
    /// The last.
    pub last: PartitionId,
    /// The epoch of the map the reader counts by.
    pub epoch: Epoch,
}

/// A page of a table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TablePage {
    /// The rows, of the partitions that were asked for and not refused.
    pub rows: Vec<Row>,
    /// Where the page ended; nothing behind the last row.
    pub stopped: Option<Bytes>,
    /// Partitions that this replica does not answer for.
    pub refused: Vec<(PartitionId, Refusal)>,
}

/// What a replica holds of a row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Found {
    /// The row's version and checksum; nothing when it holds none.
    pub header: Option<RecordHeader>,
    /// The record, where it was asked for and there is one. A reply that is full leaves it out, though never the first
    /// one: the header tells that there is one, and it can be asked for again.
    pub record: Option<Record>,
    /// The purge floor of the row's partition.
    pub floor: Hlc,
}

/// Why a replica did not do what was asked. Nothing was written.
#[derive(Clone, Debug, PartialEq, Eq, Error, Serialize, Deserialize)]
pub enum Refusal {
    /// Too much is waiting here.
    #[error("it is overloaded: try again in {retry_after_ms} ms")]
    Overloaded {
        /// When it may be worth it.
        retry_after_ms: u32,
    },
    /// The request came too late to be of use.
    #[error("the request reached it after its deadline")]
    DeadlinePassed,
    /// The sender counts by an older map.
    #[error("it has fenced {0} of the partition, the request counts by an older map")]
    Fenced(Epoch),
    /// The sender counts by a newer map than the replica has adopted: it may still have to make room for it.
    #[error("it has only adopted {0} of the partition yet")]
    MapBehind(Epoch),
    /// The replica does not hold everything it acknowledged, so it must not be counted in reads.
    #[error("its replica of the partition is not in sync ({0:?})")]
    Unsynced(UnsyncedCause),
    /// The stamp, which is by the sender's clock or the client's choice, is too far ahead of the replica's clock.
    #[error(
        "the write's timestamp, by the clock of the node that was asked unless the client chose it, is {ahead_ms} ms ahead \
         of its own clock, more than clock.max_drift ({max_drift_ms} ms) allows"
    )]
    Drift {
        /// How far ahead.
        ahead_ms: u64,
        /// How far it may be.
        max_drift_ms: u64,
    },
    /// It does not know the table: dropped, or not heard of yet.
    #[error("it does not know table {0}")]
    UnknownTable(TableId),
    /// Too little space is left on its disk.
    #[error("its disk is nearly full")]
    DiskFull,
    /// Its disk failed; it writes nothing until it is restarted.
    #[error("it stopped writing after a disk failure")]
    Stopped,
    /// What was asked for is damaged there.
    #[error("its data is damaged there: {0}")]
    Damaged(String),
    /// It does not understand the request.
    #[error("it does not support {0}")]
    Unsupported(String),
    /// The request is not one it can carry out.
    #[error("it calls the request invalid: {0}")]
    Invalid(String),
    /// The request is about all members, and the sender has not heard of all.
    #[error("it knows a member that joined after {0}, the last one that the request knows of")]
    MembersBehind(NodeId),
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        /// After which a full queue is worth another try: a few group commits.
        const RETRY_AFTER_MS: u32 = 50;
        match error {
            StoreError::Overloaded { .. } => Self::Overloaded { retry_after_ms: RETRY_AFTER_MS },
            StoreError::DeadlinePassed => Self::DeadlinePassed,
            StoreError::DiskFull { .. } => Self::DiskFull,
            StoreError::Stopped { .. } => Self::Stopped,
            StoreError::Corrupt(range) => Self::Damaged(describe(&range)),
            StoreError::Invalid(cube_storage::model::Invalid::UnknownTable { table }) => Self::UnknownTable(table),
            StoreError::Invalid(invalid) => Self::Invalid(invalid.to_string()),
            StoreError::Engine(error) => Self::Damaged(error.to_string()),
            other @ (StoreError::Identity { .. }
            | StoreError::FloorAboveProof { .. }
            | StoreError::EpochBehind { .. }
            | StoreError::ClearOfSynced { .. }) => Self::Invalid(other.to_string()),
        }
    }
}

fn describe(range: &DamagedRange) -> String {
    range.to_string()
}
