//! The bytes of a simulated file, as the process sees them and as the medium holds them.

use std::sync::Arc;

/// A small generator of its own (splitmix64), so that a seed gives the same faults in every release.
#[derive(Clone, Copy, Default)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number less than `bound`, which is not zero.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }
}

enum Operation {
    Write { offset: u64, bytes: Vec<u8> },
    Resize { len: u64 },
}

/// What a device writes in one piece.
const SECTOR_LEN: u64 = 512;

#[derive(Default)]
pub(super) struct Inode {
    seen: Vec<u8>,
    durable: Vec<u8>,
    /// What was done since the last sync, oldest first.
    pending: Vec<Operation>,
    /// Held by whoever has the file open: it lives on without a name until the last of them lets go.
    handle: Arc<()>,
}

impl Inode {
    pub(super) fn handle(&self) -> Arc<()> {
        self.handle.clone()
    }

    pub(super) fn is_open(&self) -> bool {
        Arc::strong_count(&self.handle) > 1
    }

    pub(super) fn len(&self) -> u64 {
        self.seen.len() as u64
    }

    pub(super) fn read(&self, offset: u64, len: usize) -> Vec<u8> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(self.seen.len());
        let end = start.saturating_add(len).min(self.seen.len());
        self.seen.get(start..end).unwrap_or_default().to_vec()
    }

    pub(super) fn write(&mut self, offset: u64, bytes: &[u8]) {
        write(&mut self.seen, offset, bytes);
        self.pending.push(Operation::Write { offset, bytes: bytes.to_vec() });
    }

    pub(super) fn resize(&mut self, len: u64) {
        self.seen.resize(len as usize, 0);
        self.pending.push(Operation::Resize { len });
    }

    pub(super) fn sync(&mut self) {
        for operation in self.pending.drain(..) {
            apply(&mut self.durable, &operation);
        }
    }

    pub(super) fn give_up(&mut self, random: &mut Random) {
        for operation in self.pending.drain(..) {
            survive(&mut self.durable, &operation, random);
        }
    }

    /// The process is gone: what it saw is what is left on the medium.
    pub(super) fn crash(&mut self, random: &mut Random) {
        let pending = std::mem::take(&mut self.pending);
        // All of it, none of it, the first operations and part of the next, or whatever the device took first.
        let (all, kept) = match random.below(4) {
            0 => (false, 0),
            1 => (false, pending.len()),
            2 => (false, random.below(pending.len() as u64 + 1) as usize),
            _ => (true, 0),
        };
        for (place, operation) in pending.iter().enumerate() {
            if place < kept {
                apply(&mut self.durable, operation);
            } else if all || (place == kept && random.below(2) == 0) {
                survive(&mut self.durable, operation, random);
            }
        }
        self.seen = self.durable.clone();
    }

    pub(super) fn flip(&mut self, offset: u64, bit: u8) -> bool {
        let byte = self.read(offset, 1);
        byte.first().is_some_and(|byte| self.overwrite(offset, &[byte ^ (1 << (bit % 8))]))
    }

    pub(super) fn overwrite(&mut self, offset: u64, bytes: &[u8]) -> bool {
        let inside = offset.saturating_add(bytes.len() as u64) <= self.len();
        if inside {
            self.sync();
            write(&mut self.seen, offset, bytes);
            self.durable = self.seen.clone();
        }
        inside
    }

    pub(super) fn cut(&mut self, len: u64) -> bool {
        let longer = len < self.len();
        if longer {
            self.resize(len);
            self.durable = self.seen.clone();
            self.pending.clear();
        }
        longer
    }
}

fn write(content: &mut Vec<u8>, offset: u64, bytes: &[u8]) {
    let start = offset as usize;
    let end = start + bytes.len();
    if content.len() < end {
        content.resize(end, 0);
    }
    if let Some(place) = content.get_mut(start..end) {
        place.copy_from_slice(bytes);
    }
}

fn apply(content: &mut Vec<u8>, operation: &Operation) {
    match operation {
        Operation::Write { offset, bytes } => write(content, *offset, bytes),
        Operation::Resize { len } => content.resize(*len as usize, 0),
    }
}

/// Applies some of the sectors of a write: a device may take them in any order.
fn survive_by_sectors(content: &mut Vec<u8>, offset: u64, bytes: &[u8], random: &mut Random) {
    let (mut at, mut rest) = (offset, bytes);
    while !rest.is_empty() {
        let in_sector = (SECTOR_LEN - at % SECTOR_LEN).min(rest.len() as u64);
        let (sector, after) = rest.split_at(in_sector as usize);
        if random.below(2) == 0 {
            write(content, at, sector);
        }
        at += in_sector;
        rest = after;
    }
}

/// Applies all, a torn part, or nothing of an operation. Where the file was being extended, what follows the torn part
/// may be garbage; what lay there before a torn overwrite stays.
fn survive(content: &mut Vec<u8>, operation: &Operation, random: &mut Random) {
    let Operation::Write { offset, bytes } = operation else {
        if random.below(2) == 0 {
            apply(content, operation);
        }
        return;
    };
    let kept = match random.below(4) {
        0 => 0,
        1 => bytes.len(),
        2 => return survive_by_sectors(content, *offset, bytes, random),
        _ => random.below(bytes.len() as u64 + 1) as usize,
    };
    let known = content.len() as u64;
    if kept > 0 {
        write(content, *offset, bytes.get(..kept).unwrap_or_default());
    }
    let end = offset + bytes.len() as u64;
    let torn_from = (offset + kept as u64).max(known);
    if torn_from < end && random.below(2) == 0 {
        let garbage_len = random.below(end - torn_from) + 1;
        let garbage: Vec<u8> = (0..garbage_len).map(|_| random.next() as u8).collect();
        write(content, torn_from, &garbage);
    }
}
