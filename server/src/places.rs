//! How many connections a port for clients holds, and what the process may open at all.
//!
//! A connection costs a file and some memory, also when nobody says anything on it. Invariant: a port never holds more
//! than its places; whoever comes past them is told so and hung up on, and those who are there notice nothing. The peer
//! port has a bound of its own, far above what the members of a cluster need; its files are among those of the node.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::metrics::PortFigures;

/// Files that the node needs for itself: tables and logs of its databases, hints, peers.
const FILES_OF_THE_NODE: u64 = 4_096;
/// On a system that grants few files, the node keeps so large a part of them.
const SHARE_OF_THE_NODE: u64 = 2;
/// So large a part of the node's own files is for peers.
const SHARE_OF_PEERS: u64 = 4;
/// Connections that are told at once that there is no place; more are hung up on without a word.
const REFUSALS_AT_ONCE: usize = 64;

/// The places of one port.
pub struct Places {
    port: &'static str,
    most: usize,
    free: Arc<Semaphore>,
    refusing: Arc<Semaphore>,
    /// That the port is full was logged, and there has been no place since.
    is_told: AtomicBool,
    refused: Arc<AtomicU64>,
}

/// What a connection that comes is given.
pub(crate) enum Seat {
    /// A place, as long as this lives.
    Taken(OwnedSemaphorePermit),
    /// No place, and time to be told so.
    Refused(OwnedSemaphorePermit),
    /// Nothing.
    Ignored,
}

impl Places {
    /// So many places, as far as the system grants files for them.
    pub fn new(port: &'static str, wanted: u32) -> Self {
        let wanted = u64::from(wanted);
        let granted = files_granted();
        // There are two ports for clients.
        let possible = granted.saturating_sub(files_of_the_node(granted)) / 2;
        if possible < wanted {
            tracing::warn!(
                port,
                "the system grants this process {granted} open files, so there are {possible} places for connections \
                 instead of overload.connections_max ({wanted}): raise the limit (ulimit -n, LimitNOFILE)"
            );
        }
        Self::of(port, possible.min(wanted))
    }

    /// So many places for peers, as far as the node can spare files for them.
    pub(crate) fn for_peers(wanted: u32) -> Self {
        let possible = files_of_the_node(files_granted()) / SHARE_OF_PEERS;
        Self::of("peer", possible.min(u64::from(wanted)))
    }

    fn of(port: &'static str, most: u64) -> Self {
        let most = usize::try_from(most).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        let (free, refusing) = (Arc::new(Semaphore::new(most)), Arc::new(Semaphore::new(REFUSALS_AT_ONCE)));
        Self { port, most, free, refusing, is_told: AtomicBool::new(false), refused: Arc::default() }
    }

    /// How many there are.
    pub fn most(&self) -> usize {
        self.most
    }

    /// Tells how full the port is, for as long as it is asked.
    pub fn figures(&self) -> impl Fn() -> PortFigures + Send + Sync + 'static {
        let (port, most) = (self.port, self.most);
        let (free, refused) = (Arc::clone(&self.free), Arc::clone(&self.refused));
        move || PortFigures::of(port, most.saturating_sub(free.available_permits()), most, &refused)
    }

    /// For a connection that comes.
    pub(crate) fn seat(&self) -> Seat {
        if let Ok(place) = Arc::clone(&self.free).try_acquire_owned() {
            self.is_told.store(false, Ordering::Relaxed);
            return Seat::Taken(place);
        }
        self.refused.fetch_add(1, Ordering::Relaxed);
        if !self.is_told.swap(true, Ordering::Relaxed) {
            tracing::warn!(port = self.port, connections = self.most, "no place is left: connections are refused");
        }
        Arc::clone(&self.refusing).try_acquire_owned().map_or(Seat::Ignored, Seat::Refused)
    }
}

fn files_granted() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

fn files_of_the_node(granted: u64) -> u64 {
    FILES_OF_THE_NODE.min(granted / SHARE_OF_THE_NODE)
}

/// Lets the process open as many files as it may: the usual limit is meant for programs that wait with `select`.
pub(crate) fn allow_many_files() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return;
    }
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        tracing::warn!(%error, "the limit of open files cannot be raised");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn past_the_places_some_are_told_and_the_rest_is_hung_up_on_until_one_leaves() {
        let places = Places::new("http", 2);
        let (first, second) = (places.seat(), places.seat());
        assert!(matches!((&first, &second), (Seat::Taken(_), Seat::Taken(_))));
        let told: Vec<Seat> = (0..REFUSALS_AT_ONCE).map(|_| places.seat()).collect();
        assert!(told.iter().all(|seat| matches!(seat, Seat::Refused(_))));
        assert!(matches!(places.seat(), Seat::Ignored));
        drop(first);
        assert!(matches!(places.seat(), Seat::Taken(_)));
    }

    #[test]
    fn there_are_no_more_places_than_files_leave_room_for() {
        let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        assert!((Places::new("http", u32::MAX).most() as u64) < files);
    }
}
