//! Where a page of a table ended, as a client keeps it.
//!
//! ```text
//! format u8 = 1 | the scan u64 | position | checksum u64 of all before
//! ```
//!
//! The position is one in the order of keys, the same on every replica and under every map: a scan goes on exactly behind
//! what it covered, whatever became of the cluster meanwhile. A token of another scan, or one that was not given like this,
//! is refused.

use bytes::{BufMut, Bytes, BytesMut};
use cube_storage::keyspace::index_prefix_range;
use cube_storage::model::{Invalid, TableId};
use xxhash_rust::xxh3::xxh3_64;

const FORMAT: u8 = 1;
const HEAD_LEN: usize = 1 + 8;
const CHECKSUM_LEN: usize = 8;

/// The token of a page of this scan that ended there.
pub(super) fn seal(table: TableId, prefix: &[u8], backward: bool, position: &[u8]) -> Bytes {
    let mut token = BytesMut::with_capacity(HEAD_LEN + position.len() + CHECKSUM_LEN);
    token.put_u8(FORMAT);
    token.put_u64(fingerprint(table, prefix, backward));
    token.put_slice(position);
    token.put_u64(xxh3_64(&token));
    token.freeze()
}

/// Where the next page of this scan begins.
pub(super) fn open(table: TableId, prefix: &[u8], backward: bool, token: &Bytes) -> Result<Bytes, Invalid> {
    let (sealed, checksum) = token.split_last_chunk::<CHECKSUM_LEN>().ok_or(Invalid::PageToken)?;
    let (head, position) = sealed.split_first_chunk::<HEAD_LEN>().ok_or(Invalid::PageToken)?;
    let is_whole = u64::from_be_bytes(*checksum) == xxh3_64(sealed);
    let [format, of @ ..] = head;
    let is_mine = *format == FORMAT && u64::from_be_bytes(*of) == fingerprint(table, prefix, backward);
    if !is_whole || !is_mine || !index_prefix_range(table, prefix).contains(position) {
        return Err(Invalid::PageToken);
    }
    Ok(token.slice_ref(position))
}

fn fingerprint(table: TableId, prefix: &[u8], backward: bool) -> u64 {
    let mut about = table.0.to_be_bytes().to_vec();
    about.push(u8::from(backward));
    about.extend_from_slice(prefix);
    xxh3_64(&about)
}

#[cfg(test)]
mod tests {
    use crate::cases::cases;
    use cube_storage::keyspace::encode_index_key;
    use cube_storage::model::RowKey;
    use proptest::prelude::*;

    use super::*;

    const TABLE: TableId = TableId(4);

    fn position(key: &'static str) -> Vec<u8> {
        let mut position = Vec::new();
        encode_index_key(TABLE, &RowKey::of(key), &mut position);
        position
    }

    #[test]
    fn a_token_is_good_for_its_own_scan_alone() {
        let token = seal(TABLE, b"user", false, &position("user:7"));
        assert_eq!(open(TABLE, b"user", false, &token).unwrap(), position("user:7"));
        assert_eq!(open(TABLE, b"user", true, &token), Err(Invalid::PageToken));
        assert_eq!(open(TABLE, b"use", false, &token), Err(Invalid::PageToken));
        assert_eq!(open(TableId(5), b"user", false, &token), Err(Invalid::PageToken));
        let outside = seal(TABLE, b"user", false, &position("zebra"));
        assert_eq!(open(TABLE, b"user", false, &outside), Err(Invalid::PageToken));
    }

    proptest! {
        #![proptest_config(cases(256))]

        #[test]
        fn whatever_is_not_a_token_is_refused(bytes in prop::collection::vec(any::<u8>(), 0..60), flip in any::<(usize, u8)>()) {
            prop_assert_eq!(open(TABLE, b"user", false, &bytes.into()), Err(Invalid::PageToken));
            let mut token = seal(TABLE, b"user", false, &position("user:7")).to_vec();
            let place = flip.0 % token.len();
            token[place] ^= flip.1.max(1);
            prop_assert_eq!(open(TABLE, b"user", false, &token.into()), Err(Invalid::PageToken));
        }
    }
}
