//! How far the peers' wall clocks are from this node's, estimated from pings; plain code, fed by the peer transport.
//!
//! Invariants: an offset is known to within half a round trip, and nothing is concluded from less than that certainty;
//! a node finds its own clock out of bound only when most of all the clocks it knows, its own among them, agree on
//! another time. So no single wrong clock can talk the others into stopping, and of two nodes alone neither is judged:
//! they differ, and nobody can tell who is wrong.

use std::collections::{BTreeMap, VecDeque};

use cube_storage::model::NodeId;
use serde::{Deserialize, Serialize};

/// Past this offset a peer is flagged.
pub const FLAG_OFFSET_MS: u64 = 500;

/// Pings kept of a peer. The best of a few is close to the truth, since queues delay most pings but hardly all.
const WINDOW: usize = 8;

/// A ping older than this says nothing: a bad quartz drifts less than 10 ms meanwhile, but an operator may have set
/// the clock, and a peer that is gone must not be counted.
const FORGET_AFTER_MS: u64 = 60_000;

/// What two pings may contradict each other by without a clock having been set: rounding to milliseconds on both
/// machines, and clocks that are being slewed.
const SLACK_MS: u64 = 50;

/// A peer's clock as seen from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offset {
    /// How far it is ahead of this node's (negative: behind).
    pub offset_ms: i64,
    /// How wrong that may be, either way.
    pub error_ms: u64,
}

impl Offset {
    /// How far the clocks are apart at the very least.
    pub fn proven_ms(self) -> u64 {
        self.offset_ms.unsigned_abs().saturating_sub(self.error_ms)
    }

    fn contradicts(self, other: Self) -> bool {
        self.offset_ms.abs_diff(other.offset_ms) > self.error_ms.saturating_add(other.error_ms).saturating_add(SLACK_MS)
    }
}

/// What a node has to think of its own clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// Within the bound, as far as can be told.
    #[default]
    Fine,
    /// Most clocks agree that this one is wrong.
    OutOfBound {
        /// How far this node's clock is ahead of theirs (negative: behind).
        own_offset_ms: i64,
        /// How many peers say so.
        against: usize,
        /// How many peers were heard lately.
        of: usize,
    },
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    offset: Offset,
    at_ms: u64,
}

/// The clocks of the peers.
#[derive(Clone, Debug, Default)]
pub struct ClockWatch {
    peers: BTreeMap<NodeId, VecDeque<Sample>>,
}

impl ClockWatch {
    /// Nobody heard yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in a ping: this node's wall clock when it was sent and when the answer came, and the peer's in the answer.
    pub fn observe(
        &mut self,
        node: NodeId,
        sent_wall_ms: u64,
        received_wall_ms: u64,
        theirs_wall_ms: u64,
        now_monotonic_ms: u64,
    ) {
        // A round trip that took less than no time: this clock was set meanwhile.
        let Some(round_trip_ms) = received_wall_ms.checked_sub(sent_wall_ms) else { return };
        let midpoint_ms = sent_wall_ms + round_trip_ms / 2;
        let offset = Offset { offset_ms: difference(theirs_wall_ms, midpoint_ms), error_ms: round_trip_ms.div_ceil(2) };
        let samples = self.peers.entry(node).or_default();
        // Both pings were true, so a clock was set between them, and what was learned before is void.
        if samples.iter().any(|known| known.offset.contradicts(offset)) {
            samples.clear();
        }
        if samples.len() >= WINDOW {
            samples.pop_front();
        }
        samples.push_back(Sample { offset, at_ms: now_monotonic_ms });
        self.peers.retain(|_, samples| samples.back().is_some_and(|last| lately(last, now_monotonic_ms)));
    }

    /// The offsets of all peers heard lately.
    pub fn offsets(&self, now_monotonic_ms: u64) -> BTreeMap<NodeId, Offset> {
        let best = |samples: &VecDeque<Sample>| {
            let recent = samples.iter().rev().filter(|sample| lately(sample, now_monotonic_ms));
            recent.map(|sample| sample.offset).min_by_key(|offset| offset.error_ms)
        };
        self.peers.iter().filter_map(|(node, samples)| Some((*node, best(samples)?))).collect()
    }

    /// The peers whose clocks are past [`FLAG_OFFSET_MS`] for sure.
    pub fn flagged(&self, now_monotonic_ms: u64) -> BTreeMap<NodeId, Offset> {
        let mut offsets = self.offsets(now_monotonic_ms);
        offsets.retain(|_, offset| offset.proven_ms() > FLAG_OFFSET_MS);
        offsets
    }

    /// Whether enough was heard to judge this node's clock in a cluster with so many other nodes: whatever is still to be
    /// heard of them, the verdict stays [`Verdict::Fine`], or it is another one already.
    pub fn is_conclusive(&self, others: usize, max_drift_ms: u64, now_monotonic_ms: u64) -> bool {
        let offsets = self.offsets(now_monotonic_ms);
        let near = offsets.values().filter(|offset| offset.proven_ms() <= max_drift_ms).count();
        let most_agree = (near + 1) * 2 > others + 1;
        most_agree || offsets.len() >= others || self.verdict(max_drift_ms, now_monotonic_ms) != Verdict::Fine
    }

    /// Whether this node's clock is out of bound.
    ///
    /// It is when the peers that are further away than `max_drift_ms` for sure, on one side, and within `max_drift_ms`
    /// of each other, are more than half of all clocks known, this one included.
    pub fn verdict(&self, max_drift_ms: u64, now_monotonic_ms: u64) -> Verdict {
        let offsets = self.offsets(now_monotonic_ms);
        let mut far: Vec<i64> = offsets
            .values()
            .filter(|offset| offset.proven_ms() > max_drift_ms)
            .map(|offset| offset.offset_ms)
            .collect();
        far.sort_unstable();
        let agreeing = greatest_agreement(&far, max_drift_ms);
        match agreeing.get(agreeing.len() / 2) {
            Some(median_ms) if agreeing.len() * 2 > offsets.len() + 1 => Verdict::OutOfBound {
                own_offset_ms: median_ms.saturating_neg(),
                against: agreeing.len(),
                of: offsets.len(),
            },
            _ => Verdict::Fine,
        }
    }
}

fn lately(sample: &Sample, now_monotonic_ms: u64) -> bool {
    now_monotonic_ms.saturating_sub(sample.at_ms) <= FORGET_AFTER_MS
}

fn difference(left_ms: u64, right_ms: u64) -> i64 {
    let magnitude = i64::try_from(left_ms.abs_diff(right_ms)).unwrap_or(i64::MAX);
    if left_ms >= right_ms { magnitude } else { -magnitude }
}

/// The longest run of sorted offsets on one side of zero that lie within `spread_ms` of each other.
fn greatest_agreement(sorted_ms: &[i64], spread_ms: u64) -> &[i64] {
    let agree = |first: i64, other: i64| (first > 0) == (other > 0) && first.abs_diff(other) <= spread_ms;
    let run_from = |start: usize| {
        let tail = sorted_ms.get(start..).unwrap_or_default();
        let length = tail.first().map_or(0, |first| tail.iter().take_while(|other| agree(*first, **other)).count());
        tail.get(..length).unwrap_or_default()
    };
    (0..sorted_ms.len()).map(run_from).max_by_key(|run| run.len()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cases::cases;

    const DAY_MS: u64 = 86_400_000;
    const MAX_DRIFT_MS: u64 = 900_000;
    const WALL_MS: u64 = 1_800_000_000_000;

    /// What a watch on a clock that is `own_ms` ahead of the truth sees of peers that are `theirs_ms` ahead of it.
    fn watch(own_ms: i64, theirs_ms: &[i64]) -> ClockWatch {
        let mut watch = ClockWatch::new();
        for (number, ahead_ms) in (1..).zip(theirs_ms) {
            ping(&mut watch, NodeId(number), WALL_MS.saturating_add_signed(own_ms), ahead_ms - own_ms, (3, 4), 0);
        }
        watch
    }

    /// A ping that travels `there_ms` and `back_ms` to a peer that is `ahead_ms` of this clock.
    fn ping(
        watch: &mut ClockWatch,
        node: NodeId,
        wall_ms: u64,
        ahead_ms: i64,
        (there_ms, back_ms): (u64, u64),
        now_ms: u64,
    ) {
        let theirs_ms = (wall_ms + there_ms).saturating_add_signed(ahead_ms);
        watch.observe(node, wall_ms, wall_ms + there_ms + back_ms, theirs_ms, now_ms);
    }

    fn is_out(own_ms: i64, theirs_ms: &[i64]) -> bool {
        watch(own_ms, theirs_ms).verdict(MAX_DRIFT_MS, 0) != Verdict::Fine
    }

    #[test]
    fn a_node_a_day_ahead_of_two_others_finds_itself_out_of_bound_and_they_do_not() {
        let day = DAY_MS as i64;
        let told = watch(day, &[0, 20]).verdict(MAX_DRIFT_MS, 0);
        let Verdict::OutOfBound { own_offset_ms, against: 2, of: 2 } = told else { panic!("{told:?}") };
        assert!((own_offset_ms - day).abs() < 100, "{own_offset_ms}");
        assert!(!is_out(0, &[day, 20]));
        assert!(!is_out(20, &[day, 0]));
    }

    #[test]
    fn a_clock_is_judged_when_most_of_all_agree_with_it_or_all_were_heard() {
        let judged = |theirs_ms: &[i64], others| watch(0, theirs_ms).is_conclusive(others, MAX_DRIFT_MS, 0);
        let day = DAY_MS as i64;
        assert!(judged(&[], 0), "alone");
        assert!(!judged(&[], 1) && !judged(&[], 2));
        assert!(judged(&[20], 2), "two of three agree");
        assert!(!judged(&[20], 4) && judged(&[20, -20], 4), "of five, it takes three");
        assert!(!judged(&[day], 2), "of two that differ, the third tells who is wrong");
        assert!(judged(&[day], 1) && judged(&[day, 0], 2) && judged(&[day, day], 2));
        assert!(judged(&[day, day, day], 4), "most of all agree on another time");
    }

    #[test]
    fn of_two_nodes_that_differ_neither_is_judged() {
        assert!(!is_out(DAY_MS as i64, &[0]));
        assert!(!is_out(0, &[DAY_MS as i64]));
    }

    #[test]
    fn of_two_pairs_that_differ_neither_is_judged() {
        assert!(!is_out(0, &[0, DAY_MS as i64, DAY_MS as i64]));
    }

    #[test]
    fn two_wrong_clocks_on_both_sides_do_not_make_the_one_between_them_wrong() {
        assert!(!is_out(0, &[DAY_MS as i64, -(DAY_MS as i64)]));
        assert!(!is_out(0, &[DAY_MS as i64, 3 * DAY_MS as i64]));
    }

    #[test]
    fn a_peer_is_flagged_past_half_a_second_only_if_that_is_certain() {
        let mut watch = ClockWatch::new();
        ping(&mut watch, NodeId(1), WALL_MS, 499, (0, 0), 0);
        ping(&mut watch, NodeId(2), WALL_MS, -501, (0, 0), 0);
        ping(&mut watch, NodeId(3), WALL_MS, 700, (300, 300), 0);
        assert_eq!(watch.flagged(0).into_keys().collect::<Vec<_>>(), [NodeId(2)]);
    }

    #[test]
    fn a_slow_ping_does_not_spoil_what_a_quick_one_told() {
        let mut watch = ClockWatch::new();
        ping(&mut watch, NodeId(1), WALL_MS, 30, (1, 1), 0);
        ping(&mut watch, NodeId(1), WALL_MS + 1_000, 30, (0, 900), 1_000);
        assert_eq!(watch.offsets(1_000)[&NodeId(1)], Offset { offset_ms: 30, error_ms: 1 });
    }

    #[test]
    fn a_clock_that_was_set_is_believed_at_once() {
        let mut watch = ClockWatch::new();
        for second in 0..5 {
            ping(&mut watch, NodeId(1), WALL_MS, DAY_MS as i64, (1, 1), second * 1_000);
        }
        ping(&mut watch, NodeId(1), WALL_MS, 0, (20, 20), 6_000);
        assert_eq!(watch.offsets(6_000)[&NodeId(1)], Offset { offset_ms: 0, error_ms: 20 });
    }

    #[test]
    fn a_ping_during_which_this_clock_was_set_back_is_ignored() {
        let mut watch = ClockWatch::new();
        watch.observe(NodeId(1), WALL_MS, WALL_MS - 1, WALL_MS, 0);
        assert!(watch.offsets(0).is_empty());
    }

    #[test]
    fn a_peer_not_heard_for_long_is_forgotten_and_not_counted() {
        let watch = watch(DAY_MS as i64, &[0, 0]);
        assert_ne!(watch.verdict(MAX_DRIFT_MS, FORGET_AFTER_MS), Verdict::Fine);
        assert_eq!(watch.verdict(MAX_DRIFT_MS, FORGET_AFTER_MS + 1), Verdict::Fine);
        assert!(watch.offsets(FORGET_AFTER_MS + 1).is_empty());
    }

    proptest! {
        #![proptest_config(cases(256))]

        #[test]
        fn the_true_offset_lies_within_the_error(
            ahead_ms in -10_000_000_i64..10_000_000,
            trips in prop::collection::vec((0_u64..2_000, 0_u64..2_000), 1..20),
        ) {
            let mut watch = ClockWatch::new();
            for (second, trip) in (0..).zip(&trips) {
                ping(&mut watch, NodeId(1), WALL_MS + second * 1_000, ahead_ms, *trip, second * 1_000);
            }
            let told = watch.offsets(trips.len() as u64 * 1_000)[&NodeId(1)];
            prop_assert!(told.offset_ms.abs_diff(ahead_ms) <= told.error_ms, "{told:?}");
            let best_ms = trips.iter().rev().take(WINDOW).map(|(there, back)| (there + back).div_ceil(2)).min().unwrap();
            prop_assert_eq!(told.error_ms, best_ms);
        }

        #[test]
        fn while_most_clocks_are_right_the_right_ones_stay_in_and_the_wrong_ones_find_out(
            right_ms in prop::collection::vec(-400_i64..400, 2..6),
            wrong in prop::collection::vec((prop::bool::ANY, 1_000_000_i64..10_000_000_000), 1..5),
        ) {
            let wrong_ms: Vec<i64> = wrong.iter().map(|(ahead, by)| if *ahead { *by } else { -by }).collect();
            let most_are_right = right_ms.len() > wrong_ms.len();
            let others = |skip: usize| -> Vec<i64> {
                right_ms.iter().chain(&wrong_ms).enumerate().filter(|(at, _)| *at != skip).map(|(_, ms)| *ms).collect()
            };
            for (at, own_ms) in right_ms.iter().chain(&wrong_ms).enumerate() {
                if most_are_right {
                    prop_assert_eq!(is_out(*own_ms, &others(at)), at >= right_ms.len());
                }
            }
        }

        #[test]
        fn whatever_the_numbers_nothing_overflows(
            pings in prop::collection::vec((0_u16..4, any::<u64>(), any::<u64>(), any::<u64>(), any::<u64>()), 0..30),
            max_drift_ms: u64, now_ms: u64,
        ) {
            let mut watch = ClockWatch::new();
            for (node, sent, received, theirs, at) in pings {
                watch.observe(NodeId(node), sent, received, theirs, at);
            }
            watch.verdict(max_drift_ms, now_ms);
            watch.flagged(now_ms);
        }
    }
}
