//! Leaders die, majorities are lost and come back.

use std::time::Duration;

use cube_replication::topology::{MemberState, Strategy};
use cube_storage::SyncPolicy;

use super::super::{Answer, Command, ControlCall, ControlOptions, ProposeError};
use super::cluster::{Cluster, SOON, options};
use super::{create_table, has_table, node};

/// For what is to fail: longer than any election.
const A_WHILE: Duration = Duration::from_secs(4);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_leader_dies_another_takes_changes() {
    let cluster = Cluster::of(3).await;
    cluster.until_voters(3).await;
    let dead = cluster.leader().await;
    cluster.stop(dead).await;
    let survivor = (0..3).find(|n| *n != dead).unwrap();
    let created = cluster.propose(survivor, create_table("events")).await.unwrap();
    assert!(matches!(created, Answer::TableCreated { .. }), "{created:?}");
    cluster.until_all("both have it", |control| has_table(control, "events")).await;
    assert_ne!(cluster.leader().await, dead);
    cluster.start(node(dead)).await;
    cluster.until_all("the dead one has caught up", |control| has_table(control, "events")).await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_forwards_to_the_leader() {
    let cluster = Cluster::of(3).await;
    cluster.until_voters(3).await;
    let leader = cluster.leader().await;
    let follower = (0..3).find(|n| *n != leader).unwrap();
    let before = cluster.calls(ControlCall::Propose);
    cluster.propose(follower, create_table("events")).await.unwrap();
    assert!(cluster.calls(ControlCall::Propose) > before);
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_majority_the_copy_is_served_and_changes_fail_with_the_reason() {
    let cluster = Cluster::of(3).await;
    cluster.until_voters(3).await;
    cluster.propose(0, create_table("before")).await.unwrap();
    cluster.until_all("all have it", |control| has_table(control, "before")).await;
    let leader = cluster.leader().await;
    let last = (0..3).find(|n| *n != leader).unwrap();
    for n in (0..3).filter(|n| *n != last) {
        cluster.stop(n).await;
    }
    let survivor = cluster.control(last);
    cluster.until("it notices", || !survivor.status().has_quorum).await;
    assert!(has_table(&survivor, "before"), "what was decided is served");
    let failed = survivor.propose(create_table("during"), A_WHILE).await.unwrap_err();
    assert!(matches!(failed, ProposeError::NotAccepted { .. }), "{failed:?}");
    assert!(failed.to_string().contains("no effect"), "{failed}");

    // The copy is on disk: a restart without anybody else serves it, too.
    cluster.stop(last).await;
    let alone = cluster.start(node(last)).await;
    assert!(has_table(&alone, "before"));
    for n in (0..3).filter(|n| *n != last) {
        cluster.start(node(n)).await;
    }
    cluster.propose(last, create_table("after")).await.unwrap();
    assert!(!has_table(&cluster.control(last), "during"), "what was not accepted stays without effect");
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_that_was_accepted_takes_effect_by_itself_after_recovery() {
    let cluster = Cluster::of(3).await;
    cluster.until_voters(3).await;
    let leader = cluster.leader().await;
    let others: Vec<u16> = (0..3).filter(|n| *n != leader).collect();
    for n in &others {
        cluster.stop(*n).await;
    }
    let failed = cluster.control(leader).propose(create_table("pending"), A_WHILE).await.unwrap_err();
    assert_eq!(failed, ProposeError::Undecided { leader: node(leader) });
    assert!(failed.to_string().contains("takes effect by itself"), "{failed}");
    assert!(!has_table(&cluster.control(leader), "pending"));
    assert!(!cluster.control(leader).status().has_quorum);
    for n in &others {
        cluster.start(node(*n)).await;
    }
    cluster.until_all("all have it", |control| has_table(control, "pending")).await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_cut_off_is_replaced_and_says_that_it_has_no_majority() {
    let cluster = Cluster::of(3).await;
    cluster.until_voters(3).await;
    let cut = cluster.leader().await;
    cluster.cut_off(&[cut]);
    let other = (0..3).find(|n| *n != cut).unwrap();
    cluster.propose(other, create_table("events")).await.unwrap();
    cluster.until("the cut one notices", || !cluster.control(cut).status().has_quorum).await;
    assert!(!has_table(&cluster.control(cut), "events"));
    let failed = cluster.control(cut).propose(create_table("lost"), A_WHILE).await.unwrap_err();
    assert!(matches!(failed, ProposeError::Undecided { .. }), "{failed:?}");
    cluster.heal();
    cluster.until_all("all have it", |control| has_table(control, "events")).await;
    assert!(!has_table(&cluster.control(cut), "lost"), "the new leader never heard of it");
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proposal_that_outlives_its_leader_takes_effect_once() {
    let cluster = Cluster::of(3).await;
    cluster.until_voters(3).await;
    let cut = cluster.leader().await;
    let follower = (0..3).find(|n| *n != cut).unwrap();
    // The leader takes the proposal, and neither its entry nor its answer gets out.
    cluster.cut_answers(cut);
    let proposed = tokio::spawn({
        let control = cluster.control(follower);
        async move { control.propose(create_table("events"), SOON).await }
    });
    let created = proposed.await.unwrap().unwrap();
    assert!(matches!(created, Answer::TableCreated { .. }), "an old copy would be answered with 'exists': {created:?}");
    cluster.heal();
    cluster.until_all("all have it", |control| has_table(control, "events")).await;
    cluster.end().await;
}

/// An election by silence takes minutes: whoever is elected before was handed the lead.
fn patient() -> ControlOptions {
    let (election_min, election_max) = (Duration::from_secs(200), Duration::from_secs(400));
    ControlOptions { election_min, election_max, ..options() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_stops_in_order_hands_over_and_changes_go_on_at_once() {
    for size in [3, 5] {
        let cluster = Cluster::with(size, patient()).await;
        cluster.until_voters(usize::from(size)).await;
        let leader = cluster.leader().await;
        assert!(cluster.control(leader).hand_over().await, "of {size}");
        cluster.stop(leader).await;
        let survivor = (0..size).find(|n| *n != leader).unwrap();
        let created = cluster.propose(survivor, create_table("events")).await.unwrap();
        assert!(matches!(created, Answer::TableCreated { .. }), "of {size}: {created:?}");
        cluster.until_all("all have it", |control| has_table(control, "events")).await;
        cluster.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_hands_over_past_a_voter_that_is_dead_and_to_nobody_who_missed_changes() {
    let cluster = Cluster::with(5, patient()).await;
    cluster.until_voters(5).await;
    let leader = cluster.leader().await;
    let others: Vec<u16> = (0..5).filter(|n| *n != leader).collect();
    let (behind, dead) = (others[0], others[3]);
    cluster.cut_off(&[behind]);
    cluster.stop(dead).await;
    cluster.propose(leader, create_table("missed")).await.unwrap();
    cluster.heal();
    cluster.control(leader).hand_over().await;
    cluster.stop(leader).await;
    // Three of five are left, and each of them is needed.
    let next = cluster.leader().await;
    assert!(next != leader && next != dead);
    let created = cluster.propose(behind, create_table("events")).await.unwrap();
    assert!(matches!(created, Answer::TableCreated { .. }), "{created:?}");
    assert!(has_table(&cluster.control(next), "missed"), "nothing that was agreed on is lost");
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_does_not_lead_or_is_alone_hands_nothing_over() {
    let cluster = Cluster::of(1).await;
    assert!(!cluster.control(0).hand_over().await);
    assert!(cluster.control(0).status().leads);
    cluster.join(1).await;
    cluster.join(2).await;
    cluster.until_voters(3).await;
    let leader = cluster.leader().await;
    let follower = (0..3).find(|n| *n != leader).unwrap();
    let term = cluster.control(leader).status().term;
    assert!(!cluster.control(follower).hand_over().await);
    assert_eq!(cluster.control(leader).status().term, term);
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_left_the_cluster_hands_over_before_it_votes_no_more() {
    let cluster = Cluster::with(4, patient()).await;
    cluster.until_voters(3).await;
    let leader = cluster.leader().await;
    let other = (0..4).find(|n| *n != leader).unwrap();
    // Whoever holds nothing may go.
    let drop = Command::DropKeyspace { name: "default".to_owned(), if_exists: false };
    cluster.propose(other, drop).await.unwrap();
    for state in [MemberState::Leaving, MemberState::Left] {
        let command = Command::SetMemberState { node: node(leader), state };
        assert_eq!(cluster.propose(other, command).await, Ok(Answer::Done));
    }
    cluster
        .until("another one leads", || cluster.control(other).status().leader.is_some_and(|now| now != node(leader)))
        .await;
    cluster.until("the others vote", || !cluster.control(other).status().voters.contains(&node(leader))).await;
    cluster.stop(leader).await;
    let created = cluster
        .control(other)
        .create_keyspace("fleet", Strategy::Simple { replicas: 1 }, SyncPolicy::Sync, false, SOON)
        .await;
    assert!(matches!(created, Ok(Answer::KeyspaceCreated { .. })), "{created:?}");
    cluster.end().await;
}
