//! Nodes that must not be let in say why, and what to do.

use std::fs;
use std::process::Command;

use crate::harness::Cluster;
use crate::harness::node::{Node, Settings};
use crate::harness::time::PATIENCE;

/// The directory, the configuration or the command line must be changed first.
const UNUSABLE: i32 = 2;
/// The cluster refuses the node for good.
const REFUSED: i32 = 3;

#[test]
fn a_second_node_of_the_same_name_is_refused() {
    let mut cluster = Cluster::of(2).start();
    let own = cluster.spare_settings();
    let namesake = Settings { name: "node-2".into(), ..own };
    let said = refused(&cluster, namesake, REFUSED);
    assert_says(&said, &["node-2", "name"]);
    assert_works(&mut cluster);
}

#[test]
fn a_wiped_directory_under_an_old_name_is_refused() {
    let mut cluster = Cluster::of(2).start();
    cluster.kill(&[2]);
    let settings = cluster.node(2).settings.clone();
    fs::rename(&settings.data, cluster.path("kept")).unwrap();
    fs::create_dir(&settings.data).unwrap();
    let said = refused(&cluster, settings.clone(), REFUSED);
    assert_says(&said, &["node-2", "with that directory, or under another name"]);
    // With its own directory it is welcome.
    fs::remove_dir_all(&settings.data).unwrap();
    fs::rename(cluster.path("kept"), &settings.data).unwrap();
    cluster.restart(&[2]);
    assert_works(&mut cluster);
}

#[test]
fn a_directory_of_another_cluster_is_refused() {
    let mut other = Cluster::of(1);
    other.node(1).settings.name = "stranger".into();
    other.restart(&[1]);
    assert_eq!(other.terminate(1).code(), Some(0));
    let mut cluster = Cluster::of(2).start();
    let data = other.node(1).data().to_owned();
    let settings = Settings { data, name: "stranger".into(), ..cluster.spare_settings() };
    let said = refused(&cluster, settings, REFUSED);
    assert_says(&said, &[other.node(1).data().to_str().unwrap(), "belongs to cluster", "another directory"]);
    assert_works(&mut cluster);
    // It is still what it was.
    other.restart(&[1]);
}

#[test]
fn a_directory_is_used_by_one_process_and_one_name() {
    let mut cluster = Cluster::of(2).start();
    let data = cluster.node(2).data().to_owned();
    let twice = Settings { data: data.clone(), name: "node-2".into(), ..cluster.spare_settings() };
    let said = refused(&cluster, twice, UNUSABLE);
    assert_says(&said, &[data.to_str().unwrap(), "in use"]);
    cluster.kill(&[2]);
    let renamed = Settings { data: data.clone(), name: "node-3".into(), ..cluster.spare_settings() };
    let said = refused(&cluster, renamed, UNUSABLE);
    assert_says(&said, &[data.to_str().unwrap(), "node-2", "node-3"]);
    cluster.restart(&[2]);
    assert_works(&mut cluster);
}

#[test]
fn a_copy_of_a_directory_is_refused_while_the_node_it_was_taken_of_runs() {
    let mut cluster = Cluster::of(2).start();
    assert_eq!(cluster.terminate(2).code(), Some(0));
    let (data, copied) = (cluster.node(2).data().to_owned(), cluster.path("copied"));
    let cp = Command::new("cp").arg("-a").args([&data, &copied]).status().unwrap();
    assert!(cp.success(), "{cp}");
    cluster.restart(&[2]);
    // Its only seed is another node, so that only the address it is known by can give it away.
    let seeds = vec![cluster.node(1).settings.addresses.peer.to_string()];
    let copy = Settings { data: copied, name: "node-2".into(), seeds, ..cluster.spare_settings() };
    let known = cluster.node(2).settings.addresses.peer.to_string();
    let said = refused(&cluster, copy, REFUSED);
    assert_says(&said, &["node-2 is running already", &known, "of its own"]);
    assert_works(&mut cluster);
}

/// What a node says that ends by itself with an exit code.
fn refused(cluster: &Cluster, settings: Settings, code: i32) -> String {
    let log = cluster.path("refused");
    let mut node = Node::new(settings, log);
    node.start();
    let status = node.wait_for_end(PATIENCE);
    let said = node.printed();
    assert_eq!(status.code(), Some(code), "{said}");
    said
}

fn assert_says(said: &str, words: &[&str]) {
    assert!(words.iter().all(|word| said.contains(word)), "{words:?} in: {said}");
}

/// The two nodes of the cluster are there, and nobody else.
fn assert_works(cluster: &mut Cluster) {
    cluster.wait_formed(&[1, 2]);
    let put = cluster.api(1).put("still", "here", "ALL").unwrap();
    assert!(put.is_success(), "{put}");
}
