//! The connection under one lane: made, kept and made anew, by one task.
//!
//! Invariant: at most one connection carries a lane's requests, and only after both sides have agreed. What fails is
//! retried ever more rarely, at once when somebody hears that the peer is alive, and never while requests wait for it
//! that another node could carry out: a lane whose last attempt failed refuses them until there is a connection.

use std::error::Error as _;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use cube_proto::peer::v1 as wire;
use cube_proto::peer::v1::peer_client::PeerClient;
use cube_replication::codec;
use cube_replication::transport::{Lane as Kind, PeerError};
use cube_replication::worker::Backoff;
use cube_storage::model::NodeId;
use futures::Stream;
use parking_lot::Mutex;
use thiserror::Error;
use tokio::sync::Notify;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use super::identity::{
    HandshakeRefused, Negotiated, PeerIdentity, RefusalReason, agree, check_cluster, check_node, malformed,
};
use super::lane::{Access, Lane};
use super::settings::FRAME_BYTES_MAX;
use super::status::{LaneStatus, Session, describe};
use super::transport::{Common, PingSample};

/// A connection that lasted so long was a good one: when it breaks, the next attempt is made at once.
const GOOD_AFTER: Duration = Duration::from_secs(1);

/// Why there is no connection.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(super) enum LinkError {
    #[error("its address is not known")]
    NoAddress,
    #[error("{address} is no address: {detail}")]
    BadAddress { address: String, detail: String },
    #[error("cannot connect to {address}: {detail}")]
    Connect { address: String, detail: String },
    #[error("{address} did not answer the handshake in time")]
    HandshakeTimedOut { address: String },
    #[error("refused {address}: {0}", address = .1)]
    Refused(HandshakeRefused, String),
    #[error("{address} refused this node ({reason:?}): {detail}")]
    RefusedByPeer { address: String, reason: RefusalReason, detail: String },
    #[error("the connection broke: {0}")]
    Broke(String),
    #[error("it is shutting down")]
    Goodbye,
}

impl LinkError {
    /// Whether the peer itself said that it leaves.
    fn is_leave(&self) -> bool {
        matches!(self, Self::Goodbye | Self::RefusedByPeer { reason: RefusalReason::Draining, .. })
    }

    /// Whether it is there and does not take part yet.
    fn is_start(&self) -> bool {
        matches!(self, Self::RefusedByPeer { reason: RefusalReason::NotReady, .. })
    }
}

/// One lane of a peer, with its connection.
pub(super) struct Link {
    pub(super) lane: Lane,
    kind: Kind,
    peer: NodeId,
    common: Arc<Common>,
    woken: Notify,
    stop: CancellationToken,
    told: Mutex<Told>,
}

/// What operators are told of it.
#[derive(Default)]
struct Told {
    session: Option<Session>,
    connections: u64,
    ping_rtt_us: Option<u64>,
    last_error: Option<LinkError>,
    /// The peer said that it leaves, and has not been there since: nobody need be told that it cannot be reached.
    has_left: bool,
}

impl Link {
    pub(super) fn new(peer: NodeId, kind: Kind, common: Arc<Common>, stop: CancellationToken) -> Self {
        let lane = Lane::new(peer, Arc::clone(&common.clock), &common.settings);
        Self { lane, kind, peer, common, woken: Notify::new(), stop, told: Mutex::default() }
    }

    /// The peer is alive, somebody heard.
    pub(super) fn wake(&self) {
        if self.told.lock().session.is_none() {
            self.lane.expect();
            self.woken.notify_one();
        }
    }

    /// Keeps the lane connected until it is stopped.
    pub(super) async fn run(self: Arc<Self>) {
        let settings = &self.common.settings;
        let backoff = Backoff::new(settings.backoff_first_ms, settings.backoff_longest_ms);
        let mut errors: u32 = 0;
        loop {
            let outcome = tokio::select! {
                outcome = self.connect_and_talk() => outcome,
                () = self.stop.cancelled() => break,
            };
            let was_good = self.note_end(&outcome);
            errors = if was_good { 0 } else { errors.saturating_add(1) };
            let next = if was_good { Access::Opening } else { Access::Closed };
            self.lane.lost(next).tell();
            if was_good {
                continue;
            }
            let wait_ms = backoff.after_errors(errors, &mut **self.common.random.lock());
            tokio::select! {
                () = sleep(Duration::from_millis(wait_ms)) => {}
                () = self.woken.notified() => errors = 0,
                () = self.stop.cancelled() => break,
            }
        }
        self.lane.lost(Access::Gone).tell();
    }

    async fn connect_and_talk(self: &Arc<Self>) -> LinkError {
        match self.connect().await {
            Ok(inbound) => self.talk(inbound).await,
            Err(error) => error,
        }
    }

    /// Connects to where the peer is now, and agrees with it.
    async fn connect(self: &Arc<Self>) -> Result<Streaming<wire::Frame>, LinkError> {
        let address = self.common.addresses.peer_address(self.peer).ok_or(LinkError::NoAddress)?;
        let settings = &self.common.settings;
        let endpoint = settings
            .endpoint(&address)
            .map_err(|error| LinkError::BadAddress { address: address.clone(), detail: describe(&error) })?;
        let connecting = timeout(Duration::from_millis(settings.connect_timeout_ms), endpoint.connect());
        let channel = match connecting.await {
            Ok(Ok(channel)) => channel,
            Ok(Err(error)) => return Err(LinkError::Connect { address, detail: describe(&error) }),
            Err(_) => return Err(LinkError::Connect { address, detail: "timed out".into() }),
        };
        let mut client = PeerClient::new(channel)
            .max_decoding_message_size(FRAME_BYTES_MAX)
            .max_encoding_message_size(FRAME_BYTES_MAX);
        let connection = self.lane.begin(self.hello());
        let handshake = async {
            let outbound = Outbound { link: Arc::clone(self), connection };
            let mut inbound = client.exchange(outbound).await.map_err(|status| broke(&status))?.into_inner();
            let first = inbound.message().await.map_err(|status| broke(&status))?;
            Ok((first.unwrap_or_default(), inbound))
        };
        let timed = timeout(Duration::from_millis(settings.handshake_timeout_ms), handshake);
        let (first, mut inbound) =
            timed.await.map_err(|_| LinkError::HandshakeTimedOut { address: address.clone() })??;
        if let Some(refused) = first.refused {
            let reason = RefusalReason::from(refused.reason());
            return Err(LinkError::RefusedByPeer { address, reason, detail: refused.detail });
        }
        match self.meet(first) {
            Ok(session) => {
                let agreed = session.negotiated;
                self.note_begin(session.at(address));
                self.lane.open(agreed).tell();
                Ok(inbound)
            }
            Err(refused) => {
                self.lane.refuse(refused.to_wire());
                // The peer is told, and closes the stream.
                let told = async { while let Ok(Some(_)) = inbound.message().await {} };
                let _ = timeout(Duration::from_millis(settings.handshake_timeout_ms), told).await;
                Err(LinkError::Refused(refused, address))
            }
        }
    }

    /// Judges the peer's hello.
    fn meet(&self, first: wire::Frame) -> Result<Session, HandshakeRefused> {
        let hello = first.hello.ok_or_else(|| malformed("the first frame is no hello"))?;
        let identity = hello.identity.ok_or_else(|| malformed("the hello names nobody"))?;
        let theirs = PeerIdentity::try_from(identity)?;
        let Common { identity: ours, check, clock, .. } = &*self.common;
        check_cluster(ours.cluster, &theirs)?;
        check_node(self.peer, theirs.node)?;
        let negotiated = agree(ours, &theirs, check)?;
        Ok(Session::new(theirs.name, negotiated, clock.wall_ms()))
    }

    /// Brings replies to those who wait for them, until the connection ends.
    async fn talk(&self, mut inbound: Streaming<wire::Frame>) -> LinkError {
        let mut pings = interval(Duration::from_millis(self.common.settings.ping_interval_ms.max(1)));
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut asked = (0, Instant::now());
        let mut is_leaving = false;
        loop {
            tokio::select! {
                frame = inbound.message() => match frame {
                    Ok(Some(frame)) => {
                        if let Some(pong) = frame.pong && pong.number == asked.0 {
                            self.note_pong(pong, asked.1);
                        }
                        if frame.goodbye.is_some() {
                            is_leaving = true;
                            self.lane.finish().tell();
                        }
                        self.tell(frame.messages);
                    }
                    Ok(None) if is_leaving => return LinkError::Goodbye,
                    Ok(None) => return LinkError::Broke("the peer closed it".into()),
                    Err(status) => return broke(&status),
                },
                _ = pings.tick(), if self.kind == Kind::Foreground => {
                    asked = (asked.0 + 1, Instant::now());
                    self.lane.ping(asked.0);
                }
            }
        }
    }

    fn tell(&self, messages: Vec<wire::Message>) {
        if messages.is_empty() {
            return;
        }
        for (reply, body) in self.lane.answered(messages) {
            reply(codec::decode(&body).map_err(|_| PeerError::Broken { peer: self.peer }));
        }
    }

    fn note_pong(&self, pong: wire::Pong, asked_at: Instant) {
        let rtt_us = u64::try_from(asked_at.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.told.lock().ping_rtt_us = Some(rtt_us);
        (self.common.on_ping)(PingSample {
            node: self.peer,
            sent_wall_ms: pong.asked_wall_ms,
            received_wall_ms: self.common.clock.wall_ms(),
            theirs_wall_ms: pong.wall_ms,
        });
    }

    fn note_begin(&self, session: Session) {
        tracing::info!(peer = %session.name, lane = ?self.kind, address = %session.address,
            protocol = session.negotiated.protocol, "connected to a peer");
        let mut told = self.told.lock();
        told.connections += 1;
        told.has_left = false;
        told.session = Some(session);
    }

    fn name(&self) -> String {
        self.common.addresses.peer_name(self.peer).unwrap_or_else(|| self.peer.to_string())
    }

    /// Whether the connection that ended was a good one.
    fn note_end(&self, error: &LinkError) -> bool {
        let mut told = self.told.lock();
        let session = told.session.take();
        told.ping_rtt_us = None;
        told.has_left |= error.is_leave();
        // The same failure again and again is told once.
        if session.is_some() || told.last_error.as_ref() != Some(error) {
            let (peer, lane) = (self.name(), self.kind);
            if self.common.is_leaving.load(Ordering::Relaxed) || (told.has_left && !error.is_leave()) {
                tracing::debug!(%peer, ?lane, reason = %error, "no connection to a peer");
            } else if told.has_left {
                tracing::info!(%peer, ?lane, "a peer shuts down");
            } else if error.is_start() {
                tracing::info!(%peer, ?lane, "a peer starts");
            } else {
                tracing::warn!(%peer, ?lane, reason = %error, "no connection to a peer");
            }
        }
        told.last_error = Some(error.clone());
        session.is_some_and(|session| session.since.elapsed() >= GOOD_AFTER) && *error != LinkError::Goodbye
    }

    pub(super) fn negotiated(&self) -> Option<Negotiated> {
        self.told.lock().session.as_ref().map(|session| session.negotiated)
    }

    pub(super) fn status(&self) -> LaneStatus {
        let told = self.told.lock();
        let (session, connections, ping_rtt_us) = (told.session.clone(), told.connections, told.ping_rtt_us);
        let last_error = told.last_error.as_ref().map(LinkError::to_string);
        drop(told);
        LaneStatus::new(session, connections, ping_rtt_us, last_error, self.lane.load())
    }

    fn hello(&self) -> wire::Hello {
        let lane = match self.kind {
            Kind::Foreground => wire::Lane::Foreground,
            Kind::Background => wire::Lane::Background,
        };
        wire::Hello {
            identity: Some((&self.common.identity).into()),
            expected_node: self.peer.0.into(),
            lane: lane.into(),
        }
    }
}

/// The frames of one connection, as gRPC asks for them: when the peer takes no more, they stay in the lane.
struct Outbound {
    link: Arc<Link>,
    connection: u64,
}

impl Stream for Outbound {
    type Item = wire::Frame;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<wire::Frame>> {
        self.link.lane.poll_frame(self.connection, context)
    }
}

/// What lies at the bottom of it: gRPC and HTTP/2 wrap it in words of theirs.
fn broke(status: &Status) -> LinkError {
    let cause = std::iter::successors(status.source(), |&cause| cause.source()).last();
    LinkError::Broke(cause.map_or_else(|| status.message().to_owned(), ToString::to_string))
}
