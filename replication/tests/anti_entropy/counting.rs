//! A transport that counts the rows which go over it, so that nobody has to be believed about them, and on which a node may
//! be of another release.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};

use cube_replication::anti_entropy::questions::Answer;
use cube_replication::messages::{Features, PROTOCOL, Refusal, Reply, ReplyBody, Request, RequestBody};
use cube_replication::transport::{Lane, OnReply, PeerError, PeerTransport};
use cube_storage::model::NodeId;
use parking_lot::Mutex;

/// What went from node to node.
#[derive(Debug)]
pub(crate) struct Exchanged {
    rows: AtomicU64,
    /// Who is spoken to in a newer protocol than it knows.
    behind: AtomicU16,
    /// Who has not announced all features, and those that it has.
    lacking: Mutex<Option<(NodeId, Features)>>,
}

impl Default for Exchanged {
    fn default() -> Self {
        Self { rows: AtomicU64::new(0), behind: AtomicU16::new(u16::MAX), lacking: Mutex::default() }
    }
}

impl Exchanged {
    /// From now on a node knows only an older protocol than all others speak.
    pub(crate) fn leave_behind(&self, node: NodeId) {
        self.behind.store(node.0, Ordering::Relaxed);
    }

    /// From now on a node has announced only these features, and is sent nothing that needs others.
    pub(crate) fn announce(&self, node: NodeId, features: Features) {
        *self.lacking.lock() = Some((node, features));
    }

    /// Rows that were sent to a node, or that one fetched.
    pub(crate) fn rows(&self) -> u64 {
        self.rows.load(Ordering::Relaxed)
    }
}

pub(crate) struct Counting {
    inner: Arc<dyn PeerTransport>,
    exchanged: Arc<Exchanged>,
}

impl Counting {
    pub(crate) fn new(inner: Arc<dyn PeerTransport>, exchanged: Arc<Exchanged>) -> Self {
        Self { inner, exchanged }
    }
}

impl PeerTransport for Counting {
    fn send(&self, to: NodeId, lane: Lane, mut request: Request, reply: OnReply) {
        if to.0 == self.exchanged.behind.load(Ordering::Relaxed) {
            request.protocol = PROTOCOL + 1;
        }
        let lacking = self.exchanged.lacking.lock().filter(|(node, _)| *node == to);
        if let Some(lacking) = lacking.and_then(|(_, announced)| announced.lacks(request.body.needs())) {
            // What the transport between nodes does.
            let body = Err(Refusal::Unsupported(lacking.to_string()));
            return reply(Ok(Reply { from: to, clock: request.clock, body }));
        }
        if let RequestBody::Write(write) = &request.body {
            self.exchanged.rows.fetch_add(write.mutations.len() as u64, Ordering::Relaxed);
        }
        let exchanged = Arc::clone(&self.exchanged);
        let counted = move |told: Result<Reply, PeerError>| {
            if let Ok(Reply { body: Ok(ReplyBody::AntiEntropy(told)), .. }) = &told
                && let Answer::Rows(held) = &**told
            {
                let rows = held.iter().filter(|held| held.record.is_some()).count();
                exchanged.rows.fetch_add(rows as u64, Ordering::Relaxed);
            }
            reply(told);
        };
        self.inner.send(to, lane, request, Box::new(counted));
    }
}
