//! Many requests in flight on one stream. One task reads, requests are answered by the callbacks of the coordinator, and
//! the answers at hand travel together: a request costs no task, no timer and no stream of its own.
//!
//! Invariants: every request that was read is answered, once, also when the coordinator lets go of it; so a stream that
//! ends with OK, or with a status of this node, leaves nothing begun without an answer. No answer is longer than the client
//! says it takes: one such message would end the stream for all that is under way on it. Requests in flight are bounded by
//! not reading on, and the answers that wait for a client that does not take them by answering what is too much with an
//! error.

mod place;
mod replies;

use std::sync::Arc;

use cube_proto::v1::session_reply::Outcome;
use cube_proto::v1::session_request::Call;
use cube_proto::v1::{self};
use cube_replication::coordinator::{
    RangePage, RangeRequest, ReadRequest, ReadRow, RequestError, WriteRequest, Written,
};
use tokio::sync::mpsc;
use tonic::metadata::MetadataMap;
use tonic::{Status, Streaming};

use self::place::{Place, Window};
pub(super) use self::replies::SessionReplies;
use super::convert;
use super::door::told;
use super::requests::{Requests, batch_read, batch_written, partitions_of};
use crate::edge::{Caller, Edge, EdgeError, Names};

/// Requests of a session that are read and not yet answered: more than keeps a node busy.
const IN_FLIGHT_MAX: usize = 2_048;

/// What reads a session's requests.
pub(super) struct Session {
    edge: Arc<Edge>,
    replies: mpsc::Sender<v1::SessionReply>,
    window: Arc<Window>,
}

impl Session {
    /// Begins to read. What is returned holds the answers.
    pub(super) fn begin(edge: Arc<Edge>, requests: Streaming<v1::SessionRequests>) -> SessionReplies {
        let window = Arc::new(Window::of(IN_FLIGHT_MAX, Arc::clone(&edge)));
        // There is always room: each answer has a place in the window.
        let (replies, answered) = mpsc::channel(IN_FLIGHT_MAX);
        let (ended, end) = mpsc::channel(1);
        let session = Self { edge, replies, window: Arc::clone(&window) };
        tokio::spawn(async move {
            if let Err(status) = session.read(requests).await {
                // When nobody takes it, the client is gone.
                let _gone = ended.try_send(status);
            }
        });
        SessionReplies::new(answered, end, window)
    }

    /// Reads until the client has said its last, or the node is about to stop.
    async fn read(self, mut requests: Streaming<v1::SessionRequests>) -> Result<(), Status> {
        loop {
            let message = tokio::select! {
                biased;
                () = self.edge.draining() => return Ok(()),
                () = self.replies.closed() => return Ok(()),
                message = requests.message() => message.map_err(|status| told(status).unwrap_or_else(|other| other))?,
            };
            let Some(v1::SessionRequests { requests, answer_bytes_max }) = message else { return Ok(()) };
            self.window.bound(answer_bytes_max);
            for v1::SessionRequest { id, call } in requests {
                let place = tokio::select! {
                    // Nobody takes the answers any more: what follows was never begun.
                    () = self.replies.closed() => return Ok(()),
                    place = Place::new(id, &self.replies, &self.window) => place,
                };
                self.begin_call(place, call);
            }
        }
    }

    fn begin_call(&self, place: Place, call: Option<Call>) {
        let metadata = MetadataMap::new();
        let requests = Requests { edge: &self.edge, metadata: &metadata };
        match call {
            Some(Call::Put(message)) => place.or_refuse(requests.put(message), |place, it| self.write(place, it)),
            Some(Call::Delete(message)) => place.or_refuse(requests.delete(message), |place, it| self.write(place, it)),
            Some(Call::Get(message)) => place.or_refuse(requests.get(message), |place, it| self.get(place, it)),
            Some(Call::Range(message)) => {
                let range = convert::range(message, &metadata, &self.edge);
                place.or_refuse(range, |place, (whole, page)| self.range(place, whole, page));
            }
            Some(Call::BatchPut(message)) => {
                place.or_refuse(requests.batch_put(message), |place, it| self.batch_write(place, it));
            }
            Some(Call::BatchDelete(message)) => {
                place.or_refuse(requests.batch_delete(message), |place, it| self.batch_write(place, it));
            }
            Some(Call::BatchGet(message)) => {
                place.or_refuse(requests.batch_get(message), |place, it| self.batch_get(place, it));
            }
            None => place.tell(Err(EdgeError::invalid("the request holds no call that this release knows"))),
        }
    }

    fn write(&self, place: Place, request: WriteRequest) {
        let (edge, level, place) = (Arc::clone(&self.edge), request.terms.level, place.of_a_write());
        self.edge.start_write(Caller::Anonymous, request, move |result| {
            let Some(only) = only(&edge, result) else { return drop(place) };
            let state = edge.state();
            place.tell(only.map(|written| Outcome::Written(convert::written(written, level, &Names::new(&state)))));
        });
    }

    fn batch_write(&self, place: Place, request: WriteRequest) {
        let (edge, level, place) = (Arc::clone(&self.edge), request.terms.level, place.of_a_write());
        let partitions = partitions_of(&request.rows);
        self.edge.start_write(Caller::Anonymous, request, move |result: Result<Vec<Result<Written, _>>, _>| {
            let state = edge.state();
            let reply = result.map(|results| batch_written(partitions, results, level, &Names::new(&state)));
            place.tell(reply.map(Outcome::BatchWritten));
        });
    }

    fn get(&self, place: Place, request: ReadRequest) {
        let edge = Arc::clone(&self.edge);
        self.edge.start_read(Caller::Anonymous, request, move |result| {
            let Some(only) = only(&edge, result) else { return drop(place) };
            let state = edge.state();
            place.tell(only.map(|row| Outcome::Row(convert::read_row(row, &Names::new(&state)))));
        });
    }

    fn batch_get(&self, place: Place, request: ReadRequest) {
        let edge = Arc::clone(&self.edge);
        self.edge.start_read(Caller::Anonymous, request, move |result: Result<Vec<Result<ReadRow, _>>, _>| {
            let state = edge.state();
            place.tell(result.map(|rows| Outcome::Rows(batch_read(rows, &Names::new(&state)))));
        });
    }

    fn range(&self, place: Place, whole: RangeRequest, page: RangeRequest) {
        let edge = Arc::clone(&self.edge);
        self.edge.start_range(Caller::Anonymous, page, move |result: Result<RangePage, _>| {
            let state = edge.state();
            place.tell(result.map(|found| Outcome::Page(convert::range_page(&whole, found, &Names::new(&state)))));
        });
    }
}

/// The result of a request for one row.
fn only<T>(edge: &Edge, results: Result<Vec<Result<T, RequestError>>, EdgeError>) -> Option<Result<T, EdgeError>> {
    match results {
        Ok(results) => Some(results.into_iter().next()?.map_err(|error| edge.explain(error))),
        Err(error) => Some(Err(error)),
    }
}
