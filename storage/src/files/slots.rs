//! A small value that is overwritten in place, so that keeping it needs no space on a full disk: two slots, a sector
//! apart, written in turn. A torn write damages the slot being written and leaves the other with the value before.
//!
//! ```text
//! turn u64 | value (N bytes) | crc32 u32 over tag, turn and value      in slot (turn mod 2), slots 512 bytes apart
//! ```
//!
//! Invariant: [`Slots::write`] never touches the slot of the last value that was kept. Where values are synced, the
//! last synced one always reads back; a caller that does not sync (a lower bound is enough for it) may lose both.

use super::{File, FilesError};

/// Apart far enough that no device tears both slots in one write.
pub(crate) const SLOT_STRIDE: u64 = 512;

/// The two slots of a value of `N` bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slots<const N: usize> {
    offset: u64,
    tag: &'static [u8],
    turn: u64,
}

impl<const N: usize> Slots<N> {
    /// Bytes of the file that the slots take, from their offset.
    pub(crate) const LEN: u64 = 2 * SLOT_STRIDE;
    const SLOT_LEN: usize = 8 + N + 4;

    /// Slots that hold nothing yet. The tag keeps slots of different kinds from being taken for each other.
    pub(crate) const fn new(offset: u64, tag: &'static [u8]) -> Self {
        Self { offset, tag, turn: 0 }
    }

    /// The last value that was kept, if one reads back.
    pub(crate) fn read(&mut self, file: &dyn File) -> Result<Option<[u8; N]>, FilesError> {
        let mut newest = None;
        for slot in 0..2 {
            let bytes = file.read_at(self.offset + slot * SLOT_STRIDE, Self::SLOT_LEN)?;
            if let Some((turn, value)) = self.decode(&bytes)
                && turn > self.turn
            {
                self.turn = turn;
                newest = Some(value);
            }
        }
        Ok(newest)
    }

    /// Writes a value, to be followed by a sync where it must last. Call [`Slots::kept`] when it did.
    pub(crate) fn write(&self, file: &dyn File, value: [u8; N]) -> Result<(), FilesError> {
        let turn = self.turn + 1;
        let mut bytes = Vec::with_capacity(Self::SLOT_LEN);
        bytes.extend_from_slice(&turn.to_be_bytes());
        bytes.extend_from_slice(&value);
        bytes.extend_from_slice(&self.checksum(turn, &value).to_be_bytes());
        file.write_at(self.offset + (turn % 2) * SLOT_STRIDE, &bytes)
    }

    /// The value written last is kept: the next one goes to the other slot.
    pub(crate) fn kept(&mut self) {
        self.turn += 1;
    }

    fn decode(&self, bytes: &[u8]) -> Option<(u64, [u8; N])> {
        let (turn, rest) = bytes.split_first_chunk::<8>()?;
        let (value, rest) = rest.split_first_chunk::<N>()?;
        let stored = u32::from_be_bytes(<[u8; 4]>::try_from(rest).ok()?);
        let turn = u64::from_be_bytes(*turn);
        // The last turn has no next one: only damage can have written it.
        (stored == self.checksum(turn, value) && turn < u64::MAX).then_some((turn, *value))
    }

    fn checksum(&self, turn: u64, value: &[u8; N]) -> u32 {
        let mut crc = crc32fast::Hasher::new();
        crc.update(self.tag);
        crc.update(&turn.to_be_bytes());
        crc.update(value);
        crc.finalize()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::{Access, Files, SimulatedFiles};
    use super::*;

    fn value(n: u8) -> [u8; 4] {
        [n; 4]
    }

    #[test]
    fn the_last_synced_value_survives_every_torn_write_of_the_next() {
        for seed in 0..300 {
            let files = SimulatedFiles::new();
            let path = Path::new("slots");
            let file = files.create(path).unwrap();
            file.preallocate(Slots::<4>::LEN).unwrap();
            let mut slots = Slots::<4>::new(0, b"test");
            for n in 1..=3 {
                slots.write(&*file, value(n)).unwrap();
                file.sync().unwrap();
                slots.kept();
            }
            files.sync_folder(Path::new("")).unwrap();
            slots.write(&*file, value(4)).unwrap();
            files.crash(seed);
            let file = files.open(path, Access::Write).unwrap();
            let read = Slots::<4>::new(0, b"test").read(&*file).unwrap();
            assert!(read == Some(value(3)) || read == Some(value(4)), "seed {seed}: {read:?}");
        }
    }

    #[test]
    fn a_flipped_byte_gives_the_value_before_and_another_tag_gives_none() {
        let files = SimulatedFiles::new();
        let path = Path::new("slots");
        let file = files.create(path).unwrap();
        let mut slots = Slots::<4>::new(64, b"test");
        assert_eq!(slots.read(&*file).unwrap(), None);
        for n in 1..=2 {
            slots.write(&*file, value(n)).unwrap();
            slots.kept();
        }
        assert_eq!(Slots::<4>::new(64, b"test").read(&*file).unwrap(), Some(value(2)));
        assert_eq!(Slots::<4>::new(64, b"tset").read(&*file).unwrap(), None);
        assert!(files.flip(path, 64 + 9, 3));
        assert_eq!(Slots::<4>::new(64, b"test").read(&*file).unwrap(), Some(value(1)));
    }
}
