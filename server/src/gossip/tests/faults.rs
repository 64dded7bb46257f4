//! What the network and the machine do to gossip: cut links, strangers, a socket that fails.

use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use chitchat::ChitchatEnvelope;
use chitchat::transport::{ChannelTransport, RecvOutcome, SendOutcome, Socket};

use super::*;

#[tokio::test]
async fn a_partition_is_seen_on_both_sides_and_heals_by_itself() {
    let links = ChannelTransport::default();
    let net = Net::on(Arc::new(links.clone()));
    let nodes = net.cluster(3).await;
    let (cut, others) = nodes.split_first().unwrap();
    for other in others {
        links.remove_link(cut.address(), other.address()).await;
    }
    net.until(|| found(cut) == BTreeSet::from([1]), "the node that is cut off sees nobody").await;
    for other in others {
        net.until(|| found(other) == BTreeSet::from([2, 3]), "the others see each other").await;
    }
    for other in others {
        links.add_link(cut.address(), other.address()).await;
    }
    for node in &nodes {
        net.until(|| found(node) == BTreeSet::from([1, 2, 3]), "all see all").await;
    }
}

#[tokio::test]
async fn a_peer_that_the_protocol_has_forgotten_is_still_asked_and_found_again() {
    let links = ChannelTransport::default();
    let mut net = Net::on(Arc::new(links.clone()));
    net.timing.dead_instance_ms = 100;
    let nodes = net.cluster(2).await;
    links.remove_link(nodes[0].address(), nodes[1].address()).await;
    net.until(|| found(&nodes[0]).len() == 1 && found(&nodes[1]).len() == 1, "they lose each other").await;
    // Both have forgotten the other's instance after the next few rounds.
    tokio::time::sleep(Duration::from_secs(1)).await;
    links.add_link(nodes[0].address(), nodes[1].address()).await;
    net.until(|| found(&nodes[0]).len() == 2 && found(&nodes[1]).len() == 2, "they find each other").await;
}

#[tokio::test]
async fn nodes_of_another_cluster_are_not_heard() {
    let net = Net::udp();
    let nodes = net.cluster(2).await;
    let mut strangers = Net::udp();
    strangers.cluster = ClusterId(8);
    let stranger = strangers.start(3, 1, &[nodes[0].address(), nodes[1].address()]);
    let heard = |node: &Gossip| node.counters().foreign.load(Ordering::Relaxed);
    net.until(|| nodes.iter().all(|node| heard(node) > 2), "the stranger has knocked").await;
    assert!(nodes.iter().all(|node| node.peers().len() == 1 && found(node) == BTreeSet::from([1, 2])));
    assert!(stranger.peers().is_empty());
}

#[tokio::test]
async fn a_failed_socket_is_opened_anew_and_the_node_stays_in_the_cluster() {
    let net = Net::udp();
    let first = net.start(1, 1, &[]);
    let failing = Net { transport: Arc::new(FailsAfter { datagrams: 40, opened: AtomicUsize::new(0) }), ..Net::udp() };
    let second = failing.start(2, 1, &[first.address()]);
    net.until(|| second.counters().restarts.load(Ordering::Relaxed) == 1, "the socket fails").await;
    net.until(|| found(&second) == BTreeSet::from([1, 2]), "it hears again").await;
    let (sent, received) = (&second.counters().sent, &second.counters().received);
    let before = (sent.load(Ordering::Relaxed), received.load(Ordering::Relaxed));
    let goes_on = || sent.load(Ordering::Relaxed) > before.0 + 50 && received.load(Ordering::Relaxed) > before.1 + 50;
    net.until(goes_on, "both go on").await;
    net.until(|| found(&first) == BTreeSet::from([1, 2]), "it is heard again").await;
    assert_eq!(first.peer(NodeId(2)).map(|peer| peer.generation), Some(1), "its own start is still the first");
}

/// The first socket fails after some datagrams.
struct FailsAfter {
    datagrams: usize,
    opened: AtomicUsize,
}

#[async_trait]
impl Transport for FailsAfter {
    async fn open(&self, listen: SocketAddr) -> anyhow::Result<Box<dyn Socket>> {
        let under = UdpTransport.open(listen).await?;
        let is_first = self.opened.fetch_add(1, Ordering::Relaxed) == 0;
        Ok(Box::new(FailingSocket { under, left: is_first.then_some(self.datagrams) }))
    }
}

struct FailingSocket {
    under: Box<dyn Socket>,
    left: Option<usize>,
}

#[async_trait]
impl Socket for FailingSocket {
    fn local_addr(&self) -> anyhow::Result<SocketAddr> {
        self.under.local_addr()
    }

    async fn send(&mut self, to: SocketAddr, envelope: ChitchatEnvelope) -> anyhow::Result<SendOutcome> {
        self.under.send(to, envelope).await
    }

    async fn recv(&mut self) -> anyhow::Result<RecvOutcome> {
        if let Some(left) = &mut self.left {
            *left = left.checked_sub(1).ok_or_else(|| anyhow::anyhow!("the socket is broken"))?;
        }
        self.under.recv().await
    }
}
