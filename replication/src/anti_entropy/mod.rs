//! Anti-entropy: what finds and repairs, without an operator, whatever hints and reads have missed.
//!
//! A comparison (`compare/`) is a state machine over one peer and many partitions: roots first, one round trip for each
//! level of the trees below, then the versions of the rows of leaves that differ, then those rows, both ways and through
//! the one write path. The other side only answers questions (`answer.rs`).
//!
//! What it keeps true: a comparison of equal replicas lists no key; a row is sent only where it is missing or older; what
//! is damaged here is never sent; a partition is called equal with a peer only after every difference at or below the
//! horizon was looked at; everything on the way is bounded.

pub mod answer;
pub mod compare;
pub mod questions;
