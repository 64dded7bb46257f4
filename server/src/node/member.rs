//! The parts of a node that is a member, in the order in which they start and stop.
//!
//! ```text
//! store ── clock ── control (Raft) ── the state that has this member ── adopted: fences and marks, durable
//!   └─ replica ── hints ── transport ── gossip ── coordinator ── worker that follows the state ── doors
//! ```
//!
//! Invariant: nothing is served before the newest state this node holds is adopted, so no request is counted by a map
//! whose demands are not durable here.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use cube_replication::anti_entropy::AntiEntropy;
use cube_replication::anti_entropy::scrub::Scrub;
use cube_replication::catalog::Catalog;
use cube_replication::clock::NodeClock;
use cube_replication::coordinator::{Coordinator, Parts};
use cube_replication::handoff::{HintReplay, HintedHandoff};
use cube_replication::lifecycle::{FOLLOWER, FollowParts, Follower, FollowerProgress, adopt};
use cube_replication::repair::Repairs;
use cube_replication::replica::Replica;
use cube_replication::topology::{Addresses, MemberState};
use cube_replication::trace::Tracer;
use cube_replication::transport::PeerTransport;
use cube_replication::worker::{Backoff, Workers};
use cube_storage::clock::Clock;
use cube_storage::dirty::DirtyMarks;
use cube_storage::space::FileSystemSpace;
use cube_storage::{ApplyWorker, Store};
use parking_lot::Mutex;
use rand::SeedableRng;
use rand_xoshiro::Xoshiro256StarStar;
use tokio::runtime::Handle;

use super::beginning::Beginning;
use super::bell::Bell;
use super::calls::{Drain, Member as Answering, Outgoing, Switchboard};
use super::clock_gate::ClockGate;
use super::gone::Gone;
use super::ground::Ground;
use super::load::LoadMeter;
use super::threads::Threads;
use super::{NodeError, anti_entropy, hints, leaving, opening, repair, seams};
use crate::clock_watch::ClockWatch;
use crate::config::Config;
use crate::control::{Command, Control, HardState};
use crate::edge::Doors;
use crate::forming::Membership;
use crate::gossip::{Gossip, GossipSettings};
use crate::identity::{DataDir, Identity};
use crate::peer::{GrpcTransport, GrpcTransportParts, OnPeer, PeerIdentity, PeerServer, PeerSettings};
use crate::traces::{TraceParts, Traces};

/// The first and the longest wait of a background worker that failed.
const WORKER_BACKOFF_MS: (u64, u64) = (200, 30_000);
/// How long noting what late replicas missed may take when the node stops, and how often it is looked whether it is done.
const NOTED_WITHIN: Duration = Duration::from_secs(2);
const NOTED_LOOK_EVERY: Duration = Duration::from_millis(5);

/// A running member.
pub(super) struct Member {
    pub(super) identity: Identity,
    pub(super) config: Config,
    pub(super) machine: Arc<dyn Clock>,
    pub(super) clock: Arc<NodeClock>,
    pub(super) store: Arc<Store>,
    pub(super) space: Arc<FileSystemSpace>,
    pub(super) control: Arc<Control>,
    pub(super) catalog: Arc<Catalog>,
    pub(super) handoff: Arc<HintedHandoff>,
    pub(super) hint_replay: Arc<HintReplay>,
    pub(super) transport: Arc<GrpcTransport>,
    pub(super) peer_server: PeerServer,
    pub(super) gossip: Arc<Gossip>,
    pub(super) clock_watch: Arc<Mutex<ClockWatch>>,
    pub(super) clock_gate: ClockGate,
    pub(super) coordinator: Arc<Coordinator>,
    pub(super) workers: Arc<Workers>,
    pub(super) work_bell: Arc<Bell>,
    pub(super) copies: FollowerProgress,
    pub(super) load: LoadMeter,
    pub(super) started_at_ms: u64,
    pub(super) anti_entropy: Arc<AntiEntropy>,
    pub(super) scrub: Arc<Scrub>,
    pub(super) repairs: Arc<Repairs>,
    pub(super) traces: Option<Arc<Traces>>,
    pub(super) doors: Arc<Doors>,
    pub(super) drain: Arc<Drain>,
    pub(super) outgoing: Outgoing,
    pub(super) gone: Gone,
    threads: Mutex<Threads>,
    apply: Mutex<Option<ApplyWorker>>,
}

/// What a member is started with.
pub(super) struct Start<'a> {
    pub(super) config: &'a Config,
    pub(super) dir: &'a DataDir,
    pub(super) identity: Identity,
    /// Where others reach it.
    pub(super) addresses: Addresses,
    /// Where others reach its gossip.
    pub(super) advertise: SocketAddr,
    /// Where gossip listens.
    pub(super) gossip: SocketAddr,
    pub(super) switchboard: &'a Arc<Switchboard>,
    pub(super) peer_server: &'a PeerServer,
    pub(super) begin: &'a Beginning,
    pub(super) machine: Arc<dyn Clock>,
}

impl Member {
    /// Starts everything but the doors for clients.
    pub(super) async fn start(start: Start<'_>) -> Result<Arc<Self>, NodeError> {
        let Start { config, dir, identity, addresses, advertise, gossip, switchboard, peer_server, begin, machine } =
            start;
        let outgoing = begin.outgoing.clone();
        let (me, started_at_ms) = (identity.node, machine.wall_ms());
        let space = Arc::new(FileSystemSpace::of(dir.path()));
        let (store, clock, apply) = opening::open_store(config, dir.path(), &identity, &machine, &space).await?;
        let control =
            opening::open_control(config, dir.path(), &identity, &addresses, dir.instance(), outgoing.clone()).await?;
        if let Some(known) = control.current().topology().member(me) {
            begin.check_alone(&identity, &known.addresses.peer).await?;
        }
        let membership =
            Membership { cluster: identity.cluster, node: me, name: identity.name.clone(), instance: dir.instance() };
        let doors = Arc::new(Doors::of(identity.name.clone()));
        let drain = Arc::new(Drain { doors: Arc::clone(&doors), announce: config.timeouts.announce });
        let (answers, drains) = (Arc::clone(&control), Arc::clone(&drain));
        switchboard.is_member(Answering { membership, control: answers, drain: drains });
        leaving::check_member(&control, me).await?;
        let state = opening::state_with(&control, me).await?;

        let adopted = Arc::clone(&state);
        let store_adopts = Arc::clone(&store);
        opening::blocking(move || adopt(&store_adopts, me, &adopted.cluster_state)).await??;
        let catalog = Arc::new(Catalog::new(state.cluster_state.clone()));
        let replica = Arc::new(Replica::new(me, Arc::clone(&store), Arc::clone(&clock)));

        let mut threads = Threads::default();
        let hint_bell = Arc::new(Bell::default());
        let handoff = opening::open_handoff(config, dir.path(), &store, &catalog, &clock, &hint_bell).await?;
        threads.flush(&handoff, &hint_bell)?;

        let clock_watch = Arc::new(Mutex::new(ClockWatch::new()));
        let peer_identity = PeerIdentity::of_this_build(identity.cluster, me, identity.name.clone(), dir.instance());
        let check = seams::check_peer(&control);
        let transport = Arc::new(GrpcTransport::new(GrpcTransportParts {
            identity: peer_identity.clone(),
            check: Arc::clone(&check),
            addresses: Arc::new(seams::KnownAddresses(Arc::clone(&control))),
            clock: Arc::clone(&machine),
            random: Box::new(Xoshiro256StarStar::from_os_rng()),
            on_ping: seams::watch_clocks(&clock_watch, &machine),
            runtime: Handle::current(),
            settings: PeerSettings::default(),
        }));
        // A peer that connects is there: links to it need not wait for their next attempt.
        let met = Arc::downgrade(&transport);
        let met: OnPeer = Arc::new(move |node| {
            if let Some(transport) = met.upgrade() {
                transport.wake(node);
            }
        });
        peer_server.open(crate::peer::Membership { identity: peer_identity, check, serve: replica.clone(), met })?;
        // The others learn at once that this node is back, before gossip tells them.
        for node in state.topology().members().keys().filter(|node| **node != me) {
            transport.wake(*node);
        }

        let vitals = Arc::new(seams::Vitals::default());
        let gossip = Arc::new(Gossip::start(
            GossipSettings {
                cluster: identity.cluster,
                me,
                name: identity.name.clone(),
                generation: dir.generation(),
                listen: gossip,
                advertise,
                seeds: seams::gossip_addresses(&state.cluster_state, me),
                clock: Arc::clone(&machine),
                timing: opening::timing(config),
            },
            vitals.report(),
        )?);
        let woken = Arc::downgrade(&transport);
        gossip.on_change(move |node, alive| {
            if alive && let Some(transport) = woken.upgrade() {
                transport.wake(node);
            }
        });

        let parts = Parts {
            me,
            clock: Arc::clone(&clock),
            catalog: Arc::clone(&catalog),
            membership: Arc::clone(&gossip) as Arc<dyn cube_replication::membership::Membership>,
            transport: Arc::clone(&transport) as Arc<dyn PeerTransport>,
            replica: Arc::clone(&replica),
            hints: Arc::clone(&handoff) as Arc<dyn cube_replication::handoff::HintKeeper>,
        };
        let coordinator = Coordinator::new(parts, config.coordinator());
        threads.tick(Arc::clone(&coordinator), Arc::clone(&clock))?;
        let traces = config.telemetry.traces.endpoint.clone().map(|endpoint| {
            Traces::start(TraceParts {
                endpoint,
                sample: config.telemetry.traces.sample,
                node: identity.name.clone(),
                clock: Arc::clone(&machine),
                random: Box::new(Xoshiro256StarStar::from_os_rng()),
            })
        });
        if let Some(traces) = &traces {
            replica.trace_by(Arc::clone(traces) as Arc<dyn Tracer>);
            coordinator.trace_by(Arc::clone(traces) as Arc<dyn Tracer>);
        }

        let (first_ms, longest_ms) = WORKER_BACKOFF_MS;
        let backoff = Backoff::new(first_ms, longest_ms);
        let workers = Arc::new(Workers::new(backoff, Xoshiro256StarStar::from_os_rng()));
        let work_bell = Arc::new(Bell::default());
        let follower = Follower::new(FollowParts {
            me,
            store: Arc::clone(&store),
            clock: Arc::clone(&clock),
            catalog: Arc::clone(&catalog),
            coordinator: Arc::clone(&coordinator),
            transport: Arc::clone(&transport) as Arc<dyn PeerTransport>,
            newest: seams::newest(&control),
            report: seams::report_to(&control),
            wake: seams::waker(&workers, &clock, &work_bell, FOLLOWER),
        });
        let copies = follower.progress();
        workers.begin(Box::new(follower)).map_err(|error| NodeError::Failed(error.to_string()))?;
        let ground = Ground {
            me,
            handoff: &handoff,
            catalog: &catalog,
            gossip: &gossip,
            transport: &transport,
            replica: &replica,
            clock: &clock,
            workers: &workers,
            bell: &work_bell,
        };
        let hint_replay = hints::start(&ground)?;
        let anti_entropy::Started { anti_entropy, scrub } = anti_entropy::start(&ground, config, &coordinator)?;
        let repairs = repair::start(&ground, &anti_entropy, dir.path()).await?;
        threads.work(&workers, &clock, &work_bell)?;

        let clock_gate = ClockGate::closed(clock.monotonic_ms());
        let member = Arc::new(Self {
            identity,
            config: config.clone(),
            machine,
            clock,
            store,
            space,
            control,
            catalog,
            handoff,
            hint_replay,
            transport,
            peer_server: peer_server.clone(),
            gossip,
            clock_watch,
            clock_gate,
            coordinator,
            workers,
            work_bell,
            copies,
            load: LoadMeter::default(),
            started_at_ms,
            anti_entropy,
            scrub,
            repairs,
            traces,
            drain,
            doors,
            outgoing,
            gone: Gone::default(),
            threads: Mutex::new(threads),
            apply: Mutex::new(Some(apply)),
        });
        vitals.of(&member);
        member.follow_state();
        member.watch_leaving();
        member.tell_arrival(addresses);
        Ok(member)
    }

    /// Wakes the worker, and gives gossip its seeds, whenever the hard state changes.
    fn follow_state(self: &Arc<Self>) {
        let wake = seams::waker(&self.workers, &self.clock, &self.work_bell, FOLLOWER);
        let mut states = self.control.watch();
        let member = Arc::downgrade(self);
        tokio::spawn(async move {
            while states.changed().await.is_ok() {
                let Some(member) = member.upgrade() else { return };
                let state = Arc::clone(&states.borrow_and_update());
                wake();
                member.gossip.set_seeds(seams::gossip_addresses(&state.cluster_state, member.identity.node));
                for (node, other) in state.topology().members() {
                    match other.state {
                        MemberState::Left => member.transport.forget(*node),
                        // Its marks exist before they are needed: a full disk cannot keep a mark from being set.
                        _ if *node != member.identity.node => member.prepare_marks(&other.name),
                        _ => {}
                    }
                }
            }
        });
        // What was there already is looked at too.
        for (node, other) in self.control.current().topology().members() {
            if *node != self.identity.node {
                self.prepare_marks(&other.name);
            }
        }
    }

    fn prepare_marks(&self, name: &str) {
        let made = |marks: Arc<DirtyMarks>| if marks.is_made() { Ok(()) } else { marks.sync() };
        if let Err(error) = self.handoff.marks().target(name).and_then(made) {
            tracing::warn!(%error, name, "the file for dirty marks cannot be made yet: marks are kept in memory until then");
        }
    }

    /// Tells the cluster where this node is reached, and that it is: until then nothing is placed on a newcomer.
    fn tell_arrival(self: &Arc<Self>, addresses: Addresses) {
        const WITHIN: Duration = Duration::from_secs(10);
        let node = self.identity.node;
        let member = Arc::downgrade(self);
        tokio::spawn(async move {
            loop {
                let Some(member) = member.upgrade() else { return };
                let state = member.control.current();
                let Some(known) = state.topology().member(node) else { return };
                let command = if known.addresses != addresses {
                    Command::SetAddresses { node, addresses: addresses.clone() }
                } else if known.state == MemberState::Joining {
                    Command::SetMemberState { node, state: MemberState::Warming }
                } else {
                    return;
                };
                if let Err(error) = member.control.propose(command, WITHIN).await {
                    tracing::warn!(%error, "the cluster was not told that this node is here");
                }
                member.knows_another(&state).await;
            }
        });
    }

    /// Waits for a state after this one: what was agreed on reaches this node a little later than the answer.
    async fn knows_another(&self, known: &Arc<HardState>) {
        const WITHIN: Duration = Duration::from_secs(1);
        let mut states = self.control.watch();
        let _unchanged = tokio::time::timeout(WITHIN, states.wait_for(|state| !Arc::ptr_eq(state, known))).await;
    }

    /// Ends everything, in the order in which it leans on each other. Requests have ended before, and the others know.
    pub(super) async fn stop(self: &Arc<Self>) {
        self.workers.drain(self.clock.monotonic_ms());
        self.transport.close();
        // What waited for a late replica fails with that, and is noted below: not to have waited for it is no death.
        let ended = async {
            while self.coordinator.under_way() > 0 {
                tokio::time::sleep(NOTED_LOOK_EVERY).await;
            }
        };
        if tokio::time::timeout(NOTED_WITHIN, ended).await.is_err() {
            let left = self.coordinator.under_way();
            tracing::warn!(left, "what late replicas missed of these requests is not noted: comparison finds it");
        }
        self.control.shutdown().await;
        let member = Arc::clone(self);
        let stopped = opening::blocking(move || {
            member.threads.lock().stop();
            member.handoff.flush();
            // Commits what waits, and syncs.
            member.apply.lock().take();
        });
        if let Err(error) = stopped.await {
            tracing::error!(%error, "the node's threads did not stop");
        }
    }
}
