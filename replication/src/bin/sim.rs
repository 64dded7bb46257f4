//! Runs the simulator: many seeds, or one with its trace. Prints the command that replays a failing seed, and leaves with
//! 1 when there was one, and with 2 when it was not told properly what to run.
//!
//! ```text
//! make sim SEEDS=1000            # seeds 0 to 999
//! make sim SEED=42 TRACE=1       # one seed, every event told
//! make sim MUTANT=HintSkipped    # with a mistake that is to be caught
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::ops::RangeInclusive;
use std::process::ExitCode;

use cube_replication::sim::{Messages, Mutant, Options, Repaired, Report, run};

/// Seeds that are run where nothing else is said.
const SEEDS: u64 = 1_000;
/// Where the usage was wrong.
const MISUSED: u8 = 2;

fn main() -> io::Result<ExitCode> {
    match Asked::by(|name| std::env::var(name).unwrap_or_default()) {
        Ok(asked) => asked.run(&mut io::stdout().lock()),
        Err(wrong) => {
            writeln!(io::stderr(), "{wrong}")?;
            Ok(ExitCode::from(MISUSED))
        }
    }
}

/// What is to be run.
#[derive(Debug)]
struct Asked {
    seeds: RangeInclusive<u64>,
    mutant: Option<Mutant>,
    trace: bool,
}

impl Asked {
    /// By variables, of which an empty one says nothing.
    fn by(variable: impl Fn(&str) -> String) -> Result<Self, String> {
        let number = |name: &str| match variable(name) {
            value if value.is_empty() => Ok(None),
            value => value.parse::<u64>().map(Some).map_err(|error| format!("{name}={value}: {error}")),
        };
        let name = variable("MUTANT");
        let mutant = match Mutant::named(&name) {
            None if !name.is_empty() => {
                return Err(format!("MUTANT={name}: there is none of that name, only {:?}", Mutant::ALL));
            }
            mutant => mutant,
        };
        let (first, seeds) = (number("FIRST")?.unwrap_or(0), number("SEEDS")?.unwrap_or(SEEDS));
        let last = seeds.checked_sub(1).and_then(|further| first.checked_add(further));
        let seeds = match (number("SEED")?, last) {
            (Some(seed), _) => seed..=seed,
            (None, Some(last)) => first..=last,
            (None, None) => return Err(format!("FIRST={first} SEEDS={seeds}: there are no such seeds")),
        };
        Ok(Self { seeds, mutant, trace: number("TRACE")?.is_some_and(|on| on > 0) })
    }

    /// The command that repeats a seed.
    fn replay(&self, seed: u64) -> String {
        let mutant = self.mutant.map(|mutant| format!(" MUTANT={mutant:?}")).unwrap_or_default();
        format!("make sim SEED={seed}{mutant} TRACE=1")
    }

    fn run(&self, out: &mut impl Write) -> io::Result<ExitCode> {
        let mut summary = Summary::default();
        for seed in self.seeds.clone() {
            let report = run(Options { trace: self.trace, mutant: self.mutant, ..Options::seed(seed) });
            for violation in &report.violations {
                writeln!(out, "seed {seed}: {violation}\n  replay it with: {}", self.replay(seed))?;
            }
            summary.add(&report);
            if summary.seeds.is_multiple_of(500) {
                writeln!(out, "{} seeds, {} failed", summary.seeds, summary.failed)?;
            }
        }
        summary.print(out)?;
        Ok(if summary.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
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
    excused: BTreeMap<&'static str, u64>,
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
        for (why, count) in &report.excused {
            *self.excused.entry(why).or_default() += count;
        }
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
        writeln!(out, "missed writes that were let pass: {:?}", self.excused)?;
        writeln!(out, "marks of writes below quorum whose holders were gone: {}", self.nowhere)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(variables: &[(&str, &str)]) -> Result<Asked, String> {
        let value = |name: &str| variables.iter().find(|(of, _)| *of == name).map(|(_, value)| (*value).to_owned());
        Asked::by(|name| value(name).unwrap_or_default())
    }

    #[test]
    fn what_is_not_told_properly_is_refused() {
        for wrong in [
            ("MUTANT", "NoSuchMutant"),
            ("SEEDS", "abc"),
            ("SEEDS", "0"),
            ("SEED", "-1"),
            ("TRACE", "yes"),
            ("FIRST", "18446744073709551615"),
        ] {
            assert!(asked(&[wrong]).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn every_seed_may_be_run_and_nothing_said_is_the_usual() {
        let last = u64::MAX.to_string();
        assert_eq!(asked(&[("SEED", &last)]).map(|asked| asked.seeds), Ok(u64::MAX..=u64::MAX));
        assert_eq!(asked(&[("FIRST", &last), ("SEEDS", "1")]).map(|asked| asked.seeds), Ok(u64::MAX..=u64::MAX));
        assert_eq!(asked(&[("SEEDS", ""), ("FIRST", "7")]).map(|asked| asked.seeds), Ok(7..=1_006));
    }

    #[test]
    fn the_command_that_repeats_a_seed_names_the_mistake() {
        let replay = asked(&[("MUTANT", "HintSkipped")]).map(|asked| asked.replay(4));
        assert_eq!(replay, Ok("make sim SEED=4 MUTANT=HintSkipped TRACE=1".to_owned()));
    }
}
