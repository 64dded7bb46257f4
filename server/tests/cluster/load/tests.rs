//! The checker catches what it must, and nothing else.

use super::checker::check;
use super::history::{History, Kind, Operation, Outcome};

fn operation(kind: Kind, span: (u64, u64), outcome: Outcome) -> Operation {
    let (started_us, ended_us) = span;
    Operation { kind, key: "row".to_owned(), node: 1, started_us, ended_us, outcome, version: None }
}

fn write(value: &str, started_us: u64, ended_us: u64, outcome: Outcome) -> Operation {
    operation(Kind::Write { value: value.to_owned() }, (started_us, ended_us), outcome)
}

fn acknowledged(value: &str, started_us: u64, ended_us: u64) -> Operation {
    write(value, started_us, ended_us, Outcome::Acknowledged)
}

fn unknown(value: &str, started_us: u64, ended_us: u64) -> Operation {
    write(value, started_us, ended_us, Outcome::Unknown("no answer".to_owned()))
}

fn refused(value: &str, started_us: u64, ended_us: u64) -> Operation {
    write(value, started_us, ended_us, Outcome::Refused("unavailable".to_owned()))
}

fn read(found: &str, started_us: u64, ended_us: u64) -> Operation {
    let found = (!found.is_empty()).then(|| found.to_owned());
    operation(Kind::Read, (started_us, ended_us), Outcome::Found(found))
}

fn assert_caught(operations: &[Operation], what: &str) {
    let wrong = check(operations);
    assert!(wrong.iter().any(|wrong| wrong.contains(what)), "{what}: {wrong:?} in {operations:#?}");
}

fn assert_allowed(operations: &[Operation]) {
    assert_eq!(check(operations), Vec::<String>::new(), "{operations:#?}");
}

#[test]
fn a_lost_write_is_caught() {
    assert_caught(&[acknowledged("a", 1, 2), read("", 3, 4)], "missed");
    assert_caught(&[acknowledged("a", 1, 2), acknowledged("b", 3, 4), read("a", 5, 6)], "missed");
    // Also when a later write overtook it, and then both are gone.
    assert_caught(
        &[acknowledged("a", 1, 2), acknowledged("b", 3, 9), acknowledged("c", 4, 5), read("a", 6, 7)],
        "missed",
    );
}

#[test]
fn either_of_two_concurrent_writes_may_win_and_the_winner_stays() {
    let writes = [acknowledged("a", 1, 10), acknowledged("b", 2, 9)];
    let with = |reads: &[Operation]| [&writes[..], reads].concat();
    assert_allowed(&with(&[read("a", 11, 12), read("a", 13, 14)]));
    assert_allowed(&with(&[read("b", 11, 12), read("b", 13, 14)]));
    assert_allowed(&with(&[read("", 0, 3), read("b", 3, 4)]));
    assert_caught(&with(&[read("", 11, 12)]), "missed");
}

#[test]
fn a_write_that_was_not_answered_may_be_seen_or_not_also_much_later() {
    let writes = [acknowledged("a", 1, 2), unknown("b", 3, 4)];
    let with = |reads: &[Operation]| [&writes[..], reads].concat();
    assert_allowed(&with(&[read("a", 5, 6), read("b", 7, 8)]));
    assert_allowed(&with(&[read("b", 5, 6), read("b", 7, 8)]));
    // It may win once more over what was written meanwhile.
    assert_allowed(&with(&[acknowledged("c", 5, 6), read("c", 7, 8), read("b", 9, 10)]));
    assert_caught(&with(&[read("", 5, 6)]), "missed");
}

#[test]
fn a_refused_write_that_takes_effect_is_caught() {
    assert_caught(&[refused("a", 1, 2), read("a", 3, 4)], "refused");
    assert_allowed(&[refused("a", 1, 2), read("", 3, 4)]);
}

#[test]
fn values_from_nowhere_and_from_the_future_are_caught() {
    assert_caught(&[read("a", 1, 2)], "nobody wrote");
    assert_caught(&[read("a", 1, 2), acknowledged("a", 3, 4)], "before it was written");
    assert_allowed(&[read("a", 1, 4), acknowledged("a", 3, 6)]);
}

#[test]
fn reads_that_go_backwards_are_caught() {
    // The second write is still under way: not to see it is allowed, to see it and then not any more is none.
    let writes = [acknowledged("a", 1, 2), acknowledged("b", 3, 20)];
    let with = |reads: &[Operation]| [&writes[..], reads].concat();
    assert_allowed(&with(&[read("a", 4, 6), read("b", 5, 7), read("b", 8, 9)]));
    assert_caught(&with(&[read("b", 4, 5), read("a", 6, 7)]), "backwards");
    assert_caught(&[unknown("a", 1, 2), read("a", 3, 4), read("", 5, 6)], "backwards");
    // Side by side, there is no before and after.
    assert_allowed(&with(&[read("b", 4, 7), read("a", 6, 8)]));
}

#[test]
fn an_older_version_than_was_acknowledged_or_found_before_is_caught() {
    let at = |timestamp: u64, operation: Operation| Operation { version: Some((timestamp, 0)), ..operation };
    let writes = [at(5, acknowledged("a", 1, 10)), at(7, acknowledged("b", 2, 9))];
    let with = |reads: &[Operation]| [&writes[..], reads].concat();
    assert_allowed(&with(&[at(5, read("a", 3, 4)), at(7, read("b", 11, 12))]));
    assert_caught(&with(&[at(5, read("a", 11, 12))]), "older version");
    assert_caught(&with(&[at(7, read("b", 3, 4)), at(5, read("a", 5, 6))]), "older version");
}

#[test]
fn rows_are_judged_each_for_itself() {
    let elsewhere = |operation: Operation| Operation { key: "other".to_owned(), ..operation };
    assert_allowed(&[acknowledged("a", 1, 2), elsewhere(read("", 3, 4)), read("a", 3, 4)]);
    assert_caught(&[acknowledged("a", 1, 2), elsewhere(acknowledged("b", 1, 2)), elsewhere(read("a", 3, 4))], "nobody");
}

#[test]
fn failures_are_counted_by_node_and_time() {
    let history = History::of(vec![refused("a", 10, 11), unknown("b", 20, 29), acknowledged("c", 20, 21)]);
    assert_eq!(history.failures(&[1], 0, 15).values().sum::<usize>(), 1);
    assert_eq!(history.failures(&[1], 0, 100).values().sum::<usize>(), 2);
    assert!(history.failures(&[2], 0, 100).is_empty());
    assert_eq!(history.failures(&[1], 12, 20).values().sum::<usize>(), 0);
    assert_eq!(history.summary(), "writes done: 1; writes refused: 1; writes unknown: 1; ");
}
