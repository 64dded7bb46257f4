//! From the present replicas and the present members to the next replicas: a pure function, so that it can be tried a
//! million times and gives the same answer everywhere.
//!
//! What a plan keeps, in this order:
//! 1. Replicas of a partition are distinct members, as many as the strategy asks for, or all there are.
//! 2. They are spread over racks as evenly as the racks' sizes allow: never two in one rack while racks suffice, and of
//!    five in three racks never three in one, so that losing a rack loses no majority that could have been kept.
//! 3. Every member's share is in proportion to its weight, rounded up or down, as far as 1. and 2. let it (`shares.rs`).
//! 4. Among all such plans it is one with the fewest replicas to copy (`slots.rs`: a minimum-cost flow).
//! 5. Who comes first (the primary) is shared out in proportion too, by reordering alone (`primary.rs`).
//!
//! Each data center of a `network` strategy is planned for itself. Planning what was planned changes nothing.

mod balance;
mod grid;
mod primary;
mod shares;
mod slots;

use std::collections::{BTreeMap, BTreeSet};

use cube_storage::model::{NodeId, PartitionBits};

use super::{Assignment, DataCenter, Member, Rack, Strategy};
use shares::{Holder, Shares};

/// The next replicas of every partition.
///
/// `previous` is what the moves under way lead to; it may be empty, or name nodes that are no members any more. A
/// partition's replicas stand in the order of the data centers' names, and within one in the order they had before,
/// new ones last, but for the primary.
pub fn plan(
    previous: &Assignment,
    members: &BTreeMap<NodeId, Member>,
    strategy: &Strategy,
    bits: PartitionBits,
) -> Assignment {
    let holders = || members.values().filter(|member| member.may_hold_data());
    match strategy {
        Strategy::Simple { replicas } => {
            let holders: Vec<_> = holders().collect();
            Assignment::from_rows(plan_group(previous, &holders, usize::from(*replicas), bits))
        }
        Strategy::Network(factors) => {
            let mut rows: Vec<Vec<NodeId>> = bits.all().map(|_| Vec::new()).collect();
            for (data_center, replicas) in factors {
                let holders: Vec<_> = holders().filter(|member| member.data_center == *data_center).collect();
                let group = plan_group(previous, &holders, usize::from(*replicas), bits);
                rows.iter_mut().zip(group).for_each(|(row, nodes)| row.extend(nodes));
            }
            Assignment::from_rows(rows)
        }
    }
}

/// Plans among `members` alone, as if there were no others.
fn plan_group(previous: &Assignment, members: &[&Member], replicas: usize, bits: PartitionBits) -> Vec<Vec<NodeId>> {
    let partitions = usize::from(bits.partitions());
    let shares = Shares::new(&holders(members), replicas, partitions);
    let index_of = |node: &NodeId| members.binary_search_by_key(node, |member| member.id).ok();
    let before: Vec<Vec<usize>> =
        bits.all().map(|partition| previous.replicas(partition).iter().filter_map(index_of).collect()).collect();

    let held = slots::assign(&shares, &before);
    let rows = primary::order(&held, &before, members.len());
    let node_at = |index: usize| members.get(index).map(|member| member.id);
    rows.into_iter().map(|row| row.into_iter().filter_map(node_at).collect()).collect()
}

/// What the arithmetic needs to know of the members: weights, and racks by number.
fn holders(members: &[&Member]) -> Vec<Holder> {
    let names: BTreeSet<(&DataCenter, &Rack)> =
        members.iter().map(|member| (&member.data_center, &member.rack)).collect();
    let numbers: BTreeMap<_, usize> = names.into_iter().zip(0..).collect();
    let rack_of = |member: &Member| numbers.get(&(&member.data_center, &member.rack)).copied().unwrap_or(0);
    members.iter().map(|member| Holder { weight: member.weight, rack: rack_of(member) }).collect()
}

/// A well mixed number: breaks ties so that no node or partition is always the first.
fn mixed(left: usize, right: usize) -> u64 {
    let mut mixed = ((left as u64) << 32 | right as u64).wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
