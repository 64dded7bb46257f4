//! Leaders die, majorities are lost and come back.

use std::time::Duration;

use super::super::{Answer, ControlCall, ProposeError};
use super::cluster::Cluster;
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
        async move { control.propose(create_table("events"), super::cluster::SOON).await }
    });
    let created = proposed.await.unwrap().unwrap();
    assert!(matches!(created, Answer::TableCreated { .. }), "an old copy would be answered with 'exists': {created:?}");
    cluster.heal();
    cluster.until_all("all have it", |control| has_table(control, "events")).await;
    cluster.end().await;
}
