//! The coordinator on small clusters of real replicas: stores in memory, a transport that serialises every message,
//! membership and time by script. What a client is told, and what the replicas hold then.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

mod batches;
mod bounds;
mod clocks;
mod cluster;
mod deadlines;
mod explaining;
mod following;
mod hedging;
mod levels;
mod maps;
mod node;
mod ranges;
mod reads;
mod refusals;
mod repairing;
mod scans;
