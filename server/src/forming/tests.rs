//! Nodes that search each other in every order: exactly one of them forms a cluster.

use std::collections::BTreeMap;

use cube_storage::model::NodeId;
use proptest::prelude::*;

use super::*;
use crate::cases::cases;
use crate::identity::ClusterId;

fn address(node: usize) -> String {
    format!("10.0.0.{node}:7401")
}

fn undecided(node: usize, seeds: &[usize]) -> Undecided {
    Undecided::new(address(node), InstanceId(node as u128), seeds.iter().map(|seed| address(*seed)))
}

fn membership(cluster: u128) -> Membership {
    Membership { cluster: ClusterId(cluster), node: NodeId(0), name: "node-1".into(), instance: InstanceId(0) }
}

#[test]
fn without_seeds_a_cluster_is_formed_at_once() {
    assert_eq!(undecided(1, &[]).decide(), Decision::Form);
    assert_eq!(undecided(1, &[1]).decide(), Decision::Form, "its own address is no seed");
}

#[test]
fn a_silent_seed_keeps_a_cluster_from_being_formed() {
    let mut node = undecided(1, &[2, 3]);
    let (mut second, question) = (undecided(2, &[1, 3]), node.ask());
    node.begin_round();
    assert_eq!(node.on_answer(&address(2), second.on_ask(&question)), None);
    assert_eq!(node.decide(), Decision::Wait { silent: vec![address(3)] });
}

#[test]
fn an_answer_of_an_earlier_round_does_not_count() {
    let mut node = undecided(1, &[2, 3]);
    let (mut second, mut third) = (undecided(2, &[]), undecided(3, &[]));
    node.begin_round();
    node.on_answer(&address(2), second.on_ask(&node.ask()));
    node.begin_round();
    node.on_answer(&address(3), third.on_ask(&node.ask()));
    assert_eq!(node.decide(), Decision::Wait { silent: vec![address(2)] });
}

#[test]
fn a_member_takes_it_in_whoever_else_is_silent() {
    let mut node = undecided(1, &[2, 3]);
    node.begin_round();
    let decision = node.on_answer(&address(3), Answer::Member(membership(7)));
    assert_eq!(decision, Some(Decision::Join { address: address(3), membership: membership(7) }));
}

#[test]
fn a_node_is_known_by_one_name_however_it_is_called() {
    let mut node = Undecided::new(address(1), InstanceId(1), ["localhost:7401".to_owned(), "me:7401".to_owned()]);
    let mut second = undecided(2, &[1]);
    node.begin_round();
    node.on_answer("localhost:7401", second.on_ask(&node.ask()));
    let itself = Answer::None { address: address(1), instance: InstanceId(1), known: vec![] };
    node.on_answer("me:7401", itself);
    assert_eq!(node.decide(), Decision::Form, "the other one answered, and itself it need not ask");
}

#[test]
fn who_has_decided_to_form_tells_nobody_that_there_is_none() {
    let mut node = undecided(5, &[]);
    assert_eq!(node.decide(), Decision::Form);
    // A node with a lower address asks a moment later: it must not form another cluster.
    let mut late = undecided(1, &[5]);
    late.begin_round();
    let answer = node.on_ask(&late.ask());
    assert_eq!(answer, Answer::Forming);
    assert_eq!(late.on_answer(&address(5), answer), None);
    assert_eq!(late.decide(), Decision::Wait { silent: vec![address(5)] });
}

/// One step of the interleaving: a node begins a round, asks one of those it knows, or decides.
#[derive(Clone, Debug)]
enum Move {
    Begin(usize),
    Ask(usize, usize),
    Decide(usize),
}

fn moves(nodes: usize) -> impl Strategy<Value = Vec<Move>> {
    let node = 0..nodes;
    let one = prop_oneof![
        2 => node.clone().prop_map(Move::Begin),
        6 => (node.clone(), node.clone()).prop_map(|(asker, asked)| Move::Ask(asker, asked)),
        2 => node.prop_map(Move::Decide),
    ];
    prop::collection::vec(one, 0..200)
}

/// Who tells whom at the start: a chain that joins all, and any others.
fn seeds(nodes: usize) -> impl Strategy<Value = BTreeMap<usize, Vec<usize>>> {
    let others = prop::collection::vec(prop::collection::vec(0..nodes, 0..3), nodes);
    let chain = prop::collection::vec(any::<bool>(), nodes);
    (others, chain).prop_map(move |(others, forward)| {
        let mut seeds: BTreeMap<usize, Vec<usize>> = others.into_iter().enumerate().collect();
        for (node, forward) in forward.into_iter().enumerate().skip(1) {
            let (from, to) = if forward { (node, node - 1) } else { (node - 1, node) };
            seeds.get_mut(&from).unwrap().push(to);
        }
        seeds
    })
}

proptest! {
    #![proptest_config(cases(256))]

    #[test]
    fn at_most_one_cluster_is_formed_in_any_interleaving_and_one_is_in_the_end(
        (seeds, moves) in (2usize..6).prop_flat_map(|nodes| (seeds(nodes), moves(nodes))),
    ) {
        let count = seeds.len();
        // A node without any seed is one that the operator started alone; here all are to be one cluster.
        prop_assume!(seeds.values().all(|seeds| !seeds.is_empty()));
        let mut nodes: Vec<Undecided> = seeds.iter().map(|(node, seeds)| undecided(*node, seeds)).collect();
        prop_assume!(seeds.iter().all(|(node, seeds)| seeds.iter().any(|seed| seed != node)));
        let mut formed = std::collections::BTreeSet::new();
        let ask = |nodes: &mut Vec<Undecided>, asker: usize, asked: usize| {
            let to = address(asked);
            if asker != asked && nodes[asker].others.contains(&to) {
                let question = nodes[asker].ask();
                let answer = nodes[asked].on_ask(&question);
                nodes[asker].on_answer(&to, answer);
            }
        };
        for step in moves {
            match step {
                Move::Begin(node) => drop(nodes[node].begin_round()),
                Move::Ask(asker, asked) => ask(&mut nodes, asker, asked),
                Move::Decide(node) => {
                    if nodes[node].decide() == Decision::Form {
                        formed.insert(node);
                    }
                }
            }
        }
        // Then everybody searches in an orderly way for as many rounds as news needs to get around.
        for _ in 0..2 * count {
            for node in 0..count {
                nodes[node].begin_round();
                (0..count).for_each(|asked| ask(&mut nodes, node, asked));
                if nodes[node].decide() == Decision::Form {
                    formed.insert(node);
                }
            }
        }
        prop_assert_eq!(formed.len(), 1, "{:?}", formed);
    }
}
