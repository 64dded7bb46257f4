//! Damage on the disk: a flipped byte, wherever it is, is reported as corruption with the keys it covers and is never
//! returned as a value; all other rows stay readable; the partition stops counting, durably; and clearing it makes it
//! whole again.
//!
//! How a damaged store is read and healed is in `reading.rs`; single rows, leaves and entries are damaged in `rows.rs`, the
//! files of RocksDB in `files.rs`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

#[path = "../common/mod.rs"]
mod common;
#[cfg(feature = "rocks")]
mod files;
mod reading;
mod rows;
