//! What is looked at from time to time: who lives, what has grown too old, what is damaged, who has left.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use cube_storage::dirty::Cause;
use cube_storage::hints::{HintLog, Lost, ReadLimits};
use cube_storage::merkle::LeafId;

use super::super::HandoffCounters;
use super::super::replay::Seen;
use super::{HintReplay, State};
use crate::topology::{Member, MemberState};

/// Hints that expire with one sync of the marks.
const EXPIRE_AT_ONCE: ReadLimits = ReadLimits { records: 1_024, bytes: 8 << 20 };
/// How often that is done for a log in one look; the rest waits for the next one.
const EXPIRE_ROUNDS: usize = 8;
/// How often the log says that hints are paused which could be delivered.
const TELL_PAUSED_EVERY_MS: u64 = 600_000;

impl HintReplay {
    /// Looks at every member and every log. Whether there is more to do than one look does.
    pub(super) fn look_at_all(&self, state: &mut State) -> bool {
        let cluster = self.parts.catalog.current();
        let handoff = &self.parts.handoff;
        let mut members: BTreeMap<&str, &Member> = BTreeMap::new();
        for member in cluster.topology.members().values() {
            // A name may have been that of a node that left before.
            let known = members.entry(&member.name).or_insert(member);
            if known.state == MemberState::Left {
                *known = member;
            }
            if member.id != self.parts.me && member.state != MemberState::Left {
                handoff.observe(member.id, self.parts.membership.is_alive(member.id));
            }
        }
        let (mut with_log, mut is_behind) = (BTreeSet::new(), false);
        for log in handoff.hints().logs() {
            match self.mark_damage(&log).and_then(|()| self.expire(&log)) {
                Ok(more) => is_behind |= more,
                Err(error) => tracing::warn!(target = log.target(), error, "hints could not be looked through"),
            }
            match members.get(log.target()) {
                Some(member) => {
                    with_log.insert(member.id);
                    self.look_at(state, member, &log);
                }
                None => self.remove(log.target()),
            }
        }
        self.look_after_marks(&members);
        for id in cluster.topology.members().keys().filter(|id| !with_log.contains(id)) {
            state.elsewhere.remove(id);
            let alive = self.parts.membership.is_alive(*id);
            state.replay.look(*id, Seen { alive, oldest_ms: None });
        }
        is_behind
    }

    fn look_at(&self, state: &mut State, member: &Member, log: &Arc<HintLog>) {
        let totals = log.totals();
        // Where all is acknowledged there are no segments any more.
        let oldest_ms = (totals.segments > 0).then(|| totals.oldest_created_ms.unwrap_or_default());
        let is_alive = self.parts.membership.is_alive(member.id);
        let has_left = member.state == MemberState::Left;
        if has_left && oldest_ms.is_none() {
            self.remove(log.target());
        }
        let goes_elsewhere = has_left || (self.is_handing_over() && !is_alive);
        if goes_elsewhere {
            state.elsewhere.insert(member.id, member.state);
        } else {
            state.elsewhere.remove(&member.id);
        }
        let is_paused = self.parts.handoff.is_paused(member.id);
        state.replay.pause(member.id, is_paused);
        if is_paused && is_alive && totals.records > 0 {
            self.tell_paused(state, member, totals.records);
        }
        state.replay.look(member.id, Seen { alive: is_alive || goes_elsewhere, oldest_ms });
    }

    /// A pause that was forgotten costs hints when they grow older than the window.
    fn tell_paused(&self, state: &mut State, member: &Member, hints: u64) {
        let now_ms = self.parts.clock.monotonic_ms();
        let told_ms = state.told_paused_ms.get(&member.id);
        if told_ms.is_none_or(|told_ms| now_ms.saturating_sub(*told_ms) >= TELL_PAUSED_EVERY_MS) {
            state.told_paused_ms.insert(member.id, now_ms);
            let target = &member.name;
            tracing::warn!(target, hints, "hints for a node that is alive are paused, and not delivered until resumed");
        }
    }

    /// Its target left: nothing of it is missed any more.
    fn remove(&self, target: &str) {
        let handoff = &self.parts.handoff;
        match handoff.hints().remove_target(target) {
            Ok(totals) => {
                HandoffCounters::add(&handoff.counters().dropped_target_left, totals.records);
                let hints = totals.records;
                tracing::info!(target, hints, "the hints of a node that left the cluster are dropped");
                if let Err(error) = handoff.marks().remove_target(target) {
                    tracing::warn!(target, %error, "the dirty marks of a node that left the cluster stay");
                }
            }
            Err(error) => tracing::warn!(target, %error, "the hints of a node that left the cluster stay"),
        }
    }

    /// Marks that no disk took yet are tried again. Nodes that left without hints for them may have marks all the same.
    fn look_after_marks(&self, members: &BTreeMap<&str, &Member>) {
        let handoff = &self.parts.handoff;
        for marks in handoff.marks().targets() {
            let target = marks.target();
            if marks.needs_sync()
                && let Err(error) = marks.sync()
            {
                tracing::warn!(target, %error, "dirty marks are not durable yet");
            }
            let is_gone = members.get(target).is_none_or(|member| member.state == MemberState::Left);
            if !is_gone || handoff.hints().totals().contains_key(target) {
                continue;
            }
            match handoff.marks().remove_target(target) {
                Ok(totals) => {
                    tracing::info!(
                        target,
                        marks = totals.marks,
                        "dirty marks of a node that left the cluster are dropped"
                    );
                }
                Err(error) => tracing::warn!(target, %error, "the dirty marks of a node that left the cluster stay"),
            }
        }
    }

    /// Marks what has grown too old, and drops it. Whether there is more of it.
    fn expire(&self, log: &HintLog) -> Result<bool, String> {
        let handoff = &self.parts.handoff;
        let (now_ms, window_ms) = (handoff.now_ms(), handoff.settings().window_ms);
        let is_old = |oldest_ms: u64| oldest_ms.saturating_add(window_ms) <= now_ms;
        if !log.totals().oldest_created_ms.is_some_and(is_old) {
            return Ok(false);
        }
        for _ in 0..EXPIRE_ROUNDS {
            let expired = log.expired(now_ms, window_ms, EXPIRE_AT_ONCE).map_err(|error| error.to_string())?;
            if expired.is_empty() {
                return Ok(false);
            }
            self.mark_damage(log)?;
            let bits = handoff.bits();
            let leaves =
                expired.hints.iter().map(|hint| (hint.table, LeafId::of(hint.key.token(), bits), hint.version));
            let detail = "hints have grown older than hints.window";
            handoff.mark(log.target(), leaves, Cause::Window, detail).map_err(|error| error.to_string())?;
            HandoffCounters::add(&handoff.counters().expired, expired.hints.len() as u64);
            log.drop_expired(&expired).map_err(|error| error.to_string())?;
        }
        Ok(true)
    }

    /// Marks what damaged hints were for; until then nobody can acknowledge past them.
    pub(super) fn mark_damage(&self, log: &HintLog) -> Result<(), String> {
        let handoff = &self.parts.handoff;
        for damage in log.damage() {
            match damage.lost {
                Lost::Nothing => {}
                Lost::Hint { table, token, version, only_copy } => {
                    if only_copy {
                        let (target, told) = (log.target(), "a hint that may be a write's only copy is damaged");
                        tracing::error!(target, %damage, "{told}: the write may be lost");
                    }
                    let leaf = (table, LeafId::of(token, handoff.bits()), version);
                    let marked = handoff.mark(log.target(), [leaf], Cause::Corrupt, &damage.to_string());
                    marked.map_err(|error| error.to_string())?;
                }
                Lost::Unknown { .. } => {
                    handoff.mark_everything(log.target()).map_err(|error| error.to_string())?;
                }
            }
            HandoffCounters::add(&handoff.counters().damaged, damage.records());
            log.confirm_damage(&damage);
        }
        Ok(())
    }
}
