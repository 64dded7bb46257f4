//! A node's time: the machine's clocks and the hybrid clock over them, as everything in this crate asks for it.

use std::sync::Arc;

use cube_storage::clock::{Clock, ClockError, HybridClock};
use cube_storage::model::{Hlc, NodeId, Version};
use cube_storage::{Store, TimeLimit};

/// The clocks of one node.
pub struct NodeClock {
    me: NodeId,
    machine: Arc<dyn Clock>,
    hybrid: HybridClock<Arc<Store>>,
}

impl NodeClock {
    /// A clock that goes on above everything this node ever gave, which its store remembers.
    pub fn new(me: NodeId, machine: Arc<dyn Clock>, store: Arc<Store>, max_drift_ms: u64) -> Result<Self, ClockError> {
        let hybrid = HybridClock::new(Arc::clone(&store), max_drift_ms)?;
        store.started_at(hybrid.peek(machine.wall_ms()));
        Ok(Self { me, machine, hybrid })
    }

    /// A version that nobody gave before.
    pub fn stamp(&self) -> Result<Version, ClockError> {
        Ok(Version::new(self.hybrid.now(self.machine.wall_ms())?, self.me))
    }

    /// A new version that succeeds `seen`.
    pub fn stamp_after(&self, seen: Version) -> Result<Version, ClockError> {
        Ok(Version::new(self.hybrid.after(seen, self.machine.wall_ms())?, self.me))
    }

    /// Moves past the clock of a message's sender. Says so when that clock is out of bound, and stays.
    pub fn observe(&self, theirs: Hlc) -> Result<(), ClockError> {
        self.hybrid.observe(theirs, self.machine.wall_ms())
    }

    /// Whether a new stamp lies within the drift bound.
    pub fn check(&self, stamp: Hlc) -> Result<(), ClockError> {
        self.hybrid.check(stamp, self.machine.wall_ms())
    }

    /// The reading that messages carry.
    pub fn peek(&self) -> Hlc {
        self.hybrid.peek(self.machine.wall_ms())
    }

    /// The end of so many milliseconds from now, for what waits in the store.
    pub fn limit(&self, time_left_ms: u32) -> TimeLimit {
        TimeLimit::within(Arc::clone(&self.machine), time_left_ms.into())
    }

    /// Milliseconds that never go back, for deadlines.
    pub fn monotonic_ms(&self) -> u64 {
        self.machine.monotonic_ms()
    }
}
