//! Who comes first among the replicas of a partition: each node for its part of the partitions it holds.
//!
//! Being first moves no data. The first of before stays first unless that would leave another node short.

use super::balance::{self, Exchange, Handover};
use super::grid::Grid;
use super::mixed;
use super::shares::Bounds;

/// Orders the nodes that hold each partition: as before, new ones last, and the primary in front.
pub(super) fn order(held: &[Vec<usize>], before: &[Vec<usize>], nodes: usize) -> Vec<Vec<usize>> {
    let mut rows: Vec<Vec<usize>> = held.iter().zip(before).map(|(held, before)| in_order(held, before)).collect();
    let mut primaries = Primaries::of(&rows, before, nodes);
    balance::level_out(&mut primaries);
    let Primaries { first, .. } = primaries;
    for (row, first) in rows.iter_mut().zip(first) {
        if let Some(position) = row.iter().position(|node| Some(*node) == first) {
            row.get_mut(..=position).into_iter().for_each(|front| front.rotate_right(1));
        }
    }
    rows
}

fn in_order(held: &[usize], before: &[usize]) -> Vec<usize> {
    let mut row: Vec<usize> = Vec::with_capacity(held.len());
    for node in before {
        if held.contains(node) && !row.contains(node) {
            row.push(*node);
        }
    }
    let mut added: Vec<usize> = held.iter().copied().filter(|node| !row.contains(node)).collect();
    added.sort_unstable();
    row.extend(added);
    row
}

/// Who is first, as something nodes can hand over to each other.
struct Primaries {
    first: Vec<Option<usize>>,
    rows: Vec<Vec<usize>>,
    counts: Vec<usize>,
    bounds: Vec<Bounds>,
    /// By giving and taking node: in how many partitions that is possible.
    offers: Grid<u32>,
}

impl Primaries {
    fn of(rows: &[Vec<usize>], before: &[Vec<usize>], nodes: usize) -> Self {
        let mut held = vec![0; nodes];
        for node in rows.iter().flatten() {
            held.get_mut(*node).into_iter().for_each(|count| *count += 1);
        }
        // Every partition has as many replicas as every other.
        let replicas = rows.first().map_or(1, |row| row.len().max(1));
        let bounds = held.iter().map(|held: &usize| Bounds { least: held / replicas, most: held.div_ceil(replicas) });
        let mut primaries = Self {
            first: vec![None; rows.len()],
            rows: rows.to_vec(),
            counts: vec![0; nodes],
            bounds: bounds.collect(),
            offers: Grid::new(nodes, nodes),
        };
        let kept = |row: &[usize], before: &[usize]| before.first().copied().filter(|first| row.contains(first));
        for (partition, (row, before)) in rows.iter().zip(before).enumerate() {
            if let Some(first) = kept(row, before) {
                primaries.set(partition, first);
            }
        }
        for (partition, (row, before)) in rows.iter().zip(before).enumerate() {
            if kept(row, before).is_none()
                && let Some(first) = row.iter().max_by_key(|node| (primaries.lack(**node), mixed(partition, **node)))
            {
                primaries.set(partition, *first);
            }
        }
        primaries
    }

    fn lack(&self, node: usize) -> i64 {
        self.bounds(node).most as i64 - self.held(node) as i64
    }

    fn set(&mut self, partition: usize, node: usize) {
        let former = self.first.get_mut(partition).and_then(|first| first.replace(node));
        if let Some(former) = former {
            self.counts.get_mut(former).into_iter().for_each(|count| *count -= 1);
            self.count_offers(partition, former, |count| *count -= 1);
        }
        self.counts.get_mut(node).into_iter().for_each(|count| *count += 1);
        self.count_offers(partition, node, |count| *count += 1);
    }

    fn count_offers(&mut self, partition: usize, from: usize, change: impl Fn(&mut u32)) {
        for to in self.rows.get(partition).into_iter().flatten().filter(|to| **to != from) {
            self.offers.change(from, *to, &change);
        }
    }
}

impl Exchange for Primaries {
    fn nodes(&self) -> usize {
        self.counts.len()
    }

    fn held(&self, node: usize) -> usize {
        self.counts.get(node).copied().unwrap_or_default()
    }

    fn bounds(&self, node: usize) -> Bounds {
        self.bounds.get(node).copied().unwrap_or_default()
    }

    fn price(&self, from: usize, to: usize) -> Option<i64> {
        (self.offers.at(from, to) > 0).then_some(0)
    }

    fn cheapest(&self, from: usize, to: usize) -> Option<Handover> {
        let fitting = |(first, row): (&Option<usize>, &Vec<usize>)| *first == Some(from) && row.contains(&to);
        let partition = self.first.iter().zip(&self.rows).position(fitting)?;
        Some(Handover { partition, from, to })
    }

    fn price_of(&self, _: &Handover) -> i64 {
        0
    }

    fn exclude(&self, one: &Handover, other: &Handover) -> bool {
        one.partition == other.partition
    }

    fn carry_out(&mut self, handover: &Handover) {
        self.set(handover.partition, handover.to);
    }
}
