//! A whole cluster in one thread: simulated network, clocks, disks and faults around the real coordinator, replica and
//! storage code, driven by one queue of events and one seeded source of randomness.
//!
//! A run has a safety phase, in which clients work while everything goes wrong (`faults.rs`), then heals, then a liveness
//! phase, in which every request must succeed. What clients saw is kept (`history.rs`) and judged (`checkers.rs`).
//! Everything is ordered and nothing reads the machine's clock, so a seed is a run: it can be repeated, and two runs of
//! it give the same trace. That the checkers can fail is proven by mutants (`mutants.rs`).

mod batches;
mod checkers;
mod client;
mod cluster;
mod control;
mod convergence;
mod event;
mod faults;
mod follow;
mod hints;
mod history;
mod leaving;
mod mutants;
mod network;
mod node;
mod noted;
mod purged;
mod repair;
mod report;
mod strike;
mod tell;
mod time;
mod verdict;

pub use self::checkers::Violation;
pub use self::cluster::run;
pub use self::faults::FaultKind;
pub use self::mutants::Mutant;
pub use self::network::{NetworkHandle, SimNetwork};
pub use self::report::{Messages, Options, Repaired, Report};
