//! A request takes effect once, and the bytes of a log stay readable.

use cube_storage::model::NodeId;
use openraft::{CommittedLeaderId, EntryPayload};

use super::super::command::{Reply, Request, RequestId};
use super::super::machine::{Machine, REQUESTS_REMEMBERED};
use super::super::raft_types::{Entry, LogId};
use super::super::sealed::{seal, unseal};
use super::super::{Answer, Command, Refusal};
use super::{create_table, founding};

fn log_id(index: u64) -> LogId {
    LogId::new(CommittedLeaderId::new(1, 0), index)
}

pub(super) fn request(number: u64, after: u64, command: Command) -> Request {
    Request { id: RequestId { proposer: NodeId(0), start: 9, number }, after, command }
}

pub(super) fn entry(index: u64, request: Request) -> Entry {
    Entry { log_id: log_id(index), payload: EntryPayload::Normal(request) }
}

fn founded() -> Machine {
    let mut machine = Machine::new();
    machine.apply(entry(1, request(0, 0, Command::Found(founding()))));
    machine
}

#[test]
fn a_request_that_is_in_the_log_twice_takes_effect_once_and_is_answered_alike() {
    let mut machine = founded();
    let made = request(1, 1, create_table("events"));
    let first = machine.apply(entry(2, made.clone()));
    assert!(matches!(first, Reply::Decided(Ok(Answer::TableCreated { .. }))), "{first:?}");
    for index in 3..=1 + REQUESTS_REMEMBERED {
        if index % 100 == 0 {
            assert_eq!(machine.apply(entry(index, made.clone())), first, "entry {index}");
        } else {
            machine.apply(Entry { log_id: log_id(index), payload: EntryPayload::Blank });
        }
    }
    let another = request(2, 500, create_table("events"));
    let exists = machine.apply(entry(600, another));
    assert!(matches!(exists, Reply::Decided(Err(Refusal::TableExists { .. }))), "another request is decided anew");
}

#[test]
fn a_request_is_refused_once_its_first_answer_may_be_forgotten() {
    let made = request(1, 1, create_table("events"));
    let last = 1 + REQUESTS_REMEMBERED;
    let mut in_time = founded();
    assert!(matches!(in_time.apply(entry(last, made.clone())), Reply::Decided(Ok(_))));
    let mut late = founded();
    let refused = late.apply(entry(last + 1, made));
    assert_eq!(refused, Reply::Decided(Err(Refusal::TooLate { after: 1, index: last + 1 })));
}

/// Whenever a copy could still be accepted, the first answer is remembered.
#[test]
fn no_two_entries_of_a_request_both_take_effect() {
    for (first, second) in [(2, 3), (2, 513), (2, 514), (2, 1_000), (400, 513), (512, 513), (513, 514)] {
        let mut machine = founded();
        let made = request(1, 1, create_table("events"));
        let outcomes = [first, second].map(|index| machine.apply(entry(index, made.clone())));
        let created = Reply::Decided(Ok(Answer::TableCreated { table: cube_storage::model::TableId(2) }));
        assert_eq!(outcomes[0], created);
        let late = Reply::Decided(Err(Refusal::TooLate { after: 1, index: second }));
        assert!(outcomes[1] == created || outcomes[1] == late, "{first} and {second}: {outcomes:?}");
        assert_eq!(machine.state.next_table.0, 3, "{first} and {second}");
    }
}

#[test]
fn what_is_remembered_has_a_bound() {
    let mut machine = founded();
    for index in 2..2_000 {
        let drop = Command::DropKeyspace { name: "none".to_owned(), if_exists: true };
        machine.apply(entry(index, request(index, index - 1, drop)));
    }
    let bytes = postcard::to_stdvec(&machine).unwrap().len();
    assert!(bytes < 64 << 10, "{bytes} bytes");
}

/// The log on disk, and the messages of a rolling upgrade, hold these.
#[test]
fn entries_of_format_1_are_read_as_they_were_written() {
    let written = entry(3, request(1, 2, create_table("events")));
    let fixture = include_str!("entry.format1.hex").trim();
    let sealed = seal(&3u64.to_be_bytes(), &written).unwrap();
    let hex: String = sealed.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, fixture, "the format of the log changed: give it a new number, and keep reading the old one");
    assert_eq!(unseal::<Entry>(&3u64.to_be_bytes(), &sealed).unwrap(), written);
}
