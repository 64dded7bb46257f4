//! A record reads back as it was written, and nothing else reads back at all.

use cube_storage::model::{Hlc, NodeId, PartitionId, TableId, Version};

use super::*;
use crate::repair::job::{Asked, JobTable, Unit, Why};
use crate::repair::questions::Report;
use crate::repair::{Moved, RepairId};

/// A job in the middle, with something of everything.
fn job() -> Job {
    let unit = |with: u16, attempt| Unit {
        by: NodeId(1),
        with: NodeId(with),
        trees: vec![(TableId(4), PartitionId(7)), (TableId(4), PartitionId(300))],
        attempt,
        is_mirror: false,
        is_closed: false,
    };
    let id = RepairId::new(Version::new(Hlc(0x0001_89ab_cdef_0123), NodeId(1)));
    let asked = Asked { keyspace: Some("default".into()), table: None, dry_run: true };
    let table = JobTable { id: TableId(4), keyspace: "default".into(), name: "kv".into() };
    let mut job = Job::new(id, asked, vec![table], vec![unit(2, 0), unit(3, 1)], 1_800_000_000_000);
    job.begin(1_800_000_000_100);
    let moved = Moved { leaves: 3, sent: 2, fetched: 1, bytes: 99 };
    let left = vec![((TableId(4), PartitionId(300)), NodeId(2), Why::Refused("no".into()))];
    job.on_report(0, &Report { differed: vec![(TableId(4), PartitionId(7))], left, moved }, 1_800_000_000_200);
    job
}

#[test]
fn a_record_reads_back_as_it_was_written() {
    assert_eq!(decode(&encode(&job()).unwrap()), Ok(job()));
}

#[test]
fn a_record_with_any_bit_flipped_or_any_byte_missing_is_refused() {
    let bytes = encode(&job()).unwrap();
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << bit;
            assert!(decode(&flipped).is_err(), "byte {at}, bit {bit}");
        }
        assert!(decode(&bytes[..at]).is_err(), "cut after {at} bytes");
    }
    assert!(decode(&[bytes.as_slice(), &[0]].concat()).is_err());
}

/// Written down once: if this test fails, a node no longer reads the repairs that it kept before, and `FORMAT` has to
/// say so.
#[test]
fn the_bytes_of_format_1_stay_as_they_are() {
    let hex = encode(&job()).unwrap().iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    assert_eq!(hex, include_str!("../../../../storage/tests/fixtures/repair-job-v1.hex").trim());
}
