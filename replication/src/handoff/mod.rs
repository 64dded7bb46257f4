//! Hinted handoff: what a replica missed is kept by the coordinator until the replica is back.
//!
//! Here stands what the write path needs of it: keep hints durably, or mark what cannot be kept. Replay is a matter of
//! its own and of the target's pace.

mod keeper;
pub mod pace;
pub mod replay;

use cube_storage::model::{Mutation, NodeId};
use thiserror::Error;

pub use self::keeper::{HandoffParts, HintedHandoff, Wake};

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
