//! Which nodes there are and which of them hold a key, as the cluster last told: plain data, replaced as a whole.

use std::collections::HashMap;
use std::sync::Arc;

use crate::node::Node;

/// A node as the cluster knows it.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) node: Arc<Node>,
    pub(crate) dc: String,
    /// Whether it was believed alive when the map was made.
    pub(crate) alive: bool,
}

/// Replicas of each partition of one keyspace, as places in the list of nodes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Partitions {
    pub(crate) bits: u32,
    pub(crate) replicas: Vec<Vec<usize>>,
}

impl Partitions {
    fn of(&self, partition_key: &[u8]) -> &[usize] {
        let token = cube_proto::token(partition_key);
        // The top bits name the partition; a shift by all 64 of them is not defined.
        let partition = token.checked_shr(u64::BITS - self.bits.min(u64::BITS)).unwrap_or_default();
        let partition = usize::try_from(partition).unwrap_or(usize::MAX);
        self.replicas.get(partition).map_or(&[], Vec::as_slice)
    }
}

/// The map. Without keyspaces it is only the list of nodes that the client was given.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ring {
    pub(crate) places: Vec<Place>,
    pub(crate) keyspaces: HashMap<String, Arc<Partitions>>,
}

impl Ring {
    /// The node to ask next: one that seems to live before one that does not, be it one that refused this request before (who
    /// refuses for load wants to be asked again, and who is dead keeps a write until its time is over); of those the one
    /// that was `tried` least, a replica of the key before others, one of the local data center before one of another,
    /// the least busy of those.
    pub(crate) fn pick(
        &self,
        keyspace: &str,
        partition_key: Option<&[u8]>,
        local_dc: Option<&str>,
        tried: &[Arc<Node>],
        turn: usize,
    ) -> Option<&Arc<Node>> {
        let replicas = partition_key.map_or(&[][..], |key| self.replicas(keyspace, key));
        let count = self.places.len().max(1);
        let badness = |(index, place): &(usize, &Place)| {
            let times_tried = tried.iter().filter(|node| Arc::ptr_eq(node, &place.node)).count();
            let is_far = local_dc.is_some_and(|dc| dc != place.dc);
            let is_stranger = !replicas.is_empty() && !replicas.contains(index);
            let is_down = !place.alive || place.node.is_avoided();
            // Of equally busy ones it is each one's turn.
            (is_down, times_tried, is_stranger, is_far, place.node.in_flight(), (index + turn) % count)
        };
        self.places.iter().enumerate().min_by_key(badness).map(|(_, place)| &place.node)
    }

    fn replicas(&self, keyspace: &str, partition_key: &[u8]) -> &[usize] {
        let keyspace = if keyspace.is_empty() { "default" } else { keyspace };
        self.keyspaces.get(keyspace).map_or(&[], |partitions| partitions.of(partition_key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Options;

    fn ring() -> Ring {
        let place = |address: &str, dc: &str| Place {
            node: Arc::new(Node::new(address, &Options::default()).unwrap()),
            dc: dc.to_owned(),
            alive: true,
        };
        let places = vec![place("a:1", "dc1"), place("b:1", "dc1"), place("c:1", "dc2")];
        // Two partitions: the lower half of the tokens on a, the upper on b and c.
        let partitions = Partitions { bits: 1, replicas: vec![vec![0], vec![1, 2]] };
        Ring { places, keyspaces: HashMap::from([("default".to_owned(), Arc::new(partitions))]) }
    }

    /// Its token begins with e6, and that of `user_alice` with 30: the shared test vector.
    const UPPER: &[u8] = b"a";
    const LOWER: &[u8] = b"user_alice";

    fn pick<'a>(ring: &'a Ring, key: &[u8], dc: Option<&str>, tried: &[Arc<Node>]) -> &'a str {
        &ring.pick("", Some(key), dc, tried, 0).unwrap().address
    }

    #[tokio::test]
    async fn a_request_goes_to_a_replica_of_its_key() {
        let ring = ring();
        assert_eq!(pick(&ring, LOWER, None, &[]), "a:1");
        assert_eq!(pick(&ring, UPPER, None, &[]), "b:1");
        assert_eq!(pick(&ring, UPPER, Some("dc2"), &[]), "c:1");
    }

    #[tokio::test]
    async fn the_least_busy_replica_is_asked() {
        let ring = ring();
        let _busy = ring.places[1].node.enter();
        assert_eq!(pick(&ring, UPPER, None, &[]), "c:1");
        assert_eq!(pick(&ring, UPPER, Some("dc1"), &[]), "b:1", "the local one all the same");
    }

    #[tokio::test]
    async fn what_was_tried_comes_last_and_any_other_node_is_better_than_none() {
        let ring = ring();
        let tried = [Arc::clone(&ring.places[0].node)];
        assert_ne!(pick(&ring, LOWER, None, &tried), "a:1");
        let all: Vec<_> = ring.places.iter().map(|place| Arc::clone(&place.node)).collect();
        assert_eq!(pick(&ring, LOWER, None, &all), "a:1");
    }

    #[tokio::test]
    async fn a_node_that_is_down_or_could_not_be_reached_is_passed_over() {
        let mut ring = ring();
        ring.places[1].node.avoid();
        assert_eq!(pick(&ring, UPPER, None, &[]), "c:1");
        ring.places[1].node.answered();
        ring.places[1].alive = false;
        assert_eq!(pick(&ring, UPPER, None, &[]), "c:1");
        ring.places[2].alive = false;
        assert_eq!(pick(&ring, UPPER, None, &[]), "a:1", "it can coordinate for them");
    }

    #[tokio::test]
    async fn who_refused_is_asked_again_before_one_that_is_down() {
        let mut ring = ring();
        ring.places[2].alive = false;
        let refused = [0, 1].map(|index| Arc::clone(&ring.places[index].node));
        assert_eq!(pick(&ring, UPPER, None, &refused), "b:1");
        // One that broke off counts as down, so that in the end all are.
        refused.iter().for_each(|node| node.avoid());
        assert_eq!(pick(&ring, UPPER, None, &refused), "c:1");
    }

    #[tokio::test]
    async fn requests_without_a_place_go_round() {
        let mut ring = ring();
        ring.keyspaces.clear();
        let asked: Vec<&str> =
            (0..3).map(|turn| ring.pick("", Some(b"k"), None, &[], turn).unwrap().address.as_str()).collect();
        assert_eq!(asked, ["a:1", "c:1", "b:1"]);
    }
}
