//! What is told once, however often it happens: a line of the log for each burst, instead of one for each row or partition.

use std::collections::BTreeMap;

/// A burst ends when nothing has happened for so long; what comes after is another one.
const BURST_GAP_MS: u64 = 60_000;

/// What was told lately. It grows by what is told apart, which is for the caller to bound.
#[derive(Debug)]
pub(crate) struct Bursts<T>(BTreeMap<T, u64>);

impl<T> Default for Bursts<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T: Ord> Bursts<T> {
    /// Whether this begins a burst.
    pub(crate) fn begins(&mut self, what: T, now_ms: u64) -> bool {
        let last = self.0.insert(what, now_ms);
        last.is_none_or(|last_ms| now_ms.saturating_sub(last_ms) >= BURST_GAP_MS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_told_once_and_the_next_one_again() {
        let mut bursts = Bursts::default();
        assert!(bursts.begins("a", 0));
        // A long burst is one burst for as long as it goes on.
        assert!((1..100).all(|n| !bursts.begins("a", n * (BURST_GAP_MS - 1))));
        assert!(bursts.begins("b", 10));
        assert!(bursts.begins("a", 200 * BURST_GAP_MS));
    }
}
