//! Runs the simulator: many seeds, or one with its trace. Prints the command that replays a failing seed, and leaves with
//! 1 when there was one.
//!
//! ```text
//! make sim SEEDS=1000            # seeds 0 to 999
//! make sim SEED=42 TRACE=1       # one seed, every event told
//! make sim MUTANT=HintSkipped    # with a mistake that is to be caught
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::process::ExitCode;

use cube_replication::sim::{Messages, Mutant, Options, Repaired, Report, run};

fn main() -> io::Result<ExitCode> {
    let mut out = io::stdout().lock();
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let trace = number("TRACE").is_some_and(|on| on > 0);
    let (first, count) = match number("SEED") {
        Some(seed) => (seed, 1),
        None => (number("FIRST").unwrap_or(0), number("SEEDS").unwrap_or(1_000)),
    };
    let mutant = std::env::var("MUTANT").ok().and_then(|name| Mutant::named(&name));
    let mut summary = Summary::default();
    for seed in first..first + count {
        let report = run(Options { trace, mutant, ..Options::seed(seed) });
        for violation in &report.violations {
            writeln!(out, "seed {seed}: {violation}\n  replay it with: make sim SEED={seed} TRACE=1")?;
        }
        summary.add(&report);
        if (seed + 1 - first).is_multiple_of(500) {
            writeln!(out, "{} of {count} seeds, {} failed", seed + 1 - first, summary.failed)?;
        }
    }
    summary.print(&mut out)?;
    Ok(if summary.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[derive(Default)]
struct Summary {
    seeds: u64,
    failed: u64,
    events: u64,
    operations: u64,
    outcomes: BTreeMap<&'static str, u64>,
    faults: BTreeMap<String, u64>,
    messages: Messages,
    moves: (u64, u64, u64),
    unnoted_by_death: u64,
    purged: (u64, u64),
    repaired: Repaired,
    nowhere: u64,
    interleavings: BTreeSet<u64>,
}

impl Summary {
    fn add(&mut self, report: &Report) {
        self.seeds += 1;
        self.failed += u64::from(!report.violations.is_empty());
        self.events += report.events;
        for (outcome, count) in &report.outcomes {
            *self.outcomes.entry(outcome).or_default() += count;
        }
        for (fault, count) in &report.faults {
            *self.faults.entry(format!("{fault:?}")).or_default() += count;
        }
        self.operations += report.operations;
        self.messages.lost += report.messages.lost;
        self.messages.doubled += report.messages.doubled;
        self.messages.overtaken += report.messages.overtaken;
        let (begun, done, aborted) = report.moves;
        self.moves = (self.moves.0 + begun, self.moves.1 + done, self.moves.2 + aborted);
        self.unnoted_by_death += report.unnoted_by_death;
        self.purged = (self.purged.0 + report.purged.0, self.purged.1 + report.purged.1);
        self.repaired = self.repaired.and(report.repaired);
        self.nowhere += report.nowhere;
        self.interleavings.insert(report.interleaving);
    }

    fn print(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(
            out,
            "seeds {}, failed {}, distinct interleavings {}",
            self.seeds,
            self.failed,
            self.interleavings.len()
        )?;
        let rows: u64 = self.outcomes.values().sum();
        writeln!(
            out,
            "events {}, operations {}, rows of them {rows} {:?}",
            self.events, self.operations, self.outcomes
        )?;
        writeln!(out, "faults {} {:?}", self.faults.values().sum::<u64>(), self.faults)?;
        let Messages { lost, doubled, overtaken } = self.messages;
        writeln!(out, "messages lost {lost}, doubled {doubled}, overtaken {overtaken}")?;
        let (begun, done, aborted) = self.moves;
        writeln!(out, "moves of replicas: {begun} begun, {done} completed, {aborted} aborted")?;
        let Repaired { comparisons, rows, marks_cleared, purge_rounds } = self.repaired;
        writeln!(out, "comparisons {comparisons}, rows exchanged {rows}, dirty marks cleared {marks_cleared}")?;
        writeln!(out, "rounds of purging {purge_rounds}")?;
        writeln!(out, "rows purged by replicas: {}, {} of them before the heal", self.purged.1, self.purged.0)?;
        writeln!(out, "missed writes whose coordinator died before it could note them: {}", self.unnoted_by_death)?;
        writeln!(out, "marks of writes below quorum whose holders were gone: {}", self.nowhere)
    }
}
