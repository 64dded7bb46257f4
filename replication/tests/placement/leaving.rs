//! Members that leave or are given up: what stands in the way, when they have left, and what is left of the replica sets.

use std::collections::{BTreeMap, BTreeSet};

use cube_replication::consistency::majority;
use cube_replication::topology::plan::plan;
use cube_replication::topology::{
    Assignment, LeavingReport, Loss, MemberState, MoveDone, MoveDriver, MoveRefused, MoveReport, PartitionMap, Step,
    Strategy as Placing, TooFewLeft, Topology, TopologyChange, has_handed_over,
};
use cube_storage::model::{Epoch, NodeId, PlacementId};
use proptest::prelude::*;

use super::cases::cases;
use super::cluster::{bits, member, simple};

const PLACEMENT: PlacementId = PlacementId(0);

fn n(id: u16) -> NodeId {
    NodeId(id)
}

fn set_state(topology: &Topology, node: u16, state: MemberState) -> Topology {
    topology.after(&TopologyChange::SetState { node: n(node), state }).unwrap()
}

/// Members of these data centers, ready, and a placement that is planned for them.
fn cluster(homes: &[&str], strategy: &Placing) -> Topology {
    let join = |topology: Topology, (id, home): (u16, &&str)| {
        topology.after(&TopologyChange::Join(member(id, home, &format!("r{id}"), 1))).unwrap()
    };
    let members = (0..).zip(homes).fold(Topology::new(bits(3)), join);
    let assignment = plan(&Assignment::empty(bits(3)), members.members(), strategy, bits(3));
    let strategy = strategy.clone();
    members.after(&TopologyChange::AddPlacement { placement: PLACEMENT, strategy, assignment }).unwrap()
}

fn of(nodes: usize, replicas: u8) -> Topology {
    cluster(&vec!["dc"; nodes], &simple(replicas))
}

/// What those that live have to report of the moves.
fn reports(topology: &Topology, dead: &BTreeSet<NodeId>) -> Vec<MoveReport> {
    let mut reports = Vec::new();
    for (partition, map) in topology.placement(PLACEMENT).unwrap().partitions() {
        let report = |node, done| MoveReport { node, placement: PLACEMENT, partition, map: map.epoch(), done };
        let lives = |node: &NodeId| !dead.contains(node);
        match map.step() {
            Step::Stable { .. } => continue,
            Step::WriteBoth { new, .. } => {
                reports.extend(new.nodes().iter().copied().filter(lives).map(|node| report(node, MoveDone::CaughtUp)));
            }
            Step::ReadNew { .. } => {}
        }
        reports.extend(map.write_sets().nodes().filter(lives).map(|node| report(node, MoveDone::Fenced)));
    }
    reports
}

/// Takes the steps that the driver asks for until it asks for none.
fn settle(mut topology: Topology, driver: &mut MoveDriver, dead: &BTreeSet<NodeId>) -> Topology {
    for _ in 0..500 {
        reports(&topology, dead).iter().for_each(|report| driver.report(&topology, report));
        let changes = driver.changes(&topology);
        if changes.is_empty() {
            return topology;
        }
        topology = changes.iter().fold(topology, |now, change| now.after(change).unwrap_or(now));
    }
    panic!("nothing settles in {topology:?}");
}

fn sizes(topology: &Topology) -> BTreeSet<usize> {
    topology.placement(PLACEMENT).unwrap().partitions().map(|(_, map)| map.serving().len()).collect()
}

fn report(node: u16, topology: &Topology) -> LeavingReport {
    LeavingReport { node: n(node), topology: topology.epoch(), is_closed: true, hints: 0, marks: 0 }
}

#[test]
fn a_leaving_member_has_left_only_when_it_holds_nothing_and_says_that_it_keeps_nothing() {
    let mut driver = MoveDriver::default();
    let mut now = set_state(&of(4, 3), 3, MemberState::Leaving);
    driver.report_leaving(report(3, &now));
    assert!(!has_handed_over(&now, &report(3, &now)), "it holds partitions");
    now = settle(now, &mut driver, &BTreeSet::new());
    // The report of before was true in all but that it held something: it says so when it holds nothing, and not before.
    let silent = settle(set_state(&of(4, 3), 3, MemberState::Leaving), &mut MoveDriver::default(), &BTreeSet::new());
    assert_eq!(silent.member(n(3)).unwrap().state, MemberState::Leaving, "it has said nothing");
    for keeps in [
        LeavingReport { hints: 1, ..report(3, &silent) },
        LeavingReport { marks: 1, ..report(3, &silent) },
        LeavingReport { is_closed: false, ..report(3, &silent) },
        LeavingReport { topology: Epoch(silent.epoch().0 + 1), ..report(3, &silent) },
    ] {
        driver = MoveDriver::default();
        driver.report_leaving(keeps);
        assert_eq!(driver.changes(&silent), [], "{keeps:?}");
    }
    driver.report_leaving(report(3, &silent));
    let left = TopologyChange::SetState { node: n(3), state: MemberState::Left };
    assert_eq!(driver.changes(&silent), [left]);
    assert_eq!(now.member(n(3)).unwrap().state, MemberState::Left);
}

#[test]
fn a_member_that_was_given_up_has_left_as_soon_as_it_holds_nothing() {
    let dead = BTreeSet::from([n(3)]);
    let now = settle(set_state(&of(4, 3), 3, MemberState::Removing), &mut MoveDriver::default(), &dead);
    assert_eq!(now.member(n(3)).unwrap().state, MemberState::Left);
    assert_eq!(sizes(&now), [3].into());
}

#[test]
fn members_whose_loss_left_no_majority_are_struck_and_the_rest_grows_again() {
    for replicas in [1, 2, 3] {
        let mut now = of(4, replicas);
        let mut dead = BTreeSet::new();
        for lost in [3, 2] {
            dead.insert(n(lost));
            now = settle(set_state(&now, lost, MemberState::Removing), &mut MoveDriver::default(), &dead);
            assert_eq!(now.member(n(lost)).unwrap().state, MemberState::Left, "{replicas} replicas");
        }
        assert_eq!(sizes(&now), [usize::from(replicas).min(2)].into());
    }
    // Both at once: of three replicas one is left.
    let mut both = of(4, 3);
    for lost in [2, 3] {
        both = set_state(&both, lost, MemberState::Removing);
    }
    let both = settle(both, &mut MoveDriver::default(), &[n(2), n(3)].into());
    assert_eq!(sizes(&both), [2].into());
}

#[test]
fn nobody_is_struck_while_the_others_are_a_majority() {
    let now = set_state(&of(4, 3), 3, MemberState::Removing);
    let (partition, map) = now.placement(PLACEMENT).unwrap().partitions().next().unwrap();
    let refused = now.after(&TopologyChange::GiveUp { placement: PLACEMENT, partition, from: map.epoch() });
    assert!(refused.unwrap_err().to_string().contains(&MoveRefused::NothingLost.to_string()));
}

#[test]
fn only_the_place_of_the_lost_member_is_taken_when_a_member_that_held_nothing_replaces_it() {
    let idle = cluster(&["dc"; 4], &simple(3));
    let idle = settle(
        idle.after(&TopologyChange::SetWeight { node: n(3), weight: 0 }).unwrap(),
        &mut MoveDriver::default(),
        &BTreeSet::new(),
    );
    let before = idle.placement(PLACEMENT).unwrap().goal();
    let replaced = idle.after(&TopologyChange::SetWeight { node: n(3), weight: 1 }).unwrap();
    let replaced = settle(set_state(&replaced, 1, MemberState::Removing), &mut MoveDriver::default(), &[n(1)].into());
    let after = replaced.placement(PLACEMENT).unwrap().goal();
    for (partition, replicas) in before.iter() {
        let places: BTreeSet<NodeId> = replicas.iter().map(|node| if *node == n(1) { n(3) } else { *node }).collect();
        assert_eq!(after.replicas(partition).iter().copied().collect::<BTreeSet<_>>(), places);
    }
}

#[test]
fn a_keyspace_that_could_not_keep_its_replicas_is_named_with_what_is_left() {
    assert_eq!(of(4, 3).too_few_without(n(0)), None);
    let told = |left| Some(TooFewLeft { placement: PLACEMENT, data_center: None, replicas: 3, left });
    assert_eq!(of(3, 3).too_few_without(n(0)), told(2));
    assert_eq!(set_state(&of(4, 3), 1, MemberState::Leaving).too_few_without(n(0)), told(2), "another one leaves");
    let network = Placing::Network(BTreeMap::from([("a".into(), 2), ("b".into(), 1)]));
    let two = cluster(&["a", "a", "b", "b", "c"], &network);
    let short = TooFewLeft { placement: PLACEMENT, data_center: Some("a".into()), replicas: 2, left: 1 };
    assert_eq!([0, 2, 4].map(|node| two.too_few_without(n(node))), [Some(short), None, None]);
    let idle = of(3, 3).after(&TopologyChange::SetWeight { node: n(2), weight: 0 }).unwrap();
    assert_eq!(idle.too_few_without(n(2)), None, "it holds nothing");
}

#[test]
fn a_replica_that_lost_something_keeps_no_member_from_leaving() {
    let before = of(4, 3);
    let leaves = set_state(&before, 1, MemberState::Leaving);
    let (_, maps) = leaves.placements().next().unwrap();
    let (partition, map) = maps.partitions().find(|(_, map)| map.serving().contains(n(1))).unwrap();
    for lost in map.serving().nodes() {
        let mut driver = MoveDriver::default();
        let report =
            MoveReport { node: *lost, placement: PLACEMENT, partition, map: map.epoch(), done: MoveDone::Lost };
        driver.report(&leaves, &report);
        let changes = driver.changes(&leaves);
        let after = changes.iter().fold(leaves.clone(), |now, change| now.after(change).unwrap());
        let goal = after.placement(PLACEMENT).unwrap().partition(partition).unwrap().goal().clone();
        assert!(!goal.contains(n(1)), "{lost} lost something");
    }
}

/// Nobody has lost anything.
fn whole(_: NodeId) -> bool {
    true
}

#[test]
fn a_removal_tells_what_it_would_lose() {
    let alive = |down: &'static [u16]| move |node: NodeId| !down.contains(&node.0);
    assert_eq!(of(3, 3).loss_without(n(2), alive(&[2]), whole), None);
    assert_eq!(of(2, 2).loss_without(n(1), alive(&[1]), whole), None, "the other one holds all that two acknowledged");
    assert_eq!(of(3, 3).loss_without(n(2), alive(&[0, 1, 2]), whole), Some(Loss::Rows(8)));
    assert_eq!(of(1, 1).loss_without(n(0), alive(&[0]), whole), Some(Loss::Rows(8)));
    let second = set_state(&of(3, 3), 1, MemberState::Removing);
    assert_eq!(
        second.loss_without(n(2), alive(&[1, 2]), whole),
        Some(Loss::Writes(8)),
        "of three replicas one is left"
    );
    assert_eq!(of(4, 3).loss_without(n(3), alive(&[2, 3]), whole), None, "one that is down may come back");
    assert_eq!(set_state(&of(3, 3), 1, MemberState::Leaving).loss_without(n(1), alive(&[1]), whole), None);
    let without_the_first = |node: NodeId| node != n(0);
    assert_eq!(of(2, 2).loss_without(n(1), alive(&[1]), without_the_first), Some(Loss::Rows(8)));
    let lost = of(3, 3).loss_without(n(2), alive(&[2]), without_the_first);
    assert_eq!(lost, Some(Loss::Writes(8)), "what the first one lost may be on this one alone");
    assert_eq!(of(4, 3).loss_without(n(3), alive(&[3]), |node| node != n(3)), None, "it is given up anyway");
}

/// All sets of some of these nodes.
fn subsets(nodes: &[NodeId]) -> Vec<BTreeSet<NodeId>> {
    (0u32..1 << nodes.len())
        .map(|bits| nodes.iter().enumerate().filter(|(at, _)| bits & (1 << at) != 0).map(|(_, node)| *node).collect())
        .collect()
}

#[test]
fn a_quorum_before_members_were_struck_meets_every_quorum_after_it_unless_a_loss_was_told() {
    let mut met = BTreeSet::new();
    for size in 1..=7usize {
        let topology = of(size, u8::try_from(size).unwrap());
        let (_, map) = topology.placement(PLACEMENT).unwrap().partitions().next().unwrap();
        let nodes = map.serving().nodes().to_vec();
        for gone in subsets(&nodes).into_iter().filter(|gone| !gone.is_empty()) {
            let last = *gone.last().unwrap();
            let others = gone.iter().filter(|node| **node != last);
            let given_up = others.fold(topology.clone(), |now, node| set_state(&now, node.0, MemberState::Removing));
            if given_up.loss_without(last, |node| !gone.contains(&node), whole).is_some() {
                continue;
            }
            let Ok(struck) = map.give_up(&gone, Epoch(1_000)) else { continue };
            met.insert((size, gone.len()));
            let left = struck.serving().nodes().to_vec();
            let quorums = |nodes: &[NodeId]| {
                let needed = majority(nodes.len());
                subsets(nodes).into_iter().filter(move |some| some.len() >= needed).collect::<Vec<_>>()
            };
            for (before, after) in
                quorums(&nodes).iter().flat_map(|before| quorums(&left).into_iter().map(move |after| (before, after)))
            {
                assert!(!before.is_disjoint(&after), "{gone:?} of {nodes:?}: {before:?} and {after:?}");
            }
        }
    }
    assert_eq!(met, [(2, 1), (4, 2)].into(), "of the others a majority is left, or a loss is told");
}

#[derive(Clone, Debug)]
enum Event {
    Leave(u16),
    Remove(u16),
    /// What a leaving member says: whether its doors are closed, what it keeps, and how far behind the topology it is.
    Say(u16, bool, u64, u64),
    /// Moves get on, with or without what is reported.
    Step(bool),
    AnotherLeads,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let node = || 0..5u16;
    let event = prop_oneof![
        1 => node().prop_map(Event::Leave),
        1 => node().prop_map(Event::Remove),
        3 => (node(), any::<bool>(), 0..2u64, 0..2u64).prop_map(|(node, closed, kept, late)| Event::Say(node, closed, kept, late)),
        6 => any::<bool>().prop_map(Event::Step),
        1 => Just(Event::AnotherLeads),
    ];
    prop::collection::vec(event, 1..80)
}

proptest! {
    #![proptest_config(cases(128))]

    #[test]
    fn left_is_only_ever_proposed_of_one_that_holds_nothing_and_was_given_up_or_said_that_it_keeps_nothing(
        events in events(), replicas in 1u8..4,
    ) {
        let mut now = of(5, replicas);
        let mut driver = MoveDriver::default();
        let mut said: BTreeMap<NodeId, LeavingReport> = BTreeMap::new();
        for event in events {
            let leave = |topology: &Topology, node, state| {
                let change = TopologyChange::SetState { node: n(node), state };
                let others = topology.members().values().filter(|member| member.may_hold_data() && member.id != n(node));
                if others.count() == 0 { topology.clone() } else { topology.after(&change).unwrap_or_else(|_| topology.clone()) }
            };
            match event {
                Event::Leave(node) => now = leave(&now, node, MemberState::Leaving),
                Event::Remove(node) => now = leave(&now, node, MemberState::Removing),
                Event::Say(node, is_closed, kept, ahead) => {
                    // It closes its doors when it holds nothing.
                    let is_closed = is_closed && now.held_by(n(node)).next().is_none();
                    let topology = Epoch(now.epoch().0 + ahead);
                    let report = LeavingReport { node: n(node), topology, is_closed, hints: kept, marks: 0 };
                    said.insert(n(node), report);
                    driver.report_leaving(report);
                }
                Event::Step(reported) => {
                    if reported {
                        reports(&now, &now.being_removed()).iter().for_each(|report| driver.report(&now, report));
                    }
                    let changes = driver.changes(&now);
                    for change in &changes {
                        let TopologyChange::SetState { node, state: MemberState::Left } = change else { continue };
                        prop_assert!(now.held_by(*node).next().is_none());
                        let keeps_nothing = said.get(node).is_some_and(|report| {
                            report.is_closed && report.hints == 0 && report.marks == 0 && report.topology <= now.epoch()
                        });
                        let state = now.member(*node).unwrap().state;
                        prop_assert!(state == MemberState::Removing || (state == MemberState::Leaving && keeps_nothing));
                    }
                    now = changes.iter().fold(now, |now, change| now.after(change).unwrap_or(now));
                }
                Event::AnotherLeads => driver = MoveDriver::default(),
            }
        }
        // Whatever happened: those that were given up go, and those that leave go when they say that they keep nothing.
        let dead = now.being_removed();
        now = settle(now, &mut driver, &dead);
        let leavers: Vec<NodeId> =
            now.members().values().filter(|member| member.state == MemberState::Leaving).map(|member| member.id).collect();
        leavers.iter().for_each(|node| driver.report_leaving(report(node.0, &now)));
        now = settle(now, &mut driver, &dead);
        let gone = |member: &cube_replication::topology::Member| {
            matches!(member.state, MemberState::Leaving | MemberState::Removing)
        };
        prop_assert!(!now.members().values().any(gone), "{:?}", now.members());
        let wanted = usize::from(replicas).min(now.members().values().filter(|member| member.may_hold_data()).count());
        prop_assert_eq!(sizes(&now), BTreeSet::from([wanted]));
    }
}

#[test]
fn what_is_struck_while_replicas_change_goes_on_with_those_that_are_left() {
    let all: Vec<PartitionMap> = {
        let topology = of(4, 2);
        topology.placement(PLACEMENT).unwrap().partitions().map(|(_, map)| map.clone()).collect()
    };
    let old = all[0].serving().clone();
    let stranger = (0..4).map(n).find(|node| !old.contains(*node)).unwrap();
    let (stays, goes) = (old.nodes()[0], old.nodes()[1]);
    let homes = |nodes: &[NodeId]| {
        let replica = |node: &NodeId| cube_replication::topology::Replica { node: *node, data_center: "dc".into() };
        std::sync::Arc::new(cube_replication::topology::ReplicaSet::new(nodes.iter().map(replica)).unwrap())
    };
    let both = all[0].begin(homes(&[stays, stranger]), Epoch(100)).unwrap();
    let back = both.give_up(&[goes].into(), Epoch(101)).unwrap();
    assert!(matches!(back.step(), Step::Stable { replicas } if replicas.nodes() == [stays]), "it is begun anew");
    let everyone: BTreeSet<NodeId> = (0..4).map(n).collect();
    let evidence = cube_replication::topology::Evidence { fenced: everyone.clone(), caught_up: everyone };
    let read_new = both.advance(&evidence, Epoch(101)).unwrap();
    let forward = read_new.give_up(&[goes].into(), Epoch(102)).unwrap();
    assert!(matches!(forward.step(), Step::ReadNew { old, new } if old.nodes() == [stays] && new.len() == 2));
    let old_alone = read_new.give_up(&[stays, stranger].into(), Epoch(102)).unwrap();
    assert_eq!(old_alone.serving().nodes(), [goes], "it took every write");
    let new_alone = read_new.give_up(&[stays, goes].into(), Epoch(102)).unwrap();
    assert_eq!(new_alone.serving().nodes(), [stranger]);
}
