//! Anti-entropy: what finds and repairs, all the time and without an operator, whatever hints and reads have missed, and
//! what lets the dead be purged for good.
//!
//! A comparison (`compare/`) is a state machine over one peer and many partitions: roots first, one round trip for each
//! level of the trees below, then the versions of the rows of leaves that differ, then those rows, both ways and through
//! the one write path. The other side only answers questions (`answer.rs`). What is compared when, and how much of it, is
//! decided by `schedule.rs`, how clients are yielded to by `courtesy.rs`; `worker/` drives both over the background lane.
//! What was proven equal as of when is on the `board.rs`; from the proofs follow the clearing of dirty marks (`marks.rs`)
//! and the rounds of purging (`purge.rs`).
//!
//! What it keeps true: a comparison of equal replicas lists no key; a row is sent only where it is missing or older; what
//! is damaged here is never sent; a partition is called equal with a peer only after every difference at or below the
//! horizon was looked at; everything on the way is bounded.

pub mod answer;
pub mod board;
pub mod compare;
mod courtesy;
mod handle;
mod last_answers;
pub mod marks;
pub mod purge;
pub mod questions;
pub mod schedule;
pub mod scrub;
mod worker;

pub use self::handle::{AntiEntropy, CatchesUp, MarksOf, Parts, PeerStatus, Settings, Status, WatermarkOf};
pub use self::worker::{AntiEntropyWorker, NAME};
