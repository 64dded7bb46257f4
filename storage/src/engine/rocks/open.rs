//! Opening a data directory: which formats are read, and what is done when the log or a file is damaged, or the disk is
//! full. A node that can be read is opened.
//!
//! Invariant: nothing that RocksDB passes over in silence when it opens goes unnoted.

use std::fs;
use std::io;
use std::path::Path;

use rocksdb::{DB, DBRecoveryMode, Options};

use super::families::Families;
use super::logs::{self, End};
use super::notes::{Note, Unreadable};
use super::position::SyncedPosition;
use super::{EngineError, RocksOptions, engine_error, io_error};

/// The format of the data directory. Raised when an older build could misread it.
const FORMAT: u32 = 1;
const FORMAT_FILE: &str = "FORMAT";
const FORMAT_PREFIX: &str = "cube-kv data format ";

/// An open database.
pub(super) struct Opened {
    pub(super) db: DB,
    pub(super) counters: Options,
    pub(super) families: Families,
    /// Why nothing can be written to it, if so.
    pub(super) read_only: Option<EngineError>,
    /// Something in it cannot be read, and is to be replaced before it is used.
    pub(super) to_salvage: bool,
}

/// Makes the folders of a data directory, or refuses one that a newer release has written.
pub(super) fn prepare(dir: &Path) -> Result<(), EngineError> {
    fs::create_dir_all(rocks_dir(dir)).map_err(|e| io_error(dir, &e))?;
    // Whoever made the folder, and may have been killed right after: until its name is durable it has no format.
    if !dir.join(FORMAT_FILE).exists()
        && let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty())
    {
        sync_dir(parent).map_err(|e| io_error(parent, &e))?;
    }
    check_format(dir)
}

fn rocks_dir(dir: &Path) -> std::path::PathBuf {
    dir.join("rocks")
}

/// Opens RocksDB; when its log or a file is damaged, with what can be read. It finds nothing wrong the next time, so the
/// damage is noted first.
pub(super) fn open_database(dir: &Path, options: &RocksOptions) -> Result<Opened, EngineError> {
    logs::break_endless_records(&rocks_dir(dir)).map_err(|e| io_error(dir, &e))?;
    check_manifest(dir)?;
    let opener = Opener { dir, options };
    let error = match opener.strictly() {
        Err(EngineError::Corruption { detail }) => detail,
        Err(full @ EngineError::NoSpace { .. }) => return open_read_only(dir, options, full),
        opened => return opened,
    };
    if let Some(opened) = opener.around_files(&error)? {
        return Ok(opened);
    }
    opener.past_the_log(&error)?;
    match opener.strictly() {
        Err(EngineError::Corruption { detail }) => match opener.around_files(&detail)? {
            Some(opened) => Ok(opened),
            None => Err(EngineError::Unusable { detail }),
        },
        opened => opened,
    }
}

/// The ways to open a data directory.
struct Opener<'a> {
    dir: &'a Path,
    options: &'a RocksOptions,
}

impl Opener<'_> {
    /// As it should be: all that RocksDB looks at is sound.
    fn strictly(&self) -> Result<Opened, EngineError> {
        let families = self.families()?;
        let unreadable = Note::unreadable(self.dir).read().map_err(|e| io_error(self.dir, &e))?;
        let to_salvage = unreadable.is_some() || !families.unfinished.is_empty();
        self.open(&self.options.database(), families, to_salvage)
    }

    /// Passing over table files that cannot be used, when that is what is wrong: not the list of files, which was looked
    /// at, nor the logs. RocksDB does not always name the file. Reads that need it fail.
    fn around_files(&self, error: &str) -> Result<Option<Opened>, EngineError> {
        if !logs::are_whole(&rocks_dir(self.dir)).map_err(|e| io_error(self.dir, &e))? {
            return Ok(None);
        }
        let opened = match self.open(&lenient(self.options), self.families()?, true) {
            Err(EngineError::Corruption { .. }) => return Ok(None),
            opened => opened?,
        };
        let line = Unreadable { space: None, detail: error.to_owned() }.line();
        Note::unreadable(self.dir).add(&[line]).map_err(|e| io_error(self.dir, &e))?;
        Ok(Some(opened))
    }

    /// Moves whatever RocksDB can make sense of in its log into table files.
    fn past_the_log(&self, error: &str) -> Result<(), EngineError> {
        Note::damaged(self.dir).add(&[error.to_owned()]).map_err(|e| io_error(self.dir, &e))?;
        let mut forgiving = lenient(self.options);
        forgiving.set_wal_recovery_mode(DBRecoveryMode::SkipAnyCorruptedRecord);
        forgiving.set_track_and_verify_wals_in_manifest(false);
        match self.open(&forgiving, self.families()?, true) {
            Ok(_closed) => Ok(()),
            Err(EngineError::Corruption { detail }) => Err(EngineError::Unusable { detail }),
            Err(error) => Err(error),
        }
    }

    fn families(&self) -> Result<Families, EngineError> {
        match Families::of(&rocks_dir(self.dir), &self.options.database()) {
            Err(EngineError::Corruption { detail }) => Err(EngineError::Unusable { detail }),
            families => families,
        }
    }

    fn open(&self, database: &Options, families: Families, to_salvage: bool) -> Result<Opened, EngineError> {
        let descriptors = families.descriptors(self.options, !to_salvage);
        let db = DB::open_cf_descriptors(database, rocks_dir(self.dir), descriptors).map_err(engine_error)?;
        Ok(Opened { db, counters: database.clone(), families, read_only: None, to_salvage })
    }
}

/// Without RocksDB's checks of its files as a whole; each block is verified when it is read all the same.
fn lenient(options: &RocksOptions) -> Options {
    let mut database = options.database();
    database.set_paranoid_checks(false);
    database
}

/// Refuses a manifest that is not what was written: RocksDB might take an older state out of it, and remove the files
/// that are not in that.
fn check_manifest(dir: &Path) -> Result<(), EngineError> {
    let rocks_dir = rocks_dir(dir);
    let unusable = |detail: String| Err(EngineError::Unusable { detail });
    let current = match fs::read(rocks_dir.join("CURRENT")) {
        Ok(current) => current,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let position = SyncedPosition::open(&dir.join("POSITION")).map_err(|e| io_error(dir, &e))?;
            if position.last().is_none() && !holds_rows(&rocks_dir).map_err(|e| io_error(&rocks_dir, &e))? {
                return Ok(());
            }
            return unusable("CURRENT is missing, which names the list of the database's files".into());
        }
        Err(error) => return Err(io_error(&rocks_dir, &error)),
    };
    let name = String::from_utf8_lossy(&current);
    let name = name.trim_end();
    let manifest = match fs::File::open(rocks_dir.join(name)) {
        Ok(manifest) if name.starts_with("MANIFEST-") => manifest,
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io_error(&rocks_dir, &error)),
        _ => return unusable(format!("CURRENT names {name:?}, which is no list of the database's files")),
    };
    match logs::end_of(manifest).map_err(|e| io_error(&rocks_dir, &e))? {
        End::Whole | End::Torn => Ok(()),
        End::Damaged => unusable(format!("{name}, the list of the database's files, is damaged")),
    }
}

/// Whether there are files with rows, which RocksDB would remove when it makes a new database beside them. One that is
/// killed at making its first has none yet.
fn holds_rows(rocks_dir: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(rocks_dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|end| end == "sst" || end == "blob" || end == "log") {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Opens what is there without writing anything, since there is no room for it.
pub(super) fn open_read_only(dir: &Path, options: &RocksOptions, full: EngineError) -> Result<Opened, EngineError> {
    tracing::error!(error = %full, "the data directory is opened for reading only: free some space and restart");
    let (database, families) = (lenient(options), Opener { dir, options }.families()?);
    let descriptors = families.descriptors(options, false);
    let db = DB::open_cf_descriptors_read_only(&database, rocks_dir(dir), descriptors, false).map_err(engine_error)?;
    Ok(Opened { db, counters: database, families, read_only: Some(full), to_salvage: false })
}

/// The database alone, as it is when it is new.
pub(super) fn open_bare(dir: &Path, options: &RocksOptions) -> Result<DB, rocksdb::Error> {
    DB::open_cf_descriptors(&options.database(), dir, Families::first().descriptors(options, true))
}

/// Refuses a directory that a newer release has written; marks a new one.
fn check_format(dir: &Path) -> Result<(), EngineError> {
    let path = dir.join(FORMAT_FILE);
    match fs::read_to_string(&path) {
        Ok(text) => {
            let found = text.trim().strip_prefix(FORMAT_PREFIX.trim()).and_then(|n| n.trim().parse().ok());
            match found {
                Some(1..=FORMAT) => Ok(()),
                Some(found) if found > FORMAT => {
                    Err(EngineError::Format { what: "the data directory".into(), found, supported: FORMAT })
                }
                _ => Err(EngineError::Corruption {
                    detail: format!("{} does not name a data format: {:?}", path.display(), text),
                }),
            }
        }
        // It is written before anything else, so where there is data it was there too.
        Err(error) if error.kind() == io::ErrorKind::NotFound && rocks_dir(dir).join("CURRENT").exists() => {
            Err(EngineError::Unusable { detail: format!("{} is missing beside the data it tells of", path.display()) })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => write_format(dir).map_err(|e| io_error(dir, &e)),
        Err(error) => Err(io_error(&path, &error)),
    }
}

/// By way of another name, so that a crash leaves no half-written file.
fn write_format(dir: &Path) -> io::Result<()> {
    let draft = dir.join("FORMAT.new");
    fs::write(&draft, format!("{FORMAT_PREFIX}{FORMAT}\n"))?;
    fs::File::open(&draft)?.sync_all()?;
    fs::rename(&draft, dir.join(FORMAT_FILE))?;
    sync_dir(dir)
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    fs::File::open(dir)?.sync_all()
}
