//! `cube export`: the rows of a table into a file or to standard output, many parts of the table at the same time.
//!
//! Readers take one part after another and hand page after page to the one writer, which alone knows how far each part is:
//! so the state it keeps and the file always belong together, and the same command goes on after an interruption.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use cube_client::{Level, Row, Table};
use indicatif::ProgressBar;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::encode;
use super::export_state::{Progress, State};
use super::import::format_of;
use super::ranges::{Part, divide};
use super::{place, progress};
use crate::args::{ExportArguments, RowFormat};
use crate::error::ShellError;
use crate::outcome::{Cell, Outcome, Tone};
use crate::render::Form;
use crate::script::note;
use crate::session::Session;

/// How often the state is kept.
const SAVE_EVERY: Duration = Duration::from_secs(1);
/// A page of an export may take this long, retries included: nobody waits for the single page.
const PAGE_TIMEOUT: Duration = Duration::from_secs(30);
/// Rows of a page.
const PAGE_ROWS_MAX: u32 = 1_000;
/// With a rate, a page has no more rows than what may be written in this part of a second.
const PAGES_PER_SECOND: u32 = 10;

/// Rows of a part, as they were read at once.
struct Page {
    /// The part's place in the state.
    part: usize,
    rows: Vec<Row>,
    /// Goes on behind them.
    token: Option<Bytes>,
    is_last: bool,
}

/// Does an export. Tells nothing on standard output if the rows go there.
pub(crate) async fn export(
    session: &mut Session,
    arguments: &ExportArguments,
    form: Form,
) -> Result<Option<Outcome>, ShellError> {
    let to_file = (arguments.file != Path::new("-")).then_some(arguments.file.as_path());
    let format = match to_file {
        None => arguments.format.unwrap_or(RowFormat::Jsonl),
        Some(file) => format_of(file, arguments.format)?,
    };
    let (keyspace, name) = place::find(session, &arguments.table).await?;
    let of = format!("{keyspace}.{name} as {}", if format == RowFormat::Csv { "csv" } else { "jsonl" });
    let state_path = to_file.map(|file| arguments.state.clone().unwrap_or_else(|| beside(file)));
    let interrupted = state_path.as_deref().map(|path| State::load(path, &of)).transpose().map_err(ShellError::File)?;
    let interrupted = interrupted.flatten();
    if let Some(file) = to_file
        && interrupted.is_none()
        && file.exists()
        && !arguments.overwrite
    {
        let told = format!("{} exists: --overwrite replaces it, or name another file", file.display());
        return Err(ShellError::File(told));
    }
    let client = session.client().await?;
    let timeout = session.timeout.max(PAGE_TIMEOUT);
    let table = client.table(keyspace, name);
    let (readers, level) = (usize::from(arguments.parallel), arguments.cl);
    let state = match interrupted {
        Some(state) => state,
        None => begin(&table, level, timeout, readers, of).await?,
    };
    let rows_before = state.rows;
    if rows_before > 0 && matches!(form, Form::People { .. }) {
        note(&format!("going on behind {rows_before} rows that are written already"));
    }
    let (started, parts) = (Instant::now(), state.parts.clone());
    let page_rows = arguments.rate.map_or(PAGE_ROWS_MAX, |rate| (rate / PAGES_PER_SECOND).clamp(1, PAGE_ROWS_MAX));
    let pages = read(Reading { table, level, timeout, page_rows }, &parts, readers);
    let mut writer = Writer::open(to_file, state_path, state, format)?;
    let bar = progress::parts(parts.len(), form);
    let written = writer.take(pages, arguments.rate, &bar).await;
    bar.finish_and_clear();
    match written {
        Ok(()) => {}
        Err(error) => {
            writer.save()?;
            if to_file.is_some() {
                note(&format!("{} rows are written; the same command goes on behind them", writer.state.rows));
            }
            return Err(error);
        }
    }
    writer.end()?;
    let told = told(&writer.state, rows_before, started.elapsed());
    if to_file.is_none() {
        told.lines.iter().filter(|_| matches!(form, Form::People { .. })).for_each(|(_, line)| note(line));
        return Ok(None);
    }
    Ok(Some(told))
}

fn beside(file: &Path) -> PathBuf {
    let mut path = file.to_path_buf().into_os_string();
    path.push(".export-state");
    PathBuf::from(path)
}

async fn begin(
    table: &Table,
    level: Level,
    timeout: Duration,
    readers: usize,
    of: String,
) -> Result<State, ShellError> {
    let parts = divide(table, level, timeout, readers).await?;
    let parts = parts.into_iter().map(|part| Progress { part, token: None, is_done: false }).collect();
    Ok(State { of, length: 0, rows: 0, parts })
}

fn told(state: &State, rows_before: u64, time: Duration) -> Outcome {
    let now = state.rows - rows_before;
    let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1);
    let rate = now.saturating_mul(1_000) / millis;
    Outcome::of("EXPORT")
        .fact("success", Cell::Bool(true))
        .fact("rows", Cell::Count(now))
        .fact("rowsBefore", Cell::Count(rows_before))
        .fact("bytes", Cell::Count(state.length))
        .fact("millis", Cell::Count(millis))
        .fact("rowsPerSecond", Cell::Count(rate))
        .line(Tone::Good, format!("{now} rows exported in {:.1} s, {rate} rows/s", time.as_secs_f64()))
}

/// How parts are read.
#[derive(Clone)]
struct Reading {
    table: Table,
    level: Level,
    timeout: Duration,
    page_rows: u32,
}

/// Reads all parts that are not done, so many at the same time. The readers end when nobody takes their pages.
fn read(how: Reading, parts: &[Progress], readers: usize) -> mpsc::Receiver<Result<Page, ShellError>> {
    let (sender, receiver) = mpsc::channel(readers);
    let waiting = parts.iter().cloned().enumerate().filter(|(_, progress)| !progress.is_done);
    let waiting: Arc<Mutex<VecDeque<_>>> = Arc::new(Mutex::new(waiting.collect()));
    for _ in 0..readers {
        let (how, waiting, sender) = (how.clone(), Arc::clone(&waiting), sender.clone());
        tokio::spawn(async move {
            loop {
                let next = waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                let Some((number, progress)) = next else { return };
                if how.part(number, progress, &sender).await.is_none() {
                    return;
                }
            }
        });
    }
    receiver
}

impl Reading {
    /// Reads one part. None when there is nothing more to do, because it failed or nobody takes pages any more.
    async fn part(
        &self,
        number: usize,
        progress: Progress,
        sender: &mpsc::Sender<Result<Page, ShellError>>,
    ) -> Option<()> {
        let Part { prefix, is_exact } = progress.part;
        let mut scan =
            self.table.scan(prefix.clone()).level(self.level).timeout(self.timeout).page_rows(self.page_rows);
        if let Some(token) = progress.token {
            scan = scan.resume(token);
        }
        loop {
            let page = match scan.next_page().await {
                Ok(None) => return Some(()),
                Ok(Some(mut rows)) => {
                    // The rows of the key itself come before those of longer keys.
                    let all = rows.len();
                    rows.retain(|row| !is_exact || row.key.partition == prefix);
                    let token = scan.token();
                    Ok(Page { part: number, is_last: token.is_none() || rows.len() < all, rows, token })
                }
                Err(error) => Err(error.into()),
            };
            let is_over = page.as_ref().is_ok_and(|page| page.is_last);
            let has_failed = page.is_err();
            sender.send(page).await.ok()?;
            if has_failed {
                return None;
            }
            if is_over {
                return Some(());
            }
        }
    }
}

enum Target {
    File(File),
    Standard,
}

struct Writer {
    target: Target,
    format: RowFormat,
    state: State,
    state_path: Option<PathBuf>,
}

impl Writer {
    /// Opens the file behind what is written of it, or begins it with its header.
    fn open(
        file: Option<&Path>,
        state_path: Option<PathBuf>,
        state: State,
        format: RowFormat,
    ) -> Result<Self, ShellError> {
        let target = match file {
            None => Target::Standard,
            Some(path) => {
                let said = |error: io::Error| ShellError::File(format!("{}: {error}", path.display()));
                let mut file = OpenOptions::new().create(true).write(true).truncate(false).open(path).map_err(said)?;
                if file.metadata().map_err(said)?.len() < state.length {
                    let told = "is shorter than when the export was interrupted: remove it and its state to begin anew";
                    return Err(ShellError::File(format!("{} {told}", path.display())));
                }
                file.set_len(state.length).map_err(said)?;
                file.seek(SeekFrom::End(0)).map_err(said)?;
                Target::File(file)
            }
        };
        let mut writer = Self { target, format, state, state_path };
        if writer.state.length == 0 {
            writer.write(&encode::header(format))?;
        }
        Ok(writer)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), ShellError> {
        let written = match &mut self.target {
            Target::File(file) => file.write_all(bytes),
            Target::Standard => io::stdout().lock().write_all(bytes),
        };
        written.map_err(|error| self.failed("rows cannot be written", &error))?;
        self.state.length += u64::try_from(bytes.len()).unwrap_or_default();
        Ok(())
    }

    /// Writes pages until there are no more.
    async fn take(
        &mut self,
        mut pages: mpsc::Receiver<Result<Page, ShellError>>,
        rate: Option<u32>,
        bar: &ProgressBar,
    ) -> Result<(), ShellError> {
        let (mut due, mut save_at) = (Instant::now(), Instant::now() + SAVE_EVERY);
        while let Some(page) = pages.recv().await {
            let Page { part, rows, token, is_last } = page?;
            // Whole pages alone: a state must not stand in the middle of one.
            self.write(&encode::rows(&rows, self.format).map_err(|error| ShellError::File(error.to_string()))?)?;
            self.state.rows += u64::try_from(rows.len()).unwrap_or_default();
            if let Some(progress) = self.state.parts.get_mut(part) {
                *progress = Progress { part: progress.part.clone(), token, is_done: is_last };
            }
            bar.set_position(self.state.parts.iter().filter(|part| part.is_done).map(|_| 1).sum());
            bar.set_message(format!("{} rows, {}", self.state.rows, indicatif::HumanBytes(self.state.length)));
            if Instant::now() >= save_at {
                self.save()?;
                save_at = Instant::now() + SAVE_EVERY;
            }
            if let Some(rate) = rate {
                due = due.max(Instant::now()) + Duration::from_secs(1) * u32::try_from(rows.len()).unwrap_or(0) / rate;
                sleep_until(due).await;
            }
        }
        match self.state.parts.iter().all(|part| part.is_done) {
            true => Ok(()),
            false => Err(ShellError::File("the export ended before its end".to_owned())),
        }
    }

    /// First the rows, then how far they go.
    fn save(&mut self) -> Result<(), ShellError> {
        let (Target::File(file), Some(path)) = (&mut self.target, &self.state_path) else { return Ok(()) };
        let saved = file.sync_data().and_then(|()| self.state.save(path));
        saved.map_err(|error| ShellError::File(format!("{}: {error}", path.display())))
    }

    /// All is written: the state is of no more use.
    fn end(&mut self) -> Result<(), ShellError> {
        let ended = match (&mut self.target, &self.state_path) {
            (Target::File(file), Some(path)) => file.sync_all().and_then(|()| match std::fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            }),
            _ => io::stdout().lock().flush(),
        };
        ended.map_err(|error| self.failed("the export cannot be ended", &error))
    }

    fn failed(&self, what: &str, error: &io::Error) -> ShellError {
        match (&self.target, error.kind()) {
            (Target::Standard, io::ErrorKind::BrokenPipe) => ShellError::NobodyReads,
            _ => ShellError::File(format!("{what}: {error}")),
        }
    }
}
