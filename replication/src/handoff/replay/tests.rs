//! The rules of a replay, whatever happens in whatever order.

use crate::cases::cases;
use proptest::prelude::*;

use super::*;

const LEASE: Grant = Grant::Lease { bytes: 1 << 20, for_ms: 5_000 };

fn n(node: u16) -> NodeId {
    NodeId(node)
}

fn alive(oldest_ms: u64) -> Seen {
    Seen { alive: true, oldest_ms: Some(oldest_ms) }
}

#[derive(Clone, Debug)]
enum Event {
    Look(u16, bool, Option<u64>),
    Hurry(u16),
    Pause(u16, bool),
    Answer(prop::sample::Index, Sent, Option<Grant>),
    Stale(u16, u64),
    Pass(u64),
}

fn event() -> impl Strategy<Value = Event> {
    let sent = prop_oneof![
        3 => (1u64..300, 1u64..(1 << 20)).prop_map(|(records, bytes)| Sent::Taken { records, bytes }),
        1 => Just(Sent::Nothing),
        1 => Just(Sent::Indigestible),
        2 => Just(Sent::Failed),
    ];
    let grant = prop_oneof![
        (1u64..(2 << 20), 1u32..6_000).prop_map(|(bytes, for_ms)| Grant::Lease { bytes, for_ms }),
        (1u32..2_000).prop_map(|for_ms| Grant::Wait { for_ms }),
    ];
    prop_oneof![
        2 => (0u16..8, any::<bool>(), prop::option::of(0u64..100)).prop_map(|(n, a, o)| Event::Look(n, a, o)),
        1 => (0u16..8).prop_map(Event::Hurry),
        1 => (0u16..8, any::<bool>()).prop_map(|(n, p)| Event::Pause(n, p)),
        4 => (any::<prop::sample::Index>(), sent, prop::option::of(grant)).prop_map(|(i, s, g)| Event::Answer(i, s, g)),
        1 => (0u16..8, 0u64..50).prop_map(|(n, a)| Event::Stale(n, a)),
        3 => (0u64..2_000).prop_map(Event::Pass),
    ]
}

proptest! {
    #![proptest_config(cases(256))]

    #[test]
    fn nothing_is_sent_to_the_dead_the_paused_or_without_a_lease_and_one_thing_at_a_time(
        events in prop::collection::vec(event(), 1..300),
    ) {
        let (mut replay, mut now_ms) = (Replay::default(), 0);
        let mut seen: BTreeMap<u16, (bool, bool)> = BTreeMap::new();
        let mut paused: BTreeMap<u16, bool> = BTreeMap::new();
        let mut leases: BTreeMap<NodeId, u64> = BTreeMap::new();
        let mut under_way: Vec<(NodeId, u64, bool)> = Vec::new();
        for event in events {
            match event {
                Event::Look(node, alive, oldest_ms) => {
                    replay.look(n(node), Seen { alive, oldest_ms });
                    seen.insert(node, (alive, oldest_ms.is_some()));
                }
                Event::Hurry(node) => replay.hurry(n(node)),
                Event::Pause(node, is_paused) => {
                    replay.pause(n(node), is_paused);
                    paused.insert(node, is_paused);
                }
                Event::Stale(node, attempt) => {
                    if !under_way.iter().any(|(_, known, _)| *known == attempt) {
                        replay.on_grant(n(node), attempt, LEASE, now_ms);
                        replay.on_sent(n(node), attempt, Sent::Nothing, now_ms);
                    }
                }
                Event::Answer(which, sent, grant) if !under_way.is_empty() => {
                    let (node, attempt, is_question) = under_way.swap_remove(which.index(under_way.len()));
                    match grant.filter(|_| is_question) {
                        Some(grant) => {
                            replay.on_grant(node, attempt, grant, now_ms);
                            if let Grant::Lease { for_ms, .. } = grant {
                                leases.insert(node, now_ms + u64::from(for_ms));
                            }
                        }
                        None => {
                            let sent = if is_question { Sent::Failed } else { sent };
                            replay.on_sent(node, attempt, sent, now_ms);
                            if sent == Sent::Nothing {
                                seen.entry(node.0).and_modify(|seen| seen.1 = false);
                            }
                        }
                    }
                }
                Event::Answer(..) => {}
                Event::Pass(ms) => now_ms += ms,
            }
            let mut commands = 0;
            while let Some(command) = replay.next(now_ms) {
                commands += 1;
                prop_assert!(commands <= TARGETS_AT_ONCE);
                let (node, attempt, is_question) = match command {
                    Command::Ask { target, attempt } => (target, attempt, true),
                    Command::Send { target, attempt, rows, bytes } => {
                        prop_assert!((1..=BATCH_ROWS_MAX).contains(&rows) && (1..=BATCH_BYTES_MAX).contains(&bytes));
                        prop_assert!(leases.get(&target).is_some_and(|until_ms| *until_ms > now_ms));
                        (target, attempt, false)
                    }
                };
                prop_assert_eq!(seen.get(&node.0), Some(&(true, true)));
                prop_assert!(!paused.get(&node.0).copied().unwrap_or_default());
                prop_assert!(under_way.iter().all(|(known, ..)| *known != node));
                under_way.push((node, attempt, is_question));
                prop_assert!(under_way.len() <= TARGETS_AT_ONCE);
            }
        }
    }
}

#[test]
fn a_target_that_fails_for_ever_is_tried_ever_more_rarely() {
    let mut replay = Replay::default();
    replay.look(n(1), alive(1));
    let (mut now_ms, mut tries) = (0, 0);
    while now_ms < 600_000 {
        if let Some(Command::Ask { target, attempt }) = replay.next(now_ms) {
            tries += 1;
            replay.on_sent(target, attempt, Sent::Failed, now_ms);
        }
        assert!(replay.next(now_ms).is_none(), "it waits");
        now_ms += 10;
    }
    assert!((20..40).contains(&tries), "{tries} tries in ten minutes");
}

#[test]
fn whose_hints_are_the_oldest_comes_first() {
    let mut replay = Replay::default();
    for (node, oldest_ms) in [(1, 30), (2, 10), (3, 20)] {
        replay.look(n(node), alive(oldest_ms));
    }
    let order: Vec<_> = std::iter::from_fn(|| replay.next(0)).collect();
    let asked = |target, attempt| Command::Ask { target: n(target), attempt };
    assert_eq!(order, [asked(2, 1), asked(3, 2), asked(1, 3)]);
}

#[test]
fn a_lease_is_used_up_by_batches_and_then_asked_for_again_with_what_was_sent() {
    let mut replay = Replay::default();
    replay.look(n(1), alive(1));
    assert_eq!(replay.next(0), Some(Command::Ask { target: n(1), attempt: 1 }));
    replay.on_grant(n(1), 1, Grant::Lease { bytes: 300_000, for_ms: 1_000 }, 0);
    let batch = |attempt, bytes| Command::Send { target: n(1), attempt, rows: BATCH_ROWS_MAX, bytes };
    assert_eq!(replay.next(1), Some(batch(2, BATCH_BYTES_MAX)));
    replay.on_sent(n(1), 2, Sent::Taken { records: 200, bytes: 262_000 }, 2);
    assert_eq!(replay.next(2), Some(batch(3, 38_000)));
    replay.on_sent(n(1), 3, Sent::Taken { records: 40, bytes: 40_000 }, 3);
    assert_eq!(replay.next(3), Some(Command::Ask { target: n(1), attempt: 4 }));
    assert_eq!((replay.take_sent(n(1)), replay.take_sent(n(1))), ((240, 302_000), (0, 0)));
    replay.on_grant(n(1), 4, Grant::Lease { bytes: 300_000, for_ms: 1_000 }, 4);
    assert_eq!(replay.next(2_000), Some(Command::Ask { target: n(1), attempt: 5 }), "the lease is over");
}

#[test]
fn a_target_that_came_back_is_tried_at_once_and_one_that_is_down_not_at_all() {
    let mut replay = Replay::default();
    replay.look(n(1), alive(1));
    for attempt in 1..=9 {
        assert_eq!(replay.next(0), Some(Command::Ask { target: n(1), attempt }));
        replay.on_sent(n(1), attempt, Sent::Failed, 0);
        assert_eq!(replay.progress(n(1), 0).state, ReplayState::BackingOff);
        replay.look(n(1), Seen { alive: false, ..alive(1) });
        assert_eq!((replay.next(60_000), replay.due_ms()), (None, None));
        assert_eq!(replay.progress(n(1), 0).state, ReplayState::TargetDown);
        replay.look(n(1), alive(1));
    }
    // Its waits have not become shorter: it came back without taking anything.
    replay.next(0);
    replay.on_sent(n(1), 10, Sent::Failed, 0);
    assert_eq!(replay.due_ms(), Some(BACKOFF_MS_MAX));
    replay.hurry(n(1));
    assert_eq!(replay.due_ms(), Some(0));
}

#[test]
fn a_batch_with_something_indigestible_is_followed_by_single_hints_until_one_is_taken() {
    let mut replay = Replay::default();
    replay.look(n(1), alive(1));
    replay.next(0);
    replay.on_grant(n(1), 1, LEASE, 0);
    replay.next(0);
    replay.on_sent(n(1), 2, Sent::Indigestible, 0);
    assert!(matches!(replay.next(0), Some(Command::Send { rows: 1, .. })));
    replay.on_sent(n(1), 3, Sent::Taken { records: 1, bytes: 10 }, 0);
    assert!(matches!(replay.next(0), Some(Command::Send { rows: BATCH_ROWS_MAX, .. })));
}

#[test]
fn a_paused_target_waits_until_it_is_resumed() {
    let mut replay = Replay::default();
    replay.pause(n(1), true);
    replay.look(n(1), alive(1));
    assert_eq!((replay.next(0), replay.progress(n(1), 0).state), (None, ReplayState::Paused));
    replay.pause(n(1), false);
    assert!(replay.next(0).is_some());
}
