//! The common laws on this transport, both ways of delivering, and what only it promises.

use std::sync::atomic::{AtomicU64, Ordering};

use cube_storage::model::{Hlc, TableId};

use super::*;
use crate::messages::{Features, PROTOCOL, ReadRows, ReplyBody, RequestBody, Want};
use crate::replica::OnAnswer;
use crate::transport::conformance::{self, Harness};

#[derive(Default)]
struct ManualClock(AtomicU64);

impl Clock for ManualClock {
    fn wall_ms(&self) -> u64 {
        self.monotonic_ms()
    }

    fn monotonic_ms(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

struct InMemory {
    clock: Arc<ManualClock>,
    network: InProcess,
}

const WAITING_MAX: usize = 30;

fn network(delivery: Delivery) -> InMemory {
    let clock = Arc::new(ManualClock::default());
    InMemory { clock: clock.clone(), network: InProcess::new(clock, delivery, WAITING_MAX) }
}

impl Harness for InMemory {
    fn connect(&mut self, node: NodeId, service: Arc<dyn Serve>) {
        self.network.connect(node, service);
    }

    fn transport(&mut self, node: NodeId) -> Arc<dyn PeerTransport> {
        self.network.transport(node)
    }

    fn disconnect(&mut self, node: NodeId) {
        self.network.disconnect(node);
    }

    fn pass_ms(&mut self, ms: u64) {
        while self.network.deliver() > 0 {}
        self.clock.0.fetch_add(ms, Ordering::Relaxed);
        while self.network.deliver() > 0 {}
    }

    fn waiting_max(&self) -> usize {
        WAITING_MAX
    }
}

#[test]
fn it_keeps_the_promises_of_a_transport_when_it_is_pumped() {
    assert_eq!(conformance::check(|| network(Delivery::Pumped)), Ok(()));
}

#[test]
fn it_keeps_the_promises_of_a_transport_when_it_delivers_at_once() {
    assert_eq!(conformance::check(|| network(Delivery::Immediate)), Ok(()));
}

fn request(number: u64) -> Request {
    Request {
        protocol: PROTOCOL,
        features: Features::default(),
        from: NodeId(1),
        clock: Hlc(number),
        time_left_ms: 1_000,
        explain: false,
        trace: None,
        body: RequestBody::Read(ReadRows { table: TableId(1), rows: Vec::new(), want: Want::Header }),
    }
}

/// Remembers the order of what it is asked.
#[derive(Default)]
struct Order(Mutex<Vec<u64>>);

impl Serve for Order {
    fn serve(&self, request: Request, answer: OnAnswer) {
        self.0.lock().push(request.clock.0);
        answer(Reply { from: NodeId(2), clock: Hlc(0), body: Ok(ReplyBody::Rows(Vec::new())) });
    }
}

#[test]
fn a_clients_request_overtakes_repair_that_waits() {
    let InMemory { network, .. } = network(Delivery::Pumped);
    let order = Arc::new(Order::default());
    network.connect(NodeId(1), order.clone());
    network.connect(NodeId(2), order.clone());
    let transport = network.transport(NodeId(1));
    for (number, lane) in [(1, Lane::Background), (2, Lane::Background), (3, Lane::Foreground)] {
        transport.send(NodeId(2), lane, request(number), Box::new(|_| {}));
    }
    while network.deliver() > 0 {}
    assert_eq!(*order.0.lock(), [3, 1, 2]);
    assert_eq!(network.pending(), 0);
}

#[test]
fn a_request_that_was_never_delivered_is_told_so_when_its_peer_is_cut_off() {
    let InMemory { network, .. } = network(Delivery::Pumped);
    let order = Arc::new(Order::default());
    network.connect(NodeId(1), order.clone());
    network.connect(NodeId(2), order.clone());
    let told = Arc::new(Mutex::new(None));
    let teller = told.clone();
    let reply: OnReply = Box::new(move |result| *teller.lock() = Some(result));
    network.transport(NodeId(1)).send(NodeId(2), Lane::Foreground, request(1), reply);
    network.disconnect(NodeId(2));
    assert_eq!(told.lock().take(), Some(Err(PeerError::Unreachable { peer: NodeId(2) })));
    network.connect(NodeId(2), order.clone());
    while network.deliver() > 0 {}
    assert!(order.0.lock().is_empty(), "it was carried out after all");
}

#[test]
fn work_past_its_deadline_is_dropped_and_not_done() {
    let InMemory { network, clock } = network(Delivery::Pumped);
    let order = Arc::new(Order::default());
    network.connect(NodeId(1), order.clone());
    network.connect(NodeId(2), order.clone());
    network.transport(NodeId(1)).send(NodeId(2), Lane::Foreground, request(1), Box::new(|_| {}));
    clock.0.store(1_000, Ordering::Relaxed);
    while network.deliver() > 0 {}
    assert!(order.0.lock().is_empty());
    assert_eq!(network.pending(), 0);
}
