//! What has a mark, and how far each is from it.
//!
//! Rates hold only where nothing else runs; the processor time of a request holds on a busy machine too. Both are told.

use std::time::Duration;

use cube_benches::Result;
use serde::Serialize;

use super::cluster::Cluster;
use super::figures::Figures;
use super::options::{HOT_ROWS, Marks, Run, Shape, Workload};
use super::subject::Subject;
use super::{load, report};

const LARGE_ROWS: u64 = 1_000_000;
/// In a quick run everything is this much smaller.
const QUICK_PART: u32 = 10;
/// How many are in flight, from one to more than any mark asks for.
const SWEEP: [usize; 9] = [1, 2, 4, 8, 16, 32, 64, 128, 256];

/// What is wanted of a run: more of the rate, less of the processor's time.
#[derive(Serialize)]
pub(crate) struct Mark {
    what: String,
    wanted: f64,
    measured: f64,
    /// At least one where the mark is met.
    ratio: f64,
}

pub(crate) fn at_least(what: impl Into<String>, wanted: f64, measured: f64) -> Mark {
    Mark { what: what.into(), wanted, measured, ratio: measured / wanted }
}

pub(crate) fn at_most(what: impl Into<String>, wanted: f64, measured: f64) -> Mark {
    Mark { what: what.into(), wanted, measured, ratio: wanted / measured }
}

/// How far each is from its mark, for people.
pub(crate) fn print(marks: &[Mark]) {
    println!("\n| mark | wanted | measured | ratio (1 is met) |\n|---|---|---|---|");
    for Mark { what, wanted, measured, ratio } in marks {
        let digits = if *wanted < 10.0 { 2 } else { 0 };
        println!("| {what} | {wanted:.digits$} | {measured:.digits$} | {ratio:.2} |");
    }
}

/// A workload as the marks mean it.
fn shape(workload: Workload, rows: u64, seconds: f64, quick: bool) -> Shape {
    let part = if quick { QUICK_PART } else { 1 };
    let time = Duration::from_secs_f64(seconds) / part;
    let hot = Shape::hot(workload, time);
    Shape { rows, warm_up: hot.warm_up / part, ..hot }
}

/// Runs on one cluster, told as they end.
pub(crate) struct Runs<'a> {
    cluster: &'a Cluster,
    pub(crate) done: Vec<Figures>,
}

impl<'a> Runs<'a> {
    pub(crate) fn on(cluster: &'a Cluster) -> Self {
        Self { cluster, done: Vec::new() }
    }

    pub(crate) async fn run(&mut self, name: &str, shape: &Shape) -> Result<Figures> {
        let subject = Subject::cube(&self.cluster.client, shape);
        let figures = load::run(name, &subject, shape, &self.cluster.pids).await?;
        report::line(&figures);
        self.done.push(figures.clone());
        Ok(figures)
    }

    /// The same with more and more in flight.
    async fn sweep(&mut self, name: &str, shape: &Shape) -> Result<Vec<Figures>> {
        let mut figures = Vec::with_capacity(SWEEP.len());
        for in_flight in SWEEP {
            figures.push(self.run(name, &Shape { in_flight, ..shape.clone() }).await?);
        }
        Ok(figures)
    }
}

/// One workload, as the command line says.
pub(crate) async fn one(run: &Run) -> Result<()> {
    let cluster = Cluster::of(&run.nodes).await?;
    let subject = Subject::cube(&cluster.client, &run.shape);
    if run.preload {
        load::preload(&subject, &run.shape).await?;
    }
    let name = format!("{:?}", run.shape.workload).to_lowercase();
    let figures = load::run(&name, &subject, &run.shape, &cluster.pids).await?;
    report::head();
    report::line(&figures);
    report::processes(&figures);
    report::json(run.json.as_deref(), &figures)
}

/// All of them.
pub(crate) async fn all(marks: &Marks) -> Result<()> {
    let mut runs = hot(marks).await?;
    let mut table = runs.1;
    if !marks.hot_only {
        let (figures, large) = large(marks).await?;
        runs.0.extend(figures);
        table.extend(large);
    }
    print(&table);
    #[derive(Serialize)]
    struct Report<'a> {
        marks: &'a [Mark],
        runs: &'a [Figures],
    }
    report::json(marks.json.as_deref(), &Report { marks: &table, runs: &runs.0 })
}

/// Everything on the hot set.
async fn hot(marks: &Marks) -> Result<(Vec<Figures>, Vec<Mark>)> {
    let of = |workload, seconds| shape(workload, HOT_ROWS, seconds, marks.quick);
    let reading = |workload| Shape { reads: Some(1.0), ..of(workload, 10.0) };
    let cluster = Cluster::of(&marks.nodes).await?;
    let put = of(Workload::Put, 10.0);
    load::preload(&Subject::cube(&cluster.client, &put), &put).await?;
    report::head();
    let mut runs = Runs::on(&cluster);
    let puts = runs.run("put, hot set", &put).await?;
    let gets = runs.run("get, hot set", &of(Workload::Get, 10.0)).await?;
    // As many calls under way as a session is made for; the calls of batches are larger.
    let session = |shape: Shape| Shape { in_flight: 512, ..shape };
    let batch = |shape: Shape| Shape { in_flight: 16, ..shape };
    let session_puts = runs.run("session put, hot set", &session(of(Workload::Session, 10.0))).await?;
    let session_gets = runs.run("session get, hot set", &session(reading(Workload::Session))).await?;
    let batch_puts = runs.run("batch put of 64, hot set", &batch(of(Workload::Batch, 10.0))).await?;
    let batch_gets = runs.run("batch get of 64, hot set", &batch(reading(Workload::Batch))).await?;
    let put_sweep = runs.sweep("put, sweep", &of(Workload::Put, 4.0)).await?;
    let get_sweep = runs.sweep("get, sweep", &of(Workload::Get, 4.0)).await?;
    report::growth("PUT", &put_sweep);
    report::growth("GET", &get_sweep);
    report::processes(&puts);
    report::processes(&gets);
    println!();
    let table = vec![
        at_least("PUT/s, hot set, 64 in flight", 9_000.0, puts.requests_per_second),
        at_most("CPU us per PUT, hot set", 190.0, puts.processor_us_per_request),
        at_least("GET/s, 64 in flight", 15_000.0, gets.requests_per_second),
        at_most("CPU us per GET", 110.0, gets.processor_us_per_request),
        at_least("rows/s written by a session", 20_000.0, session_puts.rows_per_second),
        at_least("rows/s read by a session", 100_000.0, session_gets.rows_per_second),
        at_least("rows/s written by batches of 64", 20_000.0, batch_puts.rows_per_second),
        at_least("rows/s read by batches of 64", 100_000.0, batch_gets.rows_per_second),
    ];
    Ok((runs.done, table))
}

/// Writes to a set that is larger than what a node keeps at hand, on a cluster that held nothing before.
async fn large(marks: &Marks) -> Result<(Vec<Figures>, Vec<Mark>)> {
    let rows = if marks.quick { LARGE_ROWS / u64::from(QUICK_PART) } else { LARGE_ROWS };
    let put = shape(Workload::Put, rows, 60.0, marks.quick);
    let cluster = Cluster::of(&marks.nodes).await?;
    load::preload(&Subject::cube(&cluster.client, &put), &put).await?;
    report::head();
    let mut runs = Runs::on(&cluster);
    let puts = runs.run("put, large set", &put).await?;
    runs.run("get, large set", &shape(Workload::Get, rows, 10.0, marks.quick)).await?;
    report::processes(&puts);
    println!();
    let table = vec![
        at_least(format!("PUT/s, {} rows, 64 in flight", thousands(rows)), 6_000.0, puts.requests_per_second),
        at_most(format!("CPU us per PUT, {} rows", thousands(rows)), 240.0, puts.processor_us_per_request),
    ];
    Ok((runs.done, table))
}

/// A number of thousands, as people write it.
pub(crate) fn thousands(number: u64) -> String {
    if number < 1_000 {
        return number.to_string();
    }
    format!("{},{:03}", thousands(number / 1_000), number % 1_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_told_as_people_write_them() {
        let told = [0, 999, 20_000, 100_000, 1_000_000].map(thousands);
        assert_eq!(told, ["0", "999", "20,000", "100,000", "1,000,000"]);
    }
}
