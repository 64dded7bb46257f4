//! Asking the seeds, round after round, until there is a cluster to be in.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use cube_storage::model::NodeId;
use parking_lot::Mutex;
use thiserror::Error;

use super::{Answer, Ask as Question, Decision, JoinAnswer, JoinRequest, Membership, Undecided};
use crate::identity::ClusterId;

/// The time between two rounds.
const ROUND_EVERY: Duration = Duration::from_millis(300);
/// Rounds without news before the log says again what is waited for.
const ROUNDS_PER_NOTICE: u32 = 33;

/// The way to nodes that are not known as members yet.
#[async_trait]
pub trait Ask: Send + Sync {
    /// Asks the node at a peer address whether it belongs to a cluster. The error is for people.
    async fn ask(&self, address: &str, question: &Question) -> Result<Answer, String>;
    /// Asks a member to be taken in.
    async fn join(&self, address: &str, request: &JoinRequest) -> Result<JoinAnswer, String>;
}

/// Where a search ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// There is no cluster: this node forms it.
    Form,
    /// It was taken in.
    Joined {
        /// The cluster.
        cluster: ClusterId,
        /// Its id.
        node: NodeId,
        /// The key of the cluster's Merkle hashes.
        merkle_key: [u8; 16],
        /// The number of partitions, as bits.
        partition_bits: u8,
    },
}

/// Why a node can never be part of the cluster that it found.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SearchError {
    /// The cluster refuses it.
    #[error("the cluster at {address} does not take this node in: {reason}")]
    Refused {
        /// Who was asked.
        address: String,
        /// Why, and the way out.
        reason: String,
    },
    /// The seeds are members of different clusters.
    #[error(
        "the seeds belong to different clusters: {first} is in {first_cluster}, {second} in {second_cluster}; \
         name seeds of one cluster"
    )]
    TwoClusters {
        /// A seed.
        first: String,
        /// Its cluster.
        first_cluster: ClusterId,
        /// Another seed.
        second: String,
        /// Its cluster.
        second_cluster: ClusterId,
    },
}

/// A search under way: asked by others, it answers from the same state by which it decides.
pub struct Search {
    undecided: Mutex<Undecided>,
    /// What it waits for, for whoever looks.
    waits_for: Mutex<String>,
}

impl Search {
    /// A search that has not begun.
    pub fn new(undecided: Undecided) -> Self {
        Self { undecided: Mutex::new(undecided), waits_for: Mutex::new("asking the seeds".into()) }
    }

    /// Answers another node that searches.
    pub fn on_ask(&self, ask: &Question) -> Answer {
        self.undecided.lock().on_ask(ask)
    }

    /// What it waits for, in words.
    pub fn waits_for(&self) -> String {
        self.waits_for.lock().clone()
    }

    /// Searches until there is a cluster. Never gives up by itself: whoever is silent may still come.
    pub async fn run(&self, peers: &Arc<dyn Ask>, request: &JoinRequest) -> Result<Found, SearchError> {
        let mut rounds: u32 = 0;
        loop {
            let waits_for = match self.round(peers).await? {
                Decision::Form => return Ok(Found::Form),
                Decision::Join { address, .. } => match peers.join(&address, request).await {
                    Ok(JoinAnswer::Joined { cluster, node, merkle_key, partition_bits }) => {
                        return Ok(Found::Joined { cluster, node, merkle_key, partition_bits });
                    }
                    Ok(JoinAnswer::Refused { reason }) => return Err(SearchError::Refused { address, reason }),
                    Ok(JoinAnswer::Later { reason }) => format!("{address} takes nobody in yet: {reason}"),
                    Err(error) => format!("asking {address} to be taken in failed: {error}"),
                },
                Decision::Wait { silent } if silent.is_empty() => {
                    "all known nodes answered: the one with the lowest address forms the cluster".into()
                }
                Decision::Wait { silent } => format!(
                    "a new cluster is formed only when every seed has answered; no answer from {}",
                    silent.join(", ")
                ),
            };
            if rounds.is_multiple_of(ROUNDS_PER_NOTICE) {
                tracing::info!(%waits_for, "not in a cluster yet");
            }
            rounds = rounds.wrapping_add(1);
            *self.waits_for.lock() = waits_for;
            tokio::time::sleep(ROUND_EVERY).await;
        }
    }

    /// Asks everybody at once.
    async fn round(&self, peers: &Arc<dyn Ask>) -> Result<Decision, SearchError> {
        let (asked, question) = {
            let mut undecided = self.undecided.lock();
            (undecided.begin_round(), undecided.ask())
        };
        let answers = futures::future::join_all(asked.into_iter().map(|address| {
            let question = &question;
            async move {
                let answer = peers.ask(&address, question).await;
                (address, answer)
            }
        }));
        let mut join: Option<(String, Membership)> = None;
        for (address, answer) in answers.await {
            let answer = match answer {
                Ok(answer) => answer,
                Err(error) => {
                    tracing::debug!(%address, %error, "a seed does not answer");
                    continue;
                }
            };
            let Some(Decision::Join { address, membership }) = self.undecided.lock().on_answer(&address, answer) else {
                continue;
            };
            match &join {
                Some((first, found)) if found.cluster != membership.cluster => {
                    return Err(SearchError::TwoClusters {
                        first: first.clone(),
                        first_cluster: found.cluster,
                        second: address,
                        second_cluster: membership.cluster,
                    });
                }
                Some(_) => {}
                None => join = Some((address, membership)),
            }
        }
        Ok(match join {
            Some((address, membership)) => Decision::Join { address, membership },
            None => self.undecided.lock().decide(),
        })
    }
}
