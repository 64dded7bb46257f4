//! What is left of the peak when clients ask for three times as much, and how soon all is as before.
//!
//! The nodes have few places, so that a few hundred requests in flight are too much for them, and the clients come back
//! when they are told to. Peak, rush and calm take turns, so that a machine that is shared is shared by all of them alike.
//! Then the same with a replica that stands still: its links are open, and nothing comes over them.

use std::time::Duration;

use cube_benches::Result;
use cube_benches::measure::median;
use rustix::process::{Signal, kill_process};
use serde::Serialize;

use super::cluster::Cluster;
use super::figures::Figures;
use super::marks::{Mark, at_least};
use super::options::{Nodes, Overload, Shape, Workload};
use super::subject::Subject;
use super::{load, marks, report};

/// How much more is asked for than there are places.
const TIMES: usize = 3;
/// The part of the places that is used while nothing is wrong, one in so many.
const CALM_PART: usize = 4;
/// Normal again within this time.
const CALM_AGAIN: Duration = Duration::from_secs(5);
/// Past this, clients and nodes know of a replica that stands still, and calls that it held are over.
const NOTICED: Duration = Duration::from_secs(10);
/// The part of the peak that is wanted of a rush, and of the calm before that of the calm after.
const WANTED: f64 = 0.8;

/// What one turn came to, in requests a second.
struct Turn {
    peak: f64,
    rush: f64,
    calm_before: f64,
    calm_after: f64,
}

struct Stage<'a> {
    cluster: &'a Cluster,
    options: &'a Overload,
    /// Nodes that answer.
    nodes: usize,
    name: &'static str,
    done: Vec<Figures>,
}

impl Stage<'_> {
    async fn run(&mut self, phase: &str, in_flight: usize, warm_up: Duration, time: Duration) -> Result<f64> {
        let shape = Shape { in_flight, warm_up, ..Shape::hot(Workload::Put, time) };
        let subject = Subject::cube(&self.cluster.client, &shape);
        let name = format!("{phase}{}", self.name);
        let figures = load::run(&name, &subject, &shape, &self.cluster.pids).await?;
        report::line(&figures);
        self.done.push(figures.clone());
        Ok(figures.requests_per_second)
    }

    async fn turn(&mut self) -> Result<Turn> {
        let places = self.nodes * self.options.places;
        let (settle, time) = (Duration::from_secs(2), self.options.turns.time);
        Ok(Turn {
            calm_before: self.run("calm", places / CALM_PART, settle, CALM_AGAIN).await?,
            peak: self.run("peak", places, settle, time).await?,
            rush: self.run("rush", TIMES * places, settle, time).await?,
            // At once, and for as long as it may take until all is as before.
            calm_after: self.run("calm again", places / CALM_PART, Duration::ZERO, CALM_AGAIN).await?,
        })
    }

    async fn turns(&mut self) -> Result<Vec<Turn>> {
        let mut turns = Vec::new();
        for _ in 0..self.options.turns.rounds.max(1) {
            turns.push(self.turn().await?);
        }
        Ok(turns)
    }
}

/// Measures it, and prints how much of the peak was left.
pub(crate) async fn measure(options: &Overload) -> Result<()> {
    let mut nodes: Nodes = options.turns.nodes.clone();
    nodes.settings.push(format!("overload.in_flight_max={}", options.places));
    let cluster = Cluster::of(&nodes).await?;
    let rows = Shape::hot(Workload::Put, options.turns.time);
    load::preload(&Subject::cube(&cluster.client, &rows), &rows).await?;
    report::head();
    let all = cluster.pids.len();
    let mut whole = Stage { cluster: &cluster, options, nodes: all, name: "", done: Vec::new() };
    let turns = whole.turns().await?;
    let mut table = Vec::from(marks_of(["rush to peak", "calm after a rush to calm before"], &turns));

    let stopped = cluster.last_process()?;
    let mut rest = Stage { cluster: &cluster, options, nodes: all - 1, name: ", one stands still", done: Vec::new() };
    kill_process(stopped, Signal::STOP)?;
    let measured = async {
        rest.run("first seconds", options.places, Duration::ZERO, NOTICED).await?;
        rest.turns().await
    };
    let turns = measured.await;
    // It is to end with the others, whatever came of the turns.
    kill_process(stopped, Signal::CONT)?;
    table.extend(marks_of(["rush to peak, one stands still", "calm after to calm before, one stands still"], &turns?));

    if let (Some(first), Some(last)) = (whole.done.first(), whole.done.last()) {
        report::processes(first);
        report::processes(last);
    }
    marks::print(&table);
    whole.done.append(&mut rest.done);
    #[derive(Serialize)]
    struct Report<'a> {
        marks: &'a [Mark],
        runs: &'a [Figures],
    }
    report::json(options.turns.json.as_deref(), &Report { marks: &table, runs: &whole.done })
}

fn marks_of(what: [&'static str; 2], turns: &[Turn]) -> [Mark; 2] {
    let [rush, calm] = what;
    let of = |what, ratio: fn(&Turn) -> f64| at_least(what, WANTED, median(turns.iter().map(ratio)));
    [of(rush, |turn| turn.rush / turn.peak), of(calm, |turn| turn.calm_after / turn.calm_before)]
}
