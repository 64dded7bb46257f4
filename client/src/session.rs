//! Many requests over one stream to each node, each answered when it is done.
//!
//! Requests that are at hand together travel together, and so do their answers, so that one costs a part of a call of its
//! own. A lane is one node's stream. It opens with the first request and again after it broke.
//!
//! Invariant: every request that was handed to a lane gets exactly one outcome. Those that never left this process, or
//! that stand without an answer when the node ends the stream in order, were never begun; those that stand without one
//! when the stream breaks are unknown. Routing, retries and deadlines are those of every other request.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cube_proto::v1::session_reply::Outcome;
use cube_proto::v1::session_request::Call;
use cube_proto::v1::{SessionReplies, SessionRequest, SessionRequests};
use futures::Stream;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tonic::Streaming;

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
/// Keys and values in one message, unless a single request has more.
const BYTES_PER_MESSAGE_MAX: usize = 256 << 10;

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

/// One node's stream.
#[derive(Debug)]
pub(crate) struct Lane {
    sender: mpsc::Sender<(Call, Answered)>,
    room: Arc<Semaphore>,
}

impl Lane {
    /// The lane to a node, opened if there is none or the last one broke.
    pub(crate) fn of(lanes: &Lanes, node: &Arc<Node>, inner: &Inner) -> Arc<Self> {
        let mut open = lock(&lanes.lanes);
        if let Some(lane) = open.get(&node.address).filter(|lane| !lane.sender.is_closed()) {
            return Arc::clone(lane);
        }
        let (sender, receiver) = mpsc::channel(lanes.in_flight_max);
        let lane = Arc::new(Self { sender, room: Arc::clone(&lanes.room) });
        tokio::spawn(run(Arc::clone(node), receiver, inner.options.answer_bytes_max));
        open.insert(node.address.clone(), Arc::clone(&lane));
        lane
    }

    pub(crate) async fn ask<O: Operation>(&self, op: O) -> Result<O::Reply, Failure> {
        let closed = || Failure::Unsent("the stream was closed before it could be sent".to_owned());
        let _room = self.room.acquire().await.map_err(|_| closed())?;
        let (answered, answer) = oneshot::channel();
        self.sender.send((op.call(), answered)).await.map_err(|_| closed())?;
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

/// Requests that were sent and have no answer yet.
#[derive(Debug, Default)]
struct Waiting {
    next_id: u64,
    answers: HashMap<u64, Answered>,
}

impl Waiting {
    fn add(&mut self, answered: Answered) -> u64 {
        self.next_id += 1;
        self.answers.insert(self.next_id, answered);
        self.next_id
    }
}

fn fail(answered: Answered, failure: Failure) {
    // Whoever gave up waiting has its outcome already.
    answered.send(Err(failure)).unwrap_or_default();
}

/// Serves a lane until it breaks or nobody needs it, and gives every request its outcome.
async fn run(node: Arc<Node>, receiver: mpsc::Receiver<(Call, Answered)>, answer_bytes_max: usize) {
    let waiting = Arc::new(Mutex::new(Waiting::default()));
    let receiver = Arc::new(tokio::sync::Mutex::new(receiver));
    let (ended, end_seen) = watch::channel(());
    let requests = outgoing(Arc::clone(&receiver), Arc::clone(&waiting), end_seen);
    let mut kv = node.kv().max_decoding_message_size(answer_bytes_max);
    let end = match kv.session(requests).await {
        Ok(replies) => incoming(replies.into_inner(), &waiting).await,
        Err(status) => failure::of_status(&status),
    };
    // The connection may hold the sending half for a while yet: it is told to let go of the requests.
    drop(ended);
    let mut receiver = receiver.lock().await;
    receiver.close();
    for (_, answered) in std::mem::take(&mut lock(&waiting).answers) {
        fail(answered, end.clone());
    }
    while let Some((_, answered)) = receiver.recv().await {
        fail(answered, Failure::Unsent(end.reason()));
    }
}

/// Takes answers until the stream ends, and says what that means for what has none.
async fn incoming(mut replies: Streaming<SessionReplies>, waiting: &Mutex<Waiting>) -> Failure {
    loop {
        match replies.message().await {
            Ok(Some(SessionReplies { replies })) => {
                let mut waiting = lock(waiting);
                for reply in replies {
                    let Some(answered) = waiting.answers.remove(&reply.id) else { continue };
                    let outcome = match reply.outcome {
                        Some(Outcome::Error(error)) => Err(Failure::Refused(Box::new(Refusal::of(error)))),
                        Some(outcome) => Ok(outcome),
                        None => Err(Failure::Misunderstood("an answer without an outcome".to_owned())),
                    };
                    answered.send(outcome).unwrap_or_default();
                }
            }
            Ok(None) => return Failure::Unsent("the node ended the session, and never began this".to_owned()),
            // Whatever the status says of the stream, it says nothing of the single requests.
            Err(status) => return Failure::Lost(format!("the session broke: {}", status.message())),
        }
    }
}

type Requests = Arc<tokio::sync::Mutex<mpsc::Receiver<(Call, Answered)>>>;

/// The requests as messages: all that are at hand when the connection has room for one more message.
fn outgoing(
    receiver: Requests,
    waiting: Arc<Mutex<Waiting>>,
    end: watch::Receiver<()>,
) -> impl Stream<Item = SessionRequests> + Send {
    futures::stream::unfold((receiver, waiting, end), async |(receiver, waiting, mut end)| {
        let requests = {
            let mut receiver = receiver.lock().await;
            let first = tokio::select! {
                biased;
                // It never changes: it is dropped when the answers have ended.
                _ = end.changed() => return None,
                first = receiver.recv() => first?,
            };
            let mut waiting = lock(&waiting);
            let mut bytes = 0;
            let mut requests = Vec::new();
            let mut next = Some(first);
            while let Some((call, answered)) = next {
                bytes += size(&call);
                // One whose caller has given up is not sent at all.
                if !answered.is_closed() {
                    requests.push(SessionRequest { id: waiting.add(answered), call: Some(call) });
                }
                let is_full = requests.len() >= REQUESTS_PER_MESSAGE_MAX || bytes >= BYTES_PER_MESSAGE_MAX;
                next = if is_full { None } else { receiver.try_recv().ok() };
            }
            requests
        };
        Some((SessionRequests { requests }, (receiver, waiting, end)))
    })
}

/// About how many bytes a request takes.
fn size(call: &Call) -> usize {
    match call {
        Call::Put(put) => put.value.len(),
        Call::BatchPut(batch) => batch.rows.iter().map(|row| row.value.len()).sum(),
        _ => 0,
    }
}
