//! What gossip costs in a large cluster, and whether it still finds the dead in time.

use std::sync::atomic::Ordering;

use parking_lot::Mutex;

use super::*;

const NODES: u16 = 50;
/// How long the quiet cluster is measured.
const MEASURED: Duration = Duration::from_secs(20);
/// Bytes a second that each of so many nodes may send: a thousandth of a slow network.
const BYTES_PER_S_MAX: u64 = 125_000;
/// What is promised is 5 s; on a machine that does much else the test allows five times that.
const DOWN_DEADLINE_MS: u64 = 25_000;

/// Processor time of this process so far, in milliseconds.
fn processor_ms() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    // A tick is a hundredth of a second on Linux.
    (fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()) * 10
}

fn sent_bytes(nodes: &[Gossip]) -> u64 {
    nodes.iter().map(|node| node.counters().sent_bytes.load(Ordering::Relaxed)).sum()
}

#[tokio::test]
#[ignore = "long: fifty nodes for half a minute, and what it measures needs the machine for itself"]
async fn fifty_nodes_cost_little_and_find_the_dead_in_time() {
    let net = Net::udp();
    let started_ms = net.clock.monotonic_ms();
    let mut nodes = net.cluster(NODES).await;
    println!("{NODES} nodes know each other after {} ms", net.clock.monotonic_ms() - started_ms);

    let (from_ms, bytes, processor) = (net.clock.monotonic_ms(), sent_bytes(&nodes), processor_ms());
    tokio::time::sleep(MEASURED).await;
    let took_ms = net.clock.monotonic_ms() - from_ms;
    let bytes_per_s = (sent_bytes(&nodes) - bytes) * 1_000 / took_ms / u64::from(NODES);
    let share = (processor_ms() - processor) as f64 / took_ms as f64 / f64::from(NODES) * 100.0;
    println!("each sends {bytes_per_s} bytes a second and takes {share:.2} % of one processor");
    assert!(bytes_per_s < BYTES_PER_S_MAX, "{bytes_per_s} bytes a second");
    let all: BTreeSet<u16> = (1..=NODES).collect();
    for node in &nodes {
        assert_eq!(found(node), all, "nobody was taken for dead meanwhile");
    }

    nodes.pop();
    let killed_ms = net.clock.monotonic_ms();
    let took: Mutex<Vec<Option<u64>>> = Mutex::new(vec![None; nodes.len()]);
    net.until(
        || {
            let now_ms = net.clock.monotonic_ms();
            let mut took = took.lock();
            for (node, took_ms) in nodes.iter().zip(took.iter_mut()) {
                if !node.is_alive(NodeId(NODES)) {
                    took_ms.get_or_insert(now_ms - killed_ms);
                }
            }
            took.iter().all(Option::is_some)
        },
        "the killed node is seen DOWN by all",
    )
    .await;
    let took = took.into_inner();
    let (first, last) = (took.iter().flatten().min().unwrap(), took.iter().flatten().max().unwrap());
    println!("a killed node is DOWN after {first} ms for the first and {last} ms for the last of the others");
    assert!(*last <= DOWN_DEADLINE_MS);
}
