//! One hint in a segment.
//!
//! ```text
//! head (56 bytes) | payload | tail (56 bytes)        head and tail say the same, apart from their marker
//!
//! marker u32 | sequence u64 | payload length u32 | payload crc32 u32 | table u32 | token u64 | hlc u64 | node u16 |
//! flags u16 | created u64 | crc32 u32
//!
//! payload: data key length u32 | data key | record                                     (numbers big endian)
//! ```
//!
//! Invariant: a single damaged byte leaves head or tail, so that where the frame begins and ends, and which row it is
//! for, stays known; if the damage is not in the payload, so does the hint. The checksum of head and tail is seeded
//! with target, segment and offset: bytes of a frame that stand anywhere else (in a value, say, or in a segment that
//! was copied) are no frame, so looking for the next good one cannot be misled.

use bytes::{BufMut, Bytes};

use super::Hint;
use crate::keyspace::{data_key, decode_data_key};
use crate::model::{Hlc, NodeId, Record, TableId, Token, Version};

/// Bytes of a head, and of a tail.
pub(super) const COPY_LEN: usize = 56;
/// Bytes of a frame around its payload.
pub(super) const OVERHEAD_LEN: u64 = 2 * COPY_LEN as u64;
const FLAG_ONLY_COPY: u16 = 1;

/// Which of the two copies of what a frame says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Head,
    Tail,
}

impl Side {
    pub(super) const fn marker(self) -> [u8; 4] {
        match self {
            Self::Head => [0xc7, 0x1b, 0xe4, 0x0d],
            Self::Tail => [0xc7, 0x1b, 0xe4, 0x0e],
        }
    }
}

/// The first byte of both markers: what a search looks for.
pub(super) const MARKER_FIRST: u8 = 0xc7;

/// What ties frames to their place: the state of a checksum over target and segment.
#[derive(Clone)]
pub(super) struct Seed(crc32fast::Hasher);

impl Seed {
    pub(super) fn new(target: &str, segment: u32) -> Self {
        let mut crc = crc32fast::Hasher::new();
        crc.update(&segment.to_be_bytes());
        crc.update(target.as_bytes());
        Self(crc)
    }

    fn checksum(&self, offset: u64, covered: &[u8]) -> u32 {
        let mut crc = self.0.clone();
        crc.update(&offset.to_be_bytes());
        crc.update(covered);
        crc.finalize()
    }
}

/// What head and tail say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Envelope {
    pub(super) sequence: u64,
    pub(super) payload_len: u32,
    payload_crc: u32,
    pub(super) table: TableId,
    pub(super) token: Token,
    pub(super) version: Version,
    pub(super) only_copy: bool,
    created_ms: u64,
}

impl Envelope {
    /// Bytes of the whole frame.
    pub(super) fn frame_len(&self) -> u64 {
        OVERHEAD_LEN + u64::from(self.payload_len)
    }

    fn encode(&self, side: Side, seed: &Seed, offset: u64, out: &mut Vec<u8>) {
        let start = out.len();
        out.put_slice(&side.marker());
        out.put_u64(self.sequence);
        out.put_u32(self.payload_len);
        out.put_u32(self.payload_crc);
        out.put_u32(self.table.0);
        out.put_u64(self.token.0);
        out.put_u64(self.version.hlc.0);
        out.put_u16(self.version.node.0);
        out.put_u16(if self.only_copy { FLAG_ONLY_COPY } else { 0 });
        out.put_u64(self.created_ms);
        let crc = seed.checksum(offset, out.get(start..).unwrap_or_default());
        out.put_u32(crc);
    }

    /// The copy of that side that stands at `offset`, if it is sound.
    pub(super) fn decode(side: Side, seed: &Seed, offset: u64, bytes: &[u8]) -> Option<Self> {
        let (covered, crc) = bytes.split_last_chunk::<4>()?;
        if bytes.len() != COPY_LEN || !covered.starts_with(&side.marker()) {
            return None;
        }
        if seed.checksum(offset, covered) != u32::from_be_bytes(*crc) {
            return None;
        }
        let mut rest = covered.get(4..)?;
        let envelope = Self {
            sequence: u64::from_be_bytes(take(&mut rest)?),
            payload_len: u32::from_be_bytes(take(&mut rest)?),
            payload_crc: u32::from_be_bytes(take(&mut rest)?),
            table: TableId(u32::from_be_bytes(take(&mut rest)?)),
            token: Token(u64::from_be_bytes(take(&mut rest)?)),
            version: Version {
                hlc: Hlc(u64::from_be_bytes(take(&mut rest)?)),
                node: NodeId(u16::from_be_bytes(take(&mut rest)?)),
            },
            only_copy: u16::from_be_bytes(take(&mut rest)?) & FLAG_ONLY_COPY != 0,
            created_ms: u64::from_be_bytes(take(&mut rest)?),
        };
        // The last number has no next one: only damage can have written it.
        (envelope.sequence < u64::MAX).then_some(envelope)
    }

    /// The hint in the payload, unless that is not what was written.
    pub(super) fn open(&self, payload: &Bytes) -> Option<Hint> {
        if crc32fast::hash(payload) != self.payload_crc {
            return None;
        }
        let (len, rest) = payload.split_first_chunk::<4>()?;
        let data_key = rest.get(..usize::try_from(u32::from_be_bytes(*len)).ok()?)?;
        let (table, _, key) = decode_data_key(data_key)?;
        let record = Record::decode(data_key, &payload.slice(4 + data_key.len()..)).ok()?;
        let (created_ms, only_copy) = (self.created_ms, self.only_copy);
        Some(Hint { table, key, record, created_ms, only_copy })
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (value, after) = rest.split_first_chunk::<N>()?;
    *rest = after;
    Some(*value)
}

/// A hint made ready to be written: everything but its place.
pub(super) struct Prepared {
    envelope: Envelope,
    payload: Vec<u8>,
    /// Stands for the row among the hinted ones.
    pub(super) row: u128,
}

impl Prepared {
    /// `None` for a hint of more bytes than a frame can state.
    pub(super) fn new(hint: &Hint) -> Option<Self> {
        let data_key = data_key(hint.table, &hint.key);
        let mut payload = Vec::with_capacity(4 + data_key.len() + hint.record.encoded_len());
        payload.put_u32(u32::try_from(data_key.len()).ok()?);
        payload.put_slice(&data_key);
        hint.record.encode_into(&data_key, &mut payload);
        let envelope = Envelope {
            sequence: 0,
            payload_len: u32::try_from(payload.len()).ok()?,
            payload_crc: crc32fast::hash(&payload),
            table: hint.table,
            token: hint.key.token(),
            version: hint.record.version,
            only_copy: hint.only_copy,
            created_ms: hint.created_ms,
        };
        Some(Self { envelope, payload, row: row_hash(&data_key) })
    }

    pub(super) fn frame_len(&self) -> u64 {
        self.envelope.frame_len()
    }

    /// Appends the frame that will stand at `offset` of the seed's segment.
    pub(super) fn encode(&self, seed: &Seed, offset: u64, sequence: u64, out: &mut Vec<u8>) {
        let envelope = Envelope { sequence, ..self.envelope };
        envelope.encode(Side::Head, seed, offset, out);
        out.put_slice(&self.payload);
        envelope.encode(Side::Tail, seed, offset + (COPY_LEN + self.payload.len()) as u64, out);
    }
}

/// What stands for a row in the set of hinted rows. Two rows that shared it would be counted as one, never more than
/// there are.
fn row_hash(data_key: &[u8]) -> u128 {
    xxhash_rust::xxh3::xxh3_128(data_key)
}

/// [`Prepared::row`] of a hint that was read.
pub(super) fn row_of(hint: &Hint) -> u128 {
    row_hash(&data_key(hint.table, &hint.key))
}
