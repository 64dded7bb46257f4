//! The seam to the observation of who is alive: gossip in a cluster, a script in tests.
//!
//! What it tells may lag and may be wrong. Nothing that is promised depends on it: it saves waiting for the dead, and
//! lets a request fail at once that could not succeed. One conformance suite (`conformance.rs`) runs on all of them.

#[cfg(any(test, feature = "sim"))]
pub mod conformance;
mod scripted;

use cube_storage::model::NodeId;

pub use self::scripted::Scripted;

/// Who is alive, as this node sees it.
pub trait Membership: Send + Sync {
    /// Whether `node` is believed to be alive. A node always believes in itself.
    fn is_alive(&self, node: NodeId) -> bool;
}
