//! Errands that this node was asked to run: those that wait, the one that runs, and what came of the last ones.
//!
//! Invariant: an errand that is asked for again is not begun again while it is known here; one that nobody asks for any
//! more is forgotten, whatever became of its job.

use std::collections::BTreeMap;

use cube_storage::model::NodeId;

use super::id::RepairId;
use super::job::{Moved, Why};
use super::questions::{Errand, RepairAnswer, Report};

/// Errands that are known at a time, those that are over included as long as there is room for them.
pub(super) const ERRANDS_MAX: usize = 64;
/// After which an errand that is not asked for is forgotten: many times the interval at which it is.
pub(super) const ABANDONED_MS: u64 = 60_000;

/// Which errand.
pub(super) type Key = (RepairId, u32);

#[derive(Debug)]
enum State {
    Waiting,
    Running(Moved),
    Done(Report),
    Failed(NodeId, Why),
}

#[derive(Debug)]
struct Entry {
    errand: Errand,
    /// The place in the queue.
    arrived: u64,
    asked_ms: u64,
    state: State,
}

/// The errands.
#[derive(Debug, Default)]
pub(super) struct Desk {
    entries: BTreeMap<Key, Entry>,
    arrivals: u64,
    beat: u64,
}

impl Desk {
    /// Takes an errand in, or tells how it stands. Nothing when there is no room.
    pub(super) fn ask(&mut self, errand: Errand, now_ms: u64) -> Option<RepairAnswer> {
        self.forget_abandoned(now_ms);
        let (key, beat) = ((errand.job, errand.unit), self.beat);
        if let Some(entry) = self.entries.get_mut(&key).filter(|entry| is_known(&entry.errand, &errand)) {
            entry.asked_ms = now_ms;
            return Some(match &entry.state {
                State::Waiting => RepairAnswer::Working { moved: Moved::default(), beat },
                State::Running(moved) => RepairAnswer::Working { moved: *moved, beat },
                State::Done(report) => RepairAnswer::Done(report.clone()),
                State::Failed(node, why) => RepairAnswer::Failed(*node, why.clone()),
            });
        }
        if self.entries.len() >= ERRANDS_MAX && !self.entries.contains_key(&key) && !self.forget_one_that_is_over() {
            return None;
        }
        self.arrivals += 1;
        let entry = Entry { errand, arrived: self.arrivals, asked_ms: now_ms, state: State::Waiting };
        self.entries.insert(key, entry);
        Some(RepairAnswer::Working { moved: Moved::default(), beat })
    }

    /// Forgets the errands of a job.
    pub(super) fn forget(&mut self, job: RepairId) {
        self.entries.retain(|(of, _), _| *of != job);
    }

    /// The next errand to run.
    pub(super) fn next(&mut self, now_ms: u64) -> Option<Errand> {
        self.forget_abandoned(now_ms);
        let waiting = self.entries.values_mut().filter(|entry| matches!(entry.state, State::Waiting));
        let first = waiting.min_by_key(|entry| entry.arrived)?;
        first.state = State::Running(Moved::default());
        self.beat += 1;
        Some(first.errand.clone())
    }

    /// An errand that runs got on. Whether it is still wanted.
    pub(super) fn on_progress(&mut self, errand: &Errand, moved: Moved) -> bool {
        self.beat += 1;
        self.set(errand, State::Running(moved))
    }

    /// An errand waits for somebody. Whether it is still wanted.
    pub(super) fn is_wanted(&mut self, errand: &Errand, now_ms: u64) -> bool {
        self.forget_abandoned(now_ms);
        self.entries.get(&(errand.job, errand.unit)).is_some_and(|entry| entry.errand == *errand)
    }

    /// An errand is done.
    pub(super) fn on_done(&mut self, errand: &Errand, report: Report) {
        self.beat += 1;
        let _wanted = self.set(errand, State::Done(report));
    }

    /// An errand failed.
    pub(super) fn on_failed(&mut self, errand: &Errand, node: NodeId, why: Why) {
        self.beat += 1;
        let _wanted = self.set(errand, State::Failed(node, why));
    }

    fn set(&mut self, errand: &Errand, state: State) -> bool {
        match self.entries.get_mut(&(errand.job, errand.unit)) {
            Some(entry) if entry.errand == *errand => {
                entry.state = state;
                true
            }
            _ => false,
        }
    }

    /// Makes room. Whether there was an errand that is over: of those, its job has most likely heard of the one that was
    /// asked for longest ago; if not, it is begun anew.
    fn forget_one_that_is_over(&mut self) -> bool {
        let over = self.entries.iter().filter(|(_, entry)| matches!(entry.state, State::Done(_) | State::Failed(..)));
        let oldest = over.min_by_key(|(_, entry)| entry.asked_ms).map(|(key, _)| *key);
        oldest.is_some_and(|key| self.entries.remove(&key).is_some())
    }

    fn forget_abandoned(&mut self, now_ms: u64) {
        self.entries.retain(|_, entry| now_ms.saturating_sub(entry.asked_ms) < ABANDONED_MS);
    }
}

/// Whether an errand was asked for before; a message of an earlier attempt that comes late begins nothing.
fn is_known(known: &Errand, asked: &Errand) -> bool {
    let is_same = (known.with, known.dry_run, &known.trees) == (asked.with, asked.dry_run, &asked.trees);
    is_same && asked.attempt <= known.attempt
}

#[cfg(test)]
mod tests {
    use cube_storage::model::{Hlc, PartitionId, TableId, Version};

    use super::*;

    fn errand(unit: u32, attempt: u32) -> Errand {
        let job = RepairId::new(Version::new(Hlc(7), NodeId(1)));
        let trees = vec![(TableId(1), PartitionId(unit as u16))];
        Errand { job, unit, attempt, with: NodeId(2), dry_run: false, trees }
    }

    fn waits(answer: Option<RepairAnswer>) -> bool {
        matches!(answer, Some(RepairAnswer::Working { .. }))
    }

    #[test]
    fn an_errand_that_is_asked_for_twice_runs_once_and_tells_its_result_as_often_as_it_is_asked() {
        let mut desk = Desk::default();
        assert!(waits(desk.ask(errand(1, 0), 0)) && waits(desk.ask(errand(1, 0), 1)));
        assert_eq!(desk.next(2), Some(errand(1, 0)));
        assert_eq!(desk.next(2), None);
        let moved = Moved { sent: 3, ..Moved::default() };
        assert!(desk.on_progress(&errand(1, 0), moved));
        assert!(matches!(desk.ask(errand(1, 0), 3), Some(RepairAnswer::Working { moved: told, .. }) if told == moved));
        desk.on_done(&errand(1, 0), Report { moved, ..Report::default() });
        for now_ms in 4..8 {
            assert!(
                matches!(desk.ask(errand(1, 0), now_ms), Some(RepairAnswer::Done(report)) if report.moved == moved)
            );
        }
        assert_eq!(desk.next(9), None);
    }

    #[test]
    fn another_attempt_begins_anew_and_what_comes_late_of_the_one_before_changes_nothing() {
        let mut desk = Desk::default();
        desk.ask(errand(1, 0), 0).unwrap();
        desk.next(0).unwrap();
        desk.on_failed(&errand(1, 0), NodeId(2), Why::NoAnswer);
        assert_eq!(desk.ask(errand(1, 0), 1), Some(RepairAnswer::Failed(NodeId(2), Why::NoAnswer)));
        assert!(waits(desk.ask(errand(1, 1), 2)));
        assert_eq!(desk.next(2), Some(errand(1, 1)));
        desk.on_done(&errand(1, 0), Report::default());
        assert!(waits(desk.ask(errand(1, 0), 3)) && waits(desk.ask(errand(1, 1), 3)));
    }

    #[test]
    fn errands_run_in_the_order_in_which_they_came_and_are_forgotten_with_their_job_or_when_nobody_asks() {
        let mut desk = Desk::default();
        [3, 1, 2].into_iter().for_each(|unit| drop(desk.ask(errand(unit, 0), 0)));
        assert_eq!(desk.next(0), Some(errand(3, 0)));
        assert_eq!(desk.next(0), Some(errand(1, 0)));
        desk.forget(errand(1, 0).job);
        assert_eq!(desk.next(0), None);
        assert!(!desk.on_progress(&errand(1, 0), Moved::default()) && !desk.is_wanted(&errand(1, 0), 0));
        desk.ask(errand(4, 0), 0).unwrap();
        assert!(desk.is_wanted(&errand(4, 0), ABANDONED_MS - 1));
        assert!(!desk.is_wanted(&errand(4, 0), ABANDONED_MS));
    }

    #[test]
    fn there_is_room_for_so_many_errands_and_no_more() {
        let mut desk = Desk::default();
        for unit in 0..ERRANDS_MAX as u32 {
            assert!(desk.ask(errand(unit, 0), 0).is_some());
        }
        assert_eq!(desk.ask(errand(1_000, 0), 0), None);
        assert!(desk.ask(errand(5, 1), 0).is_some(), "one that is known needs none");
        let [first, second] = [0, 1].map(|_| desk.next(1).unwrap());
        desk.on_done(&first, Report::default());
        assert!(waits(desk.ask(errand(1_000, 0), 2)), "one that is over makes room");
        assert_eq!(desk.ask(errand(1_001, 0), 2), None);
        assert!(desk.is_wanted(&second, 2) && !desk.is_wanted(&first, 2));
    }
}
