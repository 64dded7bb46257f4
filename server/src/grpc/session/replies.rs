//! The answers of a session on their way out: those at hand in one message.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use cube_proto::v1;
use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tonic::Status;

use super::place::{Window, bytes_in_message};

/// A message of answers is about this large at the most, unless the client takes less, or holds one: the first answers need
/// not wait for the last, and no message is larger than what a unary call may answer.
const MESSAGE_BYTES: usize = 256 << 10;
/// Answers that are taken from the channel at once.
const TAKEN_MAX: usize = 512;

/// The stream of a session's answers. It ends when everything that was read is answered.
pub(in super::super) struct SessionReplies {
    answered: mpsc::Receiver<v1::SessionReply>,
    /// What ended the reading, unless it was the client's last word.
    end: mpsc::Receiver<Status>,
    window: Arc<Window>,
    next: Vec<v1::SessionReply>,
    waiting: VecDeque<v1::SessionReply>,
}

impl SessionReplies {
    pub(super) fn new(
        answered: mpsc::Receiver<v1::SessionReply>,
        end: mpsc::Receiver<Status>,
        window: Arc<Window>,
    ) -> Self {
        Self { answered, end, window, next: Vec::new(), waiting: VecDeque::new() }
    }

    /// As many of the answers that wait as fit into a message.
    fn message(&mut self) -> v1::SessionReplies {
        let mut replies = Vec::with_capacity(self.waiting.len());
        let bytes_max = MESSAGE_BYTES.min(self.window.answer_bytes_max());
        let (mut message_bytes, mut held_bytes) = (0, 0);
        while let Some(reply) = self.waiting.pop_front() {
            let held = reply.encoded_len();
            let bytes = bytes_in_message(held);
            if message_bytes > 0 && message_bytes + bytes > bytes_max {
                self.waiting.push_front(reply);
                break;
            }
            message_bytes += bytes;
            held_bytes += held;
            replies.push(reply);
        }
        self.window.taken(replies.len(), held_bytes);
        v1::SessionReplies { replies }
    }
}

impl Stream for SessionReplies {
    type Item = Result<v1::SessionReplies, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if this.waiting.is_empty() {
            let taken = ready!(this.answered.poll_recv_many(cx, &mut this.next, TAKEN_MAX));
            if taken == 0 {
                return Poll::Ready(ready!(this.end.poll_recv(cx)).map(Err));
            }
            this.waiting.extend(this.next.drain(..));
        }
        Poll::Ready(Some(Ok(this.message())))
    }
}
