//! Whether the logs of RocksDB are what was written, told without RocksDB: the write-ahead logs and the manifest.
//!
//! RocksDB takes what it cannot read at the end of its manifest for a torn end, and opens an older state; a flipped bit
//! looks the same to it. And it opens around a table file that it cannot use only in a mode in which it is silent about
//! its write-ahead logs, too. So the logs are read here first, record by record. Invariant: what is called whole reads
//! well to its last byte, and what is called torn lacks nothing that a whole record was behind.
//!
//! One kind of damage RocksDB cannot be left alone with ([`break_endless_records`]): it would read it for ever.
//!
//! The format is RocksDB's `db/log_format.h`: blocks of 32 KiB, in each of them records of
//! `masked crc32c u32 | length u16 | type u8 | payload`, little endian, never across the end of a block.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

const BLOCK_LEN: usize = 32 << 10;
const HEADER_LEN: usize = 7;
/// Where the type of a record is in it.
const TYPE_AT: usize = 6;
/// The types of records in logs that are written over older ones, which is never done here: the four parts of a batch,
/// sizes of timestamps, what is known of the log before.
const RECYCLED: [u8; 6] = [5, 6, 7, 8, 11, 131];
/// A type that RocksDB does not know, nor has any record of it been written.
const BROKEN: u8 = 0x7f;

/// How a log ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Behind a whole batch.
    Whole,
    /// Within one, as a crash leaves it.
    Torn,
    /// There are bytes in it that are not what was written.
    Damaged,
}

/// Whether every write-ahead log of a database reads well to its end.
pub(super) fn are_whole(rocks_dir: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(rocks_dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "log") && end_of(File::open(&path)?)? != End::Whole {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Makes damage that RocksDB would read for ever into damage that it notices; to be called before it opens the folder.
///
/// A flipped bit can make a record's type one of recycled logs. RocksDB's reader finds such a record behind one that is
/// not, reports it, and stays where it is (`Reader::ReadPhysicalRecord`); as the first of a log it takes it for the end.
/// Both without a look at the checksum, and however it is to deal with damage. So the type is overwritten by one that is
/// no type at all, and the record is what it was already: one whose checksum is wrong. Nothing is lost by that, and
/// whether the record had been acknowledged is told by the same means as for any other damage.
pub fn break_endless_records(rocks_dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(rocks_dir)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.ends_with(".log") && !name.starts_with("MANIFEST-") {
            continue;
        }
        let places = endless_records(File::open(entry.path())?)?;
        if places.is_empty() {
            continue;
        }
        tracing::error!(log = name, ?places, "a log is damaged: records in it have types that are never written");
        let log = File::options().write(true).open(entry.path())?;
        places.iter().try_for_each(|&place| log.write_all_at(&[BROKEN], place + TYPE_AT as u64))?;
        log.sync_all()?;
    }
    Ok(())
}

/// Where the records of recycled logs are that RocksDB's reader would come to: it leaves the rest of a block out when a
/// record does not check out, so there is one in a block at most.
fn endless_records(mut log: impl Read) -> io::Result<Vec<u64>> {
    let mut places = Vec::new();
    for number in 0_u64.. {
        let block = next_block(&mut log)?;
        let mut rest = &block[..];
        while rest.get(TYPE_AT).is_some_and(|kind| !RECYCLED.contains(kind)) {
            let Record::Read { behind, .. } = read_record(rest) else { break };
            rest = behind;
        }
        if rest.get(TYPE_AT).is_some_and(|kind| RECYCLED.contains(kind)) {
            places.push(number * BLOCK_LEN as u64 + (block.len() - rest.len()) as u64);
        }
        if block.len() < BLOCK_LEN {
            break;
        }
    }
    Ok(places)
}

/// The next block, shorter than the others when the log ends in it.
fn next_block(log: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut block = Vec::with_capacity(BLOCK_LEN);
    log.take(BLOCK_LEN as u64).read_to_end(&mut block)?;
    Ok(block)
}

/// How a log ends.
pub(super) fn end_of(mut log: impl Read) -> io::Result<End> {
    let mut between = true;
    loop {
        let block = next_block(&mut log)?;
        let is_last = block.len() < BLOCK_LEN;
        match read_block(&block, between) {
            Block::Read { between: now_between } => between = now_between,
            Block::EndsWithin if is_last => return Ok(End::Torn),
            Block::EndsWithin | Block::Damaged => return Ok(End::Damaged),
        }
        if is_last {
            return Ok(if between { End::Whole } else { End::Torn });
        }
    }
}

/// What was read of a block.
enum Block {
    /// All its records; whether the last of them ends a batch.
    Read {
        between: bool,
    },
    /// The last record is not there in full.
    EndsWithin,
    Damaged,
}

fn read_block(block: &[u8], mut between: bool) -> Block {
    let mut rest = block;
    while rest.len() >= HEADER_LEN {
        match read_record(rest) {
            Record::Read { kind, behind } => {
                between = match (kind, between) {
                    // Full, first, middle, last. Logs are neither recycled nor compressed here.
                    (1, true) | (4, false) => true,
                    (2, true) | (3, false) => false,
                    _ => return Block::Damaged,
                };
                rest = behind;
            }
            Record::EndsWithin => return Block::EndsWithin,
            Record::Damaged => return Block::Damaged,
        }
    }
    let is_filled_up = block.len() == BLOCK_LEN && rest.iter().all(|byte| *byte == 0);
    if rest.is_empty() || is_filled_up { Block::Read { between } } else { Block::EndsWithin }
}

/// What was read of the beginning of some bytes.
enum Record<'a> {
    Read { kind: u8, behind: &'a [u8] },
    EndsWithin,
    Damaged,
}

fn read_record(bytes: &[u8]) -> Record<'_> {
    let parts = bytes.split_first_chunk::<4>().and_then(|(crc, rest)| Some((crc, rest.split_first_chunk::<2>()?)));
    let Some((crc, (len, checked))) = parts else { return Record::EndsWithin };
    let (crc, len) = (u32::from_le_bytes(*crc), usize::from(u16::from_le_bytes(*len)));
    match checked.split_at_checked(1 + len) {
        Some((record, behind)) if crc == masked(!record.iter().fold(!0, crc32c_step)) => {
            Record::Read { kind: record.first().copied().unwrap_or_default(), behind }
        }
        // Some file systems leave zeros behind a torn end.
        _ if bytes.iter().all(|byte| *byte == 0) => Record::EndsWithin,
        Some(_) => Record::Damaged,
        // A record that checks out as a shorter one was not cut: its length is not what was written.
        None => {
            let mut state = !0;
            let mut shorter = checked.iter().map(|byte| {
                state = crc32c_step(state, byte);
                masked(!state)
            });
            if shorter.any(|of_shorter| of_shorter == crc) { Record::Damaged } else { Record::EndsWithin }
        }
    }
}

/// How RocksDB stores a checksum.
fn masked(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

/// One byte more of a CRC-32C (Castagnoli).
fn crc32c_step(crc: u32, byte: &u8) -> u32 {
    const TABLE: [u32; 256] = table();
    let index = (crc ^ u32::from(*byte)) & 0xff;
    (crc >> 8) ^ TABLE.get(index as usize).copied().unwrap_or_default()
}

#[allow(clippy::indexing_slicing, reason = "evaluated by the compiler")]
const fn table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crc32c(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(!0, crc32c_step)
    }

    fn record(kind: u8, payload: &[u8]) -> Vec<u8> {
        let checked = [&[kind][..], payload].concat();
        let mut record = masked(crc32c(&checked)).to_le_bytes().to_vec();
        record.extend(u16::try_from(payload.len()).unwrap().to_le_bytes());
        record.extend(checked);
        record
    }

    /// A batch in one record, one over three blocks, and one more.
    fn log() -> Vec<u8> {
        let mut log = record(1, b"a batch");
        log.extend(record(2, &vec![7; BLOCK_LEN - log.len() - HEADER_LEN - 3]));
        log.extend([0; 3]);
        log.extend(record(3, &[8; BLOCK_LEN - HEADER_LEN]));
        log.extend(record(4, b"the end"));
        log.extend(record(1, b"another batch"));
        log
    }

    #[test]
    fn the_checksum_is_crc_32c() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn a_log_that_was_cut_is_torn_unless_it_was_cut_between_two_batches() {
        let log = log();
        let last = HEADER_LEN + b"another batch".len();
        for len in (0..log.len()).step_by(97).chain(log.len() - 2 * last..=log.len()) {
            let whole = [0, 14, log.len() - last, log.len()].contains(&len);
            let expected = if whole { End::Whole } else { End::Torn };
            assert_eq!(end_of(&log[..len]).unwrap(), expected, "cut at {len}");
        }
        let zeros = [&log[..], &[0; 500]].concat();
        assert_eq!(end_of(&zeros[..]).unwrap(), End::Torn);
    }

    #[test]
    fn records_of_recycled_logs_are_found_as_far_as_rocksdb_reads() {
        let log = log();
        assert_eq!(endless_records(&log[..]).unwrap(), []);
        let starts = [0, HEADER_LEN + b"a batch".len(), BLOCK_LEN, 2 * BLOCK_LEN, 2 * BLOCK_LEN + HEADER_LEN + 7];
        for kind in RECYCLED {
            for start in starts {
                let mut damaged = log.clone();
                damaged[start + TYPE_AT] = kind;
                assert_eq!(endless_records(&damaged[..]).unwrap(), [start as u64], "type {kind}");
                damaged[start + TYPE_AT] = BROKEN;
                assert_eq!(endless_records(&damaged[..]).unwrap(), []);
            }
            // The end of it is not there, and nothing of it but the header.
            let torn = [&log[..], &[1, 2, 3, 4, 200, 0, kind]].concat();
            assert_eq!(endless_records(&torn[..]).unwrap(), [log.len() as u64]);
            assert_eq!(endless_records(&torn[..torn.len() - 1]).unwrap(), []);
            // Behind damage RocksDB reads on in the next block.
            let mut two = log.clone();
            (two[3], two[starts[1] + TYPE_AT], two[starts[2] + TYPE_AT]) = (0x55, kind, kind);
            assert_eq!(endless_records(&two[..]).unwrap(), [BLOCK_LEN as u64]);
        }
    }

    #[test]
    fn a_flipped_bit_is_damage_wherever_it_is() {
        let log = log();
        for at in (0..log.len()).step_by(89).chain(0..30).chain(log.len() - 50..log.len()) {
            for bit in 0..8 {
                let mut flipped = log.clone();
                flipped[at] ^= 1 << bit;
                assert_eq!(end_of(&flipped[..]).unwrap(), End::Damaged, "bit {bit} of byte {at}");
            }
        }
    }
}
