//! What operators ask of a cluster and change in it: its members, who holds what, its schema, what waits for members
//! that are away.
//!
//! Any node answers from its own copy, so a question goes on to the next node until one answers; a change is asked of
//! another node only when the one before certainly did nothing. The caller is told which node answered, because members
//! are alive or not *as that node sees them*.

mod health;
mod members;
mod model;
mod repair;
mod sync;

use std::sync::Arc;
use std::time::Duration;

use cube_proto::v1;
use cube_proto::v1::admin_client::AdminClient;
use tokio::time::{Instant, sleep_until, timeout_at};
use tonic::transport::Channel;
use tonic::{Response, Status};

use crate::client::Client;
use crate::error::{Asked, Error};
use crate::failure;
use crate::node::Node;
use crate::retry::{self, Failure, Kind, Next, Words};

pub use health::{ClusterHealth, KeyspaceHealth, KeyspaceLoss, LostLevels, OneMoreDied};
pub use members::Leaving;
pub use model::{
    Delivery, Hints, Keyspace, KeyspaceOptions, Member, Partition, Placement, Replication, RowRepairs, Stats, Table,
    TableOptions, TableReads, Topology,
};
pub use repair::{NotCompared, Repair, RepairPair, RepairScope, Repairs};
pub use sync::{Scrub, SyncStatus, TableSync};

/// An answer, and the address of the node that gave it.
#[derive(Clone, PartialEq, Debug)]
pub struct Told<T> {
    /// The address of the node.
    pub by: String,
    /// What it said.
    pub answer: T,
}

/// Questions and changes of one cluster.
#[derive(Clone, Debug)]
pub struct Admin {
    client: Client,
    first: Option<String>,
    only: bool,
    timeout: Duration,
}

impl Client {
    /// What operators ask and change.
    pub fn admin(&self) -> Admin {
        Admin { client: self.clone(), first: None, only: false, timeout: self.timeout() }
    }
}

impl Admin {
    /// Asks the node of this address before others.
    #[must_use]
    pub fn first(mut self, address: impl Into<String>) -> Self {
        self.first = Some(address.into());
        self
    }

    /// Asks the node of this address and no other: for what each node knows of itself alone.
    #[must_use]
    pub fn only(mut self, address: impl Into<String>) -> Self {
        self.first = Some(address.into());
        self.only = true;
        self
    }

    /// How long an answer may take, all attempts included.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Who is there, and how the node that answers sees them.
    pub async fn nodes(&self) -> Result<Told<Vec<Member>>, Error> {
        let told =
            self.ask("NODES", "of the cluster", Kind::Read, |mut admin| async move {
                admin.nodes(v1::NodesRequest {}).await
            })
            .await?;
        Ok(told.map(|reply| reply.nodes.into_iter().map(Member::of).collect()))
    }

    /// Who holds what.
    pub async fn topology(&self) -> Result<Told<Topology>, Error> {
        let told = self
            .ask("TOPOLOGY", "of the cluster", Kind::Read, |mut admin| async move {
                admin.topology(v1::TopologyRequest { known_epoch: 0 }).await
            })
            .await?;
        Ok(told.map(Topology::of))
    }

    /// What the node that answers keeps for others; say [`Admin::only`], or it is that of any node.
    pub async fn hints(&self) -> Result<Told<Hints>, Error> {
        let told = self
            .ask("HINTS", "of a node", Kind::Read, |mut admin| async move { admin.hints(v1::HintsRequest {}).await })
            .await?;
        Ok(told.map(Hints::of))
    }

    /// What the node that answers counted; say [`Admin::only`], or it is that of any node.
    pub async fn stats(&self) -> Result<Told<Stats>, Error> {
        let told = self
            .ask("STATS", "of a node", Kind::Read, |mut admin| async move { admin.stats(v1::StatsRequest {}).await })
            .await?;
        Ok(told.map(Stats::of))
    }

    /// The numbers of the node that answers, as Prometheus reads them; say [`Admin::only`], or it is that of any node.
    pub async fn metrics(&self) -> Result<Told<String>, Error> {
        let told =
            self.ask("METRICS", "of a node", Kind::Read, |mut admin| async move {
                admin.metrics(v1::MetricsRequest {}).await
            })
            .await?;
        Ok(told.map(|reply| reply.text))
    }

    /// All keyspaces with their tables.
    pub async fn schema(&self) -> Result<Told<Vec<Keyspace>>, Error> {
        let told =
            self.ask("SCHEMA", "of the cluster", Kind::Read, |mut admin| async move {
                admin.schema(v1::SchemaRequest {}).await
            })
            .await?;
        Ok(told.map(|reply| reply.keyspaces.into_iter().map(Keyspace::of).collect()))
    }

    /// Creates a keyspace, and tells whether that made a difference. One that exists with the same options is no error.
    pub async fn create_keyspace(&self, keyspace: &str, options: KeyspaceOptions) -> Result<Told<bool>, Error> {
        let request = v1::CreateKeyspaceRequest { keyspace: keyspace.to_owned(), options: Some(options.wire()) };
        self.change("CREATE KEYSPACE", keyspace, |mut admin| {
            let request = request.clone();
            async move { admin.create_keyspace(request).await }
        })
        .await
    }

    /// Changes what is said of a keyspace.
    pub async fn alter_keyspace(&self, keyspace: &str, options: KeyspaceOptions) -> Result<Told<bool>, Error> {
        let request = v1::AlterKeyspaceRequest { keyspace: keyspace.to_owned(), options: Some(options.wire()) };
        self.change("ALTER KEYSPACE", keyspace, |mut admin| {
            let request = request.clone();
            async move { admin.alter_keyspace(request).await }
        })
        .await
    }

    /// Drops a keyspace with its tables and their rows.
    pub async fn drop_keyspace(&self, keyspace: &str) -> Result<Told<bool>, Error> {
        let request = v1::DropKeyspaceRequest { keyspace: keyspace.to_owned() };
        self.change("DROP KEYSPACE", keyspace, |mut admin| {
            let request = request.clone();
            async move { admin.drop_keyspace(request).await }
        })
        .await
    }

    /// Creates a table, and tells whether that made a difference. One that exists with the same options is no error.
    pub async fn create_table(&self, keyspace: &str, table: &str, options: TableOptions) -> Result<Told<bool>, Error> {
        let request = v1::CreateTableRequest {
            keyspace: keyspace.to_owned(),
            table: table.to_owned(),
            options: Some(options.wire()),
        };
        self.change("CREATE TABLE", &format!("{keyspace}.{table}"), |mut admin| {
            let request = request.clone();
            async move { admin.create_table(request).await }
        })
        .await
    }

    /// Changes what is said of a table.
    pub async fn alter_table(&self, keyspace: &str, table: &str, options: TableOptions) -> Result<Told<bool>, Error> {
        let request = v1::AlterTableRequest {
            keyspace: keyspace.to_owned(),
            table: table.to_owned(),
            options: Some(options.wire()),
        };
        self.change("ALTER TABLE", &format!("{keyspace}.{table}"), |mut admin| {
            let request = request.clone();
            async move { admin.alter_table(request).await }
        })
        .await
    }

    /// Drops a table with its rows.
    pub async fn drop_table(&self, keyspace: &str, table: &str) -> Result<Told<bool>, Error> {
        let request = v1::DropTableRequest { keyspace: keyspace.to_owned(), table: table.to_owned() };
        self.change("DROP TABLE", &format!("{keyspace}.{table}"), |mut admin| {
            let request = request.clone();
            async move { admin.drop_table(request).await }
        })
        .await
    }

    async fn change<F, A>(&self, operation: &'static str, name: &str, call: F) -> Result<Told<bool>, Error>
    where
        F: Fn(AdminClient<Channel>) -> A,
        A: Future<Output = Result<Response<v1::ChangeReply>, Status>>,
    {
        Ok(self.ask(operation, name, Kind::Write, call).await?.map(|reply| reply.changed))
    }

    async fn ask<T, F, A>(&self, operation: &'static str, key: &str, kind: Kind, call: F) -> Result<Told<T>, Error>
    where
        F: Fn(AdminClient<Channel>) -> A,
        A: Future<Output = Result<Response<T>, Status>>,
    {
        let options = &self.client.inner().options;
        let deadline = Instant::now() + self.timeout;
        let nodes = self.candidates()?;
        let mut words = Words::default();
        let asked = || Asked { operation, key: key.to_owned(), changes: kind != Kind::Read };
        for (attempt, node) in (1..).zip(nodes.iter().cycle()) {
            let left = deadline.saturating_duration_since(Instant::now());
            // Another node can be asked while a question waits for this one; a change waits to the end.
            let time = if kind == Kind::Read && !self.only { left.min(options.read_attempt) } else { left };
            let admin = AdminClient::new(node.channel()).max_decoding_message_size(options.answer_bytes_max);
            let failure = match timeout_at(Instant::now() + time, call(admin)).await {
                Ok(Ok(response)) => {
                    node.answered();
                    return Ok(Told { by: node.address.clone(), answer: response.into_inner() });
                }
                Ok(Err(status)) => failure::of_status(&status),
                Err(_) => Failure::Slow,
            };
            words.note(node, &failure);
            if failure.is_loss_of_node() {
                node.avoid();
            }
            let wait = match retry::next(kind, attempt, options.attempts_max, &failure) {
                Next::GiveUp => return Err(error(asked(), words.or(kind, node, failure), attempt, kind)),
                Next::Elsewhere(wait) => wait,
            };
            let resume = Instant::now() + wait;
            if resume >= deadline {
                return Err(error(asked(), words.or(kind, node, failure), attempt, kind));
            }
            if !wait.is_zero() {
                sleep_until(resume).await;
            }
        }
        Err(Error::Invalid("the client knows no node".to_owned()))
    }

    /// Whom to ask, in that order: the one that was named, those that seem to live, the rest.
    fn candidates(&self) -> Result<Vec<Arc<Node>>, Error> {
        let inner = self.client.inner();
        let ring = inner.ring.load();
        let mut known: Vec<_> = ring.places.iter().collect();
        known.sort_by_key(|place| (place.node.is_avoided(), !place.alive));
        let mut nodes: Vec<Arc<Node>> = known.into_iter().map(|place| Arc::clone(&place.node)).collect();
        for seed in &inner.seeds {
            if !nodes.iter().any(|node| node.address == seed.address) {
                nodes.push(Arc::clone(seed));
            }
        }
        if let Some(first) = &self.first {
            let node = match nodes.iter().position(|node| node.address == *first) {
                Some(place) => nodes.remove(place),
                None => Arc::new(Node::new(first, &inner.options)?),
            };
            nodes.insert(0, node);
            nodes.truncate(if self.only { 1 } else { nodes.len() });
        }
        Ok(nodes)
    }
}

impl<T> Told<T> {
    fn map<U>(self, with: impl FnOnce(T) -> U) -> Told<U> {
        Told { by: self.by, answer: with(self.answer) }
    }
}

fn error(asked: Asked, (node, last): (Arc<Node>, Failure), attempts: u32, kind: Kind) -> Error {
    let node = node.address.clone();
    let may_be_done = kind != Kind::Read && last.may_take_effect();
    match last {
        Failure::Refused(refusal) if may_be_done => {
            Error::Unknown { asked, node, reason: refusal.to_string(), refusal: Some(refusal) }
        }
        _ if may_be_done => Error::Unknown { asked, node, reason: last.reason(), refusal: None },
        Failure::Refused(refusal) => Error::Refused { asked, node, refusal },
        Failure::Unsent(reason) => Error::Unreachable { asked, node, attempts, reason },
        Failure::Misunderstood(reason) => Error::Misunderstood { asked, node, reason },
        Failure::Lost(_) | Failure::Slow => Error::NotAnswered { asked, node, attempts, reason: last.reason() },
    }
}
