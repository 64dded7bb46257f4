//! Nodes that talk over loopback, each with a runtime of its own, so that ending one ends it like a process.

mod calls;
mod conformance;
mod faults;
mod frames;
mod handshake;
mod lanes;
mod load;
mod proxy;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use cube_replication::messages::{
    Features, PROTOCOL, ReadRows, Refusal, Reply, ReplyBody, Request, RequestBody, ScanTable, Stamp, Want, WriteRows,
};
use cube_replication::replica::OnAnswer;
use cube_replication::transport::{Lane, OnReply, PeerError, PeerTransport, Serve};
use cube_storage::clock::{Clock, SystemClock};
use cube_storage::model::{Epoch, Hlc, Mutation, NodeId, Origin, Record, RowKey, TableId, Version};
use parking_lot::Mutex;
use rand::SeedableRng;
use rand_xoshiro::Xoshiro256StarStar;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::identity::{ClusterId, InstanceId};

const ONE: NodeId = NodeId(1);
const TWO: NodeId = NodeId(2);
const THREE: NodeId = NodeId(3);
/// Longer than anything here takes on a machine that is busy with other things.
const PATIENCE_MS: u64 = 60_000;
const AMPLE_MS: u32 = 60_000;

/// Waits until something holds.
#[expect(clippy::disallowed_methods, reason = "real sockets live in real time")]
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let clock = SystemClock::new(0);
    while !holds() {
        assert!(clock.monotonic_ms() < PATIENCE_MS, "it never happened: {what}");
        thread::park_timeout(Duration::from_millis(1));
    }
}

fn runtime(threads: usize) -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build().unwrap()
}

/// Short times, so that what is retried is retried soon.
fn settings() -> PeerSettings {
    PeerSettings {
        ping_interval_ms: 20,
        backoff_first_ms: 5,
        backoff_longest_ms: 50,
        connect_timeout_ms: 10_000,
        handshake_timeout_ms: 10_000,
        drain_timeout_ms: 30_000,
        ..PeerSettings::default()
    }
}

fn identity(node: NodeId) -> PeerIdentity {
    PeerIdentity::of_this_build(ClusterId(7), node, format!("node-{}", node.0), InstanceId(node.0.into()))
}

fn anybody() -> CheckPeer {
    Arc::new(|_| Ok(()))
}

/// Tells nobody of the peers that connect.
fn nobody() -> OnPeer {
    Arc::new(|_| {})
}

/// Where nodes are: kept by hand.
#[derive(Default)]
struct Book(Mutex<BTreeMap<NodeId, String>>);

impl Book {
    fn put(&self, node: NodeId, address: impl Into<String>) {
        self.0.lock().insert(node, address.into());
    }
}

impl AddressBook for Book {
    fn peer_address(&self, node: NodeId) -> Option<String> {
        self.0.lock().get(&node).cloned()
    }

    fn peer_name(&self, node: NodeId) -> Option<String> {
        Some(format!("node-{}", node.0))
    }
}

/// A clock that stands still until it is moved.
#[derive(Default)]
struct ManualClock(AtomicU64);

impl ManualClock {
    fn advance(&self, ms: u64) {
        self.0.fetch_add(ms, Ordering::Relaxed);
    }
}

impl Clock for ManualClock {
    fn wall_ms(&self) -> u64 {
        self.monotonic_ms()
    }

    fn monotonic_ms(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Refuses every call.
struct NoCalls;

#[async_trait::async_trait]
impl Calls for NoCalls {
    async fn call(&self, _: Option<PeerIdentity>, kind: u32, _: Bytes) -> Result<Bytes, CallRefused> {
        Err(CallRefused::UnknownKind(kind.to_string()))
    }
}

/// A process that serves its peers.
struct Process {
    server: PeerServer,
    address: String,
    stop: CancellationToken,
    runtime: Option<Runtime>,
}

impl Process {
    /// One that is no member yet.
    fn listening(settings: PeerSettings, clock: Arc<dyn Clock>, calls: Arc<dyn Calls>) -> Self {
        Self::listening_at("127.0.0.1:0", settings, clock, calls)
    }

    fn listening_at(at: &str, settings: PeerSettings, clock: Arc<dyn Clock>, calls: Arc<dyn Calls>) -> Self {
        let runtime = runtime(1);
        let listener = runtime.block_on(TcpListener::bind(at)).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server = PeerServer::new(PeerServiceParts { calls, clock, settings });
        let stop = CancellationToken::new();
        let (serving, stopping) = (server.clone(), stop.clone());
        runtime.spawn(async move { serving.run(listener, stopping).await });
        Self { server, address, stop, runtime: Some(runtime) }
    }

    fn member(identity: PeerIdentity, serve: Arc<dyn Serve>) -> Self {
        let process = Self::listening(settings(), Arc::new(SystemClock::new(0)), Arc::new(NoCalls));
        process.server.open(Membership { identity, check: anybody(), serve, met: nobody() }).unwrap();
        process
    }

    /// Ends like a process that is killed: its sockets close.
    fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

/// The asking side of a node, with its runtime.
struct Asker {
    transport: Arc<GrpcTransport>,
    book: Arc<Book>,
    pings: Arc<Mutex<Vec<PingSample>>>,
    /// Ends last.
    runtime: Option<Runtime>,
}

impl Drop for Asker {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Asker {
    fn new(settings: PeerSettings) -> Self {
        Self::of(identity(ONE), anybody(), settings, Arc::new(SystemClock::new(0)))
    }

    fn of(identity: PeerIdentity, check: CheckPeer, settings: PeerSettings, clock: Arc<dyn Clock>) -> Self {
        let (book, pings) = (Arc::new(Book::default()), Arc::new(Mutex::new(Vec::new())));
        let (runtime, heard) = (runtime(1), Arc::clone(&pings));
        let transport = GrpcTransport::new(GrpcTransportParts {
            identity,
            check,
            addresses: book.clone(),
            clock,
            random: Box::new(Xoshiro256StarStar::seed_from_u64(1)),
            on_ping: Arc::new(move |sample| heard.lock().push(sample)),
            runtime: runtime.handle().clone(),
            settings,
        });
        Self { transport: Arc::new(transport), book, pings, runtime: Some(runtime) }
    }

    fn lane(&self, node: NodeId, lane: Lane) -> Option<LaneStatus> {
        let peer = self.transport.status().into_iter().find(|peer| peer.node == node)?;
        Some(match lane {
            Lane::Foreground => peer.foreground,
            Lane::Background => peer.background,
        })
    }

    fn is_connected(&self, node: NodeId) -> bool {
        [Lane::Foreground, Lane::Background]
            .into_iter()
            .all(|lane| self.lane(node, lane).is_some_and(|status| status.connection.is_some()))
    }

    fn connect(&self, node: NodeId) {
        self.transport.wake(node);
        eventually("a connection", || self.is_connected(node));
    }

    fn last_error(&self, node: NodeId) -> String {
        self.lane(node, Lane::Foreground).and_then(|status| status.last_error).unwrap_or_default()
    }

    fn send(&self, to: NodeId, lane: Lane, request: Request) -> Told {
        let told = Told::default();
        self.transport.send(to, lane, request, told.note());
        told
    }

    /// Asks until it is answered.
    fn ask_until_answered(&self, to: NodeId) {
        eventually("an answer", || self.send(to, Lane::Foreground, request(1, 2_000)).wait().is_ok());
    }
}

/// What a request was told, however often.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<Result<Reply, PeerError>>>>);

impl Told {
    fn note(&self) -> OnReply {
        let told = Arc::clone(&self.0);
        Box::new(move |result| told.lock().push(result))
    }

    fn is_told(&self) -> bool {
        !self.0.lock().is_empty()
    }

    fn wait(&self) -> Result<Reply, PeerError> {
        eventually("a request is told", || self.is_told());
        self.now()
    }

    fn now(&self) -> Result<Reply, PeerError> {
        let told = self.0.lock();
        assert_eq!(told.len(), 1, "told once");
        told[0].clone()
    }
}

/// A small request with a number.
fn request(number: u64, time_left_ms: u32) -> Request {
    let rows = vec![(RowKey::of("small"), Epoch(number))];
    let read = ReadRows { table: TableId(1), rows, want: Want::Header };
    request_of(RequestBody::Read(read), number, time_left_ms)
}

/// A write of so many bytes.
fn write_of(bytes: usize, time_left_ms: u32) -> Request {
    let record = Record::value(Version::new(Hlc(1), ONE), vec![b'x'; bytes]);
    let mutation = Mutation { table: TableId(1), key: RowKey::of("large"), record, claim: None };
    let write =
        WriteRows { origin: Origin::Client, mutations: vec![mutation], stamp: Stamp::New, seen: None, condition: None };
    request_of(RequestBody::Write(write), 1, time_left_ms)
}

fn request_of(body: RequestBody, number: u64, time_left_ms: u32) -> Request {
    let features = Features::default();
    Request {
        protocol: PROTOCOL,
        features,
        from: ONE,
        clock: Hlc(number),
        time_left_ms,
        explain: false,
        trace: None,
        body,
    }
}

fn reply_to(request: &Request) -> Reply {
    Reply { from: TWO, clock: request.clock, body: Ok(ReplyBody::Rows(Vec::new())) }
}

/// Answers at once, and counts.
#[derive(Default)]
struct Echo {
    heard: AtomicU64,
}

impl Serve for Echo {
    fn serve(&self, request: Request, answer: OnAnswer) {
        self.heard.fetch_add(1, Ordering::Relaxed);
        answer(reply_to(&request));
    }
}

/// Keeps what it is asked until it is told to answer.
#[derive(Default)]
struct Hoard(Mutex<Vec<(Request, OnAnswer)>>);

impl Hoard {
    fn len(&self) -> usize {
        self.0.lock().len()
    }

    /// Answers everything, the last first.
    fn answer_all(&self) {
        let asked = std::mem::take(&mut *self.0.lock());
        for (request, answer) in asked.into_iter().rev() {
            answer(reply_to(&request));
        }
    }
}

impl Serve for Hoard {
    fn serve(&self, request: Request, answer: OnAnswer) {
        self.0.lock().push((request, answer));
    }
}
