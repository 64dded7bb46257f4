//! Members that leave: what is refused, what is the same when asked again, and that it goes on whoever leads.

use std::collections::BTreeSet;

use cube_replication::lifecycle::MoveReport;
use cube_replication::topology::{LeavingReport, MemberState, Topology};
use cube_storage::model::PartitionBits;

use super::super::{Answer, Command, Control, Departed, Departure, HardState, Refusal};
use super::cluster::Cluster;
use super::moving::reports;
use super::{founding, newcomer, node};

/// Members that are in reach; the first holds everything.
fn members(size: u16) -> HardState {
    let mut founding = founding();
    founding.partition_bits = PartitionBits::new(2).unwrap();
    let founded = HardState::unfounded().after(&Command::Found(founding)).unwrap().0;
    (1..size).fold(founded, |state, n| {
        let joined = state.after(&Command::Join(newcomer(n))).unwrap().0;
        joined.after(&Command::SetMemberState { node: node(n), state: MemberState::Warming }).unwrap().0
    })
}

fn leave(state: &HardState, n: u16, departure: Departure) -> Result<(HardState, Answer), Refusal> {
    state.after(&Command::Leave { node: node(n), departure, accept_loss: true })
}

fn state_of(state: &HardState, n: u16) -> MemberState {
    state.topology().member(node(n)).unwrap().state
}

#[test]
fn a_member_begins_to_leave_once_and_is_given_up_after_that_but_never_the_other_way_round() {
    let (leaving, answer) = leave(&members(4), 3, Departure::Decommission).unwrap();
    assert_eq!((state_of(&leaving, 3), answer), (MemberState::Leaving, Answer::Done));
    let (same, answer) = leave(&leaving, 3, Departure::Decommission).unwrap();
    assert_eq!((same == leaving, answer), (true, Answer::Unchanged));
    let (removed, answer) = leave(&leaving, 3, Departure::Remove).unwrap();
    assert_eq!((state_of(&removed, 3), answer), (MemberState::Removing, Answer::Done));
    assert_eq!(leave(&removed, 3, Departure::Remove).unwrap().1, Answer::Unchanged);
    let refused = leave(&removed, 3, Departure::Decommission).unwrap_err();
    assert_eq!(refused, Refusal::IsRemoved { name: "node-3".to_owned() });
    let left = removed.after(&Command::SetMemberState { node: node(3), state: MemberState::Left }).unwrap().0;
    assert_eq!(leave(&left, 3, Departure::Remove).unwrap_err(), Refusal::UnknownMember { node: node(3) });
}

#[test]
fn a_member_without_which_a_keyspace_could_not_keep_its_replicas_stays_unless_it_is_gone_for_good() {
    let three = members(3);
    let refused = leave(&three, 1, Departure::Decommission).unwrap_err();
    let short = Refusal::TooFewLeft { keyspace: "default".to_owned(), data_center: None, replicas: 3, left: 2 };
    assert_eq!(refused, short);
    assert!(refused.to_string().contains("let another node join first"), "{refused}");
    assert_eq!(leave(&three, 1, Departure::Remove).unwrap().1, Answer::Done);
    let unaccepted = Command::Leave { node: node(0), departure: Departure::Remove, accept_loss: false };
    assert_eq!(three.after(&unaccepted).unwrap_err(), Refusal::MayLose { name: "node-0".to_owned() });
    // Of two that leave at the same time only the first one may.
    let (one_leaves, _) = leave(&members(4), 1, Departure::Decommission).unwrap();
    assert!(matches!(leave(&one_leaves, 2, Departure::Decommission), Err(Refusal::TooFewLeft { left: 2, .. })));
    for departure in [Departure::Decommission, Departure::Remove] {
        let refused = leave(&members(1), 0, departure).unwrap_err();
        assert_eq!(refused, Refusal::LastMember { name: "node-0".to_owned() });
    }
}

#[test]
fn a_member_that_was_to_hold_nothing_gets_the_weight_of_the_one_it_replaces_in_the_same_entry() {
    let weighed = super::super::NewMember { weight: 0, ..newcomer(3) };
    let state = members(3).after(&Command::Join(weighed)).unwrap().0;
    let (replaced, answer) = leave(&state, 1, Departure::ReplaceWith(node(3))).unwrap();
    assert_eq!((state_of(&replaced, 1), answer), (MemberState::Removing, Answer::Done));
    assert_eq!(replaced.topology().member(node(3)).unwrap().weight, 1);
    assert_eq!(leave(&replaced, 1, Departure::ReplaceWith(node(3))).unwrap().1, Answer::Unchanged);
    let (by_another, _) = leave(&state, 1, Departure::ReplaceWith(node(2))).unwrap();
    assert_eq!(by_another.topology().member(node(2)).unwrap().weight, 1, "one that holds something keeps its weight");
    let elsewhere = super::super::NewMember { data_center: "dc2".into(), ..newcomer(3) };
    let elsewhere = members(3).after(&Command::Join(elsewhere)).unwrap().0;
    let (leaving, _) = leave(&members(4), 3, Departure::Decommission).unwrap();
    for (state, with) in [(&state, 1), (&elsewhere, 3), (&leaving, 3)] {
        let refused = leave(state, 1, Departure::ReplaceWith(node(with)));
        assert!(matches!(refused, Err(Refusal::NoReplacement { .. })), "{refused:?}");
    }
    assert!(matches!(leave(&state, 1, Departure::ReplaceWith(node(9))), Err(Refusal::UnknownMember { .. })));
}

/// What the members do: those that live report how far their moves are, and one that leaves and holds nothing says so.
async fn live(cluster: &Cluster, dead: &BTreeSet<cube_storage::model::NodeId>) {
    for control in cluster.controls() {
        let state = control.current();
        let mine: Vec<MoveReport> =
            reports(state.topology(), dead).into_iter().filter(|report| report.node == control.me()).collect();
        // Lost ones are reported again.
        let _ = control.report(&mine).await;
        let leaves = state.topology().member(control.me()).is_some_and(|me| me.state == MemberState::Leaving);
        if leaves && state.topology().held_by(control.me()).next().is_none() {
            let _ = control.report_leaving(nothing_left(control.me(), state.topology())).await;
        }
    }
}

fn nothing_left(me: cube_storage::model::NodeId, topology: &Topology) -> LeavingReport {
    LeavingReport { node: me, topology: topology.epoch(), is_closed: true, hints: 0, marks: 0 }
}

async fn until(cluster: &Cluster, dead: &BTreeSet<cube_storage::model::NodeId>, holds: impl Fn(&Control) -> bool) {
    let deadline = tokio::time::Instant::now() + super::cluster::SOON * 2;
    while !cluster.controls().iter().all(|control| holds(control)) {
        assert!(tokio::time::Instant::now() < deadline, "the moves do not get on");
        live(cluster, dead).await;
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

fn is_settled(control: &Control) -> bool {
    let state = control.current();
    let is_arrived = |state| matches!(state, MemberState::Ready | MemberState::Left);
    state.topology().members().values().all(|member| is_arrived(member.state))
}

fn has_left(n: u16) -> impl Fn(&Control) -> bool {
    move |control| {
        control.me() == node(n)
            || control.current().topology().member(node(n)).is_some_and(|member| member.state == MemberState::Left)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leader_itself_leaves_and_another_one_goes_on_without_its_vote() {
    let cluster = Cluster::of(4).await;
    until(&cluster, &BTreeSet::new(), is_settled).await;
    cluster.until_voters(3).await;
    let leader = cluster.leader().await;
    let command = Command::Leave { node: node(leader), departure: Departure::Decommission, accept_loss: false };
    assert_eq!(cluster.propose(0, command.clone()).await, Ok(Answer::Done));
    assert_eq!(cluster.propose(0, command).await, Ok(Answer::Unchanged));
    until(&cluster, &BTreeSet::new(), has_left(leader)).await;
    let leaver = cluster.control(leader);
    let report = nothing_left(node(leader), leaver.current().topology());
    let deadline = tokio::time::Instant::now() + super::cluster::SOON;
    while leaver.votes() && leaver.report_leaving(report).await != Ok(Departed::Yes) {
        assert!(tokio::time::Instant::now() < deadline, "its vote is still needed");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    cluster.stop(leader).await;
    let next = cluster.leader().await;
    assert_ne!(next, leader);
    cluster.until_voters(3).await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_leader_is_removed_and_hears_of_it_when_it_comes_back() {
    let cluster = Cluster::of(4).await;
    until(&cluster, &BTreeSet::new(), is_settled).await;
    cluster.until_voters(3).await;
    let leader = cluster.leader().await;
    cluster.stop(leader).await;
    let next = cluster.leader().await;
    let command = Command::Leave { node: node(leader), departure: Departure::Remove, accept_loss: true };
    assert_eq!(cluster.propose(next, command).await, Ok(Answer::Done));
    let dead = BTreeSet::from([node(leader)]);
    until(&cluster, &dead, has_left(leader)).await;
    cluster.until_voters(3).await;
    let back = cluster.start(node(leader)).await;
    assert_ne!(back.told_gone().await, Departed::NotYet);
    assert_eq!(cluster.control(next).told_gone().await, Departed::NotYet);
    cluster.end().await;
}
