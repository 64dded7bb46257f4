//! What a loss of power does to names: a file that was made since its folder was last synced may be gone with its name.

use std::fs;
use std::path::Path;

use crate::common::random::Random;
use crate::power::{drop_torn_line, files_below, is_manifest, sizes};

/// Removes some of the files below a folder that no folder held when it was synced, as the recorder noted in `names`. How
/// many.
pub(crate) fn lose_names(dir: &Path, names: &Path, random: &mut Random) -> usize {
    // There a sync of the file is one of its name, which RocksDB knows.
    const BTRFS: u64 = 0x9123_683e;
    if rustix::fs::statfs(dir).is_ok_and(|system| system.f_type as u64 == BTRFS) {
        return 0;
    }
    drop_torn_line(names);
    let named = sizes(names);
    // File systems keep the order of names: where CURRENT was renamed, and that is never undone here, what it names is there.
    let unnamed = files_below(dir).into_iter().filter(|path| !named.contains_key(path) && !is_manifest(path));
    let lost: Vec<_> = unnamed.filter(|_| random.below(2) == 0).collect();
    lost.iter().for_each(|path| fs::remove_file(path).unwrap());
    lost.len()
}
