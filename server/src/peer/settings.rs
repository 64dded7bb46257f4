//! The bounds and times of the peer transport, and the HTTP/2 settings that follow from them.

use std::time::Duration;

use cube_replication::codec::MESSAGE_BYTES_MAX;
use tonic::transport::{Endpoint, Error, Server};

/// Messages of one frame: so much shares a poll, a lock and an HTTP/2 write, and a reader gets around to its other
/// work in between.
pub(super) const FRAME_MESSAGES_MAX: usize = 256;
/// Bytes after which a frame takes no further message. One that is longer travels alone.
pub(super) const FRAME_BYTES: usize = 256 << 10;
/// The longest frame there can be: the longest message alone, or a full frame, and what stands around each message.
pub(super) const FRAME_BYTES_MAX: usize = MESSAGE_BYTES_MAX + FRAME_BYTES;
/// What one side may have sent of a stream before the other has read it: enough for a fast network at some distance,
/// and what a peer that stands still costs in memory.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
/// Of all streams of a connection together.
const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;
/// Longer pieces cost less to cut, shorter ones let a keepalive through.
const HTTP2_FRAME_BYTES: u32 = 64 << 10;

/// What may be chosen of the transport. The defaults fit a node; tests choose shorter times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerSettings {
    /// Requests of one lane to one peer that may wait, for being sent or for their reply.
    pub waiting_max: usize,
    /// Bytes of those that wait for being sent. A single request is always taken.
    pub waiting_bytes_max: usize,
    /// Requests of one connection that may be under way at the one that serves them.
    pub serving_max: usize,
    /// Bytes of replies that may wait on one connection; until there is room, nothing further is read from it.
    pub reply_bytes_max: usize,
    /// Threads that read for peers in the foreground.
    pub reads_at_once: usize,
    /// Background frames served at once, over all peers.
    pub background_at_once: usize,
    /// Calls served at once, over all peers.
    pub calls_at_once: usize,
    /// Connections at once, whoever they are from.
    pub connections_max: u32,
    /// How long connecting may take.
    pub connect_timeout_ms: u64,
    /// How long each side waits for the other's part of the handshake, and for a connection to say anything at all.
    pub handshake_timeout_ms: u64,
    /// How long a connection may be silent before it is asked for a sign of life,
    pub keepalive_interval_ms: u64,
    /// and how long that may take before the connection is given up.
    pub keepalive_timeout_ms: u64,
    /// How often peers tell each other their wall clocks.
    pub ping_interval_ms: u64,
    /// The wait after the first failure to connect, which doubles with each further one,
    pub backoff_first_ms: u64,
    /// up to this.
    pub backoff_longest_ms: u64,
    /// How long a node that shuts down waits for what was asked of it before.
    pub drain_timeout_ms: u64,
}

impl Default for PeerSettings {
    fn default() -> Self {
        Self {
            waiting_max: 8_192,
            waiting_bytes_max: 32 << 20,
            serving_max: 8_192,
            reply_bytes_max: 16 << 20,
            // More than a small machine has processors: a read that waits for the disk needs none.
            reads_at_once: 4,
            background_at_once: 2,
            calls_at_once: 256,
            // A member needs three at the most: two lanes and one for calls.
            connections_max: 1_024,
            connect_timeout_ms: 1_000,
            handshake_timeout_ms: 2_000,
            keepalive_interval_ms: 2_000,
            keepalive_timeout_ms: 2_000,
            ping_interval_ms: 1_000,
            backoff_first_ms: 50,
            backoff_longest_ms: 2_000,
            drain_timeout_ms: 5_000,
        }
    }
}

impl PeerSettings {
    /// The way to an address (`host:port`).
    pub(super) fn endpoint(&self, address: &str) -> Result<Endpoint, Error> {
        let endpoint = Endpoint::from_shared(format!("http://{address}"))?;
        Ok(endpoint
            .connect_timeout(Duration::from_millis(self.connect_timeout_ms))
            .tcp_nodelay(true)
            .http2_keep_alive_interval(Duration::from_millis(self.keepalive_interval_ms))
            .keep_alive_timeout(Duration::from_millis(self.keepalive_timeout_ms))
            .keep_alive_while_idle(true)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_frame_size(HTTP2_FRAME_BYTES))
    }

    pub(super) fn server(&self) -> Server {
        Server::builder()
            .http2_keepalive_interval(Some(Duration::from_millis(self.keepalive_interval_ms)))
            .http2_keepalive_timeout(Some(Duration::from_millis(self.keepalive_timeout_ms)))
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_frame_size(HTTP2_FRAME_BYTES)
    }
}
