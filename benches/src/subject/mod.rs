//! What is measured: the store, a bare RocksDB to hold it against, and the store without Merkle sums.

mod bare;
mod cube;
mod unsummed;

use bytes::Bytes;
use cube_storage::engine::RocksOptions;
use cube_storage::model::RowKey;

pub use self::bare::Bare;
pub use self::cube::{Cube, MERKLE_KEY, TABLE};
use crate::Result;

/// Something that keeps rows on disk.
pub trait Subject {
    /// Writes rows together; they are on stable storage when this returns.
    fn write(&self, rows: Vec<(RowKey, Bytes)>) -> Result<()>;
    /// Does what is done after a start before rows are written, if anything is.
    fn warm(&self) -> Result<()> {
        Ok(())
    }
    /// The length of a row's value.
    fn read(&self, key: &RowKey) -> Result<usize>;
    /// Moves everything into table files and waits until no compaction is left to do.
    fn settle(&self) -> Result<()>;
    /// Bytes of the table files.
    fn disk_bytes(&self) -> Result<u64>;
}

/// The options of every subject: those that the store has by default.
pub fn rocks_options() -> RocksOptions {
    RocksOptions::default()
}
