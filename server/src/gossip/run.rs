//! The loop of gossip: publishes this node's report, takes in what the protocol knows, asks seeds again, and starts the
//! protocol anew should it fail.
//!
//! Invariant: bits, peers and hooks change together, under the lock of the hooks, so that who registers a hook misses
//! nothing and hears nothing in the wrong order.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use chitchat::transport::Transport;
use chitchat::{Chitchat, ChitchatConfig, ChitchatHandle, ChitchatId, NodeState, ProtocolVersion, spawn_chitchat};
use cube_storage::model::NodeId;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tokio::time::MissedTickBehavior;

use super::report::LEFT;
use super::view::{Changes, Instance, Sighting, View};
use super::wire::Wire;
use super::{GossipError, GossipSettings, INCARNATION_BITS, OwnFn, OwnReport, Shared, seeds};

/// Before the protocol is started anew: the socket may need a moment, and a crash must not become a busy loop.
const RESTART_AFTER: Duration = Duration::from_secs(1);

/// How often a leaving node looks whether its peers know, and how many of those that do not it asks each time.
const FAREWELL_INTERVAL: Duration = Duration::from_millis(50);
const FAREWELL_ASKED_MAX: usize = 16;

/// Names that are being resolved, at most.
const RESOLVED_MAX: usize = 16;

/// No keys are ever deleted, so this bounds nothing; it has to be something.
const DELETED_KEYS_KEPT: Duration = Duration::from_secs(3_600);

/// What was decoded of an instance, at which version of its state.
struct Decoded {
    version: u64,
    name: Arc<str>,
    report: Arc<OwnReport>,
}

pub(super) struct Runner {
    settings: GossipSettings,
    own: OwnFn,
    shared: Arc<Shared>,
    wire: Wire,
    listen: SocketAddr,
    address: SocketAddr,
    incarnation: u64,
    left: bool,
    view: View,
    decoded: HashMap<ChitchatId, Decoded>,
    published_ms: Option<u64>,
    seeds_asked_ms: Option<u64>,
    seed_round: u64,
}

impl Runner {
    pub(super) async fn open(
        settings: GossipSettings,
        own: OwnFn,
        under: Arc<dyn Transport>,
        shared: Arc<Shared>,
    ) -> Result<Self, GossipError> {
        let bind = |error: anyhow::Error| GossipError::Bind { address: settings.listen, reason: format!("{error:#}") };
        let socket = under.open(settings.listen).await.map_err(bind)?;
        let listen = socket.local_addr().map_err(bind)?;
        let mut address = settings.advertise;
        if address.port() == 0 {
            address.set_port(listen.port());
        }
        let me = Instance { node: settings.me, generation: settings.generation, incarnation: 0, address };
        let view = View::new(me, settings.timing.clone(), settings.clock.monotonic_ms());
        let wire = Wire { under, opened: Mutex::new(Some(socket)), state: Arc::clone(&shared.wire) };
        Ok(Self {
            settings,
            own,
            shared,
            wire,
            listen,
            address,
            incarnation: 0,
            left: false,
            view,
            decoded: HashMap::new(),
            published_ms: None,
            seeds_asked_ms: None,
            seed_round: 0,
        })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Runs until it is cancelled.
    pub(super) async fn run(mut self, mut leaving: mpsc::Receiver<oneshot::Sender<()>>) {
        loop {
            let reason = self.live(&mut leaving).await;
            self.shared.wire.counters.restarts.fetch_add(1, Ordering::Relaxed);
            tracing::error!(address = %self.listen, reason, "gossip failed and is started anew");
            // Under its old identity this node's heartbeats would start below those that the others know.
            self.incarnation += 1;
            tokio::time::sleep(RESTART_AFTER).await;
        }
    }

    /// Runs the protocol until it fails; says why.
    async fn live(&mut self, leaving: &mut mpsc::Receiver<oneshot::Sender<()>>) -> String {
        let values = self.own_values().into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        let handle = match spawn_chitchat(self.config(), values, &self.wire).await {
            Ok(handle) => handle,
            Err(error) => return format!("{error:#}"),
        };
        let mut ended = pin!(handle.termination_watcher());
        let mut live_changes = handle.chitchat().lock().await.live_nodes_watcher();
        let (resolved, mut answers) = mpsc::channel(RESOLVED_MAX);
        let mut tick = tokio::time::interval(self.settings.timing.interval());
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                result = &mut ended => {
                    return result.err().map_or("it ended without a reason".into(), |error| format!("{error:#}"));
                }
                Some(done) = leaving.recv() => {
                    self.say_farewell(&handle).await;
                    // Whoever asked may have given up waiting.
                    let _ = done.send(());
                }
                Some(addresses) = answers.recv() => self.ask(&handle, addresses),
                Ok(()) = live_changes.changed() => self.refresh(&handle).await,
                _ = tick.tick() => {
                    self.refresh(&handle).await;
                    self.publish(&handle).await;
                    self.ask_seeds(&handle, &resolved);
                }
            }
        }
    }

    fn config(&self) -> ChitchatConfig {
        let GossipSettings { cluster, me, generation, timing, .. } = &self.settings;
        // With the cluster in the id, a state that strayed here from another cluster is not taken for one of ours.
        let id = format!("{cluster}/{}", me.0);
        let generation = generation << INCARNATION_BITS | self.incarnation;
        ChitchatConfig {
            chitchat_id: ChitchatId::new(id, generation, self.address),
            cluster_id: cluster.to_string(),
            gossip_interval: timing.interval(),
            listen_addr: self.listen,
            seed_nodes: Vec::new(),
            failure_detector_config: timing.detector(),
            marked_for_deletion_grace_period: DELETED_KEYS_KEPT,
            catchup_callback: None,
            extra_liveness_predicate: None,
            protocol_version: ProtocolVersion::V1,
        }
    }

    fn own_values(&self) -> Vec<(&'static str, String)> {
        let mut values = (self.own)().encode(&self.settings.name);
        if self.left {
            values.push((LEFT, "1".to_owned()));
        }
        values
    }

    async fn publish(&mut self, handle: &ChitchatHandle) {
        let now_ms = self.settings.clock.monotonic_ms();
        if !is_due(&mut self.published_ms, now_ms, self.settings.timing.publish_interval_ms) {
            return;
        }
        let values = self.own_values();
        let chitchat = handle.chitchat();
        let mut chitchat = chitchat.lock().await;
        values.into_iter().for_each(|(key, value)| chitchat.self_node_state().set(key, value));
    }

    fn ask_seeds(&mut self, handle: &ChitchatHandle, resolved: &mpsc::Sender<Vec<SocketAddr>>) {
        let now_ms = self.settings.clock.monotonic_ms();
        if !is_due(&mut self.seeds_asked_ms, now_ms, self.settings.timing.seed_interval_ms) {
            return;
        }
        let peers = self.view.peers();
        let found: BTreeSet<NodeId> = self.view.alive();
        let alive = peers.iter().filter(|peer| found.contains(&peer.node)).map(|peer| peer.address).collect();
        let lost = peers.iter().filter(|peer| !found.contains(&peer.node) && !peer.left).map(|peer| peer.address);
        let seeds = self.shared.seeds.lock().clone();
        let asked = seeds::to_ask(self.seed_round, &seeds, &lost.collect(), &alive, self.address);
        self.seed_round += 1;
        self.ask(handle, asked.addresses);
        for name in asked.names {
            // With so many names unanswered, asking for more would not help.
            let Ok(place) = resolved.clone().try_reserve_owned() else { return };
            tokio::spawn(async move { place.send(seeds::resolve(name).await) });
        }
    }

    fn ask(&self, handle: &ChitchatHandle, addresses: Vec<SocketAddr>) {
        for address in addresses.into_iter().filter(|address| *address != self.address) {
            // Refused only when the protocol has ended, which the loop notices by itself.
            let _ = handle.gossip(address);
        }
    }

    /// Says that this node is going, and waits, but not for long, until the others know.
    async fn say_farewell(&mut self, handle: &ChitchatHandle) {
        self.left = true;
        handle.with_chitchat(|chitchat| chitchat.self_node_state().set(LEFT, "1")).await;
        self.shared.wire.count_answers();
        let until_ms = self.settings.clock.monotonic_ms().saturating_add(self.settings.timing.farewell_ms);
        loop {
            let found = self.view.alive();
            let peers = self.view.peers().into_iter().filter(|peer| found.contains(&peer.node));
            let unknowing = peers.map(|peer| peer.address).filter(|address| !self.shared.wire.knows(*address));
            let unknowing: Vec<SocketAddr> = unknowing.take(FAREWELL_ASKED_MAX).collect();
            if unknowing.is_empty() || self.settings.clock.monotonic_ms() >= until_ms {
                return;
            }
            self.ask(handle, unknowing);
            tokio::time::sleep(FAREWELL_INTERVAL).await;
            self.refresh(handle).await;
        }
    }

    async fn refresh(&mut self, handle: &ChitchatHandle) {
        let sightings = {
            let chitchat = handle.chitchat();
            let chitchat = chitchat.lock().await;
            self.sightings(&chitchat)
        };
        let changes = self.view.update(self.settings.clock.monotonic_ms(), &sightings);
        self.tell(&changes);
    }

    fn sightings(&mut self, chitchat: &Chitchat) -> Vec<Sighting> {
        let mut decoded = HashMap::with_capacity(self.decoded.len());
        let live: BTreeSet<&ChitchatId> = chitchat.live_nodes().collect();
        let mut sightings = Vec::with_capacity(live.len());
        for (id, state) in chitchat.node_states() {
            if id == chitchat.self_chitchat_id() {
                continue;
            }
            let Some(instance) = self.instance(id) else { continue };
            let known = self.decoded.remove(id).filter(|known| known.version == state.max_version());
            let known = known.unwrap_or_else(|| decode(state));
            sightings.push(Sighting {
                instance,
                live: live.contains(id),
                left: state.contains_key(LEFT),
                name: Arc::clone(&known.name),
                report: Arc::clone(&known.report),
            });
            decoded.insert(id.clone(), known);
        }
        self.decoded = decoded;
        sightings
    }

    /// The instance behind an id, unless it is of another cluster.
    fn instance(&self, id: &ChitchatId) -> Option<Instance> {
        let (cluster, node) = id.node_id.split_once('/')?;
        (cluster == self.settings.cluster.to_string()).then_some(())?;
        Some(Instance {
            node: NodeId(node.parse().ok()?),
            generation: id.generation_id >> INCARNATION_BITS,
            incarnation: id.generation_id & ((1 << INCARNATION_BITS) - 1),
            address: id.gossip_advertise_addr,
        })
    }

    fn tell(&self, changes: &Changes) {
        let peers = self.view.peers();
        for (node, alive) in &changes.found {
            let peer = peers.iter().find(|peer| peer.node == *node);
            let name = peer.map_or("", |peer| peer.name.as_str());
            let address = peer.map(|peer| tracing::field::display(peer.address));
            match (alive, peer.is_some_and(|peer| peer.left)) {
                (true, _) => tracing::info!(%node, name, address, "node is alive"),
                (false, true) => tracing::info!(%node, name, address, "node has left"),
                (false, false) => tracing::warn!(%node, name, address, "node is DOWN: it is not heard any more"),
            }
        }
        for conflict in &changes.conflicts {
            tracing::error!(
                node = %conflict.node,
                instances = ?conflict.instances,
                "two processes live under one node id (generation, address): stop the one that runs on a copied data \
                 directory and wipe it"
            );
        }
        let hooks = self.shared.hooks.lock();
        self.shared.alive.publish(peers.iter().map(|peer| (peer.node, peer.alive)), self.view.presumes());
        self.shared.peers.store(Arc::new(peers));
        self.shared.conflicts.store(Arc::new(self.view.conflicts()));
        let alive = self.view.alive();
        self.shared.alive_changes.send_if_modified(|told| {
            let changed = **told != alive;
            if changed {
                *told = Arc::new(alive);
            }
            changed
        });
        for (node, alive) in &changes.found {
            hooks.iter().for_each(|hook| hook(*node, *alive));
        }
    }
}

fn decode(state: &NodeState) -> Decoded {
    let gossip = state.chitchat_id().gossip_advertise_addr.to_string();
    let (name, report) = OwnReport::decode(gossip, |key| state.get(key));
    Decoded { version: state.max_version(), name: name.into(), report: Arc::new(report) }
}

fn is_due(last_ms: &mut Option<u64>, now_ms: u64, interval_ms: u64) -> bool {
    let is_due = last_ms.is_none_or(|last_ms| now_ms.saturating_sub(last_ms) >= interval_ms);
    if is_due {
        *last_ms = Some(now_ms);
    }
    is_due
}
