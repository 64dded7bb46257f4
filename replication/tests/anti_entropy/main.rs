//! Anti-entropy: two replicas become equal at the cost of what differs, whatever differs.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

#[path = "../../../storage/tests/common/cases.rs"]
mod cases;
mod cluster;
mod comparing;
mod cost;
mod counting;
mod killed;
mod pair;
mod repairing;
mod repairs_kept;
mod scrubbing;
mod working;
