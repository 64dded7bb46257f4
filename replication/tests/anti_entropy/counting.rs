//! A transport that counts the rows which go over it, so that nobody has to be believed about them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cube_replication::anti_entropy::questions::Answer;
use cube_replication::messages::{Reply, ReplyBody, Request, RequestBody};
use cube_replication::transport::{Lane, OnReply, PeerError, PeerTransport};
use cube_storage::model::NodeId;

/// What went from node to node.
#[derive(Debug, Default)]
pub(crate) struct Exchanged {
    rows: AtomicU64,
}

impl Exchanged {
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
    fn send(&self, to: NodeId, lane: Lane, request: Request, reply: OnReply) {
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
