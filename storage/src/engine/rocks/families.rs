//! Which column family holds which key space.
//!
//! A key space that could not be read in full was written anew, into a family of the next generation: `data`, `data.2`,
//! `data.3`. The old one is dropped when the new one is complete, in one step; so where there are two, the older one
//! counts, and the younger is the beginning of a copy.

use std::path::Path;

use rocksdb::{ColumnFamilyDescriptor, DB, DEFAULT_COLUMN_FAMILY_NAME, Options};

use super::{EngineError, RocksOptions, Space, engine_error};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Families {
    /// In the order of [`Space::ALL`].
    current: [String; 4],
    /// Copies that were begun and not finished.
    pub(super) unfinished: Vec<String>,
}

impl Families {
    /// Those of a new database.
    pub(super) fn first() -> Self {
        Self { current: Space::ALL.map(|space| space.name().to_owned()), unfinished: Vec::new() }
    }

    /// Those of a database that may be there.
    pub(super) fn of(rocks_dir: &Path, database: &Options) -> Result<Self, EngineError> {
        if !rocks_dir.join("CURRENT").exists() {
            return Ok(Self::first());
        }
        Ok(Self::among(&DB::list_cf(database, rocks_dir).map_err(engine_error)?))
    }

    fn among(names: &[String]) -> Self {
        let mut families = Self::first();
        for (space, current) in Space::ALL.into_iter().zip(&mut families.current) {
            let mut there: Vec<(u32, &String)> =
                names.iter().filter_map(|name| Some((generation(space, name)?, name))).collect();
            there.sort();
            let mut there = there.into_iter().map(|(_, name)| name.clone());
            if let Some(oldest) = there.next() {
                *current = oldest;
            }
            families.unfinished.extend(there);
        }
        families
    }

    /// The name of the family that holds a key space.
    pub(super) fn name(&self, space: Space) -> &str {
        let [data, keys, merkle, meta] = &self.current;
        match space {
            Space::Data => data,
            Space::Keys => keys,
            Space::Merkle => merkle,
            Space::Meta => meta,
        }
    }

    /// The name of the family that a key space is written anew into.
    pub(super) fn next_name(&self, space: Space) -> String {
        let next = generation(space, self.name(space)).map_or(2, |generation| generation.saturating_add(1));
        format!("{}.{next}", space.name())
    }

    /// How all of them are opened.
    pub(super) fn descriptors(&self, options: &RocksOptions, compact: bool) -> Vec<ColumnFamilyDescriptor> {
        let cache = options.block_cache();
        let mut descriptors = Vec::new();
        for space in Space::ALL {
            let mine = self.unfinished.iter().filter(|name| generation(space, name).is_some()).map(String::as_str);
            for name in mine.chain([self.name(space)]) {
                let mut family = options.family(space, &cache);
                family.set_disable_auto_compactions(!compact);
                descriptors.push(ColumnFamilyDescriptor::new(name, family));
            }
        }
        // RocksDB insists on this one. It stays empty, but room for its buffer must be there before RocksDB goes on by
        // itself after the disk was full.
        let mut unused = Options::default();
        unused.set_write_buffer_size(64 << 10);
        descriptors.push(ColumnFamilyDescriptor::new(DEFAULT_COLUMN_FAMILY_NAME, unused));
        descriptors
    }
}

/// The generation of a family, if it is one of a key space.
fn generation(space: Space, family: &str) -> Option<u32> {
    match family.strip_prefix(space.name())? {
        "" => Some(1),
        suffix => suffix.strip_prefix('.')?.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_generations_the_older_counts_until_it_is_dropped() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let families = Families::among(&names(&["default", "merkle", "data.3", "keys", "meta", "data.2"]));
        assert_eq!(families.name(Space::Data), "data.2");
        assert_eq!(families.name(Space::Keys), "keys");
        assert_eq!(families.unfinished, ["data.3"]);
        assert_eq!(families.next_name(Space::Data), "data.3");
        assert_eq!(families.next_name(Space::Meta), "meta.2");
        assert_eq!(Families::among(&names(&["data.10", "keys", "merkle", "meta"])).name(Space::Data), "data.10");
        assert_eq!(Families::among(&names(&["data", "keys", "merkle", "meta"])), Families::first());
    }
}
