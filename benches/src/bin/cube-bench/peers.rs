//! Cube KV and other databases, in turns, with the same workload on the same machine.
//!
//! All clusters run all the time, and one of them is asked at a time. What the others spend meanwhile is charged to nobody
//! but shown in the last column of the table.

use std::sync::Arc;
use std::time::Duration;

use cube_benches::Result;
use cube_benches::measure::median;
use serde::Serialize;

use super::cluster::Cluster;
use super::etcd::{self, Etcd};
use super::figures::Figures;
use super::options::{Shape, Turns, Workload};
use super::subject::Subject;
use super::{load, report};

/// Where Garage would be, if it were installed.
const GARAGE: [&str; 3] = ["/usr/bin/garage", "/usr/local/bin/garage", "/garage"];

/// What Cube KV does for one that etcd does, and what is wanted of it.
#[derive(Serialize)]
struct Ratio {
    what: &'static str,
    cube: f64,
    etcd: f64,
    ratio: f64,
    wanted: f64,
}

/// Lets them take turns, and prints the ratios.
pub(crate) async fn compare(peers: &Turns) -> Result<()> {
    if etcd::installed().is_none() {
        return Err("etcd is not installed; on Debian: apt-get install etcd-server".into());
    }
    if GARAGE.iter().any(|path| std::path::Path::new(path).is_file()) {
        println!("Garage is installed, but its K2V is not compared: only etcd is.");
    } else {
        println!("Garage is not installed and is left out.");
    }
    let cluster = Cluster::of(&peers.nodes).await?;
    let other = Arc::new(Etcd::start(&peers.nodes).await?);
    let shape = |workload| Shape { warm_up: Duration::from_secs(1), ..Shape::hot(workload, peers.time) };
    let cube = Subject::cube(&cluster.client, &shape(Workload::Put));
    let etcd = Subject::Etcd(Arc::clone(&other));
    for subject in [&cube, &etcd] {
        load::preload(subject, &shape(Workload::Put)).await?;
    }
    report::head();
    let (mut all, mut ratios) = (Vec::new(), Vec::new());
    for (workload, what, wanted) in
        [(Workload::Put, "puts a second", 2.5), (Workload::Get, "linearizable gets a second", 3.0)]
    {
        let (mut ours, mut theirs): (Vec<Figures>, Vec<Figures>) = (Vec::new(), Vec::new());
        for _ in 0..peers.rounds.max(1) {
            for (name, subject, pids, done) in
                [("etcd", &etcd, &other.pids, &mut theirs), ("cube", &cube, &cluster.pids, &mut ours)]
            {
                let name = format!("{name} {}", if workload == Workload::Put { "put" } else { "get" });
                let figures = load::run(&name, subject, &shape(workload), pids).await?;
                report::line(&figures);
                done.push(figures);
            }
        }
        let of = |runs: &[Figures], figure: fn(&Figures) -> f64| median(runs.iter().map(figure));
        let rates = [&ours, &theirs].map(|runs| of(runs, |figures| figures.requests_per_second));
        let costs = [&ours, &theirs].map(|runs| of(runs, |figures| figures.processor_us_per_request));
        let turns = || ours.iter().zip(&theirs);
        ratios.push(Ratio {
            what,
            cube: rates[0],
            etcd: rates[1],
            ratio: median(turns().map(|(ours, theirs)| ours.requests_per_second / theirs.requests_per_second)),
            wanted,
        });
        ratios.push(Ratio {
            what: "CPU us for one of them (ratio: etcd's to ours)",
            cube: costs[0],
            etcd: costs[1],
            ratio: median(
                turns().map(|(ours, theirs)| theirs.processor_us_per_request / ours.processor_us_per_request),
            ),
            wanted: f64::NAN,
        });
        all.extend(theirs);
        all.extend(ours);
    }
    println!("\nMedians of {} turns; ratios are medians of the turns' ratios.\n", peers.rounds.max(1));
    println!("| what | Cube KV | etcd | ratio | wanted |\n|---|---|---|---|---|");
    for ratio in &ratios {
        let wanted = if ratio.wanted.is_nan() { String::new() } else { format!("{:.1}", ratio.wanted) };
        println!("| {} | {:.0} | {:.0} | {:.2} | {wanted} |", ratio.what, ratio.cube, ratio.etcd, ratio.ratio);
    }
    #[derive(Serialize)]
    struct Report<'a> {
        ratios: &'a [Ratio],
        runs: &'a [Figures],
    }
    report::json(peers.json.as_deref(), &Report { ratios: &ratios, runs: &all })
}
