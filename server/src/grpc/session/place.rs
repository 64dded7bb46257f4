//! The place that a request has in its session until its answer is on the way.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use cube_proto::v1;
use cube_proto::v1::session_reply::Outcome;
use prost::Message;
use tokio::sync::{Semaphore, mpsc};

use super::super::status::detail;
use crate::edge::{Code, Details, Edge, EdgeError, stopped_while_reading, stopped_while_writing};

/// Bytes of answers that may wait for the client of one session. One that asks faster than it listens gets errors instead of
/// rows; so does everybody when those of all sessions are more than requests in flight may hold.
const WAITING_BYTES_MAX: usize = 64 << 20;
/// The least that a client takes: errors have to fit.
const ANSWER_BYTES_MIN: usize = 16 << 10;
/// After which such a client may ask again.
const RETRY_AFTER_MS: u32 = 50;

/// What of a session is under way.
pub(super) struct Window {
    /// A permit for each request that may still be read.
    free: Semaphore,
    /// Bytes of answers that the client has not taken.
    waiting_bytes: AtomicUsize,
    /// The longest message that the client takes.
    answer_bytes_max: AtomicUsize,
    edge: Arc<Edge>,
}

impl Window {
    /// A window of so many requests.
    pub(super) fn of(requests: usize, edge: Arc<Edge>) -> Self {
        Self {
            free: Semaphore::new(requests),
            waiting_bytes: AtomicUsize::new(0),
            answer_bytes_max: AtomicUsize::new(usize::MAX),
            edge,
        }
    }

    /// The client says what it takes; nothing if that is 0.
    pub(super) fn bound(&self, bytes_max: u64) {
        if bytes_max > 0 {
            let bytes_max = usize::try_from(bytes_max).unwrap_or(usize::MAX).max(ANSWER_BYTES_MIN);
            self.answer_bytes_max.store(bytes_max, Ordering::Relaxed);
        }
    }

    /// The longest message that the client takes.
    pub(super) fn answer_bytes_max(&self) -> usize {
        self.answer_bytes_max.load(Ordering::Relaxed)
    }

    /// Answers were taken by the client's stream.
    pub(super) fn taken(&self, answers: usize, bytes: usize) {
        self.release(bytes);
        self.free.add_permits(answers);
    }

    /// So many bytes more wait; what waited before, here and in all sessions.
    fn hold(&self, bytes: usize) -> (usize, usize) {
        let here = self.waiting_bytes.fetch_add(bytes, Ordering::Relaxed);
        (here, self.edge.waiting_answers().fetch_add(bytes, Ordering::Relaxed))
    }

    fn release(&self, bytes: usize) {
        self.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.edge.waiting_answers().fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Why an answer of so many bytes is too much, if it is. Alone, one of any size is not: its own limit is another one.
    fn refuses(&self, (here, everywhere): (usize, usize), bytes: usize) -> Option<EdgeError> {
        let bound = self.edge.settings().in_flight_bytes_max;
        if here > 0 && here.saturating_add(bytes) > WAITING_BYTES_MAX {
            let message =
                format!("answers of {here} bytes wait for the client of this session already: take them first");
            return Some(too_much(message, WAITING_BYTES_MAX));
        }
        if everywhere > 0 && everywhere.saturating_add(bytes) > bound {
            let message =
                format!("answers of {everywhere} bytes wait for the clients of sessions, of {bound} that may");
            return Some(too_much(message, bound));
        }
        None
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        let left = *self.waiting_bytes.get_mut();
        self.edge.waiting_answers().fetch_sub(left, Ordering::Relaxed);
    }
}

/// A request's place. It answers once: if nobody tells what came of the request, with the news that nobody will.
pub(super) struct Place {
    id: u64,
    replies: mpsc::Sender<v1::SessionReply>,
    window: Arc<Window>,
    /// What is to be said when the place is let go of. Nothing is when the answer is on its way.
    let_go: Option<fn() -> EdgeError>,
}

impl Place {
    /// Waits for room.
    pub(super) async fn new(id: u64, replies: &mpsc::Sender<v1::SessionReply>, window: &Arc<Window>) -> Self {
        // It is closed by nobody; a place more than there should be would be refused by the channel.
        if let Ok(permit) = window.free.acquire().await {
            permit.forget();
        }
        Self { id, replies: replies.clone(), window: Arc::clone(window), let_go: Some(stopped_while_reading) }
    }

    /// From now on, the request may take effect though nobody tells.
    pub(super) fn of_a_write(mut self) -> Self {
        self.let_go = Some(stopped_while_writing);
        self
    }

    /// Goes on with a request, or tells why it is none.
    pub(super) fn or_refuse<R>(self, request: Result<R, EdgeError>, begin: impl FnOnce(Self, R)) {
        match request {
            Ok(request) => begin(self, request),
            Err(error) => self.tell(Err(error)),
        }
    }

    /// Sends the answer on its way.
    pub(super) fn tell(mut self, outcome: Result<Outcome, EdgeError>) {
        self.let_go = None;
        self.send(outcome);
    }

    fn send(&self, outcome: Result<Outcome, EdgeError>) {
        let reply = |outcome| v1::SessionReply { id: self.id, outcome: Some(outcome) };
        let refused = |error: &EdgeError| reply(Outcome::Error(detail(error)));
        let (mut reply, error) = match outcome {
            Ok(outcome) => (reply(outcome), None),
            Err(error) => (refused(&error), Some(error)),
        };
        let holds_rows = matches!(reply.outcome, Some(Outcome::Row(_) | Outcome::Rows(_) | Outcome::Page(_)));
        let mut bytes = reply.encoded_len();
        let (in_message, taken) = (bytes_in_message(bytes), self.window.answer_bytes_max());
        if in_message > taken {
            reply = refused(&match error {
                Some(error) => in_short(error),
                None if holds_rows => too_large(in_message, taken),
                None => told_too_long(in_message, taken),
            });
            bytes = reply.encoded_len();
        }
        let held = self.window.hold(bytes);
        if holds_rows && let Some(error) = self.window.refuses(held, bytes) {
            reply = refused(&error);
            self.window.hold(reply.encoded_len());
            self.window.release(bytes);
        }
        // The client is gone when nobody takes it. There is room: the place stands for it.
        let _gone = self.replies.try_send(reply);
    }
}

/// What an answer of so many bytes takes in a message: itself, its tag and its length.
pub(super) fn bytes_in_message(bytes: usize) -> usize {
    1 + prost::length_delimiter_len(bytes) + bytes
}

/// An error without the account of what was done, and without what each replica said.
fn in_short(error: EdgeError) -> EdgeError {
    let Details { may_take_effect, retry_after_ms, limit, acknowledged_by, .. } = *error.details;
    let details = Details { may_take_effect, retry_after_ms, limit, acknowledged_by, ..Details::default() };
    EdgeError::with(error.code, error.message, details)
}

fn too_large(bytes: usize, limit: usize) -> EdgeError {
    let message = format!("the answer is of {bytes} bytes, and the client takes {limit}: ask for less at once");
    let details = Details { limit: u64::try_from(limit).ok(), ..Details::default() };
    EdgeError::with(Code::AnswerTooLarge, message, details)
}

/// Of a write, which is done, for better or worse.
fn told_too_long(bytes: usize, limit: usize) -> EdgeError {
    let message = format!(
        "what came of the write takes {bytes} bytes to tell, and the client takes {limit}: it is unknown to the client, \
         read the rows"
    );
    let limit = u64::try_from(limit).ok();
    let details = Details { may_take_effect: true, acknowledged_by: Some(Vec::new()), limit, ..Details::default() };
    EdgeError::with(Code::WriteUnknown, message, details)
}

fn too_much(message: String, limit: usize) -> EdgeError {
    let limit = u64::try_from(limit).ok();
    let details = Details { retry_after_ms: Some(RETRY_AFTER_MS), limit, ..Details::default() };
    EdgeError::with(Code::Overloaded, message, details)
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(error) = self.let_go.take() {
            self.send(Err(error()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_in_short_keeps_what_the_client_goes_by() {
        let details = Details {
            may_take_effect: true,
            retry_after_ms: Some(7),
            acknowledged_by: Some(vec!["node-1".to_owned()]),
            required: Some(2),
            ..Details::default()
        };
        let error = in_short(EdgeError::with(Code::WriteUnknown, "why", details));
        assert_eq!((error.code, error.message.as_str()), (Code::WriteUnknown, "why"));
        let Details { may_take_effect, retry_after_ms, acknowledged_by, required, .. } = *error.details;
        assert_eq!((may_take_effect, retry_after_ms, required), (true, Some(7), None));
        assert_eq!(acknowledged_by.as_deref(), Some(&["node-1".to_owned()][..]));
    }
}
