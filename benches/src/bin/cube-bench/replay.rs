//! How fast a node that was dead gets the hints for it, and what clients feel of that.
//!
//! Clients write all the time at half of what was measured to be possible right before: with all nodes alive, while node 3 is
//! dead, while it catches up, and afterwards. What they feel of the replay is held against the runs before and after it, in
//! which the same nodes do the same but for the replay.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cube_benches::Result;
use serde::Serialize;
use tokio::time::{Instant, sleep};

use super::cluster::Cluster;
use super::figures::Figures;
use super::load::Window;
use super::marks::{Mark, at_least, at_most};
use super::options::{HOT_ROWS, Nodes, Replay, Shape, Workload};
use super::subject::Subject;
use super::{load, marks, report};

/// The node that is killed.
pub(crate) const AWAY: &str = "node-3";
/// As many requests may wait in the open loop: a stall of some hundred milliseconds.
pub(crate) const OPEN_IN_FLIGHT: usize = 512;
/// So that every write that is missed becomes a hint.
const ROOM: [&str; 2] = ["hints.max_per_node=10000000", "hints.max_bytes_per_node=8GiB"];
/// How often it is looked how far they are.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How long a node may take to be seen dead or alive.
const SEEN_MAX: Duration = Duration::from_secs(60);
/// How long the replay may take. Far more than is wanted: a miss is to be told in figures.
const CATCH_UP_MAX: Duration = Duration::from_secs(900);

/// What came of it, for programs.
#[derive(Serialize)]
struct Report<'a> {
    /// Hints for the node when it was restarted, by coordinator.
    hints: &'a BTreeMap<String, u64>,
    /// From being reported alive until there were no hints for it any more.
    catch_up_seconds: f64,
    hints_per_second: f64,
    /// Of processor time, of all processes together, beyond what the same load cost before and after.
    processor_us_per_hint: f64,
    /// From its start until it was reported alive.
    restart_seconds: f64,
    marks: &'a [Mark],
    runs: &'a [Figures],
}

/// Kills a node, has it catch up, and tells what that took.
pub(crate) async fn measure(options: &Replay) -> Result<()> {
    if !options.nodes.addresses.is_empty() {
        return Err("a replay is measured on a cluster of its own, because a node of it is killed".into());
    }
    let settings = ROOM.map(str::to_owned).into_iter().chain(options.nodes.settings.clone()).collect();
    let mut cluster = Cluster::of(&Nodes { settings, ..options.nodes.clone() }).await?;
    let full = Shape::hot(Workload::Put, options.time);
    let subject = Subject::cube(&cluster.client, &full);
    load::preload(&subject, &full).await?;
    report::head();
    let capacity = told(load::run("all that is possible", &subject, &full, &cluster.pids).await?);
    let half = Shape { rate: Some(capacity.requests_per_second / 2.0), in_flight: OPEN_IN_FLIGHT, ..full };
    let before = told(load::run("half of it, before", &subject, &half, &cluster.pids).await?);
    cluster.kill(AWAY)?;
    wait_seen(&mut cluster, false, 2).await?;
    let down = told(load::run("half of it, node-3 dead", &subject, &half, &cluster.pids).await?);
    load::write_once(&subject, &half, HOT_ROWS..HOT_ROWS + options.writes).await?;
    let hints = hints(&cluster).await?;
    let (mut restart_seconds, mut catch_up_seconds) = (f64::NAN, f64::NAN);
    let window = Arc::new(Window::default());
    let course = async {
        sleep(half.warm_up).await;
        let restarted = Instant::now();
        cluster.restart(AWAY)?;
        // The replay begins as soon as one of them knows.
        wait_seen(&mut cluster, true, 1).await?;
        let alive = Instant::now();
        restart_seconds = (alive - restarted).as_secs_f64();
        let meter = window.begin(&cluster.pids);
        wait_caught_up(&mut cluster).await?;
        catch_up_seconds = alive.elapsed().as_secs_f64();
        Ok(window.end(meter))
    };
    let during = told(load::run_while("half of it, replay", &subject, &half, &window, course).await?);
    let after = told(load::run("half of it, after", &subject, &half, &cluster.pids).await?);
    report::processes(&during);

    let all: u64 = hints.values().sum();
    println!("\n| coordinator | hints for {AWAY} |\n|---|---|");
    hints.iter().for_each(|(name, count)| println!("| {name} | {count} |"));
    println!(
        "\n{AWAY} was reported alive {restart_seconds:.1} s after its start and had {all} hints {catch_up_seconds:.1} s later."
    );
    let hints_per_second = all as f64 / catch_up_seconds;
    let calm_cores = (cores(&before) + cores(&after)) / 2.0;
    let processor_us_per_hint = (cores(&during) - calm_cores) * during.seconds * 1e6 / all as f64;
    println!(
        "That is {processor_us_per_hint:.0} us of processor time for a hint, beyond the {calm_cores:.2} cores that the load \
         takes by itself."
    );
    let calm_us = before.p99_us.midpoint(after.p99_us) as f64;
    let marks = [
        at_least("hints a second, all coordinators together", 5_000.0, hints_per_second),
        at_most("p99 during the replay, times that before and after it", 2.0, during.p99_us as f64 / calm_us),
        at_most("p99 during the replay, times that with node-3 dead", 2.0, during.p99_us as f64 / down.p99_us as f64),
    ];
    marks::print(&marks);
    let runs = [capacity, before, down, during, after];
    let report = Report {
        hints: &hints,
        catch_up_seconds,
        hints_per_second,
        processor_us_per_hint,
        restart_seconds,
        marks: &marks,
        runs: &runs,
    };
    report::json(options.json.as_deref(), &report)
}

/// Processors that all processes of a run kept busy.
fn cores(figures: &Figures) -> f64 {
    figures.processes.iter().map(|process| process.processor_ms).sum::<f64>() / 1e3 / figures.seconds
}

pub(crate) fn told(figures: Figures) -> Figures {
    report::line(&figures);
    figures
}

/// Where the nodes are that are never killed: the coordinators of what is missed.
fn coordinators(cluster: &Cluster) -> impl Iterator<Item = (&str, &str)> {
    cluster.addresses().filter(|(name, _)| *name != AWAY)
}

/// Waits until so many coordinators see the node alive, or dead.
pub(crate) async fn wait_seen(cluster: &mut Cluster, alive: bool, by: usize) -> Result<()> {
    let deadline = Instant::now() + SEEN_MAX;
    loop {
        let mut seen = 0;
        for (_, address) in coordinators(cluster) {
            let nodes = cluster.client.admin().only(address).nodes().await?.answer;
            seen += usize::from(nodes.iter().any(|node| node.name == AWAY && node.alive == alive));
        }
        if seen >= by {
            return Ok(());
        }
        pause(cluster, deadline, "gossip does not tell whether the node is alive").await?;
    }
}

/// Hints for the node, by coordinator.
async fn hints(cluster: &Cluster) -> Result<BTreeMap<String, u64>> {
    let mut hints = BTreeMap::new();
    for (name, address) in coordinators(cluster) {
        let kept = cluster.client.admin().only(address).hints().await?.answer;
        hints.insert(name.to_owned(), kept.by_node.get(AWAY).copied().unwrap_or_default());
    }
    Ok(hints)
}

async fn wait_caught_up(cluster: &mut Cluster) -> Result<()> {
    let deadline = Instant::now() + CATCH_UP_MAX;
    while hints(cluster).await?.values().any(|count| *count > 0) {
        pause(cluster, deadline, "the node does not catch up").await?;
    }
    Ok(())
}

/// Until the next look, if there is one.
async fn pause(cluster: &mut Cluster, deadline: Instant, late: &str) -> Result<()> {
    cluster.check()?;
    if Instant::now() > deadline {
        return Err(late.into());
    }
    sleep(LOOK_EVERY).await;
    Ok(())
}
