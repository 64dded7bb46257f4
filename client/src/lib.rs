//! The Rust client of Cube KV: connections to the nodes, routing by token, retries and paging.
//!
//! It speaks the messages of `cube-proto` and knows nothing of how a node keeps its data. Any node answers for any row; the
//! client knows which nodes hold a row, and asks one of those, so that no answer takes a way round.
//!
//! ```
//! # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/nodes/real_nodes.rs"));
//! use cube_client::{Client, Level};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), cube_client::Error> {
//! # let nodes = RealNodes::start(1);
//! # let addresses = nodes.addresses();
//! let client = Client::connect(addresses).await?;
//! let users = client.default_table();
//! let written = users.put("user:1", "Ada").level(Level::All).send().await?;
//! println!("{} hold it durably", written.acknowledged_by.join(", "));
//! assert_eq!(users.get("user:1").send().await?.value.as_deref(), Some(&b"Ada"[..]));
//! users.delete("user:1").send().await?;
//! # Ok(())
//! # }
//! ```
//!
//! # When a write fails
//!
//! Every error tells whether the write may have taken effect ([`Error::may_take_effect`]). Where not, nothing was written,
//! and the client has tried again by itself as long as there was time (the parts of a batch excepted: what failed of one is
//! handed back as it is, with a hint when to try again). Where it may, the client has not: somebody else may
//! have written the row in between, and a second try would win over that. Read the row, or make the write
//! [`repeatable`](Put::repeatable) from the start: then its timestamp is fixed before the first try, and all tries are one
//! version.
//!
//! ```
//! # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/nodes/real_nodes.rs"));
//! use std::time::Duration;
//! use cube_client::{Client, Options};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), cube_client::Error> {
//! # let nodes = RealNodes::start(1);
//! # let addresses = nodes.addresses();
//! let options = Options { timeout: Duration::from_secs(10), ..Options::default() };
//! let jobs = Client::connect_with(addresses, options).await?.default_table();
//! match jobs.put("job:7", "done").repeatable().send().await {
//!     Ok(written) if written.superseded_by.is_some() => println!("somebody wrote something newer"),
//!     Ok(_) => println!("written"),
//!     Err(error) if error.may_take_effect() => println!("unknown, read it: {error}"),
//!     Err(error) => println!("nothing was written: {error}"),
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # Many rows
//!
//! A [`Range`] lists the rows of one partition key, page by page; a [`Scan`] the rows of all partition keys that begin alike,
//! and goes on at another node when one dies. [`Table::put_all`] and its like send many rows in one
//! request; a [`Batcher`] makes batches of single writes. A [`Session`] is for whoever has thousands of requests in flight:
//! they share a stream to each node, and cost a part of what calls of their own cost.
//!
//! ```
//! # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/nodes/real_nodes.rs"));
//! use cube_client::{Batcher, BatcherOptions, Client, Key};
//! use futures::future::join_all;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), cube_client::Error> {
//! # let nodes = RealNodes::start(1);
//! # let addresses = nodes.addresses();
//! let client = Client::connect(addresses).await?;
//!
//! let batcher = Batcher::new(client.default_table(), BatcherOptions::default());
//! let sandboxes = (0..100).map(|n| batcher.put(Key::sorted("node:a", format!("sandbox:{n:03}")), "RUNNING"));
//! for outcome in join_all(sandboxes).await {
//!     outcome?;
//! }
//!
//! let table = client.default_table();
//! let mut range = table.range("node:a").from("sandbox:050").page_rows(20);
//! let mut count = 0;
//! while let Some(row) = range.next().await? {
//!     assert_eq!(row.value, "RUNNING");
//!     count += 1;
//! }
//! assert_eq!(count, 50);
//!
//! let mut scan = table.scan("node:").limit(10);
//! while let Some(row) = scan.next().await? {
//!     assert_eq!(row.key.partition, "node:a");
//! }
//!
//! let session = client.session().default_table();
//! let reads = (0..100).map(|n| session.get(Key::sorted("node:a", format!("sandbox:{n:03}"))).send());
//! assert!(join_all(reads).await.into_iter().all(|found| found.is_ok_and(|found| found.value.is_some())));
//! # Ok(())
//! # }
//! ```

pub mod admin;
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
mod scan;
mod session;
mod table;
mod topology;

pub use batcher::{Batcher, BatcherOptions};
pub use client::Client;
pub use error::{Asked, Error, Refusal, ReplicaFailure};
pub use model::{
    Explained, ExplainedHint, ExplainedMessage, ExplainedOutcome, ExplainedRecord, ExplainedRow, ExplainedStale, Found,
    Key, Level, Row, UnknownLevel, Version, Written,
};
pub use options::Options;
pub use range::Range;
pub use scan::Scan;
pub use session::Session;
pub use table::{Delete, DeleteAll, Get, GetAll, Put, PutAll, Table};
