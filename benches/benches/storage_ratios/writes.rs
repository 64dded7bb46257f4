//! What a write costs: fresh and overwritten rows, a hot set and a large one, with and without Merkle sums.

use std::path::Path;

use cube_benches::Result;
use cube_benches::measure::{median, resident_bytes, thread_ns};
use cube_benches::subject::{MERKLE_KEY, Subject, TABLE};
use cube_benches::workload::{BATCH_ROWS, Workload, key};
use cube_storage::keyspace::data_key;
use cube_storage::model::{Hlc, NodeId, Version};
use serde::{Deserialize, Serialize};

use crate::Arguments;
use crate::report::{self, Table};
use crate::task::{Kind, Spent, Task};

/// Rows written together while a set is loaded: loading is not measured.
const LOAD_BATCH_ROWS: usize = 1024;
/// How often each row of the hot set is overwritten, so that flushes and compactions take part.
const HOT_ROUNDS: u32 = 15;

/// The figures of one process.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Figures {
    rows: u64,
    spent: Spent,
    disk_bytes: u64,
    resident_bytes: u64,
}

impl Figures {
    fn row_us(&self) -> f64 {
        self.spent.process_ns as f64 / self.rows as f64 / 1e3
    }
}

/// Writes `rows` rows, or loads them and then overwrites `overwrites` at random. Flushing and compacting what was
/// written is part of the work, and so is what a store reads by itself after a start.
pub(crate) fn run(kind: Kind, dir: &Path, rows: u32, overwrites: Option<u32>, seed: u64) -> Result<Figures> {
    let mut workload = Workload::new(seed);
    let resident_before = resident_bytes();
    let mut subject = kind.open(dir)?;
    let mut numbers = workload.shuffled(rows);
    if let Some(times) = overwrites {
        load(subject.as_ref(), &mut workload, &numbers)?;
        if kind.is_reopened() {
            drop(subject);
            subject = kind.open(dir)?;
        }
        numbers = workload.drawn(rows, times);
    }
    let spent = Spent::on(|| {
        if kind.is_reopened() {
            subject.warm()?;
        }
        for batch in numbers.chunks(BATCH_ROWS) {
            subject.write(workload.rows(batch))?;
        }
        subject.settle()
    })?;
    Ok(Figures {
        rows: numbers.len() as u64,
        spent,
        disk_bytes: subject.disk_bytes()?,
        resident_bytes: resident_bytes().saturating_sub(resident_before),
    })
}

/// Fills a subject with rows.
pub(crate) fn load(subject: &dyn Subject, workload: &mut Workload, numbers: &[u32]) -> Result<()> {
    for batch in numbers.chunks(LOAD_BATCH_ROWS) {
        subject.write(workload.rows(batch))?;
    }
    subject.settle()
}

/// The runs of all subjects; those of one number took turns.
#[derive(Default)]
struct Turns {
    bare: Vec<Figures>,
    apply: Vec<Figures>,
    unsummed: Vec<Figures>,
    forgetful: Vec<Figures>,
    bare_reopened: Vec<Figures>,
    apply_reopened: Vec<Figures>,
}

impl Turns {
    fn take(arguments: &Arguments, rows: u32, overwrites: Option<u32>) -> Result<Self> {
        let mut turns = Self::default();
        for run in 0..arguments.runs {
            let measure = |kind| -> Result<Figures> {
                let dir = report::scratch(arguments)?;
                let task = Task::Write { kind, dir: dir.path().to_path_buf(), rows, overwrites, seed: u64::from(run) };
                let figures: Figures = task.run_apart()?;
                let (thread_us, wall_s) =
                    (figures.spent.thread_ns / figures.rows / 1000, figures.spent.wall_ns as f64 / 1e9);
                let row_us = figures.row_us();
                eprintln!("  {kind:?}, {rows} rows: {row_us:.2} us, {thread_us} in the writing thread, {wall_s:.1} s");
                Ok(figures)
            };
            turns.bare.push(measure(Kind::Bare)?);
            turns.apply.push(measure(Kind::Apply)?);
            turns.unsummed.push(measure(Kind::Unsummed)?);
            if overwrites.is_some() {
                turns.forgetful.push(measure(Kind::Forgetful)?);
                turns.bare_reopened.push(measure(Kind::BareReopened)?);
                turns.apply_reopened.push(measure(Kind::ApplyReopened)?);
            }
        }
        Ok(turns)
    }

    /// The median over the turns of a figure made of the bare run's and another run's.
    fn median_to_bare(&self, others: &[Figures], figure: impl Fn(f64, f64) -> f64) -> f64 {
        median_of_turns(&self.bare, others, figure)
    }

    /// What the sums add, in microseconds. The store without sums hashes all the same, so that is measured apart.
    fn sums_us(&self, hashes_us: f64) -> Vec<f64> {
        self.apply
            .iter()
            .zip(&self.unsummed)
            .map(|(with, without)| with.row_us() - without.row_us() + hashes_us)
            .collect()
    }
}

fn median_of_turns(ones: &[Figures], others: &[Figures], figure: impl Fn(f64, f64) -> f64) -> f64 {
    median(ones.iter().zip(others).map(|(one, other)| figure(one.row_us(), other.row_us())))
}

/// Measures and reports rows that are new.
pub(crate) fn compare_fresh(arguments: &Arguments) -> Result<()> {
    let mut costs =
        Table::new(&costs_title("fresh rows", arguments), &["rows", "bare", "apply", "ratio", "sums", "of bare"]);
    let mut room = Table::new(
        "Room taken by fresh rows: bytes of table files per row, MiB of resident memory of its own",
        &["rows", "disk, bare", "disk, apply", "memory, bare", "memory, apply"],
    );
    for rows in [arguments.hot_rows, arguments.rows] {
        let turns = Turns::take(arguments, rows, None)?;
        costs.row([rows.to_string()].into_iter().chain(cost_cells(&turns, hash_us())));
        let disk = |figures: &[Figures]| median(figures.iter().map(|f| f.disk_bytes as f64)) / f64::from(rows);
        let memory = |figures: &[Figures]| median(figures.iter().map(|f| f.resident_bytes as f64)) / f64::from(1 << 20);
        let cells = [disk(&turns.bare), disk(&turns.apply), memory(&turns.bare), memory(&turns.apply)];
        room.row([rows.to_string()].into_iter().chain(cells.map(|cell| format!("{cell:.0}"))));
    }
    report::print(&costs);
    report::print(&room);
    Ok(())
}

/// Measures and reports rows that are there already.
pub(crate) fn compare_overwrites(arguments: &Arguments) -> Result<()> {
    let mut table = Table::new(
        &costs_title("overwritten rows", arguments),
        &[
            "rows",
            "writes",
            "bare",
            "apply",
            "ratio",
            "sums",
            "of bare",
            "after a start",
            "ratio",
            "nothing remembered",
            "ratio",
        ],
    );
    for (rows, rounds) in [(arguments.hot_rows, HOT_ROUNDS), (arguments.rows, 1)] {
        let writes = rows * rounds;
        let turns = Turns::take(arguments, rows, Some(writes))?;
        let forgetful = [
            format!("{:.2}", turns.median_to_bare(&turns.forgetful, |_, other| other)),
            format!("{:.2}", turns.median_to_bare(&turns.forgetful, |bare, other| other / bare)),
        ];
        let reopened = [
            format!("{:.2}", median_of_turns(&turns.bare_reopened, &turns.apply_reopened, |_, apply| apply)),
            format!("{:.2}", median_of_turns(&turns.bare_reopened, &turns.apply_reopened, |bare, apply| apply / bare)),
        ];
        // The hash of the old version is taken off, that of the new one is added.
        let costs = cost_cells(&turns, 2.0 * hash_us());
        table.row([rows.to_string(), writes.to_string()].into_iter().chain(costs).chain(reopened).chain(forgetful));
    }
    report::print(&table);
    Ok(())
}

fn costs_title(what: &str, arguments: &Arguments) -> String {
    let runs = arguments.runs;
    format!("Writes of {what}, {BATCH_ROWS} in a batch, fsync on; us of processor per row, medians of {runs} runs")
}

/// Bare, apply, their ratio, the sums and their share.
fn cost_cells(turns: &Turns, hashes_us: f64) -> [String; 5] {
    let sums_us = turns.sums_us(hashes_us);
    let of_bare = median(sums_us.iter().zip(&turns.bare).map(|(sums_us, bare)| sums_us / bare.row_us()));
    [
        format!("{:.2}", turns.median_to_bare(&turns.bare, |bare, _| bare)),
        format!("{:.2}", turns.median_to_bare(&turns.apply, |_, apply| apply)),
        format!("{:.2}", turns.median_to_bare(&turns.apply, |bare, apply| apply / bare)),
        format!("{:.2}", median(sums_us)),
        format!("{:.0} %", 100.0 * of_bare),
    ]
}

/// Microseconds of one row hash.
fn hash_us() -> f64 {
    const HASHES: u32 = 1_000_000;
    let keys: Vec<Vec<u8>> = (0..1000).map(|number| data_key(TABLE, &key(number))).collect();
    let mut sum = 0_u128;
    let before = thread_ns();
    for (number, key) in (0..HASHES).zip(keys.iter().cycle()) {
        sum ^= MERKLE_KEY.row(key, Version::new(Hlc(u64::from(number)), NodeId(1)), number).sum;
    }
    let spent_ns = thread_ns() - before;
    std::hint::black_box(sum);
    spent_ns as f64 / f64::from(HASHES) / 1e3
}
