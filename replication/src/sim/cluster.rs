//! A run: nodes, clients, faults and the hard state, moved on by one event after another.

use std::collections::BTreeMap;
use std::sync::Arc;

use cube_storage::Store;
use cube_storage::model::NodeId;
use xxhash_rust::xxh3::xxh3_64;

use super::batches::Batch;
use super::checkers::{self, Violation};
use super::client::{self, Mailbox};
use super::control::{Control, News, written_to};
use super::event::Event;
use super::faults::{self, FaultKind};
use super::history::History;
use super::mutants::{Mutant, SpoiledReplica};
use super::network::{RequestId, SimNetwork};
use super::node::SimNode;
use super::noted::Cases;
use super::report::{Messages, Options, Repaired, Report};
use super::strike::FLAP_MS;
use super::time::{Schedule, SimClock};
use crate::codec::CodecError;
use crate::transport::PeerError;

/// A request's time, and the longest that a node stands still, several times over.
const OVERDUE_MS: u64 = 15_000;
pub(super) const TICK_MS: u64 = 10;
pub(super) const CLIENTS: usize = 5;
/// How long a client rests between two operations.
const REST_US_MAX: u64 = 20_000;
const REST_IN_LULL_US_MAX: u64 = 500_000;

/// An operation that a client waits for.
#[derive(Clone, Copy)]
pub(super) struct Waiting {
    operation: u64,
    pub(super) node: NodeId,
}

pub(super) struct Run {
    pub(super) options: Options,
    pub(super) schedule: Schedule,
    pub(super) network: SimNetwork,
    pub(super) nodes: BTreeMap<NodeId, SimNode>,
    pub(super) control: Control,
    pub(super) history: History,
    pub(super) mailbox: Mailbox,
    /// What each client waits for.
    pub(super) waiting: Vec<Option<Waiting>>,
    pub(super) faults: BTreeMap<FaultKind, u64>,
    pub(super) faults_left: u64,
    pub(super) begun: u64,
    pub(super) healed: bool,
    /// Until when little happens.
    pub(super) lull_until_us: u64,
    /// When what is looked for at the end must be so.
    pub(super) patient_until_us: u64,
    pub(super) trace: u64,
    pub(super) events: u64,
    /// Since when everything must succeed.
    pub(super) lively_from_us: u64,
    /// Rows purged before the heal.
    pub(super) purged_early: u64,
    pub(super) violations: Vec<Violation>,
    /// Batches that replicas took.
    pub(super) batches: Vec<Batch>,
    /// Acknowledged writes that some replica is not known to hold.
    pub(super) cases: Cases,
}

/// Runs a seed to its end.
pub fn run(options: Options) -> Report {
    match Run::new(options) {
        Ok(run) => run.finish(),
        Err(error) => Report {
            seed: options.seed,
            trace: 0,
            interleaving: 0,
            events: 0,
            operations: 0,
            outcomes: BTreeMap::new(),
            faults: BTreeMap::new(),
            messages: Messages::default(),
            moves: (0, 0, 0),
            unnoted_by_death: 0,
            purged: (0, 0),
            repaired: Repaired::default(),
            nowhere: 0,
            excused: BTreeMap::new(),
            violations: vec![Violation::Setup(error)],
        },
    }
}

impl Run {
    fn new(options: Options) -> Result<Self, String> {
        let schedule = Schedule::new(options.seed);
        let nodes = u16::try_from(schedule.pick(3, 7)).unwrap_or(3);
        let replicas = schedule.one_of(&[1, 3, 3, 3, 5]).unwrap_or(3);
        let data_centers = if nodes > 3 && schedule.chance(40) { 2 } else { 1 };
        let control = Control::new(nodes, data_centers, replicas).map_err(|error| format!("{error:?}"))?;
        let network = SimNetwork::new(schedule.clone(), options.mutant);
        let mut run = Self {
            network,
            nodes: BTreeMap::new(),
            history: History::default(),
            mailbox: Mailbox::default(),
            waiting: vec![None; CLIENTS],
            faults: BTreeMap::new(),
            faults_left: options.faults,
            begun: 0,
            healed: false,
            lull_until_us: 0,
            patient_until_us: 0,
            trace: 0,
            events: 0,
            lively_from_us: 0,
            purged_early: 0,
            violations: Vec::new(),
            batches: Vec::new(),
            cases: Cases::default(),
            control,
            schedule,
            options,
        };
        for id in (0..nodes).map(NodeId) {
            let (skew_ms, drift_ppm) = (faults::skew_ms(&run.schedule), faults::drift_ppm(&run.schedule));
            let clock = SimClock::new(run.schedule.clone(), skew_ms, drift_ppm);
            run.nodes.insert(id, SimNode::new(id, clock, run.control.news(), run.history.purged.clone()));
            run.start(id);
        }
        if run.options.mutant == Some(Mutant::PlacedTooEarly) {
            run.control.place_too_early();
        }
        (0..CLIENTS).for_each(|client| run.schedule.after_ms(1, Event::Client(client)));
        run.schedule.after_ms(run.schedule.pick(5, 100), Event::NextFault);
        Ok(run)
    }

    fn finish(mut self) -> Report {
        while let Some(event) = self.schedule.next() {
            if matches!(event, Event::Stop) || !self.violations.is_empty() {
                break;
            }
            self.note_event(&event);
            self.history.note_order(&event);
            let epoch = self.control.state.topology.epoch();
            self.happen(event.clone());
            if self.control.state.topology.epoch() != epoch {
                self.network.learn(&self.control.state);
                self.tell_maps();
            }
            self.after_event();
            self.check_cases(&event);
        }
        self.check_history();
        self.check_end();
        for node in self.nodes.values_mut() {
            node.crash(&self.network, false, 0);
        }
        Report {
            seed: self.options.seed,
            trace: self.trace,
            interleaving: self.history.order,
            events: self.events,
            operations: self.begun,
            outcomes: self.history.outcomes,
            faults: self.faults,
            messages: self.network.toll(),
            moves: {
                let moves = self.control.moves();
                (moves.begun, moves.done, moves.aborted)
            },
            unnoted_by_death: self.cases.died,
            purged: (self.purged_early, self.history.purged.count()),
            repaired: self.nodes.values().fold(Repaired::default(), |all, node| all.and(node.repaired)),
            nowhere: self.cases.nowhere,
            excused: self.cases.excused,
            violations: self.violations,
        }
    }

    fn note_event(&mut self, event: &Event) {
        let mut text = format!("{} ", self.schedule.now_us());
        event.describe(&mut text);
        if self.options.trace {
            eprintln!("{text}");
            self.tell_event(event);
        }
        self.events += 1;
        self.trace = xxh3_64(&[&self.trace.to_be_bytes(), text.as_bytes()].concat());
    }

    pub(super) fn happen(&mut self, event: Event) {
        if let Some(node) = event.node().and_then(|node| self.nodes.get(&node)) {
            let now_us = self.schedule.now_us();
            if node.paused_until_us > now_us {
                return self.schedule.after_us(node.paused_until_us - now_us, event);
            }
        }
        match event {
            Event::Deliver { to, id, bytes } => self.deliver(to, id, &bytes),
            Event::DeliverReply { id, bytes, .. } => self.deliver_reply(id, &bytes),
            Event::RequestTimeout(id) => self.end_request(id, |peer| PeerError::TimedOut { peer }),
            Event::RequestUnreachable(id) => self.end_request(id, |peer| PeerError::Unreachable { peer }),
            Event::Commit { node, life } => self.commit(node, life),
            Event::Tick { node, life } => self.tick(node, life),
            Event::SyncHints { node, life } => self.with_life(node, life, |process| process.hints.flush()),
            Event::Learn { node, news } => self.learn(node, news),
            Event::Follow { node, life } => self.follow(node, life),
            Event::Report(reports) => self.control.on_reports(&self.schedule, &reports),
            Event::ReportLeaving(report) => self.control.on_leaving(&self.schedule, report),
            Event::Drive => {
                self.control.drive(&self.schedule);
                self.violations.extend(checkers::placed_on_arrived(&self.control.state));
            }
            Event::Client(client) => self.client(client),
            Event::Overdue { client, operation } => self.check_told(client, operation),
            Event::NextFault => self.next_fault(),
            Event::Restart(node) => self.start(node),
            Event::Remove { node, back_ms } => self.remove(node, back_ms),
            Event::ComeBack(node) => self.come_back(node),
            Event::Arrive(node) => self.arrive(node),
            Event::Die(node) => {
                if !self.healed {
                    self.crash(node, FLAP_MS);
                }
            }
            Event::Observe { by, of } => {
                let alive = self.nodes.get(&of).is_some_and(SimNode::is_up);
                self.believe(by, of, alive);
            }
            Event::Believe { by, of, alive } => self.believe(by, of, alive),
            Event::DiskRoom(node) => {
                if let Some(node) = self.nodes.get(&node) {
                    node.files.set_capacity(None);
                }
            }
            Event::EndCut(links) => {
                self.network.change_weather(|weather| weather.cut.retain(|link| !links.contains(link)))
            }
            Event::EndLoss => self.network.change_weather(|weather| weather.loss_percent = 0),
            Event::EndDelay => self.network.change_weather(|weather| weather.spike_us_max = 0),
            Event::EndDoubling => self.network.change_weather(|weather| weather.double_percent = 0),
            Event::Heal => self.heal(),
            Event::Settle => self.settle(),
            Event::GrowLate => self.grow_late(),
            Event::Bury => self.bury(),
            Event::WriteEverywhere => self.write_everywhere(),
            Event::ReadEverywhere => self.read_everywhere(),
            Event::Stop => {}
        }
    }

    /// What follows from any event: commits of what was queued, and clients that were told something.
    fn after_event(&mut self) {
        for (id, node) in &mut self.nodes {
            let Some(process) = &mut node.process else { continue };
            if !process.commit_scheduled && process.store.queue_depth().1 > 0 {
                process.commit_scheduled = true;
                let delay_us = self.schedule.pick(100, 8_000);
                self.schedule.after_us(delay_us, Event::Commit { node: *id, life: process.life });
            }
        }
        self.check_taken();
        self.check_batches();
        let now_us = self.schedule.now_us();
        self.nodes.values_mut().for_each(|node| node.note_damage_found(now_us));
        let told = std::mem::take(&mut *self.mailbox.lock());
        let is_told = !told.is_empty();
        for (client, told) in told {
            let ended = told.writes();
            client::note(&mut self.history, self.schedule.now_us(), client, told);
            ended.iter().for_each(|write| self.tell_ended(*write));
            self.go_on(client);
        }
        if is_told {
            self.open_cases();
        }
    }

    /// A client that waits for nothing begins its next operation after a moment.
    pub(super) fn go_on(&mut self, client: usize) {
        let Some(waiting) = self.waiting.get_mut(client) else { return };
        if waiting.take().is_some() && !self.healed {
            let is_lull = self.schedule.now_us() < self.lull_until_us;
            let rest_us_max = if is_lull { REST_IN_LULL_US_MAX } else { REST_US_MAX };
            self.schedule.after_us(self.schedule.pick(100, rest_us_max), Event::Client(client));
        }
    }

    /// Who took a hint is a replica of its row by the map that it works by.
    fn check_taken(&mut self) {
        for (taker, token) in self.network.take_hints_taken() {
            let Some(process) = self.nodes.get(&taker).and_then(|node| node.process.as_ref()) else { continue };
            let partition = process.store.bits().partition_of(token);
            if !written_to(&process.catalog.current(), partition).contains(&taker) {
                let detail = format!("{taker} took a row of {partition} at {} us", self.schedule.now_us());
                self.violations.push(Violation::TakenByFormer(detail));
            }
        }
    }

    fn with_life(&self, node: NodeId, life: u64, act: impl FnOnce(&super::node::Process)) {
        let process = self.nodes.get(&node).and_then(|node| node.process.as_ref());
        if let Some(process) = process.filter(|process| process.life == life) {
            act(process);
        }
    }

    fn deliver(&mut self, to: NodeId, id: RequestId, bytes: &[u8]) {
        let Some(process) = self.nodes.get(&to).and_then(|node| node.process.as_ref()) else {
            return self.schedule.after_us(100, Event::RequestUnreachable(id));
        };
        let service = SpoiledReplica { node: to, replica: &process.replica, mutant: self.options.mutant };
        let delivered = self.network.deliver((to, process.life), id, bytes, &service);
        self.must_decode(delivered);
    }

    fn deliver_reply(&mut self, id: RequestId, bytes: &[u8]) {
        let delivered = self.network.deliver_reply(id, bytes);
        self.must_decode(delivered);
    }

    fn must_decode(&mut self, delivered: Result<(), CodecError>) {
        if let Err(error) = delivered {
            self.violations.push(Violation::Undecodable(error.to_string()));
        }
    }

    /// Ends a request, unless who waits for it stands still: then when it goes on.
    fn end_request(&mut self, id: RequestId, error: impl Fn(NodeId) -> PeerError) {
        let Some((sender, peer)) = self.network.ends(id) else { return };
        let now_us = self.schedule.now_us();
        match self.nodes.get(&sender).filter(|node| node.paused_until_us > now_us) {
            Some(node) => self.schedule.after_us(node.paused_until_us - now_us, Event::RequestTimeout(id)),
            None => self.network.fail(id, error(peer)),
        }
    }

    fn commit(&mut self, node: NodeId, life: u64) {
        let Some(process) = self.nodes.get_mut(&node).and_then(|node| node.process.as_mut()) else { return };
        if process.life == life {
            process.commit_scheduled = false;
            let store: Arc<Store> = Arc::clone(&process.store);
            store.run_pending();
        }
    }

    fn tick(&mut self, node: NodeId, life: u64) {
        self.with_life(node, life, |process| {
            if self.options.mutant != Some(Mutant::DeadlineForgotten) {
                process.coordinator.tick();
            }
            process.hints.tick(process.clock.monotonic_ms());
            process.repair.tick(process.clock.monotonic_ms());
            self.schedule.after_ms(TICK_MS, Event::Tick { node, life });
        });
        self.tend_leaving(node);
    }

    /// A node that is down learns when it is back.
    fn learn(&mut self, node: NodeId, news: Arc<News>) {
        let now_us = self.schedule.now_us();
        let Some(node) = self.nodes.get_mut(&node) else { return };
        if node.deaf_until_us > now_us {
            let again = Event::Learn { node: node.id, news };
            return self.schedule.after_us(node.deaf_until_us - now_us, again);
        }
        if node.is_up() {
            node.learn(news, self.options.mutant);
            let id = node.id;
            self.end_if_gone(id);
        }
    }

    /// One that is down says so when it is back.
    fn arrive(&mut self, node: NodeId) {
        if self.options.mutant != Some(Mutant::ArrivalForgotten) && self.nodes.get(&node).is_some_and(SimNode::is_up) {
            self.control.arrive(&self.schedule, node);
        }
    }

    fn follow(&mut self, node: NodeId, life: u64) {
        let Some(node) = self.nodes.get_mut(&node) else { return };
        let followed = node.follow(life, &self.schedule, self.options.mutant);
        self.must(followed);
    }

    fn client(&mut self, client: usize) {
        if self.healed {
            return;
        }
        if self.begun >= self.options.operations && self.faults_left == 0 {
            self.healed = true;
            return self.schedule.after_us(self.standing_still_us(), Event::Heal);
        }
        let now_us = self.schedule.now_us();
        let is_open = |node: &&SimNode| node.process.as_ref().is_some_and(|process| process.is_open(now_us));
        let up: Vec<NodeId> = self.nodes.values().filter(is_open).map(|node| node.id).collect();
        let Some(node) = self.schedule.one_of(&up).and_then(|id| self.nodes.get(&id)) else {
            return self.schedule.after_ms(5, Event::Client(client));
        };
        self.begun += 1;
        if let Some(waiting) = self.waiting.get_mut(client) {
            *waiting = Some(Waiting { operation: self.begun, node: node.id });
        }
        self.schedule.after_ms(OVERDUE_MS, Event::Overdue { client, operation: self.begun });
        let first = self.history.writes.len();
        client::begin(client, (node, &self.control.state), &self.schedule, &mut self.history, &self.mailbox);
        self.tell_begun(first);
    }

    /// Until the last node that stands still goes on. What came for it meanwhile waits as long.
    fn standing_still_us(&self) -> u64 {
        let until_us = self.nodes.values().map(|node| node.paused_until_us).max().unwrap_or(0);
        until_us.saturating_sub(self.schedule.now_us())
    }

    /// Every operation ends, one way or another, unless its coordinator dies.
    fn check_told(&mut self, client: usize, operation: u64) {
        let waiting = self.waiting.get(client).copied().flatten();
        if let Some(waiting) = waiting.filter(|waiting| waiting.operation == operation) {
            let detail = format!("client {client} was never told of operation {operation} through {}", waiting.node);
            self.violations.push(Violation::NeverTold(detail));
        }
    }
}

#[cfg(test)]
mod tests;
