//! What listing the thousand rows of a prefix costs, against looking at every row.

use std::path::Path;

use cube_benches::Result;
use cube_benches::measure::{median, thread_ns};
use cube_benches::subject::{Bare, Cube};
use cube_benches::workload::{PREFIX_ROWS, Workload, prefix};
use serde::{Deserialize, Serialize};

use crate::Arguments;
use crate::report::{self, Table};
use crate::task::Task;
use crate::writes::load;

const PREFIX_SCANS: u32 = 51;
const FULL_SCANS: usize = 3;

/// Microseconds of a scan.
#[derive(Serialize, Deserialize)]
pub(crate) struct ScanFigures {
    prefix_us: f64,
    full_us: f64,
}

/// Prefix scans of the store against full scans of a bare RocksDB with the same rows.
pub(crate) fn run(dir: &Path, rows: u32) -> Result<ScanFigures> {
    let mut workload = Workload::new(1);
    let (bare, cube) = (Bare::open(&dir.join("bare"))?, Cube::open(&dir.join("cube"))?);
    let numbers = workload.shuffled(rows);
    load(&bare, &mut workload, &numbers)?;
    load(&cube, &mut workload, &numbers)?;
    let groups = workload.drawn(rows / PREFIX_ROWS, PREFIX_SCANS);
    let prefixes: Vec<f64> =
        groups.iter().map(|&group| scan_us(|| cube.count_by_prefix_scan(&prefix(group)))).collect::<Result<_>>()?;
    let full: Vec<f64> =
        (0..FULL_SCANS).map(|_| scan_us(|| bare.count_by_full_scan(prefix(0).as_bytes()))).collect::<Result<_>>()?;
    Ok(ScanFigures { prefix_us: median(prefixes), full_us: median(full) })
}

fn scan_us(scan: impl FnOnce() -> Result<usize>) -> Result<f64> {
    let before = thread_ns();
    let found = scan()?;
    let spent_us = (thread_ns() - before) as f64 / 1e3;
    if found != PREFIX_ROWS as usize {
        return Err(format!("a scan found {found} rows instead of {PREFIX_ROWS}").into());
    }
    Ok(spent_us)
}

pub(crate) fn compare(arguments: &Arguments) -> Result<()> {
    let mut table = Table::new(
        "Scans of the 1,000 rows of a prefix; ms of processor",
        &["rows", "full scan", "prefix scan", "faster by"],
    );
    let rows = arguments.scan_rows;
    let dir = report::scratch(arguments)?;
    let figures: ScanFigures = Task::Scan { dir: dir.path().to_path_buf(), rows }.run_apart()?;
    table.row([
        rows.to_string(),
        format!("{:.1}", figures.full_us / 1e3),
        format!("{:.2}", figures.prefix_us / 1e3),
        format!("{:.0} x", figures.full_us / figures.prefix_us),
    ]);
    report::print(&table);
    Ok(())
}
