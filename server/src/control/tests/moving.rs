//! Moves of replicas: the driver alone, and on a leader that may change.

use std::collections::BTreeSet;

use cube_replication::lifecycle::{MoveDone, MoveReport};
use cube_replication::topology::{
    MOVES_UNDER_WAY_MAX, MemberState, MoveDriver, Step, Strategy, Topology, TopologyChange,
};
use cube_storage::SyncPolicy;
use cube_storage::model::{NodeId, PlacementId};
use proptest::prelude::{prop, prop_assert, proptest};

use super::super::{Command, Control, HardState};
use super::cluster::Cluster;
use super::{founding, newcomer, node};
use crate::cases::cases;
use cube_storage::model::PartitionBits;

/// What every live replica of a move has to report.
pub(super) fn reports(topology: &Topology, dead: &BTreeSet<NodeId>) -> Vec<MoveReport> {
    let maps = topology.placements().flat_map(|(id, placement)| placement.partitions().map(move |map| (id, map)));
    let mut reports = Vec::new();
    for (placement, (partition, map)) in maps {
        let report = |node, done| MoveReport { node, placement, partition, map: map.epoch(), done };
        let (all, new) = match map.step() {
            Step::Stable { .. } => continue,
            Step::WriteBoth { new, .. } => (map.write_sets(), new.nodes().to_vec()),
            Step::ReadNew { .. } => (map.write_sets(), Vec::new()),
        };
        reports.extend(all.nodes().filter(|node| !dead.contains(node)).map(|node| report(node, MoveDone::Fenced)));
        let copied = new.into_iter().filter(|node| !dead.contains(node));
        reports.extend(copied.map(|node| report(node, MoveDone::CaughtUp)));
    }
    reports
}

fn under_way(topology: &Topology) -> usize {
    let maps = topology.placements().flat_map(|(_, placement)| placement.partitions());
    maps.filter(|(_, map)| !matches!(map.step(), Step::Stable { .. })).count()
}

fn cluster(size: u16, bits: u8) -> HardState {
    let mut founding = founding();
    founding.partition_bits = PartitionBits::new(bits).unwrap();
    let founded = HardState::unfounded().after(&Command::Found(founding)).unwrap().0;
    (1..size).fold(founded, |state, n| arrived(&joined(&state, n), n))
}

fn joined(state: &HardState, n: u16) -> HardState {
    state.after(&Command::Join(newcomer(n))).unwrap().0
}

/// The node says that its peer port is open.
fn arrived(state: &HardState, n: u16) -> HardState {
    state.after(&Command::SetMemberState { node: node(n), state: MemberState::Warming }).unwrap().0
}

fn step(state: &HardState, driver: &mut MoveDriver) -> Option<HardState> {
    let changes = driver.changes(state.topology());
    if changes.is_empty() {
        return None;
    }
    Some(state.after(&Command::Topology(changes)).unwrap().0)
}

fn is_settled(state: &HardState) -> bool {
    let goals = state.topology().placements().all(|(id, placement)| {
        under_way(state.topology()) == 0 && state.topology().planned(id).is_some_and(|plan| plan == placement.goal())
    });
    let arrived = |state| !matches!(state, MemberState::Joining | MemberState::Warming);
    goals && state.topology().members().values().all(|member| arrived(member.state))
}

#[test]
fn moves_go_through_all_steps_as_nodes_report_and_members_become_ready() {
    let mut state = cluster(3, 4);
    let mut driver = MoveDriver::default();
    let mut seen = BTreeSet::new();
    for _ in 0..200 {
        let joiner = state.topology().member(node(1)).unwrap().state;
        seen.insert(joiner);
        for report in reports(state.topology(), &BTreeSet::new()) {
            driver.report(state.topology(), &report);
        }
        match step(&state, &mut driver) {
            Some(next) => state = next,
            None => break,
        }
    }
    assert!(is_settled(&state), "{state:#?}");
    assert_eq!(seen, BTreeSet::from([MemberState::Warming, MemberState::Ready]));
    let placement = state.topology().placement(PlacementId(0)).unwrap();
    assert!(placement.partitions().all(|(_, map)| map.serving().len() == 3));
}

#[test]
fn no_step_is_taken_without_reports_and_not_by_reports_of_older_maps() {
    let mut driver = MoveDriver::default();
    let warming = step(&cluster(3, 2), &mut driver).unwrap();
    assert_eq!(step(&warming, &mut driver), None, "nobody reported");
    let mut stale = reports(warming.topology(), &BTreeSet::new());
    for report in &mut stale {
        report.map.0 -= 1;
        driver.report(warming.topology(), report);
    }
    assert_eq!(step(&warming, &mut driver), None, "those were of the map before");
}

#[test]
fn only_so_many_moves_are_under_way_at_once() {
    let mut state = cluster(3, 9);
    let mut driver = MoveDriver::default();
    let mut most = 0;
    for _ in 0..10_000 {
        for report in reports(state.topology(), &BTreeSet::new()) {
            driver.report(state.topology(), &report);
        }
        let Some(next) = step(&state, &mut driver) else { break };
        state = next;
        most = most.max(under_way(state.topology()));
    }
    assert_eq!(most, MOVES_UNDER_WAY_MAX);
    assert!(is_settled(&state));
}

#[test]
fn a_joiner_that_died_blocks_nothing_once_it_is_given_up() {
    let mut driver = MoveDriver::default();
    let mut state = cluster(3, 3);
    let dead = BTreeSet::from([node(2)]);
    let settle = |mut state: HardState, driver: &mut MoveDriver| {
        for _ in 0..200 {
            for report in reports(state.topology(), &dead) {
                driver.report(state.topology(), &report);
            }
            let Some(next) = step(&state, driver) else { break };
            state = next;
        }
        state
    };
    state = settle(state, &mut driver);
    assert!(!is_settled(&state), "its copies are missing");
    state = state.after(&Command::SetMemberState { node: node(2), state: MemberState::Leaving }).unwrap().0;
    state = settle(state, &mut driver);
    assert!(is_settled(&state));
    assert!(state.after(&Command::SetMemberState { node: node(2), state: MemberState::Left }).is_ok());
}

#[test]
fn nothing_is_placed_on_a_newcomer_before_it_says_that_it_is_reached() {
    let mut driver = MoveDriver::default();
    let state = joined(&cluster(1, 2), 1);
    assert_eq!(driver.changes(state.topology()), []);
    let strategy = Strategy::Simple { replicas: 3 };
    let created = state.after(&state.plan_keyspace("orders", strategy, SyncPolicy::Sync, false)).unwrap().0;
    let placement = created.topology().placement(PlacementId(1)).unwrap();
    assert!(placement.partitions().all(|(_, map)| map.serving().nodes() == [node(0)]), "{placement:?}");

    let moves = driver.changes(arrived(&created, 1).topology());
    assert_eq!(moves.len(), 2 * 4, "both keyspaces grow: {moves:?}");
    assert!(moves.iter().all(|change| matches!(change, TopologyChange::BeginMove { .. })), "{moves:?}");
}

#[test]
fn a_member_that_is_to_hold_nothing_is_ready_at_once() {
    let holds_nothing = super::super::NewMember { weight: 0, ..newcomer(1) };
    let state = arrived(&cluster(1, 2).after(&Command::Join(holds_nothing)).unwrap().0, 1);
    let changes = MoveDriver::default().changes(state.topology());
    assert_eq!(changes, [TopologyChange::SetState { node: node(1), state: MemberState::Ready }]);
}

proptest! {
    #![proptest_config(cases(48))]

    /// Reports are lost, doubled and late, the leader is forgotten now and then, members come and go.
    #[test]
    fn moves_settle_whatever_gets_lost_and_whoever_leads(
        lots in prop::collection::vec(0u8..100, 60..120),
        size in 2u16..6,
    ) {
        let mut state = cluster(2, 3);
        let mut driver = MoveDriver::default();
        let mut late: Vec<MoveReport> = Vec::new();
        let mut members = 2;
        for lot in lots {
            match lot {
                0..4 => driver = MoveDriver::default(),
                4..10 if members < size => {
                    state = joined(&state, members);
                    members += 1;
                }
                13..20 => {
                    let arrive = Command::SetMemberState { node: node(members - 1), state: MemberState::Warming };
                    state = state.after(&arrive).map_or(state, |(next, _)| next);
                }
                10..13 => {
                    let leave = Command::SetMemberState { node: node(members - 1), state: MemberState::Leaving };
                    state = state.after(&leave).map_or(state, |(next, _)| next);
                }
                _ => {}
            }
            let now = reports(state.topology(), &BTreeSet::new());
            let kept = now.iter().enumerate().filter(|(at, _)| (at * 7 + usize::from(lot)) % 3 != 0);
            for report in kept.map(|(_, report)| report).chain(&late) {
                driver.report(state.topology(), report);
            }
            late = now;
            if let Some(next) = step(&state, &mut driver) {
                prop_assert!(under_way(next.topology()) <= MOVES_UNDER_WAY_MAX);
                state = next;
            }
        }
        for member in 0..members {
            let arrive = Command::SetMemberState { node: node(member), state: MemberState::Warming };
            state = state.after(&arrive).map_or(state, |(next, _)| next);
        }
        for _ in 0..200 {
            for report in reports(state.topology(), &BTreeSet::new()) {
                driver.report(state.topology(), &report);
            }
            let Some(next) = step(&state, &mut driver) else { break };
            state = next;
        }
        prop_assert!(is_settled(&state), "{:#?}", state.topology());
    }
}

/// Every node reports what the map it knows asks of it, as `cubed` does.
async fn report_all(cluster: &Cluster) {
    for control in cluster.controls() {
        let mine: Vec<MoveReport> = reports(control.current().topology(), &BTreeSet::new())
            .into_iter()
            .filter(|report| report.node == control.me())
            .collect();
        // Lost ones are reported again.
        let _ = control.report(&mine).await;
    }
}

async fn until_reported(cluster: &Cluster, holds: impl Fn(&Control) -> bool) {
    let deadline = tokio::time::Instant::now() + super::cluster::SOON * 2;
    while !cluster.controls().iter().all(|control| holds(control)) {
        assert!(tokio::time::Instant::now() < deadline, "the moves do not get on");
        report_all(cluster).await;
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

fn is_spread(control: &Control) -> bool {
    let state = control.current();
    let serve = |placement| {
        let placement = state.topology().placement(placement);
        placement.is_some_and(|placement| {
            placement.partitions().all(|(_, map)| matches!(map.step(), Step::Stable { .. }) && map.serving().len() == 3)
        })
    };
    serve(PlacementId(0)) && state.topology().members().values().all(|member| member.state == MemberState::Ready)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_grows_from_one_to_three_replicas_through_all_steps() {
    let cluster = Cluster::of(3).await;
    until_reported(&cluster, is_spread).await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_moves_go_on_when_the_leader_dies_in_the_middle_of_them() {
    let cluster = Cluster::of(3).await;
    cluster.until_voters(3).await;
    cluster.until("moves are under way", || under_way(cluster.control(0).current().topology()) > 0).await;
    let leader = cluster.leader().await;
    cluster.stop(leader).await;
    cluster.leader().await;
    report_all(&cluster).await;
    cluster.start(node(leader)).await;
    until_reported(&cluster, is_spread).await;
    cluster.end().await;
}
