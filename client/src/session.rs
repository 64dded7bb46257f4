//! Many requests over one stream to each node, each answered when it is done.
//!
//! Requests that are at hand together travel together, and so do their answers, so that one costs a part of a call of its
//! own. A lane is one node's stream. It opens with the first request and again after it broke.
//!
//! Invariant: every request that was handed to a lane gets exactly one outcome. Those that never left this process, or
//! that stand without an answer when the node ends the stream in order, or with words of its own, were never begun; those
//! that stand without one when the stream breaks are unknown. Routing, retries and deadlines are those of every other
//! request.
//!
//! A message that is too long would end the stream for all that share it. So the node is told what this client takes, and
//! answers what is longer with an error; and what is longer than the node takes is not sent, once the node has said so.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cube_proto::v1::session_reply::Outcome;
use cube_proto::v1::session_request::Call;
use cube_proto::v1::{SessionReplies, SessionRequest, SessionRequests};
use futures::Stream;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tonic::{Code, Status, Streaming};

use crate::call::Via;
use crate::client::{Client, Inner};
use crate::error::Refusal;
use crate::failure;
use crate::node::Node;
use crate::operation::Operation;
use crate::retry::Failure;
use crate::table::Table;

/// Requests in one message at the most: enough to share its cost, few enough that the first does not wait for the last.
const REQUESTS_PER_MESSAGE_MAX: usize = 128;
/// Bytes of one message, unless a single request has more.
const BYTES_PER_MESSAGE_MAX: usize = 256 << 10;
/// What stands around a request in a message: its number, and lengths.
const REQUEST_OVERHEAD_BYTES: usize = 32;
/// What nodes say of a message that is longer than their limits let it be.
const TOO_LARGE: &str = "message_too_large";

/// A client whose requests share streams. Cheap to clone; clones share the streams, and the bound on what is in flight.
#[derive(Clone, Debug)]
pub struct Session {
    client: Client,
    lanes: Arc<Lanes>,
}

impl Session {
    pub(crate) fn new(client: Client, lanes: Lanes) -> Self {
        Self { client, lanes: Arc::new(lanes) }
    }

    /// The table that clients get when they name none.
    pub fn default_table(&self) -> Table {
        self.table(String::new(), String::new())
    }

    /// A table of a keyspace.
    pub fn table(&self, keyspace: impl Into<String>, table: impl Into<String>) -> Table {
        let via = Via::Session(Arc::clone(&self.lanes));
        Table::new(Arc::clone(self.client.inner()), self.client.clone(), via, keyspace.into(), table.into())
    }
}

/// The streams of one session, by the addresses of their nodes.
#[derive(Debug)]
pub(crate) struct Lanes {
    lanes: Mutex<HashMap<String, Arc<Lane>>>,
    room: Arc<Semaphore>,
    in_flight_max: usize,
}

impl Lanes {
    pub(crate) fn new(in_flight_max: usize) -> Self {
        let in_flight_max = in_flight_max.max(1);
        Self { lanes: Mutex::default(), room: Arc::new(Semaphore::new(in_flight_max)), in_flight_max }
    }
}

type Answered = oneshot::Sender<Result<Outcome, Failure>>;

/// A request on its way to a stream.
#[derive(Debug)]
struct Asked {
    call: Call,
    bytes: usize,
    answered: Answered,
}

/// One node's stream.
#[derive(Debug)]
pub(crate) struct Lane {
    sender: mpsc::Sender<Asked>,
    room: Arc<Semaphore>,
    bounds: Arc<Bounds>,
}

/// How long messages may be.
#[derive(Debug)]
struct Bounds {
    /// The longest that the node takes: unknown until it refused one, for as long as its streams end because of that.
    request_bytes_max: AtomicUsize,
    /// The longest that this client takes.
    answer_bytes_max: usize,
}

impl Bounds {
    fn new(request_bytes_max: usize, answer_bytes_max: usize) -> Arc<Self> {
        Arc::new(Self { request_bytes_max: AtomicUsize::new(request_bytes_max), answer_bytes_max })
    }

    fn request_bytes_max(&self) -> usize {
        self.request_bytes_max.load(Ordering::Relaxed)
    }

    /// Why a request is not sent, if it is longer than the node takes.
    fn check(&self, bytes: usize) -> Result<(), Failure> {
        let limit = self.request_bytes_max();
        if bytes <= limit {
            return Ok(());
        }
        let message = format!("the message is of {bytes} bytes, and {limit} are the most by the limits of the node");
        let refusal = Refusal::plain(TOO_LARGE, message);
        let (limit, status) = (u64::try_from(limit).ok(), Code::InvalidArgument as u32);
        Err(Failure::Refused(Box::new(Refusal { limit, status, ..refusal })))
    }
}

impl Lane {
    /// The lane to a node, opened if there is none or the last one broke.
    pub(crate) fn of(lanes: &Lanes, node: &Arc<Node>, inner: &Inner) -> Arc<Self> {
        let mut open = lock(&lanes.lanes);
        let last = open.get(&node.address);
        if let Some(lane) = last.filter(|lane| !lane.sender.is_closed()) {
            return Arc::clone(lane);
        }
        let known = last.map_or(usize::MAX, |lane| lane.bounds.request_bytes_max());
        let bounds = Bounds::new(known, inner.options.answer_bytes_max);
        let (sender, receiver) = mpsc::channel(lanes.in_flight_max);
        let lane = Arc::new(Self { sender, room: Arc::clone(&lanes.room), bounds: Arc::clone(&bounds) });
        tokio::spawn(run(Arc::clone(node), receiver, bounds));
        open.insert(node.address.clone(), Arc::clone(&lane));
        lane
    }

    pub(crate) async fn ask<O: Operation>(&self, op: O) -> Result<O::Reply, Failure> {
        let closed = || Failure::Unsent("the stream was closed before it could be sent".to_owned());
        let _room = self.room.acquire().await.map_err(|_| closed())?;
        let (answered, answer) = oneshot::channel();
        let call = op.call();
        let bytes = call.encoded_len() + REQUEST_OVERHEAD_BYTES;
        self.bounds.check(bytes)?;
        self.sender.send(Asked { call, bytes, answered }).await.map_err(|_| closed())?;
        match answer.await {
            Ok(Ok(outcome)) => O::reply(outcome),
            Ok(Err(failure)) => Err(failure),
            // Only the end of the whole process drops a request without a word.
            Err(_) => Err(Failure::Lost("the session ended".to_owned())),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Requests that were sent and have no answer yet, with their bytes, and one that goes with the next message.
#[derive(Debug, Default)]
struct Waiting {
    next_id: u64,
    answers: HashMap<u64, (Answered, usize)>,
    next: Option<Asked>,
}

impl Waiting {
    fn add(&mut self, answered: Answered, bytes: usize) -> u64 {
        self.next_id += 1;
        self.answers.insert(self.next_id, (answered, bytes));
        self.next_id
    }
}

fn fail(answered: Answered, failure: Failure) {
    // Whoever gave up waiting has its outcome already.
    answered.send(Err(failure)).unwrap_or_default();
}

/// Serves a lane until it breaks or nobody needs it, and gives every request its outcome.
async fn run(node: Arc<Node>, receiver: mpsc::Receiver<Asked>, bounds: Arc<Bounds>) {
    let waiting = Arc::new(Mutex::new(Waiting::default()));
    let receiver = Arc::new(tokio::sync::Mutex::new(receiver));
    let (ended, end_seen) = watch::channel(());
    let requests = outgoing(Arc::clone(&receiver), Arc::clone(&waiting), end_seen, Arc::clone(&bounds));
    let end = match node.kv().session(requests).await {
        Ok(replies) => incoming(replies.into_inner(), &waiting).await,
        Err(status) => end_by(&status, failure::of_status),
    };
    // A node that ends a stream for another reason may have other limits when it is back.
    bounds.request_bytes_max.store(too_large(&end).unwrap_or(usize::MAX), Ordering::Relaxed);
    // The connection may hold the sending half for a while yet: it is told to let go of the requests.
    drop(ended);
    let mut receiver = receiver.lock().await;
    receiver.close();
    let Waiting { answers, next, .. } = std::mem::take(&mut *lock(&waiting));
    for (answered, bytes) in answers.into_values() {
        fail(answered, what_it_means(&end, bytes));
    }
    if let Some(Asked { answered, .. }) = next {
        fail(answered, Failure::Unsent(end.reason()));
    }
    while let Some(Asked { answered, .. }) = receiver.recv().await {
        fail(answered, Failure::Unsent(end.reason()));
    }
}

/// Why a stream ended: a node that ends it with words of its own has answered all that it has read before.
fn end_by(status: &Status, otherwise: impl FnOnce(&Status) -> Failure) -> Failure {
    match failure::refusal(status) {
        Some(refusal) if !refusal.may_take_effect => Failure::Refused(Box::new(refusal)),
        _ => otherwise(status),
    }
}

/// The longest message that the node takes, if it ended the stream because one was longer.
fn too_large(end: &Failure) -> Option<usize> {
    match end {
        Failure::Refused(refusal) if refusal.code == TOO_LARGE => usize::try_from(refusal.limit?).ok(),
        _ => None,
    }
}

/// What the end of its stream means for a request without an answer. One that is too long is refused; others may go again.
fn what_it_means(end: &Failure, bytes: usize) -> Failure {
    match too_large(end) {
        Some(limit) if bytes <= limit => {
            Failure::Unsent("the session ended because another request was too long, before this was begun".to_owned())
        }
        _ => end.clone(),
    }
}

/// Takes answers until the stream ends, and says what that means for what has none.
async fn incoming(mut replies: Streaming<SessionReplies>, waiting: &Mutex<Waiting>) -> Failure {
    loop {
        match replies.message().await {
            Ok(Some(SessionReplies { replies })) => {
                let mut waiting = lock(waiting);
                for reply in replies {
                    let Some((answered, _)) = waiting.answers.remove(&reply.id) else { continue };
                    let outcome = match reply.outcome {
                        Some(Outcome::Error(error)) => Err(Failure::Refused(Box::new(Refusal::of(error)))),
                        Some(outcome) => Ok(outcome),
                        None => Err(Failure::Misunderstood("an answer without an outcome".to_owned())),
                    };
                    answered.send(outcome).unwrap_or_default();
                }
            }
            Ok(None) => return Failure::Unsent("the node ended the session, and never began this".to_owned()),
            // Whatever another one than the node says of the stream, it says nothing of the single requests.
            Err(status) => {
                let broke = |status: &Status| Failure::Lost(format!("the session broke: {}", status.message()));
                return end_by(&status, broke);
            }
        }
    }
}

type Requests = Arc<tokio::sync::Mutex<mpsc::Receiver<Asked>>>;

/// The requests as messages: all that are at hand when the connection has room for one more message.
fn outgoing(
    receiver: Requests,
    waiting: Arc<Mutex<Waiting>>,
    end: watch::Receiver<()>,
    bounds: Arc<Bounds>,
) -> impl Stream<Item = SessionRequests> + Send {
    futures::stream::unfold((receiver, waiting, end, bounds), async |(receiver, waiting, mut end, bounds)| {
        let requests = {
            let mut receiver = receiver.lock().await;
            let left = lock(&waiting).next.take_if(|_| end.has_changed().is_ok());
            let first = match left {
                Some(left) => left,
                None => tokio::select! {
                    biased;
                    // It never changes: it is dropped when the answers have ended.
                    _ = end.changed() => return None,
                    first = receiver.recv() => first?,
                },
            };
            let bytes_max = BYTES_PER_MESSAGE_MAX.min(bounds.request_bytes_max());
            let mut waiting = lock(&waiting);
            let mut message_bytes = 0;
            let mut requests = Vec::new();
            let mut next = Some(first);
            while let Some(Asked { call, bytes, answered }) = next {
                // One that is long goes alone: with others it might be longer than the node takes.
                if !requests.is_empty() && message_bytes + bytes > bytes_max {
                    waiting.next = Some(Asked { call, bytes, answered });
                    break;
                }
                // One whose caller has given up is not sent at all.
                if !answered.is_closed() {
                    message_bytes += bytes;
                    requests.push(SessionRequest { id: waiting.add(answered, bytes), call: Some(call) });
                }
                let is_full = requests.len() >= REQUESTS_PER_MESSAGE_MAX || message_bytes >= bytes_max;
                next = if is_full { None } else { receiver.try_recv().ok() };
            }
            requests
        };
        let answer_bytes_max = u64::try_from(bounds.answer_bytes_max).unwrap_or(u64::MAX);
        Some((SessionRequests { requests, answer_bytes_max }, (receiver, waiting, end, bounds)))
    })
}
