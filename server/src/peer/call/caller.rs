//! The asking side of calls: connections by address, kept for the next call, and a time limit on each.

use std::collections::BTreeMap;
use std::error::Error;
use std::time::Duration;

use bytes::Bytes;
use cube_proto::peer::v1 as wire;
use cube_proto::peer::v1::peer_client::PeerClient;
use parking_lot::Mutex;
use thiserror::Error;
use tokio::time::timeout;
use tonic::ConnectError;
use tonic::transport::Channel;

use super::{CallRefused, Caller};
use crate::peer::settings::{FRAME_BYTES_MAX, PeerSettings};
use crate::peer::status::describe;

/// Addresses to which connections are kept: more than a cluster's members, of which one talks to few at a time. Past
/// it the one that was used longest ago is given up.
const CONNECTIONS_MAX: usize = 64;

/// Why a call brought no answer.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CallError {
    /// There is no such address.
    #[error("{address} is no address: {detail}")]
    BadAddress {
        /// The address.
        address: String,
        /// What is wrong with it.
        detail: String,
    },
    /// The call was never sent.
    #[error("{address} cannot be reached: {detail}")]
    Unreachable {
        /// The address.
        address: String,
        /// What stood in the way.
        detail: String,
    },
    /// The connection broke. The call may or may not have been carried out.
    #[error("the connection to {address} broke before it answered: {detail}")]
    Broken {
        /// The address.
        address: String,
        /// What happened.
        detail: String,
    },
    /// Its time is over. It may or may not have been carried out.
    #[error("{address} did not answer within {timeout_ms} ms")]
    TimedOut {
        /// The address.
        address: String,
        /// The time it had.
        timeout_ms: u64,
    },
    /// The peer answered that it does not do it.
    #[error("{address} refused the call: {refused}")]
    Refused {
        /// The address.
        address: String,
        /// Why.
        refused: CallRefused,
    },
}

/// Calls other nodes.
pub struct PeerCaller {
    caller: Caller,
    settings: PeerSettings,
    connections: Mutex<Connections>,
}

#[derive(Default)]
struct Connections {
    by_address: BTreeMap<String, Connection>,
    /// Grows with each use.
    uses: u64,
}

struct Connection {
    channel: Channel,
    /// Its first use, which is nobody else's: a failed one is removed only as long as it is the same.
    made: u64,
    last_use: u64,
}

impl PeerCaller {
    /// A caller that tells who it is as soon as `caller` knows.
    pub fn new(caller: Caller, settings: PeerSettings) -> Self {
        Self { caller, settings, connections: Mutex::default() }
    }

    /// Calls the node at an address (`host:port`). Must be called on a tokio runtime.
    pub async fn call(&self, address: &str, kind: u32, payload: Bytes, within: Duration) -> Result<Bytes, CallError> {
        let (channel, made) = self.connection(address)?;
        let mut client = PeerClient::new(channel)
            .max_decoding_message_size(FRAME_BYTES_MAX)
            .max_encoding_message_size(FRAME_BYTES_MAX);
        let time_left_ms = u32::try_from(within.as_millis()).unwrap_or(u32::MAX);
        let from = (self.caller)().as_ref().map(wire::Identity::from);
        let asked = client.call(wire::CallRequest { from, kind, payload, time_left_ms });
        let address = address.to_owned();
        let reply = match timeout(within, asked).await {
            Ok(Ok(reply)) => reply.into_inner(),
            Ok(Err(status)) => {
                // The next call looks up the name and connects anew.
                self.give_up(&address, made);
                return Err(failure(address, &status));
            }
            Err(_) => {
                self.give_up(&address, made);
                let timeout_ms = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
                return Err(CallError::TimedOut { address, timeout_ms });
            }
        };
        match reply.outcome {
            Some(wire::call_reply::Outcome::Payload(payload)) => Ok(payload),
            Some(wire::call_reply::Outcome::Refused(refused)) => {
                Err(CallError::Refused { address, refused: refused.into() })
            }
            None => Err(CallError::Broken { address, detail: "its answer is empty".into() }),
        }
    }

    fn connection(&self, address: &str) -> Result<(Channel, u64), CallError> {
        let mut connections = self.connections.lock();
        connections.uses += 1;
        let now = connections.uses;
        if let Some(connection) = connections.by_address.get_mut(address) {
            connection.last_use = now;
            return Ok((connection.channel.clone(), connection.made));
        }
        let endpoint = self
            .settings
            .endpoint(address)
            .map_err(|error| CallError::BadAddress { address: address.to_owned(), detail: describe(&error) })?;
        let channel = endpoint.connect_lazy();
        if connections.by_address.len() >= CONNECTIONS_MAX {
            let oldest = connections.by_address.iter().min_by_key(|(_, one)| one.last_use).map(|(key, _)| key.clone());
            oldest.map(|key| connections.by_address.remove(&key));
        }
        let connection = Connection { channel: channel.clone(), made: now, last_use: now };
        connections.by_address.insert(address.to_owned(), connection);
        Ok((channel, now))
    }

    fn give_up(&self, address: &str, made: u64) {
        let mut connections = self.connections.lock();
        if connections.by_address.get(address).is_some_and(|connection| connection.made == made) {
            connections.by_address.remove(address);
        }
    }
}

fn failure(address: String, status: &tonic::Status) -> CallError {
    let detail = describe(status);
    let mut causes = std::iter::successors(status.source(), |&cause| cause.source());
    if causes.any(|cause| cause.is::<ConnectError>()) {
        CallError::Unreachable { address, detail }
    } else {
        CallError::Broken { address, detail }
    }
}
