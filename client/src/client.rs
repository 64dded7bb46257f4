//! The client: what all of its tables, sessions and batchers share.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::call::Via;
use crate::clock::Clock;
use crate::error::Error;
use crate::node::Node;
use crate::options::Options;
use crate::ring::{Place, Ring};
use crate::session::Lanes;
use crate::table::Table;
use crate::topology;

/// What requests need, and nothing that must be waited for.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) options: Options,
    /// The nodes that the client was given: asked for the others, also when all that were ever known are gone.
    pub(crate) seeds: Vec<Arc<Node>>,
    pub(crate) ring: ArcSwap<Ring>,
    pub(crate) clock: Clock,
    pub(crate) turn: AtomicUsize,
    /// Told when an answer shows that the map is old.
    pub(crate) stale: Notify,
}

/// A cluster, as its clients see it. Cheap to clone; clones share connections.
#[derive(Clone, Debug)]
pub struct Client {
    inner: Arc<Inner>,
    _refresher: Arc<Refresher>,
}

/// Ends the refreshing when the last clone of the client is gone.
#[derive(Debug)]
struct Refresher(JoinHandle<()>);

impl Drop for Refresher {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Client {
    /// Connects to a cluster of which some nodes are known by their gRPC addresses, `host:port`.
    ///
    /// One that answers is enough: it names the others. Fails if none answers in the time of one request.
    pub async fn connect<A: AsRef<str>>(addresses: impl IntoIterator<Item = A>) -> Result<Self, Error> {
        Self::connect_with(addresses, Options::default()).await
    }

    /// The same, with options.
    pub async fn connect_with<A: AsRef<str>>(
        addresses: impl IntoIterator<Item = A>,
        options: Options,
    ) -> Result<Self, Error> {
        let seeds = addresses
            .into_iter()
            .map(|address| Node::new(address.as_ref(), &options).map(Arc::new))
            .collect::<Result<Vec<_>, _>>()?;
        if seeds.is_empty() {
            return Err(Error::Invalid("a client needs the address of at least one node".to_owned()));
        }
        let place = |node: &Arc<Node>| Place { node: Arc::clone(node), dc: String::new(), alive: true };
        let ring = Ring { places: seeds.iter().map(place).collect(), ..Ring::default() };
        let inner = Arc::new(Inner {
            options,
            seeds,
            ring: ArcSwap::from_pointee(ring),
            clock: Clock::new(),
            turn: AtomicUsize::new(0),
            stale: Notify::new(),
        });
        topology::first(&inner).await?;
        let refresher = Arc::new(Refresher(tokio::spawn(topology::follow(Arc::downgrade(&inner)))));
        Ok(Self { inner, _refresher: refresher })
    }

    /// The table that clients get when they name none: `kv` of the keyspace `default`.
    pub fn default_table(&self) -> Table {
        Table::new(self.inner.clone(), self.clone(), Via::Calls, String::new(), String::new())
    }

    /// A table of a keyspace.
    pub fn table(&self, keyspace: impl Into<String>, table: impl Into<String>) -> Table {
        Table::new(self.inner.clone(), self.clone(), Via::Calls, keyspace.into(), table.into())
    }

    /// The same tables over streams that many requests share: for those who have thousands of them in flight.
    pub fn session(&self) -> crate::session::Session {
        crate::session::Session::new(self.clone(), Lanes::new(self.inner.options.session_in_flight_max))
    }

    pub(crate) fn inner(&self) -> &Arc<Inner> {
        &self.inner
    }

    /// The addresses of the nodes that requests are sent to, as the client knows them now.
    pub fn nodes(&self) -> Vec<String> {
        self.inner.ring.load().places.iter().map(|place| place.node.address.clone()).collect()
    }

    /// How long a request may take if it does not say.
    pub fn timeout(&self) -> Duration {
        self.inner.options.timeout
    }
}
