//! What reads cost: a quorum beside a single replica, an account of what was done, a scan of everything, a replica that
//! stands still.
//!
//! What is compared takes turns, so that both have the same share of a machine that others use too.

use std::time::Duration;

use cube_benches::Result;
use cube_benches::measure::median;
use cube_client::Level;
use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;
use tokio::time::Instant;

use super::cluster::Cluster;
use super::figures::{Figures, Meter};
use super::options::{Distribution, Shape, Turns, Values, Workload};
use super::subject::Subject;
use super::{load, report};

const ROWS: u64 = 20_000;
/// Rows of the scan, and bytes of each.
const SCANNED_ROWS: u64 = 200_000;
const SCANNED_BYTES: usize = 100;
/// The part of what the cluster can do that is asked of it while a replica stands still: one in so many.
const LOAD_PART: f64 = 2.0;
/// Most that a closed loop of the open loop's rate may have under way.
const OPEN_IN_FLIGHT: usize = 512;

#[derive(Serialize)]
struct Mark {
    what: &'static str,
    wanted: f64,
    measured: f64,
}

struct Runs<'a> {
    cluster: &'a Cluster,
    done: Vec<Figures>,
}

impl Runs<'_> {
    async fn run(&mut self, name: &str, shape: &Shape) -> Result<Figures> {
        let subject = Subject::cube(&self.cluster.client, shape);
        let figures = load::run(name, &subject, shape, &self.cluster.pids).await?;
        report::line(&figures);
        self.done.push(figures.clone());
        Ok(figures)
    }
}

fn shape(time: Duration) -> Shape {
    Shape {
        workload: Workload::Get,
        reads: None,
        value_bytes: 1024,
        values: Values::Random,
        rows: ROWS,
        distribution: Distribution::Uniform,
        in_flight: 64,
        rate: None,
        batch: 64,
        time,
        warm_up: Duration::from_secs(1),
        level: Level::Quorum,
    }
}

/// Measures all of it.
pub(crate) async fn measure(options: &Turns) -> Result<()> {
    let (mut marks, mut done) = hot(options).await?;
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
    marks.push(Mark { what: "rows/s of a quorum scan, 100 bytes each", wanted: 40_000.0, measured: rate });
    println!("\n| what | wanted | measured |\n|---|---|---|");
    for mark in &marks {
        println!("| {} | {:.1} | {:.2} |", mark.what, mark.wanted, mark.measured);
    }
    #[derive(Serialize)]
    struct Report<'a> {
        marks: &'a [Mark],
        runs: &'a mut Vec<Figures>,
        scans: &'a [Scanned],
    }
    report::json(options.json.as_deref(), &Report { marks: &marks, runs: &mut done, scans: &scanned })
}

async fn hot(options: &Turns) -> Result<(Vec<Mark>, Vec<Figures>)> {
    let cluster = Cluster::of(&options.nodes).await?;
    let quorum = shape(options.time);
    load::preload(&Subject::cube(&cluster.client, &quorum), &quorum).await?;
    report::head();
    let mut runs = Runs { cluster: &cluster, done: Vec::new() };
    let (mut costs, mut rates) = (Vec::new(), Vec::new());
    for _ in 0..options.rounds.max(1) {
        let one = runs.run("get at ONE", &Shape { level: Level::One, ..quorum.clone() }).await?;
        let whole = runs.run("get at QUORUM", &quorum).await?;
        costs.push(whole.processor_us_per_request / one.processor_us_per_request);
        rates.push(whole.requests_per_second);
    }
    let mut marks = vec![Mark { what: "CPU of a GET at QUORUM to ONE", wanted: 1.6, measured: median(costs) }];

    let open = Shape { rate: Some(median(rates) / LOAD_PART), in_flight: OPEN_IN_FLIGHT, ..quorum.clone() };
    let stopped = cluster.pids.last().ok_or("no process is known that could be stopped")?.1;
    let stopped = Pid::from_raw(i32::try_from(stopped)?).ok_or("a process without a number")?;
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
    marks.push(Mark { what: "p99 with one just stopped to healthy", wanted: 3.0, measured: median(first) });
    marks.push(Mark { what: "p99 with one stopped to healthy", wanted: 3.0, measured: median(later) });
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
    let small =
        Shape { workload: Workload::Put, value_bytes: SCANNED_BYTES, rows: SCANNED_ROWS, ..shape(options.time) };
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
