//! Losses of power: what a killed node had not fsynced is cut off its files, as in the crash tests of the storage crate,
//! whose recorder and whose cut these are.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use self::storage::{Cut, Recorder, cut_back};
use crate::common::random::Random;

#[allow(dead_code, reason = "the part of the storage tests' file that is used here")]
#[path = "../../../../storage/tests/crash/power.rs"]
mod storage;

/// The library that records what a process has fsynced, compiled.
pub(crate) struct Power {
    library: PathBuf,
}

impl Power {
    /// A C compiler is there where RocksDB was compiled.
    pub(crate) fn prepare(dir: &Path) -> Self {
        let library = dir.join("fsync_recorder.so");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../storage/tests/crash/fsync_recorder.c");
        let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".into());
        let compiled =
            Command::new(&compiler).args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(&source).status();
        let compiled = compiled.unwrap_or_else(|error| panic!("{compiler}: {error}"));
        assert!(compiled.success(), "{compiler} could not compile {}", source.display());
        Self { library }
    }

    /// What makes a process tell in `record` what it has fsynced, and lets its fsyncs be held.
    pub(crate) fn variables(&self, record: &Path) -> [(String, String); 5] {
        let Recorder { library, record, hold, held, copies } = self.recorder(record);
        fs::create_dir_all(&copies).unwrap();
        let files = [
            ("LD_PRELOAD", library),
            ("FSYNC_RECORD", record),
            ("FSYNC_HOLD_WHEN", hold),
            ("FSYNC_HELD", held),
            ("FSYNC_COPIES", copies),
        ];
        files.map(|(name, path)| (name.to_owned(), path.to_str().unwrap().to_owned()))
    }

    fn recorder(&self, record: &Path) -> Recorder {
        let [hold, held, copies] = ["hold", "held", "copies"].map(|end| record.with_extension(end));
        Recorder { library: self.library.clone(), record: record.to_owned(), hold, held, copies }
    }

    /// From now on no fsync of this process begins, until it is released or has lost its power.
    pub(crate) fn hold(&self, record: &Path) {
        fs::File::create(self.recorder(record).hold).unwrap();
    }

    pub(crate) fn release(&self, record: &Path) {
        fs::remove_file(self.recorder(record).hold).unwrap();
    }

    /// Whether an fsync is held that has something to make durable.
    pub(crate) fn holds_what_is_not_synced(&self, record: &Path) -> bool {
        self.recorder(record).holds_what_is_not_synced()
    }

    /// Cuts the files of a node that was killed back to what it had fsynced. The same seed cuts in the same way.
    pub(crate) fn lose(&self, data: &Path, record: &Path, seed: u64) -> Cut {
        let recorder = self.recorder(record);
        recorder.settle();
        assert!(!recorder.synced().is_empty(), "the recorder was not in the process");
        cut_back(data, &recorder, &mut Random(seed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::process::Process;
    use crate::harness::time::PATIENCE;

    #[test]
    fn what_was_not_synced_is_lost_and_what_was_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let (data, record) = (dir.path().join("data"), dir.path().join("fsyncs"));
        fs::create_dir(&data).unwrap();
        let power = Power::prepare(dir.path());
        let script = "printf kept > synced.log; sync synced.log; printf lost >> synced.log; printf lost > unsynced.log";
        let words = ["sh", "-c", &format!("cd {} && {script}", data.display())].map(str::to_owned);
        assert!(Process::start(&words, &power.variables(&record), &dir.path().join("log")).wait(PATIENCE).success());
        // Of what was not synced, a disk may keep a part: some seed keeps none of it.
        let cut = power.lose(&data, &record, 1);
        assert_eq!(cut.files, 2, "{cut:?}");
        let kept = fs::read(data.join("synced.log")).unwrap();
        assert!(kept.starts_with(b"kept"), "{kept:?}");
    }
}
