//! The answering side: who may open a lane to this node, the lanes that are open, calls, and a shutdown that answers
//! what was asked before.
//!
//! A node listens before it is a member of a cluster, since joining and forming are calls. Lanes open when
//! [`PeerServer::open`] says who this node is and what serves them.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use async_trait::async_trait;
use cube_proto::peer::v1 as wire;
use cube_proto::peer::v1::peer_server::{Peer, PeerServer as Service};
use cube_replication::transport::{Lane, Serve};
use cube_storage::clock::Clock;
use cube_storage::model::NodeId;
use parking_lot::Mutex;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::call::{self, Calls, Desk};
use super::conversation::{Conversation, Replies};
use super::identity::{
    CheckPeer, HandshakeRefused, Negotiated, PeerIdentity, agree, check_cluster, check_node, malformed, read_u16,
};
use super::readers::Readers;
use super::serving::Serving;
use super::settings::{FRAME_BYTES_MAX, PeerSettings};
use super::status::InboundStatus;
use crate::incoming::incoming;
use crate::places::Places;

/// What a server needs from its first moment.
pub struct PeerServiceParts {
    /// Answers calls.
    pub calls: Arc<dyn Calls>,
    /// The node's clocks.
    pub clock: Arc<dyn Clock>,
    /// Bounds and times.
    pub settings: PeerSettings,
}

/// What a member needs to serve its peers.
#[derive(Clone)]
pub struct Membership {
    /// Who this node is.
    pub identity: PeerIdentity,
    /// Whether a peer is the member that it says it is.
    pub check: CheckPeer,
    /// Carries requests out.
    pub serve: Arc<dyn Serve>,
    /// Told of every peer that connects: it is there, so it can be connected to.
    pub met: OnPeer,
}

/// Told of a peer.
pub type OnPeer = Arc<dyn Fn(NodeId) + Send + Sync>;

/// Why the server stopped.
#[derive(Debug, Error)]
pub enum PeerServerError {
    /// The listener failed.
    #[error("the peer port cannot be served: {0}")]
    Transport(#[from] tonic::transport::Error),
}

/// The peer service of one node. Clones are the same.
#[derive(Clone)]
pub struct PeerServer {
    shared: Arc<Shared>,
}

struct Shared {
    clock: Arc<dyn Clock>,
    settings: PeerSettings,
    desk: Desk,
    member: ArcSwapOption<Member>,
    is_draining: AtomicBool,
    next_id: AtomicU64,
    open: Mutex<BTreeMap<u64, Open>>,
    last_refused: Mutex<Option<HandshakeRefused>>,
}

struct Member {
    membership: Membership,
    serving: Arc<Serving>,
}

/// A lane that a peer has open to this node.
struct Open {
    node: NodeId,
    lane: Lane,
    negotiated: Negotiated,
    conversation: Arc<Conversation>,
}

/// A lane on the list of those that are open, as long as this lives.
struct Listed {
    shared: Arc<Shared>,
    id: u64,
}

impl Listed {
    /// A peer has each lane once: an earlier one is a connection that it has given up.
    fn new(shared: Arc<Shared>, lane: Open) -> Self {
        let id = shared.next_id.fetch_add(1, Ordering::Relaxed);
        let mut open = shared.open.lock();
        open.values()
            .filter(|earlier| (earlier.node, earlier.lane) == (lane.node, lane.lane))
            .for_each(|earlier| earlier.conversation.close());
        open.insert(id, lane);
        drop(open);
        Self { shared, id }
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.shared.open.lock().remove(&self.id);
    }
}

impl PeerServer {
    /// A server that answers calls, and refuses lanes until [`PeerServer::open`].
    pub fn new(parts: PeerServiceParts) -> Self {
        let PeerServiceParts { calls, clock, settings } = parts;
        let shared = Shared {
            desk: Desk::new(calls, settings.calls_at_once),
            clock,
            settings,
            member: ArcSwapOption::empty(),
            is_draining: AtomicBool::new(false),
            next_id: AtomicU64::new(0),
            open: Mutex::default(),
            last_refused: Mutex::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// This node is a member now: peers may open lanes to it. Fails when the system gives no threads to read for them.
    pub fn open(&self, membership: Membership) -> io::Result<()> {
        let serving = Serving {
            readers: Arc::new(Readers::start(self.shared.settings.reads_at_once)?),
            me: membership.identity.node,
            serve: Arc::clone(&membership.serve),
            clock: Arc::clone(&self.shared.clock),
            background: Arc::new(Semaphore::new(self.shared.settings.background_at_once.max(1))),
        };
        self.shared.member.store(Some(Arc::new(Member { membership, serving: Arc::new(serving) })));
        Ok(())
    }

    /// Serves a listener until `stop`, then drains.
    pub async fn run(&self, listener: TcpListener, stop: CancellationToken) -> Result<(), PeerServerError> {
        let settings = &self.shared.settings;
        let places = Places::for_peers(settings.connections_max);
        let incoming = incoming(listener, places, Duration::from_millis(settings.handshake_timeout_ms));
        let drained = CancellationToken::new();
        let until = async {
            stop.cancelled().await;
            self.drain().await;
            drained.cancel();
        };
        let mut server = self.shared.settings.server();
        let serve = server.add_service(self.service()).serve_with_incoming_shutdown(incoming, until);
        // A connection whose peer stands still would keep the shutdown waiting.
        let enough = async {
            drained.cancelled().await;
            tokio::time::sleep(Duration::from_millis(self.shared.settings.drain_timeout_ms)).await;
        };
        tokio::select! {
            served = serve => Ok(served?),
            () = enough => Ok(()),
        }
    }

    /// The service, for a tonic server that carries others as well.
    pub fn service(&self) -> Service<Self> {
        Service::new(self.clone()).max_decoding_message_size(FRAME_BYTES_MAX).max_encoding_message_size(FRAME_BYTES_MAX)
    }

    /// Takes no further lanes, says goodbye on those that are open, and waits until what was asked is answered, or that
    /// has taken too long.
    pub async fn drain(&self) {
        self.shared.is_draining.store(true, Ordering::SeqCst);
        let conversations: Vec<Arc<Conversation>> =
            self.shared.open.lock().values().map(|open| Arc::clone(&open.conversation)).collect();
        for conversation in &conversations {
            let goodbye = wire::Goodbye { reason: HandshakeRefused::Draining.to_string() };
            conversation.say(wire::Frame { goodbye: Some(goodbye), ..wire::Frame::default() });
        }
        let all = futures::future::join_all(conversations.iter().map(|conversation| conversation.closed()));
        let within = Duration::from_millis(self.shared.settings.drain_timeout_ms);
        if timeout(within, all).await.is_err() {
            tracing::warn!("peers did not take all their answers in time; their connections are closed");
        }
        conversations.iter().for_each(|conversation| conversation.close());
    }

    /// The lanes that are open to this node.
    pub fn status(&self) -> Vec<InboundStatus> {
        let open = self.shared.open.lock();
        let status = open.values().map(|open| {
            let load = open.conversation.load();
            InboundStatus {
                node: open.node,
                lane: open.lane,
                negotiated: open.negotiated,
                in_flight: load.in_flight,
                replies_waiting: load.replies,
                reply_bytes_waiting: load.reply_bytes,
                dropped_late: load.dropped_late,
                overloaded: load.overloaded,
            }
        });
        status.collect()
    }

    /// The refused try again and again: each reason is told once, until there is another.
    fn note_refused(&self, refused: &HandshakeRefused) {
        // It passes by itself, and is how nodes start and stop.
        if matches!(refused, HandshakeRefused::NotReady | HandshakeRefused::Draining) {
            return tracing::debug!(reason = %refused, "a peer was refused");
        }
        let mut last = self.shared.last_refused.lock();
        if last.as_ref() != Some(refused) {
            tracing::warn!(reason = %refused, "a peer was refused");
            *last = Some(refused.clone());
        }
    }

    /// Judges a peer's hello.
    fn meet(&self, hello: wire::Hello) -> Result<(Arc<Member>, PeerIdentity, Lane, Negotiated), HandshakeRefused> {
        let lane = match hello.lane() {
            wire::Lane::Foreground => Lane::Foreground,
            wire::Lane::Background => Lane::Background,
            wire::Lane::Unspecified => return Err(malformed("the lane is not known")),
        };
        let theirs = PeerIdentity::try_from(hello.identity.ok_or_else(|| malformed("the hello names nobody"))?)?;
        if self.shared.is_draining.load(Ordering::SeqCst) {
            return Err(HandshakeRefused::Draining);
        }
        let member = self.shared.member.load_full().ok_or(HandshakeRefused::NotReady)?;
        let Membership { identity: ours, check, .. } = &member.membership;
        check_cluster(ours.cluster, &theirs)?;
        check_node(NodeId(read_u16("the expected node", hello.expected_node)?), ours.node)?;
        let negotiated = agree(ours, &theirs, check)?;
        Ok((member, theirs, lane, negotiated))
    }

    fn begin(
        &self,
        hello: wire::Hello,
        inbound: Streaming<wire::Frame>,
    ) -> Result<Arc<Conversation>, HandshakeRefused> {
        let (member, theirs, lane, negotiated) = self.meet(hello)?;
        let ours = wire::Hello { identity: Some((&member.membership.identity).into()), ..wire::Hello::default() };
        let conversation = Conversation::new(&self.shared.settings, ours);
        let open = Open { node: theirs.node, lane, negotiated, conversation: Arc::clone(&conversation) };
        let listed = Listed::new(Arc::clone(&self.shared), open);
        // A drain that began meanwhile may have missed this one.
        if self.shared.is_draining.load(Ordering::SeqCst) {
            return Err(HandshakeRefused::Draining);
        }
        tracing::debug!(peer = %theirs.node, name = theirs.name, ?lane, "a peer connected");
        (member.membership.met)(theirs.node);
        let talk = Arc::clone(&conversation);
        tokio::spawn(async move {
            // Until its last reply is sent, or whatever else ends this task.
            let _listed = listed;
            Arc::clone(&member.serving).run(lane, Arc::clone(&talk), inbound).await;
            talk.closed().await;
        });
        Ok(conversation)
    }
}

#[async_trait]
impl Peer for PeerServer {
    type ExchangeStream = Replies;

    async fn exchange(&self, request: Request<Streaming<wire::Frame>>) -> Result<Response<Replies>, Status> {
        let mut inbound = request.into_inner();
        let within = Duration::from_millis(self.shared.settings.handshake_timeout_ms);
        let first = timeout(within, inbound.message())
            .await
            .map_err(|_| Status::deadline_exceeded("no hello came"))??
            .unwrap_or_default();
        let begun = match first.hello {
            Some(hello) => self.begin(hello, inbound),
            None => Err(malformed("the first frame is no hello")),
        };
        let conversation = begun.unwrap_or_else(|refused| {
            self.note_refused(&refused);
            Conversation::refusing(&self.shared.settings, refused.to_wire())
        });
        Ok(Response::new(Replies::of(conversation)))
    }

    async fn call(&self, request: Request<wire::CallRequest>) -> Result<Response<wire::CallReply>, Status> {
        let ours = self.shared.member.load().as_ref().map(|member| member.membership.identity.cluster);
        let outcome = self.shared.desk.answer(ours, request.into_inner()).await;
        Ok(Response::new(call::to_wire(outcome)))
    }
}
