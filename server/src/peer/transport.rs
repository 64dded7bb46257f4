//! The asking side: one node's way to all its peers.
//!
//! Invariants: `send` returns at once, on any thread, and whoever it was given is told once, at the latest when the time
//! of the request is over (the tick sees to that, whatever the network does). A peer has two lanes, each with its own
//! queue and connection, so what is slow or broken concerns one lane of one peer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use cube_replication::alarm::Alarm;
use cube_replication::codec;
use cube_replication::messages::Request;
use cube_replication::transport::{Lane, OnReply, PeerError, PeerTransport};
use cube_storage::clock::Clock;
use cube_storage::model::NodeId;
use parking_lot::{Mutex, RwLock};
use rand::RngCore;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::identity::{CheckPeer, Negotiated, PeerIdentity};
use super::link::Link;
use super::settings::PeerSettings;
use super::status::PeerStatus;

/// How exactly the time of requests is kept.
const TICK_MS: u64 = 5;
/// How long nobody looks at the time while no request is under way.
const REST_MS: u64 = 500;

/// Where peers are. Asked anew for each connection, so that a peer that moved is found.
pub trait AddressBook: Send + Sync {
    /// The `host:port` at which a node listens for its peers.
    fn peer_address(&self, node: NodeId) -> Option<String>;

    /// Its name, for people.
    fn peer_name(&self, node: NodeId) -> Option<String>;
}

/// The clocks of two nodes at about the same moment, in milliseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PingSample {
    /// The peer.
    pub node: NodeId,
    /// This node's clock when the ping left.
    pub sent_wall_ms: u64,
    /// This node's clock when the answer came.
    pub received_wall_ms: u64,
    /// The peer's clock in between.
    pub theirs_wall_ms: u64,
}

/// Told the clocks of a peer every second.
pub type OnPing = Arc<dyn Fn(PingSample) + Send + Sync>;

/// What the transport works with.
pub struct GrpcTransportParts {
    /// This node.
    pub identity: PeerIdentity,
    /// Whether a peer is the member that it says it is.
    pub check: CheckPeer,
    /// Where peers are.
    pub addresses: Arc<dyn AddressBook>,
    /// The node's clocks.
    pub clock: Arc<dyn Clock>,
    /// Spreads the attempts to connect.
    pub random: Box<dyn RngCore + Send>,
    /// Told the clocks of peers.
    pub on_ping: OnPing,
    /// Where its tasks run.
    pub runtime: Handle,
    /// Bounds and times.
    pub settings: PeerSettings,
}

/// What all lanes share.
pub(super) struct Common {
    pub(super) identity: PeerIdentity,
    pub(super) check: CheckPeer,
    pub(super) addresses: Arc<dyn AddressBook>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) random: Mutex<Box<dyn RngCore + Send>>,
    pub(super) on_ping: OnPing,
    pub(super) settings: PeerSettings,
    /// This node is about to end, maybe together with its peers.
    pub(super) is_leaving: AtomicBool,
    /// Of who ends requests whose time is over.
    alarm: Alarm,
}

type Peers = Arc<RwLock<BTreeMap<NodeId, Peer>>>;

/// Both lanes to one peer.
#[derive(Clone)]
struct Peer {
    foreground: Arc<Link>,
    background: Arc<Link>,
    stop: CancellationToken,
}

impl Peer {
    fn links(&self) -> [&Arc<Link>; 2] {
        [&self.foreground, &self.background]
    }

    fn link(&self, lane: Lane) -> &Arc<Link> {
        match lane {
            Lane::Foreground => &self.foreground,
            Lane::Background => &self.background,
        }
    }
}

/// The transport between nodes. Its connections end when it is closed or dropped.
pub struct GrpcTransport {
    common: Arc<Common>,
    peers: Peers,
    runtime: Handle,
    stop: CancellationToken,
}

impl GrpcTransport {
    /// A transport without connections: they are made when a peer is first asked or woken.
    pub fn new(parts: GrpcTransportParts) -> Self {
        let GrpcTransportParts { identity, check, addresses, clock, random, on_ping, runtime, settings } = parts;
        let (random, is_leaving, alarm) = (Mutex::new(random), AtomicBool::new(false), Alarm::default());
        let common = Common { identity, check, addresses, clock, random, on_ping, settings, is_leaving, alarm };
        let transport =
            Self { common: Arc::new(common), peers: Peers::default(), runtime, stop: CancellationToken::new() };
        let peers = Arc::clone(&transport.peers);
        transport.runtime.spawn(tick(peers, Arc::clone(&transport.common), transport.stop.clone()));
        transport
    }

    /// A peer is alive, gossip says: it is connected now, without waiting for the next attempt.
    pub fn wake(&self, node: NodeId) {
        if let Some(peer) = self.peer(node) {
            peer.links().into_iter().for_each(|link| link.wake());
        }
    }

    /// A node is no member any more. What was asked of it fails.
    pub fn forget(&self, node: NodeId) {
        let forgotten = self.peers.write().remove(&node);
        if let Some(peer) = forgotten {
            peer.stop.cancel();
        }
    }

    /// This node is about to end: from now on no operator is warned of peers that cannot be reached.
    pub fn leave(&self) {
        self.common.is_leaving.store(true, Ordering::Relaxed);
    }

    /// Ends all connections. What is under way fails, and so does whatever is sent from now on.
    pub fn close(&self) {
        self.stop.cancel();
    }

    /// What was agreed on with a peer that is connected.
    pub fn negotiated(&self, node: NodeId) -> Option<Negotiated> {
        self.peers.read().get(&node)?.foreground.negotiated()
    }

    /// All peers that were asked so far.
    pub fn status(&self) -> Vec<PeerStatus> {
        let peers: Vec<_> = self.peers.read().iter().map(|(node, peer)| (*node, peer.clone())).collect();
        let status = peers.into_iter().map(|(node, peer)| PeerStatus {
            node,
            foreground: peer.foreground.status(),
            background: peer.background.status(),
        });
        status.collect()
    }

    /// The peer's lanes, made if it is one that has an address.
    fn peer(&self, node: NodeId) -> Option<Peer> {
        if let Some(peer) = self.peers.read().get(&node) {
            return Some(peer.clone());
        }
        self.common.addresses.peer_address(node)?;
        let mut peers = self.peers.write();
        let peer = peers.entry(node).or_insert_with(|| {
            let stop = self.stop.child_token();
            let link = |lane| Arc::new(Link::new(node, lane, Arc::clone(&self.common), stop.clone()));
            let peer =
                Peer { foreground: link(Lane::Foreground), background: link(Lane::Background), stop: stop.clone() };
            for link in peer.links() {
                self.runtime.spawn(Arc::clone(link).run());
            }
            peer
        });
        Some(peer.clone())
    }

    fn link(&self, node: NodeId, lane: Lane) -> Option<Arc<Link>> {
        if let Some(peer) = self.peers.read().get(&node) {
            return Some(Arc::clone(peer.link(lane)));
        }
        Some(Arc::clone(self.peer(node)?.link(lane)))
    }
}

impl PeerTransport for GrpcTransport {
    fn send(&self, to: NodeId, lane: Lane, request: Request, reply: OnReply) {
        let time_left_ms = request.time_left_ms;
        if time_left_ms == 0 {
            return reply(Err(PeerError::TimedOut { peer: to }));
        }
        let Some(link) = self.link(to, lane) else {
            return reply(Err(PeerError::Unreachable { peer: to }));
        };
        let needs = request.body.needs();
        let agreed = match link.lane.agreed(needs) {
            Ok(agreed) => agreed,
            Err(instead) => return reply(instead),
        };
        // Until that is known, no more than every peer that may be connected understands.
        let Negotiated { protocol, features } = agreed.unwrap_or(self.common.identity.least());
        let Ok(body) = codec::encode(&Request { protocol, features, ..request }) else {
            // Larger than any request that the limits let through.
            return reply(Err(PeerError::Unreachable { peer: to }));
        };
        match link.lane.push(Bytes::from(body), needs, time_left_ms, reply) {
            Ok(deadline_ms) => self.common.alarm.on_due(deadline_ms),
            Err((instead, reply)) => reply(instead),
        }
    }
}

impl Drop for GrpcTransport {
    fn drop(&mut self) {
        self.close();
    }
}

/// Ends requests whose time is over.
async fn tick(peers: Peers, common: Arc<Common>, stop: CancellationToken) {
    let woken = Arc::new(Notify::new());
    let wake = Arc::clone(&woken);
    common.alarm.wake_by(Box::new(move || wake.notify_one()));
    loop {
        let links: Vec<Arc<Link>> = peers.read().values().flat_map(|peer| peer.links().map(Arc::clone)).collect();
        for link in &links {
            link.lane.expired().tell();
        }
        let now_ms = common.clock.monotonic_ms();
        // Looked at anew: a link made meanwhile may have something due.
        let first_due = || {
            let peers = peers.read();
            let lanes = peers.values().flat_map(|peer| peer.links());
            lanes.filter_map(|link| link.lane.first_due_ms()).min()
        };
        let next_ms = common.alarm.rest_until(now_ms + TICK_MS, now_ms + REST_MS, first_due);
        tokio::select! {
            () = sleep(Duration::from_millis(next_ms.saturating_sub(now_ms))) => {}
            () = woken.notified() => {}
            () = stop.cancelled() => return,
        }
    }
}
