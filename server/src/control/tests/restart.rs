//! Nodes come back from their disks.

use bytes::Bytes;
use cube_storage::model::NodeId;

use super::super::wire::{Envelope, encode_call};
use super::super::{Control, ControlCall, ControlOptions, OpenError};
use super::cluster::{Cluster, options};
use super::{create_table, has_table, node};
use crate::identity::ClusterId;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_stopped_altogether_comes_back_with_everything() {
    let cluster = Cluster::of(3).await;
    cluster.until_voters(3).await;
    for n in 0..5 {
        cluster.propose(n % 3, create_table(&format!("t{n}"))).await.unwrap();
    }
    cluster.until_all("all have all", |control| has_table(control, "t4")).await;
    let before: Vec<_> = (0..3).map(|n| cluster.control(n).current()).collect();
    for n in 0..3 {
        cluster.stop(n).await;
    }
    for n in 0..3 {
        let control = cluster.start(node(n)).await;
        let (now, before) = (control.current(), &before[usize::from(n)]);
        assert_eq!(now.schema(), before.schema(), "before anybody else is there");
        assert!(now.topology().epoch() >= before.topology().epoch(), "never back behind what was seen");
    }
    cluster.propose(1, create_table("after")).await.unwrap();
    cluster.until_all("all have the new one", |control| has_table(control, "after")).await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_comes_late_catches_up_by_a_snapshot() {
    let few = ControlOptions { snapshot_after_entries: 20, entries_kept: 4, ..options() };
    let cluster = Cluster::with(1, few).await;
    for n in 0..60 {
        cluster.propose(0, create_table(&format!("t{n}"))).await.unwrap();
    }
    cluster.until("a snapshot is there", || cluster.control(0).status().snapshot.is_some()).await;
    let late = cluster.join(1).await;
    cluster.until("it has everything", || has_table(&late, "t59")).await;
    cluster.until("it came by a snapshot", || late.status().snapshot.is_some()).await;
    assert!(cluster.calls(ControlCall::InstallSnapshot) > 0);
    cluster.stop(1).await;
    let late = cluster.start(node(1)).await;
    assert!(has_table(&late, "t59"), "from its own disk");
    cluster.propose(0, create_table("after")).await.unwrap();
    cluster.until("it goes on behind the snapshot", || has_table(&late, "after")).await;

    cluster.stop(0).await;
    let first = cluster.start(node(0)).await;
    assert!(has_table(&first, "after") && has_table(&first, "t0"), "from snapshot and log");
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_members_directory_is_refused() {
    let cluster = Cluster::of(1).await;
    let link = cluster.link(node(5));
    cluster.stop(0).await;
    let dir = cluster.dir(0);
    let opened = Control::open(dir.path(), node(5), link, options()).await;
    let expected =
        OpenError::OtherNode { dir: dir.path().join("raft").display().to_string(), found: node(0), given: node(5) };
    assert_eq!(opened.err(), Some(expected));
    cluster.start(node(0)).await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_for_another_node_or_from_another_cluster_is_turned_away() {
    let one = Cluster::of(1).await;
    let (call, payload) = vote_request(node(0), None);
    assert!(one.control(0).handle(call, payload).await.is_ok());
    let (call, payload) = vote_request(node(3), None);
    let refused = one.control(0).handle(call, payload).await.unwrap_err().to_string();
    assert!(refused.contains("it is for n3, and this is n0"), "{refused}");
    let (call, payload) = vote_request(node(0), Some(ClusterId(99)));
    let refused = one.control(0).handle(call, payload).await.unwrap_err().to_string();
    assert!(refused.contains("it comes from cluster"), "{refused}");
    assert!(one.control(0).handle(call, Bytes::from_static(b"garbage")).await.is_err());
    one.end().await;
}

/// The request for a vote that nobody would give.
fn vote_request(to: NodeId, cluster: Option<ClusterId>) -> (ControlCall, Bytes) {
    let body = openraft::raft::VoteRequest::<u64>::new(openraft::Vote::new(0, 0), None);
    (ControlCall::Vote, encode_call(ControlCall::Vote, &Envelope { to, cluster, body }).unwrap())
}
