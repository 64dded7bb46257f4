//! The node: storage and replication wired to gRPC, REST, Raft, gossip and configuration.
//!
//! `node/` puts everything together; `rest/` and `grpc/` are the doors for clients, over what they share in `edge/` and
//! `admin`; `peer/` is the way between nodes, `control/` the hard state, `gossip/` the soft one. `docs/architecture.md`
//! follows a request through all of it. No library of the workspace depends on this one; `main.rs` only reads the
//! command line.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

pub mod admin;
#[cfg(test)]
#[path = "../../storage/tests/common/cases.rs"]
mod cases;
pub mod clock_watch;
pub mod config;
pub mod control;
pub mod dev;
pub mod edge;
pub mod forming;
pub mod gossip;
pub mod grpc;
pub mod heap;
pub mod identity;
mod incoming;
pub mod metrics;
pub mod node;
pub mod peer;
pub mod places;
pub mod rest;
pub mod telemetry;
pub mod traces;
