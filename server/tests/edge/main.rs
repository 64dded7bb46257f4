//! The front doors, driven over real connections: a node with its real coordinator, replica and store stands behind the
//! HTTP router and the gRPC services on ports of their own.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

mod admin;
mod bad_requests;
mod batches;

#[path = "../../../storage/tests/common/cases.rs"]
mod cases;
mod cluster_health;
mod documents;
mod failures;
mod fuzz;
mod grpc;
mod health;
mod http;
mod keys;
mod malformed;
mod node;
mod raw;
mod rows;
mod scans;
mod schema;
mod session;
