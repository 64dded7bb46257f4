//! What reading one row costs.

use std::path::Path;

use cube_benches::Result;
use cube_benches::measure::{median, thread_ns};
use cube_benches::subject::{Bare, Cube, Subject};
use cube_benches::workload::{Workload, key};
use cube_storage::model::RowKey;
use serde::{Deserialize, Serialize};

use crate::Arguments;
use crate::report::{self, Table};
use crate::task::Task;
use crate::writes::load;

/// Reads of one turn, and turns of each subject.
const READS: u32 = 10_000;
const TURNS: usize = 41;

/// Nanoseconds of one read, the medians over all turns.
#[derive(Serialize, Deserialize)]
pub(crate) struct ReadFigures {
    bare_ns: f64,
    cube_ns: f64,
    /// The median of the turns' ratios.
    rate: f64,
}

/// Reads rows drawn at random, in turns in one process: no background work goes on.
pub(crate) fn run(dir: &Path, rows: u32) -> Result<ReadFigures> {
    let mut workload = Workload::new(1);
    let (bare, cube) = (Bare::open(&dir.join("bare"))?, Cube::open(&dir.join("cube"))?);
    let numbers = workload.shuffled(rows);
    load(&bare, &mut workload, &numbers)?;
    load(&cube, &mut workload, &numbers)?;
    let mut turns = Vec::with_capacity(TURNS);
    for _ in 0..TURNS {
        let keys: Vec<RowKey> = workload.drawn(rows, READS).into_iter().map(key).collect();
        turns.push((read_ns(&bare, &keys)?, read_ns(&cube, &keys)?));
    }
    // The first turn finds cold caches.
    let turns = turns.get(1..).unwrap_or_default();
    Ok(ReadFigures {
        bare_ns: median(turns.iter().map(|turn| turn.0)),
        cube_ns: median(turns.iter().map(|turn| turn.1)),
        rate: median(turns.iter().map(|turn| turn.0 / turn.1)),
    })
}

fn read_ns(subject: &dyn Subject, keys: &[RowKey]) -> Result<f64> {
    let before = thread_ns();
    for key in keys {
        std::hint::black_box(subject.read(key)?);
    }
    Ok((thread_ns() - before) as f64 / keys.len() as f64)
}

pub(crate) fn compare(arguments: &Arguments) -> Result<()> {
    let mut table = Table::new(
        "Point reads of random rows; us of processor, and rate relative to a bare get",
        &["rows", "bare", "get", "rate"],
    );
    for rows in [arguments.hot_rows, arguments.rows] {
        let dir = report::scratch(arguments)?;
        let figures: ReadFigures = Task::Read { dir: dir.path().to_path_buf(), rows }.run_apart()?;
        table.row([
            rows.to_string(),
            format!("{:.2}", figures.bare_ns / 1e3),
            format!("{:.2}", figures.cube_ns / 1e3),
            format!("{:.2}", figures.rate),
        ]);
    }
    report::print(&table);
    Ok(())
}
