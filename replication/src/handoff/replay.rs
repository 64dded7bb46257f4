//! The decisions of a replay: whom to send hints next, how much, and when to try again.
//!
//! Plain code: what was seen and time go in, commands come out. What it keeps true:
//!
//! - one thing at a time is under way for a target, and at most [`TARGETS_AT_ONCE`] targets are served; whose hints are
//!   the oldest comes first;
//! - nothing is sent without a lease of the target, nor to one that is believed dead;
//! - a failure is followed by a wait that doubles up to [`BACKOFF_MS_MAX`]. Only a target that came back, an operator or a
//!   success ends it earlier: no target keeps the worker busy by dying again and again;
//! - an answer to something that was given up changes nothing.

use std::collections::BTreeMap;

use cube_storage::model::NodeId;

use super::pace::{Grant, Speed};

/// The most hints of one batch. It is one commit at the target, in which clients' writes wait.
pub const BATCH_ROWS_MAX: usize = 256;
/// The most bytes of one batch; one hint is always sent.
pub const BATCH_BYTES_MAX: usize = 256 << 10;
/// Targets that are served side by side: each has a batch in memory.
pub const TARGETS_AT_ONCE: usize = 4;
/// The wait after a first failure.
const BACKOFF_MS_FIRST: u64 = 250;
/// The longest wait after a failure.
const BACKOFF_MS_MAX: u64 = 30_000;

/// What is seen of a target when it is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Whether it is believed to be alive.
    pub alive: bool,
    /// When the oldest of its hints was made; nothing when there are none.
    pub oldest_ms: Option<u64>,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Ask the target for a lease.
    Ask {
        /// The target.
        target: NodeId,
        /// To be named with the answer.
        attempt: u64,
    },
    /// Send the target the next hints.
    Send {
        /// The target.
        target: NodeId,
        /// To be named with the answer.
        attempt: u64,
        /// The most hints.
        rows: usize,
        /// The most bytes; one hint is always sent.
        bytes: usize,
    },
}

/// What came of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// The target has taken so many hints, of so many bytes.
    Taken {
        /// How many.
        records: u64,
        /// Their bytes.
        bytes: u64,
    },
    /// There was nothing to send any more.
    Nothing,
    /// Something in the batch cannot be taken: the next one is a single hint.
    Indigestible,
    /// It failed, and is tried again later.
    Failed,
}

/// What a replay does for a target at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ReplayState {
    /// There is nothing to send.
    Idle,
    /// The target is not alive.
    TargetDown,
    /// An operator asked it to wait.
    Paused,
    /// It is about to send, and waits for its turn or for an answer.
    Running,
    /// The target asked it to wait.
    Throttled,
    /// Something failed; it is tried again.
    BackingOff,
}

impl ReplayState {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Idle, Self::TargetDown, Self::Paused, Self::Running, Self::Throttled, Self::BackingOff];

    /// Its name, as it is shown.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "IDLE",
            Self::TargetDown => "TARGET_DOWN",
            Self::Paused => "PAUSED",
            Self::Running => "RUNNING",
            Self::Throttled => "THROTTLED",
            Self::BackingOff => "BACKING_OFF",
        }
    }
}

/// How a replay stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// What it does.
    pub state: ReplayState,
    /// Hints taken by the target since this node started.
    pub taken: u64,
    /// Hints taken per second, over the last seconds.
    pub per_second: u64,
    /// When the target last took something.
    pub last_progress_ms: Option<u64>,
    /// Failures since then.
    pub failures: u32,
}

#[derive(Clone, Debug, Default)]
struct Track {
    seen: Option<Seen>,
    paused: bool,
    /// What the next lease is asked for: what was sent under the last one.
    sent: (u64, u64),
    /// The lease: bytes left, and until when.
    lease: Option<(u64, u64)>,
    under_way: Option<u64>,
    /// Not before then, and whether the target said so or a failure did.
    wait: Option<(u64, ReplayState)>,
    failures: u32,
    single: bool,
    taken: u64,
    speed: Speed,
    last_progress_ms: Option<u64>,
}

impl Track {
    fn is_ready(&self, now_ms: u64) -> bool {
        let due = self.wait.is_none_or(|(until_ms, _)| until_ms <= now_ms);
        due && !self.paused && self.under_way.is_none() && self.has_work()
    }

    fn has_work(&self) -> bool {
        self.seen.is_some_and(|seen| seen.alive && seen.oldest_ms.is_some())
    }

    fn state(&self, now_ms: u64) -> ReplayState {
        match self.seen {
            Some(Seen { oldest_ms: Some(_), .. }) if self.paused => ReplayState::Paused,
            Some(Seen { alive: true, oldest_ms: Some(_) }) => match self.wait {
                Some((until_ms, why)) if until_ms > now_ms => why,
                _ => ReplayState::Running,
            },
            Some(Seen { alive: false, oldest_ms: Some(_) }) => ReplayState::TargetDown,
            _ => ReplayState::Idle,
        }
    }
}

/// The replays of one node.
#[derive(Clone, Debug, Default)]
pub struct Replay {
    targets: BTreeMap<NodeId, Track>,
    attempts: u64,
}

impl Replay {
    /// How a target is now. One that came back is tried at once.
    pub fn look(&mut self, target: NodeId, seen: Seen) {
        let track = self.targets.entry(target).or_default();
        let came_back = seen.alive && track.seen.is_some_and(|before| !before.alive);
        if came_back {
            track.wait = None;
        }
        if !seen.alive {
            track.lease = None;
        }
        track.seen = Some(seen);
    }

    /// Gossip reports the target alive, or an operator wants it now: no wait holds any more.
    pub fn hurry(&mut self, target: NodeId) {
        if let Some(track) = self.targets.get_mut(&target) {
            track.wait = None;
        }
    }

    /// Nothing is begun for the target until it is resumed. What is under way is finished.
    pub fn pause(&mut self, target: NodeId, paused: bool) {
        self.targets.entry(target).or_default().paused = paused;
    }

    /// What to do next, if there is anything.
    pub fn next(&mut self, now_ms: u64) -> Option<Command> {
        if self.targets.values().filter(|track| track.under_way.is_some()).count() >= TARGETS_AT_ONCE {
            return None;
        }
        let ready = self.targets.iter_mut().filter(|(_, track)| track.is_ready(now_ms));
        let (target, track) = ready.min_by_key(|(node, track)| (track.seen.and_then(|seen| seen.oldest_ms), **node))?;
        self.attempts += 1;
        let (target, attempt) = (*target, self.attempts);
        track.under_way = Some(attempt);
        track.wait = None;
        Some(match track.lease {
            Some((bytes, until_ms)) if bytes > 0 && until_ms > now_ms => {
                let bytes = usize::try_from(bytes).unwrap_or(usize::MAX).min(BATCH_BYTES_MAX);
                Command::Send { target, attempt, rows: if track.single { 1 } else { BATCH_ROWS_MAX }, bytes }
            }
            _ => {
                track.lease = None;
                Command::Ask { target, attempt }
            }
        })
    }

    /// Hints and bytes that the target took since it was asked the last time; they are told once.
    pub fn take_sent(&mut self, target: NodeId) -> (u64, u64) {
        self.targets.get_mut(&target).map(|track| std::mem::take(&mut track.sent)).unwrap_or_default()
    }

    /// The target answered a question for a lease.
    pub fn on_grant(&mut self, target: NodeId, attempt: u64, grant: Grant, now_ms: u64) {
        let Some(track) = self.current(target, attempt) else { return };
        match grant {
            Grant::Lease { bytes, for_ms } => track.lease = Some((bytes.max(1), now_ms + u64::from(for_ms))),
            Grant::Wait { for_ms } => {
                track.wait = Some((now_ms + u64::from(for_ms).max(1), ReplayState::Throttled));
            }
        }
    }

    /// A question or a batch ended.
    pub fn on_sent(&mut self, target: NodeId, attempt: u64, sent: Sent, now_ms: u64) {
        let Some(track) = self.current(target, attempt) else { return };
        match sent {
            Sent::Taken { records, bytes } => {
                track.lease = track.lease.map(|(left, until_ms)| (left.saturating_sub(bytes), until_ms));
                track.sent = (track.sent.0 + records, track.sent.1 + bytes);
                track.taken += records;
                track.speed.add(records, now_ms);
                track.last_progress_ms = Some(now_ms);
                (track.failures, track.single) = (0, false);
            }
            Sent::Nothing => {
                track.lease = None;
                track.seen = track.seen.map(|seen| Seen { oldest_ms: None, ..seen });
                track.failures = 0;
            }
            Sent::Indigestible if !track.single => track.single = true,
            Sent::Indigestible | Sent::Failed => {
                track.lease = None;
                track.failures = track.failures.saturating_add(1);
                track.wait = Some((now_ms + backoff_ms(track.failures), ReplayState::BackingOff));
            }
        }
    }

    /// When there is something to do again without anything happening.
    pub fn due_ms(&self) -> Option<u64> {
        let waits = self.targets.values().filter(|track| !track.paused && track.under_way.is_none());
        waits.filter(|track| track.has_work()).map(|track| track.wait.map_or(0, |(until_ms, _)| until_ms)).min()
    }

    /// How a replay stands.
    pub fn progress(&self, target: NodeId, now_ms: u64) -> Progress {
        let none = Track::default();
        let track = self.targets.get(&target).unwrap_or(&none);
        Progress {
            state: track.state(now_ms),
            taken: track.taken,
            per_second: track.speed.per_second(now_ms),
            last_progress_ms: track.last_progress_ms,
            failures: track.failures,
        }
    }

    /// The target's track, if this is the answer to what is under way.
    fn current(&mut self, target: NodeId, attempt: u64) -> Option<&mut Track> {
        let track = self.targets.get_mut(&target).filter(|track| track.under_way == Some(attempt))?;
        track.under_way = None;
        Some(track)
    }
}

/// The wait after so many failures in a row.
pub(super) fn backoff_ms(failures: u32) -> u64 {
    BACKOFF_MS_FIRST.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(BACKOFF_MS_MAX)
}

#[cfg(test)]
mod tests;
