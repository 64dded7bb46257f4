//! The session stream: many requests on one call.

use std::collections::BTreeMap;

use cube_proto::v1::row_result::Outcome as RowOutcome;
use cube_proto::v1::session_reply::Outcome;
use cube_proto::v1::session_request::Call;
use cube_proto::v1::{self, SessionReplies, SessionReply, SessionRequest, SessionRequests};
use cube_server::edge::Closing;
use cube_storage::engine::MemoryEngine;
use cube_storage::model::Limits;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::grpc::{client, key, put};
use super::node::{Node, Plan, eventually};

/// A session of a client that keeps its side open.
struct Session {
    requests: mpsc::Sender<SessionRequests>,
    replies: Streaming<SessionReplies>,
}

impl Session {
    async fn open(node: &Node) -> Self {
        let (requests, sent) = mpsc::channel(16);
        let replies = client(node).await.session(ReceiverStream::new(sent)).await.unwrap().into_inner();
        Self { requests, replies }
    }

    async fn send(&self, requests: impl IntoIterator<Item = (u64, Call)>) {
        let requests = requests.into_iter().map(|(id, call)| SessionRequest { id, call: Some(call) }).collect();
        self.requests.send(SessionRequests { requests, ..Default::default() }).await.unwrap();
    }

    /// So many answers by their ids.
    async fn answers(&mut self, count: usize) -> BTreeMap<u64, Outcome> {
        let mut answers = BTreeMap::new();
        while answers.len() < count {
            let message = self.replies.message().await.unwrap().expect("the session goes on");
            for SessionReply { id, outcome } in message.replies {
                assert!(answers.insert(id, outcome.unwrap()).is_none(), "request {id} is answered once");
            }
        }
        answers
    }

    /// Says the last word; what was not answered before comes now, and then the end.
    async fn end(mut self) -> Vec<SessionReply> {
        drop(self.requests);
        let mut last = Vec::new();
        while let Some(message) = self.replies.message().await.unwrap() {
            last.extend(message.replies);
        }
        last
    }
}

fn error_code(outcome: &Outcome) -> &str {
    match outcome {
        Outcome::Error(error) => &error.code,
        other => panic!("{other:?} is no error"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_call_of_the_service_can_be_made_in_a_session() {
    let node = Node::alone().await;
    let mut session = Session::open(&node).await;
    let rows = ["b", "c"].map(|name| v1::PutRow { key: key(name), value: name.into(), ttl_ms: None });
    let batch = v1::BatchPutRequest { rows: rows.to_vec(), ..Default::default() };
    session.send([(1, Call::Put(put("a", "1"))), (2, Call::BatchPut(batch))]).await;
    let written = session.answers(2).await;
    assert!(matches!(&written[&1], Outcome::Written(reply) if reply.acknowledged_by == ["node-1"]), "{written:?}");
    assert!(matches!(&written[&2], Outcome::BatchWritten(reply) if reply.results.len() == 2), "{written:?}");

    let get = v1::GetRequest { key: key("a"), ..Default::default() };
    let many = v1::BatchGetRequest { keys: [key("b"), key("none")].map(Option::unwrap).to_vec(), ..Default::default() };
    let range = v1::RangeRequest { partition: "c".into(), ..Default::default() };
    session.send([(3, Call::Get(get)), (4, Call::BatchGet(many)), (5, Call::Range(range))]).await;
    let read = session.answers(3).await;
    assert!(matches!(&read[&3], Outcome::Row(row) if row.found && row.value == "1"), "{read:?}");
    assert!(matches!(&read[&4], Outcome::Rows(rows) if rows.rows.len() == 2), "{read:?}");
    assert!(matches!(&read[&5], Outcome::Page(page) if page.rows.len() == 1), "{read:?}");

    let delete = v1::DeleteRequest { key: key("a"), ..Default::default() };
    let deletes = v1::BatchDeleteRequest { keys: vec![key("b").unwrap()], ..Default::default() };
    session.send([(6, Call::Delete(delete)), (7, Call::BatchDelete(deletes))]).await;
    let last = session.end().await;
    assert_eq!(last.len(), 2, "what was read is answered before the end: {last:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_is_refused_harms_no_other() {
    let node = Node::alone().await;
    let mut session = Session::open(&node).await;
    let nowhere = v1::PutRequest { keyspace: "nowhere".into(), ..put("a", "1") };
    let at_any = v1::GetRequest { key: key("a"), level: v1::Level::Any.into(), ..Default::default() };
    let no_level = v1::GetRequest { key: key("a"), level: 77, ..Default::default() };
    let calls = [Call::Put(nowhere), Call::Get(at_any), Call::Get(no_level), Call::Put(put("a", "1"))];
    session.send((0..).zip(calls)).await;
    let empty = SessionRequests { requests: vec![SessionRequest { id: 9, call: None }], ..Default::default() };
    session.requests.send(empty).await.unwrap();
    let answers = session.answers(5).await;
    assert_eq!(error_code(&answers[&0]), "unknown_keyspace");
    assert_eq!(error_code(&answers[&1]), "level_not_for_reading");
    assert_eq!(error_code(&answers[&2]), "unknown_level");
    assert!(matches!(&answers[&3], Outcome::Written(_)), "{answers:?}");
    assert_eq!(error_code(&answers[&9]), "invalid_request");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_requests_are_answered_once_each_and_together() {
    const REQUESTS: u64 = 10_000;
    let node = Node::alone().await;
    let mut session = Session::open(&node).await;
    let requests = session.requests.clone();
    let sender = tokio::spawn(async move {
        for first in (0..REQUESTS).step_by(500) {
            let calls = (first..first + 500)
                .map(|id| SessionRequest { id, call: Some(Call::Put(put(&format!("k{}", id % 100), "v"))) });
            let message = SessionRequests { requests: calls.collect(), ..Default::default() };
            requests.send(message).await.unwrap();
        }
    });
    let answers = session.answers(usize::try_from(REQUESTS).unwrap()).await;
    sender.await.unwrap();
    assert!(answers.values().all(|outcome| matches!(outcome, Outcome::Written(_))));
    assert!(session.end().await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_stops_answers_what_it_has_read_and_ends_the_session() {
    let node = Node::alone().await;
    let mut session = Session::open(&node).await;
    session.send([(1, Call::Put(put("a", "1")))]).await;
    assert!(matches!(session.answers(1).await[&1], Outcome::Written(_)));
    node.edge.doors().close(Closing::Stopping);
    // Its side is still open, and the session ends all the same.
    let end = session.replies.message().await.unwrap();
    assert!(end.is_none(), "{end:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_under_way_end_though_the_client_of_the_session_is_gone() {
    let node = Node::start(Plan { others: &["dc1", "dc1"], ..Plan::default() }).await;
    let session = Session::open(&node).await;
    session.send((0..100).map(|id| (id, Call::Put(v1::PutRequest { timeout_ms: 300, ..put("a", "1") })))).await;
    eventually("the requests are under way", async || node.coordinator.in_flight() > 0).await;
    drop(session);
    eventually("nothing of them is left", async || node.coordinator.under_way() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_whose_clients_take_nothing_hold_no_more_together_than_requests_may() {
    const VALUE_BYTES: usize = 1 << 20;
    const READS: usize = 20;
    let settings = cube_replication::coordinator::Settings { in_flight_bytes_max: 8 << 20, ..Default::default() };
    let node = Node::start(Plan { settings, ..Plan::default() }).await;
    let mut sessions = [Session::open(&node).await, Session::open(&node).await];
    sessions[0].send([(0, Call::Put(put("large", &"x".repeat(VALUE_BYTES))))]).await;
    sessions[0].answers(1).await;
    let begun = node.coordinator.begun();
    for (number, session) in (0..).zip(sessions.iter().cycle().take(2 * READS)) {
        let get = Call::Get(v1::GetRequest { key: key("large"), ..Default::default() });
        session.send([(number, get)]).await;
        // One after the other, so that none is refused for what the one before it holds.
        let is_over = async || node.coordinator.begun() > begun + number && node.coordinator.in_flight() == 0;
        eventually("the read is over", is_over).await;
    }
    let mut rows = 0;
    for session in &mut sessions {
        for outcome in session.answers(READS).await.values() {
            match outcome {
                Outcome::Row(_) => rows += 1,
                refused => assert_eq!(error_code(refused), "overloaded"),
            }
        }
    }
    // Those on their way to the client do not wait any more.
    assert!((8..=16).contains(&rows), "{rows} rows of 1 MiB waited");
    sessions[0].send([(99, Call::Get(v1::GetRequest { key: key("large"), ..Default::default() }))]).await;
    assert!(matches!(sessions[0].answers(1).await[&99], Outcome::Row(_)), "what is taken makes room");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_does_not_take_its_answers_holds_no_more_than_its_share() {
    const VALUE_BYTES: usize = 1 << 20;
    const READS: u64 = 400;
    let node = Node::alone().await;
    let mut session = Session::open(&node).await;
    session.send([(0, Call::Put(put("large", &"x".repeat(VALUE_BYTES))))]).await;
    session.answers(1).await;
    let get = || Call::Get(v1::GetRequest { key: key("large"), ..Default::default() });
    session.send((1..=READS).map(|id| (id, get()))).await;
    eventually("all are read", async || node.coordinator.in_flight() == 0).await;
    let answers = session.answers(usize::try_from(READS).unwrap()).await;
    let held: usize = answers.values().filter(|outcome| matches!(outcome, Outcome::Row(_))).count();
    let refused = answers.values().filter(|outcome| matches!(outcome, Outcome::Error(_)));
    assert!(held >= 1);
    assert!(held * VALUE_BYTES <= 128 << 20, "{held} rows of 1 MiB waited");
    for outcome in refused {
        assert_eq!(error_code(outcome), "overloaded");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_are_longer_than_the_limits_are_by_now_are_answered_and_end_no_session() {
    const VALUE_BYTES: usize = 1 << 20;
    let engine = MemoryEngine::new();
    let before = Node::start(Plan { engine: Some(engine.clone()), ..Plan::default() }).await;
    client(&before).await.put(put("large", &"x".repeat(VALUE_BYTES))).await.unwrap();
    drop(before);
    let (bytes, rows) = (64 << 10, 100);
    let limits = Limits {
        value_bytes_max: bytes,
        batch_bytes_max: bytes,
        page_bytes_max: bytes,
        batch_rows_max: rows,
        page_rows_max: rows,
        ..Limits::default()
    };
    let node = Node::start(Plan { engine: Some(engine), limits, ..Plan::default() }).await;
    let get = v1::GetRequest { key: key("large"), ..Default::default() };
    let many = v1::BatchGetRequest { keys: vec![key("large").unwrap()], ..Default::default() };
    let range = v1::RangeRequest { partition: "large".into(), limit: 100, ..Default::default() };
    let mut kv = client(&node).await;
    assert_eq!(kv.get(get.clone()).await.unwrap().into_inner().value.len(), VALUE_BYTES);
    let mut session = Session::open(&node).await;
    session.send([(1, Call::Get(get)), (2, Call::BatchGet(many)), (3, Call::Range(range))]).await;
    session.send([(4, Call::Put(put("small", "v")))]).await;
    let answers = session.answers(4).await;
    assert!(matches!(&answers[&1], Outcome::Row(row) if row.value.len() == VALUE_BYTES));
    let row_of = |outcome: &v1::RowResult| matches!(&outcome.outcome, Some(RowOutcome::Row(row)) if row.found);
    assert!(matches!(&answers[&2], Outcome::Rows(rows) if row_of(&rows.rows[0])));
    assert!(matches!(&answers[&3], Outcome::Page(page) if page.rows[0].value.len() == VALUE_BYTES));
    assert!(matches!(&answers[&4], Outcome::Written(_)));
    assert!(session.end().await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_is_longer_than_the_client_takes_is_an_error_of_its_request_alone() {
    const BYTES_MAX: usize = 64 << 10;
    let node = Node::alone().await;
    let mut kv = client(&node).await;
    kv.put(put("large", &"x".repeat(2 * BYTES_MAX))).await.unwrap();
    kv.put(put("fits", &"x".repeat(BYTES_MAX - 100))).await.unwrap();
    kv.put(put("small", &"x".repeat(10 << 10))).await.unwrap();
    let (requests, sent) = mpsc::channel(16);
    let mut kv = kv.max_decoding_message_size(BYTES_MAX);
    let mut session = Session { requests, replies: kv.session(ReceiverStream::new(sent)).await.unwrap().into_inner() };
    let said = SessionRequests { requests: Vec::new(), answer_bytes_max: BYTES_MAX as u64 };
    session.requests.send(said).await.unwrap();

    let get = |name: &str| Call::Get(v1::GetRequest { key: key(name), ..Default::default() });
    let many = v1::BatchGetRequest { keys: vec![key("large").unwrap(), key("small").unwrap()], ..Default::default() };
    let range = v1::RangeRequest { partition: "large".into(), ..Default::default() };
    let calls = [get("large"), Call::BatchGet(many), Call::Range(range), get("fits")];
    session.send((0..).zip(calls).chain((4..40).map(|id| (id, get("small"))))).await;
    let answers = session.answers(40).await;
    for id in 0..3 {
        let Outcome::Error(error) = &answers[&id] else { panic!("{id} is too long") };
        assert_eq!((error.code.as_str(), error.limit), ("answer_too_large", Some(BYTES_MAX as u64)));
        assert_eq!((error.status, error.may_take_effect), (tonic::Code::OutOfRange as u32, false));
    }
    assert!(
        (3..40).all(|id| matches!(&answers[&id], Outcome::Row(row) if row.found)),
        "they come in messages that fit"
    );

    let rows =
        (0..2_000).map(|row| v1::PutRow { key: key(&format!("row {row:040}")), value: "v".into(), ttl_ms: None });
    session.send([(40, Call::BatchPut(v1::BatchPutRequest { rows: rows.collect(), ..Default::default() }))]).await;
    let answers = session.answers(1).await;
    let Outcome::Error(error) = &answers[&40] else { panic!("what came of 2,000 rows is too long to tell") };
    assert_eq!((error.code.as_str(), error.may_take_effect), ("write_unknown", true), "it is done all the same");
    session.send([(41, get(&format!("row {:040}", 7)))]).await;
    assert!(matches!(&session.answers(1).await[&41], Outcome::Row(row) if row.found));
    assert!(session.end().await.is_empty());
}
