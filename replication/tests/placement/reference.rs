//! What a plan ought to be, computed another way: ideal shares by bisection, and the fewest moves there can be by a
//! textbook minimum-cost flow over every partition, rack and node.

use std::collections::{BTreeMap, VecDeque};

use cube_replication::topology::{Assignment, DataCenter, Member, Rack};
use cube_storage::model::{NodeId, PartitionBits};

const ROUNDING: f64 = 1e-6;

/// What balance means for members that are planned for together.
pub(crate) struct Ideal {
    pub(crate) replicas: usize,
    /// By rack: its nodes, and the least and the most replicas of one partition.
    pub(crate) racks: Vec<(Vec<NodeId>, usize, usize)>,
    /// By node: the least and the most partitions.
    pub(crate) shares: BTreeMap<NodeId, (usize, usize)>,
}

impl Ideal {
    pub(crate) fn of(members: &[&Member], factor: usize, bits: PartitionBits) -> Self {
        let mut by_rack: BTreeMap<(&DataCenter, &Rack), Vec<&Member>> = BTreeMap::new();
        for member in members {
            by_rack.entry((&member.data_center, &member.rack)).or_default().push(member);
        }
        let replicas = factor.min(members.len());
        let sizes: Vec<usize> = by_rack.values().map(Vec::len).collect();
        let spread = deal(&sizes, replicas);
        let racks: Vec<_> = by_rack
            .values()
            .zip(&spread)
            .map(|(nodes, (least, most))| (nodes.iter().map(|node| node.id).collect(), *least, *most))
            .collect();

        let partitions = f64::from(bits.partitions());
        let fill = |rack: &[&Member], level: f64| -> f64 {
            rack.iter().map(|node| (level * f64::from(node.weight)).min(partitions)).sum()
        };
        let bounded = |rack: &[&Member], level: f64, bounds: &(usize, usize)| {
            fill(rack, level).clamp(bounds.0 as f64 * partitions, bounds.1 as f64 * partitions)
        };
        let total = replicas as f64 * partitions;
        let level = bisect(partitions, total, |level| {
            by_rack.values().zip(&spread).map(|(rack, bounds)| bounded(rack, level, bounds)).sum()
        });
        let mut shares = BTreeMap::new();
        for (rack, bounds) in by_rack.values().zip(&spread) {
            let held = bounded(rack, level, bounds);
            let own_level = bisect(partitions, held, |level| fill(rack, level));
            for node in rack {
                let share = (own_level * f64::from(node.weight)).min(partitions);
                shares.insert(
                    node.id,
                    ((share - ROUNDING).ceil().max(0.0) as usize, (share + ROUNDING).floor() as usize),
                );
                let (least, most) = shares[&node.id];
                if least > most {
                    shares.insert(node.id, (most, least));
                }
            }
        }
        Self { replicas, racks, shares }
    }
}

/// Deals replicas to racks in rounds, one to each that has nodes left. What the last round cannot give to all is
/// given to some.
fn deal(sizes: &[usize], mut replicas: usize) -> Vec<(usize, usize)> {
    let mut dealt = vec![0; sizes.len()];
    loop {
        let open: Vec<usize> = (0..sizes.len()).filter(|rack| dealt[*rack] < sizes[*rack]).collect();
        if open.is_empty() || replicas < open.len() {
            let more = |rack: usize| usize::from(replicas > 0 && open.contains(&rack));
            return dealt.iter().enumerate().map(|(rack, dealt)| (*dealt, dealt + more(rack))).collect();
        }
        replicas -= open.len();
        open.iter().for_each(|rack| dealt[*rack] += 1);
    }
}

/// The level up to `top` at which something that grows with it reaches `total`.
fn bisect(top: f64, total: f64, grown: impl Fn(f64) -> f64) -> f64 {
    let (mut low, mut high) = (0.0, top);
    for _ in 0..200 {
        let middle = f64::midpoint(low, high);
        if grown(middle) < total { low = middle } else { high = middle }
    }
    high
}

/// The fewest replicas that any balanced assignment has and `previous` has not.
pub(crate) fn fewest_moves(ideal: &Ideal, previous: &Assignment, bits: PartitionBits) -> usize {
    /// More than all moves together can cost, so that every lower bound is met first.
    const MUST: i64 = 1 << 30;
    let mut flow = Flow::default();
    let [source, sink] = [flow.vertex(), flow.vertex()];
    let mut nodes = BTreeMap::new();
    for (node, (least, most)) in &ideal.shares {
        let vertex = flow.vertex();
        nodes.insert(*node, vertex);
        flow.edge(vertex, sink, *least, -MUST);
        flow.edge(vertex, sink, most - least, 0);
    }
    let mut must = ideal.shares.values().map(|(least, _)| *least).sum::<usize>();
    for partition in bits.all() {
        let before = previous.replicas(partition);
        let vertex = flow.vertex();
        flow.edge(source, vertex, ideal.replicas, 0);
        for (members, least, most) in &ideal.racks {
            let rack = flow.vertex();
            flow.edge(vertex, rack, *least, -MUST);
            flow.edge(vertex, rack, most - least, 0);
            must += least;
            for node in members {
                flow.edge(rack, nodes[node], 1, i64::from(!before.contains(node)));
            }
        }
    }
    let (units, price) = flow.cheapest(source, sink);
    assert_eq!(units, ideal.replicas * usize::from(bits.partitions()), "an assignment within the bounds exists");
    usize::try_from(price + MUST * must as i64).expect("every lower bound is met")
}

/// Successive shortest paths, with nothing clever about it.
#[derive(Default)]
struct Flow {
    edges_of: Vec<Vec<usize>>,
    /// Where to, how much more, and at what price. Its reverse is the edge with the last bit of the number flipped.
    edges: Vec<(usize, usize, i64)>,
}

impl Flow {
    fn vertex(&mut self) -> usize {
        self.edges_of.push(Vec::new());
        self.edges_of.len() - 1
    }

    fn edge(&mut self, from: usize, to: usize, capacity: usize, price: i64) {
        self.edges_of[from].push(self.edges.len());
        self.edges.push((to, capacity, price));
        self.edges_of[to].push(self.edges.len());
        self.edges.push((from, 0, -price));
    }

    fn cheapest(&mut self, source: usize, sink: usize) -> (usize, i64) {
        let (mut units, mut total) = (0, 0);
        loop {
            let mut best = vec![i64::MAX; self.edges_of.len()];
            let mut by = vec![usize::MAX; self.edges_of.len()];
            let mut queued = vec![false; self.edges_of.len()];
            let mut queue = VecDeque::from([source]);
            best[source] = 0;
            while let Some(vertex) = queue.pop_front() {
                queued[vertex] = false;
                for edge in &self.edges_of[vertex] {
                    let (to, capacity, price) = self.edges[*edge];
                    if capacity > 0 && best[vertex] + price < best[to] {
                        best[to] = best[vertex] + price;
                        by[to] = *edge;
                        if !std::mem::replace(&mut queued[to], true) {
                            queue.push_back(to);
                        }
                    }
                }
            }
            if best[sink] == i64::MAX {
                return (units, total);
            }
            units += 1;
            total += best[sink];
            let mut vertex = sink;
            while vertex != source {
                let edge = by[vertex];
                self.edges[edge].1 -= 1;
                self.edges[edge ^ 1].1 += 1;
                vertex = self.edges[edge ^ 1].0;
            }
        }
    }
}
