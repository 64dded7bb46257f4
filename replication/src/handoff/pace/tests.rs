//! The pool's promises, whatever senders ask and do.

use crate::cases::cases;
use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Event {
    Ask { node: u16, records: u64, bytes: u64, sent: u64 },
    Gone(u16),
    Wrote(u64),
    Pass(u64),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (0u16..4, 0u64..2_000, 0u64..(4 << 20), 0u64..(2 << 20))
            .prop_map(|(node, records, bytes, sent)| Event::Ask { node, records, bytes, sent }),
        1 => (0u16..4).prop_map(Event::Gone),
        2 => (0u64..200_000).prop_map(Event::Wrote),
        3 => (0u64..3_000).prop_map(Event::Pass),
    ]
}

fn ask(pace: &mut Pace, node: u16, bytes: u64, now_ms: u64) -> Grant {
    pace.ask(NodeId(node), Coming { records: 1_000, bytes, ..Coming::default() }, 0, now_ms)
}

fn leased(pace: &Pace) -> u64 {
    pace.leases.values().map(|lease| lease.bytes).sum()
}

proptest! {
    #![proptest_config(cases(256))]

    #[test]
    fn leases_and_pool_together_never_hold_more_than_the_fastest_rate_brings(
        events in prop::collection::vec(event(), 1..200),
    ) {
        let (mut pace, mut now_ms) = (Pace::new(0), 0);
        for event in events {
            match event {
                Event::Ask { node, records, bytes, sent } => {
                    let coming = Coming { records, bytes, sent_records: sent / 1_024, sent_bytes: sent };
                    match pace.ask(NodeId(node), coming, 0, now_ms) {
                        Grant::Lease { bytes, .. } => prop_assert!(bytes > 0 && records > 0),
                        Grant::Wait { for_ms } => prop_assert!(for_ms > 0 && u64::from(for_ms) <= WAIT_MS_MAX),
                    }
                }
                Event::Gone(node) => pace.gone(NodeId(node), now_ms),
                Event::Wrote(took_us) => pace.wrote(took_us, now_ms),
                Event::Pass(ms) => now_ms += ms,
            }
            prop_assert!(pace.pool <= pool_bytes(RATE_MAX));
            prop_assert!(leased(&pace) <= pool_bytes(RATE_MAX) + 4);
            prop_assert!((RATE_MIN..=RATE_MAX).contains(&pace.rate));
        }
    }

    #[test]
    fn whoever_asks_as_told_gets_something_through_however_slow_the_node_and_however_many_ask(
        slow in any::<bool>(), item in 1u64..(64 << 20), senders in 1u16..6,
    ) {
        let (mut pace, mut now_ms) = (Pace::new(0), 0);
        let mut next: BTreeMap<u16, (u64, u64)> = (0..senders).map(|node| (node, (0, 0))).collect();
        let mut served: BTreeMap<u16, u64> = BTreeMap::new();
        while now_ms < 120_000 {
            if slow {
                pace.wrote(10_000_000, now_ms);
            }
            for (node, (due_ms, sent)) in &mut next {
                if *due_ms > now_ms {
                    continue;
                }
                let coming = Coming { records: 9, bytes: 9 * item, sent_records: u64::from(*sent > 0), sent_bytes: *sent };
                match pace.ask(NodeId(*node), coming, 0, now_ms) {
                    Grant::Lease { bytes, .. } => {
                        *served.entry(*node).or_default() += 1;
                        (*due_ms, *sent) = (now_ms + 20, bytes.max(item));
                    }
                    Grant::Wait { for_ms } => (*due_ms, *sent) = (now_ms + u64::from(for_ms), 0),
                }
            }
            now_ms += 10;
        }
        for node in 0..senders {
            prop_assert!(served.get(&node).is_some_and(|times| *times > 0), "{served:?}");
        }
    }
}

#[test]
fn several_senders_get_no_more_together_than_one_alone() {
    let through = |senders: u16| {
        let (mut pace, mut now_ms, mut sum) = (Pace::new(0), 0, 0);
        while now_ms < 10_000 {
            for node in 0..senders {
                if let Grant::Lease { bytes, .. } = ask(&mut pace, node, 1 << 30, now_ms) {
                    let used = Coming { records: 1, bytes: 1 << 30, sent_records: 1, sent_bytes: bytes };
                    sum += bytes;
                    pace.settle(NodeId(node), used, now_ms);
                }
            }
            now_ms += 2;
        }
        sum
    };
    let (alone, together) = (through(1), through(5));
    assert!(together <= alone + alone / 4, "{together} with five, {alone} with one");
}

/// Clients whose writes take `busy_us` while something is leased, and `calm_us` while nothing is, and a sender that asks as it
/// is told, for so long.
fn serve(pace: &mut Pace, (calm_us, busy_us): (u64, u64), now_ms: &mut u64, for_ms: u64) {
    let (end_ms, mut due_ms) = (*now_ms + for_ms, *now_ms);
    while *now_ms < end_ms {
        let took_us = if pace.leases.is_empty() { calm_us } else { busy_us };
        pace.wrote(took_us, *now_ms);
        if due_ms <= *now_ms {
            due_ms = *now_ms
                + match ask(pace, 1, 1 << 30, *now_ms) {
                    Grant::Lease { .. } => 8,
                    Grant::Wait { for_ms } => u64::from(for_ms),
                };
        }
        *now_ms += 1;
    }
}

#[test]
fn writes_that_are_slower_than_without_hints_slow_them_down_until_they_are_not() {
    let (mut pace, mut now_ms) = (Pace::new(0), 0);
    serve(&mut pace, (2_000, 20_000), &mut now_ms, 30_000);
    assert_eq!(pace.rate, RATE_MIN);
    assert!((2_000..4_000).contains(&pace.calm.us()), "{:?}", pace.calm);
    serve(&mut pace, (2_000, 3_000), &mut now_ms, 30_000);
    assert_eq!(pace.rate, RATE_MAX);
    // As slow without hints: it is not they that are in the way.
    serve(&mut pace, (40_000, 40_000), &mut now_ms, 60_000);
    assert_eq!(pace.rate, RATE_MAX);
}

#[test]
fn compactions_that_are_behind_slow_hints_down() {
    let mut pace = Pace::new(0);
    pace.ask(NodeId(1), Coming { records: 1, bytes: 1, ..Coming::default() }, DEBT_BYTES_MAX + 1, ADJUST_EVERY_MS);
    assert_eq!(pace.rate, RATE_START - RATE_START / CUT_PART);
}

#[test]
fn while_clients_write_hints_stand_still_for_a_moment_now_and_then() {
    let stood_still = |clients_write: bool| {
        let (mut pace, mut still) = (Pace::new(0), 0);
        for now_ms in (0..60_000).step_by(10) {
            if clients_write {
                pace.wrote(2_000, now_ms);
            }
            // The pool is full again by then: only a look makes it wait.
            still += u64::from(ask(&mut pace, 1, LEASE_BYTES_MIN, now_ms) == Grant::Wait { for_ms: LOOK_ASK_MS });
        }
        still
    };
    assert!((10..=1_000).contains(&stood_still(true)), "{} of 6,000 questions", stood_still(true));
    assert_eq!(stood_still(false), 0);
}

#[test]
fn the_lease_of_a_sender_that_died_is_there_for_the_others() {
    let mut pace = Pace::new(0);
    let before = pace.pool;
    let Grant::Lease { bytes, .. } = ask(&mut pace, 1, 1 << 30, 0) else { panic!("a full pool leases") };
    assert_eq!(pace.pool, before - bytes);
    pace.gone(NodeId(1), 0);
    assert_eq!(pace.pool, before);
    ask(&mut pace, 2, 1 << 30, 0);
    // One that is silent is as good as dead.
    ask(&mut pace, 1, 1 << 30, LEASE_MS + 1);
    assert_eq!(pace.leases.keys().copied().collect::<Vec<_>>(), [NodeId(1)]);
}

#[test]
fn it_catches_up_while_senders_get_on_and_only_then() {
    let coming = |sent_records| Coming { records: 100, bytes: 1 << 20, sent_records, sent_bytes: sent_records };
    let mut pace = Pace::new(0);
    assert!(!pace.catches_up(0));
    pace.ask(NodeId(1), coming(0), 0, 1_000);
    assert!(pace.catches_up(1_000 + PROGRESS_MS));
    // It asks again and again, but nothing is taken.
    pace.ask(NodeId(1), coming(0), 0, 3_000);
    assert!(!pace.catches_up(1_001 + PROGRESS_MS));
    pace.ask(NodeId(1), coming(7), 0, 9_000);
    assert!(pace.catches_up(9_000));
    pace.gone(NodeId(1), 9_001);
    assert!(!pace.catches_up(9_001));
}

#[test]
fn it_tells_how_much_is_coming_and_when_it_will_be_there() {
    let mut pace = Pace::new(0);
    for second in 0..5 {
        let coming = Coming { records: 10_000 - 1_000 * second, bytes: 1, sent_records: 1_000, sent_bytes: 1 };
        pace.ask(NodeId(1), coming, 0, 1_000 * second);
    }
    pace.ask(NodeId(2), Coming { records: 4_000, bytes: 77, ..Coming::default() }, 0, 4_000);
    let incoming = pace.incoming(4_000);
    assert_eq!(incoming.senders, BTreeMap::from([(NodeId(1), (6_000, 1)), (NodeId(2), (4_000, 77))]));
    assert_eq!((incoming.taken, incoming.per_second > 500), (5_000, true));
    assert!(incoming.eta_ms.is_some_and(|eta_ms| (5_000..=20_000).contains(&eta_ms)), "{incoming:?}");
    assert_eq!(pace.incoming(4_000 + SENDER_FORGET_MS).senders, BTreeMap::new());
}
