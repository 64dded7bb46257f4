//! The Rust client of Cube KV: connections to the nodes, routing by token, retries and paging.
//!
//! It speaks the messages of `cube-proto` and knows nothing of how a node keeps its data.
//!
//! Empty for now. It comes with the first server.
