//! What the benchmarks share: the rows they write, the things they measure, and the measures.
//!
//! A benchmark here compares processor time, not the time on the wall: the machine may be shared with other work, and
//! what a node spends on its rows is what it cannot spend on its clients. Figures are given as ratios of two subjects
//! that took turns in one run.

pub mod allocations;
pub mod coordination;
pub mod measure;
pub mod subject;
pub mod workload;

/// A failure that ends a benchmark.
pub type Error = Box<dyn std::error::Error + Send + Sync>;
/// What a step of a benchmark comes to.
pub type Result<T> = std::result::Result<T, Error>;
