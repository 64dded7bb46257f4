//! When the operations under way end.
//!
//! An operation holds its [`Deadline`] for as long as it lives: when it ends early, its entry goes with it, so that what is
//! kept here is never more than what is under way, however long the time of a request.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::Timed;

/// An operation's place among the others: by its deadline, then by its beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    deadline_ms: u64,
    number: u64,
}

#[derive(Default)]
pub(super) struct Deadlines {
    operations: Mutex<BTreeMap<Place, Weak<dyn Timed>>>,
    begun: AtomicU64,
}

/// An operation's deadline, and its entry here as long as this lives.
pub(super) struct Deadline {
    deadlines: Arc<Deadlines>,
    place: Place,
}

impl Deadlines {
    /// A deadline for an operation that is about to begin.
    pub(super) fn at(self: &Arc<Self>, deadline_ms: u64) -> Deadline {
        let number = self.begun.fetch_add(1, Ordering::Relaxed);
        Deadline { deadlines: Arc::clone(self), place: Place { deadline_ms, number } }
    }

    /// The operations whose time is over, in the order of their deadlines. Each is told once.
    pub(super) fn expired(&self, now_ms: u64) -> Vec<Arc<dyn Timed>> {
        let mut expired = Vec::new();
        let mut operations = self.operations.lock();
        while let Some(first) = operations.first_entry().filter(|first| first.key().deadline_ms <= now_ms) {
            expired.extend(first.remove().upgrade());
        }
        expired
    }

    /// Whether an operation is still to be told that its time is over.
    pub(super) fn is_ahead(&self, place: Place) -> bool {
        self.operations.lock().contains_key(&place)
    }

    /// Operations that have not ended, nor been told that their time is over.
    pub(super) fn len(&self) -> usize {
        self.operations.lock().len()
    }
}

impl Deadline {
    pub(super) fn ms(&self) -> u64 {
        self.place.deadline_ms
    }

    pub(super) fn place(&self) -> Place {
        self.place
    }

    /// Has `operation`, whose deadline this is, told when its time is over.
    pub(super) fn watch(&self, operation: Weak<dyn Timed>) {
        self.deadlines.operations.lock().insert(self.place, operation);
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        let gone = self.deadlines.operations.lock().remove(&self.place);
        // Freed outside of the lock.
        drop(gone);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Operation {
        deadline: Deadline,
    }

    impl Timed for Operation {
        fn on_deadline(self: Arc<Self>) {}
        fn on_state(self: Arc<Self>) {}
        fn place(&self) -> Place {
            self.deadline.place()
        }
    }

    fn watched(deadlines: &Arc<Deadlines>, deadline_ms: u64) -> Arc<dyn Timed> {
        let operation = Arc::new(Operation { deadline: deadlines.at(deadline_ms) });
        let timed: Arc<dyn Timed> = operation.clone();
        operation.deadline.watch(Arc::downgrade(&timed));
        timed
    }

    #[test]
    fn an_operation_is_told_once_and_never_before_its_deadline() {
        let deadlines = Arc::new(Deadlines::default());
        let _operation = watched(&deadlines, 100);
        assert!(deadlines.expired(99).is_empty());
        assert_eq!(deadlines.expired(100).len(), 1);
        assert!(deadlines.expired(u64::MAX).is_empty());
    }

    /// Time that passes when the test says so.
    struct Hand(AtomicU64);

    impl cube_storage::clock::Clock for Hand {
        fn wall_ms(&self) -> u64 {
            self.monotonic_ms()
        }

        fn monotonic_ms(&self) -> u64 {
            self.0.load(Ordering::Relaxed)
        }
    }

    #[test]
    fn an_operation_whose_time_ended_while_it_was_about_to_wait_for_a_map_is_freed() {
        let time = Arc::new(Hand(AtomicU64::new(0)));
        let coordinator = crate::coordinator::testing::coordinator(time.clone());
        let operation = watched(&coordinator.deadlines, 100);
        let freed = Arc::downgrade(&operation);
        // It decided to wait; before it does, its deadline comes on another thread.
        time.0.store(100, Ordering::Relaxed);
        coordinator.tick();
        coordinator.stop_waiting(&*operation);
        coordinator.wait_for_state(operation, cube_storage::model::Epoch(u64::MAX));
        assert!(freed.upgrade().is_none(), "nobody keeps what is over");
    }

    #[test]
    fn operations_are_told_in_the_order_of_their_deadlines_and_then_of_their_beginnings() {
        let deadlines = Arc::new(Deadlines::default());
        let operations: Vec<_> = [30, 10, 20, 10].map(|deadline_ms| watched(&deadlines, deadline_ms)).into();
        let told: Vec<Place> = deadlines.expired(30).iter().map(|operation| operation.place()).collect();
        let expected = [1, 3, 2, 0].map(|number: usize| operations[number].place());
        assert_eq!(told, expected);
    }

    #[test]
    fn an_operation_that_is_done_is_forgotten_at_once_however_late_its_deadline() {
        let deadlines = Arc::new(Deadlines::default());
        let stays = watched(&deadlines, u64::MAX);
        for number in 0..1_000 {
            let operation = watched(&deadlines, 1_000_000 + number);
            let freed = Arc::downgrade(&operation);
            drop(operation);
            assert_eq!(freed.weak_count(), 0, "nothing but the test still points to it");
        }
        assert_eq!(deadlines.len(), 1);
        drop(stays);
        assert_eq!(deadlines.len(), 0);
    }
}
