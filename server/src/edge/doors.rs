//! Whether clients are let in, and why not: one state for all front doors and all reasons.
//!
//! A door closes in two steps. First health says it, while everything is still served, so that clients and balancers go
//! elsewhere and nobody is turned away who looks; then new work is refused, and what is under way goes on to its end.
//!
//! **Nobody is overlooked between the door and the coordinator.** A request is counted before it is asked whether the doors
//! are open, until the coordinator counts it. So once they are closed and nobody is counted here, whatever was let in is
//! known to the coordinator, or over.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::watch;

/// Why a node lets no clients in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Closing {
    /// Its process is about to end.
    Stopping,
    /// It holds nothing any more and leaves the cluster: what it still coordinates would be missed by others.
    Leaving,
    /// An operator drained it.
    Drained,
}

/// How far a closing has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Everybody is let in.
    #[default]
    Open,
    /// Health says it; everything is served.
    Announced,
    /// New work is refused.
    Closed,
}

/// The doors of a node.
#[derive(Debug)]
pub struct Doors {
    node: String,
    phases: watch::Sender<Phases>,
    inside: AtomicUsize,
}

/// A place between the doors and the coordinator.
#[derive(Debug)]
pub struct Inside<'a>(&'a AtomicUsize);

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Phases {
    stopping: Phase,
    leaving: Phase,
    drained: Phase,
}

impl Phases {
    /// In the order in which they are told.
    const ALL: [Closing; 3] = [Closing::Stopping, Closing::Leaving, Closing::Drained];

    fn of(&self, why: Closing) -> Phase {
        match why {
            Closing::Stopping => self.stopping,
            Closing::Leaving => self.leaving,
            Closing::Drained => self.drained,
        }
    }

    fn of_mut(&mut self, why: Closing) -> &mut Phase {
        match why {
            Closing::Stopping => &mut self.stopping,
            Closing::Leaving => &mut self.leaving,
            Closing::Drained => &mut self.drained,
        }
    }

    /// The first reason that has come so far.
    fn first(&self, phase: Phase) -> Option<Closing> {
        Self::ALL.into_iter().find(|why| self.of(*why) >= phase)
    }
}

impl Doors {
    /// Those of a node of this name; everybody is let in.
    pub fn of(node: impl Into<String>) -> Self {
        Self { node: node.into(), phases: watch::Sender::default(), inside: AtomicUsize::new(0) }
    }

    /// Counts a request that is about to be let in, until what is returned is dropped.
    pub fn step_in(&self) -> Inside<'_> {
        self.inside.fetch_add(1, Ordering::SeqCst);
        Inside(&self.inside)
    }

    /// Whether they are closed for a reason, and nobody who was let in before is still on the way to the coordinator.
    pub fn nobody_enters(&self, why: Closing) -> bool {
        self.phase(why) == Phase::Closed && self.inside.load(Ordering::SeqCst) == 0
    }

    /// A reason, as people are told of it.
    pub fn told(&self, why: Closing) -> String {
        let node = &self.node;
        match why {
            Closing::Stopping => "the node is about to stop".to_owned(),
            Closing::Leaving => format!("{node} leaves the cluster and takes no more requests"),
            Closing::Drained => {
                format!("{node} is drained: it takes no requests until that is undone or it is restarted")
            }
        }
    }

    fn change(&self, change: impl FnOnce(&mut Phases)) {
        self.phases.send_if_modified(|phases| {
            let before = *phases;
            change(phases);
            *phases != before
        });
    }

    /// From now on health says it. Nothing is refused for it that was not before.
    pub fn announce(&self, why: Closing) {
        self.change(|phases| {
            let phase = phases.of_mut(why);
            *phase = (*phase).max(Phase::Announced);
        });
    }

    /// From now on new work is refused.
    pub fn close(&self, why: Closing) {
        self.change(|phases| *phases.of_mut(why) = Phase::Closed);
    }

    /// The same, unless it was taken back since it was announced.
    pub fn close_as_announced(&self, why: Closing) {
        self.change(|phases| {
            let phase = phases.of_mut(why);
            if *phase == Phase::Announced {
                *phase = Phase::Closed;
            }
        });
    }

    /// Takes it back.
    pub fn open(&self, why: Closing) {
        self.change(|phases| *phases.of_mut(why) = Phase::Open);
    }

    /// How far it has come.
    pub fn phase(&self, why: Closing) -> Phase {
        self.phases.borrow().of(why)
    }

    /// Why new work is refused, if it is.
    pub fn closed(&self) -> Option<Closing> {
        self.phases.borrow().first(Phase::Closed)
    }

    /// Everything that health is to say.
    pub fn announced(&self) -> Vec<Closing> {
        let phases = *self.phases.borrow();
        Phases::ALL.into_iter().filter(|why| phases.of(*why) >= Phase::Announced).collect()
    }

    /// Done when new work is refused.
    pub async fn until_closed(&self) {
        let closed = |phases: &Phases| phases.first(Phase::Closed).is_some();
        let mut phases = self.phases.subscribe();
        // The sender lives as long as this.
        let _seen = phases.wait_for(closed).await.is_ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_announced_is_served_until_it_is_closed_and_one_reason_opens_no_other() {
        let doors = Doors::of("node-3");
        doors.announce(Closing::Drained);
        assert_eq!((doors.closed(), doors.announced()), (None, vec![Closing::Drained]));
        doors.close_as_announced(Closing::Drained);
        doors.close(Closing::Stopping);
        assert_eq!(doors.closed(), Some(Closing::Stopping), "that it ends is told before that it is drained");
        doors.open(Closing::Drained);
        assert_eq!(doors.announced(), [Closing::Stopping]);
    }

    #[test]
    fn what_was_taken_back_is_not_closed_by_its_announcement_and_nothing_closed_opens_by_being_announced() {
        let doors = Doors::of("node-3");
        doors.announce(Closing::Drained);
        doors.open(Closing::Drained);
        doors.close_as_announced(Closing::Drained);
        assert_eq!(doors.phase(Closing::Drained), Phase::Open);
        doors.close(Closing::Drained);
        doors.announce(Closing::Drained);
        assert_eq!(doors.phase(Closing::Drained), Phase::Closed);
    }

    #[test]
    fn who_was_let_in_just_before_they_closed_is_not_overlooked() {
        let doors = Doors::of("node-3");
        let inside = doors.step_in();
        assert_eq!(doors.closed(), None, "it is let in");
        doors.close(Closing::Leaving);
        assert!(!doors.nobody_enters(Closing::Leaving));
        let late = doors.step_in();
        drop(inside);
        assert!(!doors.nobody_enters(Closing::Leaving), "it may have looked before they closed");
        drop(late);
        assert!(doors.nobody_enters(Closing::Leaving));
        assert!(!doors.nobody_enters(Closing::Drained));
    }

    #[tokio::test]
    async fn whoever_waits_for_the_doors_hears_of_any_closing() {
        let doors = Doors::of("node-3");
        let waits = doors.until_closed();
        doors.announce(Closing::Leaving);
        doors.close(Closing::Leaving);
        waits.await;
    }
}
