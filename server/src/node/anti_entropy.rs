//! Anti-entropy and scrub in a node: their workers, and what operators see of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use cube_replication::anti_entropy::scrub::{NAME as SCRUB, Scrub, ScrubWorker};
use cube_replication::anti_entropy::{AntiEntropy, AntiEntropyWorker, NAME, Parts};
use cube_replication::catalog::Catalog;
use cube_replication::clock::NodeClock;
use cube_replication::coordinator::Coordinator;
use cube_replication::handoff::HintedHandoff;
use cube_replication::membership::Membership;
use cube_replication::replica::Replica;
use cube_replication::transport::PeerTransport;
use cube_replication::watermark::watermark;
use cube_replication::worker::Workers;
use cube_storage::Store;
use cube_storage::merkle::{LEAVES_PER_PARTITION, LeafId};
use cube_storage::model::{NodeId, TableId};
use rand::{Rng, SeedableRng};
use rand_xoshiro::Xoshiro256StarStar;

use super::NodeError;
use super::bell::Bell;
use super::member::Member;
use super::seams;
use crate::config::Config;
use crate::gossip::Gossip;
use crate::peer::GrpcTransport;

/// The parts of a member that both stand on.
pub(super) struct Start<'a> {
    pub(super) me: NodeId,
    pub(super) config: &'a Config,
    pub(super) handoff: &'a Arc<HintedHandoff>,
    pub(super) coordinator: &'a Arc<Coordinator>,
    pub(super) catalog: &'a Arc<Catalog>,
    pub(super) gossip: &'a Arc<Gossip>,
    pub(super) transport: &'a Arc<GrpcTransport>,
    pub(super) replica: &'a Arc<Replica>,
    pub(super) clock: &'a Arc<NodeClock>,
    pub(super) workers: &'a Arc<Workers>,
    pub(super) bell: &'a Arc<Bell>,
}

/// What a member has of both.
pub(super) struct Started {
    pub(super) anti_entropy: Arc<AntiEntropy>,
    pub(super) scrub: Arc<Scrub>,
}

/// Answers peers about this node's replicas from now on, and begins to compare and to verify.
pub(super) fn start(start: Start<'_>) -> Result<Started, NodeError> {
    let Start { me, config, handoff, coordinator, catalog, gossip, transport, replica, clock, workers, bell } = start;
    let (marks, hints) = (Arc::clone(handoff), Arc::clone(handoff));
    let (writes, coming) = (Arc::clone(coordinator.writes_under_way()), replica.hint_receiver());
    let wake = seams::waker(workers, clock, bell, NAME);
    let anti_entropy = AntiEntropy::new(
        Parts {
            me,
            store: Arc::clone(replica.store()),
            clock: Arc::clone(clock),
            catalog: Arc::clone(catalog),
            membership: Arc::clone(gossip) as Arc<dyn Membership>,
            transport: Arc::clone(transport) as Arc<dyn PeerTransport>,
            marks: Box::new(move || marks.marks().targets()),
            watermark: Box::new(move || watermark(&writes, &hints)),
            catches_up: Box::new(move || coming.as_ref().is_some_and(|coming| coming.catches_up())),
            wake: Box::new(move || wake()),
        },
        config.anti_entropy.worker(),
    );
    replica.attend(Arc::clone(&anti_entropy) as Arc<_>);
    let wake = seams::waker(workers, clock, bell, NAME);
    // Who returned is compared with at once.
    gossip.on_change(move |_, alive| {
        if alive {
            wake();
        }
    });
    let scrub = Scrub::from(somewhere(replica.store()), config.scrub.worker());
    let failed = |error: cube_replication::worker::CannotBegin| NodeError::Failed(error.to_string());
    workers.begin(Box::new(AntiEntropyWorker::new(Arc::clone(&anti_entropy)))).map_err(failed)?;
    let worker = ScrubWorker::new(Arc::clone(replica.store()), Arc::clone(&scrub));
    workers.begin(Box::new(worker)).map_err(failed)?;
    Ok(Started { anti_entropy, scrub })
}

/// A place drawn at random, where the scrub begins.
fn somewhere(store: &Store) -> Option<(TableId, LeafId)> {
    let mut random = Xoshiro256StarStar::from_os_rng();
    let mut tables: Vec<TableId> = store.tables().into_iter().map(|(table, _)| table).collect();
    tables.sort_unstable();
    let table = tables.get(random.random_range(0..tables.len().max(1)))?;
    let leaves = u32::from(store.bits().partitions()) * LEAVES_PER_PARTITION;
    Some((*table, LeafId(random.random_range(0..leaves))))
}

impl Member {
    /// Has anti-entropy and scrub work by the settings of now.
    pub(super) fn set_anti_entropy(&self, config: &Config) {
        let before = self.anti_entropy.settings();
        let settings = config.anti_entropy.worker();
        if settings != before {
            self.anti_entropy.set_settings(settings);
        }
        if settings.enabled != before.enabled {
            let enabled = settings.enabled;
            tracing::warn!(
                enabled,
                "anti-entropy was switched: while it is off, nothing is repaired and nothing purged"
            );
        }
        if config.scrub.worker() != self.scrub.settings() {
            self.scrub.set_settings(config.scrub.worker());
            self.wake(SCRUB);
        }
    }

    pub(super) fn hurry_scrub(&self) {
        self.scrub.hurry();
        self.wake(SCRUB);
    }

    fn wake(&self, worker: &str) {
        // It is unknown only once all workers have ended.
        let _unknown = self.workers.wake(worker, self.clock.monotonic_ms());
        self.work_bell.ring();
    }

    /// Up to when all replicas of this node are equal to the others, by the clock that versions are from.
    pub(super) fn in_sync_ms(&self) -> Option<u64> {
        self.anti_entropy.in_sync().map(|time| time.millis())
    }

    /// The same of all nodes, as gossip tells it.
    pub(super) fn in_sync_by_node(&self) -> BTreeMap<NodeId, u64> {
        let state = self.catalog.current();
        let present = AntiEntropy::members(&state).into_iter();
        let told = present.filter_map(|node| {
            let ms = match node == self.identity.node {
                true => self.in_sync_ms(),
                false => self.gossip.peer(node).and_then(|peer| peer.report.oldest_sync_ms),
            };
            ms.map(|ms| (node, ms))
        });
        told.collect()
    }

    pub(super) fn anti_entropy_off(&self) -> Option<String> {
        (!self.anti_entropy.settings().enabled).then(|| {
            "ANTI-ENTROPY IS OFF on this node (anti_entropy.enabled = false): what hints and reads miss is not repaired, \
             nothing is purged, and the in-sync times stand still"
                .to_owned()
        })
    }
}
