//! What reads cost: a quorum beside a single replica, a scan of everything, a replica that stands still.
//!
//! What is compared takes turns, so that both have the same share of a machine that others use too.

use std::time::Duration;

use cube_benches::Result;
use cube_benches::measure::median;
use cube_client::Level;
use rustix::process::{Signal, kill_process};
use serde::Serialize;
use tokio::time::Instant;

use super::cluster::Cluster;
use super::figures::{Figures, Meter};
use super::marks::{Mark, Runs, at_least, at_most};
use super::options::{Shape, Turns, Workload};
use super::subject::Subject;
use super::{load, marks, report};

/// Rows of the scan, and bytes of each.
const SCANNED_ROWS: u64 = 200_000;
const SCANNED_BYTES: usize = 100;
/// The part of what the cluster can do that is asked of it while a replica stands still: one in so many.
const LOAD_PART: f64 = 2.0;
/// As many requests may wait in the open loop: a stall of some hundred milliseconds.
const OPEN_IN_FLIGHT: usize = 512;

/// Measures all of it.
pub(crate) async fn measure(options: &Turns) -> Result<()> {
    let (mut table, mut done) = hot(options).await?;
    let scanned = scans(options).await?;
    println!("\n| scan | rows | seconds | rows/s | CPU us/row | others' cores |\n|---|---|---|---|---|---|");
    for (number, scan) in scanned.iter().enumerate() {
        let Scanned { rows, seconds, rows_per_second, processor_us_per_row, others_cores } = scan;
        println!(
            "| {} | {rows} | {seconds:.2} | {rows_per_second:.0} | {processor_us_per_row:.1} | {others_cores:.2} |",
            number + 1
        );
    }
    let rate = median(scanned.iter().map(|scan| scan.rows_per_second));
    table.push(at_least("rows/s of a quorum scan, 100 bytes each", 40_000.0, rate));
    marks::print(&table);
    #[derive(Serialize)]
    struct Report<'a> {
        marks: &'a [Mark],
        runs: &'a mut Vec<Figures>,
        scans: &'a [Scanned],
    }
    report::json(options.json.as_deref(), &Report { marks: &table, runs: &mut done, scans: &scanned })
}

async fn hot(options: &Turns) -> Result<(Vec<Mark>, Vec<Figures>)> {
    let cluster = Cluster::of(&options.nodes).await?;
    let quorum = Shape::hot(Workload::Get, options.time);
    load::preload(&Subject::cube(&cluster.client, &quorum), &quorum).await?;
    report::head();
    let mut runs = Runs::on(&cluster);
    let (mut costs, mut rates) = (Vec::new(), Vec::new());
    for _ in 0..options.rounds.max(1) {
        let one = runs.run("get at ONE", &Shape { level: Level::One, ..quorum.clone() }).await?;
        let whole = runs.run("get at QUORUM", &quorum).await?;
        costs.push(whole.processor_us_per_request / one.processor_us_per_request);
        rates.push(whole.requests_per_second);
    }
    let mut marks = vec![at_most("CPU of a GET at QUORUM to ONE", 1.6, median(costs))];

    let open = Shape { rate: Some(median(rates) / LOAD_PART), in_flight: OPEN_IN_FLIGHT, ..quorum.clone() };
    let stopped = cluster.last_process()?;
    let (mut first, mut later) = (Vec::new(), Vec::new());
    for _ in 0..options.rounds.max(1) {
        let healthy = runs.run("half of that", &open).await?;
        kill_process(stopped, Signal::STOP)?;
        let slow = async {
            // From the moment on: nobody knows of it yet.
            let at_once =
                runs.run("half, one just stopped", &Shape { warm_up: Duration::ZERO, ..open.clone() }).await?;
            Ok::<_, cube_benches::Error>((at_once, runs.run("half, one stopped", &open).await?))
        };
        let slow = slow.await;
        kill_process(stopped, Signal::CONT)?;
        let (at_once, known) = slow?;
        first.push(at_once.p99_us as f64 / healthy.p99_us as f64);
        later.push(known.p99_us as f64 / healthy.p99_us as f64);
    }
    marks.push(at_most("p99 with one just stopped to healthy", 3.0, median(first)));
    marks.push(at_most("p99 with one stopped to healthy", 3.0, median(later)));
    Ok((marks, runs.done))
}

/// A scan of everything.
#[derive(Serialize)]
struct Scanned {
    rows: u64,
    seconds: f64,
    rows_per_second: f64,
    processor_us_per_row: f64,
    others_cores: f64,
}

async fn scans(options: &Turns) -> Result<Vec<Scanned>> {
    let cluster = Cluster::of(&options.nodes).await?;
    let small = Shape { value_bytes: SCANNED_BYTES, rows: SCANNED_ROWS, ..Shape::hot(Workload::Put, options.time) };
    load::preload(&Subject::cube(&cluster.client, &small), &small).await?;
    let table = cluster.client.default_table();
    let mut scans = Vec::new();
    for _ in 0..options.rounds.max(1) {
        let (meter, begun) = (Meter::start(&cluster.pids), Instant::now());
        let mut scan = table.scan("").level(Level::Quorum);
        let mut rows = 0;
        while let Some(page) = scan.next_page().await? {
            rows += page.len() as u64;
        }
        let seconds = begun.elapsed().as_secs_f64();
        if rows < SCANNED_ROWS {
            return Err(format!("a scan listed {rows} of {SCANNED_ROWS} rows").into());
        }
        let spent = meter.stop();
        scans.push(Scanned {
            rows,
            seconds,
            rows_per_second: rows as f64 / seconds,
            processor_us_per_row: 1e3 * spent.processor_ms() / rows as f64,
            others_cores: spent.others_cores(),
        });
    }
    Ok(scans)
}
