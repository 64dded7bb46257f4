//! Collects single PUTs into batches, and tells each caller what came of its own.
//!
//! A batch is sent when it has enough rows or bytes, or when its first row has waited long enough. So many batches are under
//! way at once and no more; past that, rows collect, and past the bound of those callers wait. Nothing is dropped: every
//! row that was handed over has an outcome.
//!
//! Two PUTs of one row never share a batch, where only the last one would count: the second one begins the next batch.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use crate::error::Error;
use crate::model::{Key, Level, Written};
use crate::table::Table;

/// When a batch is sent, and how many there may be.
#[derive(Clone, Debug, PartialEq)]
pub struct BatcherOptions {
    /// Rows of a batch at the most.
    pub rows_max: usize,
    /// Keys and values of a batch, unless a single row has more.
    pub bytes_max: usize,
    /// How long the first row of a batch waits for others.
    pub wait_max: Duration,
    /// Batches under way at once.
    pub in_flight_max: usize,
    /// Rows that wait for a batch; further callers wait until there is room.
    pub waiting_max: usize,
    /// The level of all of them.
    pub level: Level,
}

impl Default for BatcherOptions {
    fn default() -> Self {
        Self {
            rows_max: 64,
            bytes_max: 1 << 20,
            wait_max: Duration::from_millis(2),
            in_flight_max: 16,
            waiting_max: 1_024,
            level: Level::Quorum,
        }
    }
}

struct Waiting {
    key: Key,
    value: Bytes,
    outcome: oneshot::Sender<Result<Written, Error>>,
}

impl Waiting {
    fn bytes(&self) -> usize {
        self.key.partition.len() + self.key.sort.len() + self.value.len()
    }
}

/// Writes rows of one table in batches. Cheap to clone; clones share the batches.
#[derive(Clone, Debug)]
pub struct Batcher {
    sender: mpsc::Sender<Waiting>,
}

impl Batcher {
    /// Batches for a table.
    pub fn new(table: Table, options: BatcherOptions) -> Self {
        let (sender, receiver) = mpsc::channel(options.waiting_max.max(1));
        tokio::spawn(collect(table, options, receiver));
        Self { sender }
    }

    /// Gives a row a value, with whatever batch comes next, and waits for the outcome.
    pub async fn put(&self, key: impl Into<Key>, value: impl Into<Bytes>) -> Result<Written, Error> {
        let ended = || Error::Invalid("the batcher has ended with its runtime".to_owned());
        let (outcome, answer) = oneshot::channel();
        let row = Waiting { key: key.into(), value: value.into(), outcome };
        self.sender.send(row).await.map_err(|_| ended())?;
        answer.await.unwrap_or_else(|_| Err(ended()))
    }
}

/// Collects until every handle is gone and the last batch is sent.
async fn collect(table: Table, options: BatcherOptions, mut receiver: mpsc::Receiver<Waiting>) {
    let room = Arc::new(Semaphore::new(options.in_flight_max.max(1)));
    let mut carried = None;
    loop {
        let Some(first) = (match carried.take() {
            Some(row) => Some(row),
            None => receiver.recv().await,
        }) else {
            return;
        };
        let (rows, next) = fill(first, &options, &mut receiver).await;
        carried = next;
        // It is never closed.
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
        let (table, level) = (table.clone(), options.level);
        tokio::spawn(async move {
            send(&table, level, rows).await;
            drop(permit);
        });
    }
}

/// A batch that begins with this row, and the row that did not fit into it.
async fn fill(
    first: Waiting,
    options: &BatcherOptions,
    receiver: &mut mpsc::Receiver<Waiting>,
) -> (Vec<Waiting>, Option<Waiting>) {
    let due = Instant::now() + options.wait_max;
    let mut bytes = first.bytes();
    let mut keys = HashSet::from([first.key.clone()]);
    let mut rows = vec![first];
    while rows.len() < options.rows_max && bytes < options.bytes_max {
        let Ok(Some(row)) = timeout_at(due, receiver.recv()).await else { break };
        bytes += row.bytes();
        if bytes > options.bytes_max || !keys.insert(row.key.clone()) {
            return (rows, Some(row));
        }
        rows.push(row);
    }
    (rows, None)
}

async fn send(table: &Table, level: Level, rows: Vec<Waiting>) {
    let pairs: Vec<(Key, Bytes)> = rows.iter().map(|row| (row.key.clone(), row.value.clone())).collect();
    let asked = |key: &Key| crate::error::Asked { operation: "PUT", key: key.to_string(), changes: true };
    let answer = table.put_all(pairs).level(level).send().await;
    for row in rows {
        let outcome = match &answer {
            Err(error) => Err(error.clone()),
            Ok(parts) => match parts.iter().find(|(partition, _)| *partition == row.key.partition) {
                Some((_, Ok(written))) => Ok(written.clone()),
                Some((_, Err(refusal))) if refusal.may_take_effect => Err(Error::Unknown {
                    asked: asked(&row.key),
                    node: "the node that was asked".to_owned(),
                    reason: refusal.to_string(),
                    refusal: Some(refusal.clone()),
                }),
                Some((_, Err(refusal))) => Err(Error::Refused {
                    asked: asked(&row.key),
                    node: "the node that was asked".to_owned(),
                    refusal: refusal.clone(),
                }),
                None => Err(Error::Misunderstood {
                    asked: asked(&row.key),
                    node: "the node that was asked".to_owned(),
                    reason: "the answer to a batch leaves out a partition key".to_owned(),
                }),
            },
        };
        // Whoever gave up waiting does not want to know.
        row.outcome.send(outcome).unwrap_or_default();
    }
}
