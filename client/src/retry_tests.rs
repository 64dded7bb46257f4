//! Every kind of request against every kind of failure.

use super::*;

fn refused(code: &str, status: u32, may_take_effect: bool) -> Failure {
    Failure::Refused(Box::new(Refusal { may_take_effect, status, ..Refusal::plain(code, String::new()) }))
}

fn lost() -> Failure {
    Failure::Lost("gone".to_owned())
}

#[test]
fn a_write_that_may_have_taken_effect_is_not_repeated() {
    for failure in [lost(), Failure::Slow, refused("write_unknown", 4, true), refused("write_not_noted", 4, true)] {
        assert_eq!(next(Kind::Write, 1, 8, &failure), Next::GiveUp, "{failure:?}");
    }
}

#[test]
fn a_write_with_a_fixed_timestamp_is_repeated_through_any_node() {
    let failures = [lost(), Failure::Slow, refused("write_unknown", 4, true), Failure::Unsent("refused".to_owned())];
    for failure in failures {
        assert!(matches!(next(Kind::Repeatable, 1, 8, &failure), Next::Elsewhere(_)), "{failure:?}");
    }
}

#[test]
fn a_write_of_which_nothing_was_written_is_tried_elsewhere() {
    let failures = [
        Failure::Unsent("refused".to_owned()),
        refused("unavailable", 14, false),
        refused("shutting_down", 14, false),
        refused("drained", 14, false),
        refused("overloaded", 8, false),
    ];
    for failure in failures {
        assert!(matches!(next(Kind::Write, 1, 8, &failure), Next::Elsewhere(_)), "{failure:?}");
    }
}

#[test]
fn a_node_that_is_drained_or_stops_is_avoided_for_a_while() {
    assert!(["shutting_down", "drained"].iter().all(|code| refused(code, 14, false).is_loss_of_node()));
    assert!(!refused("unavailable", 14, false).is_loss_of_node());
}

#[test]
fn reads_are_repeated_after_everything_that_may_pass() {
    for failure in [lost(), Failure::Slow, refused("read_timeout", 4, false), refused("read_failed", 14, false)] {
        assert!(matches!(next(Kind::Read, 1, 8, &failure), Next::Elsewhere(_)), "{failure:?}");
    }
}

#[test]
fn what_is_wrong_with_the_request_itself_is_not_repeated() {
    let failures = [
        refused("empty_key", 3, false),
        refused("unknown_table", 5, false),
        refused("timestamp_too_old", 9, false),
        refused("answer_full", 11, false),
        Failure::Misunderstood("what".to_owned()),
    ];
    for failure in failures {
        for kind in [Kind::Read, Kind::Write, Kind::Repeatable] {
            assert_eq!(next(kind, 1, 8, &failure), Next::GiveUp, "{failure:?}");
        }
    }
}

#[test]
fn attempts_are_bounded_and_come_ever_later() {
    assert_eq!(next(Kind::Read, 8, 8, &lost()), Next::GiveUp);
    let wait = |attempt| match next(Kind::Read, attempt, 100, &lost()) {
        Next::Elsewhere(wait) => wait,
        other => panic!("{other:?}"),
    };
    assert_eq!(wait(1), Duration::ZERO);
    assert!(wait(2) < wait(3));
    assert_eq!(wait(50), BACKOFF_MAX);
}

#[test]
fn the_hint_of_an_overloaded_node_is_heeded() {
    let mut failure = refused("overloaded", 8, false);
    if let Failure::Refused(refusal) = &mut failure {
        refusal.retry_after = Some(Duration::from_millis(70));
    }
    assert_eq!(next(Kind::Write, 1, 8, &failure), Next::Elsewhere(Duration::from_millis(70)));
}

#[tokio::test]
async fn a_refusal_tells_more_than_silence_and_never_hides_that_a_write_may_be_done() {
    let node = |address: &str| Arc::new(Node::new(address, &crate::Options::default()).unwrap());
    let (living, dead) = (node("127.0.0.1:1"), node("127.0.0.1:2"));
    let refusal = refused("unavailable", 14, false);
    let told = |kind, last: Failure| {
        let mut words = Words::default();
        words.note(&living, &refusal);
        words.note(&dead, &last);
        let (by, told) = words.or(kind, &dead, last);
        (by.address.clone(), told)
    };
    let unsent = Failure::Unsent("refused".into());
    assert_eq!(told(Kind::Write, unsent.clone()), (living.address.clone(), refusal.clone()));
    assert_eq!(told(Kind::Read, Failure::Slow), (living.address.clone(), refusal.clone()));
    assert_eq!(told(Kind::Write, Failure::Slow), (dead.address.clone(), Failure::Slow));
    assert_eq!(Words::default().or(Kind::Read, &dead, unsent.clone()).1, unsent);
}
