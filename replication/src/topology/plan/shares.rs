//! How many partitions each node ought to hold: in proportion to its weight, within what racks and distinctness allow.
//!
//! The ideal share of node `i` is `level * weight[i]`, one level for all, with three bounds that may bend it: a node
//! holds a partition at most once; a rack holds at least and at most so many replicas of each partition (`Rack`). Think
//! of one pipe that fills all nodes; a full node takes no more, a full rack takes no more, and a rack that must hold more
//! than its weight is worth is filled up first. Where no bound is met, the ideal is `weight / all weights`.
//!
//! The arithmetic is exact, in fractions: a share that is a whole number is met exactly. Rounding each share up or down
//! always leaves a valid assignment: spreading every node's ideal evenly over all partitions is a fractional flow within
//! all bounds, the bounds are whole numbers, and a flow within whole bounds can be made whole.

/// What counts of a member.
#[derive(Clone, Copy, Debug)]
pub(super) struct Holder {
    pub(super) weight: u32,
    /// Racks are numbered from 0.
    pub(super) rack: usize,
}

/// From, and up to and including.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Bounds {
    pub(super) least: usize,
    pub(super) most: usize,
}

/// What a balanced assignment is.
#[derive(Clone, Debug)]
pub(super) struct Shares {
    /// Replicas of each partition: what was asked for, or all nodes there are.
    pub(super) replicas: usize,
    /// By node: its rack.
    pub(super) rack_of: Vec<usize>,
    /// By node: the ideal share, rounded down and up.
    pub(super) nodes: Vec<Bounds>,
    /// By rack: how many replicas of each partition it holds.
    pub(super) racks: Vec<Bounds>,
}

impl Shares {
    pub(super) fn new(holders: &[Holder], factor: usize, partitions: usize) -> Self {
        let replicas = factor.min(holders.len());
        let racks = Rack::all(holders, replicas, partitions as u128);
        let level = common_level(&racks, partitions as u128, (replicas * partitions) as u128);
        let share_of = |holder: &Holder| {
            let level = racks.get(holder.rack).map_or(level, |rack| level.max(rack.floor).min(rack.ceiling));
            level.share(holder.weight, partitions as u128)
        };
        Self {
            replicas,
            rack_of: holders.iter().map(|holder| holder.rack).collect(),
            nodes: holders.iter().map(share_of).collect(),
            racks: racks.iter().map(|rack| rack.per_partition).collect(),
        }
    }
}

/// A rack, and the levels between which it fills like all others.
#[derive(Debug)]
struct Rack {
    weights: Vec<u32>,
    /// Replicas of each partition.
    per_partition: Bounds,
    /// Below this level it is filled up to the least it must hold.
    floor: Level,
    /// Past this level it holds the most it may.
    ceiling: Level,
}

impl Rack {
    fn all(holders: &[Holder], replicas: usize, partitions: u128) -> Vec<Self> {
        let mut weights: Vec<Vec<u32>> = Vec::new();
        for holder in holders {
            if weights.len() <= holder.rack {
                weights.resize(holder.rack + 1, Vec::new());
            }
            weights.get_mut(holder.rack).into_iter().for_each(|rack| rack.push(holder.weight));
        }
        let bounds = spread(&weights.iter().map(Vec::len).collect::<Vec<_>>(), replicas);
        let rack = |(weights, per_partition): (Vec<u32>, Bounds)| {
            let level_at = |replicas: usize| level_for(&weights, partitions, replicas as u128 * partitions);
            Self { floor: level_at(per_partition.least), ceiling: level_at(per_partition.most), weights, per_partition }
        };
        weights.into_iter().zip(bounds).map(rack).collect()
    }
}

/// Spreads the replicas of a partition over racks of these sizes as evenly as they allow: some level that every larger
/// rack holds or exceeds by one, and smaller racks hold with all their nodes.
fn spread(sizes: &[usize], replicas: usize) -> Vec<Bounds> {
    let held_at = |level: usize| sizes.iter().map(|size| (*size).min(level)).sum::<usize>();
    let level = (0..replicas).rev().find(|level| held_at(*level) < replicas).unwrap_or(0);
    // If `level + 1` everywhere is exactly enough, nothing less will do.
    let exact = held_at(level + 1) == replicas;
    let bounds = |size: &usize| {
        let most = (*size).min(level + 1);
        Bounds { least: if exact { most } else { (*size).min(level) }, most }
    };
    sizes.iter().map(bounds).collect()
}

/// Partitions per unit of weight, as a fraction. The denominator is never 0.
#[derive(Clone, Copy, Debug)]
struct Level {
    over: u128,
    under: u128,
}

impl Level {
    fn cmp(self, other: Self) -> std::cmp::Ordering {
        (self.over * other.under).cmp(&(other.over * self.under))
    }

    fn max(self, other: Self) -> Self {
        if self.cmp(other).is_lt() { other } else { self }
    }

    fn min(self, other: Self) -> Self {
        if self.cmp(other).is_gt() { other } else { self }
    }

    /// What a node of this weight holds, at most `cap`.
    fn share(self, weight: u32, cap: u128) -> Bounds {
        let amount = self.over * u128::from(weight);
        let least = (amount / self.under).min(cap) as usize;
        let most = amount.div_ceil(self.under).min(cap) as usize;
        Bounds { least, most }
    }
}

/// The level at which nodes of these weights, each full at `cap`, hold `total`. As low as it can be.
fn level_for(weights: &[u32], cap: u128, total: u128) -> Level {
    let mut heaviest_first = weights.to_vec();
    heaviest_first.sort_unstable_by(|left, right| right.cmp(left));
    let mut left_over = total;
    let mut weight_left: u128 = heaviest_first.iter().map(|weight| u128::from(*weight)).sum();
    for weight in heaviest_first {
        let weight = u128::from(weight);
        // Does the heaviest of the rest stay within its cap?
        if left_over * weight <= cap * weight_left {
            return Level { over: left_over, under: weight_left };
        }
        left_over = left_over.saturating_sub(cap);
        weight_left -= weight;
    }
    Level { over: 0, under: 1 }
}

/// The level for all, at which all racks together hold `total`.
///
/// What they hold grows with the level in straight pieces, between the levels where a node or a rack becomes full, or
/// a rack's least is no longer more than its weight is worth. So: find the piece, then solve for the level within it.
fn common_level(racks: &[Rack], cap: u128, total: u128) -> Level {
    let full_node = |weight: &u32| Level { over: cap, under: u128::from(*weight) };
    let ends_of = |rack: &Rack| {
        let full_nodes: Vec<Level> = rack.weights.iter().map(full_node).collect();
        full_nodes.into_iter().chain([rack.floor, rack.ceiling])
    };
    let mut ends: Vec<Level> = racks.iter().flat_map(ends_of).collect();
    ends.sort_by(|left, right| left.cmp(*right));
    for end in ends {
        let pieces = racks.iter().map(|rack| rack.piece_up_to(end, cap));
        let piece = pieces.fold(Piece::default(), |sum, piece| Piece {
            fixed: sum.fixed + piece.fixed,
            weight: sum.weight + piece.weight,
        });
        if piece.fixed * end.under + piece.weight * end.over >= total * end.under {
            let solved = Level { over: total.saturating_sub(piece.fixed), under: piece.weight };
            return if piece.weight == 0 { end } else { solved };
        }
    }
    Level { over: 0, under: 1 }
}

/// What is held over a stretch of levels: `fixed + level * weight`.
#[derive(Clone, Copy, Debug, Default)]
struct Piece {
    fixed: u128,
    weight: u128,
}

impl Rack {
    /// What the rack holds on the piece that ends with level `end`.
    fn piece_up_to(&self, end: Level, cap: u128) -> Piece {
        if end.cmp(self.floor).is_le() {
            return Piece { fixed: self.per_partition.least as u128 * cap, weight: 0 };
        }
        if end.cmp(self.ceiling).is_gt() {
            return Piece { fixed: self.per_partition.most as u128 * cap, weight: 0 };
        }
        self.weights.iter().map(|weight| u128::from(*weight)).fold(Piece::default(), |piece, weight| {
            if weight * end.over <= cap * end.under {
                Piece { weight: piece.weight + weight, ..piece }
            } else {
                Piece { fixed: piece.fixed + cap, ..piece }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(holders: &[(u32, usize)], factor: usize, partitions: usize) -> Vec<(usize, usize)> {
        let holders: Vec<_> = holders.iter().map(|(weight, rack)| Holder { weight: *weight, rack: *rack }).collect();
        let shares = Shares::new(&holders, factor, partitions);
        shares.nodes.iter().map(|share| (share.least, share.most)).collect()
    }

    fn racks(sizes: &[usize], replicas: usize) -> Vec<(usize, usize)> {
        spread(sizes, replicas).iter().map(|rack| (rack.least, rack.most)).collect()
    }

    #[test]
    fn shares_are_in_proportion_to_weight_and_exact_when_they_can_be() {
        assert_eq!(nodes(&[(1, 0), (1, 1), (2, 2)], 1, 256), [(64, 64), (64, 64), (128, 128)]);
        assert_eq!(nodes(&[(1, 0), (1, 1), (1, 2)], 1, 256), [(85, 86); 3]);
    }

    #[test]
    fn a_node_holds_a_partition_at_most_once_and_the_others_take_the_rest() {
        assert_eq!(nodes(&[(10, 0), (1, 1), (1, 2)], 2, 256), [(256, 256), (128, 128), (128, 128)]);
        assert_eq!(nodes(&[(3, 0), (1, 1)], 3, 256), [(256, 256); 2], "all nodes when they are too few");
        assert_eq!(nodes(&[], 3, 256), []);
    }

    #[test]
    fn a_rack_bends_shares_only_as_far_as_it_must() {
        // Two racks and two replicas: one in each, however unequal.
        assert_eq!(nodes(&[(1, 0), (1, 1), (1, 1), (1, 1)], 2, 240), [(240, 240), (80, 80), (80, 80), (80, 80)]);
        // Three racks and two replicas: the large one may hold at most one of each partition.
        assert_eq!(nodes(&[(1, 0), (1, 1), (3, 2), (3, 2)], 2, 240), [(120, 120); 4]);
        // No rack is in the way.
        assert_eq!(nodes(&[(1, 0), (1, 0), (1, 1), (1, 2)], 2, 240), [(120, 120); 4]);
    }

    #[test]
    fn replicas_spread_over_racks_as_evenly_as_racks_are_large() {
        assert_eq!(racks(&[5, 5, 5], 3), [(1, 1); 3]);
        assert_eq!(racks(&[5, 5, 5], 2), [(0, 1); 3]);
        assert_eq!(racks(&[5, 5, 5], 5), [(1, 2); 3]);
        assert_eq!(racks(&[1, 4], 4), [(1, 1), (3, 3)]);
        assert_eq!(racks(&[9], 3), [(3, 3)]);
        assert_eq!(racks(&[1, 1], 2), [(1, 1); 2]);
        assert_eq!(racks(&[], 0), []);
    }
}
