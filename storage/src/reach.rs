//! How far damage reaches: where reading goes on behind keys that cannot be read.
//!
//! An engine that hits a damaged place tells no more than that, and an iterator does not pass it. But reading can begin
//! anywhere, so the place where it begins to fail is found by halving the keys in between, and so is the place where it
//! ceases to fail in the same way. A damaged value fails at its own key only; a damaged block, or file, fails alike at
//! every key that falls into it, whether there is such a key or not. Some hundreds of short reads, however much is lost.
//!
//! An iterator merges several files and looks ahead in each, so it fails before it has told all that lies in front of the
//! damage. Invariant: what was to be read and was not is in front of the damage, in it, or behind it, and nowhere else.

use std::ops::ControlFlow;

use crate::engine::{Direction, EngineError, Reader, Space};
use crate::keyspace::{KeyRange, after};

/// A read that ended in damage.
pub(crate) struct Failure<'a> {
    pub(crate) space: Space,
    /// What was to be read.
    pub(crate) range: &'a KeyRange,
    pub(crate) direction: Direction,
    /// The last key that was read; empty when none was.
    pub(crate) last_read: &'a [u8],
}

/// What was not read, in the direction of the read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Reach {
    /// What comes before the damage. It can be read forward, and maybe not backward.
    pub(crate) in_front: Option<KeyRange>,
    /// What cannot be read; nothing when the damage is not among what was to be read.
    pub(crate) damaged: Option<KeyRange>,
    /// What is left to read behind the damage.
    pub(crate) rest: Option<KeyRange>,
}

impl Failure<'_> {
    /// Finds where reading goes on, in the direction of the failed read.
    pub(crate) fn reach(&self, reader: &dyn Reader) -> Result<Reach, EngineError> {
        let KeyRange { start, end } = self.range.clone();
        let probe = Probe { reader, space: self.space };
        match self.direction {
            Direction::Forward if self.last_read.is_empty() => probe.forward(start, end),
            Direction::Forward => probe.forward(after(self.last_read), end),
            Direction::Backward if self.last_read.is_empty() => probe.backward(start, end),
            Direction::Backward => probe.backward(start, self.last_read.to_vec()),
        }
    }
}

struct Probe<'a> {
    reader: &'a dyn Reader,
    space: Space,
}

impl Probe<'_> {
    fn forward(&self, start: Vec<u8>, end: Vec<u8>) -> Result<Reach, EngineError> {
        // Up to `begin` reading goes well, a step further it does not.
        let reads_to = |to: &[u8]| Ok(self.failure(Direction::Forward, &start, to)?.is_none());
        let (begin, next) = halve(&start, &end, reads_to)?;
        let behind = match self.failure(Direction::Forward, &begin, &next)? {
            Some(how) if self.fails_so_at(Direction::Forward, &next, &how)? => {
                halve(&next, &end, |key: &[u8]| self.fails_so_at(Direction::Forward, key, &how))?.1
            }
            _ => next,
        };
        let is_left = !behind.is_empty();
        Ok(Reach {
            in_front: (start < begin).then(|| KeyRange { start, end: begin.clone() }),
            damaged: Some(KeyRange { start: begin, end: behind.clone() }),
            rest: if is_left { range(behind, end) } else { None },
        })
    }

    fn backward(&self, start: Vec<u8>, end: Vec<u8>) -> Result<Reach, EngineError> {
        // From `behind` on reading backward goes well, a step before it does not.
        let fails_from = |from: &[u8]| Ok(self.failure(Direction::Backward, from, &end)?.is_some());
        let (last, behind) = halve(&start, &end, fails_from)?;
        let Some(how) = self.failure(Direction::Backward, &last, &behind)? else {
            return Ok(around(start, last, behind, end));
        };
        // Backward, all fails from here on that has the damage somewhere before it in its file.
        let begin = if self.fails_so_at(Direction::Backward, &start, &how)? {
            start.clone()
        } else {
            halve(&start, &last, |key: &[u8]| Ok(!self.fails_so_at(Direction::Backward, key, &how)?))?.1
        };
        // Forward, only what has the damage in it.
        for inside in [last, begin.clone()] {
            if self.fails_so_at(Direction::Forward, &inside, &how)? {
                let behind = halve(&inside, &end, |key: &[u8]| self.fails_so_at(Direction::Forward, key, &how))?.1;
                return Ok(around(start, begin, behind, end));
            }
        }
        // The damage lies before what was to be read.
        let (in_front, rest) = if begin == start { (start, None) } else { (begin.clone(), range(start, begin)) };
        Ok(Reach { in_front: range(in_front, end), damaged: None, rest })
    }

    /// How reading a range fails, if it does.
    fn failure(&self, direction: Direction, start: &[u8], end: &[u8]) -> Result<Option<String>, EngineError> {
        let range = KeyRange { start: start.to_vec(), end: end.to_vec() };
        match self.reader.scan(self.space, &range, direction, &mut |_, _| ControlFlow::Continue(())) {
            Ok(()) => Ok(None),
            Err(EngineError::Corruption { detail }) => Ok(Some(detail)),
            Err(error) => Err(error),
        }
    }

    fn fails_so_at(&self, direction: Direction, key: &[u8], how: &str) -> Result<bool, EngineError> {
        Ok(self.failure(direction, key, &after(key))?.is_some_and(|detail| detail == how))
    }
}

/// The keys from `start` up to but without `end`, if there can be any.
fn range(start: Vec<u8>, end: Vec<u8>) -> Option<KeyRange> {
    Some(KeyRange { start, end }).filter(|range| !range.is_empty())
}

/// What a backward read of `start` up to `end` did not read around the keys from `begin` up to `behind`.
fn around(start: Vec<u8>, begin: Vec<u8>, behind: Vec<u8>, end: Vec<u8>) -> Reach {
    let in_front = if behind.is_empty() { None } else { range(behind.clone(), end) };
    let rest = (start < begin).then(|| KeyRange { start, end: begin.clone() });
    Reach { in_front, damaged: Some(KeyRange { start: begin, end: behind }), rest }
}

/// Halvings in a row after which only the lesser key has moved: the border is at the greater one. There is no last key
/// before a key, so this would go on for ever.
const ONE_SIDED_MAX: u8 = 80;

/// All halvings of a search: several times what the longest keys need.
const HALVINGS_MAX: usize = 1 << 18;

/// Between `low`, for which something holds, and `high`, for which it does not: the last key for which it does and the
/// first for which it does not. An empty `high` is the end of all keys.
fn halve(
    low: &[u8],
    high: &[u8],
    mut holds: impl FnMut(&[u8]) -> Result<bool, EngineError>,
) -> Result<(Vec<u8>, Vec<u8>), EngineError> {
    let (mut low, mut high, mut one_sided) = (low.to_vec(), high.to_vec(), 0);
    for _ in 0..HALVINGS_MAX {
        let Some(middle) = middle(&low, &high).filter(|_| one_sided < ONE_SIDED_MAX) else { break };
        if holds(&middle)? {
            (low, one_sided) = (middle, one_sided + 1);
        } else {
            (high, one_sided) = (middle, 0);
        }
    }
    Ok((low, high))
}

/// A key about half way between two; nothing when none is between them. An empty `high` is the end of all keys.
fn middle(low: &[u8], high: &[u8]) -> Option<Vec<u8>> {
    let common = low.iter().zip(high).take_while(|(a, b)| a == b).count();
    let (shared, low) = low.split_at(common);
    let high = high.get(common..).unwrap_or_default();
    // What stands where the two part: nothing is less than any byte, and the end of all keys greater.
    let below = low.first().map_or(0, |byte| u16::from(*byte) + 1);
    let above = high.first().map_or(257, |byte| u16::from(*byte) + 1);
    let mut middle = shared.to_vec();
    if above - below >= 2 {
        middle.push(u8::try_from((below + above) / 2 - 1).ok()?);
        return Some(middle);
    }
    if high.len() > 1 {
        // The beginning of the greater one.
        middle.extend(high.first());
        return Some(middle);
    }
    // Whatever lies between begins like the lesser one, and goes on.
    let (first, rest) = low.split_first()?;
    middle.push(*first);
    middle.extend(self::middle(rest, &[])?);
    Some(middle)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cases::cases;

    fn key() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(prop::sample::select(vec![0x00, 0x01, b'a', 0xfe, 0xff]), 0..5)
    }

    proptest! {
        #![proptest_config(cases(256))]

        #[test]
        fn a_key_between_two_lies_between_them(a in key(), b in key()) {
            let (low, high) = (a.clone().min(b.clone()), a.max(b));
            prop_assume!(low != high);
            match middle(&low, &high) {
                Some(middle) => prop_assert!(low < middle && middle < high),
                None => prop_assert_eq!(high, after(&low)),
            }
            prop_assert!(middle(&low, &[]).is_some_and(|middle| middle > low), "before the end of all keys");
        }

        #[test]
        fn halving_finds_the_border(mut keys in prop::collection::btree_set(key(), 3), whole in any::<bool>()) {
            let low = keys.pop_first().unwrap();
            let border = if whole { low.clone() } else { keys.pop_first().unwrap() };
            let high = keys.pop_last().unwrap();
            let mut halvings = 0;
            let found = halve(&low, &high, |key| {
                halvings += 1;
                Ok(key <= border.as_slice())
            });
            prop_assert_eq!(found, Ok((border.clone(), after(&border))));
            prop_assert!(halvings < 120, "{} halvings", halvings);
            let found = halve(&low, &high, |key| Ok(key < high.as_slice())).unwrap();
            prop_assert_eq!(&found.1, &high);
            prop_assert!(found.0 < high);
        }
    }

    /// Ten keys, of which one value, or the block of some, or all, cannot be read.
    struct Damaged {
        value: Option<u8>,
        block: std::ops::Range<u8>,
    }

    impl Reader for Damaged {
        fn get(&self, _: Space, _: &[u8]) -> Result<Option<bytes::Bytes>, EngineError> {
            Ok(None)
        }

        fn multi_get(&self, _: Space, _: &[&[u8]], _: &mut crate::engine::GetVisitor<'_>) {}

        fn scan(
            &self,
            _: Space,
            range: &KeyRange,
            direction: Direction,
            visit: &mut crate::engine::ScanVisitor<'_>,
        ) -> Result<(), EngineError> {
            let corrupt = |detail: &str| Err(EngineError::Corruption { detail: detail.into() });
            let block = KeyRange { start: vec![self.block.start], end: vec![self.block.end] };
            let touches = |from: &[u8]| !self.block.is_empty() && block.contains(from);
            let mut keys: Vec<u8> = (b'0'..=b'9').collect();
            let entry = if direction == Direction::Forward { range.start.clone() } else { range.end.clone() };
            if direction == Direction::Backward {
                keys.reverse();
            }
            if touches(&entry) && (direction == Direction::Forward || entry > block.start) {
                return corrupt("block");
            }
            for key in keys.into_iter().filter(|key| range.contains(&[*key])) {
                if self.block.contains(&key) {
                    return corrupt("block");
                }
                if self.value == Some(key) {
                    return corrupt("value");
                }
                if visit(&[key], &[]).is_break() {
                    return Ok(());
                }
            }
            Ok(())
        }
    }

    /// All that can be read, past all that cannot.
    fn read(reader: &Damaged, direction: Direction) -> String {
        let (mut range, mut seen) = (KeyRange { start: b"0".to_vec(), end: b":".to_vec() }, String::new());
        loop {
            let mut last_read = Vec::new();
            let read = reader.scan(Space::Data, &range, direction, &mut |key, _| {
                seen.push(char::from(key[0]));
                last_read = key.to_vec();
                ControlFlow::Continue(())
            });
            if read.is_ok() {
                return seen;
            }
            let failure = Failure { space: Space::Data, range: &range, direction, last_read: &last_read };
            let reach = failure.reach(reader).unwrap();
            if let Some(in_front) = reach.in_front {
                let at = seen.len();
                let read = reader.scan(Space::Data, &in_front, Direction::Forward, &mut |key, _| {
                    let place = if direction == Direction::Forward { seen.len() } else { at };
                    seen.insert(place, char::from(key[0]));
                    ControlFlow::Continue(())
                });
                assert_eq!(read, Ok(()), "what is in front can be read");
            }
            seen.extend(reach.damaged.map(|_| '!'));
            match reach.rest {
                Some(rest) => range = rest,
                None => return seen,
            }
        }
    }

    /// A file that cannot be used at all.
    struct Lost;

    impl Reader for Lost {
        fn get(&self, _: Space, _: &[u8]) -> Result<Option<bytes::Bytes>, EngineError> {
            Ok(None)
        }

        fn multi_get(&self, _: Space, _: &[&[u8]], _: &mut crate::engine::GetVisitor<'_>) {}

        fn scan(
            &self,
            _: Space,
            range: &KeyRange,
            _: Direction,
            _: &mut crate::engine::ScanVisitor<'_>,
        ) -> Result<(), EngineError> {
            if range.is_empty() { Ok(()) } else { Err(EngineError::Corruption { detail: "file".into() }) }
        }
    }

    #[test]
    fn nothing_is_in_front_of_or_behind_what_is_all_damaged() {
        for start in [vec![], vec![7]] {
            let range = KeyRange { start, end: Vec::new() };
            for direction in [Direction::Forward, Direction::Backward] {
                let failure = Failure { space: Space::Data, range: &range, direction, last_read: &[] };
                let expected = Reach { in_front: None, damaged: Some(range.clone()), rest: None };
                assert_eq!(failure.reach(&Lost), Ok(expected), "{direction:?}");
            }
        }
    }

    #[test]
    fn everything_outside_of_the_damage_is_read_in_both_directions() {
        for (value, block, forward, backward) in [
            (None, b'5'..b'5', "0123456789", "9876543210"),
            (Some(b'4'), b'5'..b'5', "0123!56789", "98765!3210"),
            (Some(b'0'), b'5'..b'5', "!123456789", "987654321!"),
            (Some(b'9'), b'5'..b'5', "012345678!", "!876543210"),
            (None, b'3'..b'6', "012!6789", "9876!210"),
            (None, b'0'..b'6', "!6789", "9876!"),
            (None, b'7'..b':', "0123456!", "!6543210"),
            (None, b'0'..b':', "!", "!"),
            (Some(b'1'), b'4'..b'6', "0!23!6789", "9876!32!0"),
            (Some(b'3'), b'4'..b'6', "012!!6789", "9876!!210"),
        ] {
            let reader = Damaged { value, block };
            assert_eq!(read(&reader, Direction::Forward), forward);
            assert_eq!(read(&reader, Direction::Backward), backward);
        }
    }
}
