//! The names of a simulated disk, as the process sees them and as the medium holds them.
//!
//! Changes of names are kept in their order until the folder they stand in is synced. A crash keeps the first so many
//! of each folder: a journalling file system commits them in order, and a rename as one.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::super::Entry;
use super::inode::{Inode, Random};

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Node {
    Folder,
    File(u64),
}

type Names = BTreeMap<PathBuf, Node>;
type Change = Vec<(PathBuf, Option<Node>)>;

#[derive(Default)]
pub(super) struct Disk {
    names: Names,
    durable: Names,
    /// Changes of names that are not durable, oldest first, with their folder.
    changes: Vec<(PathBuf, Change)>,
    inodes: BTreeMap<u64, Inode>,
    next_inode: u64,
    /// What of a given up write reached the medium: drawn here, so that no call needs a seed.
    random: Random,
}

impl Disk {
    /// What a path stands for; the root is a folder.
    pub(super) fn node(&self, path: &Path) -> Option<Node> {
        if path.as_os_str().is_empty() { Some(Node::Folder) } else { self.names.get(path).copied() }
    }

    pub(super) fn list(&self, folder: &Path) -> Vec<Entry> {
        let below = self.names.iter().filter(|(path, _)| path.parent() == Some(folder));
        let entry = |(path, node): (&PathBuf, &Node)| {
            let name = path.file_name()?.to_str()?.to_owned();
            Some(Entry { name, is_folder: *node == Node::Folder })
        };
        below.filter_map(entry).collect()
    }

    pub(super) fn create(&mut self, path: &Path) -> u64 {
        let inode = self.next_inode;
        self.next_inode += 1;
        self.inodes.insert(inode, Inode::default());
        let folder = path.parent().unwrap_or(Path::new("")).to_owned();
        self.rename_nodes(&folder, vec![(path.to_owned(), Some(Node::File(inode)))]);
        inode
    }

    /// Changes names of one folder, all or none of them after a crash.
    pub(super) fn rename_nodes(&mut self, folder: &Path, change: Change) {
        apply(&mut self.names, &change);
        self.changes.push((folder.to_owned(), change));
    }

    pub(super) fn sync_folder(&mut self, folder: &Path) {
        for (_, change) in self.changes.extract_if(.., |(of, _)| of == folder) {
            apply(&mut self.durable, &change);
        }
        self.forget_removed();
    }

    /// Lets go of the files that have no name, are not open, and that no crash brings back.
    fn forget_removed(&mut self) {
        let changed = self.changes.iter().flat_map(|(_, change)| change).filter_map(|(_, node)| node.as_ref());
        let named: BTreeSet<Node> = self.names.values().chain(self.durable.values()).chain(changed).copied().collect();
        self.inodes.retain(|inode, file| file.is_open() || named.contains(&Node::File(*inode)));
    }

    pub(super) fn inode_mut(&mut self, inode: u64) -> &mut Inode {
        self.inodes.entry(inode).or_default()
    }

    pub(super) fn file_mut(&mut self, path: &Path) -> Option<&mut Inode> {
        match self.node(path)? {
            Node::File(inode) => self.inodes.get_mut(&inode),
            Node::Folder => None,
        }
    }

    pub(super) fn used_bytes(&self) -> u64 {
        let len = |node: &Node| match node {
            Node::File(inode) => self.inodes.get(inode).map_or(0, Inode::len),
            Node::Folder => 0,
        };
        self.names.values().map(len).sum()
    }

    /// A sync of the file failed: part of it reached the medium, the rest never will.
    pub(super) fn give_up(&mut self, inode: u64) {
        if let Some(inode) = self.inodes.get_mut(&inode) {
            inode.give_up(&mut self.random);
        }
    }

    pub(super) fn crash(&mut self, seed: u64) {
        let mut random = Random::new(seed);
        let mut ended: BTreeMap<PathBuf, bool> = BTreeMap::new();
        for (folder, change) in std::mem::take(&mut self.changes) {
            let ended = ended.entry(folder).or_insert_with(|| random.below(2) == 0);
            *ended = *ended || random.below(4) == 0;
            if !*ended {
                apply(&mut self.durable, &change);
            }
        }
        self.names = reachable(&self.durable);
        self.durable = self.names.clone();
        for (number, inode) in &mut self.inodes {
            // Of its own, so that a file's fate does not depend on which others are still open.
            inode.crash(&mut Random::new(seed.wrapping_add(number.wrapping_mul(0x1000_0000_01b3))));
        }
        self.forget_removed();
    }
}

fn apply(names: &mut Names, change: &Change) {
    for (path, node) in change {
        match node {
            Some(node) => names.insert(path.clone(), *node),
            None => names.remove(path),
        };
    }
}

/// The names whose folders are there.
fn reachable(names: &Names) -> Names {
    let folder = |path: &Path| path.as_os_str().is_empty() || names.get(path) == Some(&Node::Folder);
    let kept = names.iter().filter(|(path, _)| path.ancestors().skip(1).all(folder));
    kept.map(|(path, node)| (path.clone(), *node)).collect()
}
