//! Faults as they strike a run, and processes that come and go.

use cube_storage::model::{NodeId, PartitionBits, PartitionId};

use cube_storage::SyncState;

use super::client;
use super::cluster::{CLIENTS, Run, TICK_MS};
use super::control::PLACEMENT;
use super::convergence;
use super::event::Event;
use super::faults::{self, Fault};
use super::hints;
use super::node::{BITS, Process, SimNode};
use super::time::SimClock;
use crate::consistency::Level;
use crate::membership::Membership as _;
use crate::quorum::{State as Count, Tracker};

/// How long a flapping node is down.
pub(super) const FLAP_MS: u64 = 100;
/// Behind so many of a hundred faults nothing goes wrong for a while, and clients do little: replicas become equal, and
/// what is dead may be purged, be it that a node is down.
const LULL_PERCENT: u64 = 12;
/// Nodes of a cluster that has grown.
const NODES_MAX: usize = 7;

impl Run {
    pub(super) fn next_fault(&mut self) {
        if self.healed || self.faults_left == 0 {
            return;
        }
        self.violations.extend(convergence::nothing_rises(&self.history, &self.nodes, &self.control.state));
        let ids = self.present();
        if let Some((kind, fault)) = faults::next(&self.schedule, &ids)
            && self.strike(fault)
        {
            self.faults_left -= 1;
            *self.faults.entry(kind).or_default() += 1;
        }
        if self.schedule.chance(LULL_PERCENT) {
            let lull_ms = self.schedule.pick(1_500, 4_000);
            self.lull_until_us = self.schedule.now_us() + 1_000 * lull_ms;
            return self.schedule.after_ms(lull_ms, Event::NextFault);
        }
        self.schedule.after_ms(self.schedule.pick(20, 250), Event::NextFault);
    }

    /// Whether it changed anything: a node that is down cannot die, and where nothing moves no move is taken back.
    pub(super) fn strike(&mut self, fault: Fault) -> bool {
        self.tell(&format!("{fault:?}"));
        let schedule = self.schedule.clone();
        match fault {
            Fault::Crash { node, down_ms } => return self.crash(node, down_ms),
            Fault::Pause { node, for_ms } => {
                let until_us = schedule.now_us() + for_ms * 1_000;
                let is_longer = |node: &&mut SimNode| node.is_up() && node.paused_until_us < until_us;
                let Some(node) = self.nodes.get_mut(&node).filter(is_longer) else { return false };
                node.paused_until_us = until_us;
            }
            Fault::Cut { links, for_ms } => {
                if links.is_empty() {
                    return false;
                }
                self.network.change_weather(|weather| weather.cut.extend(&links));
                schedule.after_ms(for_ms, Event::EndCut(links));
            }
            Fault::Loss { percent, for_ms } => {
                self.network.change_weather(|weather| weather.loss_percent = percent);
                schedule.after_ms(for_ms, Event::EndLoss);
            }
            Fault::Delay { us_max, for_ms } => {
                self.network.change_weather(|weather| weather.spike_us_max = us_max);
                schedule.after_ms(for_ms, Event::EndDelay);
            }
            Fault::Doubling { percent, for_ms } => {
                self.network.change_weather(|weather| weather.double_percent = percent);
                schedule.after_ms(for_ms, Event::EndDoubling);
            }
            Fault::ClockJump { node, skew_ms } => {
                if let Some(node) = self.nodes.get(&node) {
                    node.clock.set_skew_ms(skew_ms);
                }
            }
            Fault::ClockDrift { node, ppm } => {
                if let Some(node) = self.nodes.get(&node) {
                    node.clock.set_drift_ppm(ppm);
                }
            }
            Fault::FalseSuspicion { by, of, for_ms } => {
                let is_up = |node: NodeId| self.nodes.get(&node).is_some_and(SimNode::is_up);
                if !is_up(by) || !is_up(of) {
                    return false;
                }
                schedule.after_us(0, Event::Believe { by, of, alive: false });
                schedule.after_ms(for_ms, Event::Believe { by, of, alive: true });
            }
            Fault::Reshape { replicas, heavier, weight } => {
                return self.control.reshape(&schedule, replicas, heavier, weight);
            }
            Fault::StaleCoordinator { node, replicas, heavier, weight, for_ms } => {
                if !self.control.reshape(&schedule, replicas, heavier, weight) {
                    return false;
                }
                let Some(node) = self.nodes.get_mut(&node) else { return false };
                node.deaf_until_us = schedule.now_us() + 1_000 * for_ms;
            }
            Fault::HintDamage { node } => {
                let Some(node) = self.nodes.get_mut(&node) else { return false };
                let is_damaged = hints::damage(&node.files, &schedule);
                node.lost_hints_us = is_damaged.then(|| schedule.now_us()).max(node.lost_hints_us);
                return is_damaged;
            }
            Fault::HintDiskFull { node: id, for_ms } => {
                let Some(node) = self.nodes.get(&id).filter(|node| node.is_up()) else { return false };
                node.files.set_capacity(Some(node.files.used_bytes()));
                schedule.after_ms(for_ms, Event::DiskRoom(id));
            }
            Fault::HintSettings { node } => {
                let Some(process) = self.nodes.get(&node).and_then(|node| node.process.as_ref()) else { return false };
                process.hints.handoff().set_settings(hints::others(&schedule));
            }
            Fault::Flapping { node, times } => {
                let mut down_ms = schedule.pick(20, 300);
                if !self.crash(node, down_ms) {
                    return false;
                }
                for _ in 1..times {
                    let up_ms = schedule.pick(20, 300);
                    schedule.after_ms(down_ms + up_ms, Event::Die(node));
                    down_ms += up_ms + FLAP_MS;
                }
            }
            Fault::AbortMoves => return self.control.abort_moves(&schedule),
            Fault::Damage { node, partition } => return self.damage(node, PartitionId(partition)),
            Fault::CopyCrash { down_ms } => {
                let copying = self.nodes.values().find(|node| node.copies());
                let Some(node) = copying.map(|node| node.id) else { return false };
                return self.crash(node, down_ms);
            }
            Fault::CompareCrash { answering, down_ms } => {
                let compares = |node: &SimNode| Some((node.id, node.process.as_ref()?.repair.status().comparing?));
                let Some((asking, asked)) = self.nodes.values().find_map(compares) else { return false };
                return self.crash(if answering { asked } else { asking }, down_ms);
            }
            Fault::Join => return self.join(),
            Fault::Schema => {
                self.control.change_schema(&schedule);
                for table in self.control.dropped_tables() {
                    self.history.dropped_us.entry(table).or_insert_with(|| schedule.now_us());
                }
            }
            Fault::RowDamage { node, row, bit } => return self.damage_row(node, row, bit),
            Fault::Decommission { node } => return self.decommission(node),
            Fault::Remove { node, after_ms, back_ms } => return self.die_for_good(node, after_ms, back_ms),
            Fault::LeaderChange => return self.control.change_leader(&schedule),
        }
        true
    }

    /// A new node joins while there are few, with clocks that are wrong in their own way.
    fn join(&mut self) -> bool {
        if self.present().len() >= NODES_MAX {
            return false;
        }
        let Some(id) = self.control.join(&self.schedule) else { return false };
        let (skew_ms, drift_ppm) = (faults::skew_ms(&self.schedule), faults::drift_ppm(&self.schedule));
        let clock = SimClock::new(self.schedule.clone(), skew_ms, drift_ppm);
        self.nodes.insert(id, SimNode::new(id, clock, self.control.news(), self.history.purged.clone()));
        self.start(id);
        true
    }

    /// A replica loses all that it held of a partition, where the others still hold what was acknowledged: they are in sync,
    /// and a quorum of each data center without it, in the new set too: a move may be past the point of waiting for it.
    fn damage(&mut self, id: NodeId, partition: PartitionId) -> bool {
        let now_us = self.schedule.now_us();
        if !self.others_hold(id, partition) {
            return false;
        }
        let Some(node) = self.nodes.get_mut(&id) else { return false };
        let damaged = node.lose(partition, now_us);
        self.must(damaged);
        true
    }

    /// A bit of a row flips on a replica, where the others still hold it. The replica finds out when it reads the row.
    fn damage_row(&mut self, id: NodeId, row: u64, bit: u64) -> bool {
        let bits = PartitionBits::new(BITS).unwrap_or(PartitionBits::DEFAULT);
        let mut keys = client::all_keys();
        let Some(key) = usize::try_from(row).ok().map(|row| keys.swap_remove(row % keys.len())) else { return false };
        let partition = bits.partition_of(key.token());
        if !self.others_hold(id, partition) {
            return false;
        }
        let mutant = self.options.mutant;
        self.nodes.get_mut(&id).is_some_and(|node| node.flip_row(key, bit, mutant))
    }

    /// Whether a replica may lose what it holds of a partition.
    pub(super) fn others_hold(&self, id: NodeId, partition: PartitionId) -> bool {
        let state = &self.control.state;
        let map = state.topology.placement(PLACEMENT).and_then(|placement| placement.partition(partition));
        let Some(map) = map.filter(|map| map.serving().contains(id)) else { return false };
        let mut others = Tracker::new(Level::EachQuorum, &map.write_sets(), "dc1".into());
        others.fail(id);
        let is_lost = |node: &&SimNode| node.is_dead || self.control.is_removed(node.id);
        self.nodes.values().filter(is_lost).for_each(|node| others.fail(node.id));
        others.state() != Count::Impossible
            && map.serving().nodes().iter().all(|node| {
                let process = self.nodes.get(node).and_then(|node| node.process.as_ref());
                let is_synced = |p: &Process| p.store.partition(PLACEMENT, partition).sync == SyncState::Synced;
                // What is damaged and was not read yet looks as if it were there.
                process.is_some_and(is_synced) && self.nodes.get(node).is_some_and(|node| !node.hides_damage(partition))
            })
    }

    pub(super) fn crash(&mut self, id: NodeId, down_ms: u64) -> bool {
        let (reached_disk, tear) = (self.schedule.chance(30), self.schedule.pick(0, u64::MAX));
        let Some(node) = self.nodes.get_mut(&id).filter(|node| node.is_up()) else { return false };
        node.crash(&self.network, reached_disk, tear);
        self.schedule.after_ms(down_ms, Event::Restart(id));
        self.tell_others(id);
        for client in 0..CLIENTS {
            if self.waiting.get(client).copied().flatten().is_some_and(|waiting| waiting.node == id) {
                self.history.count("connection lost");
                self.go_on(client);
            }
        }
        true
    }

    /// The others hear how a node is, each some time later.
    pub(super) fn tell_others(&self, of: NodeId) {
        for by in self.nodes.keys().copied().filter(|by| *by != of) {
            let lag_ms = self.schedule.pick(20, 400);
            self.schedule.after_ms(lag_ms, Event::Observe { by, of });
        }
    }

    pub(super) fn believe(&mut self, by: NodeId, of: NodeId, alive: bool) {
        match self.nodes.get(&by) {
            Some(node) if alive => node.view.revive(of),
            Some(node) => node.view.kill(of),
            None => {}
        }
        let believer = self.nodes.get(&by).filter(|_| by != of);
        if let Some((view, process)) = believer.and_then(|node| Some((&node.view, node.process.as_ref()?))) {
            process.hints.on_alive(of, view.is_alive(of));
        }
    }

    pub(super) fn start(&mut self, id: NodeId) {
        let Some(node) = self.nodes.get_mut(&id).filter(|node| !node.is_up() && !node.is_dead) else { return };
        let started = node.start(&self.schedule, &self.network, self.options.mutant);
        let life = node.lives;
        node.begin_leaving(self.schedule.now_us());
        self.must(started);
        self.schedule.after_ms(TICK_MS, Event::Tick { node: id, life });
        self.tell_others(id);
        let lag_ms = self.schedule.pick(1, 300);
        self.schedule.after_ms(lag_ms, Event::Learn { node: id, news: self.control.news() });
        if self.control.is_joining(id) {
            self.schedule.after_ms(lag_ms + self.schedule.pick(1, 300), Event::Arrive(id));
        }
        self.check_acknowledged(id);
        self.check_batches_on(Some(id));
    }
}
