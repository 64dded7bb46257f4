//! How fast others may bring this node what it missed: the node itself says so, in credits.
//!
//! Plain code: questions, write latencies and time go in, leases come out. One pool serves all senders, so that five
//! coordinators are no faster together than one. It fills at a rate that shrinks while clients wait clearly longer for
//! their writes than without a replay (`calm.rs`), or while the engine is behind with its compactions, and grows step by
//! step otherwise. Leases are small: what is leased comes at once, and clients' writes wait meanwhile.
//!
//! What it keeps true:
//! - leases of all senders together never hold more than the pool;
//! - a lease ends when its sender asks again, is believed dead, or has been silent for [`LEASE_MS`]: what a sender that
//!   died did not use is there for the others;
//! - whoever asks gets at least one item through within a bounded time, however large the item and however slow the node.

mod calm;

use std::collections::BTreeMap;

use cube_storage::model::NodeId;
use serde::{Deserialize, Serialize};

use self::calm::Calm;

/// The longest a lease holds without another question of its sender.
pub const LEASE_MS: u64 = 5_000;
/// The most that one lease allows: one batch.
const LEASE_BYTES_MAX: u64 = 256 << 10;
/// The least that is worth a lease while there is more to come: below it the sender waits for the pool to fill.
const LEASE_BYTES_MIN: u64 = 32 << 10;
/// Where the rate begins: 6,000 hints of 1 KiB a second.
const RATE_START: u64 = 6 << 20;
/// As slow as it gets: an hour of missed writes is still a matter of minutes.
const RATE_MIN: u64 = 1 << 20;
/// As fast as it gets.
const RATE_MAX: u64 = 64 << 20;
/// What the rate grows by at a time: one part in so many.
const GROWTH_PART: u64 = 16;
/// What it shrinks by.
const CUT_PART: u64 = 8;
/// From one change of the rate to the next.
const ADJUST_EVERY_MS: u64 = 100;
/// The pool holds what the rate brings in this time: a longer burst would be felt by clients.
const POOL_MS: u64 = 50;
/// Bytes that flushes and compactions may be behind before hints are slowed down.
const DEBT_BYTES_MAX: u64 = 512 << 20;
/// What clients may wait longer than twice as long as without a replay, which a slow fsync explains. Half of both lets the
/// rate grow.
const SLACK_US: u64 = 4_000;
/// When a sender asks again while it is looked how long clients wait without a replay.
const LOOK_ASK_MS: u32 = 10;
/// A sender that has been silent for so long is not counted among those that have hints.
const SENDER_FORGET_MS: u64 = 30_000;
/// After so long without a hint that was taken nothing is on its way.
const PROGRESS_MS: u64 = 3_000;
/// The longest that a sender is told to wait before it asks again.
const WAIT_MS_MAX: u64 = 1_000;

/// What a sender says when it asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Coming {
    /// Hints that it has yet to send.
    pub records: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Hints that were taken since it asked the last time.
    pub sent_records: u64,
    /// Their bytes.
    pub sent_bytes: u64,
}

/// What a sender is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Grant {
    /// So many bytes may be sent; one item always may, however large it is.
    Lease {
        /// How many.
        bytes: u64,
        /// For how long.
        for_ms: u32,
    },
    /// Nothing for now.
    Wait {
        /// When to ask again.
        for_ms: u32,
    },
}

/// What is coming to this node.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Incoming {
    /// By sender: hints it has yet to send, and their bytes.
    pub senders: BTreeMap<NodeId, (u64, u64)>,
    /// Hints taken since the node started.
    pub taken: u64,
    /// Hints taken per second, over the last seconds.
    pub per_second: u64,
    /// When all of it will have come, by that.
    pub eta_ms: Option<u64>,
    /// Bytes per second that the node lets in.
    pub rate_bytes: u64,
}

#[derive(Clone, Copy, Debug)]
struct Lease {
    bytes: u64,
    until_ms: u64,
}

#[derive(Clone, Copy, Debug)]
struct Sender {
    coming: Coming,
    asked_ms: u64,
    /// The number of its last lease, over all senders.
    served: u64,
}

/// The pool of credits of one node.
#[derive(Debug)]
pub struct Pace {
    rate: u64,
    /// Bytes that may be leased now.
    pool: u64,
    filled_ms: u64,
    adjusted_ms: u64,
    leases: BTreeMap<NodeId, Lease>,
    senders: BTreeMap<NodeId, Sender>,
    /// Leases given so far.
    leased: u64,
    calm: Calm,
    /// Since the last change of the rate: the sum, and of how many writes.
    waited: (u64, u64),
    taken: u64,
    speed: Speed,
    /// When something was last taken, or a sender came that was not there before.
    progress_ms: Option<u64>,
}

/// Items a second, over the last seconds.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Speed {
    since_ms: Option<u64>,
    items: u64,
    per_second: u64,
}

/// How long items are counted before the speed is told anew.
const SPEED_WINDOW_MS: u64 = 1_000;
/// After so long without an item the speed is none.
const SPEED_STALE_MS: u64 = 10_000;

impl Speed {
    pub(super) fn add(&mut self, items: u64, now_ms: u64) {
        let since_ms = *self.since_ms.get_or_insert(now_ms);
        self.items += items;
        let passed_ms = now_ms.saturating_sub(since_ms);
        if passed_ms >= SPEED_WINDOW_MS {
            let newest = self.items.saturating_mul(1_000) / passed_ms;
            self.per_second = if self.per_second == 0 { newest } else { self.per_second.midpoint(newest) };
            (self.since_ms, self.items) = (Some(now_ms), 0);
        }
    }

    pub(super) fn per_second(&self, now_ms: u64) -> u64 {
        let Some(since_ms) = self.since_ms else { return 0 };
        let passed_ms = now_ms.saturating_sub(since_ms);
        match self.per_second {
            _ if passed_ms >= SPEED_STALE_MS => 0,
            // What has come of the first window says more than nothing.
            0 => self.items.saturating_mul(1_000) / passed_ms.max(SPEED_WINDOW_MS),
            known => known,
        }
    }
}

impl Pace {
    /// A full pool.
    pub fn new(now_ms: u64) -> Self {
        Self {
            rate: RATE_START,
            pool: pool_bytes(RATE_START),
            filled_ms: now_ms,
            adjusted_ms: now_ms,
            leases: BTreeMap::new(),
            senders: BTreeMap::new(),
            leased: 0,
            calm: Calm::new(now_ms),
            waited: (0, 0),
            taken: 0,
            speed: Speed::default(),
            progress_ms: None,
        }
    }

    /// A client's write was made durable, after so long.
    pub fn wrote(&mut self, took_us: u64, now_ms: u64) {
        self.calm.wrote(took_us, now_ms);
        self.waited = (self.waited.0.saturating_add(took_us), self.waited.1 + 1);
    }

    /// A sender asks for more.
    pub fn ask(&mut self, from: NodeId, coming: Coming, debt_bytes: u64, now_ms: u64) -> Grant {
        self.settle(from, coming, now_ms);
        let is_looking = self.calm.is_looking(self.waited.1 > 0, now_ms);
        self.adjust(is_looking, debt_bytes, now_ms);
        self.fill(now_ms);
        if coming.records == 0 {
            self.senders.remove(&from);
            return Grant::Wait { for_ms: short(WAIT_MS_MAX) };
        }
        let known = self.senders.get(&from);
        if known.is_none() || coming.sent_records > 0 {
            self.progress_ms = Some(now_ms);
        }
        let served = known.map_or(0, |sender| sender.served);
        self.senders.insert(from, Sender { coming, asked_ms: now_ms, served });
        if is_looking {
            return Grant::Wait { for_ms: LOOK_ASK_MS };
        }
        let waiting = self.senders.keys().filter(|node| !self.leases.contains_key(node)).count() as u64;
        let share = (self.pool / waiting.max(1)).max(self.pool.min(LEASE_BYTES_MIN));
        let wanted = coming.bytes.max(1);
        let bytes = match share.min(wanted).min(LEASE_BYTES_MAX) {
            enough if enough >= LEASE_BYTES_MIN || enough == wanted => enough,
            // An item gets through, whatever it weighs and whatever the pool holds: one at a time, in turns.
            little if self.leases.is_empty() && self.is_its_turn(served, now_ms) => little.max(1),
            _ => return Grant::Wait { for_ms: self.wait_ms() },
        };
        self.pool = self.pool.saturating_sub(bytes);
        self.leases.insert(from, Lease { bytes, until_ms: now_ms + LEASE_MS });
        self.calm.leases(true, now_ms);
        self.leased += 1;
        self.senders.insert(from, Sender { coming, asked_ms: now_ms, served: self.leased });
        Grant::Lease { bytes, for_ms: short(LEASE_MS) }
    }

    /// Whether nobody who asks just as often has waited for longer.
    fn is_its_turn(&self, served: u64, now_ms: u64) -> bool {
        let asks = |sender: &&Sender| sender.asked_ms + 2 * WAIT_MS_MAX > now_ms;
        self.senders.values().filter(asks).all(|other| other.served >= served)
    }

    /// A sender is believed dead, or said that it has nothing more: its lease ends.
    pub fn gone(&mut self, node: NodeId, now_ms: u64) {
        self.senders.remove(&node);
        if let Some(lease) = self.leases.remove(&node) {
            self.give_back(lease.bytes);
        }
        self.calm.leases(!self.leases.is_empty(), now_ms);
    }

    /// Whether hints come, and get on: what this node lacks is on its way.
    pub fn catches_up(&self, now_ms: u64) -> bool {
        let gets_on = self.progress_ms.is_some_and(|at_ms| now_ms.saturating_sub(at_ms) <= PROGRESS_MS);
        gets_on && !self.senders.is_empty()
    }

    /// What is coming.
    pub fn incoming(&self, now_ms: u64) -> Incoming {
        let heard = self.senders.iter().filter(|(_, sender)| sender.asked_ms + SENDER_FORGET_MS > now_ms);
        let senders: BTreeMap<NodeId, (u64, u64)> =
            heard.map(|(node, sender)| (*node, (sender.coming.records, sender.coming.bytes))).collect();
        let records: u64 = senders.values().map(|(records, _)| records).sum();
        let per_second = self.speed.per_second(now_ms);
        let eta_ms = (records > 0 && per_second > 0).then(|| records.saturating_mul(1_000) / per_second);
        Incoming { senders, taken: self.taken, per_second, eta_ms, rate_bytes: self.rate }
    }

    /// The sender's last lease is over: what it did not use goes back.
    fn settle(&mut self, from: NodeId, coming: Coming, now_ms: u64) {
        self.taken += coming.sent_records;
        if coming.sent_records > 0 {
            self.speed.add(coming.sent_records, now_ms);
        }
        if let Some(lease) = self.leases.remove(&from) {
            match lease.bytes.checked_sub(coming.sent_bytes) {
                Some(unused) => self.give_back(unused),
                // The item that always gets through was larger than its lease.
                None => self.pool = self.pool.saturating_sub(coming.sent_bytes - lease.bytes),
            }
        }
        let over: Vec<NodeId> =
            self.leases.iter().filter(|(_, lease)| lease.until_ms <= now_ms).map(|(node, _)| *node).collect();
        over.into_iter().for_each(|node| self.gone(node, now_ms));
        self.calm.leases(!self.leases.is_empty(), now_ms);
        self.senders.retain(|_, sender| sender.asked_ms + SENDER_FORGET_MS > now_ms);
    }

    fn adjust(&mut self, is_looking: bool, debt_bytes: u64, now_ms: u64) {
        if now_ms.saturating_sub(self.adjusted_ms) < ADJUST_EVERY_MS {
            return;
        }
        self.adjusted_ms = now_ms;
        let (waited_us, writes) = std::mem::take(&mut self.waited);
        if is_looking {
            return;
        }
        let mean_us = waited_us.checked_div(writes).unwrap_or_default();
        let most_us = 2 * self.calm.us() + SLACK_US;
        if mean_us > most_us || debt_bytes > DEBT_BYTES_MAX {
            self.rate = (self.rate - self.rate / CUT_PART).max(RATE_MIN);
        } else if mean_us <= most_us / 2 {
            self.rate = (self.rate + self.rate / GROWTH_PART).min(RATE_MAX);
        }
    }

    fn fill(&mut self, now_ms: u64) {
        let passed_ms = now_ms.saturating_sub(self.filled_ms).min(POOL_MS);
        self.filled_ms = now_ms.max(self.filled_ms);
        self.give_back(self.rate.saturating_mul(passed_ms) / 1_000);
    }

    /// What is leased counts as being in the pool: all of it together is bounded.
    fn give_back(&mut self, bytes: u64) {
        let leased: u64 = self.leases.values().map(|lease| lease.bytes).sum();
        let room = pool_bytes(self.rate).saturating_sub(leased);
        self.pool = self.pool.saturating_add(bytes).min(room.max(self.pool.min(pool_bytes(self.rate))));
    }

    fn wait_ms(&self) -> u32 {
        let needed = LEASE_BYTES_MIN.saturating_sub(self.pool);
        short((needed.saturating_mul(1_000) / self.rate.max(1)).clamp(10, WAIT_MS_MAX))
    }
}

fn pool_bytes(rate: u64) -> u64 {
    rate.saturating_mul(POOL_MS) / 1_000
}

fn short(ms: u64) -> u32 {
    u32::try_from(ms).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
