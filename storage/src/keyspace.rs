//! How rows are named in the engine's ordered key spaces.
//!
//! ```text
//! data  table u32 | token u64 | partition key (escaped) | sort key
//! keys  table u32 |             partition key (escaped) | sort key
//! ```
//!
//! Token order makes a partition, and every Merkle leaf, one contiguous range of `data`; `keys` is in the order of the
//! partition keys themselves, for prefix scans. Invariant: encoding keeps the order of (table, token, partition key,
//! sort key), and no two rows share an encoding: a zero byte of the partition key is written `00 ff` and its end
//! `00 01`, so no partition key's encoding is a prefix of another's.

use std::ops::Bound;

use bytes::{BufMut, Bytes};

use crate::model::{RowKey, TableId, Token};

const TOKEN_LEN: usize = 8;
const ESCAPED_ZERO: [u8; 2] = [0x00, 0xff];
const END: [u8; 2] = [0x00, 0x01];
const PAST_END: [u8; 2] = [0x00, 0x02];

/// A range of encoded keys: from `start` up to but without `end`. An empty `end` is the end of the key space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRange {
    /// The first key inside.
    pub start: Vec<u8>,
    /// The first key outside.
    pub end: Vec<u8>,
}

impl KeyRange {
    /// All keys that begin with `prefix`.
    pub fn prefix(prefix: Vec<u8>) -> Self {
        let end = successor(&prefix);
        Self { start: prefix, end }
    }

    /// Whether `key` lies inside.
    pub fn contains(&self, key: &[u8]) -> bool {
        key >= self.start.as_slice() && (self.end.is_empty() || key < self.end.as_slice())
    }

    /// What lies in both ranges, if anything can.
    pub fn within(&self, other: &Self) -> Option<Self> {
        let start = self.start.clone().max(other.start.clone());
        let end = match (self.end.is_empty(), other.end.is_empty()) {
            (true, _) => other.end.clone(),
            (_, true) => self.end.clone(),
            _ => self.end.clone().min(other.end.clone()),
        };
        let both = Self { start, end };
        (!both.is_empty()).then_some(both)
    }

    /// Whether nothing can lie inside.
    pub fn is_empty(&self) -> bool {
        !self.end.is_empty() && self.start >= self.end
    }
}

/// The first key that does not begin with `prefix` and is greater; empty when there is none.
fn successor(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            break;
        }
    }
    end
}

/// The first key behind `key`.
pub fn after(key: &[u8]) -> Vec<u8> {
    let mut next = Vec::with_capacity(key.len() + 1);
    next.extend_from_slice(key);
    next.push(0);
    next
}

/// Appends the `data` key of a row, and returns its token.
pub fn encode_data_key(table: TableId, key: &RowKey, out: &mut Vec<u8>) -> Token {
    let token = key.token();
    out.reserve(4 + 8 + key.len_bytes() + END.len());
    out.put_u32(table.0);
    out.put_u64(token.0);
    put_escaped(&key.partition, out);
    out.put_slice(&END);
    out.put_slice(&key.sort);
    token
}

/// The `data` key of a row.
pub fn data_key(table: TableId, key: &RowKey) -> Vec<u8> {
    let mut out = Vec::new();
    encode_data_key(table, key, &mut out);
    out
}

/// Appends the `keys` key of a row.
pub fn encode_index_key(table: TableId, key: &RowKey, out: &mut Vec<u8>) {
    out.reserve(4 + key.len_bytes() + END.len());
    out.put_u32(table.0);
    put_escaped(&key.partition, out);
    out.put_slice(&END);
    out.put_slice(&key.sort);
}

/// The row that a `data` key names; `None` for bytes that are no such key.
pub fn decode_data_key(encoded: &[u8]) -> Option<(TableId, Token, RowKey)> {
    let (table, rest) = encoded.split_first_chunk::<4>()?;
    let (token, rest) = rest.split_first_chunk::<8>()?;
    Some((TableId(u32::from_be_bytes(*table)), Token(u64::from_be_bytes(*token)), decode_row_key(rest)?))
}

/// The row that a `keys` key names; `None` for bytes that are no such key.
pub fn decode_index_key(encoded: &[u8]) -> Option<(TableId, RowKey)> {
    let (table, rest) = encoded.split_first_chunk::<4>()?;
    Some((TableId(u32::from_be_bytes(*table)), decode_row_key(rest)?))
}

/// All `data` keys of a table.
pub fn table_range(table: TableId) -> KeyRange {
    KeyRange::prefix(table.0.to_be_bytes().to_vec())
}

/// The `data` keys of a table whose tokens lie between `first` and `last`, both inside.
pub fn token_range(table: TableId, first: Token, last: Token) -> KeyRange {
    KeyRange { start: token_prefix(table, first), end: successor(&token_prefix(table, last)) }
}

/// The first and the last token whose rows a range of `data` keys can hold; nothing when it holds none of the table.
pub fn tokens_of_range(table: TableId, range: &KeyRange) -> Option<(Token, Token)> {
    let all = table_range(table);
    let first = match range.start.strip_prefix(all.start.as_slice()) {
        Some(rest) => leading_token(rest),
        None if range.start <= all.start => Token(0),
        None => return None,
    };
    let last = match range.end.strip_prefix(all.start.as_slice()) {
        // A row's own token, and all that follows it in the key, may lie before the end.
        Some(rest) if rest.len() > TOKEN_LEN => leading_token(rest),
        Some(rest) => Token(leading_token(rest).0.checked_sub(1)?),
        None if range.end.is_empty() || range.end > all.start => Token(u64::MAX),
        None => return None,
    };
    (first <= last).then_some((first, last))
}

/// The token that key bytes behind the table begin with; a cut one is filled up with zeros.
fn leading_token(rest: &[u8]) -> Token {
    let mut token = [0; TOKEN_LEN];
    token.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
    Token(u64::from_be_bytes(token))
}

/// The `data` keys of one partition key whose sort keys lie within the bounds.
pub fn sort_range(table: TableId, partition: &Bytes, from: Bound<&[u8]>, to: Bound<&[u8]>) -> KeyRange {
    let prefix = data_key(table, &RowKey::of(partition.clone()));
    let with = |sort: &[u8], after: bool| {
        let mut key = prefix.clone();
        key.extend_from_slice(sort);
        if after {
            key.push(0);
        }
        key
    };
    let start = match from {
        Bound::Included(sort) => with(sort, false),
        Bound::Excluded(sort) => with(sort, true),
        Bound::Unbounded => prefix.clone(),
    };
    let end = match to {
        Bound::Included(sort) => with(sort, true),
        Bound::Excluded(sort) => with(sort, false),
        Bound::Unbounded => {
            let mut end = prefix.clone();
            end.truncate(prefix.len() - END.len());
            end.extend_from_slice(&PAST_END);
            end
        }
    };
    KeyRange { start, end }
}

/// The `keys` keys of a table whose partition keys begin with `prefix`.
pub fn index_prefix_range(table: TableId, prefix: &[u8]) -> KeyRange {
    let mut start = table.0.to_be_bytes().to_vec();
    put_escaped(prefix, &mut start);
    KeyRange::prefix(start)
}

fn token_prefix(table: TableId, token: Token) -> Vec<u8> {
    let mut out = Vec::with_capacity(12);
    out.put_u32(table.0);
    out.put_u64(token.0);
    out
}

fn put_escaped(bytes: &[u8], out: &mut Vec<u8>) {
    let mut rest = bytes;
    while let Some(zero) = rest.iter().position(|&b| b == 0) {
        let (before, after) = rest.split_at(zero);
        out.put_slice(before);
        out.put_slice(&ESCAPED_ZERO);
        rest = after.get(1..).unwrap_or_default();
    }
    out.put_slice(rest);
}

fn decode_row_key(encoded: &[u8]) -> Option<RowKey> {
    let mut partition = Vec::with_capacity(encoded.len());
    let mut rest = encoded;
    loop {
        let zero = rest.iter().position(|&b| b == 0)?;
        let (before, after) = rest.split_at(zero);
        partition.extend_from_slice(before);
        let (pair, after) = after.split_first_chunk::<2>()?;
        rest = after;
        match *pair {
            ESCAPED_ZERO => partition.push(0),
            END => return Some(RowKey::with_sort(partition, Bytes::copy_from_slice(rest))),
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cases::cases;

    /// Keys made of few different bytes, so that prefixes, zeros and escapes meet often.
    fn tricky_bytes() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(prop::sample::select(vec![0x00, 0x01, 0x02, b'a', 0xfe, 0xff]), 0..6)
    }

    fn row_key() -> impl Strategy<Value = RowKey> {
        (tricky_bytes(), tricky_bytes()).prop_map(|(p, s)| RowKey::with_sort(p, s))
    }

    fn index_key(key: &RowKey) -> Vec<u8> {
        let mut out = Vec::new();
        encode_index_key(TableId(1), key, &mut out);
        out
    }

    proptest! {
        #![proptest_config(cases(256))]

        #[test]
        fn data_keys_read_back_and_keep_the_order(a in row_key(), b in row_key(), t in 0u32..3, u in 0u32..3) {
            let (ea, eb) = (data_key(TableId(t), &a), data_key(TableId(u), &b));
            prop_assert_eq!(decode_data_key(&ea), Some((TableId(t), a.token(), a.clone())));
            prop_assert_eq!(ea.cmp(&eb), (t, a.token(), &a).cmp(&(u, b.token(), &b)));
        }

        #[test]
        fn index_keys_read_back_and_keep_the_order(a in row_key(), b in row_key()) {
            let (ea, eb) = (index_key(&a), index_key(&b));
            prop_assert_eq!(decode_index_key(&ea), Some((TableId(1), a.clone())));
            prop_assert_eq!(ea.cmp(&eb), a.cmp(&b));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            if let Some((table, token, key)) = decode_data_key(&bytes) {
                prop_assert_eq!(token_prefix(table, token), bytes[..12].to_vec());
                let mut index = table.0.to_be_bytes().to_vec();
                index.extend_from_slice(&bytes[12..]);
                prop_assert_eq!(decode_index_key(&index), Some((table, key)));
            }
        }

        #[test]
        fn ranges_hold_exactly_what_they_name(key in row_key(), other in row_key(), from in tricky_bytes(),
                                              to in tricky_bytes(), kinds in (0u8..3, 0u8..3)) {
            let bound = |kind: u8, sort: &'static [u8]| match kind {
                0 => Bound::Included(sort),
                1 => Bound::Excluded(sort),
                _ => Bound::Unbounded,
            };
            let (from, to): (&'static [u8], &'static [u8]) = (from.leak(), to.leak());
            let bounds = (bound(kinds.0, from), bound(kinds.1, to));
            let range = sort_range(TableId(1), &key.partition, bounds.0, bounds.1);
            let inside = other.partition == key.partition
                && std::ops::RangeBounds::<[u8]>::contains(&bounds, &other.sort[..]);
            prop_assert_eq!(range.contains(&data_key(TableId(1), &other)), inside);

            let tokens = token_range(TableId(1), key.token(), key.token());
            prop_assert_eq!(tokens.contains(&data_key(TableId(1), &other)), other.token() == key.token());
            prop_assert!(!tokens.contains(&data_key(TableId(2), &key)));

            let prefixed = index_prefix_range(TableId(1), &key.partition);
            prop_assert_eq!(prefixed.contains(&index_key(&other)), other.partition.starts_with(&key.partition));
        }
    }

    proptest! {
        #![proptest_config(cases(256))]

        #[test]
        fn a_range_tells_the_tokens_it_holds(a in edge(), b in edge(), key in row_key()) {
            let (first, last) = (a.min(b), a.max(b));
            let range = token_range(TableId(1), Token(first), Token(last));
            prop_assert_eq!(tokens_of_range(TableId(1), &range), Some((Token(first), Token(last))));
            prop_assert_eq!(tokens_of_range(TableId(0), &range), None);
            prop_assert_eq!(tokens_of_range(TableId(2), &range), None);
            let row = data_key(TableId(1), &key);
            let behind = KeyRange { start: row.clone(), end: range.end.clone() };
            let before = KeyRange { start: range.start.clone(), end: row };
            let token = key.token();
            prop_assert_eq!(
                tokens_of_range(TableId(1), &behind),
                (token.0 <= last).then_some((token, Token(last)))
            );
            prop_assert_eq!(
                tokens_of_range(TableId(1), &before),
                (first <= token.0).then_some((Token(first), token))
            );
        }
    }

    fn edge() -> impl Strategy<Value = u64> {
        prop_oneof![any::<u64>(), Just(0), Just(u64::MAX), any::<u8>().prop_map(|top| u64::from(top) << 56)]
    }

    #[test]
    fn the_whole_key_space_holds_all_tokens_of_every_table() {
        let all = KeyRange { start: Vec::new(), end: Vec::new() };
        for table in [TableId(0), TableId(7), TableId(u32::MAX)] {
            assert_eq!(tokens_of_range(table, &all), Some((Token(0), Token(u64::MAX))));
            assert_eq!(tokens_of_range(table, &table_range(table)), Some((Token(0), Token(u64::MAX))));
        }
    }

    #[test]
    fn the_last_token_of_the_last_table_has_a_range() {
        let range = token_range(TableId(u32::MAX), Token(u64::MAX), Token(u64::MAX));
        assert!(range.end.is_empty() && !range.is_empty());
    }
}
