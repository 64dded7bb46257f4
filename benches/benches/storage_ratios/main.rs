//! The four ratios that the storage engine is held to, each against a bare RocksDB in the same run:
//!
//! - writes: processor time of `apply` in batches of 64, fsync on, at most 2.0 times the bare batch's,
//! - sums: what of it the Merkle upkeep adds, at most 40 % of the bare batch's,
//! - reads: point reads at 0.8 of a bare get's rate or better,
//! - scans: a prefix scan of 1,000 rows out of 1,000,000 at least 50 times faster than a full scan.
//!
//! Every figure of a write comes from a process of its own (this program, given a `--task`), so that background work and
//! memory belong to one subject alone; subjects take turns, and medians are compared. `benches/README.md` says what is
//! measured and what is not.

mod reads;
mod report;
mod scans;
mod task;
mod writes;

use std::path::PathBuf;

use clap::Parser;
use cube_benches::Result;

use crate::task::Task;

/// What the command line may say.
#[derive(Parser)]
#[command(about = "The storage engine's ratios to a bare RocksDB")]
pub(crate) struct Arguments {
    /// Rows of the large set
    #[arg(long, default_value_t = 300_000)]
    rows: u32,
    /// Rows of the hot set, which fits into memory
    #[arg(long, default_value_t = 20_000)]
    hot_rows: u32,
    /// Rows of the table that is scanned
    #[arg(long, default_value_t = 1_000_000)]
    scan_rows: u32,
    /// Processes per figure
    #[arg(long, default_value_t = 3)]
    runs: u32,
    /// Where the databases are made, and removed again; a temporary folder by default
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Only the parts whose name contains this: fresh, overwrites, reads, scans
    filter: Option<String>,
    /// Passed by cargo
    #[arg(long, hide = true)]
    bench: bool,
    /// What a process of its own is to do
    #[arg(long, hide = true)]
    task: Option<String>,
}

impl Arguments {
    fn wants(&self, part: &str) -> bool {
        self.filter.as_ref().is_none_or(|filter| format!("storage_ratios/{part}").contains(filter.as_str()))
    }
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if let Some(task) = &arguments.task {
        return serde_json::from_str::<Task>(task)?.run();
    }
    if arguments.wants("fresh") {
        writes::compare_fresh(&arguments)?;
    }
    if arguments.wants("overwrites") {
        writes::compare_overwrites(&arguments)?;
    }
    if arguments.wants("reads") {
        reads::compare(&arguments)?;
    }
    if arguments.wants("scans") {
        scans::compare(&arguments)?;
    }
    Ok(())
}
