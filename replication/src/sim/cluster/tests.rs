//! What the simulator's cluster owes to the seams it stands behind.

use super::*;
use crate::membership::Membership;
use crate::membership::conformance::{self, Harness};

/// The view of one node on a simulated cluster without faults, which hears of the others some time later.
struct Simulated(Run);

const ME: NodeId = NodeId(0);
/// The longest it takes until everybody has heard.
const SETTLE_US: u64 = 1_000_000;
/// Nobody comes back by itself.
const FOREVER_MS: u64 = 1 << 40;

impl Harness for Simulated {
    fn membership(&self) -> &dyn Membership {
        self.0.nodes[&ME].view.as_ref()
    }

    fn nodes(&self) -> (NodeId, [NodeId; 2]) {
        (ME, [NodeId(1), NodeId(2)])
    }

    fn kill(&mut self, node: NodeId) {
        self.0.crash(node, FOREVER_MS);
    }

    fn revive(&mut self, node: NodeId) {
        self.0.start(node);
    }

    fn settle(&mut self) {
        let until_us = self.0.schedule.now_us() + SETTLE_US;
        while let Some(event) = self.0.schedule.next_by(until_us) {
            self.0.happen(event);
        }
    }
}

#[test]
fn its_views_keep_the_promises_of_a_membership_whatever_the_seed() {
    for seed in 0..10 {
        let cluster = || Simulated(Run::new(Options { faults: 0, ..Options::seed(seed) }).unwrap());
        assert_eq!(conformance::check(cluster), Ok(()), "seed {seed}");
    }
}

#[test]
fn whoever_says_so_a_node_believes_in_itself() {
    let mut run = Run::new(Options { faults: 0, ..Options::seed(1) }).unwrap();
    run.believe(ME, ME, false);
    assert!(run.nodes[&ME].view.is_alive(ME));
}

#[test]
fn a_fault_that_changes_nothing_is_no_fault() {
    let mut run = Run::new(Options { faults: 0, ..Options::seed(1) }).unwrap();
    let crash = || faults::Fault::Crash { node: ME, down_ms: FOREVER_MS };
    assert!(run.strike(crash()));
    assert!(!run.strike(crash()), "it is down");
    assert!(!run.strike(faults::Fault::Pause { node: ME, for_ms: 10 }));
    assert!(!run.strike(faults::Fault::Cut { links: Vec::new(), for_ms: 10 }));
    assert!(!run.strike(faults::Fault::AbortMoves), "nothing moves");
}
