//! How a client behaves, where its defaults do not fit.

use std::time::Duration;

/// Set what differs, and leave the rest: `Options { local_dc: Some("dc2".into()), ..Options::default() }`.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// The data center whose nodes are asked first. Any if absent.
    pub local_dc: Option<String>,
    /// How long a request may take in all, retries included, if it does not say.
    pub timeout: Duration,
    /// How long one node has for a read before another one is asked as well.
    pub read_attempt: Duration,
    /// How long it may take to open a connection.
    pub connect_timeout: Duration,
    /// How often one request is tried.
    pub attempts_max: u32,
    /// Connections to one node. More than one are opened only when many requests are in flight.
    pub channels_per_node_max: usize,
    /// How often the client asks which nodes there are, and which of them hold what.
    pub refresh_every: Duration,
    /// Requests of one session that wait for their answers. Further ones wait until there is room.
    pub session_in_flight_max: usize,
    /// The largest answer that is taken. One that is larger ends its own request, with the code `answer_too_large`.
    pub answer_bytes_max: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            local_dc: None,
            timeout: Duration::from_secs(5),
            read_attempt: Duration::from_secs(1),
            connect_timeout: Duration::from_secs(1),
            attempts_max: 8,
            channels_per_node_max: 4,
            refresh_every: Duration::from_secs(30),
            session_in_flight_max: 1_024,
            answer_bytes_max: 32 << 20,
        }
    }
}
