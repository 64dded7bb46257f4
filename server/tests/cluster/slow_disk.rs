//! A disk that stands still for a while, as one does that has much to write.

use std::collections::BTreeSet;
use std::thread;
use std::time::Duration;

use crate::harness::Cluster;
use crate::harness::time::{PATIENCE, eventually, pause, throughout};

/// The followers of a leader that says nothing ask for votes after 4.5 s at the earliest.
const STANDS_STILL: Duration = Duration::from_secs(2);

#[test]
fn while_the_leaders_disk_stands_still_it_leads_on_and_a_schema_change_takes_effect() {
    let cluster = Cluster::of(3).recording_fsyncs().with_long_deadlines().start();
    cluster.wait_settled(&[1, 2, 3], 3);
    let leader = eventually("all see one leader", PATIENCE, || {
        let seen = leaders(&cluster)?;
        if seen.len() == 1 { Ok(seen) } else { Err(format!("{seen:?}")) }
    });
    let number: u8 = leader.first().unwrap().strip_prefix("node-").unwrap().parse().unwrap();
    let mut other = cluster.api(number % 3 + 1);

    cluster.hold_fsyncs(&[number]);
    let change = move || other.create_table("default", "meanwhile");
    let change = thread::Builder::new().name("change".into()).spawn(change).unwrap();
    eventually("the leader waits for its disk", PATIENCE, || match cluster.holding(&[number]) {
        0 => Err("it does not".to_owned()),
        _ => Ok(()),
    });
    thread::scope(|scope| {
        // However long the questions below take, the disk does not stand still for longer.
        let disk = || {
            pause(STANDS_STILL);
            cluster.release_fsyncs(&[number]);
        };
        thread::Builder::new().name("disk".into()).spawn_scoped(scope, disk).unwrap();
        throughout("nobody else leads", STANDS_STILL * 2, || match leaders(&cluster)? {
            seen if seen == leader => Ok(()),
            seen => Err(format!("{seen:?}, and before {leader:?}")),
        });
    });

    let created = change.join().unwrap().unwrap();
    assert!(created.is_success(), "{created}");
    assert_eq!(leaders(&cluster).unwrap(), leader);
    for by in cluster.all() {
        eventually(&format!("the table on node-{by}"), PATIENCE, || {
            let answer = cluster.api(by).get_raw("/api/v1/keyspaces/default/tables/meanwhile");
            let answer = answer.map_err(|failure| failure.to_string())?;
            if answer.is_success() { Ok(()) } else { Err(answer.to_string()) }
        });
    }
}

/// Who leads what the nodes agree on, by each of them.
fn leaders(cluster: &Cluster) -> Result<BTreeSet<String>, String> {
    let mut leaders = BTreeSet::new();
    for by in cluster.all() {
        let answer = cluster.api(by).get_raw("/api/v1/cluster/nodes").map_err(|failure| failure.to_string())?;
        let told = answer.json();
        let nodes = told["nodes"].as_array().ok_or_else(|| answer.to_string())?;
        let leading = nodes.iter().find(|node| node["raft"] == "LEADER").ok_or_else(|| answer.to_string())?;
        leaders.insert(leading["name"].as_str().unwrap_or_default().to_owned());
    }
    Ok(leaders)
}
