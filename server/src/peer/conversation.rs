//! The serving side of one lane: replies that wait to be sent, and how much is under way for this peer.
//!
//! Invariants: every request that was let in is counted until its reply is on its way, or nobody can reply to it any
//! more; replies that wait are bounded in number by that count and in bytes by not reading further requests. When the
//! peer is gone, what is still under way ends here without a trace.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use cube_proto::peer::v1 as wire;
use cube_replication::codec;
use cube_replication::messages::Reply;
use futures::Stream;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::settings::{FRAME_BYTES, FRAME_MESSAGES_MAX, PeerSettings};

/// One lane of a peer that asks.
pub(super) struct Conversation {
    serving_max: usize,
    reply_bytes_max: usize,
    state: Mutex<State>,
    /// Replies were sent, so there may be room again.
    room: Notify,
    closed: CancellationToken,
}

#[derive(Default)]
struct State {
    control: VecDeque<wire::Frame>,
    ready: VecDeque<(u64, Bytes)>,
    ready_bytes: usize,
    /// Requests let in whose replies are not on their way yet.
    in_flight: usize,
    /// The peer asks nothing more.
    asked_all: bool,
    waker: Option<Waker>,
    dropped_late: u64,
    overloaded: u64,
}

/// How much is under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    pub(super) in_flight: usize,
    pub(super) replies: usize,
    pub(super) reply_bytes: usize,
    pub(super) dropped_late: u64,
    pub(super) overloaded: u64,
}

impl Conversation {
    /// One that begins with this node's hello.
    pub(super) fn new(settings: &PeerSettings, hello: wire::Hello) -> Arc<Self> {
        Self::beginning_with(settings, wire::Frame { hello: Some(hello), ..wire::Frame::default() })
    }

    /// One that says why there will be none, and ends.
    pub(super) fn refusing(settings: &PeerSettings, refused: wire::Refused) -> Arc<Self> {
        let conversation =
            Self::beginning_with(settings, wire::Frame { refused: Some(refused), ..wire::Frame::default() });
        conversation.asked_all();
        conversation
    }

    fn beginning_with(settings: &PeerSettings, frame: wire::Frame) -> Arc<Self> {
        let conversation = Self {
            serving_max: settings.serving_max,
            reply_bytes_max: settings.reply_bytes_max,
            state: Mutex::default(),
            room: Notify::new(),
            closed: CancellationToken::new(),
        };
        conversation.say(frame);
        Arc::new(conversation)
    }

    /// Queues a frame of its own. There are few of them: a hello, a pong for each ping, a goodbye.
    pub(super) fn say(&self, frame: wire::Frame) {
        self.change(|state| state.control.push_back(frame));
    }

    /// Lets a request in, unless too many are under way.
    pub(super) fn admit(self: &Arc<Self>, id: u64) -> Option<Ticket> {
        let mut state = self.state.lock();
        if state.in_flight >= self.serving_max {
            state.overloaded += 1;
            return None;
        }
        state.in_flight += 1;
        Some(Ticket { conversation: Arc::clone(self), id, is_answered: false })
    }

    /// Answers a request that was not let in.
    pub(super) fn refuse(&self, id: u64, body: Vec<u8>) {
        self.change(|state| {
            state.in_flight += 1;
            state.queue(id, body);
        });
    }

    pub(super) fn note_late(&self) {
        self.state.lock().dropped_late += 1;
    }

    /// Whether further requests may be read.
    pub(super) fn has_room(&self) -> bool {
        let state = self.state.lock();
        // Refusals are replies too, so there is a bound above the one at which requests are refused.
        state.ready_bytes < self.reply_bytes_max && state.ready.len() < self.serving_max.saturating_mul(2)
    }

    /// Waits until there is room, or nobody is there any more. Several may wait.
    pub(super) async fn room(&self) {
        while !self.has_room() && !self.closed.is_cancelled() {
            // A notice that comes before this is kept by `Notify`.
            tokio::select! {
                () = self.room.notified() => {}
                () = self.closed.cancelled() => {}
            }
        }
        // A notice wakes one. It may have nothing to answer, so that nothing it does would bring the next notice.
        self.room.notify_one();
    }

    /// The peer asks nothing more: when all is answered, this ends.
    pub(super) fn asked_all(&self) {
        self.change(|state| state.asked_all = true);
    }

    /// Ends now. What is under way is answered to nobody.
    pub(super) fn close(&self) {
        self.closed.cancel();
        self.change(|state| {
            state.ready.clear();
            state.ready_bytes = 0;
            state.control.clear();
        });
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.is_cancelled()
    }

    /// Completes when this has ended.
    pub(super) async fn closed(&self) {
        self.closed.cancelled().await;
    }

    pub(super) fn load(&self) -> Load {
        let state = self.state.lock();
        Load {
            in_flight: state.in_flight,
            replies: state.ready.len(),
            reply_bytes: state.ready_bytes,
            dropped_late: state.dropped_late,
            overloaded: state.overloaded,
        }
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state.lock();
        change(&mut state);
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn poll_frame(&self, context: &Context<'_>) -> Poll<Option<wire::Frame>> {
        let mut state = self.state.lock();
        if self.is_closed() {
            return Poll::Ready(None);
        }
        let mut frame = state.control.pop_front().unwrap_or_default();
        if frame.hello.is_none() {
            frame.messages = state.next_messages();
        }
        if frame != wire::Frame::default() {
            drop(state);
            self.room.notify_one();
            return Poll::Ready(Some(frame));
        }
        if state.asked_all && state.in_flight == 0 {
            return Poll::Ready(None);
        }
        if !state.waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
            state.waker = Some(context.waker().clone());
        }
        Poll::Pending
    }
}

impl State {
    fn queue(&mut self, id: u64, body: Vec<u8>) {
        self.ready_bytes += body.len();
        self.ready.push_back((id, Bytes::from(body)));
    }

    fn next_messages(&mut self) -> Vec<wire::Message> {
        let mut messages = Vec::with_capacity(self.ready.len().min(FRAME_MESSAGES_MAX));
        let mut bytes = 0;
        while let Some((id, body)) = self.ready.pop_front() {
            if !messages.is_empty() && (messages.len() >= FRAME_MESSAGES_MAX || bytes + body.len() > FRAME_BYTES) {
                self.ready.push_front((id, body));
                break;
            }
            bytes += body.len();
            messages.push(wire::Message { id, body, time_left_ms: 0 });
        }
        self.ready_bytes = self.ready_bytes.saturating_sub(bytes);
        self.in_flight = self.in_flight.saturating_sub(messages.len());
        messages
    }
}

/// The right to answer one request. Dropped unused, it gives its place back: nobody answers that request any more.
pub(super) struct Ticket {
    conversation: Arc<Conversation>,
    id: u64,
    is_answered: bool,
}

impl Ticket {
    pub(super) fn answer(mut self, reply: Reply) {
        if self.conversation.is_closed() {
            return;
        }
        // A reply that cannot be sent is replaced by a refusal that can; failing that, its asker is told by the deadline.
        if let Ok(body) = codec::encode_reply(reply) {
            self.is_answered = true;
            self.conversation.change(|state| state.queue(self.id, body));
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.is_answered {
            self.conversation.change(|state| state.in_flight = state.in_flight.saturating_sub(1));
        }
    }
}

/// The frames of a conversation, as gRPC asks for them. When the connection drops it, the conversation is over.
pub struct Replies(Arc<Conversation>);

impl Replies {
    pub(super) fn of(conversation: Arc<Conversation>) -> Self {
        Self(conversation)
    }
}

impl Stream for Replies {
    type Item = Result<wire::Frame, Status>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_frame(context).map(|frame| frame.map(Ok))
    }
}

impl Drop for Replies {
    fn drop(&mut self) {
        self.0.close();
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;

    use super::*;

    #[test]
    fn when_there_is_room_again_all_who_waited_for_it_go_on() {
        let settings = PeerSettings { reply_bytes_max: 10, ..PeerSettings::default() };
        let conversation = Conversation::new(&settings, wire::Hello::default());
        conversation.refuse(1, vec![0; 10]);
        let context = &mut Context::from_waker(Waker::noop());
        let (mut first, mut second) = (pin!(conversation.room()), pin!(conversation.room()));
        assert!(first.as_mut().poll(context).is_pending() && second.as_mut().poll(context).is_pending());
        while conversation.poll_frame(context).is_ready() {}
        assert!(conversation.has_room());
        // Neither of them has anything to answer.
        assert!(first.as_mut().poll(context).is_ready());
        assert!(second.as_mut().poll(context).is_ready());
    }
}
