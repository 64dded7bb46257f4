//! Below which version this node has nothing in flight: what it answers when the dead are to be purged.
//!
//! A write under way holds the watermark down from before it has its version until its last replica has answered or what
//! the others missed is kept; a hint holds it down as long as it is on disk, also over a restart, because every segment of
//! the log knows its oldest version. In between no moment is left open: a version is drawn under the same lock under which
//! it is noted, and what is under way is looked at before the hints, so that what turns from one into the other is seen in
//! at least one of them. A dirty mark holds nothing down: what it stands for is held by another replica, and no proof
//! passes that difference.
//!
//! **Timestamps that clients choose** may lie below a watermark that was told already. Replicas refuse them below their
//! purge floor, and the client is told; but a hint that is all there is of a write would be refused when nobody waits for
//! the answer any more. So such a hint is not made ([`UnderWay::may_be_lost`]).

use std::collections::BTreeMap;
use std::sync::Arc;

use cube_storage::clock::ClockError;
use cube_storage::model::{Hlc, Version};
use parking_lot::Mutex;

use crate::clock::NodeClock;
use crate::handoff::HintedHandoff;

/// The writes that this node coordinates at the moment, by version.
pub struct UnderWay {
    clock: Arc<NodeClock>,
    state: Mutex<State>,
}

struct State {
    /// How many writes have each version: clients may choose the same one. Bounded by the requests under way.
    versions: BTreeMap<Hlc, u32>,
    /// The highest watermark that was ever told, or higher where hints held it down.
    told: Hlc,
}

/// A write under way: until this is dropped, no watermark passes it.
pub struct Held {
    writes: Arc<UnderWay>,
    hlc: Hlc,
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut state = self.writes.state.lock();
        if let Some(count) = state.versions.get_mut(&self.hlc) {
            *count -= 1;
            if *count == 0 {
                state.versions.remove(&self.hlc);
            }
        }
    }
}

impl UnderWay {
    /// Nothing is under way yet. What was told before a restart is below what the clock gives now.
    pub fn new(clock: Arc<NodeClock>) -> Arc<Self> {
        let told = clock.stamp().map_or_else(|_| clock.peek(), |version| version.hlc);
        Arc::new(Self { clock, state: Mutex::new(State { versions: BTreeMap::new(), told }) })
    }

    /// Draws the version of a write, which is under way from that moment on. A later version of the same write is higher,
    /// so this one holds for it too.
    pub fn begin<E>(self: &Arc<Self>, draw: impl FnOnce() -> Result<Version, E>) -> Result<(Version, Held), E> {
        let mut state = self.state.lock();
        let version = draw()?;
        *state.versions.entry(version.hlc).or_default() += 1;
        Ok((version, Held { writes: Arc::clone(self), hlc: version.hlc }))
    }

    /// Whether no write is under way: all that late replicas missed is noted.
    pub fn is_idle(&self) -> bool {
        self.state.lock().versions.is_empty()
    }

    /// Whether a write came too late to be kept as a hint alone: a watermark above it was told already.
    pub fn may_be_lost(&self, version: Version) -> bool {
        version.hlc <= self.state.lock().told
    }

    /// No write under way has this version or an older one, and none that this node stamps will have; of the watermark of
    /// the node only the hints are missing.
    fn watermark(&self) -> Result<Hlc, ClockError> {
        let mut state = self.state.lock();
        // Given, and not only read: every version that is stamped later is greater, whatever the wall clock does.
        let reading = self.clock.stamp()?.hlc;
        let watermark = state.versions.first_key_value().map_or(reading, |(oldest, _)| reading.min(before(*oldest)));
        // Noted before the hints are looked at: a write that begins meanwhile is neither here nor there.
        state.told = state.told.max(watermark);
        Ok(watermark)
    }
}

/// The watermark of a node: nothing while its clock gives no reading.
pub fn watermark(writes: &UnderWay, handoff: &HintedHandoff) -> Option<Hlc> {
    let of_writes = writes.watermark().ok()?;
    Some(handoff.oldest_hint().map_or(of_writes, |oldest| of_writes.min(before(oldest))))
}

fn before(hlc: Hlc) -> Hlc {
    Hlc(hlc.0.saturating_sub(1))
}

#[cfg(test)]
mod tests;
