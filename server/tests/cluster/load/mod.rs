//! Clients that write and read without a break while a scenario goes on around them, and remember what they were told.
//!
//! Every value is written once, so a read says which write it saw. A client talks to one node, as a load balancer that
//! is not told of failures would: what goes wrong can be counted by node and by time.

pub(crate) mod checker;
pub(crate) mod history;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

pub(crate) use self::history::{History, Kind, Operation, Outcome};
use crate::harness::Api;
use crate::harness::api::error_code;
use crate::harness::http::{Answer, Failure};
use crate::harness::time::{PATIENCE, eventually, now, now_us, pause};

/// A client waits so long between two requests: the nodes are to be busy, and the machine not full.
const BETWEEN_REQUESTS: Duration = Duration::from_millis(3);
/// After a request that failed, a little longer: a dead node refuses thousands in a second.
const AFTER_A_FAILURE: Duration = Duration::from_millis(30);

/// What clients do.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) write: &'static str,
    pub(crate) read: &'static str,
    pub(crate) keyspace: Option<&'static str>,
    /// Rows have this in front of their number, so that loads do not meet.
    pub(crate) prefix: &'static str,
    /// Rows that are written and read; all clients share them.
    pub(crate) rows: u64,
    pub(crate) writers_per_node: usize,
    pub(crate) readers_per_node: usize,
}

impl Plan {
    /// One writer and one reader for each node, at QUORUM.
    pub(crate) fn quorum(prefix: &'static str) -> Self {
        Self {
            write: "QUORUM",
            read: "QUORUM",
            keyspace: None,
            prefix,
            rows: 60,
            writers_per_node: 1,
            readers_per_node: 1,
        }
    }
}

/// Clients at work.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    clients: Vec<JoinHandle<Vec<Operation>>>,
    plan: Plan,
}

impl Load {
    /// Starts the clients of some nodes.
    pub(crate) fn start(plan: &Plan, nodes: &[(u8, SocketAddr)]) -> Self {
        let mut load = Self {
            stop: Arc::new(AtomicBool::new(false)),
            acknowledged: Arc::new(AtomicU64::new(0)),
            clients: Vec::new(),
            plan: plan.clone(),
        };
        load.add(nodes);
        load
    }

    /// Adds the clients of more nodes.
    pub(crate) fn add(&mut self, nodes: &[(u8, SocketAddr)]) {
        for (node, address) in nodes {
            let writers = std::iter::repeat_n(true, self.plan.writers_per_node);
            let readers = std::iter::repeat_n(false, self.plan.readers_per_node);
            for writes in writers.chain(readers) {
                let client = Client::new(*node, *address, &self.plan);
                let (stop, acknowledged) = (Arc::clone(&self.stop), Arc::clone(&self.acknowledged));
                let work = move || client.work(writes, &stop, &acknowledged);
                self.clients.push(std::thread::Builder::new().spawn(work).unwrap());
            }
        }
    }

    /// Waits until so many more writes were acknowledged: the load goes on, however slow the machine.
    pub(crate) fn wait_for_writes(&self, more: u64) {
        let wanted = self.acknowledged.load(Ordering::Relaxed) + more;
        eventually(&format!("{more} more writes"), PATIENCE, || match self.acknowledged.load(Ordering::Relaxed) {
            enough if enough >= wanted => Ok(()),
            few => Err(format!("{} to come", wanted - few)),
        });
    }

    /// Lets the load go on for a while, and until so many more writes were acknowledged.
    pub(crate) fn go_on(&self, time: Duration, more: u64) {
        let started = now();
        self.wait_for_writes(more);
        pause(time.saturating_sub(started.elapsed()));
    }

    /// Ends the load; what the clients were told.
    pub(crate) fn stop(mut self) -> History {
        self.stop.store(true, Ordering::Relaxed);
        let clients = std::mem::take(&mut self.clients);
        History::of(clients.into_iter().flat_map(|client| client.join().unwrap()).collect())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for client in std::mem::take(&mut self.clients) {
            client.join().map(drop).unwrap_or_default();
        }
    }
}

/// A client of one node. It is also what a scenario does single requests with, so that they are in the history too.
pub(crate) struct Client {
    node: u8,
    api: Api,
    plan: Plan,
    id: u64,
    done: u64,
}

impl Client {
    pub(crate) fn new(node: u8, address: SocketAddr, plan: &Plan) -> Self {
        static CLIENTS: AtomicU64 = AtomicU64::new(0);
        let id = CLIENTS.fetch_add(1, Ordering::Relaxed);
        Self { node, api: Api::new(address).in_keyspace(plan.keyspace), plan: plan.clone(), id, done: 0 }
    }

    fn work(mut self, writes: bool, stop: &AtomicBool, acknowledged: &AtomicU64) -> Vec<Operation> {
        let mut operations = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            // Clients go over the same rows in different steps, so that they meet in ever other places.
            let row = self.done.wrapping_mul(7 + 2 * self.id).wrapping_add(self.id) % self.plan.rows;
            let key = format!("{}-{row}", self.plan.prefix);
            let operation = if writes { self.write(&key) } else { self.read(&key) };
            let succeeded = operation.succeeded();
            if writes && succeeded {
                acknowledged.fetch_add(1, Ordering::Relaxed);
            }
            operations.push(operation);
            pause(if succeeded { BETWEEN_REQUESTS } else { AFTER_A_FAILURE });
        }
        operations
    }

    /// Writes a value that was never written before.
    pub(crate) fn write(&mut self, key: &str) -> Operation {
        let value = format!("value {}.{} through node-{}", self.id, self.done, self.node);
        self.done += 1;
        let started_us = now_us();
        let answer = self.api.put(key, &value, self.plan.write);
        let version = answer.as_ref().ok().and_then(version);
        let outcome = match answer {
            Ok(answer) if answer.is_success() => Outcome::Acknowledged,
            // A write that may have taken effect is answered with 504, and with nothing else.
            Ok(answer) if answer.status == 504 => Outcome::Unknown(error_code(&answer)),
            Ok(answer) => Outcome::Refused(error_code(&answer)),
            Err(failure) => failed(failure),
        };
        let kind = Kind::Write { value };
        self.operation(key, kind, (started_us, outcome, version))
    }

    pub(crate) fn read(&mut self, key: &str) -> Operation {
        self.done += 1;
        let started_us = now_us();
        let answer = self.api.get(key, self.plan.read);
        let version = answer.as_ref().ok().and_then(version);
        let outcome = match answer {
            Ok(answer) if answer.is_success() => found(&answer),
            Ok(answer) => Outcome::Refused(error_code(&answer)),
            Err(failure) => failed(failure),
        };
        self.operation(key, Kind::Read, (started_us, outcome, version))
    }

    fn operation(&self, key: &str, kind: Kind, told: (u64, Outcome, Option<(u64, u64)>)) -> Operation {
        let (started_us, outcome, version) = told;
        Operation { kind, key: key.to_owned(), node: self.node, started_us, ended_us: now_us(), outcome, version }
    }
}

fn failed(failure: Failure) -> Outcome {
    match failure {
        Failure::NotSent(why) => Outcome::Refused(format!("not sent: {why}")),
        Failure::NoAnswer(why) => Outcome::Unknown(why),
    }
}

/// The version that an answer tells of.
fn version(answer: &Answer) -> Option<(u64, u64)> {
    let body = answer.json();
    Some((body["version"]["timestamp"].as_u64()?, body["version"]["counter"].as_u64()?))
}

fn found(answer: &Answer) -> Outcome {
    let body = answer.json();
    match (body["found"].as_bool(), body["value"].as_str()) {
        (Some(true), Some(value)) => Outcome::Found(Some(value.to_owned())),
        (Some(false), None) => Outcome::Found(None),
        _ => panic!("an answer that says neither yes nor no: {answer}"),
    }
}

/// Reads every row of a load through a node, until each is answered; what was read belongs to the history.
pub(crate) fn read_back(node: u8, address: SocketAddr, plan: &Plan) -> History {
    let mut client = Client::new(node, address, plan);
    let mut operations = Vec::new();
    for row in 0..plan.rows {
        let key = format!("{}-{row}", plan.prefix);
        eventually(&format!("a read of {key} at {} through node-{node}", plan.read), PATIENCE, || {
            let operation = client.read(&key);
            let answered = if operation.succeeded() { Ok(()) } else { Err(format!("{:?}", operation.outcome)) };
            operations.push(operation);
            answered
        });
    }
    History::of(operations)
}
