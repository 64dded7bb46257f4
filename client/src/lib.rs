//! The Rust client of Cube KV: connections to the nodes, routing by token, retries and paging.
//!
//! It speaks the messages of `cube-proto` and knows nothing of how a node keeps its data.

mod batcher;
mod call;
mod client;
mod clock;
mod error;
mod failure;
mod model;
mod node;
mod operation;
mod options;
mod range;
mod retry;
mod ring;
mod session;
mod table;
mod topology;

pub use batcher::{Batcher, BatcherOptions};
pub use client::Client;
pub use error::{Asked, Error, Refusal, ReplicaFailure};
pub use model::{Found, Key, Level, Row, UnknownLevel, Version, Written};
pub use options::Options;
pub use range::Range;
pub use session::Session;
pub use table::{Delete, DeleteAll, Get, GetAll, Put, PutAll, Table};
