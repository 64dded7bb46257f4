//! What a loss of power does to the files of a killed process: everything after the last fsync of a file is gone, or
//! torn.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::random::Random;

/// The recorder of fsyncs, compiled once, and the files it reads and writes.
pub(crate) struct Recorder {
    pub(crate) library: PathBuf,
    pub(crate) record: PathBuf,
    /// While this file exists, no sync returns; each is noted in the other.
    pub(crate) hold: PathBuf,
    pub(crate) held: PathBuf,
    /// What was synced of files that are overwritten in place.
    pub(crate) copies: PathBuf,
}

/// What a disk writes whole or not at all.
const SECTOR_LEN: usize = 512;

impl Recorder {
    /// Compiles the library. A C compiler is there where RocksDB was compiled.
    pub(crate) fn build(dir: &Path) -> Self {
        let library = dir.join("fsync_recorder.so");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/crash/fsync_recorder.c");
        let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".into());
        let compiled = Command::new(&compiler)
            .args(["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-o"])
            .arg(&library)
            .arg(&source)
            .status()
            .unwrap_or_else(|error| panic!("{compiler}: {error}"));
        assert!(compiled.success(), "{compiler} could not compile {}", source.display());
        let copies = dir.join("copies");
        fs::create_dir(&copies).unwrap();
        Self { library, record: dir.join("fsyncs"), hold: dir.join("hold"), held: dir.join("held"), copies }
    }

    /// Where the recorder keeps what was synced of a file.
    fn copy_of(&self, path: &Path) -> PathBuf {
        self.copies.join(path.to_str().unwrap().replace('/', "!"))
    }

    /// How much of each file was synced, by its path.
    pub(crate) fn synced(&self) -> BTreeMap<PathBuf, u64> {
        sizes(&self.record)
    }

    /// Whether a sync is held back that has something to make durable.
    pub(crate) fn holds_what_is_not_synced(&self) -> bool {
        let synced = self.synced();
        let held = sizes(&self.held);
        held.iter().any(|(path, size)| is_log_structured(path) && *size > synced.get(path).copied().unwrap_or_default())
    }

    /// Whether every byte of the engine's log is synced.
    pub(crate) fn has_synced_the_log(&self, dir: &Path) -> bool {
        let synced = self.synced();
        // One that was removed meanwhile is not needed any more.
        let len = |path: &Path| fs::metadata(path).map_or(0, |file| file.len());
        let logs = files_below(&dir.join("rocks")).into_iter().filter(|path| path.extension() == Some("log".as_ref()));
        logs.into_iter().all(|path| synced.get(&path).copied().unwrap_or_default() >= len(&path))
    }

    /// To be called when the process is killed: the next one is not held back.
    pub(crate) fn settle(&self) {
        drop_torn_line(&self.record);
        for file in [&self.hold, &self.held] {
            // There only where it was held back.
            fs::remove_file(file).unwrap_or_default();
        }
    }
}

/// The last size that the recorder noted for each path.
pub(crate) fn sizes(record: &Path) -> BTreeMap<PathBuf, u64> {
    let text = fs::read_to_string(record).unwrap_or_default();
    let mut sizes = BTreeMap::new();
    // The process may be at work on the last line.
    for line in text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')) {
        let (size, path) = line.split_once(' ').expect("a line of the recorder");
        sizes.insert(PathBuf::from(path), size.parse().expect("a size"));
    }
    sizes
}

/// Takes the beginning of a line off the end of a file that a killed process wrote line by line: a kill may come between
/// two pages.
pub(crate) fn drop_torn_line(path: &Path) {
    let Ok(bytes) = fs::read(path) else { return };
    let whole = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
    if whole < bytes.len() {
        truncate(path, whole as u64);
    }
}

/// Whether a file is only ever appended to and synced, so that what was not synced is its tail.
fn is_log_structured(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    [".log", ".sst", ".blob", ".hints"].iter().any(|end| name.ends_with(end)) || is_manifest(path)
}

pub(crate) fn is_manifest(path: &Path) -> bool {
    path.file_name().unwrap_or_default().to_string_lossy().starts_with("MANIFEST-")
}

pub(crate) fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    // A process that was killed at once has not made its folder.
    for entry in fs::read_dir(dir).into_iter().flatten().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() { files.extend(files_below(&entry)) } else { files.push(entry) }
    }
    files
}

/// Copies a folder with all in it.
pub(crate) fn copy(from: &Path, to: &Path) {
    for path in files_below(from) {
        let copy = to.join(path.strip_prefix(from).unwrap());
        fs::create_dir_all(copy.parent().unwrap()).unwrap();
        fs::copy(&path, copy).unwrap();
    }
}

/// What was done to the tails that were not synced.
#[derive(Debug, Default)]
pub(crate) struct Cut {
    pub(crate) files: usize,
    pub(crate) bytes: u64,
}

/// Cuts every file of a data directory back to what was synced of it; leaves some of the rest, whole or spoilt, as a
/// disk may.
pub(crate) fn cut_back(dir: &Path, recorder: &Recorder, random: &mut Random) -> Cut {
    let synced = recorder.synced();
    let mut cut = Cut::default();
    for path in files_below(dir).into_iter().filter(|path| is_overwritten(path)) {
        put_back(&path, recorder, random);
    }
    for path in files_below(dir).into_iter().filter(|path| is_log_structured(path)) {
        let kept = synced.get(&path).copied().unwrap_or_default();
        let len = fs::metadata(&path).unwrap().len();
        if len <= kept {
            continue;
        }
        cut.files += 1;
        cut.bytes += len - kept;
        let torn = kept + random.below(len - kept + 1);
        match random.below(3) {
            0 => truncate(&path, kept),
            1 => truncate(&path, torn),
            // RocksDB syncs each record of its manifest before it relies on it, takes a torn one for the end, and refuses
            // to open over one that is whole in length and wrong in content, which no file system leaves after a crash.
            _ if is_manifest(&path) => truncate(&path, torn),
            _ => {
                truncate(&path, torn);
                spoil(&path, kept, random);
            }
        }
    }
    cut
}

/// Whether a file is overwritten in place, so that what was not synced is anywhere in it.
fn is_overwritten(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name == "POSITION" || name == "cursor" || name.ends_with(".marks")
}

/// Puts each sector of a file that is overwritten in place back to what was synced of it, or leaves it, as a disk may.
fn put_back(path: &Path, recorder: &Recorder, random: &mut Random) {
    let copy = recorder.copy_of(path);
    // Some are made and synced under another name first, also in place of an earlier one that is gone: the later sync
    // counts. What was never synced is as it was made.
    let copies = [recorder.copy_of(&path.with_extension("new")), copy.clone()];
    let when = |copy: &PathBuf| fs::metadata(copy).and_then(|copy| copy.modified()).ok();
    let last = copies.iter().filter(|copy| copy.exists()).max_by_key(|copy| when(copy));
    let mut synced = last.map(|copy| fs::read(copy).unwrap()).unwrap_or_default();
    let mut bytes = fs::read(path).unwrap();
    synced.resize(bytes.len(), 0);
    for (sector, synced) in bytes.chunks_mut(SECTOR_LEN).zip(synced.chunks(SECTOR_LEN)) {
        if sector != synced && random.below(2) == 0 {
            sector.copy_from_slice(synced);
        }
    }
    fs::write(path, &bytes).unwrap();
    // What the disk kept it will keep.
    fs::write(copy, bytes).unwrap();
}

fn truncate(path: &Path, len: u64) {
    fs::OpenOptions::new().write(true).open(path).unwrap().set_len(len).unwrap();
}

/// Changes some bytes behind `from`.
fn spoil(path: &Path, from: u64, random: &mut Random) {
    let mut bytes = fs::read(path).unwrap();
    let tail = &mut bytes[from as usize..];
    if !tail.is_empty() {
        for _ in 0..3 {
            let at = random.below(tail.len() as u64) as usize;
            tail[at] ^= 1 << random.below(8);
        }
    }
    fs::write(path, bytes).unwrap();
}
