//! The token with which a range read goes on: where the last page ended, a fingerprint of the range, so that it is good
//! for this range only, and a checksum, so that one that was damaged passes no rows over. Opaque to clients.
//!
//! `format u8 = 2 | fingerprint u64 | sort key | checksum u64 of all before`

use std::ops::Bound;

use bytes::{BufMut, Bytes, BytesMut};
use cube_replication::coordinator::RangeRequest;
use cube_storage::model::Invalid;

const FORMAT: u8 = 2;
const HEAD_LEN: usize = 1 + 8;
const CHECKSUM_LEN: usize = 8;

/// The token of the page that begins behind `last`.
pub(crate) fn token(range: &RangeRequest, last: &[u8]) -> Bytes {
    let mut token = BytesMut::with_capacity(HEAD_LEN + last.len() + CHECKSUM_LEN);
    token.put_u8(FORMAT);
    token.put_u64(fingerprint(range));
    token.put_slice(last);
    token.put_u64(cube_proto::token(&token));
    token.freeze()
}

/// Narrows a range to what follows the page that gave this token; without one it stays as it is.
pub(crate) fn resume(range: &mut RangeRequest, token: &Bytes) -> Result<(), Invalid> {
    if token.is_empty() {
        return Ok(());
    }
    let (sealed, checksum) = token.split_last_chunk::<CHECKSUM_LEN>().ok_or(Invalid::PageToken)?;
    let (head, last) = sealed.split_first_chunk::<HEAD_LEN>().ok_or(Invalid::PageToken)?;
    let [format, of @ ..] = head;
    let is_whole = u64::from_be_bytes(*checksum) == cube_proto::token(sealed);
    if !is_whole || *format != FORMAT || u64::from_be_bytes(*of) != fingerprint(range) {
        return Err(Invalid::PageToken);
    }
    let behind = Bound::Excluded(Bytes::copy_from_slice(last));
    if range.backward {
        range.to = behind
    } else {
        range.from = behind
    }
    Ok(())
}

/// Of everything that says which rows are in the range and in which order.
fn fingerprint(range: &RangeRequest) -> u64 {
    let mut bytes = BytesMut::new();
    let names = [range.table.keyspace.as_bytes(), range.table.table.as_bytes(), range.partition.as_ref()];
    for part in names {
        put_part(&mut bytes, part);
    }
    for bound in [&range.from, &range.to] {
        match bound {
            Bound::Unbounded => bytes.put_u8(0),
            Bound::Included(sort) => {
                bytes.put_u8(1);
                put_part(&mut bytes, sort);
            }
            Bound::Excluded(sort) => {
                bytes.put_u8(2);
                put_part(&mut bytes, sort);
            }
        }
    }
    bytes.put_u8(u8::from(range.backward));
    cube_proto::token(&bytes)
}

fn put_part(bytes: &mut BytesMut, part: &[u8]) {
    bytes.put_u64(u64::try_from(part.len()).unwrap_or(u64::MAX));
    bytes.put_slice(part);
}

#[cfg(test)]
mod tests {
    use cube_replication::coordinator::Terms;

    use super::*;
    use crate::edge::{DEFAULT_LEVEL, table_name};

    fn range(partition: &'static str, backward: bool) -> RangeRequest {
        RangeRequest {
            table: table_name(None, None),
            partition: partition.into(),
            from: Bound::Included("b".into()),
            to: Bound::Unbounded,
            backward,
            rows_max: 10,
            terms: Terms::at(DEFAULT_LEVEL),
        }
    }

    #[test]
    fn a_page_goes_on_behind_the_last_row_in_either_direction() {
        for backward in [false, true] {
            let first = range("p", backward);
            let mut next = range("p", backward);
            resume(&mut next, &token(&first, b"m")).unwrap();
            let behind = Bound::Excluded(Bytes::from("m"));
            let expected = if backward { (first.from, behind) } else { (behind, first.to) };
            assert_eq!((next.from, next.to), expected);
        }
    }

    #[test]
    fn a_token_of_another_range_or_of_nobody_is_refused() {
        let given = token(&range("p", false), b"m");
        for (mut other, token) in [
            (range("q", false), given.clone()),
            (range("p", true), given.clone()),
            (range("p", false), given.slice(..4)),
            (range("p", false), Bytes::from_static(b"\x02nothing of ours")),
        ] {
            assert_eq!(resume(&mut other, &token), Err(Invalid::PageToken));
        }
    }

    #[test]
    fn a_token_of_which_anything_was_changed_or_lost_is_refused() {
        let given = token(&range("p", false), b"m");
        for place in 0..given.len() {
            assert_eq!(resume(&mut range("p", false), &given.slice(..place.max(1))), Err(Invalid::PageToken));
            for bit in 0..8 {
                let mut changed = given.to_vec();
                changed[place] ^= 1 << bit;
                assert_eq!(resume(&mut range("p", false), &changed.into()), Err(Invalid::PageToken), "byte {place}");
            }
        }
    }
}
