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
    /// The turn of who comes next, and whose turn it is: a large cluster is not passed over for ever by small ones.
    next: u64,
    served: u64,
}

static STATE: Mutex<State> = Mutex::new(State { taken: 0, next: 0, served: 0 });
static FREED: Condvar = Condvar::new();

/// Room for some nodes, given back when dropped.
pub(crate) struct Slots {
    nodes: usize,
}

impl Slots {
    /// Waits for its turn, and for room.
    pub(crate) fn take(nodes: usize) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let room = NODES_MIN.max(NODES_PER_PROCESSOR * processors);
        assert!(nodes <= room, "{nodes} nodes");
        let mut state = STATE.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = state.next;
        state.next += 1;
        while state.served != turn || state.taken + nodes > room {
            state = FREED.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.taken += nodes;
        state.served += 1;
        drop(state);
        FREED.notify_all();
        Self { nodes }
    }
}

impl Drop for Slots {
    fn drop(&mut self) {
        STATE.lock().unwrap_or_else(PoisonError::into_inner).taken -= self.nodes;
        FREED.notify_all();
    }
}
