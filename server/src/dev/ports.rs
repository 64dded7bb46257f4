//! The addresses of the nodes, all on 127.0.0.1.
//!
//! With a base port B, node N has its HTTP port at B + 10 (N - 1), and gRPC, peer and gossip 680, 679 and 678 below it:
//! with 8080, node-1 has the default ports of a node. With base port 0 the system chooses, once for a folder: members know
//! each other by address, so the choice is kept in a file.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The most nodes on one machine: their ports must not run into each other.
pub const NODES_MAX: u16 = 32;

const STEP: u16 = 10;
const GRPC_BELOW: u16 = 680;
const PEER_BELOW: u16 = 679;
const GOSSIP_BELOW: u16 = 678;
/// Ports below belong to the system.
const PORT_MIN: u16 = 1024;
/// Where chosen ports are kept.
const PORTS_FILE: &str = "ports.json";

/// Where one node listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addresses {
    /// REST.
    pub http: SocketAddr,
    /// Clients, over gRPC.
    pub grpc: SocketAddr,
    /// Other nodes.
    pub peer: SocketAddr,
    /// Gossip, over UDP.
    pub gossip: SocketAddr,
}

/// Why the nodes have no addresses.
#[derive(Debug, Error)]
pub enum PortError {
    /// Somebody listens there.
    #[error(
        "these ports are in use: {}. Stop what uses them, or choose others with --base-port, or --base-port 0",
        taken.join(", ")
    )]
    Taken {
        /// Which, and for what they were meant.
        taken: Vec<String>,
    },
    /// The scheme leaves the range of ports.
    #[error(
        "with {nodes} nodes the base port must be between {least} and {most}, because gRPC, peer and gossip ports are \
         {GRPC_BELOW} and less below the HTTP port, and each node's are {STEP} above those of the one before"
    )]
    Range {
        /// How many nodes.
        nodes: u16,
        /// The lowest base port.
        least: u16,
        /// The highest.
        most: u16,
    },
    /// The kept choice cannot be read or written.
    #[error("{} cannot be used: {error}. Remove it to choose new ports", path.display())]
    Kept {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        error: io::Error,
    },
    /// The system has no free ports.
    #[error("the system gives no free port: {0}")]
    NoneFree(io::Error),
}

impl Addresses {
    const fn of(http_port: u16) -> Self {
        Self {
            http: local(http_port),
            grpc: local(http_port - GRPC_BELOW),
            peer: local(http_port - PEER_BELOW),
            gossip: local(http_port - GOSSIP_BELOW),
        }
    }

    fn bind(&self) -> Bound {
        let tcp = [("HTTP", self.http), ("gRPC", self.grpc), ("peer", self.peer)];
        let tcp = tcp.map(|(purpose, address)| (purpose, address, TcpListener::bind(address)));
        Bound { tcp, udp: (self.gossip, UdpSocket::bind(self.gossip)) }
    }
}

const fn local(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

/// Sockets of one node, held while the others are tried.
struct Bound {
    tcp: [(&'static str, SocketAddr, io::Result<TcpListener>); 3],
    udp: (SocketAddr, io::Result<UdpSocket>),
}

impl Bound {
    fn taken(&self) -> Vec<String> {
        let tcp = self.tcp.iter().filter(|(_, _, bound)| bound.is_err());
        let mut taken: Vec<String> = tcp.map(|(purpose, address, _)| format!("{address} ({purpose}")).collect();
        if self.udp.1.is_err() {
            taken.push(format!("{} (gossip, UDP", self.udp.0));
        }
        taken
    }

    fn addresses(&self) -> io::Result<Addresses> {
        let [http, grpc, peer] = &self.tcp;
        let of = |(_, _, bound): &(_, _, io::Result<TcpListener>)| match bound {
            Ok(listener) => listener.local_addr(),
            Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
        };
        let gossip = match &self.udp.1 {
            Ok(socket) => socket.local_addr()?,
            Err(error) => return Err(io::Error::new(error.kind(), error.to_string())),
        };
        Ok(Addresses { http: of(http)?, grpc: of(grpc)?, peer: of(peer)?, gossip })
    }
}

/// Chooses the addresses of all nodes, and makes sure that nobody listens there.
pub(super) fn choose(nodes: u16, base_port: u16, dir: &Path) -> Result<Vec<Addresses>, PortError> {
    if base_port == 0 {
        return chosen_by_system(nodes, dir);
    }
    let (least, most) = (PORT_MIN + GRPC_BELOW, u16::MAX - STEP * NODES_MAX);
    if !(least..=most).contains(&base_port) {
        return Err(PortError::Range { nodes, least, most });
    }
    let addresses: Vec<_> = (0..nodes).map(|place| Addresses::of(base_port + STEP * place)).collect();
    check_free(&addresses)?;
    Ok(addresses)
}

fn check_free(addresses: &[Addresses]) -> Result<(), PortError> {
    // All are bound at once, so that a node is also told from the others.
    let bound: Vec<Bound> = addresses.iter().map(Addresses::bind).collect();
    let of_node = |(place, bound): (usize, &Bound)| {
        let taken = bound.taken().into_iter();
        taken.map(move |address| format!("{address} of node-{})", place + 1)).collect::<Vec<_>>()
    };
    let taken: Vec<String> = bound.iter().enumerate().flat_map(of_node).collect();
    if taken.is_empty() { Ok(()) } else { Err(PortError::Taken { taken }) }
}

fn chosen_by_system(nodes: u16, dir: &Path) -> Result<Vec<Addresses>, PortError> {
    let path = dir.join(PORTS_FILE);
    let mut addresses = kept(&path)?;
    let present = addresses.len();
    let any = Addresses { http: local(0), grpc: local(0), peer: local(0), gossip: local(0) };
    let known: Vec<Bound> = addresses.iter().map(Addresses::bind).collect();
    let fresh: Vec<Bound> = (present..usize::from(nodes)).map(|_| any.bind()).collect();
    for bound in &fresh {
        addresses.push(bound.addresses().map_err(PortError::NoneFree)?);
    }
    drop((known, fresh));
    let text = serde_json::to_vec_pretty(&addresses).map_err(io::Error::from);
    let written = text.and_then(|text| std::fs::write(&path, text));
    written.map_err(|error| PortError::Kept { path, error })?;
    addresses.truncate(usize::from(nodes));
    check_free(&addresses)?;
    Ok(addresses)
}

fn kept(path: &Path) -> Result<Vec<Addresses>, PortError> {
    let kept = match std::fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(io::Error::from),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    };
    kept.map_err(|error| PortError::Kept { path: path.to_owned(), error })
}
