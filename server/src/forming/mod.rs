//! How a node that belongs to nothing yet finds its cluster, or becomes the first member of one.
//!
//! Without seeds it forms a cluster at once. With seeds it asks them: whoever is a member takes it in; otherwise a new
//! cluster is formed only when *every* node it has heard of answered that it belongs to none, and only by the one with
//! the lowest peer address. Invariant: **nodes that can hear of each other form one cluster.** Whoever is asked learns of
//! the asker before it answers, and answers tell of all others; so two nodes that both believed to be the lowest would
//! each have answered the other before deciding, and then one knew of the lower. Deciding and answering exclude each
//! other (`Undecided`), so there is no moment in between.
//!
//! The decision is plain code here; `messages.rs` is what is said, `search.rs` says it.

mod messages;
mod search;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

pub use self::messages::{Answer, Ask, JoinAnswer, JoinRequest, Membership};
pub use self::search::{Ask as AskPeers, Found, Search, SearchError};
use crate::identity::InstanceId;

/// What a node that belongs to no cluster has heard so far.
#[derive(Debug)]
pub struct Undecided {
    me: String,
    instance: InstanceId,
    /// Addresses of the others that are to be asked, as they call themselves where that is known.
    others: BTreeSet<String>,
    /// Other names of nodes that are known by their own: `localhost:7401` for `127.0.0.1:7401`.
    aliases: BTreeMap<String, String>,
    /// Who answered in this round that it belongs to none.
    none: BTreeSet<String>,
    /// It has decided to form a cluster: from here on it answers nobody that there is none.
    forming: bool,
}

/// What is to be done after a round of asking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Ask again: these have not answered, or somebody with a lower address will form the cluster.
    Wait {
        /// Those that have not answered.
        silent: Vec<String>,
    },
    /// Form a cluster.
    Form,
    /// Ask this member to be taken in.
    Join {
        /// The member's peer address.
        address: String,
        /// Its cluster.
        membership: Membership,
    },
}

/// How many others are remembered: far more than are ever started at once, and a bound for what strangers can tell.
const OTHERS_MAX: usize = 1024;

impl Undecided {
    /// A node that is reached at `me` and was told of `seeds`. Its own address among them is left out.
    pub fn new(me: String, instance: InstanceId, seeds: impl IntoIterator<Item = String>) -> Self {
        let others = seeds.into_iter().filter(|seed| *seed != me).collect();
        Self { me, instance, others, aliases: BTreeMap::new(), none: BTreeSet::new(), forming: false }
    }

    /// Begins a round; whom to ask in it.
    pub fn begin_round(&mut self) -> Vec<String> {
        self.none.clear();
        self.others.iter().cloned().collect()
    }

    /// What is asked of the others.
    pub fn ask(&self) -> Ask {
        Ask { address: self.me.clone(), instance: self.instance, known: self.others.iter().cloned().collect() }
    }

    /// Answers another node that asks, and remembers it.
    pub fn on_ask(&mut self, ask: &Ask) -> Answer {
        if self.forming {
            return Answer::Forming;
        }
        if ask.instance != self.instance {
            self.learn(&ask.address);
            ask.known.iter().for_each(|address| self.learn(address));
        }
        Answer::None { address: self.me.clone(), instance: self.instance, known: self.others.iter().cloned().collect() }
    }

    /// Takes an answer in. Decides at once when it comes from a member.
    pub fn on_answer(&mut self, asked: &str, answer: Answer) -> Option<Decision> {
        match answer {
            Answer::Member(membership) => Some(Decision::Join { address: asked.to_owned(), membership }),
            Answer::Forming => None,
            // It asked itself by another of its addresses.
            Answer::None { instance, .. } if instance == self.instance => {
                self.others.remove(asked);
                self.aliases.insert(asked.to_owned(), self.me.clone());
                None
            }
            Answer::None { address, known, .. } => {
                if address != asked {
                    self.others.remove(asked);
                    self.aliases.insert(asked.to_owned(), address.clone());
                }
                self.learn(&address);
                known.iter().for_each(|address| self.learn(address));
                self.none.insert(address);
                None
            }
        }
    }

    /// The end of a round: what follows from it. Once it is [`Decision::Form`], it stays so.
    pub fn decide(&mut self) -> Decision {
        let silent: Vec<String> = self.others.difference(&self.none).cloned().collect();
        let lowest = self.others.iter().all(|other| self.me < *other);
        if self.forming || (silent.is_empty() && lowest) {
            self.forming = true;
            return Decision::Form;
        }
        Decision::Wait { silent }
    }

    fn learn(&mut self, address: &str) {
        let address = self.aliases.get(address).map_or(address, String::as_str);
        if address != self.me && self.others.len() < OTHERS_MAX {
            self.others.insert(address.to_owned());
        }
    }
}
