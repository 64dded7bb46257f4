//! Learning which nodes there are and what they hold, and keeping that fresh.
//!
//! Any node is asked; its answer replaces the whole map at once, so no request ever sees half of one. Nodes that stay keep
//! their connections. A release that does not know the question leaves the client with the addresses that it was given:
//! every node coordinates every request, so all that is lost is the shorter way.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use cube_proto::v1::admin_client::AdminClient;
use cube_proto::v1::{TopologyReply, TopologyRequest};
use futures::future::{join, join_all};
use tokio::time::{Instant, sleep_until, timeout_at};
use tonic::Code;

use crate::client::Inner;
use crate::error::{Asked, Error};
use crate::failure;
use crate::node::Node;
use crate::ring::{Partitions, Place, Ring};

/// However many answers tell that the map is old, it is asked for no more often than this.
const REFRESH_GAP: Duration = Duration::from_millis(500);
/// How long one node may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// A node that could not be reached is asked whether it answers again so often ...
const PROBE_GAP: Duration = Duration::from_secs(1);
/// ... and while nodes are told to be down, every so many of these times whether they still are.
const PROBES_PER_REFRESH: u32 = 5;
/// While no node answers at the start, all are asked again after this.
const ROUND_GAP: Duration = Duration::from_millis(50);

/// The first map. Fails if no node answers in the time of one request.
pub(crate) async fn first(inner: &Inner) -> Result<(), Error> {
    let deadline = Instant::now() + inner.options.timeout;
    let mut attempts = 0;
    loop {
        attempts += 1;
        let Err((node, reason)) = refresh(inner).await else { return Ok(()) };
        if Instant::now() + ROUND_GAP >= deadline {
            let asked = Asked { operation: "CONNECT", key: "the cluster".to_owned(), changes: false };
            return Err(Error::Unreachable { asked, node, attempts, reason });
        }
        sleep_until(Instant::now() + ROUND_GAP).await;
    }
}

/// Keeps the map and what is known of its nodes fresh until the client is gone.
pub(crate) async fn follow(inner: Weak<Inner>) {
    join(keep(Weak::clone(&inner)), probe(inner)).await;
}

/// Asks again from time to time, and when an answer tells that the map is old, until the client is gone.
async fn keep(inner: Weak<Inner>) {
    loop {
        let asked_at = Instant::now();
        {
            let Some(inner) = inner.upgrade() else { return };
            let due = sleep_until(asked_at + inner.options.refresh_every);
            tokio::select! {
                () = due => {}
                () = inner.stale.notified() => {}
            }
        }
        sleep_until(asked_at + REFRESH_GAP).await;
        let Some(inner) = inner.upgrade() else { return };
        if let Err((node, reason)) = refresh(&inner).await {
            tracing::warn!(%node, %reason, "no node tells which nodes there are; the last map stays in use");
        }
    }
}

/// Finds out when nodes answer again that could not be reached, until the client is gone. No request has to try it.
async fn probe(inner: Weak<Inner>) {
    for round in 1_u32.. {
        sleep_until(Instant::now() + PROBE_GAP).await;
        let Some(inner) = inner.upgrade() else { return };
        let ring = inner.ring.load_full();
        let avoided = ring.places.iter().map(|place| &place.node).filter(|node| node.is_avoided());
        let back = join_all(avoided.map(|node| async {
            let answers = ask(&inner, node).await.is_ok();
            if answers {
                node.answered();
            }
            answers
        }));
        let is_back = back.await.contains(&true);
        let is_due = round.is_multiple_of(PROBES_PER_REFRESH) && ring.places.iter().any(|place| !place.alive);
        if is_back || is_due {
            inner.stale.notify_one();
        }
    }
}

/// Asks one node after another until one answers. Tells of the last that did not.
async fn refresh(inner: &Inner) -> Result<(), (String, String)> {
    let ring = inner.ring.load_full();
    let mut known: Vec<Arc<Node>> = ring.places.iter().map(|place| Arc::clone(&place.node)).collect();
    // Those that seem to live first; the seeds last, as they may have left long ago.
    known.sort_by_key(|node| node.is_avoided());
    let strangers = inner.seeds.iter().filter(|seed| !known.iter().any(|node| node.address == seed.address));
    let all: Vec<Arc<Node>> = known.iter().chain(strangers).map(Arc::clone).collect();
    let mut last = (String::new(), "there is none".to_owned());
    for node in all {
        match ask(inner, &node).await {
            Ok(Some(reply)) => match made_of(&reply, &ring, inner) {
                Ok(fresh) => {
                    inner.ring.store(Arc::new(fresh));
                    return Ok(());
                }
                Err(reason) => last = (node.address.clone(), reason),
            },
            Ok(None) => return Ok(()),
            Err(reason) => last = (node.address.clone(), reason),
        }
    }
    Err(last)
}

/// What a node knows; nothing if it does not know the question.
async fn ask(inner: &Inner, node: &Node) -> Result<Option<TopologyReply>, String> {
    let mut admin = AdminClient::new(node.channel()).max_decoding_message_size(inner.options.answer_bytes_max);
    // Always the whole: whether nodes live changes without an epoch, and the map is small.
    let answer = admin.topology(TopologyRequest { known_epoch: 0 });
    match timeout_at(Instant::now() + ANSWER_MAX, answer).await {
        Ok(Ok(reply)) => Ok(Some(reply.into_inner())),
        Ok(Err(status)) if status.code() == Code::Unimplemented => Ok(None),
        Ok(Err(status)) => Err(failure::of_status(&status).reason()),
        Err(_) => Err("it does not answer".to_owned()),
    }
}

/// The map of an answer, with the connections of the nodes that are in the map before.
fn made_of(reply: &TopologyReply, before: &Ring, inner: &Inner) -> Result<Ring, String> {
    let mut places = Vec::with_capacity(reply.nodes.len());
    let mut index = HashMap::new();
    for told in reply.nodes.iter().filter(|node| node.state != "LEFT") {
        let Some(addresses) = &told.addresses else { continue };
        let same = |node: &&Arc<Node>| node.address == addresses.grpc;
        let known = before.places.iter().map(|place| &place.node).chain(&inner.seeds).find(same);
        let node = match known {
            Some(node) => Arc::clone(node),
            None => Arc::new(Node::new(&addresses.grpc, &inner.options).map_err(|error| error.to_string())?),
        };
        index.insert(told.id, places.len());
        places.push(Place { node, dc: told.data_center.clone(), alive: told.alive });
    }
    if places.is_empty() {
        return Err("it knows of no node".to_owned());
    }
    let mut keyspaces = HashMap::new();
    for placement in &reply.placements {
        let held = |ids: &Vec<u32>| ids.iter().filter_map(|id| index.get(id).copied()).collect();
        let partitions = Partitions {
            bits: reply.partition_bits,
            replicas: placement.partitions.iter().map(|partition| held(&partition.replicas)).collect(),
        };
        let partitions = Arc::new(partitions);
        keyspaces.extend(placement.keyspaces.iter().map(|name| (name.clone(), Arc::clone(&partitions))));
    }
    Ok(Ring { places, keyspaces })
}
