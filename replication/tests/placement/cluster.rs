//! Clusters of any shape, and what happens to them.

use std::collections::BTreeMap;

use cube_replication::topology::{Addresses, DataCenter, Member, MemberState, Strategy};
use cube_storage::model::{NodeId, PartitionBits};
use proptest::prelude::*;

pub(crate) type Members = BTreeMap<NodeId, Member>;

/// A replication setting and the members it is planned for.
#[derive(Clone, Debug)]
pub(crate) struct Cluster {
    pub(crate) members: Members,
    pub(crate) strategy: Strategy,
    pub(crate) bits: PartitionBits,
}

/// What an operator does to a cluster. Members are picked by a number, modulo those there are.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    Join { data_center: u8, rack: u8, weight: u32 },
    Leave(usize),
    Weigh(usize, u32),
    Factor(u8),
}

pub(crate) fn member(id: u16, data_center: &str, rack: &str, weight: u32) -> Member {
    Member {
        id: NodeId(id),
        name: format!("node-{id}"),
        data_center: data_center.into(),
        rack: rack.into(),
        weight,
        state: MemberState::Ready,
        addresses: Addresses::default(),
    }
}

pub(crate) fn members(all: impl IntoIterator<Item = Member>) -> Members {
    all.into_iter().map(|member| (member.id, member)).collect()
}

pub(crate) fn bits(bits: u8) -> PartitionBits {
    PartitionBits::new(bits).unwrap()
}

pub(crate) fn simple(replicas: u8) -> Strategy {
    Strategy::Simple { replicas }
}

impl Cluster {
    /// The members that are planned for together, with their number of replicas: all, or each data center's.
    pub(crate) fn groups(&self) -> Vec<(Vec<&Member>, usize)> {
        let holders = || self.members.values().filter(|member| member.may_hold_data());
        match &self.strategy {
            Strategy::Simple { replicas } => vec![(holders().collect(), usize::from(*replicas))],
            Strategy::Network(factors) => {
                let in_data_center = |name: &DataCenter| holders().filter(|m| m.data_center == *name).collect();
                factors.iter().map(|(name, replicas)| (in_data_center(name), usize::from(*replicas))).collect()
            }
        }
    }

    pub(crate) fn happen(&mut self, event: &Event) {
        let holders: Vec<NodeId> = self.members.values().filter(|m| m.may_hold_data()).map(|m| m.id).collect();
        match event {
            Event::Join { data_center, rack, weight } => {
                let id = self.members.last_key_value().map_or(0, |(id, _)| id.0 + 1);
                let joined = Member {
                    state: MemberState::Joining,
                    ..member(id, &format!("dc{data_center}"), &format!("r{rack}"), *weight)
                };
                self.members.insert(joined.id, joined);
            }
            // The last one stays: without members there is nothing to say.
            Event::Leave(pick) if holders.len() > 1 => {
                let leaver = self.members.get_mut(&holders[pick % holders.len()]).unwrap();
                leaver.state = if pick % 2 == 0 { MemberState::Leaving } else { MemberState::Left };
            }
            Event::Leave(_) => {}
            Event::Weigh(pick, weight) => {
                self.members.get_mut(&holders[pick % holders.len()]).unwrap().weight = *weight;
            }
            Event::Factor(factor) => match &mut self.strategy {
                Strategy::Simple { replicas } => *replicas = *factor,
                Strategy::Network(factors) => *factors.first_entry().unwrap().get_mut() = *factor,
            },
        }
    }
}

/// Weights all alike, or anything from 1 to 10: both are how clusters are.
fn weights(nodes: usize) -> impl Strategy_<Value = Vec<u32>> {
    prop_oneof![Just(vec![1; nodes]), prop::collection::vec(1..=10u32, nodes)]
}

use proptest::strategy::Strategy as Strategy_;

/// Up to `nodes` nodes in up to 10 racks, in one data center under `simple`, or in two under `network`.
pub(crate) fn clusters(nodes: usize, bits: &'static [u8]) -> impl Strategy_<Value = Cluster> {
    let shape = (1..=nodes, 1..=10u8, 1..=2u8, 1..=5u8, 1..=5u8, any::<bool>(), prop::sample::select(bits));
    shape.prop_flat_map(|(nodes, racks, data_centers, factor, other_factor, network, bits)| {
        let places = prop::collection::vec((0..data_centers, 0..racks), nodes);
        (places, weights(nodes)).prop_map(move |(places, weights)| {
            let each = places.iter().zip(weights).enumerate();
            let members = members(each.map(|(id, ((data_center, rack), weight))| {
                member(id as u16, &format!("dc{data_center}"), &format!("r{rack}"), weight)
            }));
            let factors = [("dc0", factor), ("dc1", other_factor)].map(|(name, factor)| (name.into(), factor));
            let strategy = if network { Strategy::Network(factors.into()) } else { simple(factor) };
            Cluster { members, strategy, bits: PartitionBits::new(bits).unwrap() }
        })
    })
}

pub(crate) fn joins() -> impl Strategy_<Value = Event> {
    (0..2u8, 0..10u8, 1..=10u32).prop_map(|(data_center, rack, weight)| Event::Join { data_center, rack, weight })
}

pub(crate) fn leaves() -> impl Strategy_<Value = Event> {
    any::<usize>().prop_map(Event::Leave)
}

pub(crate) fn events() -> impl Strategy_<Value = Event> {
    let weighed = (any::<usize>(), 1..=10u32).prop_map(|(pick, weight)| Event::Weigh(pick, weight));
    prop_oneof![3 => joins(), 3 => leaves(), 2 => weighed, 1 => (1..=5u8).prop_map(Event::Factor)]
}
