//! What counts as an answer to a read.

use cube_storage::model::{RecordHeader, Version};

use super::*;
use crate::messages::{Found, Refusal, ReplyBody};

/// A row that is held, with its record or without.
fn held(with_record: bool) -> Result<Found, Refusal> {
    let record = Record::value(Version::ZERO, "v");
    let header = Some(RecordHeader::of(&record, 7));
    Ok(Found { header, record: with_record.then_some(record), floor: Hlc(0) })
}

fn absent() -> Result<Found, Refusal> {
    Ok(Found { header: None, record: None, floor: Hlc(0) })
}

fn told(rows: Vec<Result<Found, Refusal>>, want: Want) -> Vec<bool> {
    let count = rows.len();
    let reply = Reply { from: NodeId(1), clock: Hlc(0), body: Ok(ReplyBody::Rows(rows)) };
    found_by(Ok(reply), count, want).iter().map(Result::is_ok).collect()
}

#[test]
fn a_reply_that_is_full_counts_for_the_rows_behind_too() {
    assert_eq!(told(vec![absent(), held(true), held(false), absent(), held(false)], Want::Record), [true; 5]);
    assert_eq!(told(vec![held(false), held(false)], Want::Header), [true, true]);
}

/// Asked again it would say the same, and so on until the deadline.
#[test]
fn a_reply_that_brings_none_of_the_records_it_was_asked_for_is_no_answer() {
    assert_eq!(told(vec![held(false), absent(), held(false)], Want::Record), [false, true, false]);
}

#[test]
fn a_reply_to_another_question_is_no_answer() {
    let reply = |body| Ok(Reply { from: NodeId(1), clock: Hlc(0), body });
    for body in [Ok(ReplyBody::Wrote(Vec::new())), Ok(ReplyBody::Rows(vec![absent()])), Err(Refusal::DiskFull)] {
        let found = found_by(reply(body), 2, Want::Record);
        assert_eq!(found.len(), 2);
        assert!(found.iter().all(Result::is_err), "{found:?}");
    }
}
