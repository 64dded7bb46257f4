//! Who has just been told everything: a handshake goes both ways, so of two nodes only one needs to begin it.
//!
//! Invariant: a node that nobody asks asks; only who was asked by a peer a moment ago leaves that peer out of its own round.

use std::collections::HashMap;
use std::net::SocketAddr;

/// Peers that are remembered; of more none is left out, which costs a handshake.
const PEERS_MAX: usize = 1_024;

/// Which peers began a handshake with this node a moment ago.
#[derive(Debug)]
pub(super) struct Asked {
    /// How long it counts: more than half of the time between two rounds, so that of two nodes it is always the same that
    /// begins, and less than all of it, so that one that falls silent is asked in the next round.
    span_ms: u64,
    since_ms: HashMap<SocketAddr, u64>,
}

impl Asked {
    pub(super) fn new(round_ms: u64) -> Self {
        Self { span_ms: round_ms * 3 / 4, since_ms: HashMap::new() }
    }

    /// A peer began a handshake.
    pub(super) fn note(&mut self, peer: SocketAddr, now_ms: u64) {
        if self.since_ms.len() >= PEERS_MAX {
            let span_ms = self.span_ms;
            self.since_ms.retain(|_, since_ms| now_ms.saturating_sub(*since_ms) < span_ms);
        }
        if self.since_ms.len() < PEERS_MAX {
            self.since_ms.insert(peer, now_ms);
        }
    }

    /// Whether a handshake with a peer would tell neither side anything new.
    pub(super) fn is_fresh(&self, peer: SocketAddr, now_ms: u64) -> bool {
        self.since_ms.get(&peer).is_some_and(|since_ms| now_ms.saturating_sub(*since_ms) < self.span_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUND_MS: u64 = 250;

    fn peer(port: usize) -> SocketAddr {
        ([127, 0, 0, 1], u16::try_from(port).unwrap()).into()
    }

    #[test]
    fn two_nodes_shake_hands_once_a_round_whatever_lies_between_their_rounds() {
        const ROUNDS: u64 = 20;
        for apart_ms in 0..ROUND_MS {
            let mut nodes = [Asked::new(ROUND_MS), Asked::new(ROUND_MS)];
            let mut shaken = 0;
            for round in 0..ROUNDS {
                for (node, late_ms) in [(0, 0), (1, apart_ms)] {
                    let now_ms = round * ROUND_MS + late_ms;
                    if !nodes[node].is_fresh(peer(1 - node), now_ms) {
                        nodes[1 - node].note(peer(node), now_ms);
                        shaken += 1;
                    }
                }
            }
            assert!((ROUNDS..=ROUNDS + 1).contains(&shaken), "{shaken} handshakes with {apart_ms} ms between them");
        }
    }

    #[test]
    fn a_peer_that_has_fallen_silent_is_asked() {
        let mut asked = Asked::new(ROUND_MS);
        asked.note(peer(1), 1_000);
        assert!(asked.is_fresh(peer(1), 1_150));
        assert!(!asked.is_fresh(peer(1), 1_000 + ROUND_MS));
        assert!(!asked.is_fresh(peer(2), 1_000));
    }

    #[test]
    fn more_peers_than_are_remembered_are_all_asked_until_there_is_room() {
        let mut asked = Asked::new(ROUND_MS);
        (0..PEERS_MAX + 10).for_each(|port| asked.note(peer(port), 1_000));
        assert_eq!(asked.since_ms.len(), PEERS_MAX);
        assert!(!asked.is_fresh(peer(PEERS_MAX + 5), 1_001));
        asked.note(peer(PEERS_MAX + 5), 2_000);
        assert_eq!(asked.since_ms.len(), 1, "what is long past is forgotten");
    }
}
