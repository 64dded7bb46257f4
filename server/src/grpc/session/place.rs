//! The place that a request has in its session until its answer is on the way.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use cube_proto::v1;
use cube_proto::v1::session_reply::Outcome;
use prost::Message;
use tokio::sync::{Semaphore, mpsc};

use super::super::status::detail;
use crate::edge::{Code, Details, EdgeError, stopped_while_reading, stopped_while_writing};

/// Bytes of answers that may wait for the client. One that asks faster than it listens gets errors instead of rows.
const WAITING_BYTES_MAX: usize = 64 << 20;
/// After which such a client may ask again.
const RETRY_AFTER_MS: u32 = 50;

/// What of a session is under way.
pub(super) struct Window {
    /// A permit for each request that may still be read.
    free: Semaphore,
    /// Bytes of answers that the client has not taken.
    waiting_bytes: AtomicUsize,
}

impl Window {
    /// A window of so many requests.
    pub(super) fn of(requests: usize) -> Self {
        Self { free: Semaphore::new(requests), waiting_bytes: AtomicUsize::new(0) }
    }

    /// Answers were taken by the client's stream.
    pub(super) fn taken(&self, answers: usize, bytes: usize) {
        self.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.free.add_permits(answers);
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
        let mut reply = match outcome {
            Ok(outcome) => reply(outcome),
            Err(error) => refused(&error),
        };
        let waiting = &self.window.waiting_bytes;
        let bytes = reply.encoded_len();
        let held = waiting.fetch_add(bytes, Ordering::Relaxed);
        let holds_rows = matches!(reply.outcome, Some(Outcome::Row(_) | Outcome::Rows(_) | Outcome::Page(_)));
        if holds_rows && held > 0 && held + bytes > WAITING_BYTES_MAX {
            reply = refused(&too_slow(held));
            waiting.fetch_add(reply.encoded_len(), Ordering::Relaxed);
            waiting.fetch_sub(bytes, Ordering::Relaxed);
        }
        // The client is gone when nobody takes it. There is room: the place stands for it.
        let _gone = self.replies.try_send(reply);
    }
}

fn too_slow(held: usize) -> EdgeError {
    let message = format!("answers of {held} bytes wait for the client of this session already: take them first");
    let details = Details {
        retry_after_ms: Some(RETRY_AFTER_MS),
        limit: u64::try_from(WAITING_BYTES_MAX).ok(),
        ..Details::default()
    };
    EdgeError::with(Code::Overloaded, message, details)
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(error) = self.let_go.take() {
            self.send(Err(error()));
        }
    }
}
