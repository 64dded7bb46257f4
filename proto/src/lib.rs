//! The wire of Cube KV: what clients, nodes and operators say to each other over gRPC.
//!
//! This crate is the lowest of the network side: it knows the messages and nothing of what is done with them, so a
//! client can depend on it without pulling in a node. It depends on no other crate of the workspace. The messages and
//! services are generated from `proto/*.proto` without protoc (`build.rs`); written by hand is how a key is placed,
//! which clients must know to find its replicas, and the one line that nodes and the shell alike tell of a table's reads.

mod reads;
mod token;

pub use reads::ReadsLine;
pub use token::token;

/// For clients: keys and values.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::unwrap_used, clippy::indexing_slicing)]
pub mod v1 {
    tonic::include_proto!("cube.v1");
}

/// Between nodes.
pub mod peer {
    /// The first version of what nodes say to each other.
    #[allow(missing_docs, unreachable_pub, clippy::all, clippy::unwrap_used, clippy::indexing_slicing)]
    pub mod v1 {
        tonic::include_proto!("cube.peer.v1");
    }
}

/// The descriptors of all services, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
