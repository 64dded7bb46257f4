//! Evening out what nodes hold, at the least price: shortest paths and negative cycles of a minimum-cost flow.
//!
//! The flow runs from partitions to nodes, but its residual graph can be walked on nodes alone: every way from one node
//! to the next leads through one partition, in which the one hands its replica over to the other. So the graph has as
//! many vertices as there are nodes, however many the partitions, and an edge costs what the cheapest partition asks.
//!
//! Why the result is cheapest: a flow is of minimum cost exactly when its residual graph has no cycle of negative price.
//! [`save`] ends when there is none, also none that changes which nodes round up; and [`level_out`], which hands over
//! along cheapest paths alone, makes none.

use super::shares::Bounds;

/// In `partition`, node `from` is replaced by node `to`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Handover {
    pub(super) partition: usize,
    pub(super) from: usize,
    pub(super) to: usize,
}

/// Something that nodes hold and can hand over to each other.
pub(super) trait Exchange {
    fn nodes(&self) -> usize;

    /// How much a node holds.
    fn held(&self, node: usize) -> usize;

    /// How much it ought to hold.
    fn bounds(&self, node: usize) -> Bounds;

    /// The price of the cheapest hand-over between two nodes: what it adds to the moves.
    fn price(&self, from: usize, to: usize) -> Option<i64>;

    /// One of that price.
    fn cheapest(&self, from: usize, to: usize) -> Option<Handover>;

    /// The price of a hand-over that is possible.
    fn price_of(&self, handover: &Handover) -> i64;

    /// Whether of two possible hand-overs only one can be carried out. Then their ends can be swapped instead.
    fn exclude(&self, one: &Handover, other: &Handover) -> bool;

    fn carry_out(&mut self, handover: &Handover);
}

/// Brings every node within its bounds. Nothing may be left to [`save`], or the paths would not be the cheapest.
///
/// First every unit too much goes to where there is room, then every unit still lacking comes from where one can be
/// spared. If bounds that can be met by some assignment are given, each search finds a way, because the difference to
/// that assignment consists of such ways.
pub(super) fn level_out(exchange: &mut impl Exchange) {
    let room = |exchange: &_, node| held_less_than(exchange, node, |bounds| bounds.most);
    let lack = |exchange: &_, node| held_less_than(exchange, node, |bounds| bounds.least);
    let spare = |exchange: &_, node| held_more_than(exchange, node, |bounds| bounds.least);
    let surplus = |exchange: &_, node| held_more_than(exchange, node, |bounds| bounds.most);
    while let Some(path) = cheapest_path(exchange, surplus, room, lack) {
        carry_out_path(exchange, &path);
    }
    while let Some(path) = cheapest_path(exchange, spare, lack, lack) {
        carry_out_path(exchange, &path);
    }
}

fn held_less_than<E: Exchange>(exchange: &E, node: usize, bound: fn(Bounds) -> usize) -> bool {
    exchange.held(node) < bound(exchange.bounds(node))
}

fn held_more_than<E: Exchange>(exchange: &E, node: usize, bound: fn(Bounds) -> usize) -> bool {
    exchange.held(node) > bound(exchange.bounds(node))
}

/// Makes the assignment cheaper as long as it can be, without leaving the bounds any further.
pub(super) fn save(exchange: &mut impl Exchange) {
    while let Some(cycle) = saving_cycle(exchange) {
        cycle.iter().for_each(|handover| exchange.carry_out(handover));
    }
}

fn carry_out_path(exchange: &mut impl Exchange, path: &[usize]) {
    // All are chosen before the first is carried out. On a shortest path no two exclude each other: swapping their ends
    // would leave out a cycle, which costs nothing less than nothing, and so give a shorter path.
    let hops = path.iter().zip(path.iter().skip(1));
    let handovers: Vec<_> = hops.filter_map(|(from, to)| exchange.cheapest(*from, *to)).collect();
    handovers.iter().for_each(|handover| exchange.carry_out(handover));
}

/// The cheapest path from a source to a target, the one with the fewest hops among those, and to a favoured target
/// rather than to another of the same price.
fn cheapest_path<E: Exchange>(
    exchange: &E,
    source: impl Fn(&E, usize) -> bool,
    target: impl Fn(&E, usize) -> bool,
    favoured: impl Fn(&E, usize) -> bool,
) -> Option<Vec<usize>> {
    let nodes = exchange.nodes();
    let start = (0..nodes).map(|node| source(exchange, node).then_some(0)).collect();
    let mut search = Search::from(start);
    while search.relax(|from, to| exchange.price(from, to)) && search.rounds <= nodes {}
    let rank = |node: &usize| {
        let length = search.length_to(*node)?;
        Some((length.div_euclid(search.scale()), !favoured(exchange, *node), length, *node))
    };
    let (.., best) = (0..nodes).filter(|node| target(exchange, *node)).filter_map(|node| rank(&node)).min()?;
    let mut path = vec![best];
    while let Some(before) = path.last().and_then(|node| search.before(*node))
        && path.len() <= nodes
    {
        path.push(before);
    }
    path.reverse();
    Some(path)
}

/// Hand-overs that together save something, and leave each node what it holds, or one less for one and one more for
/// another where both stay within their bounds.
fn saving_cycle<E: Exchange>(exchange: &E) -> Option<Vec<Handover>> {
    // One more vertex, the outside: before it is a node that has room, behind it one that can spare something.
    let outside = exchange.nodes();
    let price = |from: usize, to: usize| {
        if from == outside {
            held_more_than(exchange, to, |bounds| bounds.least).then_some(0)
        } else if to == outside {
            held_less_than(exchange, from, |bounds| bounds.most).then_some(0)
        } else {
            exchange.price(from, to)
        }
    };
    let mut search = Search::from(vec![Some(0); outside + 1]);
    let cycle = loop {
        if !search.relax(price) {
            return None;
        }
        if let Some(cycle) = search.cycle() {
            break cycle;
        }
    };
    let ends = cycle.iter().zip(cycle.iter().cycle().skip(1));
    let inside = ends.filter(|(from, to)| **from != outside && **to != outside);
    Some(without_exclusions(exchange, inside.filter_map(|(from, to)| exchange.cheapest(*from, *to)).collect()))
}

/// A cycle in which two hand-overs exclude each other falls apart into two when their ends are swapped, and one of these
/// saves as well.
fn without_exclusions<E: Exchange>(exchange: &E, mut cycle: Vec<Handover>) -> Vec<Handover> {
    let price_of = |cycle: &[Handover]| cycle.iter().map(|handover| exchange.price_of(handover)).sum::<i64>();
    while let Some((early, one, late, other)) = excluding_pair(exchange, &cycle) {
        let after = cycle.split_off(late + 1);
        let mut inner = cycle.split_off(early + 1);
        inner.pop();
        inner.push(Handover { from: other.from, ..one });
        cycle.pop();
        cycle.push(Handover { to: other.to, ..one });
        cycle.extend(after);
        if price_of(&inner) < price_of(&cycle) {
            cycle = inner;
        }
    }
    cycle
}

fn excluding_pair<E: Exchange>(exchange: &E, cycle: &[Handover]) -> Option<(usize, Handover, usize, Handover)> {
    let handovers = || cycle.iter().copied().enumerate();
    handovers().find_map(|(early, one)| {
        let (late, other) = handovers().find(|(late, other)| *late > early && exchange.exclude(&one, other))?;
        Some((early, one, late, other))
    })
}

/// Bellman and Ford's search over vertices. Lengths are prices first, then hops.
struct Search {
    /// How far each vertex is, and from which one it was reached.
    reached: Vec<Option<(i64, Option<usize>)>>,
    /// Those that came nearer in the last round.
    nearer: Vec<bool>,
    rounds: usize,
}

impl Search {
    fn from(start: Vec<Option<i64>>) -> Self {
        let nearer = start.iter().map(Option::is_some).collect();
        let reached = start.into_iter().map(|length| Some((length?, None))).collect();
        Self { reached, nearer, rounds: 0 }
    }

    /// More than the hops of any path without a cycle, so that no number of hops outweighs a price.
    fn scale(&self) -> i64 {
        self.reached.len() as i64 + 1
    }

    fn length_to(&self, vertex: usize) -> Option<i64> {
        self.reached.get(vertex).copied().flatten().map(|(length, _)| length)
    }

    fn before(&self, vertex: usize) -> Option<usize> {
        self.reached.get(vertex).copied().flatten().and_then(|(_, before)| before)
    }

    /// One round over all edges. Says whether any vertex came nearer.
    fn relax(&mut self, price: impl Fn(usize, usize) -> Option<i64>) -> bool {
        self.rounds += 1;
        let scale = self.scale();
        let fresh = vec![false; self.nearer.len()];
        let changed = std::mem::replace(&mut self.nearer, fresh);
        for (from, _) in changed.iter().enumerate().filter(|(_, changed)| **changed) {
            let Some(length) = self.length_to(from) else { continue };
            for (to, (reached, nearer)) in self.reached.iter_mut().zip(&mut self.nearer).enumerate() {
                if to == from {
                    continue;
                }
                let Some(price) = price(from, to) else { continue };
                let through = length + price * scale + 1;
                if reached.is_none_or(|(known, _)| through < known) {
                    *reached = Some((through, Some(from)));
                    *nearer = true;
                }
            }
        }
        self.nearer.contains(&true)
    }

    /// A cycle among the vertices and those they were reached from: its price is negative.
    fn cycle(&self) -> Option<Vec<usize>> {
        let mut seen_from: Vec<Option<usize>> = vec![None; self.reached.len()];
        for start in 0..self.reached.len() {
            let mut at = Some(start);
            while let Some(vertex) = at {
                match seen_from.get_mut(vertex) {
                    Some(seen @ None) => *seen = Some(start),
                    Some(Some(earlier)) if *earlier == start => return Some(self.cycle_through(vertex)),
                    _ => break,
                }
                at = self.before(vertex);
            }
        }
        None
    }

    fn cycle_through(&self, vertex: usize) -> Vec<usize> {
        let mut cycle = vec![vertex];
        while let Some(before) = cycle.last().and_then(|last| self.before(*last))
            && before != vertex
        {
            cycle.push(before);
        }
        cycle.reverse();
        cycle
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Hand-overs of one partition exclude each other. Prices depend on who takes.
    struct OneEach;

    impl Exchange for OneEach {
        fn nodes(&self) -> usize {
            4
        }

        fn held(&self, _: usize) -> usize {
            0
        }

        fn bounds(&self, _: usize) -> Bounds {
            Bounds::default()
        }

        fn price(&self, _: usize, _: usize) -> Option<i64> {
            None
        }

        fn cheapest(&self, _: usize, _: usize) -> Option<Handover> {
            None
        }

        fn price_of(&self, handover: &Handover) -> i64 {
            if handover.to == 2 { -1 } else { 0 }
        }

        fn exclude(&self, one: &Handover, other: &Handover) -> bool {
            one.partition == other.partition
        }

        fn carry_out(&mut self, _: &Handover) {}
    }

    fn cycle(hops: &[(usize, usize, usize)]) -> Vec<Handover> {
        hops.iter().map(|(partition, from, to)| Handover { partition: *partition, from: *from, to: *to }).collect()
    }

    #[test]
    fn of_a_cycle_that_cannot_be_carried_out_the_half_that_saves_remains() {
        // Partition 5 is asked for two hand-overs. With their ends swapped there are two cycles, and node 2 is in the one.
        let whole = cycle(&[(5, 0, 1), (6, 1, 2), (5, 2, 3), (7, 3, 0)]);
        assert_eq!(without_exclusions(&OneEach, whole), cycle(&[(6, 1, 2), (5, 2, 1)]));
        let turned = cycle(&[(5, 2, 3), (7, 3, 0), (5, 0, 1), (6, 1, 2)]);
        assert_eq!(without_exclusions(&OneEach, turned), cycle(&[(5, 2, 1), (6, 1, 2)]));
        let possible = cycle(&[(5, 0, 1), (6, 1, 2), (7, 2, 0)]);
        assert_eq!(without_exclusions(&OneEach, possible.clone()), possible);
    }

    #[test]
    fn a_search_finds_the_cheapest_way_and_then_the_shortest() {
        let price = |from: usize, to: usize| match (from, to) {
            (0, 1) | (1, 2) | (2, 3) => Some(0),
            (0, 3) => Some(1),
            (0, 2) => Some(0),
            _ => None,
        };
        let mut search = Search::from(vec![Some(0), None, None, None]);
        while search.relax(price) {}
        assert_eq!((search.before(3), search.before(2), search.before(0)), (Some(2), Some(0), None));
        assert_eq!(search.cycle(), None);
    }

    #[test]
    fn a_search_tells_a_cycle_of_negative_price() {
        let price = |from: usize, to: usize| match (from, to) {
            (0, 1) => Some(1),
            (1, 2) => Some(0),
            (2, 1) => Some(-1),
            _ => None,
        };
        let mut search = Search::from(vec![Some(0); 3]);
        let cycle = (0..10).find_map(|_| if search.relax(price) { search.cycle() } else { None });
        assert!(cycle.is_some_and(|cycle| cycle.len() == 2 && !cycle.contains(&0)));
    }
}
