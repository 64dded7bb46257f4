//! Reads the requests of one lane and has them carried out.
//!
//! One task for each connection, none for a request. The foreground is served on this task, since a hop to another
//! thread costs more than most of its work; after a bounded number of requests others get their turn. The background
//! is served on the blocking pool, a few frames at a time over all peers. A request whose time is over when its turn
//! comes is dropped, not done.

use std::sync::Arc;
use std::vec;

use cube_proto::peer::v1 as wire;
use cube_replication::codec;
use cube_replication::messages::{Refusal, Reply, Request};
use cube_replication::transport::{Lane, Serve};
use cube_storage::clock::Clock;
use cube_storage::model::{Hlc, NodeId};
use tokio::sync::Semaphore;
use tonic::Streaming;

use super::conversation::Conversation;

/// Requests served in a row before other tasks of the thread get their turn: at 100 us each, what a read from disk may
/// take, they wait 2 ms.
const INLINE_MAX: usize = 16;
/// When a peer that asks too much may try again.
const RETRY_AFTER_MS: u32 = 50;

/// What serving needs.
pub(super) struct Serving {
    pub(super) me: NodeId,
    pub(super) serve: Arc<dyn Serve>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) background: Arc<Semaphore>,
}

/// The requests of a frame that were not looked at yet.
struct Batch {
    messages: vec::IntoIter<wire::Message>,
    received_ms: u64,
}

/// Ends the conversation when its reader ends for a reason other than that all was asked.
struct Closer(Option<Arc<Conversation>>);

impl Drop for Closer {
    fn drop(&mut self) {
        if let Some(conversation) = self.0.take() {
            conversation.close();
        }
    }
}

impl Serving {
    /// Serves until the peer asks nothing more, or is gone.
    pub(super) async fn run(
        self: Arc<Self>,
        lane: Lane,
        conversation: Arc<Conversation>,
        mut inbound: Streaming<wire::Frame>,
    ) {
        let mut closer = Closer(Some(Arc::clone(&conversation)));
        loop {
            let next = tokio::select! {
                next = inbound.message() => next,
                () = conversation.closed() => return,
            };
            match next {
                Ok(Some(frame)) if frame.refused.is_some() => {
                    let detail = frame.refused.map(|refused| refused.detail).unwrap_or_default();
                    tracing::warn!(detail, "a peer refused this node");
                    return;
                }
                Ok(Some(frame)) => self.take_frame(lane, &conversation, frame).await,
                Ok(None) => {
                    closer.0 = None;
                    return conversation.asked_all();
                }
                Err(status) => {
                    tracing::debug!(%status, "a peer's connection ended");
                    return;
                }
            }
        }
    }

    async fn take_frame(self: &Arc<Self>, lane: Lane, conversation: &Arc<Conversation>, frame: wire::Frame) {
        if let Some(wire::Ping { number, wall_ms: asked_wall_ms }) = frame.ping {
            let pong = wire::Pong { number, asked_wall_ms, wall_ms: self.clock.wall_ms() };
            conversation.say(wire::Frame { pong: Some(pong), ..wire::Frame::default() });
        }
        let received_ms = self.clock.monotonic_ms();
        let mut batch = Batch { messages: frame.messages.into_iter(), received_ms };
        while !batch.messages.as_slice().is_empty() && !conversation.is_closed() {
            conversation.room().await;
            match lane {
                Lane::Foreground => {
                    self.serve_some(conversation, &mut batch, INLINE_MAX);
                    if !batch.messages.as_slice().is_empty() {
                        tokio::task::yield_now().await;
                    }
                }
                Lane::Background => match self.serve_aside(conversation, batch).await {
                    Some(rest) => batch = rest,
                    None => return conversation.close(),
                },
            }
        }
    }

    /// Serves on the blocking pool. Nothing comes back if that failed.
    async fn serve_aside(self: &Arc<Self>, conversation: &Arc<Conversation>, mut batch: Batch) -> Option<Batch> {
        let permit = Arc::clone(&self.background).acquire_owned().await.ok()?;
        let (serving, conversation) = (Arc::clone(self), Arc::clone(conversation));
        let work = tokio::task::spawn_blocking(move || {
            serving.serve_some(&conversation, &mut batch, usize::MAX);
            drop(permit);
            batch
        });
        work.await.ok()
    }

    /// Serves up to `count` requests, as long as there is room for their replies.
    fn serve_some(&self, conversation: &Arc<Conversation>, batch: &mut Batch, count: usize) {
        for _ in 0..count {
            if !conversation.has_room() {
                return;
            }
            let Some(message) = batch.messages.next() else { return };
            self.serve_one(conversation, &message, batch.received_ms);
        }
    }

    fn serve_one(&self, conversation: &Arc<Conversation>, message: &wire::Message, received_ms: u64) {
        let waited_ms = self.clock.monotonic_ms().saturating_sub(received_ms);
        let left_ms = u64::from(message.time_left_ms).saturating_sub(waited_ms);
        if left_ms == 0 {
            return conversation.note_late();
        }
        let Some(ticket) = conversation.admit(message.id) else {
            return self.refuse(conversation, message.id, Refusal::Overloaded { retry_after_ms: RETRY_AFTER_MS });
        };
        match codec::decode::<Request>(&message.body) {
            Ok(request) => {
                let time_left_ms = u32::try_from(left_ms).unwrap_or(u32::MAX);
                self.serve.serve(Request { time_left_ms, ..request }, Box::new(move |reply| ticket.answer(reply)));
            }
            Err(error) => ticket.answer(self.refusal(Refusal::Unsupported(error.to_string()))),
        }
    }

    fn refuse(&self, conversation: &Conversation, id: u64, refusal: Refusal) {
        if let Ok(body) = codec::encode_reply(self.refusal(refusal)) {
            conversation.refuse(id, body);
        }
    }

    /// A refusal of the transport, not of the replica: it carries no clock that anybody would have to move past.
    fn refusal(&self, refusal: Refusal) -> Reply {
        Reply { from: self.me, clock: Hlc::default(), body: Err(refusal) }
    }
}
