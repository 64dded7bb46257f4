//! The end of a run: everything heals, everything must work again, and the checkers judge what was seen.

use cube_storage::StoreError;
use cube_storage::model::NodeId;

use super::checkers::{self, Violation};
use super::client;
use super::cluster::Run;
use super::control::{GUEST_KEYSPACE, GUEST_TABLE, TABLE_ID};
use super::event::Event;

/// What everything that was under way at the heal needs to end, moves included: a page of a copy that was lost is asked for
/// again after ten seconds, several moves may follow one another, and what they leave behind is removed at last.
const SETTLE_MS: u64 = 40_000;
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
        let ids: Vec<NodeId> = self.nodes.keys().copied().collect();
        for id in &ids {
            if let Some(node) = self.nodes.get_mut(id) {
                node.paused_until_us = 0;
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
        schedule.after_ms(SETTLE_MS, Event::WriteEverywhere);
        schedule.after_ms(SETTLE_MS + FINISH_MS, Event::ReadEverywhere);
        schedule.after_ms(SETTLE_MS + 2 * FINISH_MS, Event::Stop);
    }

    /// All that was under way has ended. What was promised is judged, before it is written over; then every node writes
    /// every row, which must succeed.
    pub(super) fn write_everywhere(&mut self) {
        self.check_disks();
        self.check_delivered();
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
        for node in self.nodes.values() {
            self.violations.extend(checkers::acknowledged_is_held(&self.history, node, &self.control.state));
        }
        let (unnoted, by_death) = checkers::missed_is_noted(&self.history, &self.nodes, &self.control.state);
        self.violations.extend(unnoted);
        self.unnoted_by_death += by_death;
    }

    pub(super) fn check_end(&mut self) {
        if !self.violations.is_empty() {
            return;
        }
        self.check_disks();
        self.violations.extend(checkers::quorum_reads(&self.history));
        self.violations.extend(checkers::monotonic_reads(&self.history));
        self.violations.extend(checkers::writes_win_in_order(&self.history));
        self.violations.extend(checkers::nothing_invented(&self.history));
        self.violations.extend(checkers::scanned_once(&self.history));
        self.violations.extend(checkers::expired_stays(&self.history));
        self.violations.extend(checkers::dropped_is_refused(&self.history));
        self.violations.extend(checkers::dropped_is_gone(&self.nodes, self.control.dropped_tables()));
        self.violations.extend(checkers::joined_is_ready(&self.control.state));
        let moves = self.control.moves_under_way();
        self.violations.extend(checkers::nothing_is_left(&self.nodes, &self.control.state));
        self.violations.extend(checkers::all_in_sync(&self.nodes, &self.control.state));
        self.violations.extend(checkers::liveness(&self.history, self.lively_from_us, self.nodes.len(), moves));
    }
}
