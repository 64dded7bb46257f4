//! Addresses that are one cluster's alone.
//!
//! Every address of 127.0.0.0/8 is this machine. A cluster takes a block of them, 127.A.B.1 to 127.A.B.253, and holds it by
//! a socket that listens at 127.A.B.254: tests that run side by side, and test runs that do, never meet. As the addresses
//! are its own, the ports can be fixed, and a node that restarts has the ones it had.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};

/// Below the range that the kernel takes ports from by itself, and not those that somebody's own `cubed` listens at.
const CLAIM_PORT: u16 = 17_399;
const HTTP_PORT: u16 = 17_380;
const GRPC_PORT: u16 = 17_400;
const PEER_PORT: u16 = 17_401;
const GOSSIP_PORT: u16 = 17_402;
/// How many blocks are tried before giving up; more than test processes run at a time.
const BLOCKS_TRIED_MAX: u32 = 10_000;

/// Where a node listens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Addresses {
    pub(crate) http: SocketAddr,
    pub(crate) grpc: SocketAddr,
    pub(crate) peer: SocketAddr,
    pub(crate) gossip: SocketAddr,
}

impl Addresses {
    /// The usual ports of a node that has an address for itself.
    pub(crate) fn of(ip: Ipv4Addr) -> Self {
        let at = |port| SocketAddr::new(IpAddr::V4(ip), port);
        Self { http: at(HTTP_PORT), grpc: at(GRPC_PORT), peer: at(PEER_PORT), gossip: at(GOSSIP_PORT) }
    }
}

/// A block of loopback addresses, held as long as this is.
pub(crate) struct Block {
    claim: TcpListener,
}

impl Block {
    pub(crate) fn claim() -> Self {
        static CLAIMED: AtomicU32 = AtomicU32::new(0);
        // Any start will do; one that differs between processes finds a free block at once.
        let first = std::process::id().wrapping_mul(61).wrapping_add(CLAIMED.fetch_add(1, Ordering::Relaxed));
        (0..BLOCKS_TRIED_MAX)
            .find_map(|tried| {
                let block = first.wrapping_add(tried);
                let [low, high] = [block % 250, block / 250 % 200].map(|part| u8::try_from(part).unwrap());
                let at = Ipv4Addr::new(127, 20 + high, 1 + low, 254);
                TcpListener::bind((at, CLAIM_PORT)).ok()
            })
            .map(|claim| Self { claim })
            .expect("a free block of loopback addresses")
    }

    /// The addresses of the n-th node.
    pub(crate) fn node(&self, number: u8) -> Addresses {
        let IpAddr::V4(claimed) = self.claim.local_addr().unwrap().ip() else { panic!("claimed by version 4") };
        let [first, second, third, _] = claimed.octets();
        Addresses::of(Ipv4Addr::new(first, second, third, number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_held_at_the_same_time_share_no_address() {
        let blocks: Vec<Block> = (0..20).map(|_| Block::claim()).collect();
        let mut seen: Vec<IpAddr> = blocks.iter().map(|block| block.node(1).http.ip()).collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 20);
        for block in &blocks {
            let addresses = block.node(7);
            for address in [addresses.http, addresses.grpc, addresses.peer] {
                TcpListener::bind(address).unwrap();
            }
            std::net::UdpSocket::bind(addresses.gossip).unwrap();
        }
    }
}
