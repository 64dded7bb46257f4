//! More is asked for than nodes take at once, by clients that come back when they are told to.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::http::Answer;
use crate::harness::time::{PATIENCE, eventually, now, pause};
use crate::harness::{Api, Cluster};

/// Requests that a node takes at once in these tests ...
const PLACES: usize = 4;
/// ... and clients of each node, none of which ever waits but when it is told to.
const CLIENTS: usize = 3 * PLACES;
const WRITES_EACH: usize = 40;
const VALUE_BYTES: usize = 4096;
/// Nobody is asked back later than this (docs/errors.md).
const RETRY_AFTER_MS_MAX: u64 = 1_000;
/// To refuse costs nothing but an answer; this allows for a machine that is busy with other things.
const REFUSAL_MAX: Duration = Duration::from_secs(5);
/// Calm is to return within 5 s; the same allowance.
const CALM_MAX: Duration = Duration::from_secs(25);
/// So many writes in a row are taken of a node at rest.
const CALM_WRITES: usize = 20;
/// What a node may hold more after the rush than before: less than a tenth of what was sent to it would be, had it kept
/// all that it refused.
const MEMORY_GROWTH_MAX: u64 = 64 << 20;

/// What the clients met.
#[derive(Default, Debug)]
struct Rush {
    written: BTreeMap<String, String>,
    refused: usize,
    longest_refusal: Duration,
}

impl Rush {
    fn add(&mut self, other: Self) {
        self.written.extend(other.written);
        self.refused += other.refused;
        self.longest_refusal = self.longest_refusal.max(other.longest_refusal);
    }
}

fn value(key: &str) -> String {
    let mut value = format!("of {key} ");
    value.push_str(&"x".repeat(VALUE_BYTES));
    value
}

/// How long a refused client is told to wait; panics where the answer is anything but such a refusal.
fn told_to_wait(answer: &Answer) -> Duration {
    let body = answer.json();
    assert_eq!((answer.status, body["error"]["code"].as_str()), (429, Some("overloaded")), "{answer}");
    let ms = body["error"]["details"]["retryAfterMs"].as_u64();
    let ms = ms.unwrap_or_else(|| panic!("a refusal that does not say when to come back: {answer}"));
    assert!((1..=RETRY_AFTER_MS_MAX).contains(&ms), "{answer}");
    Duration::from_millis(ms)
}

/// One client: it writes its rows, and comes back as it is told.
fn client(address: SocketAddr, name: &str) -> Rush {
    let mut api = Api::new(address);
    let mut rush = Rush::default();
    for number in 0..WRITES_EACH {
        let key = format!("{name}-{number}");
        let value = value(&key);
        let began = now();
        loop {
            let asked = now();
            let answer = api.put(&key, &value, "QUORUM").unwrap_or_else(|failure| panic!("{key}: {failure}"));
            if answer.is_success() {
                break;
            }
            rush.longest_refusal = rush.longest_refusal.max(asked.elapsed());
            rush.refused += 1;
            pause(told_to_wait(&answer));
            assert!(began.elapsed() < PATIENCE, "{key} is refused for ever, as here: {answer}");
        }
        rush.written.insert(key, value);
    }
    rush
}

/// Many clients of each of these nodes at once.
fn rush(cluster: &Cluster, nodes: &[u8], name: &str) -> Rush {
    let clients = cluster
        .clients_of(nodes)
        .into_iter()
        .flat_map(|(node, address)| (0..CLIENTS).map(move |number| (format!("{name}-{node}-{number}"), address)));
    let work = |(name, address): (String, SocketAddr)| {
        std::thread::Builder::new().spawn(move || client(address, &name)).unwrap()
    };
    let threads: Vec<_> = clients.map(work).collect();
    let mut all = Rush::default();
    for thread in threads {
        all.add(thread.join().unwrap());
    }
    println!("{} written, {} refusals, the longest took {:?}", all.written.len(), all.refused, all.longest_refusal);
    assert_eq!(all.written.len(), nodes.len() * CLIENTS * WRITES_EACH);
    assert!(all.refused > 0, "nobody was refused: the nodes were not asked for too much");
    assert!(all.longest_refusal < REFUSAL_MAX, "{:?}", all.longest_refusal);
    all
}

/// A node that is asked for little again refuses nothing.
fn assert_calm(cluster: &Cluster, nodes: &[u8]) {
    for (node, address) in cluster.clients_of(nodes) {
        let mut api = Api::new(address);
        eventually(&format!("node-{node} is calm again"), CALM_MAX, || {
            for number in 0..CALM_WRITES {
                let answer =
                    api.put(&format!("calm-{node}-{number}"), "value", "QUORUM").map_err(|why| why.to_string())?;
                if !answer.is_success() {
                    return Err(answer.to_string());
                }
            }
            Ok(())
        });
    }
}

fn assert_all_there(cluster: &Cluster, by: u8, rush: &Rush) {
    let mut api = cluster.api(by);
    for (key, value) in &rush.written {
        let answer = api.get(key, "QUORUM").unwrap();
        assert_eq!(answer.json()["value"], Value::from(value.as_str()), "{key}: {answer}");
    }
}

#[test]
fn three_times_more_than_a_cluster_takes_is_all_done_by_clients_that_come_back_when_told() {
    let mut cluster = Cluster::of(3).with_long_deadlines().set("overload.in_flight_max", &PLACES.to_string()).start();
    cluster.wait_settled(&[1, 2, 3], 3);
    rush(&cluster, &[1, 2, 3], "first");
    let before = [1, 2, 3].map(|number| cluster.node(number).resident_bytes());
    let written = rush(&cluster, &[1, 2, 3], "second");
    let after = [1, 2, 3].map(|number| cluster.node(number).resident_bytes());
    assert_calm(&cluster, &[1, 2, 3]);
    for (before, after) in before.into_iter().zip(after) {
        assert!(after < before + MEMORY_GROWTH_MAX, "{before} bytes of memory became {after}");
    }
    assert_all_there(&cluster, 1, &written);
}

#[test]
fn with_a_replica_that_stands_still_the_others_take_no_less_than_their_share_and_are_calm_again() {
    let mut cluster = Cluster::of(3).with_long_deadlines().set("overload.in_flight_max", &PLACES.to_string()).start();
    cluster.wait_settled(&[1, 2, 3], 3);
    cluster.signal(3, Signal::STOP);
    let written = rush(&cluster, &[1, 2], "stopped");
    assert_calm(&cluster, &[1, 2]);
    assert_all_there(&cluster, 2, &written);
    cluster.signal(3, Signal::CONT);
    cluster.wait_formed(&[1, 2, 3]);
    assert_calm(&cluster, &[1, 2, 3]);
    assert_all_there(&cluster, 3, &written);
}
