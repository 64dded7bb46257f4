//! What clients may never see, whatever broke meanwhile. It holds for levels whose writes and reads share a replica.
//!
//! A write takes effect at some moment between its start and its end; one that was not answered, at any moment from its
//! start on, and more than once. So:
//!
//! 1. a read finds what was written to its row, by a write that was not refused and had begun before the read ended;
//! 2. a read finds no value that was overwritten before it began: by a write that was acknowledged before the read began,
//!    and had begun after the value's own write was acknowledged;
//! 3. a read that began after another one ended finds nothing that was overwritten before what the other one found;
//! 4. a read finds no older version than one that was acknowledged, or found, before the read began.

use std::collections::BTreeMap;

use super::history::{Kind, Operation, Outcome};

/// When a write took effect, as far as its client knows.
#[derive(Clone, Copy, Debug)]
struct Write<'a> {
    value: &'a str,
    started_us: u64,
    /// When it was acknowledged; never if it was not answered.
    ended_us: u64,
    refused: bool,
    acknowledged: bool,
}

#[derive(Clone, Copy)]
struct Read<'a> {
    operation: &'a Operation,
    found: Option<&'a str>,
}

/// All that is wrong with a history, in words.
pub(crate) fn check(operations: &[Operation]) -> Vec<String> {
    let mut rows: BTreeMap<&str, Vec<&Operation>> = BTreeMap::new();
    for operation in operations {
        rows.entry(&operation.key).or_default().push(operation);
    }
    rows.values().flat_map(|operations| Row::of(operations).check()).collect()
}

/// What happened to one row.
struct Row<'a> {
    operations: Vec<&'a Operation>,
    writes: Vec<Write<'a>>,
    reads: Vec<Read<'a>>,
    /// The greatest start of the acknowledged writes up to each one, in the order of their ends.
    acknowledged: Vec<(u64, &'a str, u64)>,
}

impl<'a> Row<'a> {
    fn of(operations: &[&'a Operation]) -> Self {
        let writes: Vec<Write<'a>> = operations.iter().filter_map(|operation| write(operation)).collect();
        let reads = operations.iter().filter_map(|operation| match &operation.outcome {
            Outcome::Found(found) => Some(Read { operation, found: found.as_deref() }),
            _ => None,
        });
        let mut reads: Vec<Read<'a>> = reads.collect();
        reads.sort_by_key(|read| read.operation.started_us);
        let mut ended: Vec<&Write<'a>> = writes.iter().filter(|write| write.acknowledged).collect();
        ended.sort_by_key(|write| write.ended_us);
        let mut latest: Option<&Write<'a>> = None;
        let mut acknowledged = Vec::new();
        for write in ended {
            let later = latest.filter(|latest| latest.started_us > write.started_us).unwrap_or(write);
            acknowledged.push((write.ended_us, later.value, later.started_us));
            latest = Some(later);
        }
        Self { operations: operations.to_vec(), writes, reads, acknowledged }
    }

    fn check(&self) -> Vec<String> {
        let mut wrong: Vec<String> = self.reads.iter().filter_map(|read| self.check_read(read)).collect();
        wrong.extend(self.check_order());
        wrong.extend(self.check_versions());
        wrong
    }

    /// Rule 4.
    fn check_versions(&self) -> Option<String> {
        let mut ended: Vec<&Operation> = self.operations.iter().copied().filter(|known| known.succeeded()).collect();
        ended.sort_by_key(|known| known.ended_us);
        let mut ended = ended.into_iter().peekable();
        let mut latest: Option<&Operation> = None;
        for read in self.reads.iter().map(|read| read.operation) {
            while let Some(known) = ended.next_if(|known| known.ended_us < read.started_us) {
                if known.version > latest.and_then(|latest| latest.version) {
                    latest = Some(known);
                }
            }
            if read.version < latest.and_then(|latest| latest.version) {
                return Some(format!("an older version: {read:?}, after {latest:?}"));
            }
        }
        None
    }

    /// Rules 1 and 2.
    fn check_read(&self, read: &Read<'a>) -> Option<String> {
        let took_effect_by = match read.found {
            None => 0,
            Some(found) => match self.writes.iter().find(|write| write.value == found) {
                None => return Some(format!("a value that nobody wrote: {:?}", read.operation)),
                Some(write) if write.refused => {
                    return Some(format!("a refused write took effect: {:?}", read.operation));
                }
                Some(write) if write.started_us > read.operation.ended_us => {
                    return Some(format!("a value before it was written: {:?}", read.operation));
                }
                Some(write) => write.ended_us,
            },
        };
        let before = self.acknowledged.partition_point(|(ended_us, ..)| *ended_us < read.operation.started_us);
        let (_, value, started_us) = self.acknowledged[..before].last()?;
        (*started_us > took_effect_by || (read.found.is_none())).then(|| {
            format!("an acknowledged write is missed: {value:?}, began at {started_us}, by {:?}", read.operation)
        })
    }

    /// Rule 3.
    fn check_order(&self) -> Option<String> {
        let mut ended: Vec<&Read<'a>> = self.reads.iter().collect();
        ended.sort_by_key(|read| read.operation.ended_us);
        let mut ended = ended.into_iter().peekable();
        // The greatest start of a write that was found by a read that has ended.
        let mut latest: Option<(u64, &Read<'a>)> = None;
        for read in &self.reads {
            while let Some(earlier) = ended.next_if(|earlier| earlier.operation.ended_us < read.operation.started_us) {
                let started_us = self.span(earlier).0;
                if latest.is_none_or(|(latest_us, _)| started_us > latest_us) {
                    latest = Some((started_us, earlier));
                }
            }
            let (latest_us, earlier) = latest.unwrap_or((0, read));
            if latest_us > self.span(read).1 {
                let [first, second] = [earlier, read].map(|read| read.operation);
                return Some(format!("reads go backwards: {first:?}, and then {second:?}"));
            }
        }
        None
    }

    /// When the write that a read found began, and when it had certainly taken effect.
    fn span(&self, read: &Read<'a>) -> (u64, u64) {
        let Some(found) = read.found else { return (0, 0) };
        let write = self.writes.iter().find(|write| write.value == found);
        write.map_or((0, u64::MAX), |write| (write.started_us, write.ended_us))
    }
}

fn write(operation: &Operation) -> Option<Write<'_>> {
    let Kind::Write { value } = &operation.kind else { return None };
    let acknowledged = operation.outcome == Outcome::Acknowledged;
    let refused = matches!(operation.outcome, Outcome::Refused(_));
    let ended_us = if acknowledged { operation.ended_us } else { u64::MAX };
    Some(Write { value, started_us: operation.started_us, ended_us, refused, acknowledged })
}
