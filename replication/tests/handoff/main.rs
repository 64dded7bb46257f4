//! Hinted handoff over the transport in memory: what is kept, what is replayed, and what becomes of hints that nobody
//! takes or misses. Nothing moves unless the test says so.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

mod cluster;
mod life;
mod replaying;
mod storing;
