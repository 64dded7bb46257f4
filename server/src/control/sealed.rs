//! How values are written to the Raft database and sent between nodes: `format u8 | CRC32 u32 | postcard`.
//!
//! The checksum covers the name under which the value is kept, too, so that a value under a wrong key is found like one
//! with a flipped bit. A newer format is refused with both numbers, never guessed at.

use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

/// The format of the values in the database, and of what nodes send each other.
pub(super) const FORMAT: u8 = 1;
/// Format and checksum.
const HEADER_BYTES: usize = 5;

/// Bytes that are not what they should be.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BadValue {
    /// Written by a newer release.
    #[error("{what} is written in format {found}, and this release knows up to format {FORMAT}: start a newer release")]
    Newer {
        /// What was read.
        what: String,
        /// Its format.
        found: u8,
    },
    /// Flipped bits, a lost end, or something else altogether.
    #[error("{what} is damaged: {detail}")]
    Damaged {
        /// What was read.
        what: String,
        /// What is wrong with it.
        detail: String,
    },
}

/// The value as it is written under `name`.
pub(super) fn seal(name: &[u8], value: &impl Serialize) -> Result<Vec<u8>, BadValue> {
    let value = postcard::to_stdvec(value).map_err(|error| damaged(name, &error))?;
    let mut sealed = Vec::with_capacity(HEADER_BYTES + value.len());
    sealed.push(FORMAT);
    sealed.extend_from_slice(&checksum(name, &value).to_be_bytes());
    sealed.extend_from_slice(&value);
    Ok(sealed)
}

/// The value that was written under `name`.
pub(super) fn unseal<T: DeserializeOwned>(name: &[u8], sealed: &[u8]) -> Result<T, BadValue> {
    let Some((&[format, sum @ ..], value)) = sealed.split_first_chunk::<HEADER_BYTES>() else {
        return Err(damaged(name, &"it is cut short"));
    };
    if format > FORMAT {
        return Err(BadValue::Newer { what: shown(name), found: format });
    }
    if format != FORMAT || u32::from_be_bytes(sum) != checksum(name, value) {
        return Err(damaged(name, &"its checksum is wrong"));
    }
    postcard::from_bytes(value).map_err(|error| damaged(name, &error))
}

fn checksum(name: &[u8], value: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&[FORMAT]);
    hasher.update(name);
    hasher.update(value);
    hasher.finalize()
}

fn damaged(name: &[u8], detail: &dyn std::fmt::Display) -> BadValue {
    BadValue::Damaged { what: shown(name), detail: detail.to_string() }
}

/// Entries of the log are named by their index.
fn shown(name: &[u8]) -> String {
    match <[u8; 8]>::try_from(name) {
        Ok(index) => format!("entry {} of the Raft log", u64::from_be_bytes(index)),
        Err(_) => format!("the Raft note {:?}", String::from_utf8_lossy(name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_read_back_under_its_name_only() {
        let sealed = seal(b"vote", &(7u64, "seven")).unwrap();
        assert_eq!(unseal::<(u64, String)>(b"vote", &sealed), Ok((7, "seven".to_owned())));
        let elsewhere = unseal::<(u64, String)>(b"note", &sealed).unwrap_err();
        assert_eq!(elsewhere.to_string(), "the Raft note \"note\" is damaged: its checksum is wrong");
    }

    #[test]
    fn every_flipped_bit_and_every_lost_end_is_found() {
        let name = 9u64.to_be_bytes();
        let sealed = seal(&name, &vec![1u32, 2, 3]).unwrap();
        for bit in 0..sealed.len() * 8 {
            let mut flipped = sealed.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(unseal::<Vec<u32>>(&name, &flipped).is_err(), "bit {bit}");
        }
        for length in 0..sealed.len() {
            assert!(unseal::<Vec<u32>>(&name, &sealed[..length]).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn a_newer_format_is_refused_with_both_numbers() {
        let mut sealed = seal(b"vote", &1u8).unwrap();
        sealed[0] = FORMAT + 1;
        let refused = unseal::<u8>(b"vote", &sealed).unwrap_err().to_string();
        assert!(refused.contains("format 2") && refused.contains("format 1"), "{refused}");
    }
}
