//! One node's data: rows, their order, their Merkle sums, the clock that versions them and the notes a replica keeps
//! of itself. It knows no network and no async runtime.
//!
//! A write's way: [`Store::submit`] (`apply/mod.rs`) queues a batch, `apply/group.rs` reads what the rows hold and keeps
//! the winners (`apply/resolve.rs`), one engine write makes rows, key index and Merkle leaves durable together, and the
//! callback tells the outcome. A read's way: `read.rs` for single rows, `scan.rs` for pages; both verify every record
//! against its key. `removal.rs` takes rows out, `scrub.rs` looks for damage, `partition.rs` keeps the fences.
//!
//! The seams: [`engine::Engine`] (RocksDB behind the feature `rocks`, memory), [`clock::Clock`],
//! [`space::SpaceProbe`], [`files::Files`].

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

pub mod apply;
#[cfg(test)]
#[path = "../tests/common/cases.rs"]
mod cases;
pub mod clock;
mod dead;
pub mod dirty;
pub mod engine;
mod error;
pub mod files;
mod forest;
mod front;
pub mod hints;
pub mod keyspace;
mod mend;
pub mod merkle;
mod merkle_view;
mod meta;
pub mod model;
mod panics;
mod partition;
pub mod purge;
mod reach;
mod read;
mod removal;
pub mod scan;
mod scrub;
pub mod space;
pub mod store;
mod table;

pub use apply::{ApplyWorker, Done, TimeLimit, Waiting, WarmPlace};
pub use dead::DeadLook;
pub use error::{DamagedRange, StoreError};
pub use merkle_view::{Children, HeaderPage, LeafSpan, Piece, RowDigest, TreeNodes};
pub use panics::caught;
pub use partition::{MarkGeneration, PartitionState, RangeState, SyncState, UnsyncedCause};
pub use removal::{RemovalCursor, Removed};
pub use scrub::{ScrubBounds, ScrubPlace, Scrubbed};
pub use store::{Identity, Store, StoreOptions};
pub use table::{SyncPolicy, TableOptions};
