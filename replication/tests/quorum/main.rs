//! Counting answers: every level in every state, and why no quorum misses another, also while replicas change.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

#[path = "../../../storage/tests/common/cases.rs"]
mod cases;
mod levels;
mod moves;
mod sets;
mod tracker;
