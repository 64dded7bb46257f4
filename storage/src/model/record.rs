//! A row's record: what a node keeps under a key, and its bytes on disk and on the wire.
//!
//! ```text
//! format u8 = 1 | flags u8 | hlc u64 | node u16 | [expiry u64] | value ... | crc32 u32     (numbers big endian)
//! ```
//!
//! The checksum covers the encoded key and all of the record before it, so a record that ends up under another key is
//! as damaged as one with a flipped bit. Version and checksum together identify a record: that pair is the digest
//! that replicas compare.
//!
//! Invariant: [`Record::supersedes`] is a strict total order on the records of a key, hence the order of arrival never
//! matters.

use std::cmp::Ordering;
use std::fmt;
use std::ops::Range;

use bytes::{BufMut, Bytes};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{Hlc, NodeId, Version};

const FORMAT: u8 = 1;
const FLAG_TOMBSTONE: u8 = 1;
const FLAG_EXPIRY: u8 = 2;
const FIXED_LEN: usize = 1 + 1 + 8 + 2;
const EXPIRY_LEN: usize = 8;
const CHECKSUM_LEN: usize = 4;

/// When a value ends: milliseconds since 1970, fixed once by the coordinator.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Expiry(pub u64);

impl fmt::Debug for Expiry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "expires {}", self.0)
    }
}

/// What a version says of its row.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Body {
    /// The row has this value, until it expires.
    Value {
        /// The bytes.
        value: Bytes,
        /// When they end, if they do.
        expiry: Option<Expiry>,
    },
    /// The row was deleted.
    Tombstone,
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tombstone => f.write_str("tombstone"),
            Self::Value { value, expiry: None } => write!(f, "{} bytes", value.len()),
            Self::Value { value, expiry: Some(expiry) } => write!(f, "{} bytes, {expiry:?}", value.len()),
        }
    }
}

/// One version of a row.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Record {
    /// What orders it among the versions of its row.
    pub version: Version,
    /// What it says.
    pub body: Body,
}

/// The bytes under a key are not a record that was written there.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Damage {
    /// Fewer bytes than the shortest record.
    #[error("{len} bytes are too few for a record")]
    Short {
        /// Bytes found.
        len: usize,
    },
    /// A format this build does not know.
    #[error("record format {found} is not known to this build (it reads format {FORMAT})")]
    Format {
        /// The format byte found.
        found: u8,
    },
    /// Flags that no record has.
    #[error("flags {found:#04x} are those of no record")]
    Flags {
        /// The flag byte found.
        found: u8,
    },
    /// The bytes are not those that were written under this key.
    #[error("checksum {computed:08x} instead of {stored:08x}")]
    Checksum {
        /// The checksum in the record.
        stored: u32,
        /// The checksum of the record's bytes and its key.
        computed: u32,
    },
}

impl Record {
    /// A value without end.
    pub fn value(version: Version, value: impl Into<Bytes>) -> Self {
        Self { version, body: Body::Value { value: value.into(), expiry: None } }
    }

    /// A value that ends.
    pub fn expiring(version: Version, value: impl Into<Bytes>, expiry: Expiry) -> Self {
        Self { version, body: Body::Value { value: value.into(), expiry: Some(expiry) } }
    }

    /// A deletion.
    pub fn tombstone(version: Version) -> Self {
        Self { version, body: Body::Tombstone }
    }

    /// When the value ends, if there is one and it does.
    pub fn expiry(&self) -> Option<Expiry> {
        match self.body {
            Body::Value { expiry, .. } => expiry,
            Body::Tombstone => None,
        }
    }

    /// Bytes of the value; none in a tombstone.
    pub fn value_len(&self) -> usize {
        match &self.body {
            Body::Value { value, .. } => value.len(),
            Body::Tombstone => 0,
        }
    }

    /// Whether the row is deleted by this record.
    pub fn is_tombstone(&self) -> bool {
        matches!(self.body, Body::Tombstone)
    }

    /// The value that a reader sees at `now`: none of a tombstone and none past its expiry.
    pub fn live_value(&self, now: Hlc) -> Option<&Bytes> {
        match &self.body {
            Body::Value { expiry: Some(expiry), .. } if expiry.0 <= now.millis() => None,
            Body::Value { value, .. } => Some(value),
            Body::Tombstone => None,
        }
    }

    /// Whether purge at `floor` removes this record: a deletion, or a value that has ended, no younger than the floor.
    pub fn is_purgeable(&self, floor: Hlc) -> bool {
        purgeable(self.version, self.is_tombstone(), self.expiry(), floor)
    }

    /// Whether this record wins over `other` of the same row: greater version, then tombstone over value, then the
    /// greater value, then the later expiry.
    pub fn supersedes(&self, other: &Self) -> bool {
        self.precedence(other) == Ordering::Greater
    }

    fn precedence(&self, other: &Self) -> Ordering {
        self.version.cmp(&other.version).then_with(|| match (&self.body, &other.body) {
            (Body::Tombstone, Body::Tombstone) => Ordering::Equal,
            (Body::Tombstone, Body::Value { .. }) => Ordering::Greater,
            (Body::Value { .. }, Body::Tombstone) => Ordering::Less,
            (Body::Value { value: a, expiry: a_end }, Body::Value { value: b, expiry: b_end }) => {
                // Without an expiry is later than any.
                let end = |expiry: &Option<Expiry>| (expiry.is_none(), expiry.map(|e| e.0));
                a.cmp(b).then_with(|| end(a_end).cmp(&end(b_end)))
            }
        })
    }

    /// The length of the encoded record.
    pub fn encoded_len(&self) -> usize {
        let body = match &self.body {
            Body::Tombstone => 0,
            Body::Value { value, expiry } => value.len() + if expiry.is_some() { EXPIRY_LEN } else { 0 },
        };
        FIXED_LEN + body + CHECKSUM_LEN
    }

    /// Appends the record as it stands under `data_key`, and returns its checksum.
    pub fn encode_into(&self, data_key: &[u8], out: &mut Vec<u8>) -> u32 {
        let start = out.len();
        let (flags, value, expiry): (u8, &[u8], Option<Expiry>) = match &self.body {
            Body::Tombstone => (FLAG_TOMBSTONE, &[], None),
            Body::Value { value, expiry: None } => (0, value, None),
            Body::Value { value, expiry } => (FLAG_EXPIRY, value, *expiry),
        };
        out.reserve(self.encoded_len());
        out.put_u8(FORMAT);
        out.put_u8(flags);
        out.put_u64(self.version.hlc.0);
        out.put_u16(self.version.node.0);
        if let Some(expiry) = expiry {
            out.put_u64(expiry.0);
        }
        out.put_slice(value);
        let checksum = checksum(data_key, out.get(start..).unwrap_or_default());
        out.put_u32(checksum);
        checksum
    }

    /// The record as it stands under `data_key`.
    pub fn encode(&self, data_key: &[u8]) -> Bytes {
        let mut out = Vec::with_capacity(self.encoded_len());
        self.encode_into(data_key, &mut out);
        Bytes::from(out)
    }

    /// Reads back what [`Record::encode`] wrote under the same key; the value shares `bytes`.
    pub fn decode(data_key: &[u8], bytes: &Bytes) -> Result<Self, Damage> {
        let header = RecordHeader::verify(data_key, bytes)?;
        Ok(header.with_value(bytes.slice(header.value_range(bytes.len()))))
    }

    /// [`Record::decode`] for a borrowed buffer: copies the value and nothing else.
    pub fn decode_copy(data_key: &[u8], bytes: &[u8]) -> Result<Self, Damage> {
        Ok(Self::decode_with_header(data_key, bytes)?.1)
    }

    /// [`Record::decode_copy`], with the header that tells the checksum.
    pub fn decode_with_header(data_key: &[u8], bytes: &[u8]) -> Result<(RecordHeader, Self), Damage> {
        let header = RecordHeader::verify(data_key, bytes)?;
        let value = bytes.get(header.value_range(bytes.len())).unwrap_or_default();
        Ok((header, header.with_value(Bytes::copy_from_slice(value))))
    }
}

/// What a record says without its value: enough to resolve conflicts and to keep the Merkle sums.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordHeader {
    /// The record's version.
    pub version: Version,
    /// The checksum over key and record.
    pub checksum: u32,
    /// Whether it deletes the row.
    pub tombstone: bool,
    /// When its value ends.
    pub expiry: Option<Expiry>,
}

impl RecordHeader {
    /// The header of a record whose checksum is known.
    pub fn of(record: &Record, checksum: u32) -> Self {
        Self { version: record.version, checksum, tombstone: record.is_tombstone(), expiry: record.expiry() }
    }

    /// Reads the header and verifies the whole record against its key.
    pub fn verify(data_key: &[u8], bytes: &[u8]) -> Result<Self, Damage> {
        let short = Damage::Short { len: bytes.len() };
        let Some((covered, stored)) = bytes.split_last_chunk::<CHECKSUM_LEN>() else { return Err(short) };
        let Some((&[format, flags], rest)) = covered.split_first_chunk::<2>() else { return Err(short) };
        if format != FORMAT {
            return Err(Damage::Format { found: format });
        }
        let stored = u32::from_be_bytes(*stored);
        let computed = checksum(data_key, covered);
        if stored != computed {
            return Err(Damage::Checksum { stored, computed });
        }
        let Some((hlc, rest)) = rest.split_first_chunk::<8>() else { return Err(short) };
        let Some((node, rest)) = rest.split_first_chunk::<2>() else { return Err(short) };
        let version = Version::new(Hlc(u64::from_be_bytes(*hlc)), NodeId(u16::from_be_bytes(*node)));
        let expiry = match flags {
            FLAG_EXPIRY => match rest.split_first_chunk::<EXPIRY_LEN>() {
                Some((expiry, _)) => Some(Expiry(u64::from_be_bytes(*expiry))),
                None => return Err(short),
            },
            0 => None,
            FLAG_TOMBSTONE if rest.is_empty() => None,
            found => return Err(Damage::Flags { found }),
        };
        Ok(Self { version, checksum: stored, tombstone: flags == FLAG_TOMBSTONE, expiry })
    }

    /// Where the value stands in a record of so many bytes.
    fn value_range(&self, record_bytes: usize) -> Range<usize> {
        let start = if self.expiry.is_some() { FIXED_LEN + EXPIRY_LEN } else { FIXED_LEN };
        start..record_bytes - CHECKSUM_LEN
    }

    fn with_value(&self, value: Bytes) -> Record {
        let body = if self.tombstone { Body::Tombstone } else { Body::Value { value, expiry: self.expiry } };
        Record { version: self.version, body }
    }

    /// Whether purge at `floor` removes the record.
    pub fn is_purgeable(&self, floor: Hlc) -> bool {
        purgeable(self.version, self.tombstone, self.expiry, floor)
    }

    /// The lowest floor at which purge removes the record; nothing of a value without an end.
    pub fn purgeable_from(&self) -> Option<Hlc> {
        let ends = if self.tombstone { Hlc(0) } else { Hlc::new(self.expiry?.0, 0) };
        Some(self.version.hlc.max(ends))
    }
}

/// What purge removes follows from the floor alone, so that all replicas purge the same.
fn purgeable(version: Version, tombstone: bool, expiry: Option<Expiry>, floor: Hlc) -> bool {
    let ended = tombstone || expiry.is_some_and(|e| e.0 <= floor.millis());
    ended && version.hlc <= floor
}

fn checksum(data_key: &[u8], covered: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(data_key);
    crc.update(covered);
    crc.finalize()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cases::cases;

    fn record() -> impl Strategy<Value = Record> {
        let body = prop_oneof![
            Just(Body::Tombstone),
            (prop::collection::vec(any::<u8>(), 0..3), prop::option::of(prop_oneof![0u64..3, Just(u64::MAX)]))
                .prop_map(|(v, e)| Body::Value { value: v.into(), expiry: e.map(Expiry) }),
        ];
        (0u64..4, 0u16..3, body)
            .prop_map(|(hlc, node, body)| Record { version: Version::new(Hlc(hlc), NodeId(node)), body })
    }

    proptest! {
        #![proptest_config(cases(256))]

        #[test]
        fn every_record_reads_back_as_written(record in record(), key in prop::collection::vec(any::<u8>(), 1..30)) {
            let bytes = record.encode(&key);
            prop_assert_eq!(bytes.len(), record.encoded_len());
            prop_assert_eq!(&Record::decode(&key, &bytes).unwrap(), &record);
            let header = RecordHeader::verify(&key, &bytes).unwrap();
            prop_assert_eq!((header.version, header.tombstone, header.expiry),
                            (record.version, record.is_tombstone(), record.expiry()));
        }

        #[test]
        fn any_flipped_bit_is_damage(record in record(), at in any::<prop::sample::Index>(), bit in 0u8..8) {
            let key = b"key";
            let mut bytes = record.encode(key).to_vec();
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert!(Record::decode(key, &bytes.into()).is_err());
        }

        #[test]
        fn a_record_under_another_key_is_damage(record in record()) {
            let bytes = record.encode(b"user:alice");
            prop_assert!(Record::decode(b"user:alicf", &bytes).is_err());
        }

        #[test]
        fn any_prefix_of_a_record_is_damage(record in record(), cut in any::<prop::sample::Index>()) {
            let bytes = record.encode(b"key");
            let cut = cut.index(bytes.len());
            prop_assert!(Record::decode(b"key", &bytes.slice(..cut)).is_err());
        }

        #[test]
        fn precedence_is_a_strict_total_order(a in record(), b in record(), c in record()) {
            prop_assert_eq!(a.supersedes(&b) || b.supersedes(&a), a != b, "one of two different records wins");
            prop_assert!(!(a.supersedes(&b) && b.supersedes(&a)));
            if a.supersedes(&b) && b.supersedes(&c) {
                prop_assert!(a.supersedes(&c));
            }
        }
    }

    #[test]
    fn a_tombstone_beats_a_value_of_its_version() {
        let version = Version::new(Hlc(7), NodeId(1));
        let (value, tombstone) = (Record::value(version, "zzz"), Record::tombstone(version));
        assert!(tombstone.supersedes(&value) && !value.supersedes(&tombstone));
    }

    #[test]
    fn a_newer_format_is_named() {
        let mut bytes = Record::tombstone(Version::ZERO).encode(b"k").to_vec();
        bytes[0] = 2;
        let message = Record::decode(b"k", &bytes.into()).unwrap_err().to_string();
        assert!(message.contains("format 2") && message.contains("format 1"), "{message}");
    }
}
