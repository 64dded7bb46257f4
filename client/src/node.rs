//! One node: its connections, and how it is doing.
//!
//! Connections are opened when they are first needed, and further ones only when many requests are in flight: one HTTP/2
//! connection is one stream of bytes, and past some hundred requests its head of line is what they wait for. A node that
//! could not be reached is avoided until it answers again (`topology.rs` asks it): were it only avoided for a while, a share of
//! the requests would wait for it each time that the while is over.

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use cube_proto::v1::kv_client::KvClient;
use tonic::transport::{Channel, Endpoint};

use crate::error::Error;
use crate::options::Options;

/// So many requests share a connection before another one is opened.
const REQUESTS_PER_CHANNEL: usize = 128;
/// A connection on which nothing comes is asked whether it is still there.
const KEEPALIVE_EVERY: Duration = Duration::from_secs(10);
const KEEPALIVE_ANSWER: Duration = Duration::from_secs(5);
/// What may be under way on a connection before it waits for the other side: several large values at once.
const STREAM_WINDOW_BYTES: u32 = 2 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;

pub(crate) struct Node {
    pub(crate) address: String,
    endpoint: Endpoint,
    channels: Box<[OnceLock<KvClient<Channel>>]>,
    answer_bytes_max: usize,
    in_flight: AtomicUsize,
    turn: AtomicUsize,
    avoided: AtomicBool,
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} in flight)", self.address, self.in_flight())
    }
}

impl Node {
    pub(crate) fn new(address: &str, options: &Options) -> Result<Self, Error> {
        let address = address.trim_start_matches("http://").to_owned();
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .map_err(|error| Error::Invalid(format!("{address:?} is no address of a node: {error}")))?
            .connect_timeout(options.connect_timeout)
            .tcp_nodelay(true)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .http2_keep_alive_interval(KEEPALIVE_EVERY)
            .keep_alive_timeout(KEEPALIVE_ANSWER);
        Ok(Self {
            address,
            endpoint,
            channels: (0..options.channels_per_node_max.max(1)).map(|_| OnceLock::new()).collect(),
            answer_bytes_max: options.answer_bytes_max,
            in_flight: AtomicUsize::new(0),
            turn: AtomicUsize::new(0),
            avoided: AtomicBool::new(false),
        })
    }

    /// A connection for one more request.
    pub(crate) fn kv(&self) -> KvClient<Channel> {
        let open = (1 + self.in_flight() / REQUESTS_PER_CHANNEL).min(self.channels.len());
        let turn = if open == 1 { 0 } else { self.turn.fetch_add(1, Ordering::Relaxed) % open };
        let connect = || KvClient::new(self.endpoint.connect_lazy()).max_decoding_message_size(self.answer_bytes_max);
        self.channels.get(turn).map_or_else(connect, |channel| channel.get_or_init(connect).clone())
    }

    /// A connection for what is not a request for rows.
    pub(crate) fn channel(&self) -> Channel {
        self.endpoint.connect_lazy()
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Counts a request in until the guard is dropped, answered or not.
    pub(crate) fn enter(&self) -> InFlight<'_> {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight(self)
    }

    /// It could not be reached: others come first.
    pub(crate) fn avoid(&self) {
        self.avoided.store(true, Ordering::Relaxed);
    }

    pub(crate) fn answered(&self) {
        if self.is_avoided() {
            self.avoided.store(false, Ordering::Relaxed);
        }
    }

    pub(crate) fn is_avoided(&self) -> bool {
        self.avoided.load(Ordering::Relaxed)
    }
}

pub(crate) struct InFlight<'a>(&'a Node);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}
