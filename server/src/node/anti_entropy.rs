//! Anti-entropy and scrub in a node: their workers, and what operators see of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use cube_replication::anti_entropy::scrub::{NAME as SCRUB, Scrub, ScrubWorker};
use cube_replication::anti_entropy::{AntiEntropy, AntiEntropyWorker, NAME, Parts};
use cube_replication::coordinator::Coordinator;
use cube_replication::membership::Membership;
use cube_replication::transport::PeerTransport;
use cube_replication::watermark::watermark;
use cube_storage::Store;
use cube_storage::merkle::{LEAVES_PER_PARTITION, LeafId};
use cube_storage::model::{NodeId, TableId};
use rand::{Rng, SeedableRng};
use rand_xoshiro::Xoshiro256StarStar;

use super::NodeError;
use super::ground::Ground;
use super::member::Member;
use crate::config::Config;

/// What a member has of both.
pub(super) struct Started {
    pub(super) anti_entropy: Arc<AntiEntropy>,
    pub(super) scrub: Arc<Scrub>,
}

/// Answers peers about this node's replicas from now on, and begins to compare and to verify.
pub(super) fn start(
    ground: &Ground<'_>,
    config: &Config,
    coordinator: &Arc<Coordinator>,
) -> Result<Started, NodeError> {
    let (marks, hints) = (Arc::clone(ground.handoff), Arc::clone(ground.handoff));
    let (store, writes) = (ground.replica.store(), Arc::clone(coordinator.writes_under_way()));
    let (coming, wake) = (ground.replica.hint_receiver(), ground.waker(NAME));
    let anti_entropy = AntiEntropy::new(
        Parts {
            me: ground.me,
            store: Arc::clone(store),
            clock: Arc::clone(ground.clock),
            catalog: Arc::clone(ground.catalog),
            membership: Arc::clone(ground.gossip) as Arc<dyn Membership>,
            transport: Arc::clone(ground.transport) as Arc<dyn PeerTransport>,
            marks: Box::new(move || marks.marks().targets()),
            watermark: Box::new(move || watermark(&writes, &hints)),
            catches_up: Box::new(move || coming.as_ref().is_some_and(|coming| coming.catches_up())),
            wake: Box::new(move || wake()),
        },
        config.anti_entropy.worker(),
    );
    ground.replica.attend(Arc::clone(&anti_entropy) as Arc<_>);
    let wake = ground.waker(NAME);
    // Who returned is compared with as soon as hints had their chance, which the schedule sees to.
    ground.gossip.on_change(move |_, alive| {
        if alive {
            wake();
        }
    });
    let scrub = Scrub::from(somewhere(store), config.scrub.worker());
    ground.begin(AntiEntropyWorker::new(Arc::clone(&anti_entropy)))?;
    ground.begin(ScrubWorker::new(Arc::clone(store), Arc::clone(&scrub)))?;
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
