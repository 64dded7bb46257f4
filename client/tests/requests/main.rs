//! Routing, retries, refresh and deadlines, against nodes that say what the test tells them to.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

mod fake;

use std::time::Duration;

use cube_client::{Batcher, BatcherOptions, Error, Key, Options};
use fake::{Cluster, Say, refusal};
use futures::future::join_all;
use tokio::time::{Instant, timeout};
use tonic::Code;

/// The tokens of these begin with e6 and 30: the upper and the lower half.
const UPPER: &str = "a";
const LOWER: &str = "user_alice";
/// Longer than anything takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn patient() -> Options {
    Options { timeout: PATIENCE, read_attempt: PATIENCE, ..Options::default() }
}

#[tokio::test]
async fn each_request_goes_to_a_replica_of_its_key() {
    let cluster = Cluster::of(3).await;
    cluster.place([&[1], &[3]]);
    let table = cluster.client_with(patient()).await.default_table();
    for _ in 0..3 {
        table.put(UPPER, "v").send().await.unwrap();
        table.put(LOWER, "v").send().await.unwrap();
    }
    assert_eq!(cluster.shared.seen_by(), [3, 1, 3, 1, 3, 1]);
}

#[tokio::test]
async fn a_release_without_a_map_is_asked_all_the_same() {
    let cluster = Cluster::of(3).await;
    let table = cluster.client_with(patient()).await.default_table();
    for _ in 0..6 {
        table.put(UPPER, "v").send().await.unwrap();
    }
    let mut seen = cluster.shared.seen_by();
    seen.sort_unstable();
    assert_eq!(seen, [1, 1, 2, 2, 3, 3]);
}

#[tokio::test]
async fn a_write_to_a_node_that_is_gone_goes_to_another_one() {
    let mut cluster = Cluster::of(2).await;
    cluster.place([&[1], &[1]]);
    let table = cluster.client_with(patient()).await.default_table();
    cluster.kill(1).await;
    table.put(UPPER, "v").send().await.unwrap();
    assert_eq!(cluster.shared.seen_by(), [2]);
}

#[tokio::test]
async fn a_write_that_no_node_took_says_that_nothing_was_written() {
    let mut cluster = Cluster::of(1).await;
    let options = Options { attempts_max: 3, ..patient() };
    let table = cluster.client_with(options).await.default_table();
    cluster.kill(1).await;
    let error = table.put(UPPER, "v").send().await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { attempts: 3, .. }), "{error}");
    assert!(!error.may_take_effect());
}

#[tokio::test]
async fn a_write_whose_answer_is_lost_is_sent_once_and_called_unknown() {
    let cluster = Cluster::of(2).await;
    let table = cluster.client_with(patient()).await.default_table();
    for node in [1, 2] {
        cluster.say(node, [Say::DoneButLost]);
    }
    let error = table.put(UPPER, "v").send().await.unwrap_err();
    assert!(matches!(error, Error::Unknown { .. }) && error.may_take_effect(), "{error}");
    assert_eq!(cluster.shared.seen_by().len(), 1);
}

#[tokio::test]
async fn a_retried_write_never_makes_its_older_value_win_over_a_newer_one() {
    let cluster = Cluster::of(3).await;
    let table = cluster.client_with(patient()).await.default_table();
    // Whichever node is asked writes it and loses the answer; then somebody else writes the row through node 2.
    for node in [1, 2, 3] {
        cluster.say(node, [Say::DoneButLost]);
    }
    *cluster.shared.meanwhile.lock().unwrap() = Some((UPPER.into(), "newer".into(), 2));
    table.put(UPPER, "older").repeatable().send().await.unwrap();
    let seen = cluster.shared.seen.lock().unwrap().clone();
    assert_eq!(seen.len(), 4, "{seen:?}");
    assert!(seen.iter().all(|write| write.timestamp_ms == seen[0].timestamp_ms), "one timestamp: {seen:?}");
    assert!(seen[0].timestamp_ms.is_some());
    assert_ne!(seen[0].node, seen[1].node, "the node that may be gone is not waited for");
    assert_eq!(cluster.shared.value(UPPER).unwrap(), "newer");
}

#[tokio::test]
async fn what_a_write_may_have_done_stays_unknown_whatever_is_said_later() {
    let cluster = Cluster::of(1).await;
    let table = cluster.client_with(patient()).await.default_table();
    let no = refusal("timestamp_too_old", Code::FailedPrecondition, false);
    cluster.say(1, [Say::DoneButLost, Say::No(no)]);
    let error = table.put(UPPER, "v").repeatable().send().await.unwrap_err();
    assert!(error.may_take_effect(), "{error}");
}

#[tokio::test]
async fn repeatable_writes_of_one_client_are_in_the_order_in_which_it_made_them() {
    let cluster = Cluster::of(1).await;
    let table = cluster.client_with(patient()).await.default_table();
    for number in 0..20 {
        table.put(UPPER, number.to_string()).repeatable().send().await.unwrap();
    }
    assert_eq!(cluster.shared.value(UPPER).unwrap(), "19");
}

#[tokio::test]
async fn an_overloaded_cluster_is_asked_again_after_the_time_it_names() {
    let cluster = Cluster::of(1).await;
    let table = cluster.client_with(patient()).await.default_table();
    let later = with_hint(refusal("overloaded", Code::ResourceExhausted, false), Duration::from_millis(150));
    cluster.say(1, [Say::No(later)]);
    let started = Instant::now();
    table.put(UPPER, "v").send().await.unwrap();
    assert!(started.elapsed() >= Duration::from_millis(150));
    assert_eq!(cluster.shared.seen_by().len(), 2);
}

fn with_hint(mut detail: Box<cube_proto::v1::ErrorDetail>, hint: Duration) -> Box<cube_proto::v1::ErrorDetail> {
    detail.retry_after_ms = Some(u32::try_from(hint.as_millis()).unwrap());
    detail
}

#[tokio::test]
async fn what_is_wrong_with_a_request_is_told_at_once_in_the_nodes_words() {
    let cluster = Cluster::of(2).await;
    let table = cluster.client_with(patient()).await.default_table();
    for node in [1, 2] {
        cluster.say(node, [Say::No(refusal("value_too_large", Code::InvalidArgument, false))]);
    }
    let error = table.put(UPPER, "v").send().await.unwrap_err();
    assert_eq!((error.code(), error.may_take_effect()), ("value_too_large", false));
    assert_eq!(cluster.shared.seen_by().len(), 1);
}

#[tokio::test]
async fn an_answer_that_is_larger_than_the_client_takes_is_told_as_that_and_not_asked_for_again() {
    let cluster = Cluster::of(2).await;
    cluster.place([&[1], &[1]]);
    let client = cluster.client_with(Options { answer_bytes_max: 64 << 10, ..patient() }).await;
    let table = client.default_table();
    table.put(UPPER, vec![b'v'; 32 << 10]).send().await.unwrap();
    assert_eq!(table.get(UPPER).send().await.unwrap().value.unwrap().len(), 32 << 10, "one within the bound is taken");
    table.put(UPPER, vec![b'v'; 128 << 10]).send().await.unwrap();
    let before = cluster.shared.seen_by().len();
    let error = table.get(UPPER).send().await.unwrap_err();
    assert!(matches!(error, Error::Refused { .. }) && error.code() == "answer_too_large", "{error}");
    assert!(error.to_string().contains("too large") && error.to_string().contains("65536"), "{error}");
    assert_eq!(cluster.shared.seen_by().len(), before + 1, "another node would answer the same");
}

#[tokio::test]
async fn a_read_that_hangs_is_asked_elsewhere() {
    let cluster = Cluster::of(2).await;
    cluster.place([&[1], &[1]]);
    let options = Options { read_attempt: Duration::from_millis(200), timeout: PATIENCE, ..Options::default() };
    let table = cluster.client_with(options).await.default_table();
    cluster.say(1, [Say::Nothing]);
    assert_eq!(table.get(UPPER).send().await.unwrap().value, None);
    assert_eq!(cluster.shared.seen_by(), [1, 2]);
}

#[tokio::test]
async fn a_node_that_hung_is_asked_for_rows_again_once_it_answers() {
    let cluster = Cluster::of(2).await;
    cluster.place([&[1], &[1]]);
    let options = Options { read_attempt: Duration::from_millis(200), timeout: PATIENCE, ..Options::default() };
    let table = cluster.client_with(options).await.default_table();
    cluster.say(1, [Say::Nothing]);
    let back = async {
        table.get(UPPER).send().await.unwrap();
        // What is not said is answered: the client finds out by itself.
        while cluster.shared.seen_by()[1..].iter().all(|node| *node == 2) {
            tokio::time::sleep(Duration::from_millis(10)).await;
            table.get(UPPER).send().await.unwrap();
        }
    };
    timeout(PATIENCE, back).await.unwrap();
}

#[tokio::test]
async fn a_deadline_ends_every_request_with_what_is_known() {
    let cluster = Cluster::of(1).await;
    let table = cluster.client_with(patient()).await.default_table();
    cluster.say(1, [Say::Nothing, Say::Nothing]);
    let short = Duration::from_millis(200);
    let read = timeout(PATIENCE, table.get(UPPER).timeout(short).send()).await.unwrap().unwrap_err();
    assert!(matches!(read, Error::NotAnswered { .. }), "{read}");
    let write = timeout(PATIENCE, table.put(UPPER, "v").timeout(short).send()).await.unwrap().unwrap_err();
    assert!(matches!(write, Error::Unknown { .. }), "{write}");
}

#[tokio::test]
async fn a_client_learns_of_new_replicas_when_an_answer_tells_of_them() {
    let cluster = Cluster::of(2).await;
    cluster.place([&[1], &[1]]);
    let options = Options { refresh_every: PATIENCE * 10, ..patient() };
    let table = cluster.client_with(options).await.default_table();
    table.put(UPPER, "v").send().await.unwrap();
    cluster.place([&[2], &[2]]);
    let mut stale = refusal("unavailable", Code::Unavailable, false);
    let newer =
        cube_proto::v1::ReplicaFailure { node: "node-2".into(), code: "newer_map".into(), message: String::new() };
    stale.failures.push(newer);
    cluster.say(1, [Say::No(stale)]);
    let learned = async {
        // Two in a row: one alone may be the retry of the refused one.
        while !cluster.shared.seen_by().ends_with(&[2, 2, 2]) {
            table.put(UPPER, "v").send().await.unwrap();
        }
    };
    timeout(PATIENCE, learned).await.unwrap();
}

#[tokio::test]
async fn a_range_is_read_page_by_page_to_its_end() {
    let cluster = Cluster::of(1).await;
    let table = cluster.client_with(patient()).await.default_table();
    for number in 0..7 {
        table.put(Key::sorted("p", format!("{number}")), "v").send().await.unwrap();
    }
    let mut range = table.range("p").page_rows(3);
    let mut sorts = Vec::new();
    while let Some(row) = range.next().await.unwrap() {
        sorts.push(row.key.sort);
    }
    assert_eq!(sorts, ["0", "1", "2", "3", "4", "5", "6"]);
    assert!(range.next_page().await.unwrap().is_none());
}

#[tokio::test]
async fn requests_of_a_session_get_their_own_answers_in_whatever_order() {
    let cluster = Cluster::of(1).await;
    let client = cluster.client_with(patient()).await;
    let table = client.session().default_table();
    let keys: Vec<String> = (0..200).map(|number| format!("k{number}")).collect();
    let put = |key: &String| table.put(key.as_str(), key.clone()).send();
    for written in join_all(keys.iter().map(put)).await {
        written.unwrap();
    }
    let found = join_all(keys.iter().map(|key| table.get(key.as_str()).send())).await;
    for (key, found) in keys.iter().zip(found) {
        assert_eq!(found.unwrap().value.unwrap(), *key);
    }
}

#[tokio::test]
async fn a_session_that_breaks_leaves_its_writes_unknown_and_goes_on_with_a_new_stream() {
    let cluster = Cluster::of(1).await;
    let client = cluster.client_with(patient()).await;
    let table = client.session().default_table();
    cluster.say(1, [Say::Lost]);
    let error = table.put(UPPER, "v").send().await.unwrap_err();
    assert!(matches!(error, Error::Unknown { .. }), "{error}");
    table.put(UPPER, "v").send().await.unwrap();
    cluster.say(1, [Say::No(refusal("empty_key", Code::InvalidArgument, false))]);
    assert_eq!(table.put("", "v").send().await.unwrap_err().code(), "empty_key");
}

#[tokio::test]
async fn a_session_that_ends_in_order_never_began_what_it_did_not_answer() {
    let cluster = Cluster::of(2).await;
    cluster.place([&[1], &[1]]);
    let client = cluster.client_with(patient()).await;
    let table = client.session().default_table();
    cluster.say(1, [Say::Nothing]);
    table.put(UPPER, "v").send().await.unwrap();
    assert_eq!(cluster.shared.seen_by(), [1, 2]);
}

#[tokio::test]
async fn a_session_that_a_node_ends_in_its_own_words_never_began_what_it_did_not_answer() {
    let cluster = Cluster::of(1).await;
    let table = cluster.client_with(patient()).await.session().default_table();
    let later = with_hint(refusal("overloaded", Code::ResourceExhausted, false), Duration::from_millis(1));
    cluster.say(1, [Say::Ends(later)]);
    table.put(UPPER, "v").send().await.unwrap();
    assert_eq!(cluster.shared.seen_by().len(), 2, "it is asked for again");
    // It says of which message it speaks by the limit alone.
    let mut too_large = refusal("message_too_large", Code::InvalidArgument, false);
    too_large.limit = Some(1 << 10);
    cluster.say(1, [Say::Ends(too_large)]);
    table.put(UPPER, "short").send().await.unwrap();
    let error = table.put(UPPER, vec![b'v'; 2 << 10]).send().await.unwrap_err();
    assert_eq!((error.code(), error.refusal().unwrap().limit), ("message_too_large", Some(1 << 10)));
    assert_eq!(cluster.shared.seen_by().len(), 4, "what is known to be too long is not sent");
    assert_eq!(cluster.shared.value(UPPER).unwrap(), "short");
}

#[tokio::test]
async fn each_row_of_a_batcher_has_its_own_outcome() {
    let cluster = Cluster::of(1).await;
    let table = cluster.client_with(patient()).await.default_table();
    let options = BatcherOptions { rows_max: 4, wait_max: PATIENCE, ..BatcherOptions::default() };
    let batcher = Batcher::new(table, options);
    let keys = ["a", "bad", "c", "d"];
    let outcomes = join_all(keys.map(|key| batcher.put(key, "v"))).await;
    let told: Vec<bool> = outcomes.iter().map(Result::is_ok).collect();
    assert_eq!(told, [true, false, true, true]);
    assert_eq!(outcomes[1].as_ref().unwrap_err().code(), "value_too_large");
}

#[tokio::test]
async fn the_later_of_two_writes_of_a_row_wins_in_a_batcher_and_both_are_sent() {
    let cluster = Cluster::of(1).await;
    let table = cluster.client_with(patient()).await.default_table();
    let options = BatcherOptions {
        rows_max: 2,
        wait_max: Duration::from_millis(50),
        in_flight_max: 1,
        ..BatcherOptions::default()
    };
    let batcher = Batcher::new(table, options);
    let outcomes = join_all([batcher.put("k", "1"), batcher.put("k", "2")]).await;
    assert!(outcomes.iter().all(Result::is_ok));
    assert_eq!(cluster.shared.seen_by().len(), 2);
    assert_eq!(cluster.shared.value("k").unwrap(), "2");
}

#[tokio::test]
async fn a_scan_is_read_page_by_page_and_goes_on_behind_the_last_page_whatever_befalls_a_node() {
    let cluster = Cluster::of(2).await;
    let table = cluster.client_with(patient()).await.default_table();
    for number in 0..7 {
        table.put(format!("user:{number}"), "v").send().await.unwrap();
    }
    table.put("other", "v").send().await.unwrap();
    let shutting_down = refusal("shutting_down", Code::Unavailable, false);
    // A page, then one that fell short of its level, one that is refused, and one that is lost: on whichever node.
    for node in [1, 2] {
        cluster.say(node, [Say::Yes, Say::DoneButLost, Say::No(shutting_down.clone()), Say::Lost]);
    }
    let mut scan = table.scan("user:").page_rows(2);
    let mut keys = Vec::new();
    while let Some(row) = scan.next().await.unwrap() {
        keys.push(row.key.to_string());
    }
    assert_eq!(keys, ["user:0", "user:1", "user:2", "user:3", "user:4", "user:5", "user:6"]);
    assert!(scan.next_page().await.unwrap().is_none());
}

#[tokio::test]
async fn a_scan_ends_at_its_limit() {
    let cluster = Cluster::of(1).await;
    let table = cluster.client_with(patient()).await.default_table();
    for number in 0..5 {
        table.put(format!("user:{number}"), "v").send().await.unwrap();
    }
    let mut scan = table.scan("user:").page_rows(1).limit(3);
    let mut count = 0;
    while scan.next().await.unwrap().is_some() {
        count += 1;
    }
    assert_eq!(count, 3);
}
