//! The distributed logic of Cube KV: which replicas a row has, how many of them a request needs, and what is done when
//! they differ or are away.
//!
//! Decisions are plain code: events and time go in, commands come out. This crate knows no RocksDB, no gRPC and no HTTP.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

pub mod alarm;
pub mod anti_entropy;
mod bursts;
#[cfg(test)]
#[path = "../../storage/tests/common/cases.rs"]
mod cases;
pub mod catalog;
pub mod clock;
pub mod codec;
pub mod consistency;
pub mod coordinator;
pub mod handoff;
pub mod lifecycle;
pub mod membership;
pub mod messages;
pub mod quorum;
pub mod repair;
pub mod replica;
#[cfg(feature = "sim")]
pub mod sim;
pub mod topology;
pub mod trace;
pub mod transport;
pub mod watermark;
pub mod worker;
