//! Hinted handoff: what a replica missed is kept by the coordinator until the replica is back.
//!
//! ```text
//! a write ── keeper: hint, or dirty mark ──▶ disk ──▶ worker: replay ──▶ the target, at the pace it grants
//! ```
//!
//! `keeper.rs` makes what was missed durable; `replay.rs` decides whom to send it to and when, `worker.rs` does so;
//! `pace.rs` decides at the target how fast, `receiver.rs` answers for it. Invariant: a hint leaves the log only when its
//! target has taken it, when it was marked dirty instead, or when nobody misses it any more; each is counted.

mod counters;
mod keeper;
pub mod pace;
mod receiver;
pub mod replay;
mod route;
mod settings;
mod status;
mod worker;

use cube_storage::model::{Mutation, NodeId};
use thiserror::Error;

pub use self::counters::{HandoffCounters, HandoffCounts};
pub use self::keeper::{HandoffParts, HintedHandoff, Wake};
pub use self::receiver::{HintReceiver, ReceiverParts};
pub use self::settings::HandoffSettings;
pub use self::status::{HandoffStatus, TargetStatus};
pub use self::worker::{HINTS, HintReplay, HintWorker, ReplayParts, SteerError};

/// What a replica missed.
#[derive(Clone, Debug, PartialEq)]
pub struct Missed {
    /// Who missed it.
    pub target: NodeId,
    /// The rows.
    pub mutations: Vec<Mutation>,
    /// Whether the hint is the write's only copy (level ANY): then a mark will not do, and it never expires.
    pub only_copy: bool,
}

/// How what was missed is remembered. Durable by the time it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// The rows themselves.
    Hint,
    /// Only where they are: the range is marked dirty for the target, and anti-entropy repairs it.
    Mark,
    /// Not at all: the target has left the cluster, and misses nothing any more.
    Left,
}

/// Neither hint nor mark could be made durable.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("what {target} missed can be noted neither as a hint nor as a dirty range: {cause}")]
pub struct NotKept {
    /// Who missed it.
    pub target: NodeId,
    /// What stood in the way.
    pub cause: String,
}

/// Told once how what was missed is remembered.
pub type OnKept = Box<dyn FnOnce(Result<Kept, NotKept>) + Send>;

/// Remembers what replicas missed.
pub trait HintKeeper: Send + Sync {
    /// Keeps it, and returns at once; many that wait share one fsync. `kept` is told when it is durable.
    fn keep(&self, missed: Missed, kept: OnKept);
}
