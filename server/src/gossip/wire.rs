//! The datagrams of gossip: the protocol's own socket, with a bound on what is sent, with other clusters kept out, and
//! with an eye on who was answered and who has just asked.
//!
//! Invariant: an address that cannot be reached never stops gossip with the others. What is sent is lost silently, as
//! datagrams are; only a socket that cannot receive any more is an error, and gossip is then started anew.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use chitchat::transport::{RecvOutcome, SendOutcome, Socket, Transport};
use chitchat::{ChitchatEnvelope, ChitchatMessage};
use cube_storage::clock::Clock;
use parking_lot::Mutex;

use super::asked::Asked;

/// More than a node in a cluster of hundreds sends. A node that was stopped for an hour and goes on makes up for all
/// the rounds it missed, at once: thousands of datagrams that nobody needs.
const SENT_PER_S_MAX: u64 = 1_000;

/// Answers after which a peer is taken to know the latest of this node, since one datagram may be lost.
const ANSWERS_TO_KNOW: u8 = 2;

/// Counters of gossip, for metrics.
#[derive(Debug, Default)]
pub struct GossipCounters {
    /// Datagrams sent.
    pub sent: AtomicU64,
    /// Their bytes.
    pub sent_bytes: AtomicU64,
    /// Datagrams not sent because too many were.
    pub withheld: AtomicU64,
    /// Datagrams that could not be sent.
    pub failed: AtomicU64,
    /// Datagrams received.
    pub received: AtomicU64,
    /// Their bytes.
    pub received_bytes: AtomicU64,
    /// Datagrams of nodes of other clusters.
    pub foreign: AtomicU64,
    /// How often gossip was started anew after a failure.
    pub restarts: AtomicU64,
}

/// What the socket and the node share.
pub(super) struct WireState {
    pub(super) counters: GossipCounters,
    cluster: String,
    clock: Arc<dyn Clock>,
    /// The second, and what was sent in it.
    sent: Mutex<(u64, u64)>,
    asked: Mutex<Asked>,
    /// While leaving: how often whom was answered since.
    answered: Mutex<Option<BTreeMap<SocketAddr, u8>>>,
}

impl WireState {
    pub(super) fn new(cluster: String, clock: Arc<dyn Clock>, round_ms: u64) -> Self {
        Self {
            counters: GossipCounters::default(),
            cluster,
            clock,
            sent: Mutex::default(),
            asked: Mutex::new(Asked::new(round_ms)),
            answered: Mutex::default(),
        }
    }

    /// From now on answers are counted.
    pub(super) fn count_answers(&self) {
        *self.answered.lock() = Some(BTreeMap::new());
    }

    /// Whether this address was answered since, often enough to know.
    pub(super) fn knows(&self, address: SocketAddr) -> bool {
        let answered = self.answered.lock();
        answered.as_ref().and_then(|answered| answered.get(&address)).is_some_and(|count| *count >= ANSWERS_TO_KNOW)
    }

    /// Whether a handshake with a peer can be left out. Not while this node leaves: it has something that all are to hear.
    fn may_spare(&self, peer: SocketAddr, message: &ChitchatMessage) -> bool {
        matches!(message, ChitchatMessage::Syn { .. })
            && self.asked.lock().is_fresh(peer, self.clock.monotonic_ms())
            && self.answered.lock().is_none()
    }

    fn may_send(&self) -> bool {
        let second = self.clock.monotonic_ms() / 1_000;
        let mut sent = self.sent.lock();
        if sent.0 != second {
            *sent = (second, 0);
        }
        sent.1 += 1;
        sent.1 <= SENT_PER_S_MAX
    }

    fn is_foreign(&self, message: &ChitchatMessage) -> bool {
        match message {
            ChitchatMessage::Syn { cluster_id, .. } => *cluster_id != self.cluster,
            ChitchatMessage::BadCluster => true,
            ChitchatMessage::SynAck { .. } | ChitchatMessage::Ack { .. } => false,
        }
    }
}

/// Opens the sockets: the first one was opened before the protocol starts, so that its port is known.
pub(super) struct Wire {
    pub(super) under: Arc<dyn Transport>,
    pub(super) opened: Mutex<Option<Box<dyn Socket>>>,
    pub(super) state: Arc<WireState>,
}

#[async_trait]
impl Transport for Wire {
    async fn open(&self, listen: SocketAddr) -> anyhow::Result<Box<dyn Socket>> {
        let opened = self.opened.lock().take();
        let under = match opened {
            Some(socket) => socket,
            None => self.under.open(listen).await?,
        };
        Ok(Box::new(WireSocket { under, state: Arc::clone(&self.state) }))
    }
}

struct WireSocket {
    under: Box<dyn Socket>,
    state: Arc<WireState>,
}

#[async_trait]
impl Socket for WireSocket {
    fn local_addr(&self) -> anyhow::Result<SocketAddr> {
        self.under.local_addr()
    }

    async fn send(&mut self, to: SocketAddr, envelope: ChitchatEnvelope) -> anyhow::Result<SendOutcome> {
        let counters = &self.state.counters;
        if self.state.may_spare(to, &envelope.message) {
            return Ok(SendOutcome { num_bytes_sent: 0 });
        }
        if !self.state.may_send() {
            counters.withheld.fetch_add(1, Ordering::Relaxed);
            return Ok(SendOutcome { num_bytes_sent: 0 });
        }
        // Only these two carry what the receiver does not know yet.
        let is_answer = matches!(envelope.message, ChitchatMessage::SynAck { .. } | ChitchatMessage::Ack { .. });
        match self.under.send(to, envelope).await {
            Ok(outcome) => {
                counters.sent.fetch_add(1, Ordering::Relaxed);
                counters.sent_bytes.fetch_add(outcome.num_bytes_sent as u64, Ordering::Relaxed);
                if is_answer && let Some(answered) = self.state.answered.lock().as_mut() {
                    let count = answered.entry(to).or_default();
                    *count = count.saturating_add(1);
                }
                Ok(outcome)
            }
            Err(error) => {
                counters.failed.fetch_add(1, Ordering::Relaxed);
                tracing::debug!(%to, error = %format_args!("{error:#}"), "a gossip datagram could not be sent");
                Ok(SendOutcome { num_bytes_sent: 0 })
            }
        }
    }

    async fn recv(&mut self) -> anyhow::Result<RecvOutcome> {
        loop {
            let received = self.under.recv().await?;
            let counters = &self.state.counters;
            counters.received.fetch_add(1, Ordering::Relaxed);
            counters.received_bytes.fetch_add(received.num_bytes_received as u64, Ordering::Relaxed);
            if !self.state.is_foreign(&received.envelope.message) {
                if matches!(received.envelope.message, ChitchatMessage::Syn { .. }) {
                    self.state.asked.lock().note(received.from_addr, self.state.clock.monotonic_ms());
                }
                return Ok(received);
            }
            // Said once: a foreign node asks again and again.
            if counters.foreign.fetch_add(1, Ordering::Relaxed) == 0 {
                tracing::warn!(
                    from = %received.from_addr,
                    "gossip from a node of another cluster is ignored: look for its address among the seeds of both"
                );
            }
        }
    }
}
