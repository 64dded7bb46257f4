//! How the node's own notes are named in [`Space::Meta`]: a tag byte, then what the note is about.

use std::ops::ControlFlow;

use crate::engine::{Direction, EngineError, Reader, Space};
use crate::keyspace::KeyRange;

/// What a note is about. The bytes are on disk: they are never given another meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Tag {
    /// The fixed settings of the cluster.
    Identity = b'I',
    /// A table.
    Table = b'T',
    /// A placement's partition: its epoch and whether it is in sync.
    Partition = b'P',
    /// A table's partition: its purge floor and how far it was proven in sync.
    Range = b'R',
    /// The bound of the hybrid clock.
    ClockBound = b'C',
    /// The bound of the versions that were ever applied.
    VersionBound = b'V',
}

pub(crate) fn key(tag: Tag, about: &[u8]) -> Vec<u8> {
    let mut key = vec![tag as u8];
    key.extend_from_slice(about);
    key
}

/// Without its notes a node does not know what it promised, so it must not go on.
pub(crate) fn needed<T>(notes: Result<T, EngineError>) -> Result<T, EngineError> {
    notes.map_err(|error| match error {
        EngineError::Corruption { detail } => EngineError::Unusable { detail },
        error => error,
    })
}

/// Visits all notes of a tag, whose first byte is their format: one of a newer release is refused as such. A note that
/// `take` cannot read is damage.
pub(crate) fn load(
    reader: &dyn Reader,
    tag: Tag,
    supported: u8,
    mut take: impl FnMut(&[u8], &[u8]) -> Option<()>,
) -> Result<(), EngineError> {
    let mut refused = None;
    reader.scan(Space::Meta, &KeyRange::prefix(vec![tag as u8]), Direction::Forward, &mut |key, value| {
        let name = || format!("the note {:?} {}", tag, key.escape_ascii());
        refused = match value.first() {
            Some(&found) if found > supported => {
                Some(EngineError::Format { what: name(), found: found.into(), supported: supported.into() })
            }
            _ if key.get(1..).and_then(|about| take(about, value)).is_some() => return ControlFlow::Continue(()),
            _ => Some(EngineError::Corruption { detail: format!("{} does not read back", name()) }),
        };
        ControlFlow::Break(())
    })?;
    refused.map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::engine::{Durability, Engine, MemoryEngine};
    use crate::error::StoreError;
    use crate::merkle::MerkleKey;
    use crate::model::PartitionBits;
    use crate::store::{Identity, Store, StoreOptions};

    /// What opening a store says over an engine with one note.
    fn refused(tag: Tag, value: &[u8]) -> EngineError {
        let engine = MemoryEngine::new();
        let about: &[u8] = if tag == Tag::Table { &[0; 4] } else { &[0; 6] };
        let note = key(tag, about);
        engine.write(Durability::Synced, &mut |writes| writes.put(Space::Meta, &note, value)).unwrap();
        let identity = Identity { bits: PartitionBits::DEFAULT, merkle_key: MerkleKey([0; 16]) };
        match Store::open(Arc::new(engine), identity, StoreOptions::default()) {
            Err(StoreError::Engine(error)) => error,
            Err(error) => panic!("{error}"),
            Ok(_) => panic!("{tag:?} {value:?} was read"),
        }
    }

    #[test]
    fn a_note_of_a_newer_release_is_told_with_both_formats_and_not_as_damage() {
        for tag in [Tag::Table, Tag::Partition, Tag::Range, Tag::VersionBound] {
            let error = refused(tag, &[2; 30]);
            assert!(matches!(error, EngineError::Format { found: 2, supported: 1, .. }), "{error}");
            let told = error.to_string();
            assert!(told.contains("format 2") && told.contains("up to 1") && told.contains("newer release"), "{told}");
        }
    }

    #[test]
    fn a_note_that_does_not_read_back_is_damage() {
        for value in [&[][..], &[0; 30], &[1; 30]] {
            for tag in [Tag::Table, Tag::Partition, Tag::Range, Tag::VersionBound] {
                let error = refused(tag, value);
                assert!(matches!(error, EngineError::Unusable { .. }), "{tag:?} {value:?}: {error}");
            }
        }
    }
}
