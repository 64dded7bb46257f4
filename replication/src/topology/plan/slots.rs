//! Which nodes hold which partition: keep what can be kept, fill the holes, save what can be saved, and even out.
//!
//! At every moment after the filling, every partition has its full number of distinct replicas, spread over racks as
//! they must be. Only the shares of nodes are still wrong, and only hand-overs that keep the rest true are offered.

use super::balance::{self, Exchange, Handover};
use super::grid::Grid;
use super::mixed;
use super::shares::{Bounds, Shares};

/// The nodes of every partition, in no particular order. Nodes are numbered as in `shares`.
pub(super) fn assign(shares: &Shares, before: &[Vec<usize>]) -> Vec<Vec<usize>> {
    let mut slots = Slots::kept(shares, before);
    for partition in 0..before.len() {
        slots.trim(partition);
    }
    for partition in 0..before.len() {
        slots.fill(partition);
    }
    let mut market = Market::of(slots);
    // Trimming may have dropped the wrong replicas.
    balance::save(&mut market);
    balance::level_out(&mut market);
    market.slots.holders
}

/// Who holds what.
struct Slots<'a> {
    shares: &'a Shares,
    /// By partition and node: held already before.
    before: Grid<bool>,
    /// By partition and node.
    held: Grid<bool>,
    /// By partition and rack.
    in_rack: Grid<u16>,
    /// By partition: the same as `held`.
    holders: Vec<Vec<usize>>,
    /// By node: how many partitions it holds.
    counts: Vec<usize>,
}

impl<'a> Slots<'a> {
    fn kept(shares: &'a Shares, before: &[Vec<usize>]) -> Self {
        let nodes = shares.nodes.len();
        let mut slots = Self {
            shares,
            before: Grid::new(before.len(), nodes),
            held: Grid::new(before.len(), nodes),
            in_rack: Grid::new(before.len(), shares.racks.len()),
            holders: vec![Vec::new(); before.len()],
            counts: vec![0; nodes],
        };
        for (partition, nodes) in before.iter().enumerate() {
            for node in nodes {
                if !slots.held.at(partition, *node) {
                    slots.before.change(partition, *node, |before| *before = true);
                    slots.add(partition, *node);
                }
            }
        }
        slots
    }

    fn add(&mut self, partition: usize, node: usize) {
        self.held.change(partition, node, |held| *held = true);
        self.in_rack.change(partition, self.rack_of(node), |count| *count += 1);
        self.counts.get_mut(node).into_iter().for_each(|count| *count += 1);
        self.holders.get_mut(partition).into_iter().for_each(|holders| holders.push(node));
    }

    fn remove(&mut self, partition: usize, node: usize) {
        self.held.change(partition, node, |held| *held = false);
        self.in_rack.change(partition, self.rack_of(node), |count| *count -= 1);
        self.counts.get_mut(node).into_iter().for_each(|count| *count -= 1);
        self.holders.get_mut(partition).into_iter().for_each(|holders| holders.retain(|held| *held != node));
    }

    /// Drops what a partition may not keep: too many in one rack, or in the way of a rack that must hold more.
    fn trim(&mut self, partition: usize) {
        loop {
            let taken: usize = self.racks(partition).map(|(_, held, bounds)| held.max(bounds.least)).sum();
            let crowded = |(_, held, bounds): &(usize, usize, Bounds)| *held > bounds.most;
            let willing =
                |(_, held, bounds): &(usize, usize, Bounds)| taken > self.shares.replicas && *held > bounds.least;
            let Some((rack, ..)) = self.racks(partition).find(|rack| crowded(rack) || willing(rack)) else { return };
            let worst = self.holders_of(partition).iter().copied().filter(|node| self.rack_of(*node) == rack);
            let Some(node) = worst.min_by_key(|node| (self.lack(*node), mixed(partition, *node))) else { return };
            self.remove(partition, node);
        }
    }

    /// Gives a partition all its replicas, from the rack and then the node that lacks most.
    fn fill(&mut self, partition: usize) {
        while self.holders_of(partition).len() < self.shares.replicas {
            let short = self.racks(partition).any(|(_, held, bounds)| held < bounds.least);
            let open = self
                .racks(partition)
                .filter(|(_, held, bounds)| *held < if short { bounds.least } else { bounds.most });
            let Some((rack, ..)) = open.max_by_key(|(rack, ..)| (self.lack_of_rack(*rack), mixed(*rack, partition)))
            else {
                return;
            };
            let free = (0..self.counts.len()).filter(|node| self.rack_of(*node) == rack);
            let free = free.filter(|node| !self.held.at(partition, *node));
            let Some(node) = free.max_by_key(|node| (self.lack(*node), mixed(partition, *node))) else { return };
            self.add(partition, node);
        }
    }

    /// Every rack with what it holds of a partition and what it ought to.
    fn racks(&self, partition: usize) -> impl Iterator<Item = (usize, usize, Bounds)> {
        let held = self.in_rack.row(partition).iter().map(|held| usize::from(*held));
        held.zip(&self.shares.racks).enumerate().map(|(rack, (held, bounds))| (rack, held, *bounds))
    }

    fn holders_of(&self, partition: usize) -> &[usize] {
        self.holders.get(partition).map_or(&[], Vec::as_slice)
    }

    fn rack_of(&self, node: usize) -> usize {
        self.shares.rack_of.get(node).copied().unwrap_or_default()
    }

    fn rack_bounds(&self, rack: usize) -> Bounds {
        self.shares.racks.get(rack).copied().unwrap_or_default()
    }

    /// How many more partitions a node may hold; less than nothing if it holds too many.
    fn lack(&self, node: usize) -> i64 {
        let most = self.shares.nodes.get(node).map_or(0, |share| share.most);
        most as i64 - self.counts.get(node).map_or(0, |count| *count as i64)
    }

    fn lack_of_rack(&self, rack: usize) -> i64 {
        (0..self.counts.len()).filter(|node| self.rack_of(*node) == rack).map(|node| self.lack(node)).sum()
    }

    /// The price of a hand-over: one more replica to copy, as many as before, or one less. `None` if it would break
    /// what every partition keeps.
    fn price_in(&self, partition: usize, from: usize, to: usize) -> Option<i64> {
        if !self.held.at(partition, from) || self.held.at(partition, to) {
            return None;
        }
        let (old_rack, new_rack) = (self.rack_of(from), self.rack_of(to));
        if old_rack != new_rack {
            let spares = usize::from(self.in_rack.at(partition, old_rack)) > self.rack_bounds(old_rack).least;
            let takes = usize::from(self.in_rack.at(partition, new_rack)) < self.rack_bounds(new_rack).most;
            if !spares || !takes {
                return None;
            }
        }
        let copied = |node| i64::from(!self.before.at(partition, node));
        Some(copied(to) - copied(from))
    }
}

/// The slots with all hand-overs that are possible, counted by price.
struct Market<'a> {
    slots: Slots<'a>,
    /// By giving and taking node: how many partitions offer a price of -1, 0 and 1.
    offers: Grid<[u32; 3]>,
}

impl<'a> Market<'a> {
    fn of(slots: Slots<'a>) -> Self {
        let nodes = slots.counts.len();
        let partitions = slots.holders.len();
        let mut market = Self { slots, offers: Grid::new(nodes, nodes) };
        for partition in 0..partitions {
            market.count_offers(partition, |count| *count += 1);
        }
        market
    }

    fn count_offers(&mut self, partition: usize, change: impl Fn(&mut u32)) {
        for from in self.slots.holders_of(partition) {
            for to in 0..self.slots.counts.len() {
                let Some(price) = self.slots.price_in(partition, *from, to) else { continue };
                self.offers.change(*from, to, |[less, same, more]| match price {
                    ..0 => change(less),
                    0 => change(same),
                    1.. => change(more),
                });
            }
        }
    }
}

impl Exchange for Market<'_> {
    fn nodes(&self) -> usize {
        self.slots.counts.len()
    }

    fn held(&self, node: usize) -> usize {
        self.slots.counts.get(node).copied().unwrap_or_default()
    }

    fn bounds(&self, node: usize) -> Bounds {
        self.slots.shares.nodes.get(node).copied().unwrap_or_default()
    }

    fn price(&self, from: usize, to: usize) -> Option<i64> {
        match self.offers.at(from, to) {
            [0, 0, 0] => None,
            [0, 0, _] => Some(1),
            [0, _, _] => Some(0),
            _ => Some(-1),
        }
    }

    fn cheapest(&self, from: usize, to: usize) -> Option<Handover> {
        let price = self.price(from, to)?;
        let partitions = self.slots.holders.len();
        let start = mixed(from, to) as usize % partitions.max(1);
        let partition = (start..partitions).chain(0..start);
        let fitting = |partition: &usize| self.slots.price_in(*partition, from, to) == Some(price);
        partition.into_iter().find(fitting).map(|partition| Handover { partition, from, to })
    }

    fn price_of(&self, handover: &Handover) -> i64 {
        self.slots.price_in(handover.partition, handover.from, handover.to).unwrap_or_default()
    }

    fn exclude(&self, one: &Handover, other: &Handover) -> bool {
        if one.partition != other.partition {
            return false;
        }
        let racks = |handover: &Handover| (self.slots.rack_of(handover.from), self.slots.rack_of(handover.to));
        let ((one_from, one_to), (other_from, other_to)) = (racks(one), racks(other));
        let both_cross = one_from != one_to && other_from != other_to;
        both_cross || [one_from, one_to].iter().any(|rack| [other_from, other_to].contains(rack))
    }

    fn carry_out(&mut self, handover: &Handover) {
        self.count_offers(handover.partition, |count| *count -= 1);
        self.slots.remove(handover.partition, handover.from);
        self.slots.add(handover.partition, handover.to);
        self.count_offers(handover.partition, |count| *count += 1);
    }
}
