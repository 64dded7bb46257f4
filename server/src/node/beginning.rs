//! How a node becomes a member: again, from its directory; or for the first time, by finding or forming a cluster.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use cube_replication::topology::Addresses;
use cube_storage::merkle::MerkleKey;
use cube_storage::model::{NodeId, PartitionBits};

use super::NodeError;
use super::calls::Outgoing;
use crate::config::Config;
use crate::forming::{Answer, AskPeers, Found, JoinRequest, Membership, Search, Undecided};
use crate::identity::{ClusterId, DataDir, Identity, InstanceId, draw_merkle_key};
use crate::peer::{PeerCaller, PeerIdentity, PeerSettings};

/// How long a node that returns waits for its seeds to say to which cluster they belong. It serves without an answer too.
const SEEDS_ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// A node before it serves.
pub(super) struct Beginning {
    pub(super) search: Arc<Search>,
    pub(super) outgoing: Outgoing,
    addresses: Addresses,
    instance: InstanceId,
    /// Who it is, once that is known: told in every call from then on.
    known_as: Arc<ArcSwapOption<PeerIdentity>>,
    /// What it is doing when it does not search.
    doing: ArcSwapOption<String>,
}

impl Beginning {
    pub(super) fn new(config: &Config, dir: &DataDir, addresses: &Addresses) -> Self {
        let seeds = config.seeds.iter().map(ToString::to_string);
        let undecided = Undecided::new(addresses.peer.clone(), dir.instance(), seeds);
        let known_as: Arc<ArcSwapOption<PeerIdentity>> = Arc::default();
        let caller = Arc::clone(&known_as);
        let caller = PeerCaller::new(Arc::new(move || caller.load_full().as_deref().cloned()), PeerSettings::default());
        Self {
            search: Arc::new(Search::new(undecided)),
            outgoing: Outgoing(Arc::new(caller)),
            addresses: addresses.clone(),
            instance: dir.instance(),
            known_as,
            doing: ArcSwapOption::empty(),
        }
    }

    /// What it waits for, in words.
    pub(super) fn waits_for(&self) -> String {
        self.doing.load_full().map_or_else(|| self.search.waits_for(), |doing| doing.as_ref().clone())
    }

    pub(super) fn now(&self, doing: &str) {
        self.doing.store(Some(Arc::new(doing.to_owned())));
    }

    /// From now on it says who it is when it calls others.
    pub(super) fn is(&self, identity: &Identity) {
        let Identity { cluster, node, name, .. } = identity.clone();
        self.known_as.store(Some(Arc::new(PeerIdentity::of_this_build(cluster, node, name, self.instance))));
    }

    /// Finds the cluster, or forms it: who the node is from now on.
    pub(super) async fn find(&self, config: &Config) -> Result<Identity, NodeError> {
        let request = JoinRequest {
            name: config.name.clone(),
            data_center: config.dc.clone(),
            rack: config.rack.clone(),
            weight: config.weight,
            addresses: self.addresses.clone(),
            instance: self.instance,
        };
        let peers: Arc<dyn AskPeers> = Arc::new(self.outgoing.clone());
        let name = config.name.clone();
        match self.search.run(&peers, &request).await? {
            Found::Form => {
                let cluster = ClusterId::draw()?;
                tracing::info!(%cluster, "forming a new cluster");
                let partition_bits = config.partition_bits();
                let merkle_key = draw_merkle_key()?;
                Ok(Identity { cluster, node: NodeId(0), name, merkle_key, partition_bits, founder: true })
            }
            Found::Joined { cluster, node, merkle_key, partition_bits } => {
                tracing::info!(%cluster, %node, "joined");
                let refused = || {
                    NodeError::Refused(format!(
                        "the cluster has 2^{partition_bits} partitions, which this build does not know"
                    ))
                };
                let partition_bits = PartitionBits::new(partition_bits).ok_or_else(refused)?;
                let merkle_key = MerkleKey(merkle_key);
                Ok(Identity { cluster, node, name, merkle_key, partition_bits, founder: false })
            }
        }
    }

    /// A member that returns looks whether its seeds belong to its cluster, and whether it runs elsewhere already. Who
    /// does not answer stands in nobody's way: it may be the first of a cluster to return.
    pub(super) async fn check_return(&self, config: &Config, identity: &Identity) -> Result<(), NodeError> {
        self.now("asking the seeds whether they belong to its cluster");
        let others = config.seeds.iter().map(ToString::to_string).filter(|seed| *seed != self.addresses.peer);
        let asked = others.map(|seed| async move { (self.member_at(&seed).await, seed) });
        for (theirs, seed) in futures::future::join_all(asked).await {
            let Some(theirs) = theirs else { continue };
            if theirs.cluster != identity.cluster {
                return Err(NodeError::Refused(format!(
                    "the data directory {} belongs to cluster {}, the seed {seed} to cluster {}: name seeds of the same \
                     cluster, or use another directory to join that one as a new node",
                    config.data_dir.display(),
                    identity.cluster,
                    theirs.cluster,
                )));
            }
            if theirs.node == identity.node {
                return Err(runs_already(identity, &seed));
            }
        }
        Ok(())
    }

    /// A node that comes back at another address looks whether it still runs at the one that it is known by: then its
    /// directory is a copy, and two would vote and write as one.
    pub(super) async fn check_alone(&self, identity: &Identity, known: &str) -> Result<(), NodeError> {
        if known == self.addresses.peer {
            return Ok(());
        }
        match self.member_at(known).await {
            Some(theirs) if (theirs.cluster, theirs.node) == (identity.cluster, identity.node) => {
                Err(runs_already(identity, known))
            }
            _ => Ok(()),
        }
    }

    /// Who answers at an address, if that is a member of a cluster and answers soon.
    async fn member_at(&self, address: &str) -> Option<Membership> {
        let question = Undecided::new(self.addresses.peer.clone(), self.instance, []).ask();
        match tokio::time::timeout(SEEDS_ANSWER_WITHIN, self.outgoing.ask(address, &question)).await {
            Ok(Ok(Answer::Member(theirs))) => Some(theirs),
            Ok(Ok(Answer::None { .. } | Answer::Forming) | Err(_)) | Err(_) => None,
        }
    }
}

fn runs_already(identity: &Identity, address: &str) -> NodeError {
    NodeError::Refused(format!(
        "{} is running already: it answers at {address}; stop that process, or give this one a data directory and a name of \
         its own",
        identity.name,
    ))
}
