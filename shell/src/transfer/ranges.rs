//! A table in parts that can be read at the same time: prefixes of keys, side by side.
//!
//! Invariant: every key that was in the table when it was divided, and every key that comes between those, is in exactly
//! one part. Keys that come before the first one or behind the last one are in no part: an export tells of the rows that
//! are there throughout.

use std::collections::VecDeque;

use bytes::Bytes;
use cube_client::{Error, Level, Table};
use std::time::Duration;

/// Parts are divided as long as there are fewer than this for each reader: those that have read theirs take another.
const PARTS_PER_READER: usize = 4;
/// Prefixes are looked at so often at the most: many keys that differ only far behind are not worth more.
const LOOKS_MAX: usize = 64;

/// A part of a table.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Part {
    /// How its keys begin.
    pub(super) prefix: Bytes,
    /// Whether it is the rows of this one key alone.
    pub(super) is_exact: bool,
}

impl Part {
    /// Everything.
    pub(super) fn whole() -> Self {
        Self { prefix: Bytes::new(), is_exact: false }
    }
}

/// What lies between the first and the last key of a prefix, divided at the first byte in which they differ.
fn divided(first: &[u8], last: &[u8]) -> Vec<Part> {
    let shared = first.iter().zip(last).take_while(|(a, b)| a == b).count();
    let prefix = first.get(..shared).unwrap_or_default();
    // Keys are told in their order: either they differ there, or the first one is how the others begin.
    let from = first.get(shared).copied().unwrap_or(0);
    let Some(to) = last.get(shared).copied() else {
        return vec![Part { prefix: Bytes::copy_from_slice(prefix), is_exact: true }];
    };
    let exact = Part { prefix: Bytes::copy_from_slice(prefix), is_exact: true };
    let children = (from..=to).map(|byte| Part { prefix: [prefix, &[byte]].concat().into(), is_exact: false });
    (first.len() == shared).then_some(exact).into_iter().chain(children).collect()
}

/// Divides a table for so many readers.
pub(super) async fn divide(table: &Table, level: Level, timeout: Duration, readers: usize) -> Result<Vec<Part>, Error> {
    let mut waiting = VecDeque::from([Part::whole()]);
    let mut done = Vec::new();
    let wanted = if readers > 1 { readers * PARTS_PER_READER } else { 1 };
    for _ in 0..LOOKS_MAX {
        if waiting.len() + done.len() >= wanted {
            break;
        }
        let Some(part) = waiting.pop_front() else { break };
        let one = || table.scan(part.prefix.clone()).level(level).timeout(timeout).limit(1);
        let (first, last) = (one().next().await?, one().backward().next().await?);
        let Some((first, last)) = first.zip(last) else { continue };
        for part in divided(&first.key.partition, &last.key.partition) {
            if part.is_exact { done.push(part) } else { waiting.push_back(part) }
        }
    }
    done.extend(waiting);
    done.sort();
    Ok(done)
}
