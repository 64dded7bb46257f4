//! The end of a run: everything heals, everything must work again, and the checkers judge what was seen.

use cube_storage::StoreError;
use cube_storage::model::NodeId;

use super::checkers::{self, Violation};
use super::client;
use super::cluster::Run;
use super::control::{GUEST_KEYSPACE, GUEST_TABLE, TABLE_ID};
use super::convergence;
use super::event::Event;

/// What everything that was under way at the heal needs to end, moves included: a page of a copy that was lost is asked for
/// again after ten seconds, several moves may follow one another, and what they leave behind is removed at last.
const SETTLE_MS: u64 = 40_000;
/// How often it is looked whether that is so already.
const LOOK_MS: u64 = 500;
/// How much later it is all of a sudden: later than any clock was off, and than any value ends.
const LATE_MS: u64 = 1_800_000;
/// What purging needs then.
const BURY_MS: u64 = 20_000;
/// What the last operations need.
const FINISH_MS: u64 = 2_000;

impl Run {
    /// All faults end; moves are to complete.
    pub(super) fn heal(&mut self) {
        let schedule = self.schedule.clone();
        self.control.hurry();
        self.network.change_weather(|weather| {
            weather.cut.clear();
            (weather.loss_percent, weather.double_percent, weather.spike_us_max) = (0, 0, 0);
        });
        self.settle_the_dead();
        let ids: Vec<NodeId> = self.nodes.keys().copied().collect();
        for id in &ids {
            if let Some(node) = self.nodes.get_mut(id) {
                node.deaf_until_us = 0;
                node.files.set_capacity(None);
            }
            self.start(*id);
            // What is damaged is found some time, by whoever looks through the rows.
            if let Some(process) = self.nodes.get(id).and_then(|node| node.process.as_ref()) {
                let _found = process.store.headers(TABLE_ID, &client::all_keys());
                process.following.bell.ring();
            }
            schedule.after_ms(1, Event::Learn { node: *id, news: self.control.news() });
            self.tell_others(*id);
        }
        self.purged_early = self.history.purged.count();
        self.patient_until_us = schedule.now_us() + 1_000 * SETTLE_MS;
        schedule.after_ms(LOOK_MS, Event::Settle);
    }

    /// Goes on as soon as all that was under way has ended, or should have.
    pub(super) fn settle(&mut self) {
        let schedule = self.schedule.clone();
        if schedule.now_us() < self.patient_until_us && !self.has_settled() {
            return schedule.after_ms(LOOK_MS, Event::Settle);
        }
        schedule.after_ms(0, Event::WriteEverywhere);
        schedule.after_ms(FINISH_MS, Event::ReadEverywhere);
        schedule.after_ms(2 * FINISH_MS, Event::GrowLate);
    }

    fn has_settled(&self) -> bool {
        let (nodes, state) = (&self.nodes, &self.control.state);
        let newest = self.control.news().number;
        self.control.is_at_goal()
            && nodes.values().all(|node| node.is_dead || node.known.number == newest)
            && self.leavers_are_gone().is_empty()
            && self.hints_left().is_empty()
            && checkers::all_in_sync(nodes, state).is_empty()
            && checkers::joined_is_ready(state).is_empty()
            && checkers::nothing_is_left(nodes, state).is_empty()
            && checkers::dropped_is_gone(nodes, self.control.dropped_tables()).is_empty()
            && convergence::all_equal(nodes, state, true).is_empty()
    }

    /// What replicas hold is judged once more; then time is over for everything that is to go.
    pub(super) fn grow_late(&mut self) {
        self.violations.extend(convergence::nothing_rises(&self.history, &self.nodes, &self.control.state));
        let latest_ms = self.nodes.values().filter_map(|node| node.process.as_ref());
        let latest_ms = latest_ms.map(|process| process.clock.peek().millis()).max().unwrap_or_default();
        self.nodes.values().for_each(|node| node.clock.set_wall_ms(latest_ms + LATE_MS));
        self.patient_until_us = self.schedule.now_us() + 1_000 * BURY_MS;
        self.schedule.after_ms(LOOK_MS, Event::Bury);
    }

    /// Ends the run as soon as the dead are gone, or should be.
    pub(super) fn bury(&mut self) {
        let (nodes, state) = (&self.nodes, &self.control.state);
        let is_over = convergence::nothing_dead_is_left(nodes, state).is_empty()
            && convergence::all_equal(nodes, state, false).is_empty();
        let ends = is_over || self.schedule.now_us() >= self.patient_until_us;
        self.schedule.after_ms(LOOK_MS, if ends { Event::Stop } else { Event::Bury });
    }

    /// All that was under way has ended. What was promised is judged, before it is written over; then every node writes
    /// every row, which must succeed.
    pub(super) fn write_everywhere(&mut self) {
        self.check_disks();
        self.check_delivered();
        self.violations.extend(convergence::all_equal(&self.nodes, &self.control.state, true));
        self.lively_from_us = self.schedule.now_us();
        let is_gone = self.control.state.schema.find(GUEST_KEYSPACE, GUEST_TABLE).is_err();
        for (client, node) in self.nodes.values().enumerate() {
            client::write_all(client, node, &self.schedule, &mut self.history, &self.mailbox, is_gone);
        }
    }

    /// Every row is read by quorum through every node, which must succeed too.
    pub(super) fn read_everywhere(&mut self) {
        for (client, node) in self.nodes.values().enumerate() {
            client::read_all(client, node, &self.schedule, &self.mailbox);
        }
    }

    pub(super) fn must(&mut self, result: Result<(), StoreError>) {
        if let Err(error) = result {
            self.violations.push(Violation::Setup(error.to_string()));
        }
    }

    pub(super) fn check_acknowledged(&mut self, id: NodeId) {
        if let Some(node) = self.nodes.get(&id) {
            self.violations.extend(checkers::acknowledged_is_held(&self.history, node, &self.control.state));
        }
    }

    /// What disks hold of what was acknowledged.
    fn check_disks(&mut self) {
        self.check_batches_on(None);
        for node in self.nodes.values() {
            self.violations.extend(checkers::acknowledged_is_held(&self.history, node, &self.control.state));
        }
        self.violations.extend(convergence::nothing_rises(&self.history, &self.nodes, &self.control.state));
    }

    /// What clients saw, be it that something else ended the run.
    pub(super) fn check_history(&mut self) {
        let history = &self.history;
        let judged = [
            checkers::quorum_reads(history),
            checkers::monotonic_reads(history),
            checkers::writes_win_in_order(history),
            checkers::nothing_invented(history),
            checkers::scanned_once(history),
            checkers::expired_stays(history),
            checkers::dropped_is_refused(history),
            convergence::nothing_rose(history),
        ];
        self.violations.extend(judged.into_iter().flatten());
    }

    /// What must hold when all is over.
    pub(super) fn check_end(&mut self) {
        if !self.violations.is_empty() {
            return;
        }
        self.check_disks();
        let (nodes, state) = (&self.nodes, &self.control.state);
        self.violations.extend(checkers::dropped_is_gone(nodes, self.control.dropped_tables()));
        self.violations.extend(checkers::joined_is_ready(state));
        self.violations.extend(self.leavers_are_gone());
        self.violations.extend(convergence::nothing_dead_is_left(nodes, state));
        self.violations.extend(convergence::all_equal(nodes, state, false));
        self.violations.extend(checkers::nothing_is_left(nodes, state));
        self.violations.extend(checkers::all_in_sync(nodes, state));
        self.violations.extend(checkers::moves_complete(self.control.moves_under_way()));
        self.violations.extend(checkers::liveness(&self.history, self.lively_from_us, self.present().len()));
        // At last: a replica in which this finds damage is not in sync any more.
        self.violations.extend(convergence::trees_are_true(nodes));
    }
}
