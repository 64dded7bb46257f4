//! When the operations under way end, and when one is to look at the time before that.
//!
//! An operation holds its [`Deadline`] for as long as it lives: when it ends early, its entry goes with it, so that what is
//! kept here is never more than what is under way, however long the time of a request. It has one entry, which stands where
//! it is to be told next; behind an early look it is put back to the deadline in the same step, so that the deadline is
//! never missed.
//!
//! Whoever looks at the time rests until something is due ([`Deadlines::rest_until`]), and is woken for what is due earlier: a
//! node that nobody asks anything looks at nothing.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::Timed;
use crate::alarm::Alarm;

/// An operation's place among the others: by its deadline, then by its beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    deadline_ms: u64,
    number: u64,
}

#[derive(Default)]
pub(super) struct Deadlines {
    operations: Mutex<BTreeMap<Place, Entry>>,
    begun: AtomicU64,
    /// Of who looks at the time.
    pub(super) alarm: Alarm,
}

struct Entry {
    operation: Weak<dyn Timed>,
    /// The deadline, where the entry stands at an earlier time.
    deadline_ms: u64,
}

/// What an operation is told.
pub(super) enum Due {
    /// Its time is over.
    Over(Arc<dyn Timed>),
    /// It asked to be told before that.
    Early(Arc<dyn Timed>),
}

/// An operation's deadline, and its entry here as long as this lives.
pub(super) struct Deadline {
    deadlines: Arc<Deadlines>,
    place: Place,
    /// Where the entry stands, if not at the deadline. Changed under the lock of the entries.
    early_ms: AtomicU64,
}

/// [`Deadline::early_ms`] where the entry stands at the deadline.
const NOT_EARLY: u64 = u64::MAX;

impl Deadlines {
    /// A deadline for an operation that is about to begin.
    pub(super) fn at(self: &Arc<Self>, deadline_ms: u64) -> Deadline {
        let number = self.begun.fetch_add(1, Ordering::Relaxed);
        Deadline { deadlines: Arc::clone(self), place: Place { deadline_ms, number }, early_ms: NOT_EARLY.into() }
    }

    /// Who is to be told something by now, in that order. That its time is over each is told once.
    pub(super) fn due(&self, now_ms: u64) -> Vec<Due> {
        let mut due = Vec::new();
        let mut operations = self.operations.lock();
        while let Some(first) = operations.first_entry().filter(|first| first.key().deadline_ms <= now_ms) {
            let (place, entry) = first.remove_entry();
            let Some(operation) = entry.operation.upgrade() else { continue };
            if place.deadline_ms == entry.deadline_ms {
                due.push(Due::Over(operation));
                continue;
            }
            operation.deadline().early_ms.store(NOT_EARLY, Ordering::Relaxed);
            operations.insert(Place { deadline_ms: entry.deadline_ms, ..place }, entry);
            due.push(Due::Early(operation));
        }
        due
    }

    /// Whether an operation is still to be told that its time is over.
    pub(super) fn is_ahead(&self, deadline: &Deadline) -> bool {
        let operations = self.operations.lock();
        operations.contains_key(&deadline.entry())
    }

    /// When to look at the time again: see [`Alarm::rest_until`]. What `also_due` tells is due too.
    pub(super) fn rest_until(&self, soon_ms: u64, longest_ms: u64, also_due: impl FnOnce() -> Option<u64>) -> u64 {
        self.alarm.rest_until(soon_ms, longest_ms, || {
            let first_ms = self.operations.lock().first_key_value().map(|(place, _)| place.deadline_ms);
            [first_ms, also_due()].into_iter().flatten().min()
        })
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
        let entry = Entry { operation, deadline_ms: self.place.deadline_ms };
        self.deadlines.operations.lock().insert(self.place, entry);
        self.deadlines.alarm.on_due(self.place.deadline_ms);
    }

    /// Has the operation told at `at_ms` too, if that is before it is told anyway.
    pub(super) fn wake_at(&self, at_ms: u64) {
        let mut operations = self.deadlines.operations.lock();
        let stands = self.entry();
        if at_ms >= stands.deadline_ms {
            return;
        }
        if let Some(entry) = operations.remove(&stands) {
            self.early_ms.store(at_ms, Ordering::Relaxed);
            operations.insert(Place { deadline_ms: at_ms, ..self.place }, entry);
            drop(operations);
            self.deadlines.alarm.on_due(at_ms);
        }
    }

    /// Where the entry stands, under the lock of the entries.
    fn entry(&self) -> Place {
        let early_ms = self.early_ms.load(Ordering::Relaxed);
        Place { deadline_ms: self.place.deadline_ms.min(early_ms), ..self.place }
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        let mut operations = self.deadlines.operations.lock();
        let gone = operations.remove(&self.entry());
        drop(operations);
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
        fn deadline(&self) -> &Deadline {
            &self.deadline
        }
    }

    fn told(deadlines: &Deadlines, now_ms: u64) -> Vec<(Place, bool)> {
        let told = |due| match due {
            Due::Over(operation) => (operation.deadline().place(), true),
            Due::Early(operation) => (operation.deadline().place(), false),
        };
        deadlines.due(now_ms).into_iter().map(told).collect()
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
        assert!(deadlines.due(99).is_empty());
        assert_eq!(deadlines.due(100).len(), 1);
        assert!(deadlines.due(u64::MAX).is_empty());
    }

    #[test]
    fn an_operation_that_looks_at_the_time_early_is_told_of_its_deadline_too() {
        let deadlines = Arc::new(Deadlines::default());
        let operation = watched(&deadlines, 100);
        let place = operation.deadline().place();
        for at_ms in [10, 30] {
            operation.deadline().wake_at(at_ms);
            operation.deadline().wake_at(at_ms + 5);
            assert!(told(&deadlines, at_ms - 1).is_empty());
            assert!(deadlines.is_ahead(operation.deadline()));
            assert_eq!(told(&deadlines, at_ms), [(place, false)]);
            assert!(deadlines.is_ahead(operation.deadline()));
        }
        operation.deadline().wake_at(50);
        assert_eq!(told(&deadlines, 200), [(place, false), (place, true)], "a late look at the time tells both");
        operation.deadline().wake_at(60);
        assert!(told(&deadlines, u64::MAX).is_empty(), "what is over is not told again");
        let again = watched(&deadlines, 100);
        again.deadline().wake_at(10);
        drop(again);
        assert_eq!(deadlines.len(), 0);
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
        let told: Vec<Place> = told(&deadlines, 30).into_iter().map(|(place, _)| place).collect();
        let expected = [1, 3, 2, 0].map(|number: usize| operations[number].deadline().place());
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
