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

/// Visits all notes of a tag. A note that `take` cannot read is damage.
pub(crate) fn load(
    reader: &dyn Reader,
    tag: Tag,
    mut take: impl FnMut(&[u8], &[u8]) -> Option<()>,
) -> Result<(), EngineError> {
    let mut damaged = None;
    reader.scan(Space::Meta, &KeyRange::prefix(vec![tag as u8]), Direction::Forward, &mut |key, value| match key
        .get(1..)
        .and_then(|about| take(about, value))
    {
        Some(()) => ControlFlow::Continue(()),
        None => {
            damaged = Some(format!("the note {:?} {} does not read back", tag, key.escape_ascii()));
            ControlFlow::Break(())
        }
    })?;
    match damaged {
        Some(detail) => Err(EngineError::Corruption { detail }),
        None => Ok(()),
    }
}
