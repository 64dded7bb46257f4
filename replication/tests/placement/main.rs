//! Where partitions are placed: shares, racks, moves, and the life of a topology.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

#[path = "../../../storage/tests/common/cases.rs"]
mod cases;
mod cluster;
mod leaving;
mod moves;
mod reference;
mod shares;
mod topology;
