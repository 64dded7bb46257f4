//! A cluster begins and grows.

use std::collections::BTreeMap;

use cube_replication::topology::MemberState;
use cube_storage::SyncPolicy;
use cube_storage::model::TableId;
use openraft::BasicNode;

use super::super::{Answer, Command, ControlCall, NewMember, ProposeError, Refusal};
use super::cluster::{Cluster, SOON, options};
use super::{CLUSTER, create_table, founding, has_table, newcomer, node};
use crate::identity::InstanceId;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_founder_serves_at_once_with_a_keyspace_and_a_table() {
    let cluster = Cluster::of(1).await;
    let founder = cluster.control(0);
    let state = founder.current();
    assert_eq!(state.cluster(), Some(CLUSTER));
    let target = state.schema().find("default", "kv").unwrap();
    assert_eq!(target.table.id, TableId(1));
    let placement = state.topology().placement(target.placement).unwrap();
    assert_eq!(placement.strategy().to_string(), "simple(3)");
    assert!(placement.partitions().all(|(_, map)| map.serving().nodes() == [node(0)]));
    assert_eq!(state.topology().member(node(0)).unwrap().state, MemberState::Ready);
    assert_eq!(founder.found(founding(), SOON).await, Ok(Answer::Joined { node: node(0) }), "asked again");
    let mut other = founding();
    other.cluster.0 += 1;
    let refused = founder.found(other, SOON).await;
    assert_eq!(refused, Err(ProposeError::Refused(Refusal::AlreadyFounded { cluster: CLUSTER })));
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_founder_that_crashed_half_way_completes_the_founding() {
    let cluster = Cluster::empty(options());
    let founder = cluster.start(node(0)).await;
    // Raft is initialised, and nothing founded.
    founder.raft.initialize(BTreeMap::from([(0, BasicNode::new("node-0:7401"))])).await.unwrap();
    assert!(founder.current().founded.is_none());
    cluster.stop(0).await;
    let founder = cluster.start(node(0)).await;
    assert_eq!(founder.found(founding(), SOON).await, Ok(Answer::Joined { node: node(0) }));
    assert_eq!(founder.current().cluster(), Some(CLUSTER));
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_founder_and_two_joins_make_three_voters_with_one_state() {
    let cluster = Cluster::of(3).await;
    cluster.until_voters(3).await;
    cluster.until_all("all know the cluster", |control| control.current().cluster() == Some(CLUSTER)).await;
    for n in 0..3 {
        let table = format!("of_{n}");
        let created = cluster.propose(n, create_table(&table)).await.unwrap();
        assert!(matches!(created, Answer::TableCreated { .. }), "{created:?}");
        cluster.until_all("all have the table", |control| has_table(control, &table)).await;
    }
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_join_asked_twice_is_one_join_and_a_taken_name_is_refused_with_the_way_out() {
    let cluster = Cluster::of(3).await;
    cluster.until_voters(3).await;
    for asked in 0..3 {
        assert_eq!(cluster.propose(asked, Command::Join(newcomer(2))).await, Ok(Answer::Joined { node: node(2) }));
    }
    assert_eq!(cluster.control(0).current().topology().members().len(), 3);
    let wiped = NewMember { instance: InstanceId(1), ..newcomer(2) };
    let refused = cluster.propose(1, Command::Join(wiped)).await.unwrap_err();
    assert_eq!(refused, ProposeError::Refused(Refusal::NameTaken { name: "node-2".to_owned(), node: node(2) }));
    assert!(refused.to_string().contains("under another name"), "{refused}");
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn learners_hold_a_full_copy_and_take_changes() {
    let cluster = Cluster::of(4).await;
    cluster.until_voters(3).await;
    let learner = cluster.control(0).status().learners;
    assert_eq!(learner.len(), 1);
    let learner = learner[0].0;
    cluster.propose(learner, create_table("events")).await.unwrap();
    cluster.until_all("all have the table", |control| has_table(control, "events")).await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_voter_that_left_is_replaced_and_forgotten() {
    let cluster = Cluster::of(4).await;
    cluster.until_voters(3).await;
    // Nothing of it is placed elsewhere than on node 0 unless the moves were driven to their end by reports.
    let leaver = cluster.control(0).status().voters.into_iter().find(|voter| voter.0 != 0).unwrap();
    let leave = |state| Command::SetMemberState { node: leaver, state };
    cluster.propose(0, leave(MemberState::Leaving)).await.unwrap();
    cluster
        .until("nothing of it is left", || {
            let state = cluster.control(0).current();
            let mut placements = state.topology().placements();
            placements.all(|(_, placement)| placement.partitions().all(|(_, map)| !map.write_sets().contains(leaver)))
        })
        .await;
    assert!(cluster.control(0).status().voters.contains(&leaver), "it votes until it has left");
    cluster.propose(0, leave(MemberState::Left)).await.unwrap();
    cluster.stop(leaver.0).await;
    cluster
        .until_all("another votes in its place", |control| {
            let status = control.status();
            status.voters.len() == 3
                && !status.voters_change
                && !status.voters.contains(&leaver)
                && !status.learners.contains(&leaver)
        })
        .await;
    let again = cluster.propose(0, Command::Join(newcomer(leaver.0))).await;
    assert_eq!(again, Err(ProposeError::Refused(Refusal::HasLeft { node: leaver })));
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_never_started_costs_nobody_the_majority() {
    let cluster = Cluster::of(1).await;
    for n in 1..3 {
        cluster.propose(0, Command::Join(newcomer(n))).await.unwrap();
    }
    cluster.until("both are learners", || cluster.control(0).status().learners.len() == 2).await;
    // Time enough for the wrong thing to be done.
    let before = cluster.calls(ControlCall::AppendEntries);
    cluster.until("they were called in vain", || cluster.calls(ControlCall::AppendEntries) > before + 20).await;
    assert_eq!(cluster.control(0).status().voters, [node(0)]);
    cluster.propose(0, create_table("events")).await.unwrap();
    cluster.start(node(1)).await;
    cluster.start(node(2)).await;
    cluster.until_voters(3).await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_keyspace_created_on_a_follower_is_planned_there_and_the_same_everywhere() {
    let cluster = Cluster::of(3).await;
    cluster.until_voters(3).await;
    let strategy = cube_replication::topology::Strategy::Simple { replicas: 2 };
    let created = cluster.control(2).create_keyspace("metrics", strategy, SyncPolicy::Sync, false, SOON).await;
    assert!(matches!(created, Ok(Answer::KeyspaceCreated { .. })), "{created:?}");
    cluster.until_all("all have it", |control| control.current().schema().keyspaces.contains_key("metrics")).await;
    cluster.end().await;
}
