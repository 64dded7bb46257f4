//! What can go wrong with a hint log. Each error names the target, and the file where there is one.

use std::path::PathBuf;

use thiserror::Error;

use super::{Damage, Position};
use crate::files::{FilesError, NameError};

/// Why a hint log could not do what it was asked. After an error of an append or a sync the log is as it was after the
/// last successful sync, and goes on in a new segment.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum HintError {
    /// The target's name cannot be a folder's name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The file system failed.
    #[error("hints for {target}: {source}")]
    Files {
        /// The node the hints are for.
        target: String,
        /// What failed, with the path.
        source: FilesError,
    },
    /// A file was written by a newer release.
    #[error(
        "hints for {target}: {path} has format {found}, this build reads formats up to {supported}: start a newer release"
    )]
    Format {
        /// The node the hints are for.
        target: String,
        /// The file.
        path: PathBuf,
        /// The format it has.
        found: u8,
        /// The newest format this build knows.
        supported: u8,
    },
    /// A segment that was made for another node or under another number: it was moved by hand.
    #[error("hints for {target}: {path} was written for {found} or under another name: move it back or remove it")]
    WrongTarget {
        /// The node whose folder it is in.
        target: String,
        /// The file.
        path: PathBuf,
        /// The node it was written for.
        found: String,
    },
    /// The hints of a ticket were lost to a sync that failed after they were appended.
    #[error("hints for {target}: a sync failed after the hint was appended, it is not kept")]
    NotKept {
        /// The node the hints are for.
        target: String,
    },
    /// More hints in one append than a segment takes.
    #[error("hints for {target}: {bytes} bytes in one append, the limit is {limit}")]
    TooLarge {
        /// The node the hints are for.
        target: String,
        /// Bytes given.
        bytes: u64,
        /// Bytes allowed.
        limit: u64,
    },
    /// An acknowledgement of hints that were never read from this log.
    #[error("hints for {target}: {position:?} is past the end {end:?}")]
    PastEnd {
        /// The node the hints are for.
        target: String,
        /// The position given.
        position: Position,
        /// How far the log is durable.
        end: Position,
    },
    /// An acknowledgement that would forget damaged hints nobody has marked dirty.
    #[error("hints for {target}: mark the damage dirty and confirm it before acknowledging past it: {damage}")]
    Unconfirmed {
        /// The node the hints are for.
        target: String,
        /// The first damage in the way.
        damage: Box<Damage>,
    },
    /// The log holds the only copy of a write.
    #[error("hints for {target}: {count} are a write's only copy: deliver them to other replicas first")]
    OnlyCopies {
        /// The node the hints are for.
        target: String,
        /// How many, at most.
        count: u64,
    },
    /// The target was removed from the store.
    #[error("hints for {target}: the log was removed")]
    Removed {
        /// The node the hints were for.
        target: String,
    },
}
