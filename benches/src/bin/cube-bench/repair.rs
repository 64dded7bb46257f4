//! How long it takes to mend replicas that differ, what clients feel of it, and what equal replicas cost while nobody asks
//! for anything.
//!
//! A node is killed, and rows are written that nobody keeps for it; so it holds older versions of rows that lie all over the
//! tokens. What mends them is a repair on demand, with anti-entropy switched off, which would be quicker to find them than
//! it can be measured. Then clients read and write at half of what was measured to be possible, before, during and after:
//! several times, because a flush or a slow disk in one of these runs changes its p99 more than a repair does.

use std::sync::Arc;
use std::time::Duration;

use cube_benches::Result;
use cube_benches::measure::median;
use cube_client::admin::RepairScope;
use serde::Serialize;
use tokio::time::{Instant, sleep};

use super::cluster::Cluster;
use super::figures::{Expense, Figures, Meter};
use super::load::Window;
use super::marks::{Mark, at_most, thousands};
use super::options::{Nodes, Repair, Shape, Workload};
use super::replay::{AWAY, OPEN_IN_FLIGHT, told, wait_seen};
use super::subject::Subject;
use super::{load, marks, report};

/// What is missed stays so, and is old enough to be a difference soon.
const SETTINGS: [&str; 3] = ["hints.enabled=false", "timeouts.write=2s", "anti_entropy.horizon=2s"];
/// Until what was written is older than the horizon.
const RIPE: Duration = Duration::from_millis(2_500);
/// How often it is asked how a repair stands.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// How long a repair may take. Far more than is wanted: a miss is to be told in figures.
const REPAIR_MAX: Duration = Duration::from_secs(900);
/// In a quick run there is one row or difference for so many, and one second for so many.
const QUICK_ROWS: u64 = 100;
const QUICK_TIME: u32 = 10;
/// Nodes are at rest when none takes more of a processor than this, in percent.
const CALM_PERCENT: f64 = 3.0;
/// How long it is waited for that: flushes and compactions of what was written go on for a while.
const CALM_MAX: Duration = Duration::from_secs(180);
/// The number of differences that has a mark, and how long they may take.
const MARKED_DIFFERENCES: u64 = 10_000;
const MARKED_SECONDS: f64 = 3.0;
/// Of a hundred rows that differ at least so many are left to a repair under load: writes of the load mend the others before.
const LEFT_PERCENT: u64 = 90;

/// What came of one repair.
#[derive(Clone, Serialize)]
struct Repaired {
    /// Rows that one node held older; nothing was to be found in a repair without any.
    differences: u64,
    /// Whether clients were served meanwhile.
    under_load: bool,
    /// From asking for it until it was told to be over.
    seconds: f64,
    rows: u64,
    bytes: u64,
    leaves: u64,
    /// Of all nodes together, the load's included.
    processor_ms: f64,
    others_cores: f64,
}

/// What a node takes while nobody asks for anything.
#[derive(Serialize)]
struct Idle {
    anti_entropy: bool,
    /// Of one processor, the busiest node.
    percent: f64,
    others_cores: f64,
}

#[derive(Serialize)]
struct Report<'a> {
    rows: u64,
    idle: &'a [Idle],
    repairs: &'a [Repaired],
    marks: &'a [Mark],
    runs: &'a [Figures],
}

/// Measures all of it.
pub(crate) async fn measure(options: &Repair) -> Result<()> {
    if !options.nodes.addresses.is_empty() {
        return Err("repairs are measured on a cluster of their own, because a node of it is killed".into());
    }
    let (rows_part, time_part) = if options.quick { (QUICK_ROWS, QUICK_TIME) } else { (1, 1) };
    let rows = (options.rows / rows_part).max(1);
    let differences: Vec<u64> = options.differences.iter().map(|of| (of / rows_part).clamp(1, rows)).collect();
    let settings = SETTINGS.map(str::to_owned).into_iter().chain(options.nodes.settings.clone()).collect();
    let mut cluster = Cluster::of(&Nodes { settings, ..options.nodes.clone() }).await?;
    let shape = Shape { rows, ..Shape::hot(Workload::Mixed, options.time / time_part) };
    let subject = Subject::cube(&cluster.client, &shape);
    load::preload(&subject, &shape).await?;
    // Both after a start: what loading left to be flushed and compacted is no part of either.
    cluster.restart_with("anti_entropy.enabled=true").await?;
    let comparing = at_rest(&cluster, true, 3 * shape.time).await?;
    cluster.restart_with("anti_entropy.enabled=false").await?;
    let idle = [comparing, at_rest(&cluster, false, 3 * shape.time).await?];
    sleep(RIPE).await;
    let mut repairs = vec![repair(&cluster, 0, 0).await?];
    for &count in &differences {
        differ(&mut cluster, &shape, count).await?;
        repairs.push(repair(&cluster, count, count).await?);
        repairs.push(repair(&cluster, 0, 0).await?);
    }

    tell_idle(&idle);
    tell(&repairs);
    report::head();
    let subject = Subject::cube(&cluster.client, &shape);
    let capacity = told(load::run("all that is possible", &subject, &shape, &cluster.pids).await?);
    let half = Shape { rate: Some(capacity.requests_per_second / 2.0), in_flight: OPEN_IN_FLIGHT, ..shape };
    let (mut runs, mut table, mut loaded) = (vec![capacity], Vec::new(), Vec::new());
    for &count in differences.iter().rev().take(2).rev() {
        let mut times = Vec::new();
        for _ in 0..options.rounds {
            differ(&mut cluster, &half, count).await?;
            let (repaired, [before, during, after]) = under_load(&cluster, &half, count).await?;
            times.push(during.p99_us as f64 / before.p99_us.midpoint(after.p99_us) as f64);
            loaded.push(repaired);
            runs.extend([before, during, after]);
        }
        let all: Vec<String> = times.iter().map(|times| format!("{times:.2}")).collect();
        println!("p99 while {} rows were repaired, times that without: {}", thousands(count), all.join(", "));
        let what = format!("p99 while {} rows are repaired, times that without", thousands(count));
        table.push(at_most(what, 1.5, median(times)));
    }
    tell(&loaded);
    let marked = MARKED_DIFFERENCES / rows_part;
    let quiet = repairs.iter().filter(|repair| repair.differences == marked);
    let what = format!("seconds to repair {} of {} rows", thousands(marked), thousands(rows));
    table.extend(quiet.map(|repair| at_most(what.clone(), MARKED_SECONDS, repair.seconds)));
    repairs.extend(loaded);
    let [comparing, _] = &idle;
    table.push(at_most("percent of a processor that an idle node takes", 1.0, comparing.percent));
    marks::print(&table);
    let report = Report { rows, idle: &idle, repairs: &repairs, marks: &table, runs: &runs };
    report::json(options.json.as_deref(), &report)
}

/// Has one node miss so many writes, all over the tokens.
async fn differ(cluster: &mut Cluster, shape: &Shape, count: u64) -> Result<()> {
    cluster.kill(AWAY)?;
    wait_seen(cluster, false, 2).await?;
    load::write_once(&Subject::cube(&cluster.client, shape), shape, 0..count).await?;
    cluster.restart(AWAY)?;
    wait_seen(cluster, true, 2).await?;
    cluster.wait_ready().await?;
    sleep(RIPE).await;
    Ok(())
}

/// Runs a repair to its end, which sends at least so many of the rows that differ.
async fn repair(cluster: &Cluster, differences: u64, least: u64) -> Result<Repaired> {
    let (_, address) = cluster.addresses().next().ok_or("no node was started")?;
    let admin = cluster.client.admin().only(address);
    let scope = RepairScope { keyspace: Some("default".into()), table: Some("kv".into()), dry_run: false };
    let (meter, begun) = (Meter::start(&cluster.pids), Instant::now());
    let id = admin.start_repair(scope).await?.answer.id;
    let repair = loop {
        let repair = admin.repair(&id).await?.answer;
        if repair.is_over() {
            break repair;
        }
        if begun.elapsed() > REPAIR_MAX {
            return Err(format!("a repair does not end: {repair:?}").into());
        }
        sleep(LOOK_EVERY).await;
    };
    let (seconds, spent) = (begun.elapsed().as_secs_f64(), meter.stop());
    if repair.state != "COMPLETED" || repair.rows < least {
        return Err(format!("{least} rows were to be repaired: {repair:?}").into());
    }
    Ok(Repaired {
        differences,
        under_load: false,
        seconds,
        rows: repair.rows,
        bytes: repair.bytes,
        leaves: repair.leaves,
        processor_ms: spent.processor_ms(),
        others_cores: spent.others_cores(),
    })
}

/// Runs a repair under the load of a workload; what clients saw before, during and after.
async fn under_load(cluster: &Cluster, half: &Shape, count: u64) -> Result<(Repaired, [Figures; 3])> {
    let subject = Subject::cube(&cluster.client, half);
    let before = told(load::run("half of it, before", &subject, half, &cluster.pids).await?);
    let (window, mut repaired) = (Arc::new(Window::default()), None);
    let course = async {
        sleep(half.warm_up).await;
        let meter = window.begin(&cluster.pids);
        repaired = Some(repair(cluster, count, count * LEFT_PERCENT / 100).await?);
        Ok(window.end(meter))
    };
    let name = format!("half of it, {} rows repaired", thousands(count));
    let during = told(load::run_while(&name, &subject, half, &window, course).await?);
    let after = told(load::run("half of it, after", &subject, half, &cluster.pids).await?);
    let repaired = repaired.ok_or("no repair was run")?;
    Ok((Repaired { under_load: true, ..repaired }, [before, during, after]))
}

/// What nodes take that nobody asks for anything, once they are at rest.
async fn at_rest(cluster: &Cluster, anti_entropy: bool, time: Duration) -> Result<Idle> {
    let deadline = Instant::now() + CALM_MAX;
    while Instant::now() < deadline {
        if busiest_percent(&spend(cluster, Duration::from_secs(2)).await) < CALM_PERCENT {
            break;
        }
    }
    let spent = spend(cluster, time).await;
    Ok(Idle { anti_entropy, percent: busiest_percent(&spent), others_cores: spent.others_cores() })
}

async fn spend(cluster: &Cluster, time: Duration) -> Expense {
    let meter = Meter::start(&cluster.pids);
    sleep(time).await;
    meter.stop()
}

/// The share of a processor that the busiest node took.
fn busiest_percent(spent: &Expense) -> f64 {
    let nodes = spent.processes().iter().filter(|process| process.name.starts_with("node"));
    nodes.map(|node| 100.0 * node.processor_ms / 1e3 / spent.seconds()).fold(0.0, f64::max)
}

fn tell_idle(idle: &[Idle]) {
    println!(
        "\n| nobody asks for anything | percent of a processor, the busiest node | others' cores |\n|---|---|---|"
    );
    for Idle { anti_entropy, percent, others_cores } in idle {
        let name = if *anti_entropy { "anti-entropy on" } else { "anti-entropy off" };
        println!("| {name} | {percent:.2} | {others_cores:.2} |");
    }
}

fn tell(repairs: &[Repaired]) {
    println!("\n| rows that differ | load | seconds | rows sent | MiB | leaves | CPU ms | others' cores |");
    println!("|---|---|---|---|---|---|---|---|");
    for repair in repairs {
        println!(
            "| {} | {} | {:.2} | {} | {:.1} | {} | {:.0} | {:.2} |",
            thousands(repair.differences),
            if repair.under_load { "half" } else { "none" },
            repair.seconds,
            thousands(repair.rows),
            repair.bytes as f64 / 1_048_576.0,
            thousands(repair.leaves),
            repair.processor_ms,
            repair.others_cores,
        );
    }
}
