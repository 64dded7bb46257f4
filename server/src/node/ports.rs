//! The node's ports, taken before anything else: a port that is in use stops the start at once, and the addresses that
//! others are told are the real ones, also where any free port was asked for.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs, UdpSocket};

use cube_replication::topology::Addresses;
use thiserror::Error;
use tokio::net::{TcpListener, TcpSocket};

use crate::config::{Config, Port};

/// A port that cannot be had.
#[derive(Debug, Error)]
pub enum PortError {
    /// The address cannot be listened on.
    #[error("the {port} address {address} cannot be listened on: {error}; set listen.{port} to another one")]
    Bind {
        /// What it is for.
        port: &'static str,
        /// The address.
        address: SocketAddr,
        /// What the system said.
        error: io::Error,
    },
    /// The address that others are told leads nowhere.
    #[error("advertise.gossip names {address:?}, which is no address: {reason}")]
    Advertise {
        /// The address.
        address: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// Ports that are taken.
pub(super) struct Ports {
    pub(super) http: TcpListener,
    pub(super) peer: TcpListener,
    /// Used once the node is a member.
    pub(super) later: LaterPorts,
}

/// Ports that are used once the node is a member.
pub(super) struct LaterPorts {
    /// Taken, but refusing connections until the node serves: clients then try another node instead of waiting.
    pub(super) grpc: TcpSocket,
    /// Keeps the port until gossip takes it.
    pub(super) gossip: UdpSocket,
    /// Where others reach all four.
    pub(super) addresses: Addresses,
    /// Where others reach gossip, which knows no names.
    pub(super) advertise: SocketAddr,
}

impl Ports {
    /// Takes all ports of a node.
    pub(super) async fn take(config: &Config) -> Result<Self, PortError> {
        let address = |port| config.listen(port);
        let failed = |port: Port| move |error| PortError::Bind { port: port.name(), address: address(port), error };
        let http = TcpListener::bind(address(Port::Http)).await.map_err(failed(Port::Http))?;
        let peer = TcpListener::bind(address(Port::Peer)).await.map_err(failed(Port::Peer))?;
        let grpc = reserve(address(Port::Grpc)).map_err(failed(Port::Grpc))?;
        let gossip = UdpSocket::bind(address(Port::Gossip)).map_err(failed(Port::Gossip))?;
        let told = |port: Port, bound: io::Result<SocketAddr>| {
            bound.map(|bound| config.advertised(port, bound).to_string()).map_err(failed(port))
        };
        let addresses = Addresses {
            peer: told(Port::Peer, peer.local_addr())?,
            grpc: told(Port::Grpc, grpc.local_addr())?,
            http: told(Port::Http, http.local_addr())?,
            gossip: told(Port::Gossip, gossip.local_addr())?,
        };
        let advertise = resolve(&addresses.gossip)?;
        Ok(Self { http, peer, later: LaterPorts { grpc, gossip, addresses, advertise } })
    }
}

fn reserve(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

fn resolve(address: &str) -> Result<SocketAddr, PortError> {
    let refused = |reason: String| PortError::Advertise { address: address.to_owned(), reason };
    let mut found = address.to_socket_addrs().map_err(|error| refused(error.to_string()))?;
    found.next().ok_or_else(|| refused("the name is not known".into()))
}
