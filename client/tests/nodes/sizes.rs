//! Messages in a session that are longer than the client or the node takes: they end their own request, and no other.

use cube_client::{Client, Error, Options, Table};
use futures::future::join_all;

use super::{PATIENCE, RealNodes};

/// The longest answer that these clients take.
const ANSWER_BYTES: usize = 64 << 10;
/// Longer than a node takes a message to be by the limits that nodes have.
const MESSAGE_BYTES: usize = 20 << 20;
/// Writes that are in flight beside what is too long.
const WRITES: usize = 100;

async fn client(nodes: &RealNodes, answer_bytes_max: usize) -> Client {
    let options = Options { timeout: PATIENCE, read_attempt: PATIENCE, answer_bytes_max, ..Options::default() };
    Client::connect_with(nodes.addresses(), options).await.unwrap()
}

/// Writes rows that nothing else has to do with.
async fn write(table: &Table, round: usize) {
    let written = join_all((0..WRITES).map(|row| table.put(format!("{round}-{row}"), "v").send())).await;
    for (row, written) in written.into_iter().enumerate() {
        written.unwrap_or_else(|error| panic!("write {row} of round {round}: {error}"));
    }
}

#[tokio::test]
async fn an_answer_that_is_longer_than_the_client_takes_ends_its_own_request_alone() {
    let nodes = RealNodes::start(1);
    let usual = client(&nodes, Options::default().answer_bytes_max).await.default_table();
    usual.put("large", vec![b'v'; 2 * ANSWER_BYTES]).send().await.unwrap();
    usual.put("fits", vec![b'v'; ANSWER_BYTES - 1_000]).send().await.unwrap();
    let client = client(&nodes, ANSWER_BYTES).await;
    let unary = client.default_table().get("large").send().await.unwrap_err();
    let session = client.session().default_table();
    for round in 0..5 {
        let (one, many, page, fits, ()) = futures::join!(
            session.get("large").send(),
            session.get_all(["large"]).send(),
            async { session.range("large").next().await },
            join_all((0..10).map(|_| session.get("fits").send())),
            write(&session, round),
        );
        for error in [one.unwrap_err(), many.unwrap_err(), page.unwrap_err()] {
            assert_eq!(error.code(), unary.code(), "as a call of its own: {error}");
            assert!(matches!(error, Error::Refused { .. }) && !error.may_take_effect(), "{error}");
            assert_eq!((error.code(), error.refusal().unwrap().limit), ("answer_too_large", Some(ANSWER_BYTES as u64)));
        }
        assert!(fits.iter().all(Result::is_ok), "short answers that are too long together come one by one");
    }
}

#[tokio::test]
async fn a_request_that_is_longer_than_the_node_takes_ends_alone() {
    let nodes = RealNodes::start(1);
    let client = client(&nodes, Options::default().answer_bytes_max).await;
    let value = bytes::Bytes::from(vec![b'v'; MESSAGE_BYTES]);
    let unary = client.default_table().put("large", value.clone()).send().await.unwrap_err();
    let session = client.session().default_table();
    for round in 0..5 {
        let (large, ()) = futures::join!(session.put("large", value.clone()).send(), write(&session, round));
        let error = large.unwrap_err();
        assert_eq!((error.code(), error.may_take_effect()), ("message_too_large", false), "{error}");
        assert_eq!(error.code(), unary.code(), "as a call of its own: {error}");
        assert_eq!(error.refusal().unwrap().limit, unary.refusal().unwrap().limit);
    }
}

#[tokio::test]
async fn requests_that_are_too_long_together_go_in_messages_of_their_own() {
    let nodes = RealNodes::start(1);
    let session = client(&nodes, Options::default().answer_bytes_max).await.session().default_table();
    let keys = |batch: usize| (0..1_000).map(move |row| format!("{batch}-{row}-{}", "k".repeat(4_000)));
    let found = join_all((0..2 * MESSAGE_BYTES / 4_000_000).map(|batch| session.get_all(keys(batch)).send())).await;
    assert!(found.len() > 8);
    for (batch, found) in found.into_iter().enumerate() {
        assert_eq!(found.unwrap_or_else(|error| panic!("batch {batch}: {error}")).len(), 1_000);
    }
}
