//! Reads the requests of one lane and has them carried out.
//!
//! One task for each connection, none for a request. In the foreground, writes are queued from this task, since a hop to
//! another thread costs more than that; after a bounded number of requests others get their turn. Reads of a row that lies
//! in memory are answered from this task too. Others may wait for the disk: those of a frame go to the reading threads as
//! few jobs, and the connection goes on. The background is served on
//! the blocking pool, a few frames at a time over all peers. A request whose time is over when its turn comes is dropped,
//! not done.

use std::sync::Arc;
use std::vec;

use cube_proto::peer::v1 as wire;
use cube_replication::codec;
use cube_replication::messages::{Refusal, Reply, Request, RequestBody};
use cube_replication::replica::OnAnswer;
use cube_replication::transport::{Lane, Serve};
use cube_storage::clock::Clock;
use cube_storage::model::{Hlc, NodeId};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tonic::Streaming;

use super::conversation::Conversation;
use super::readers::Readers;

/// Requests taken in a row before other tasks of the thread get their turn: a few microseconds each.
const INLINE_MAX: usize = 64;
/// Reads of single rows that are one job: more share a hop between threads, fewer are read side by side.
const READS_OF_A_JOB_MAX: usize = 32;
/// When a peer that asks too much may try again.
const RETRY_AFTER_MS: u32 = 50;

/// What serving needs.
pub(super) struct Serving {
    pub(super) me: NodeId,
    pub(super) serve: Arc<dyn Serve>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) background: Arc<Semaphore>,
    pub(super) readers: Arc<Readers>,
}

/// A request that was let in.
struct Asked {
    request: Request,
    answer: OnAnswer,
    received_ms: u64,
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
        let mut reads = Vec::new();
        while !batch.messages.as_slice().is_empty() && !conversation.is_closed() {
            conversation.room().await;
            match lane {
                Lane::Foreground => {
                    self.take_some(conversation, &mut batch, &mut reads);
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
        self.hand_over(conversation, reads);
    }

    /// Serves some of a frame, and keeps the reads that may wait for the disk for the reading threads.
    fn take_some(self: &Arc<Self>, conversation: &Arc<Conversation>, batch: &mut Batch, reads: &mut Vec<Asked>) {
        for message in batch.messages.by_ref().take(INLINE_MAX) {
            let Some(asked) = self.admit(conversation, &message, batch.received_ms) else { continue };
            match asked.request.body {
                RequestBody::Write(_)
                | RequestBody::HintCredits(_)
                | RequestBody::TakeHints(_)
                | RequestBody::TakeMarks(_)
                | RequestBody::Unknown { .. } => self.serve_one(conversation, asked),
                RequestBody::Read(_) => {
                    let Some(asked) = self.serve_at_once(conversation, asked) else { continue };
                    reads.push(asked);
                    if reads.len() >= READS_OF_A_JOB_MAX {
                        self.hand_over(conversation, std::mem::take(reads));
                    }
                }
                // A page may take long: nobody's rows wait behind it.
                RequestBody::Scan(_)
                | RequestBody::ScanTable(_)
                | RequestBody::AntiEntropy(_)
                | RequestBody::Repair(_) => self.hand_over(conversation, vec![asked]),
            }
        }
    }

    /// Has the reading threads serve these.
    fn hand_over(self: &Arc<Self>, conversation: &Arc<Conversation>, reads: Vec<Asked>) {
        if reads.is_empty() {
            return;
        }
        let (serving, conversation, runtime) = (Arc::clone(self), Arc::clone(conversation), Handle::current());
        self.readers.submit(Box::new(move || {
            let _unless_it_panics = ClosedByPanic(&conversation);
            serving.read_all(&conversation, reads, &runtime);
        }));
    }

    /// Serves reads, on a reading thread. Where there is no room for their replies, the rest waits for it elsewhere.
    fn read_all(self: &Arc<Self>, conversation: &Arc<Conversation>, reads: Vec<Asked>, runtime: &Handle) {
        let mut reads = reads.into_iter();
        while conversation.has_room() || conversation.is_closed() {
            let Some(asked) = reads.next() else { return };
            if conversation.is_closed() {
                return;
            }
            self.serve_one(conversation, asked);
        }
        let rest: Vec<Asked> = reads.collect();
        if rest.is_empty() {
            return;
        }
        let (serving, conversation) = (Arc::clone(self), Arc::clone(conversation));
        runtime.spawn(async move {
            conversation.room().await;
            serving.hand_over(&conversation, rest);
        });
    }

    /// Serves on the blocking pool. Nothing comes back if that failed.
    async fn serve_aside(self: &Arc<Self>, conversation: &Arc<Conversation>, mut batch: Batch) -> Option<Batch> {
        let permit = Arc::clone(&self.background).acquire_owned().await.ok()?;
        let (serving, conversation) = (Arc::clone(self), Arc::clone(conversation));
        let work = tokio::task::spawn_blocking(move || {
            serving.serve_some(&conversation, &mut batch);
            drop(permit);
            batch
        });
        work.await.ok()
    }

    /// Serves requests as long as there is room for their replies.
    fn serve_some(&self, conversation: &Arc<Conversation>, batch: &mut Batch) {
        while conversation.has_room() {
            let Some(message) = batch.messages.next() else { return };
            if let Some(asked) = self.admit(conversation, &message, batch.received_ms) {
                self.serve_one(conversation, asked);
            }
        }
    }

    /// Lets a request in that can be understood, as long as there is room and time.
    fn admit(&self, conversation: &Arc<Conversation>, message: &wire::Message, received_ms: u64) -> Option<Asked> {
        let time_left_ms = message.time_left_ms;
        if self.left_ms(time_left_ms, received_ms) == 0 {
            conversation.note_late();
            return None;
        }
        let Some(ticket) = conversation.admit(message.id) else {
            self.refuse(conversation, message.id, Refusal::Overloaded { retry_after_ms: RETRY_AFTER_MS });
            return None;
        };
        match codec::decode::<Request>(&message.body) {
            Ok(request) => Some(Asked {
                request: Request { time_left_ms, ..request },
                answer: Box::new(move |reply| ticket.answer(reply)),
                received_ms,
            }),
            Err(error) => {
                ticket.answer(self.refusal(Refusal::Unsupported(error.to_string())));
                None
            }
        }
    }

    fn serve_one(&self, conversation: &Conversation, asked: Asked) {
        let Asked { request, answer, received_ms } = asked;
        match self.left_ms(request.time_left_ms, received_ms) {
            0 => conversation.note_late(),
            time_left_ms => self.serve.serve(Request { time_left_ms, ..request }, answer),
        }
    }

    /// Serves a request that needs no disk. One that may need it comes back.
    fn serve_at_once(&self, conversation: &Conversation, asked: Asked) -> Option<Asked> {
        let Asked { request, answer, received_ms } = asked;
        if self.left_ms(request.time_left_ms, received_ms) == 0 {
            conversation.note_late();
            return None;
        }
        let (request, answer) = self.serve.serve_at_once(request, answer)?;
        Some(Asked { request, answer, received_ms })
    }

    /// What is left of the time that a request had when it was received.
    fn left_ms(&self, time_left_ms: u32, received_ms: u64) -> u32 {
        let waited_ms = self.clock.monotonic_ms().saturating_sub(received_ms);
        time_left_ms.saturating_sub(u32::try_from(waited_ms).unwrap_or(u32::MAX))
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

/// A request that panics costs its connection: whoever asked learns at once that nothing more comes of it.
struct ClosedByPanic<'a>(&'a Conversation);

impl Drop for ClosedByPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.close();
        }
    }
}
