//! How many nodes run at a time, over all tests of this process: a small machine is not to be so busy that clusters
//! lose their nodes for want of it.

use std::sync::{Condvar, Mutex, PoisonError};

/// Nodes for each processor: most of the time a test waits for something, and a node takes a twentieth of one; under the
/// loads of these tests, an eighth.
const NODES_PER_PROCESSOR: usize = 9;
/// The largest cluster of any test must fit in.
const NODES_MIN: usize = 6;

struct State {
    taken: usize,
}

static STATE: Mutex<State> = Mutex::new(State { taken: 0 });
static FREED: Condvar = Condvar::new();

/// Room for some nodes, given back when dropped.
pub(crate) struct Slots {
    nodes: usize,
}

impl Slots {
    /// Waits for room.
    pub(crate) fn take(nodes: usize) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let room = NODES_MIN.max(NODES_PER_PROCESSOR * processors);
        assert!(nodes <= room, "{nodes} nodes");
        let mut state = STATE.lock().unwrap_or_else(PoisonError::into_inner);
        while state.taken + nodes > room {
            state = FREED.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.taken += nodes;
        Self { nodes }
    }
}

impl Drop for Slots {
    fn drop(&mut self) {
        STATE.lock().unwrap_or_else(PoisonError::into_inner).taken -= self.nodes;
        FREED.notify_all();
    }
}
