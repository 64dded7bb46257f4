//! One trouble after the other, drawn from a seed, while clients write and read; then everything heals.

use std::time::Duration;

use rustix::process::Signal;

use crate::common::random::Random;
use crate::harness::{Cluster, Network};
use crate::load::{History, Load, Plan, read_back};

const NODES: [u8; 3] = [1, 2, 3];
const TROUBLES: u32 = 6;
const TROUBLES_LONG: u32 = 100;

#[test]
fn whatever_breaks_no_acknowledged_write_is_missed() {
    let test = whatever_breaks_no_acknowledged_write_is_missed;
    break_things(Network::enter(&test, NODES.len()), 4, TROUBLES);
}

#[test]
#[ignore = "long: a hundred troubles take some minutes"]
fn whatever_breaks_for_minutes_no_acknowledged_write_is_missed() {
    let test = whatever_breaks_for_minutes_no_acknowledged_write_is_missed;
    break_things(Network::enter(&test, NODES.len()), 5, TROUBLES_LONG);
}

fn break_things(network: Option<Network>, seed: u64, troubles: u32) {
    let Some(network) = network else { return };
    let mut cluster = Cluster::in_network(3, network).recording_fsyncs().start();
    cluster.wait_settled(&NODES, 3);
    let mut random = Random(seed);
    let plan = Plan { writers_per_node: 2, ..Plan::quorum("load") };
    let load = Load::start(&plan, &cluster.clients_of(&NODES));
    load.wait_for_writes(50);
    for number in 0..troubles {
        let trouble = Trouble::draw(&mut random);
        println!("{number}: {trouble:?}");
        trouble.happen(&mut cluster, &mut random, &load);
    }
    cluster.wait_formed(&NODES);
    load.wait_for_writes(100);
    let mut history: History = load.stop();
    for (node, address) in cluster.clients_of(&NODES) {
        history.add(read_back(node, address, &plan));
        history.add(read_back(node, address, &Plan { read: "ALL", ..plan.clone() }));
    }
    history.assert_consistent();
}

/// Something that goes wrong for a while. Nodes are counted around: the one after the last is the first.
#[derive(Clone, Copy, Debug)]
enum Trouble {
    /// Nodes die, with or without what they had not synced, and come back.
    Kill { first: u8, nodes: u8, power: bool },
    /// A node stands still.
    Pause { node: u8 },
    /// A node is cut from the others, for what it sends, for what it hears, or for both.
    Cut { node: u8, deaf: bool, mute: bool },
    /// One link is cut, and the third node reaches both.
    Link { one: u8 },
}

impl Trouble {
    fn draw(random: &mut Random) -> Self {
        let node = 1 + random.below(3) as u8;
        match random.below(5) {
            0 | 1 => Self::Kill { first: node, nodes: 1 + random.below(3) as u8, power: random.below(2) == 0 },
            2 => Self::Pause { node },
            3 => {
                let deaf = random.below(3);
                Self::Cut { node, deaf: deaf != 0, mute: deaf != 1 }
            }
            _ => Self::Link { one: node },
        }
    }

    fn happen(self, cluster: &mut Cluster, random: &mut Random, load: &Load) {
        // From nothing that anybody notices to nodes that are believed dead.
        let time = Duration::from_millis(random.below(6_000));
        let next = |node: u8| node % 3 + 1;
        match self {
            Self::Kill { first, nodes, power } => {
                let all = [first, next(first), next(next(first))];
                let hit = &all[..usize::from(nodes)];
                cluster.kill(hit);
                if power {
                    cluster.lose_power(hit, random.below(1 << 32));
                }
                load.go_on(time, 0);
                cluster.restart(hit);
            }
            Self::Pause { node } => {
                cluster.signal(node, Signal::STOP);
                load.go_on(time, 0);
                cluster.signal(node, Signal::CONT);
            }
            Self::Cut { node, deaf, mute } => {
                let others = [next(node), next(next(node))];
                if deaf {
                    cluster.network().cut(&others, &[node]);
                }
                if mute {
                    cluster.network().cut(&[node], &others);
                }
                load.go_on(time, 0);
                cluster.network().heal_both_ways(&[node], &others);
            }
            Self::Link { one } => {
                cluster.network().cut_both_ways(&[one], &[next(one)]);
                load.go_on(time, 0);
                cluster.network().heal_both_ways(&[one], &[next(one)]);
            }
        }
        load.go_on(Duration::from_millis(random.below(1_500)), 0);
    }
}
