//! The seam to other nodes: typed requests out, one reply or failure back.
//!
//! Implementations batch many requests into a frame, keep foreground and background apart, and reconnect; what they
//! promise is little: [`PeerTransport::send`] returns at once, its queue is bounded and refuses early, and `reply` is
//! told exactly once, at the latest when the request's time is over. A failure says nothing of whether the request was
//! carried out, except where it says so. One conformance suite (`conformance.rs`) runs on all of them.

#[cfg(any(test, feature = "sim"))]
pub mod conformance;
mod in_process;

use cube_storage::model::{Hlc, NodeId};
use thiserror::Error;

pub use self::in_process::{Delivery, InProcess};
use crate::codec::CodecError;
use crate::messages::{Refusal, Reply, Request};
use crate::replica::{OnAnswer, Replica};

/// Which queue a request waits in: repair never waits in front of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// A client waits for it.
    Foreground,
    /// Hints, repair, streams.
    Background,
}

/// Told once what became of a request.
pub type OnReply = Box<dyn FnOnce(Result<Reply, PeerError>) + Send>;

/// Why a peer gave no reply.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PeerError {
    /// It was never sent: there is no connection, and none is to be had right now.
    #[error("{peer} cannot be reached")]
    Unreachable {
        /// The peer.
        peer: NodeId,
    },
    /// It was never sent: too much is waiting for this peer already.
    #[error("too many requests wait for {peer} ({waiting}, the limit is {limit})")]
    QueueFull {
        /// The peer.
        peer: NodeId,
        /// Requests that wait.
        waiting: usize,
        /// Requests that may wait.
        limit: usize,
    },
    /// It was sent, and the connection broke. It may or may not have been carried out.
    #[error("the connection to {peer} broke before it answered")]
    Broken {
        /// The peer.
        peer: NodeId,
    },
    /// Its time is over. It may or may not have been carried out.
    #[error("{peer} did not answer in time")]
    TimedOut {
        /// The peer.
        peer: NodeId,
    },
}

/// The way to other nodes.
pub trait PeerTransport: Send + Sync {
    /// Sends a request. Returns at once.
    fn send(&self, to: NodeId, lane: Lane, request: Request, reply: OnReply);
}

/// What a sender is told of a request that cannot be sent at all, such as one that is longer than a message may be: no
/// peer is to blame, and no other one would get it either.
pub(crate) fn unsent(me: NodeId, clock: Hlc, error: &CodecError) -> Reply {
    Reply { from: me, clock, body: Err(Refusal::Invalid(error.to_string())) }
}

/// The other end: who carries requests out that arrive at a node.
pub trait Serve: Send + Sync {
    /// Carries a request out and tells the answer once, now or later.
    fn serve(&self, request: Request, answer: OnAnswer);

    /// Carries out what needs not wait for a disk. What may have to comes back, undone.
    fn serve_at_once(&self, request: Request, answer: OnAnswer) -> Option<(Request, OnAnswer)> {
        Some((request, answer))
    }
}

impl Serve for Replica {
    fn serve(&self, request: Request, answer: OnAnswer) {
        self.handle(request, answer);
    }

    fn serve_at_once(&self, request: Request, answer: OnAnswer) -> Option<(Request, OnAnswer)> {
        self.handle_at_once(request, answer)
    }
}
