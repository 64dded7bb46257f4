//! Which members do not answer Raft's messages: told once when it begins and once when it is over. Raft itself asks again
//! every few hundred milliseconds.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cube_storage::model::NodeId;
use parking_lot::Mutex;
use tokio::time::Instant;

/// So many messages in a row without an answer are a silence: a single one is lost now and then.
const UNANSWERED_MIN: u32 = 3;
/// One that never answered is likely to be about to start: it has joined a moment ago, or all start at once.
const START_TAKES_MAX: Duration = Duration::from_secs(5);

/// One member that did not answer lately.
#[derive(Clone, Copy, Debug)]
struct Silent {
    since: Instant,
    unanswered: u32,
    is_told: bool,
}

/// Those that do not answer.
#[derive(Debug, Default)]
pub(super) struct Silences {
    silent: Mutex<BTreeMap<NodeId, Silent>>,
    /// Those that answered this process at some time.
    met: Mutex<BTreeSet<NodeId>>,
    /// This node is about to end, maybe together with the others: nobody need be told.
    is_leaving: AtomicBool,
}

impl Silences {
    /// A message was not answered. When that has become a silence: since when.
    pub(super) fn unanswered(&self, node: NodeId, now: Instant) -> Option<Duration> {
        let is_met = self.met.lock().contains(&node);
        let mut silent = self.silent.lock();
        let silence = silent.entry(node).or_insert(Silent { since: now, unanswered: 0, is_told: false });
        silence.unanswered = silence.unanswered.saturating_add(1);
        let lasts = now.duration_since(silence.since);
        let is_news = silence.unanswered >= UNANSWERED_MIN && (is_met || lasts >= START_TAKES_MAX) && !silence.is_told;
        silence.is_told |= is_news;
        is_news.then_some(lasts)
    }

    /// A message was answered. When that ends a silence that was told: how long it was.
    pub(super) fn answered(&self, node: NodeId, now: Instant) -> Option<Duration> {
        self.met.lock().insert(node);
        let ended = self.silent.lock().remove(&node)?;
        ended.is_told.then(|| now.duration_since(ended.since))
    }

    /// Tells nothing from now on.
    pub(super) fn leave(&self) {
        self.is_leaving.store(true, Ordering::Relaxed);
    }

    /// Logs what is new after a message.
    pub(super) fn note<T, E: Display>(&self, node: NodeId, name: impl Fn() -> String, outcome: &Result<T, E>) {
        if self.is_leaving.load(Ordering::Relaxed) {
            return;
        }
        let now = Instant::now();
        match outcome {
            Ok(_) => {
                if let Some(lasted) = self.answered(node, now) {
                    tracing::info!(
                        member = name(),
                        "answers Raft's messages again, after {:.1} s",
                        lasted.as_secs_f64()
                    );
                }
            }
            Err(error) => {
                if let Some(since) = self.unanswered(node, now) {
                    let since_s = since.as_secs_f64();
                    tracing::warn!(member = name(), reason = %error, "unreachable for Raft since {since_s:.1} s ago");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silence_is_told_once_and_its_end_once() {
        let (silences, node) = (Silences::default(), NodeId(3));
        let start = Instant::now();
        let after = |ms| start + Duration::from_millis(ms);
        assert_eq!(silences.answered(node, start), None);
        let told: Vec<u64> = (0..100).filter(|count| silences.unanswered(node, after(300 * count)).is_some()).collect();
        assert_eq!(told, [2]);
        assert_eq!(silences.unanswered(NodeId(4), after(0)), None, "each for itself");
        assert_eq!(silences.answered(node, after(60_000)), Some(Duration::from_secs(60)));
        assert_eq!(silences.answered(node, after(60_001)), None);
    }

    #[test]
    fn one_that_never_answered_may_be_about_to_start_and_is_told_of_later() {
        let (silences, node) = (Silences::default(), NodeId(3));
        let start = Instant::now();
        let after = |ms| start + Duration::from_millis(ms);
        let told: Vec<u64> = (0..100).filter(|count| silences.unanswered(node, after(300 * count)).is_some()).collect();
        assert_eq!(told, [17], "after 5 s, and once");
        assert_eq!(silences.answered(node, after(60_000)), Some(Duration::from_secs(60)));
        let (silences, node) = (Silences::default(), NodeId(4));
        assert!((0..10).all(|count| silences.unanswered(node, after(300 * count)).is_none()));
        assert_eq!(silences.answered(node, after(3_000)), None, "what was not told does not end");
    }

    #[test]
    fn a_message_that_is_lost_now_and_then_is_not_worth_a_line() {
        let (silences, node) = (Silences::default(), NodeId(3));
        let now = Instant::now();
        for _ in 0..10 {
            assert_eq!(silences.unanswered(node, now), None);
            assert_eq!(silences.unanswered(node, now), None);
            assert_eq!(silences.answered(node, now), None);
        }
    }
}
