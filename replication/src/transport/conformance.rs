//! What every transport promises, as laws that run on each of them: in process, simulated, over gRPC.
//!
//! An implementation brings a [`Harness`]: how a network is made, how time passes on it. [`check`] runs every law on a
//! fresh network and says which one is broken. Two nodes talk; the third hears everything and never answers.

mod laws;

use std::collections::BTreeMap;
use std::sync::Arc;

use cube_storage::model::{Epoch, Hlc, NodeId, RowKey, TableId};
use parking_lot::Mutex;

use super::{Lane, OnReply, PeerError, PeerTransport, Serve};
use crate::messages::{Features, PROTOCOL, ReadRows, Reply, ReplyBody, Request, RequestBody, Want};
use crate::replica::OnAnswer;

/// A network to be tested.
pub trait Harness {
    /// Connects a node, or connects it again: `service` gets what is sent to it.
    fn connect(&mut self, node: NodeId, service: Arc<dyn Serve>);

    /// The end from which a node sends.
    fn transport(&mut self, node: NodeId) -> Arc<dyn PeerTransport>;

    /// Cuts a node off: those that send to it notice.
    fn disconnect(&mut self, node: NodeId);

    /// Lets this much time pass: what is under way arrives, and what is overdue ends.
    fn pass_ms(&mut self, ms: u64);

    /// How many requests of a lane may wait for one peer.
    fn waiting_max(&self) -> usize;
}

/// A law that does not hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{law}: {detail}")]
pub struct Broken {
    /// The law.
    pub law: &'static str,
    /// What happened instead.
    pub detail: String,
}

/// Runs every law, each on a network of its own.
pub fn check<H: Harness>(mut network: impl FnMut() -> H) -> Result<(), Broken> {
    laws::all().into_iter().try_for_each(|(law, run)| {
        let mut bench = Bench::on(network());
        run(&mut bench).map_err(|detail| Broken { law, detail })
    })
}

const SENDER: NodeId = NodeId(1);
const ECHO: NodeId = NodeId(2);
const SILENT: NodeId = NodeId(3);
const STRANGER: NodeId = NodeId(9);

/// Long enough for a message to get there and back on any network.
const ROUND_TRIP_MS: u64 = 200;
/// The time of a request that is to be answered.
const AMPLE_MS: u32 = 2_000;
/// How late a request may be told that its time is over.
const LATE_MS: u64 = 200;

type Told = Arc<Mutex<BTreeMap<u64, Vec<Result<Reply, PeerError>>>>>;

/// Three nodes on a network, and what came of the requests of the first, by their numbers.
struct Bench<H> {
    network: H,
    transport: Arc<dyn PeerTransport>,
    silent: Arc<Hoard>,
    echo: Arc<Echo>,
    told: Told,
}

impl<H: Harness> Bench<H> {
    fn on(mut network: H) -> Self {
        let (echo, silent) = (Arc::new(Echo::default()), Arc::new(Hoard::default()));
        network.connect(SENDER, Arc::new(Echo::default()));
        network.connect(ECHO, echo.clone());
        network.connect(SILENT, silent.clone());
        let transport = network.transport(SENDER);
        Self { network, transport, silent, echo, told: Told::default() }
    }

    /// Sends a numbered request.
    fn send(&self, to: NodeId, lane: Lane, number: u64, time_left_ms: u32) {
        self.transport.send(to, lane, request(number, time_left_ms), self.note(number));
    }

    /// Notes what a request is told.
    fn note(&self, number: u64) -> OnReply {
        let told = Arc::clone(&self.told);
        Box::new(move |result| told.lock().entry(number).or_default().push(result))
    }

    /// What came of a request so far; an error if it was told more than once.
    fn told(&self, number: u64) -> Result<Option<Result<Reply, PeerError>>, String> {
        match self.told.lock().get(&number).map(Vec::as_slice) {
            None | Some([]) => Ok(None),
            Some([once]) => Ok(Some(once.clone())),
            Some(more) => Err(format!("request {number} was told {} times: {more:?}", more.len())),
        }
    }

    /// The number that a request was answered with.
    fn answered(&self, number: u64) -> Result<u64, String> {
        match self.told(number)? {
            Some(Ok(Reply { clock, .. })) => Ok(clock.0),
            other => Err(format!("request {number} was to be answered, and was told {other:?}")),
        }
    }

    /// The error that a request ended with.
    fn failed(&self, number: u64) -> Result<PeerError, String> {
        match self.told(number)? {
            Some(Err(error)) => Ok(error),
            other => Err(format!("request {number} was to fail, and was told {other:?}")),
        }
    }
}

/// Answers with the number it was asked with.
#[derive(Default)]
struct Echo {
    heard: Mutex<Vec<Request>>,
}

impl Serve for Echo {
    fn serve(&self, request: Request, answer: OnAnswer) {
        let reply = reply_to(ECHO, &request);
        self.heard.lock().push(request);
        answer(reply);
    }
}

/// Keeps what it was asked, and answers when it is told to.
#[derive(Default)]
struct Hoard {
    asked: Mutex<Vec<(Request, OnAnswer)>>,
}

impl Hoard {
    /// Answers everything, the last first.
    fn answer_all(&self) {
        let asked = std::mem::take(&mut *self.asked.lock());
        for (request, answer) in asked.into_iter().rev() {
            answer(reply_to(SILENT, &request));
        }
    }
}

impl Serve for Hoard {
    fn serve(&self, request: Request, answer: OnAnswer) {
        self.asked.lock().push((request, answer));
    }
}

/// A request with a number that its reply repeats.
fn request(number: u64, time_left_ms: u32) -> Request {
    let rows = vec![(RowKey::of("key"), Epoch(number))];
    Request {
        protocol: PROTOCOL,
        features: Features(5),
        from: SENDER,
        clock: Hlc(number),
        time_left_ms,
        explain: true,
        trace: None,
        body: RequestBody::Read(ReadRows { table: TableId(7), rows, want: Want::Header }),
    }
}

fn reply_to(from: NodeId, request: &Request) -> Reply {
    Reply { from, clock: request.clock, body: Ok(ReplyBody::Rows(Vec::new())) }
}
