//! Figures for people, and for programs.

use std::path::Path;

use cube_benches::Result;
use serde::Serialize;

use super::figures::Figures;

const HEAD: &str = "| run | in flight | requests/s | rows/s | p50 ms | p99 ms | p99.9 ms | max ms | CPU us/request | CPU us/row \
                    | errors | others' cores |";

/// The head of the table of runs.
pub(crate) fn head() {
    println!("{HEAD}");
    println!("|{}", "---|".repeat(HEAD.matches('|').count() - 1));
}

/// One run of it.
pub(crate) fn line(figures: &Figures) {
    let ms = |us: u64| format!("{:.2}", us as f64 / 1e3);
    let errors: Vec<String> = figures.errors.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
    println!(
        "| {} | {} | {:.0} | {:.0} | {} | {} | {} | {} | {:.0} | {:.1} | {} | {:.2} |",
        figures.name,
        figures.in_flight,
        figures.requests_per_second,
        figures.rows_per_second,
        ms(figures.p50_us),
        ms(figures.p99_us),
        ms(figures.p99_9_us),
        ms(figures.max_us),
        figures.processor_us_per_request,
        figures.processor_us_per_row,
        if errors.is_empty() { "none".to_owned() } else { errors.join(", ") },
        figures.others_cores,
    );
}

/// How latency and processor time grow with what is in flight: a column for each run of the sweep, and how many times
/// the first one the last one is.
pub(crate) fn growth(what: &str, sweep: &[Figures]) {
    let in_flight: String = sweep.iter().map(|run| format!(" {} |", run.in_flight)).collect();
    println!("\n| {what}, in flight |{in_flight} last to first |\n|{}", "---|".repeat(sweep.len() + 2));
    let row = |name: &str, digits: usize, of: fn(&Figures) -> f64| {
        let cells: String = sweep.iter().map(|run| format!(" {:.digits$} |", of(run))).collect();
        let ends = sweep.first().zip(sweep.last());
        println!("| {name} |{cells} {:.1} |", ends.map_or(f64::NAN, |(first, last)| of(last) / of(first)));
    };
    row("p50 ms", 2, |run| run.p50_us as f64 / 1e3);
    row("p99 ms", 2, |run| run.p99_us as f64 / 1e3);
    row("p99.9 ms", 2, |run| run.p99_9_us as f64 / 1e3);
    row("CPU us/request", 0, |run| run.processor_us_per_request);
}

/// What each process of a run spent.
pub(crate) fn processes(figures: &Figures) {
    println!("\n| process | CPU s | CPU us/request | share | resident MiB |\n|---|---|---|---|---|");
    let all: f64 = figures.processes.iter().map(|process| process.processor_ms).sum();
    for process in &figures.processes {
        println!(
            "| {} | {:.2} | {:.1} | {:.0} % | {:.0} |",
            process.name,
            process.processor_ms / 1e3,
            process.processor_ms * 1e3 / figures.requests.max(1) as f64,
            100.0 * process.processor_ms / all,
            process.resident_mib,
        );
    }
}

/// Everything, for programs.
pub(crate) fn json(path: Option<&Path>, runs: &impl Serialize) -> Result<()> {
    if let Some(path) = path {
        std::fs::write(path, serde_json::to_vec_pretty(runs)?)?;
    }
    Ok(())
}
