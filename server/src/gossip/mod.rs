//! Soft state: who is alive, where, how busy, with how many hints, as the nodes tell each other (the chitchat crate:
//! scuttlebutt reconciliation over UDP, failure detection by phi accrual).
//!
//! ```text
//! timing.rs  every interval and bound      report.rs  what a node tells, and its keys
//! wire.rs    the socket                    view.rs    what is made of it: alive, dead, conflicts
//! asked.rs   whom not to ask               run.rs     the loop
//! seeds.rs   whom to ask again             alive.rs   the bits the data path reads
//! ```
//!
//! Invariants: nothing that is promised depends on what is told here; reading it never waits; a node always believes
//! in itself; nodes of other clusters are not heard. The loop has a thread of its own, so that a process whose worker
//! threads are busy does not look dead, and so that its own report must not block.

mod alive;
mod asked;
mod report;
mod run;
mod seeds;
mod timing;
mod view;
mod wire;

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc as sync_mpsc;

use arc_swap::ArcSwap;
use chitchat::transport::{Transport, UdpTransport};
use cube_replication::membership::Membership;
use cube_storage::clock::Clock;
use cube_storage::model::NodeId;
use parking_lot::Mutex;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use self::alive::AliveBits;
pub use self::report::{Addresses, Hints, Load, OwnReport, STATE_BYTES_MAX};
use self::run::Runner;
pub use self::timing::Timing;
pub use self::view::{Conflict, PeerView};
pub use self::wire::GossipCounters;
use self::wire::WireState;
use crate::identity::ClusterId;

/// The protocol's generation is the node's with room below it for restarts of gossip itself.
const INCARNATION_BITS: u32 = 16;

/// Leaving is asked for once; whoever asks again waits with the first.
const COMMANDS_MAX: usize = 8;

/// Who a node is in gossip, and where.
#[derive(Clone)]
pub struct GossipSettings {
    /// Only nodes of this cluster are heard.
    pub cluster: ClusterId,
    /// This node.
    pub me: NodeId,
    /// Its name.
    pub name: String,
    /// The number of this start; it has to grow with every start, durably.
    pub generation: u64,
    /// Where to listen (UDP). Port 0 takes a free one.
    pub listen: SocketAddr,
    /// Where others reach that. Port 0 stands for the port that is listened on.
    pub advertise: SocketAddr,
    /// Gossip addresses, `host:port`, to start from. [`Gossip::set_seeds`] replaces them.
    pub seeds: Vec<String>,
    /// Measures intervals; its monotonic reading is that of [`PeerView::since_ms`].
    pub clock: Arc<dyn Clock>,
    /// The clockwork.
    pub timing: Timing,
}

/// Why gossip did not start.
#[derive(Debug, Error)]
pub enum GossipError {
    /// The address cannot be listened on.
    #[error("gossip cannot listen on {address} (UDP): {reason}; choose another gossip address")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        reason: String,
    },
    /// Nobody could answer to that address.
    #[error("{0} cannot be advertised for gossip, since it names no host: set the advertised gossip address")]
    Advertise(SocketAddr),
    /// The generation does not fit.
    #[error("the generation {0} in the node's identity is beyond any number of starts: the file is damaged")]
    Generation(u64),
    /// The system gave no thread.
    #[error("the thread of gossip could not be started: {0}")]
    Thread(#[from] io::Error),
}

type OwnFn = Arc<dyn Fn() -> OwnReport + Send + Sync>;
type Hook = Box<dyn Fn(NodeId, bool) + Send + Sync>;

/// What the loop writes and everybody reads.
struct Shared {
    alive: AliveBits,
    peers: ArcSwap<Vec<PeerView>>,
    conflicts: ArcSwap<Vec<Conflict>>,
    alive_changes: watch::Sender<Arc<BTreeSet<NodeId>>>,
    hooks: Mutex<Vec<Hook>>,
    seeds: Mutex<Vec<String>>,
    wire: Arc<WireState>,
}

/// This node's part in gossip. Dropped, it falls silent at once, as if it had been killed.
pub struct Gossip {
    me: NodeId,
    address: SocketAddr,
    shared: Arc<Shared>,
    leave: mpsc::Sender<oneshot::Sender<()>>,
    _stop: DropGuard,
}

impl Gossip {
    /// Starts to listen and to talk. `own` is asked for this node's report every second and must not block.
    pub fn start(settings: GossipSettings, own: OwnFn) -> Result<Self, GossipError> {
        Self::start_on(settings, own, Arc::new(UdpTransport))
    }

    fn start_on(settings: GossipSettings, own: OwnFn, under: Arc<dyn Transport>) -> Result<Self, GossipError> {
        if settings.generation >= 1 << (u64::BITS - INCARNATION_BITS) {
            return Err(GossipError::Generation(settings.generation));
        }
        if settings.advertise.ip().is_unspecified() {
            return Err(GossipError::Advertise(settings.advertise));
        }
        let me = settings.me;
        let shared = Arc::new(Shared {
            alive: AliveBits::presumed(),
            peers: ArcSwap::default(),
            conflicts: ArcSwap::default(),
            alive_changes: watch::Sender::new(Arc::new(BTreeSet::from([me]))),
            hooks: Mutex::default(),
            seeds: Mutex::new(settings.seeds.clone()),
            wire: Arc::new(WireState::new(
                settings.cluster.to_string(),
                Arc::clone(&settings.clock),
                settings.timing.interval_ms,
            )),
        });
        let stop = CancellationToken::new();
        let (leave, leaving) = mpsc::channel(COMMANDS_MAX);
        let (opened, is_open) = sync_mpsc::sync_channel(1);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (run_shared, run_stop) = (Arc::clone(&shared), stop.clone());
        std::thread::Builder::new().name("cube-gossip".into()).spawn(move || {
            runtime.block_on(async move {
                match Runner::open(settings, own, under, run_shared).await {
                    Ok(runner) => {
                        // Whoever started it waits for this, and is there.
                        let _ = opened.send(Ok(runner.address()));
                        run_stop.run_until_cancelled(runner.run(leaving)).await;
                    }
                    Err(error) => drop(opened.send(Err(error))),
                }
            });
            // A name service that does not answer must not hold up the end.
            runtime.shutdown_background();
        })?;
        let died = || GossipError::Thread(io::Error::other("it ended before it could say why"));
        let address = is_open.recv().map_err(|_| died())??;
        Ok(Self { me, address, shared, leave, _stop: stop.drop_guard() })
    }

    /// The address others are told.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// All other nodes heard of, by id.
    pub fn peers(&self) -> Vec<PeerView> {
        self.shared.peers.load().to_vec()
    }

    /// Another node, if it was heard of.
    pub fn peer(&self, node: NodeId) -> Option<PeerView> {
        self.shared.peers.load().iter().find(|peer| peer.node == node).cloned()
    }

    /// Node ids under which several processes live.
    pub fn conflicts(&self) -> Vec<Conflict> {
        self.shared.conflicts.load().to_vec()
    }

    /// The nodes that were heard and are alive, this one included, and every change of that set.
    pub fn watch(&self) -> watch::Receiver<Arc<BTreeSet<NodeId>>> {
        self.shared.alive_changes.subscribe()
    }

    /// Calls `hook` for every node that is alive now, and from now on for every node that is found alive or dead. A
    /// node that is back under a new generation before it was missed is found alive once more.
    ///
    /// It runs on the thread of gossip: it must not block, nor call `on_change`.
    pub fn on_change(&self, hook: impl Fn(NodeId, bool) + Send + Sync + 'static) {
        let mut hooks = self.shared.hooks.lock();
        let alive = Arc::clone(&self.shared.alive_changes.borrow());
        alive.iter().filter(|node| **node != self.me).for_each(|node| hook(*node, true));
        hooks.push(Box::new(hook));
    }

    /// Replaces the seeds, for instance by the gossip addresses of the members that are known.
    pub fn set_seeds(&self, seeds: Vec<String>) {
        *self.shared.seeds.lock() = seeds;
    }

    /// Tells the others that this node is going, and returns when they know, or after a second. From then on they take
    /// it for dead. It goes on listening until it is dropped.
    pub async fn leave(&self) {
        let (done, is_done) = oneshot::channel();
        if self.leave.send(done).await.is_ok() {
            // The loop ends only when this node is dropped, and then there is nobody to wait.
            let _ = is_done.await;
        }
    }

    /// What was sent and received.
    pub fn counters(&self) -> &GossipCounters {
        &self.shared.wire.counters
    }
}

impl Membership for Gossip {
    fn is_alive(&self, node: NodeId) -> bool {
        node == self.me || self.shared.alive.get(node)
    }
}

#[cfg(test)]
mod tests;
